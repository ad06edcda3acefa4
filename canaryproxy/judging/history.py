"""Counts of units from before a step, on stable, and the rates that they let expect in the step.

Whatever a unit did before its lottery was drawn cannot depend on the draw, so scores may use it freely.
Accounts that always fail are little surprise when they fail again, on whichever side they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from typing import Final

from canaryproxy.judging.growth import with_ints
from canaryproxy.measure.flat import i32, vec

MOST: Final = 65_535
"""Trials of a unit that a history counts."""
EVENTS_SHIFT: Final = 16
"""The bits of a count above are events, those below trials."""
_SIGN: Final = 1 << 31
LEAST_TRIALS: Final = 100
LEAST_EVENTS: Final = 5
"""Below these numbers nothing is expected of units in particular."""
LEAST_LIKENESS: Final = 0.01

_LOWEST: Final = -10.0
_PER_UNIT: Final = 2
CLASSES: Final = 2 + round(-_LOWEST) * _PER_UNIT * 3 // 2
"""Classes of expected rates: 0, the mean; then by log odds from -10 to 5 in steps of one half."""
CLASS_RATES: Final = tuple(
    1.0 / (1.0 + exp(-(_LOWEST + at / _PER_UNIT))) for at in range(CLASSES - 1)
)
"""Rates of the classes from 1 on."""


def likeness(pairs: float, excess: float) -> float:
    """Return how alike the requests of a unit are (intraclass correlation), clipped to [0, 0.95].

    For counts n, e of units and expected rates p, ``pairs`` is Σ n(n-1) p(1-p) and ``excess`` is
    Σ (e - np)² - np(1-p), whose mean is the correlation times the first.
    """
    if pairs < 10.0:
        return 0.0
    return min(max(excess / pairs, 0.0), 0.95)


class Expectation:
    """Expected rates at the beginning of a step, by classes of units.

    Of a unit with counts n, e before: ``(e + strength · mean) / (n + strength)`` with ``strength =
    (1-r)/r`` for likeness r, rounded to its class. Without a likeness, or too little known: the mean, for
    all.

    A unit's class is read at its first trial of the step. So once another step has added to the history,
    which may tell on which side of this one a unit is, units that are new to this step are expected to be
    as the mean.
    """

    __slots__ = ("_history", "_left", "_strength", "mean", "rates")

    def __init__(self, history: History | None = None) -> None:
        trials, events = (0, 0) if history is None else (history.trials, history.events)
        self.mean = (events + 0.5) / (trials + 50.0)
        """Rate of all units; half an event in fifty trials is where it starts."""
        self._history = history
        self._left = trials
        self._strength = 0.0
        if history is not None and trials >= LEAST_TRIALS and events >= LEAST_EVENTS:
            self.mean = min(events / trials, 0.99)
            alike = history.likeness(self.mean)
            if alike > LEAST_LIKENESS:
                self._strength = (1.0 - alike) / alike
        self.rates = [self.mean, *CLASS_RATES] if self._strength else [self.mean]
        """By class, of those that can occur."""

    def class_of(self, row: int) -> int:
        """Return the class of a row of the history; called after ``begin``, before its first trial."""
        history = self._history
        if self._strength <= 0.0 or history is None:
            return 0
        n, e = history.of(row)
        if not n:
            return 0
        rate = (e + self._strength * self.mean) / (n + self._strength)
        if rate >= 1.0:
            return CLASSES - 1
        odds = log(rate / (1.0 - rate))
        return 1 + min(max(round((odds - _LOWEST) * _PER_UNIT), 0), CLASSES - 2)

    def begin(self, units: int) -> History | None:
        """Begin to take trials of so many units; return what those of stable are to be added to."""
        history = self._history
        if history is not None:
            if history.trials != self._left:
                self._strength = 0.0
            history.grow(units)
        return history

    def end(self) -> None:
        """The trials since ``begin`` have been added to the history."""
        if self._history is not None:
            self._left = self._history.trials


class History:
    """Trials and events of units while they were on stable, for one metric; lives as long as the judge.

    Added to before the first step, and by each test with its stable units. A unit of 65,535 trials is
    known well enough.
    """

    __slots__ = ("_ee", "_ne", "_nn", "counts", "events", "trials")

    def __init__(self) -> None:
        self.counts = vec[i32]()
        """By row: trials in the lower half, events in the upper one."""
        self.trials = 0
        self.events = 0
        self._nn = 0
        self._ne = 0
        self._ee = 0

    def of(self, row: int) -> tuple[int, int]:
        """Return trials and events of a unit."""
        if row >= len(self.counts):
            return 0, 0
        count: int = self.counts[row]
        return count & MOST, count >> EVENTS_SHIFT & MOST

    def grow(self, units: int) -> None:
        """Let there be rows for so many units, and some more."""
        size = len(self.counts)
        if units > size:
            self.counts = with_ints(self.counts, units + units // 8 + 64 - size)

    def add(self, trials: Sequence[int]) -> None:
        """Add trials, ``row << 1 | bad``, of units that are on stable."""
        self.grow((max(trials) >> 1) + 1)
        counts = self.counts
        good = trials_before = events_before = 0
        for trial in trials:
            row = trial >> 1
            count: int = counts[row]
            n = count & MOST
            if n == MOST:
                continue
            if trial & 1:
                self.learn(row, 1, 1)
                continue
            counts[row] = count + 1
            good += 1
            trials_before += n
            if n != count:
                events_before += count >> EVENTS_SHIFT & MOST
        self.learn_good(good, trials_before, events_before)

    def learn_good(self, trials: int, trials_before: int, events_before: int) -> None:
        """Add the sums of good trials whose units are counted already: what these had before, added up."""
        self.trials += trials
        self._nn += 2 * trials_before + trials
        self._ne += events_before

    def learn(self, row: int, trials: int, events: int) -> None:
        """Add trials of a unit, which has no more than ``MOST`` with them."""
        count: int = self.counts[row]
        n, e = count & MOST, count >> EVENTS_SHIFT & MOST
        now_n, now_e = n + trials, e + events
        count = now_n | now_e << EVENTS_SHIFT
        self.counts[row] = count if count < _SIGN else count - 2 * _SIGN
        self.trials += trials
        self.events += events
        self._nn += now_n * now_n - n * n
        self._ne += now_n * now_e - n * e
        self._ee += now_e * now_e - e * e

    def likeness(self, rate: float) -> float:
        """Return how alike the requests of a unit are, where ``rate`` is expected of each."""
        spread = rate * (1.0 - rate)
        squares = self._ee - 2.0 * rate * self._ne + rate * rate * self._nn
        return likeness((self._nn - self.trials) * spread, squares - self.trials * spread)
