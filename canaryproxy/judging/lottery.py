"""The test of one metric under one lottery: are bad events the canary's more often than the draw explains?

**Null hypothesis (sharp): the version changes nothing that a user meets.** Then every unit's history is
what it would be on either side, and all evidence comes from the draw (lemma 1, ``units.Lottery``), which
is known exactly. Nothing is assumed about users, requests or time.

Three parts bet on the labels of units: A on first bad events, C on first trials (``bets``), B on all
requests at looks (``cells``, ``look``). Each is run in rounds (``rounds``): from the step on, from every
minute on, from surges of the pooled rate on (``surge``); looks in the first only.

**Theorem 2.** Give each part of each round a share w of α, Σ w <= 1, fixed before it begins. Under the
null hypothesis any of them ever reaches 1/(αw) with probability at most α. *Proof.* A and C are
martingales with mean 1 (Ville), B never falls and has mean at most 1 (Markov); union bound. ∎ That the
difference must be material, too, can only lower it.

**What must hold.** Whether a trial is bad may depend on all histories and on labels known before the
step, and must be judged in the same way on both sides; only trials of users who could have been on either
side count; records are settled.

**What no test can do.** Given the histories all randomness is the draw: no evidence exceeds C(M, M_c) for
M users of which M_c are the canary's. One canary user in 100: 100 to 1, for ever.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from canaryproxy.config.text import duration
from canaryproxy.judging.batch import Trials, unlisted
from canaryproxy.judging.bets import (
    OF_CLASSES,
    PRIOR_A,
    PRIOR_C,
    Factors,
    first_event_factors,
    first_trial_factors,
)
from canaryproxy.judging.cells import Looks
from canaryproxy.judging.counting import Counting
from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.history import Expectation, History
from canaryproxy.judging.parts import whole
from canaryproxy.judging.rounds import (
    CLOCK_LIFE,
    Kind,
    Round,
    Schedule,
    StandingRound,
    Window,
    life_of,
    stake_of,
)
from canaryproxy.judging.surge import Surges
from canaryproxy.judging.tally import Estimate, Seen
from canaryproxy.judging.units import Lottery, Units
from canaryproxy.judging.virtual import Placebo, PlaceboWatch, VirtualBets

__all__ = ["Estimate", "History", "Lottery", "LotteryTest", "Placebo", "TestSettings", "Units"]

HALF_ERRORS: Final = 0.5
"""A difference is material if it reaches the margin after this many standard errors are taken off."""
_ROUNDS: Final = 8
_VIRTUAL_EVERY: Final = 5
"""Ticks between two views of virtual canaries, of one round after the other."""


@dataclass(frozen=True, slots=True)
class TestSettings:
    """Limits, margin and parts of a test."""

    log_limit: float
    """ln(1/α) of this test, all its rounds and parts together."""
    log_hold: float
    """ln(1/α) at which it is suspect."""
    margin: float = 0.0
    """Difference of rates that is material; with ``relative`` as a share of stable's rate."""
    relative: bool = False
    direction: Direction = "increase"
    """Which change of the canary's rate is the bad one."""
    looks: bool = True
    """Part B: all requests of all units. Without it a test keeps two bytes a unit."""
    gross: bool = True
    """Part C, for increases only."""


class LotteryTest:
    """One metric, one lottery: ``add`` each trial that settled, ``tick`` ten times a second, then read.

    ``placebos``: number of virtual canaries that go through the same bets. They trip by evidence alone,
    so more of them trip than would with a margin.
    """

    __slots__ = (
        *("_counting", "_factors", "_lottery", "_rounds"),
        *("_schedule", "_settings", "_standing", "_surges"),
        *("_turn", "_units", "_watch", "_who"),
        *("_breached", "breach", "has_news", "log_evidence", "newcomers", "pending", "suspect"),
    )

    def __init__(
        self,
        lottery: Lottery,
        units: Units,
        settings: TestSettings,
        now: float,
        history: History | None = None,
        placebos: int = 0,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        increase = settings.direction == "increase"
        self._lottery = lottery
        self._units = units
        self._settings = settings
        expected = Expectation(history)
        self._factors = first_event_factors(expected.mean, expected.rates, increase)
        known = (0, 0) if history is None else (history.trials, history.events)
        self._surges = Surges(increase, *known)
        self._schedule = Schedule(now, units.phase())
        self._rounds: list[Round] = []
        self._standing: list[StandingRound] = []
        self.pending: list[int] = []
        """Trials since the last tick, ``row << 1 | bad``: all metrics of a tick cost less one by one."""
        self.has_news = True
        """Whether trials were taken since the last estimate."""
        self._who = units.virtual(lottery, placebos) if placebos and lottery.stable else None
        looks = settings.looks
        self._counting = Counting(lottery, units, expected, self._rounds, self._who, looks=looks)
        self.newcomers = self._counting.newcomers
        """Rows whose first trial in this test came since the last tick; with looks only."""
        self._watch = PlaceboWatch(placebos, settings.log_limit)
        self._turn = round(units.phase() * _VIRTUAL_EVERY)
        self.log_evidence = -inf
        """Best over rounds and parts of ln E + ln of its stake; to be compared with ``log_limit``."""
        self.breach = False
        """Evidence has reached the limit in a round in which the difference is material; stays."""
        self.suspect = False
        """Evidence is at ``log_hold`` now."""
        self._breached: Round | StandingRound | None = None
        """The round that gave the evidence of the breach."""
        if saved is None:
            self._open("main", now, [])
        else:
            self._restore(saved, now)

    def add(self, row: int, bad: bool) -> None:
        """Add a trial that settled, of a unit whose position is in the lottery, in order of time."""
        self.pending.append(row << 1 | bad)

    def settle(self) -> None:
        """Take the pending trials; ``tick`` does, and whatever reads sums."""
        if self.pending:
            self.take(unlisted(self.pending))
            self.pending.clear()

    def take(self, trials: Trials) -> None:
        """Take trials that come after those that are pending."""
        whole(self.take_in_parts(trials))

    def take_in_parts(self, trials: Trials) -> Generator[None]:
        """Do the same in parts (``judging.parts``)."""
        self.has_news = True
        before = self._counting.tally.total
        yield from self._counting.take_in_parts(trials)
        self._surges.add(trials, self._counting.tally.total - before)

    @property
    def is_behind(self) -> bool:
        """Whether there is work of ``follow`` to do before a look, or too much of it."""
        return self._counting.is_behind

    def follow(self) -> bool:
        """Do a part of what a look needs of the trials that were taken; return whether there is more."""
        return self._counting.follow()

    def counts(self, row: int) -> tuple[int, int]:
        """Return trials and events of a unit; of a test with looks, as it is settled."""
        return self._counting.counts(row)

    def tick(self, now: float) -> bool:
        """Open and close rounds, look, and decide; ten times a second.

        Returns whether there was anything to do: if not, it stands as it did.
        """
        if self.pending:
            self.settle()
        self.newcomers.clear()
        clock = self._schedule.clock(now)
        if not clock and self._surges.is_quiet:
            return False
        self._surges.tick()
        length = self._surges.length
        if length and self._units.spend(now, length):
            self._open("surge", now, self._surges.take())
        if clock:
            self._open("clock", now, [])
        for one in self._rounds[1:]:
            if now - one.began > life_of(one.kind):
                self._close(one)
        first = self._rounds[0]
        if first.looks is not None:
            events = self._counting.tally.total - first.total
            if events >= first.looks.next:
                while self._counting.follow():
                    pass
                if self._units.spend(now, first.looks.cost):
                    self._watch.see(first.log_b, first.looks.look(self._counting.tally, events))
        self._see_virtual()
        self._decide(now)
        return True

    def _open(self, kind: Kind, now: float, records: list[int]) -> None:
        """Open a round that begins with ``records``, the last ones, or now."""
        for one in self._rounds[1:]:
            if kind == one.kind == "surge":
                self._close(one)
        free = [bit for bit in range(_ROUNDS) if not self._counting.live >> bit & 1]
        if not free:
            self._close(self._rounds[1])
            free = [bit for bit in range(_ROUNDS) if not self._counting.live >> bit & 1]
        bit = 1 << free[0]
        settings = self._settings
        increase = settings.direction == "increase"
        first = not self._rounds
        factors_c: list[Factors] = []
        if settings.gross and increase:
            surges = self._surges
            rate = surges.rate_before if kind == "surge" else surges.rate
            factors_c = first_trial_factors(rate) + OF_CLASSES
        one = Round(
            kind,
            stake_of(kind, self._schedule.number(kind)),
            bit,
            now,
            self._lottery,
            self._factors,
            factors_c,
            settings.looks and first,
        )
        if settings.looks and first:
            aim = settings.log_limit - one.log_b
            one.looks = Looks(self._lottery, increase, aim, self._who)
        if self._who is not None:
            one.virtual = VirtualBets(self._who)
        if not first:
            self._counting.rows.open(bit)
        one.begin_window(self._counting.tally)
        self._rounds.append(one)
        self._counting.live |= bit
        for record in records:
            row, bad = record >> 1, record & 1
            canary = 1 if self._units.positions[row] < self._lottery.limit else 0
            unit_class = self._counting.rows.class_of(row)
            one.trials[2 * unit_class + canary] -= 1
            one.events[2 * unit_class + canary] -= bad
            self._counting.look_up_trial([one], row, unit_class, canary, bad)
            if bad:
                self._counting.look_up_event([one], row, unit_class, canary)
        if records:
            self._counting.settle_virtual()

    def _close(self, one: Round) -> None:
        self._rounds.remove(one)
        self._counting.live &= ~one.bit

    def _see_virtual(self) -> None:
        """See how virtual canaries do in one round after the other."""
        if self._who is None:
            return
        self._turn += 1
        if self._turn % _VIRTUAL_EVERY:
            return
        one = self._rounds[self._turn // _VIRTUAL_EVERY % len(self._rounds)]
        if one.virtual is None:
            return
        self._watch.see(one.log_a, one.virtual.log_events(PRIOR_A, one.factors_a))
        if one.factors_c:
            self._watch.see(one.log_c, one.virtual.log_trials(PRIOR_C, one.factors_c))

    def _decide(self, now: float) -> None:
        limit, hold = self._settings.log_limit, self._settings.log_hold
        self.log_evidence = -inf
        self.suspect = False
        for one in self._rounds:
            value, suspicion = one.log_evidence()
            self.log_evidence = max(self.log_evidence, value)
            if suspicion >= hold:
                self.suspect = True
            if value >= limit and self._breached is None:
                self._judge_round(one, one.window(self._counting.tally))
        for past in self._standing:
            self.log_evidence = max(self.log_evidence, past.log_evidence)
            if past.log_evidence >= hold and now < past.until:
                self.suspect = True
            if past.log_evidence >= limit and self._breached is None:
                self._judge_round(past, past.window)

    def _judge_round(self, one: Round | StandingRound, window: Window) -> None:
        if self._is_material(window):
            self.breach, self._breached = True, one

    def cause(self) -> Seen | None:
        """Return what was seen in the round that gave the evidence of the breach; ``None`` without one."""
        one = self._breached
        if one is None:
            return None
        if isinstance(one, StandingRound):
            return one.window.seen("before the last restart")
        lasted = duration(max(self._schedule.last - one.began, 1.0))
        when = {
            "clock": f"over the last {lasted}",
            "surge": f"in the {lasted} since the rate rose",
        }.get(one.kind, "")
        return one.window(self._counting.tally).seen(when)

    @property
    def voted(self) -> tuple[int, int]:
        """Users of stable and of the canary with an event since the step began; at least so many."""
        first = self._rounds[0].voted
        if not self._standing:
            return first[0], first[1]
        windows = [past.window.voted for past in self._standing]
        return (
            max([first[0], *(voted[0] for voted in windows)]),
            max([first[1], *(voted[1] for voted in windows)]),
        )

    @property
    def users(self) -> tuple[int, int]:
        """Users of stable and of the canary with a trial since the step began."""
        return self._counting.tally.most_users()

    def _is_material(self, window: Window) -> bool:
        found = window.difference(self._counting.tally)
        settings = self._settings
        if found is None:
            return False
        if settings.direction == "increase" and window.is_absence(self._lottery.odds):
            return False
        difference, error, rate = found
        worse = difference if settings.direction == "increase" else -difference
        least = settings.margin * rate if settings.relative else settings.margin
        return worse > 0.0 and worse - HALF_ERRORS * error >= least - 1e-12

    def estimate(self) -> Estimate | None:
        """Return how much worse the canary is since the step began; ``None`` without trials on a side."""
        self.settle()
        self.has_news = False
        if self._settings.looks:
            return self._counting.tally.estimate()
        window = Window(
            self._counting.tally.trials,
            self._counting.tally.events,
            self._counting.tally.most_users(),
            (self._rounds[0].voted[0], self._rounds[0].voted[1]),
        )
        found = window.difference(self._counting.tally)
        if found is None:
            return None
        return Estimate(
            self._counting.tally.side(0),
            self._counting.tally.side(1),
            window.tried,
            found[0],
            found[1],
        )

    @property
    def placebo(self) -> Placebo:
        """How many virtual canaries would have tripped."""
        return self._watch.placebo

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values: sums and evidence, not who has been looked up."""
        self.settle()
        now = self._schedule.last
        rounds = [
            (one.log_evidence()[0], one.began + life_of(one.kind), one.window(self._counting.tally))
            for one in self._rounds
        ]
        rounds += [(one.log_evidence, one.until, one.window) for one in self._standing]
        rounds.sort(key=_evidence_of, reverse=True)
        return {
            "tally": self._counting.tally.to_dict(),
            "surges": self._surges.to_dict(),
            "schedule": self._schedule.to_dict(),
            "rounds": [
                {"log_e": log_e, "left": min(max(until - now, 0.0), CLOCK_LIFE), **window.to_dict()}
                for log_e, until, window in rounds[:_ROUNDS]
            ],
            "placebo": self._watch.to_list(),
            "breach": self.breach,
        }

    @classmethod
    def from_dict(
        cls,
        state: Mapping[str, Any],
        lottery: Lottery,
        units: Units,
        settings: TestSettings,
        now: float,
        history: History | None = None,
        placebos: int = 0,
    ) -> LotteryTest:
        """Return the test whose ``to_dict`` this was, after a restart: its rounds stand and take no more
        bets.

        A round of its own begins. Users are counted afresh and at least as many as before are reported.
        """
        return cls(lottery, units, settings, now, history, placebos, state)

    def _restore(self, saved: Mapping[str, Any], now: float) -> None:
        self._counting.tally.restore(saved["tally"])
        self._surges.restore(saved["surges"])
        self._schedule.restore(saved["schedule"])
        self._standing = [
            StandingRound(float(one["log_e"]), now + float(one["left"]), Window.from_dict(one))
            for one in saved["rounds"]
        ]
        self._watch.restore(saved["placebo"])
        self.breach = bool(saved["breach"])
        self._open("resumed", now, [])
        self._decide(now)


def _evidence_of(one: tuple[float, float, Window]) -> float:
    return one[0]
