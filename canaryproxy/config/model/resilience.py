"""``rescue`` and ``mirror``: retries and copies of requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.match import PathMatch
from canaryproxy.config.model.section import Mistake, Section, report, switch


class RetryBudget(Section):
    """How many requests stable takes over from the canary at most, counted over ten seconds."""

    share: types.Ratio = Field(0.2, description="Share of the requests routed to stable; a ratio.")
    min_per_second: float = Field(
        10.0, ge=0.0, le=1e6, description="Requests a second that are rescued in any case."
    )


class Assets(Section):
    """Files of one version that pages of the other may ask for."""

    path: PathMatch = Field(description="A condition on the path.")


class Rescue(Section):
    """Retry failed canary requests on stable, and ask the other variant for files that one does not have."""

    enabled: bool = Field(True, description="true: retry; false: return the failure to the user.")
    statuses: Annotated[types.Statuses, types.one_or_more(types.Status)] = Field(
        ("502", "503", "504"),
        description="Responses of the canary that are rescued; all but 502, 503 and 504 for GET, HEAD"
        " and OPTIONS only.",
    )
    methods: Annotated[types.Methods, types.one_or_more(types.Method)] = Field(
        ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"),
        description="Methods that stable may repeat although the canary has the request.",
    )
    after: types.TimeoutOrAuto = Field(
        None,
        description="Time to the first byte after which the canary has failed; auto: from stable's recent"
        " ones.",
        json_schema_extra={"default": "auto"},
    )
    budget: Annotated[
        RetryBudget | None,
        BeforeValidator(switch, json_schema_input_type=RetryBudget | bool | None),
    ] = Field(default_factory=RetryBudget, description="How many requests are rescued; false: all.")
    assets: Annotated[tuple[Assets, ...], types.one_or_more(Assets)] = Field(
        default_factory=tuple,
        description="Paths whose 404 the other variant may answer instead, for GET and HEAD; off by default.",
    )
    replay_buffer: types.Size = Field(
        65536, description="Largest request body kept for a retry; a size."
    )
    header: bool = Field(
        False, description="Add X-Canary-Rescued: 1 to responses of the other variant."
    )

    @model_validator(mode="after")
    def _failures_only(self) -> Rescue:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        for at, status in enumerate(self.statuses):
            if not status.startswith("5"):
                message = f"{status} is no failure of a server: only statuses from 500 to 599"
                yield Mistake(message, ("statuses", at))


class Mirror(Section):
    """Copy requests to the canary and discard its responses; only GET and HEAD without a body."""

    percent: types.Weight = Field(
        0.0,
        description="Percent of stable's requests to copy, 0 to 100; none while the circuit is open.",
    )
