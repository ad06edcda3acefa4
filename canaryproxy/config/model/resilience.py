"""``rescue`` and ``mirror``: retries and copies of requests."""

from __future__ import annotations

from pydantic import Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section


class Rescue(Section):
    """Retry failed canary requests on stable."""

    enabled: bool = Field(True, description="true: retry; false: return the failure to the user.")
    replay_buffer: types.Size = Field(
        65536, description="Largest request body kept for a retry; a size."
    )
    header: bool = Field(False, description="Add X-Canary-Rescued: 1 to rescued responses.")


class Mirror(Section):
    """Copy requests to the canary and discard its responses; only GET and HEAD without a body."""

    percent: types.Weight = Field(
        0.0,
        description="Percent of stable's requests to copy, 0 to 100; none while the circuit is open.",
    )
