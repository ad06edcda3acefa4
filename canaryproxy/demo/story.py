"""The releases of the demo: one good, three with a fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RAMP = (1.0, 5.0, 25.0, 50.0, 100.0)
"""Weights of the steps, in percent."""


@dataclass(frozen=True, slots=True)
class Act:
    """One release."""

    name: str
    title: str
    fault: Literal["none", "errors", "slow", "empty"]
    """Fault of the canary, which begins at ``breaks_at`` percent."""
    meaning: str
    """What the release demonstrates, in a sentence."""
    bake: float = 2.0
    """Bake time of the steps, in seconds; short, for the demo. Where the fault begins it is ``limit``: the
    release is still there on a slow machine."""
    breaks_at: float = 25.0
    limit: float = 25.0
    """Seconds that the release may take to its fault, and as many from there."""

    def bake_at(self, weight: float) -> float:
        """Return the bake time of the step with this weight, in seconds."""
        return self.bake if self.fault == "none" or weight != self.breaks_at else self.limit


STORY = (
    Act(
        "healthy",
        "Release 1 is good",
        "none",
        "It passed all steps, and in the end all users were on the new version.",
    ),
    Act(
        "errors",
        "Release 2 starts to return status 500",
        "errors",
        "The circuit opened as soon as chance could no longer explain the errors.",
    ),
    Act(
        "slow",
        "Release 3 only gets slower, by 0.3 s",
        "slow",
        "No request failed; responses slower than stable's recent P95 were the evidence.",
    ),
    Act(
        "empty",
        "Release 4 returns 200, but its searches find nothing",
        "empty",
        "Status and latency were fine; an outcome rule on the JSON body saw the empty lists.",
    ),
)
