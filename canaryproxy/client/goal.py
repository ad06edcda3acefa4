"""The goals of ``wait``, and whether a release document or a record reaches one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from canaryproxy.client import text as words

Verdict = Literal["reached", "opposite", "not yet"]

_OPPOSITE: Mapping[str, tuple[str, ...]] = {
    "promoted": ("tripped", "aborting", "aborted"),
    "tripped": ("promoted", "aborted"),
    "aborted": ("promoted",),
    "paused": ("promoted", "tripped", "aborting", "aborted"),
    "ready": ("promoted", "tripped", "aborting", "aborted"),
    "step": ("tripped", "aborting", "aborted"),
    "ended": (),
}
STATES = tuple("step=" if name == "step" else name for name in _OPPOSITE)
"""The goals as they are typed; a number follows ``step=``."""
_NEED_STEPS = ("promoted", "ready", "step")
"""Goals that an irreversible release with a regression does not reach by itself."""
_ENDS = ("promoted", "tripped", "aborted")


@dataclass(frozen=True, slots=True)
class Goal:
    """A state of the release, or a step (``step`` counts from 1)."""

    name: str
    step: int = 0

    @classmethod
    def of(cls, text: str) -> Goal:
        """Return the goal for ``promoted``, ``step=3`` and the like. Raises ``ValueError``."""
        name, given, number = text.partition("=")
        if name == "step" and number.isascii() and number.isdigit() and int(number) > 0:
            return cls(name, int(number))
        if name in _OPPOSITE and name != "step" and not given:
            return cls(name)
        raise ValueError("expected promoted, tripped, aborted, paused, ready, ended, or step=N")

    def __str__(self) -> str:
        return f"step {self.step}" if self.step else self.name

    def of_document(self, document: Mapping[str, Any]) -> Verdict:
        """Tell whether the release has reached the goal, or can no longer reach it."""
        state = document.get("state")
        if state == "tripped" and _is_drill(document.get("circuit")):
            return "not yet"
        if self.name == "step":
            here = words.number(document.get("step")) or 0
            under_way = state in ("running", "paused") and here >= self.step
            reached = under_way or state == "promoted"
        elif self.name == "ready":
            reached = state == "running" and document.get("ready") is True
        elif self.name == "ended":
            reached = state in _ENDS
        else:
            reached = state == self.name
        if reached:
            return "reached"
        stuck = bool(document.get("breach")) and self.name in _NEED_STEPS
        return "opposite" if stuck or state in _OPPOSITE[self.name] else "not yet"

    def of_record(self, record: Mapping[str, Any]) -> Verdict:
        """Tell whether a record reaches the goal, even if only for a moment; never ``opposite``."""
        what = record.get("what")
        if what == "tripped" and _is_drill(record.get("figures")):
            return "not yet"
        if self.name == "step":
            figures = record.get("figures")
            step = figures.get("step") if isinstance(figures, Mapping) else None
            reached = what == "step" and (words.number(step) or 0) >= self.step
        elif self.name == "ended":
            reached = what in _ENDS
        else:
            reached = what == self.name
        return "reached" if reached else "not yet"


def _is_drill(trip: object) -> bool:
    """Return whether a circuit or the figures of a record are a drill's, which is reset within seconds."""
    return isinstance(trip, Mapping) and trip.get("drill") is True
