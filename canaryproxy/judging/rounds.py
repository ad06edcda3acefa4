"""Rounds of a test: units are counted afresh from a moment on, with a stake of its own.

A round may begin at any time that depends on histories and not on labels: with the step, by the clock, or
at a surge of the pooled rate. The processes of different rounds and parts are martingales in different
filtrations (a unit whose label one round has shown is no draw in the next), so they are not added up:
their stakes are spent by the union bound (theorem 2; Choe & Ramdas 2024, Combining evidence across
filtrations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Any, Final, Literal

from canaryproxy.judging.bets import PRIOR_A, PRIOR_C, Bets, Factors
from canaryproxy.judging.cells import NOTHING, Looks
from canaryproxy.judging.tally import CELLS, Seen, Side, Tally, variance_of_rate
from canaryproxy.judging.units import Lottery
from canaryproxy.judging.virtual import VirtualBets

Kind = Literal["main", "surge", "clock", "resumed"]

MAIN: Final = 0.60
SURGE: Final = 0.20
CLOCK: Final = 0.15
RESUMED: Final = 0.05
"""Stakes of the round that begins with the step, of all rounds at surges, by the clock, after restarts."""
CLOCK_EVERY: Final = 60.0
CLOCK_GROWS: Final = 0.05
CLOCK_LIFE: Final = 300.0
_CLOCK_EVEN: Final = 15
"""Seconds. A round by the clock every minute, later whenever the step is 5% older; the stake of the first
15 is even."""
_CLOCK_PHASE: Final = 1.0 / 60.0
"""Tests begin their rounds up to this part of ``CLOCK_EVERY`` apart."""
SURGE_LIFE: Final = 600.0

_MOST_CAME: Final = 0.8
"""Part of the canary's users, of those who were drawn, from which on none are missing."""
_CHANCE: Final = log(100.0)

PARTS: Final[dict[Kind, tuple[float, float, float]]] = {
    "main": (0.45, 0.25, 0.30),
    "resumed": (0.45, 0.25, 0.30),
    "surge": (0.55, 0.45, 0.0),
    "clock": (0.80, 0.20, 0.0),
}
"""Parts A, C and B of a round's stake; those that a test does not have go to the others."""


def stake_of(kind: Kind, number: int) -> float:
    """Return the stake of the round of a kind with this number, from 1 on; all together at most 1."""
    share = 1.0 / (number * (number + 1))
    if kind == "main":
        return MAIN
    if kind == "surge":
        return SURGE * share
    if kind == "resumed":
        return RESUMED * share
    return CLOCK * (0.5 * share + (0.5 / _CLOCK_EVEN if number <= _CLOCK_EVEN else 0.0))


def life_of(kind: Kind) -> float:
    """Return for how many seconds a round of a kind takes bets."""
    if kind == "clock":
        return CLOCK_LIFE
    return SURGE_LIFE if kind == "surge" else inf


class Round:
    """Evidence of one round. ``bit``: its place in the masks of who has had a trial and an event in it."""

    __slots__ = (
        *("bets_a", "bets_c", "began", "bit", "events", "factors_a", "factors_c", "kind"),
        *("log_a", "log_b", "log_c", "looks", "stake", "total", "trials", "tried", "virtual"),
        *("voted",),
    )

    def __init__(
        self,
        kind: Kind,
        stake: float,
        bit: int,
        began: float,
        lottery: Lottery,
        factors_a: Sequence[Factors],
        factors_c: Sequence[Factors],
        looks: bool,
    ) -> None:
        self.kind: Kind = kind
        self.stake = stake
        self.bit = bit
        self.began = began
        self.factors_a = factors_a
        self.factors_c = factors_c
        part_a, part_c, part_b = PARTS[kind]
        parts = part_a + (part_c if factors_c else 0.0) + (part_b if looks else 0.0)
        self.log_a = log(stake * part_a / parts)
        self.log_c = log(stake * part_c / parts)
        self.log_b = log(stake * part_b / parts) if looks else NOTHING
        """Logarithms of stakes by part."""
        self.bets_a = Bets(PRIOR_A, lottery.canary, lottery.stable)
        self.bets_c = Bets(PRIOR_C, lottery.canary, lottery.stable) if factors_c else None
        self.looks: Looks | None = None
        self.virtual: VirtualBets | None = None
        self.trials = [0] * CELLS
        self.events = [0] * CELLS
        """What the tally was when the round began."""
        self.total = 0
        """Events in the tally then."""
        self.tried = [0, 0]
        self.voted = [0, 0]
        """Units with a trial and with an event in this round, of stable and of the canary."""

    def first_trial(self, unit_class: int, canary: int, bad: int, row: int) -> None:
        """Look a unit up at its first trial in the round."""
        self.tried[canary] += 1
        if self.bets_c is not None:
            at = 2 * unit_class + bad
            self.bets_c.look_up(self.factors_c[at], canary)
            if self.virtual is not None and not canary:
                self.virtual.look_up_trial(at, row)

    def first_event(self, unit_class: int, canary: int, row: int) -> None:
        """Look a unit up at its first bad event in the round."""
        self.voted[canary] += 1
        self.bets_a.look_up(self.factors_a[unit_class], canary)
        if self.virtual is not None and not canary:
            self.virtual.look_up_event(unit_class, row)

    def begin_window(self, tally: Tally) -> None:
        """The round's window begins with what the tally is now."""
        self.trials = list(tally.trials)
        self.events = list(tally.events)
        self.total = tally.total

    def log_evidence(self) -> tuple[float, float]:
        """Return the best of its parts, ln E + ln stake; and the same with the last look instead of all."""
        best = self.log_a + self.bets_a.log_e
        if self.bets_c is not None:
            best = max(best, self.log_c + self.bets_c.log_e)
        if self.looks is None:
            return best, best
        return max(best, self.log_b + self.looks.log_e), max(best, self.log_b + self.looks.last)

    def window(self, tally: Tally) -> Window:
        """Return what has been counted since the round began."""
        return Window(
            trials=[now - then for now, then in zip(tally.trials, self.trials, strict=True)],
            events=[now - then for now, then in zip(tally.events, self.events, strict=True)],
            tried=(self.tried[0], self.tried[1]),
            voted=(self.voted[0], self.voted[1]),
        )


@dataclass(frozen=True, slots=True)
class Window:
    """Trials and events of a round by class and side, and units with a trial and with an event by side."""

    trials: Sequence[int]
    events: Sequence[int]
    tried: tuple[int, int]
    voted: tuple[int, int]

    def difference(self, tally: Tally) -> tuple[float, float, float] | None:
        """Return the difference of rates, its standard error and stable's rate, if both sides have trials."""
        found = tally.differences(self.trials, self.events)
        if found is None:
            return None
        excess = found[1]
        variance = rate = 0.0
        for side in (1, 0):
            trials, events = sum(self.trials[side::2]), sum(self.events[side::2])
            rate = events / trials
            variance += variance_of_rate(trials, events, self.tried[side], self.voted[side])
        return excess[1] - excess[0], sqrt(variance), rate

    def is_absence(self, odds_of_canary: float) -> bool:
        """Whether evidence may come from users of the canary who did not ask, not from what the others met.

        So if clearly fewer came than were drawn, less than half of them had an event, and the events of both
        sides' users, however many came, are no more than one in a hundred draws would show (Chernoff 1952).
        """
        (users_s, users), (hurt_s, hurt) = self.tried, self.voted
        if users >= _MOST_CAME * odds_of_canary * users_s or 2 * hurt >= users:
            return False
        share, total = users / (users + users_s), hurt + hurt_s
        if hurt <= share * total:
            return True
        found = hurt * log(hurt / (share * total))
        if hurt_s:
            found += hurt_s * log(hurt_s / ((1.0 - share) * total))
        return found < _CHANCE

    def seen(self, when: str) -> Seen:
        """Return what was seen, for people; ``when`` says in which time."""
        stable, canary = (
            Side(sum(self.trials[at::2]), sum(self.events[at::2]), self.tried[at], self.voted[at])
            for at in (0, 1)
        )
        return Seen(stable, canary, when)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: cells that have trials."""
        cells = [[at, n, self.events[at]] for at, n in enumerate(self.trials) if n]
        return {"cells": cells, "tried": list(self.tried), "voted": list(self.voted)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Window:
        """Return the window whose ``to_dict`` this was."""
        trials, events = [0] * CELLS, [0] * CELLS
        for at, n, e in state["cells"]:
            trials[at], events[at] = n, e
        tried, voted = state["tried"], state["voted"]
        return cls(trials, events, (tried[0], tried[1]), (voted[0], voted[1]))


@dataclass(frozen=True, slots=True)
class StandingRound:
    """A round from before a restart: who has been looked up in it is not known, so it takes no more bets."""

    log_evidence: float
    until: float
    """It can be suspect until then; its evidence stands for the step."""
    window: Window


class Schedule:
    """When rounds begin by the clock, and how many of each kind there have been."""

    __slots__ = ("_began", "_clock_at", "_numbers", "last")

    def __init__(self, now: float, phase: float) -> None:
        self._began = self.last = now
        self._clock_at = now + CLOCK_EVERY * (1.0 + _CLOCK_PHASE * phase)
        self._numbers: dict[str, int] = {}

    def number(self, kind: Kind) -> int:
        """Return the number of the next round of a kind, from 1 on."""
        self._numbers[kind] = number = self._numbers.get(kind, 0) + 1
        return number

    def clock(self, now: float) -> bool:
        """Return whether a round by the clock is due, and set the time of the next."""
        self.last = now
        if now < self._clock_at:
            return False
        self._clock_at = now + max(CLOCK_EVERY, CLOCK_GROWS * (now - self._began))
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"age": self.last - self._began, "numbers": self._numbers}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the age and the numbers of a ``to_dict``; the stakes of its rounds are spent."""
        self._began = self.last - float(state["age"])
        self._numbers = {kind: int(number) for kind, number in state["numbers"].items()}
