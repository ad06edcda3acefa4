"""Surges of a pooled rate: a change detector that sees both sides as one, so that rounds may begin with it.

CUSUM (Page 1954, Continuous inspection schemes) against a few multiples of the rate learnt so far. What
it decides depends on no label.
"""

from __future__ import annotations

from collections import deque
from math import log
from typing import Any, Final

RATIOS: Final = (1.5, 2.5, 6.0)
HEIGHT: Final = 8.0
YOUNG: Final = 200
"""Records before which the rate is learnt only."""
KEPT: Final = 2048
"""Records that a surge may begin in the past."""
_FADES: Final = 60_000.0


class Surges:
    """Watches the trials of a test, tick by tick; keeps the last ``KEPT`` as ``row << 1 | bad``."""

    __slots__ = (
        "_events",
        "_increase",
        "_index",
        "_new",
        "_rate",
        "_recent",
        "_start",
        "_sums",
        "_trials",
    )

    def __init__(self, increase: bool, trials: int, events: int) -> None:
        self._increase = increase
        self._trials = 100.0 + min(trials, _FADES)
        self._events = 0.5 + events * min(1.0, _FADES / max(trials, 1))
        self._rate = self._events / self._trials
        self._index = 0
        self._sums = [0.0] * len(RATIOS)
        self._start = [0] * len(RATIOS)
        self._recent: deque[int] = deque(maxlen=KEPT)
        self._new = [0, 0]

    @property
    def rate(self) -> float:
        """The pooled rate learnt before the last tick."""
        return self._rate

    @property
    def pending(self) -> bool:
        """Whether there were trials since the last tick."""
        return self._new[0] + self._new[1] > 0

    def add(self, row: int, bad: bool) -> None:
        """Add a trial."""
        self._recent.append(row << 1 | bad)
        self._new[bad] += 1

    def last(self, count: int) -> list[int]:
        """Return the last trials, oldest first."""
        return list(self._recent)[-count:]

    def tick(self) -> int:
        """End a tick; at a surge, return how many of the last trials belong to it, else 0."""
        events = self._new[1]
        trials = self._new[0] + events
        if not trials:
            return 0
        self._new = [0, 0]
        rate = self._rate = self._events / self._trials
        before = self._index
        self._index += trials
        surge = -1
        quiet = True
        for at, ratio in enumerate(RATIOS):
            gain, cost = events * log(ratio), trials * rate * (ratio - 1.0)
            if not self._increase:
                gain, cost = trials * rate * (1.0 - 1.0 / ratio), gain
            if self._sums[at] <= 0.0:
                self._sums[at], self._start[at] = 0.0, before
            self._sums[at] += gain - cost
            quiet = quiet and self._sums[at] <= 0.0
            if self._sums[at] > HEIGHT:
                surge = max(surge, self._start[at])
        if surge < 0 or self._index <= YOUNG:
            self._learn(trials, events, 1.0 if quiet or self._index <= YOUNG else 0.1)
            return 0
        length = min(self._index - surge, len(self._recent))
        bad = sum([record & 1 for record in self.last(length)])
        self._trials, self._events = max(float(length), 1.0), max(float(bad), 0.5)
        self._sums = [0.0] * len(RATIOS)
        self._start = [self._index] * len(RATIOS)
        return length if surge else 0  # the first round began there already

    def _learn(self, trials: int, events: int, weight: float) -> None:
        if self._trials > _FADES:
            self._trials *= 0.5
            self._events *= 0.5
        self._trials += weight * trials
        self._events += weight * events

    def to_dict(self) -> dict[str, Any]:
        """Return what was learnt, as JSON values."""
        return {"trials": self._trials, "events": self._events, "index": self._index}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what was learnt; the sums begin anew."""
        self._trials, self._events = float(state["trials"]), float(state["events"])
        self._rate = self._events / self._trials
        self._index = int(state["index"])
        self._start = [self._index] * len(RATIOS)
