"""What happens in the demo: four releases, one of them good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RAMP = (1.0, 5.0, 25.0, 50.0, 100.0)
"""Weights of the steps in percent."""


@dataclass(frozen=True, slots=True)
class Act:
    """One release."""

    name: str
    title: str
    fault: Literal["none", "errors", "slow", "empty"]
    """What breaks in the canary, once it has reached ``breaks_at`` percent."""
    meaning: str
    """What it shows, in a sentence."""
    bake: float = 2.0
    """Seconds of each step; short, for a demo."""
    breaks_at: float = 25.0
    limit: float = 25.0
    """Seconds after which the act ends in any case."""


STORY = (
    Act(
        "healthy",
        "Release 1 is good",
        "none",
        "It went through its steps by itself, and every user ended on the new version.",
    ),
    Act(
        "errors",
        "Release 2 begins to answer 500",
        "errors",
        "The circuit opened on the first errors that chance could not explain.",
    ),
    Act(
        "slow",
        "Release 3 only gets slower, by 0.3 s",
        "slow",
        "Nothing failed; answers slower than stable's recent P95 were evidence enough.",
    ),
    Act(
        "empty",
        "Release 4 answers 200 and finds nothing",
        "empty",
        "Status and latency were fine: a rule on the answers' JSON saw the empty lists.",
    ),
)
