"""Trials and events of both sides of a lottery, and the estimate of their difference by users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

from canaryproxy.judging.batch import EVENTS_SHIFT, TRIALS
from canaryproxy.judging.history import CLASS_RATES, CLASSES, likeness
from canaryproxy.measure.flat import i64, sum64, vec

CELLS: Final = 2 * CLASSES
"""Sums are kept by class of unit and side, at ``2 * class + (1 for the canary)``."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much worse the canary is, by users; pairs are (stable, canary) or (trials, events)."""

    stable: tuple[int, int]
    canary: tuple[int, int]
    users: tuple[int, int]
    difference: float
    """Canary rate less stable's; with a history, of events in excess of what was expected."""
    error: float
    """Standard error of the difference, by units."""

    @property
    def rates(self) -> tuple[float, float]:
        """Raw rates of stable and canary."""
        return self.stable[1] / self.stable[0], self.canary[1] / self.canary[0]


@dataclass(frozen=True, slots=True)
class Side:
    """Counts of one side."""

    trials: int
    events: int
    users: int
    hurt: int
    """Users with an event."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts of both sides, for people."""

    stable: Side
    canary: Side
    when: str = ""
    """In which time, in words; empty: since the step began."""


class Tally:
    """Sums over units by class and side: trials n, events e, and of their squares and products."""

    __slots__ = ("_ee", "_events", "_known", "_ne", "_nn", "_trials", "rates", "total", "users")

    def __init__(self, mean: float) -> None:
        self.rates = [mean, *CLASS_RATES]
        """Expected rates by class; only their ratios count."""
        self._trials = vec[sum64]([0] * CELLS)
        self._events = vec[sum64]([0] * CELLS)
        self._nn = vec[sum64]([0] * CELLS)
        self._ne = vec[sum64]([0] * CELLS)
        self._ee = vec[sum64]([0] * CELLS)
        self.total = 0
        """Events of all."""
        self.users = [0, 0]
        self._known = [0, 0]

    @property
    def trials(self) -> list[int]:
        """Trials by class and side."""
        return list(self._trials)

    @property
    def events(self) -> list[int]:
        """Events by class and side."""
        return list(self._events)

    def add(self, at: i64, before: i64, added: i64) -> None:
        """Add trials of a unit; ``at``: its class and side.

        ``before``: trials and events that it has had, as ``added`` together (``batch.EVENTS_SHIFT``).
        """
        n: i64 = before & TRIALS
        e: i64 = before >> EVENTS_SHIFT
        trials: i64 = added & TRIALS
        events: i64 = added >> EVENTS_SHIFT
        now_n: i64 = n + trials
        now_e: i64 = e + events
        self._trials[at] += trials
        self._nn[at] += now_n * now_n - n * n
        self._ne[at] += now_n * now_e - n * e
        if events:
            self._events[at] += events
            self._ee[at] += now_e * now_e - e * e
            self.total += events

    def add_good(self, at: int, trials: int, trials_before: int, events_before: int) -> None:
        """Add good trials: how many trials and events their units had before, added up."""
        self._trials[at] += trials
        self._nn[at] += 2 * trials_before + trials
        self._ne[at] += events_before

    def add_event(self, at: int) -> None:
        """Add an event whose trial is added already, of a test that counts no units."""
        self._events[at] += 1
        self.total += 1

    def add_trials(self, at: int, trials: int) -> None:
        """Add trials of a test that counts no units."""
        self._trials[at] += trials

    def most_users(self) -> tuple[int, int]:
        """Return the users of both sides: those counted, or before a restart, if those were more."""
        return max(self.users[0], self._known[0]), max(self.users[1], self._known[1])

    def side(self, canary: int) -> tuple[int, int]:
        """Return trials and events of a side."""
        return sum(self.trials[canary::2]), sum(self.events[canary::2])

    def scaled(self, trials: Sequence[int], events: Sequence[int]) -> list[float]:
        """Return what is expected by class, scaled to the events that came; depends on no label."""
        expected = sum([self.rates[at >> 1] * n for at, n in enumerate(trials) if n])
        scale = sum(events) / expected if expected else 0.0
        return [min(rate * scale, 1.0) for rate in self.rates[: len(trials) // 2]]

    def likeness(self, scaled: Sequence[float]) -> float:
        """Return how alike the requests of a unit are, within its class."""
        pairs = excess = 0.0
        for at, n in enumerate(self.trials):
            if n:
                p = scaled[at >> 1]
                nn: int = self._nn[at]
                pairs += (nn - n) * p * (1.0 - p)
                excess += self._squares(at, p) - n * p * (1.0 - p)
        return likeness(pairs, excess)

    def _squares(self, at: int, p: float) -> float:
        """Return the sum over units of ``(e - p n)²``."""
        nn: int = self._nn[at]
        ne: int = self._ne[at]
        ee: int = self._ee[at]
        return ee - 2.0 * p * ne + p * p * nn

    def differences(
        self, trials: Sequence[int], events: Sequence[int]
    ) -> tuple[list[float], tuple[float, float]] | None:
        """Return expected rates, and each side's rate in excess of them, if both sides have trials."""
        numbers = sum(trials[0::2]), sum(trials[1::2])
        if not all(numbers):
            return None
        scaled = self.scaled(trials, events)
        excess = []
        for side, n in enumerate(numbers):
            expected = sum([p * m for p, m in zip(scaled, trials[side::2], strict=True) if m])
            excess.append((sum(events[side::2]) - expected) / n)
        return scaled, (excess[0], excess[1])

    def _met(self) -> tuple[list[int], list[int]]:
        """Return trials and events by class and side, up to the last class that has had any."""
        trials, events = self.trials, self.events
        while len(trials) > 2 and not trials[-1] and not trials[-2]:
            del trials[-2:]
        return trials, events[: len(trials)]

    def estimate(self) -> Estimate | None:
        """Return the estimate by units; ``None`` until both sides have a trial."""
        trials, events = self._met()
        found = self.differences(trials, events)
        if found is None:
            return None
        scaled, excess = found
        variance = 0.0
        for side in (0, 1):
            squares = 0.0
            for at in range(side, len(trials), 2):
                if trials[at]:
                    squares += self._squares(at, scaled[at >> 1] + excess[side])
            variance += max(squares, 0.0) / sum(trials[side::2]) ** 2
        return Estimate(
            stable=(sum(trials[0::2]), sum(events[0::2])),
            canary=(sum(trials[1::2]), sum(events[1::2])),
            users=self.most_users(),
            difference=excess[1] - excess[0],
            error=sqrt(variance),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values: classes that have trials only."""
        events, nn, ne, ee = self.events, list(self._nn), list(self._ne), list(self._ee)
        return {
            "users": list(self.most_users()),
            "cells": [
                [at, n, events[at], nn[at], ne[at], ee[at], self.rates[at >> 1]]
                for at, n in enumerate(self.trials)
                if n
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take the sums of a ``to_dict``."""
        self._known = [int(n) for n in state["users"]]
        for at, n, e, nn, ne, ee, rate in state["cells"]:
            self._trials[at], self._events[at] = n, e
            self._nn[at], self._ne[at], self._ee[at] = nn, ne, ee
            self.rates[at >> 1] = rate
        self.total = sum(self.events)


def variance_of_rate(trials: int, events: int, tried: int, voted: int) -> float:
    """Return the variance of a side's rate, roughly, from how many units had a trial and an event.

    As if all events came evenly from the ``voted`` units, and none from the others: right for alike units of
    one trial or of many events each, and for units that always fail; up to twice the variance in between.
    """
    if not events:
        return 0.0
    p = events / trials
    active = min(max(voted / max(tried, 1), p), 1.0)
    between = p * p * (1.0 - active) / active / max(tried, 1)
    return between + p * (1.0 - p / active) / trials
