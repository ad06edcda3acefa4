"""Surges of a pooled rate: a change detector that sees both sides as one, so that rounds may begin with it.

CUSUM (Page 1954, Continuous inspection schemes) against a few multiples of the rate learnt so far. What
it decides depends on no label.
"""

from __future__ import annotations

from math import log
from typing import Any, Final

from canaryproxy.judging.batch import Trials

RATIOS: Final[tuple[float, ...]] = (1.5, 2.5, 6.0)
HEIGHT: Final = 8.0
YOUNG: Final = 200
"""Records before which the rate is learnt only."""
KEPT: Final = 2048
"""Records that a surge may begin in the past."""
_FADES: Final = 60_000.0
_LOGS: Final = tuple(log(ratio) for ratio in RATIOS)


class Surges:
    """Watches the trials of a test, tick by tick; keeps the last ``KEPT`` of a surge."""

    __slots__ = (
        *("_events", "_increase", "_events_now", "_index", "_is_low", "_kept", "_recent", "_start"),
        *("_sums", "_surge", "_trials", "_trials_now", "rate", "rate_before"),
    )

    def __init__(self, increase: bool, trials: int, events: int) -> None:
        self._increase = increase
        self._trials = 100.0 + min(trials, _FADES)
        self._events = 0.5 + events * min(1.0, _FADES / max(trials, 1))
        self.rate = self._events / self._trials
        """Pooled rate before the last tick."""
        self.rate_before = self.rate
        """Pooled rate before the last surge."""
        self._index = 0
        self._sums = [0.0] * len(RATIOS)
        self._start = [0] * len(RATIOS)
        self._is_low = False
        """Whether no sum is above 0: the next tick begins them anew."""
        self._surge = -1
        self._recent: list[Trials] = []
        """The last trials, oldest first, as far back as a surge can begin."""
        self._kept = 0
        """How many they are."""
        self._trials_now = self._events_now = 0

    @property
    def is_quiet(self) -> bool:
        """Whether there were no trials since the last tick, and there is no surge without a round."""
        return not self._trials_now and self._surge < 0

    @property
    def length(self) -> int:
        """Number of the last trials that belong to a surge without a round as yet; 0 without one."""
        return min(self._index - self._surge, KEPT) if self._surge >= 0 else 0

    def add(self, trials: Trials, events: int) -> None:
        """Add trials in order of time; ``events``: how many of them are bad."""
        recent = self._recent
        recent.append(trials)
        self._kept += len(trials)
        while self._kept - len(recent[0]) >= KEPT:
            self._kept -= len(recent[0])
            del recent[0]
        self._trials_now += len(trials)
        self._events_now += events

    def _forget(self) -> None:
        """Forget the trials: a surge would begin after them."""
        self._recent.clear()
        self._kept = 0

    def take(self) -> list[int]:
        """Return the trials of the surge, oldest first; a round is opened for it."""
        records = self._last(self.length)
        self._surge = -1
        return records

    def tick(self) -> None:
        """End a tick."""
        trials, events = self._trials_now, self._events_now
        self._trials_now = self._events_now = 0
        rate = self.rate = self._events / self._trials
        before = self._index
        self._index += trials
        if self._is_low and self._increase and not events:  # they fall, from 0
            self._learn(trials, 0, 1.0)
            if self._surge < 0:
                self._forget()
            return
        surge = -1
        quiet = True
        for at, ratio in enumerate(RATIOS):
            gain, cost = events * _LOGS[at], trials * rate * (ratio - 1.0)
            if not self._increase:
                gain, cost = trials * rate * (1.0 - 1.0 / ratio), gain
            if self._sums[at] <= 0.0:
                self._sums[at], self._start[at] = 0.0, before
            self._sums[at] += gain - cost
            quiet = quiet and self._sums[at] <= 0.0
            if self._sums[at] > HEIGHT:
                surge = max(surge, self._start[at])
        self._is_low = quiet
        if surge < 0 or self._index <= YOUNG:
            self._learn(trials, events, 1.0 if quiet or self._index <= YOUNG else 0.1)
            if quiet and self._surge < 0:
                self._forget()
            return
        if surge:  # else the first round began there already
            self._surge, self.rate_before = surge, rate
        records = self._last(self._index - surge)
        self._trials = max(float(len(records)), 1.0)
        self._events = max(float(sum([record & 1 for record in records])), 0.5)
        self._sums = [0.0] * len(RATIOS)
        self._start = [self._index] * len(RATIOS)

    def _last(self, count: int) -> list[int]:
        recent = [trial for trials in self._recent for trial in trials.listed()]
        return recent[max(len(recent) - min(count, KEPT), 0) :]

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
        self.rate = self._events / self._trials
        self._index = int(state["index"])
        self._start = [self._index] * len(RATIOS)
