"""Counts the trials of a test, and bets on units at their first trial and at their first event in a round."""

from __future__ import annotations

from canaryproxy.judging.cells import QUIET, QUIET_MOVES, WIDTH, move_of
from canaryproxy.judging.flat import i32, vec
from canaryproxy.judging.history import EVENTS_SHIFT as OF_EVENTS
from canaryproxy.judging.history import MOST, Expectation, History
from canaryproxy.judging.rounds import Round
from canaryproxy.judging.rows import (
    CANARY,
    CLASS_SHIFT,
    EVENTS_SHIFT,
    MET,
    ONE_CLASS,
    ONE_EVENT,
    TRIALS,
    Rows,
)
from canaryproxy.judging.tally import Tally
from canaryproxy.judging.units import Lottery, Units, VirtualCanaries


class Counting:
    """The units of a test: what they did, and in which of its ``rounds`` they were looked up.

    ``looks``: whether it counts by unit. Else ``expected`` has no history.
    """

    __slots__ = (
        *("_looks", "_lottery", "_units", "_who", "expected", "live", "newcomers", "rounds"),
        *("rows", "tally"),
    )

    def __init__(
        self,
        lottery: Lottery,
        units: Units,
        expected: Expectation,
        rounds: list[Round],
        who: VirtualCanaries | None,
        *,
        looks: bool,
    ) -> None:
        self._lottery = lottery
        self._units = units
        self._who = who
        self._looks = looks
        self.expected = expected
        self.rounds = rounds
        self.rows = Rows(looks)
        self.tally = Tally(expected.mean)
        self.live = 0
        """The bits of the rounds that take bets."""
        self.newcomers: list[int] = []
        """Rows whose first trial in this test came since the last tick; with looks only."""

    def take(self, trials: list[int]) -> None:
        """Take trials, ``row << 1 | bad``, in order of time."""
        units = len(self._units)
        if units > len(self.rows.tried):
            self.rows.grow(units)
        if self._looks:
            self._count(trials, self.expected.begin(units))
            self.expected.end()
        else:
            self._count_firsts(trials)
        self.settle_virtual()

    def _count(self, pending: list[int], history: History | None) -> None:
        """Count trials by unit, and those of stable in the history.

        Nearly all are good ones of units of class 0 that every round has met: for them the work is all here.
        """
        rows, tally, live = self.rows, self.tally, self.live
        sums, notes, voted = rows.sums, rows.notes, rows.voted
        remembers = history is not None
        known = vec[i32]() if history is None else history.counts
        stable_moves: list[int] = []
        canary_moves: list[int] = []
        stable = stable_n = canary = canary_n = good = good_n = good_e = 0
        for trial in pending:
            row = trial >> 1
            bad = trial & 1
            note: int = notes[row]
            if not note & MET:
                note = self._meet(row, note, bad)
            elif bad and voted[row] & live != live:
                self.look_up(self.rounds, row, note >> CLASS_SHIFT, note & CANARY, 1)
            n: int = sums[row]
            if bad or n >= ONE_EVENT or note >= ONE_CLASS:
                sums[row] = n + (ONE_EVENT + 1 if bad else 1)
                e = n >> EVENTS_SHIFT
                n &= TRIALS
                tally.add(note >> CLASS_SHIFT, note & CANARY, n, e, bad)
                move = move_of(note >> CLASS_SHIFT, n, e, bad)
            else:
                sums[row] = n + 1
                move = QUIET_MOVES[n] if n < QUIET else 0
                if n >= QUIET and not (n + 1) % WIDTH:
                    move = move_of(0, n, 0, 0)
                if note & CANARY:
                    canary += 1
                    canary_n += n
                else:
                    stable += 1
                    stable_n += n
            if note & CANARY:
                if move:
                    canary_moves.append(move | row)
                continue
            if move:
                stable_moves.append(move | row)
            if remembers:
                count: int = known[row]
                n = count & MOST
                if n == MOST:
                    continue
                if bad and history is not None:
                    history.learn_bad(row)
                    continue
                known[row] = count + 1
                good += 1
                good_n += n
                if n != count:
                    good_e += count >> OF_EVENTS & MOST
        tally.add_good(0, stable, stable_n)
        tally.add_good(1, canary, canary_n)
        if history is not None:
            history.learn_good(good, good_n, good_e)
        looks = self.rounds[0].looks
        if looks is not None:
            looks.cells.move(stable_moves, canary_moves)

    def _meet(self, row: int, note: int, bad: int) -> int:
        """Look up a unit that a round has not met; return its note."""
        rows = self.rows
        if not rows.tried[row] & 1:
            canary = self._units.positions[row] < self._lottery.limit
            self.tally.users[canary] += 1
            note = self.expected.class_of(row) << CLASS_SHIFT | canary
            self.newcomers.append(row)
        self.look_up(self.rounds, row, note >> CLASS_SHIFT, note & CANARY, bad)
        note |= MET
        rows.notes[row] = note
        return note

    def _count_firsts(self, pending: list[int]) -> None:
        """Count trials without units: for a test without looks."""
        tally, live, limit = self.tally, self.live, self._lottery.limit
        tried, voted, positions = self.rows.tried, self.rows.voted, self._units.positions
        stable = canary = 0
        for trial in pending:
            row = trial >> 1
            at = 1 if positions[row] < limit else 0
            bad = trial & 1
            if tried[row] & live != live or (bad and voted[row] & live != live):
                if not tried[row] & 1:
                    tally.users[at] += 1
                self.look_up(self.rounds, row, 0, at, bad)
            if at:
                canary += 1
            else:
                stable += 1
            if bad:
                tally.add_event(at)
        tally.trials[0] += stable
        tally.trials[1] += canary

    def settle_virtual(self) -> None:
        """Let the virtual canaries of the rounds add up whom they have looked up."""
        if self._who is not None:
            for one in self.rounds:
                if one.virtual is not None:
                    one.virtual.settle()

    def look_up(
        self, rounds: list[Round], row: int, unit_class: int, canary: int, bad: int
    ) -> None:
        """Bet on a unit in the rounds in which this is its first trial or first event."""
        tried, voted = self.rows.tried, self.rows.voted
        for one in rounds:
            seen: int = tried[row]
            if not seen & one.bit:
                tried[row] = seen | one.bit
                one.first_trial(unit_class, canary, bad, row)
            seen = voted[row]
            if bad and not seen & one.bit:
                voted[row] = seen | one.bit
                one.first_event(unit_class, canary, row)

    def counts(self, row: int) -> tuple[int, int]:
        """Return trials and events of a unit; of a test with looks, as it is settled."""
        found: int = self.rows.sums[row]
        return found & TRIALS, found >> EVENTS_SHIFT
