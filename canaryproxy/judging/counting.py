"""Counts the trials of a test, and bets on units at their first trial and at their first event in a round."""

from __future__ import annotations

from typing import Final

from canaryproxy.judging.batch import Trials
from canaryproxy.judging.cells import cell_of, step_of
from canaryproxy.judging.history import EVENTS_SHIFT as OF_EVENTS
from canaryproxy.judging.history import MOST, Expectation, History
from canaryproxy.judging.rounds import Round
from canaryproxy.judging.rows import (
    CANARY,
    CLASS_MASK,
    CLASS_SHIFT,
    EVENTS_SHIFT,
    MET,
    MOVED,
    ONE_EVENT,
    TRIALS,
    Rows,
    class_of,
)
from canaryproxy.judging.tally import Tally
from canaryproxy.judging.units import ROW_BITS, Lottery, Units, VirtualCanaries
from canaryproxy.measure.flat import i32, i64, vec

_MOST_MOVED: Final = 2048
"""Units that may have moved before the looks know."""


class Counting:
    """The units of a test: what they did, and in which of its ``rounds`` they were looked up.

    ``looks``: whether it counts by unit. Else ``expected`` has no history.
    """

    __slots__ = (
        *(
            "_looks",
            "_lottery",
            "_moved",
            "_units",
            "_who",
            "expected",
            "live",
            "newcomers",
            "rounds",
        ),
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
        self._moved: list[int] = []
        """Rows with the note ``MOVED``."""
        self.live = 0
        """The bits of the rounds that take bets."""
        self.newcomers: list[int] = []
        """Rows whose first trial in this test came since the last tick; with looks only."""

    def take(self, trials: Trials) -> None:
        """Take trials in order of time."""
        units = len(self._units)
        if units > len(self.rows.tried):
            self.rows.grow(units)
        if self._looks:
            self._count(trials, self.expected.begin(self._units.known))
            self.expected.end()
        else:
            self._count_firsts(trials)
        self.settle_virtual()

    def _count(self, trials: Trials, history: History | None) -> None:
        """Count trials by unit, and those of stable in the history.

        Nearly all are good ones of units of class 0 that every round has met: for them the work is all here.
        """
        tally = self.tally
        sums, notes, voted = self.rows.sums, self.rows.notes, self.rows.voted
        known = vec[i32]() if history is None else history.counts
        known_rows = self._units.known_rows
        remembers = history is not None
        live: i64 = self.live
        moved = self._moved
        stable: i64 = 0
        stable_n: i64 = 0
        stable_e: i64 = 0
        canary: i64 = 0
        canary_n: i64 = 0
        canary_e: i64 = 0
        good: i64 = 0
        good_n: i64 = 0
        good_e: i64 = 0
        for row, bad in zip(trials.rows, trials.marks):  # noqa: B905 (quick where compiled)
            found: int = notes[row]
            note: i64 = found
            if not note & MET:
                note = self._meet(row, note, bad)
            elif bad:
                found = voted[row]
                if found & live != live:
                    self.look_up(self.rounds, row, class_of(note), note & CANARY, 1)
            both: i64 = sums[row]
            n: i64 = both & TRIALS
            if bad or note & CLASS_MASK:
                sums[row] = both + 1 + ONE_EVENT * bad
                tally.add(class_of(note) << 1 | note & CANARY, n, both >> EVENTS_SHIFT, bad)
            else:
                sums[row] = both + 1
                if note & CANARY:
                    canary += 1
                    canary_n += n
                    canary_e += both >> EVENTS_SHIFT
                else:
                    stable += 1
                    stable_n += n
                    if both != n:
                        stable_e += both >> EVENTS_SHIFT
            if not note & MOVED and (bad or n < 32 or not n + 1 & step_of(n)):
                found = note | MOVED
                notes[row] = found
                moved.append(row)
            if remembers and not note & CANARY:
                at: int = known_rows[row]
                count: int = known[at]
                counted: i64 = count
                before = counted & MOST
                if before == MOST:
                    continue
                if bad and history is not None:
                    history.learn_bad(at)
                    continue
                known[at] = count + 1
                good += 1
                good_n += before
                if before != counted:
                    good_e += counted >> OF_EVENTS & MOST
        tally.add_good(0, stable, stable_n, stable_e)
        tally.add_good(1, canary, canary_n, canary_e)
        if history is not None:
            history.learn_good(good, good_n, good_e)
        if len(moved) >= _MOST_MOVED:
            self.follow()

    def follow(self) -> None:
        """Let the looks know the cells of the units that have moved: before a look, and now and then."""
        looks, rows = self.rounds[0].looks, self.rows
        if looks is None:
            return
        sums, notes, cells = rows.sums, rows.notes, rows.cells
        left: tuple[list[int], list[int]] = ([], [])
        joined: tuple[list[int], list[int]] = ([], [])
        row: i64
        for row in self._moved:
            found: int = notes[row]
            notes[row] = found & ~MOVED
            canary = found & CANARY
            n: i64 = sums[row]
            now: int = cell_of(class_of(found), n & TRIALS, n >> EVENTS_SHIFT)
            before: int = cells[row]
            if now != before:
                cells[row] = now
                joined[canary].append(now << ROW_BITS | row)
                if before:
                    left[canary].append(before << ROW_BITS | row)
        self._moved.clear()
        for side in (0, 1):
            looks.cells.move(left[side], joined[side], canary=side == 1)

    def _meet(self, row: int, note: int, bad: int) -> int:
        """Look up a unit that a round has not met; return its note."""
        rows = self.rows
        if not rows.tried[row] & 1:
            canary = self._units.positions[row] < self._lottery.limit
            self.tally.users[canary] += 1
            at: int = self._units.known_rows[row]
            note = self.expected.class_of(at) << CLASS_SHIFT | canary
            self.newcomers.append(row)
        self.look_up(self.rounds, row, class_of(note), note & CANARY, bad)
        note |= MET
        rows.notes[row] = note
        return note

    def _count_firsts(self, trials: Trials) -> None:
        """Count trials without units: for a test without looks."""
        tally = self.tally
        tried, voted, positions = self.rows.tried, self.rows.voted, self._units.positions
        live: i64 = self.live
        limit: i64 = self._lottery.limit
        stable: i64 = 0
        canary: i64 = 0
        for row, bad in zip(trials.rows, trials.marks):  # noqa: B905 (quick where compiled)
            position: int = positions[row]
            at: i64 = 1 if position < limit else 0
            seen: int = tried[row]
            if seen & live != live:
                if not seen & 1:
                    tally.users[at] += 1
                self.look_up(self.rounds, row, 0, at, bad)
            elif bad:
                seen = voted[row]
                if seen & live != live:
                    self.look_up(self.rounds, row, 0, at, 1)
            if at:
                canary += 1
            else:
                stable += 1
            if bad:
                tally.add_event(at)
        tally.add_trials(0, stable)
        tally.add_trials(1, canary)

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
