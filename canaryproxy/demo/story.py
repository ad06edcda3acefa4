"""What happens in the demo, phase by phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the story."""

    name: str
    seconds: float
    action: Literal["none", "unavailable", "errors", "slow", "kill"]
    """The fault switched on in the canary, or ``kill``: its process is killed (SIGKILL)."""
    title: str
    """What is done to the canary."""
    meaning: str
    """What the proxy did about it, in a sentence."""


STORY = (
    Phase(
        "healthy",
        7,
        "none",
        "The canary is healthy",
        "A tenth of the users are on the canary, and each user stays on a version.",
    ),
    Phase(
        "unavailable",
        7,
        "unavailable",
        "Half of the canary's answers are 503",
        "Each 503 was counted against the canary and answered by stable: users saw none.",
    ),
    Phase(
        "errors",
        7,
        "errors",
        "A quarter of the canary's answers are 500",
        "A 500 is an answer, not a failure to answer: users saw it, and it was counted.",
    ),
    Phase(
        "slow",
        7,
        "slow",
        "The canary takes 0.4 s longer",
        "Latency is counted per variant: the canary's P95 stands out, stable's does not move.",
    ),
    Phase(
        "killed",
        7,
        "kill",
        "The canary is killed with SIGKILL",
        "Requests that found no canary were answered by stable: users saw none of it.",
    ),
)
