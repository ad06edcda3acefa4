"""``circuit``: what happens to long-lived connections when their users move to the other variant."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section


class Circuit(Section):
    """Close WebSockets, other tunnels and event streams whose users have moved to the other variant."""

    follow: Literal["stable", "both", "off"] = Field(
        "stable",
        description=(
            "Close long-lived connections of users who move to stable, of those who move either way, or"
            " of none."
        ),
    )
    close_after: types.Duration = Field(
        5.0, description="From the move to the first connection that is closed; a duration."
    )
    spread: types.Duration = Field(
        30.0,
        description=(
            "Time over which they are closed evenly, so that the other variant gets no rush; at its end"
            " all are closed. A duration."
        ),
    )
    close_code: int = Field(
        1012,
        ge=1000,
        le=4999,
        description="Status code of the Close frames of WebSockets; 1012 is Service Restart.",
    )
    streams: tuple[types.MediaType, ...] = Field(
        (),
        description=(
            "Media types of responses to GET that have no end of their own and a record a line, beside"
            " text/event-stream."
        ),
    )

    @property
    def takes(self) -> float:
        """Seconds from a move until the last long-lived connection is closed."""
        return self.close_after + self.spread
