"""What happens in the demo: six releases, one of them good.

A release is one ``Act``; the machinery (``run``) reads only its fields, so another release is another
entry of ``STORY`` and, if it breaks in a new way, another fault in ``service``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RAMP = (1.0, 5.0, 25.0, 50.0, 100.0)
"""Weights of the steps in percent."""

Fault = Literal["none", "errors", "unavailable", "slow", "empty", "killed"]
"""``killed`` is done to the canary's process (SIGKILL); the others are switches of ``service``."""


@dataclass(frozen=True, slots=True)
class Act:
    """One release."""

    name: str
    title: str
    fault: Fault
    """What breaks in the canary, once it has reached ``breaks_at`` percent."""
    meaning: str
    """What it shows, in a sentence; true only if the release ended as ``expected``."""
    bake: float = 2.0
    """Seconds of each step; short, for a demo."""
    breaks_at: float = 25.0
    limit: float = 25.0
    """Seconds after which the act ends in any case."""

    @property
    def expected(self) -> str:
        """The state of the release at the end of the act."""
        return "promoted" if self.fault == "none" else "tripped"


STORY = (
    Act(
        "healthy",
        "A good release",
        "none",
        "It went through its steps by itself, and every user ended on the new version.",
    ),
    Act(
        "errors",
        "A release that begins to answer 500",
        "errors",
        "A 500 is the service's answer and reaches users; the circuit opened on the first"
        " ones that chance could not explain.",
    ),
    Act(
        "unavailable",
        "A release that begins to answer 503",
        "unavailable",
        "Stable answered in the canary's place, so users saw nothing of it; the failures"
        " counted all the same.",
    ),
    Act(
        "slow",
        "A release that only gets slower, by 0.3 s",
        "slow",
        "Nothing failed; answers slower than stable's recent P95 were evidence enough.",
    ),
    Act(
        "killed",
        "A release whose process dies (kill -9)",
        "killed",
        "Refused and reset connections were answered by stable until the circuit opened.",
    ),
    Act(
        "empty",
        "A release that answers 200 and finds nothing",
        "empty",
        "Status and latency were fine: a rule on the answers' JSON saw the empty lists.",
    ),
)
