"""The bets of virtual canaries: what the test would have said if a part of stable had been a canary.

The null hypothesis holds for them on the traffic of the day, so they show whether the alarm is honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from canaryproxy.judging.bets import Factors
from canaryproxy.judging.evidence import log_sum_exp
from canaryproxy.judging.units import ROW_BITS, VirtualCanaries, unpacked


@dataclass(frozen=True, slots=True)
class Placebo:
    """How many virtual canaries would have tripped, and the best log evidence of any of them so far."""

    tripped: int
    of: int
    log_evidence: float


class VirtualBets:
    """``Bets`` of all virtual canaries of a round at once.

    They have a unit with the same probability whatever was seen, so only how many units of each kind were
    looked up counts, and how many were theirs: one packed integer.
    """

    __slots__ = ("_events", "_events_due", "_trials", "_trials_due", "who")

    def __init__(self, who: VirtualCanaries) -> None:
        self.who = who
        self._events: dict[int, tuple[int, int]] = {}
        self._trials: dict[int, tuple[int, int]] = {}
        self._events_due: list[int] = []
        self._trials_due: list[int] = []
        """Rows that were looked up since ``settle``, each with which factors are bet."""

    def look_up_event(self, at: int, row: int) -> None:
        """Look up a unit of stable for part A; ``at``: which factors are bet."""
        self._events_due.append(at << ROW_BITS | row)

    def look_up_trial(self, at: int, row: int) -> None:
        """The same for part C."""
        self._trials_due.append(at << ROW_BITS | row)

    def settle(self) -> None:
        """Add up what was looked up; most tests of a tick have looked up the same units."""
        if self._trials_due:
            self._add(self._trials, self._trials_due)
            self._trials_due = []
        if self._events_due:
            self._add(self._events, self._events_due)
            self._events_due = []

    def _add(self, counts: dict[int, tuple[int, int]], due: list[int]) -> None:
        numbers, fields = self.who.sums(due)
        for at, number in numbers.items():
            units, theirs = counts.get(at, (0, 0))
            counts[at] = (units + number, theirs + fields[at])

    def log_events(self, prior: Sequence[float], factors: Sequence[Factors]) -> list[float]:
        """Return ln E of part A of each virtual canary."""
        return self._log_e(self._events, prior, factors)

    def log_trials(self, prior: Sequence[float], factors: Sequence[Factors]) -> list[float]:
        """Return ln E of part C of each virtual canary."""
        return self._log_e(self._trials, prior, factors)

    def _log_e(
        self,
        counts: dict[int, tuple[int, int]],
        prior: Sequence[float],
        factors: Sequence[Factors],
    ) -> list[float]:
        if not counts:
            return []
        start = [log(weight) for weight in prior]
        by_kind: list[tuple[tuple[int, ...], list[float]]] = []
        for at, (units, theirs) in counts.items():
            for k, mean in enumerate(factors[at].log_means(self.who.share)):
                start[k] -= units * mean
            by_kind.append((unpacked(theirs, self.who.count), list(factors[at].logs)))
        found = []
        for j in range(self.who.count):
            logs = list(start)
            for numbers, gains in by_kind:
                mine = float(numbers[j])
                if mine:
                    for k, gain in enumerate(gains):
                        logs[k] += mine * gain
            found.append(log_sum_exp(logs))
        return found


class PlaceboWatch:
    """Evidence that virtual canaries have reached so far."""

    __slots__ = ("_limit", "_placebo", "best", "count", "tripped")

    def __init__(self, count: int, log_limit: float) -> None:
        self.count = count
        self._limit = log_limit
        self.tripped = 0
        """A bit for each that has reached the limit."""
        self.best = 0.0
        self._placebo: Placebo | None = None
        """Of what is known; ``None``: it is not worked out."""

    def see(self, log_stake: float, found: Sequence[float]) -> None:
        """Take the log evidence of each in one part of one round."""
        self._placebo = None
        for j, value in enumerate(found):
            value += log_stake
            self.best = max(self.best, value)
            if value >= self._limit:
                self.tripped |= 1 << j

    def to_list(self) -> list[float]:
        """Return the state as JSON values."""
        return [self.tripped, self.best]

    def restore(self, state: Sequence[float]) -> None:
        """Go on from a ``to_list``."""
        self.tripped, self.best, self._placebo = int(state[0]), float(state[1]), None

    @property
    def placebo(self) -> Placebo:
        """The result."""
        if self._placebo is None:
            self._placebo = Placebo(self.tripped.bit_count(), self.count, self.best)
        return self._placebo
