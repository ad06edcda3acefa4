"""Counts the trials of a test, and bets on units at their first trial and at their first event in a round."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from canaryproxy.judging.batch import EVENTS_SHIFT, TRIALS, ByUnit, Trials
from canaryproxy.judging.cells import cell_of, step_of
from canaryproxy.judging.history import EVENTS_SHIFT as OF_EVENTS
from canaryproxy.judging.history import MOST, Expectation, History
from canaryproxy.judging.parts import whole
from canaryproxy.judging.rounds import Round
from canaryproxy.judging.rows import (
    CANARY,
    CLASS_MASK,
    CLASS_SHIFT,
    MET,
    MOVED,
    Rows,
    class_of,
)
from canaryproxy.judging.tally import Tally
from canaryproxy.judging.units import ROW_BITS, Lottery, Units, VirtualCanaries
from canaryproxy.measure.flat import i32, i64, vec

_MOST_MOVED: Final = 8192
"""Units that may have moved before the looks know: one that moves again meanwhile is moved once."""
_AT_ONCE: Final = 256
"""Units that are counted or moved before other work may come in between."""


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
        whole(self.take_in_parts(trials))

    def take_in_parts(self, trials: Trials) -> Generator[None]:
        """Do the same in parts (``judging.parts``)."""
        if len(self._units) > len(self.rows.tried):
            self.rows.grow(len(self._units))
        if not self._looks:
            self._count_firsts(trials)
            self.settle_virtual()
            return
        history = self.expected.begin(self._units.known)
        units = trials.by_unit(self._units.places())
        end = len(units.rows)
        for begin in range(0, end, _AT_ONCE):
            self._count(trials, history, begin, min(begin + _AT_ONCE, end))
            self.settle_virtual()
            yield
        self._vote(units)
        self.settle_virtual()
        self.expected.end()

    def _count(self, trials: Trials, history: History | None, begin: i64, end: i64) -> None:
        """Count the trials of units from one to before another, and those of stable in the history.

        Sums over units are the same in any order. Bets are made in order: on first trials, then on first
        events, which know nothing of each other. Nearly all units are of class 0, have only good trials and
        were met in every round: for them the work is all here.
        """
        tally = self.tally
        sums, notes = self.rows.sums, self.rows.notes
        known = vec[i32]() if history is None else history.counts
        known_rows = self._units.known_rows
        remembers = history is not None
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
        units = trials.by_unit(self._units.places())
        rows, all_added = units.rows, units.added
        for i in range(begin, end):
            row: i64 = rows[i]
            added: i64 = all_added[i]
            found: int = notes[row]
            note: i64 = found
            if not note & MET:
                note = self._meet(row, note, units.first[i])
            both: i64 = sums[row]
            sums[row] = both + added
            n: i64 = both & TRIALS
            count: i64 = added & TRIALS
            # Of these one after the other: the sum of the trials that the unit has had before each.
            pairs: i64 = count * (count - 1) >> 1
            if added != count or note & CLASS_MASK:
                tally.add(class_of(note) << 1 | note & CANARY, both, added)
            elif note & CANARY:
                canary += count
                canary_n += count * n + pairs
                canary_e += count * (both >> EVENTS_SHIFT)
            else:
                stable += count
                stable_n += count * n + pairs
                stable_e += count * (both >> EVENTS_SHIFT)
            if not note & MOVED and (added != count or n < 32 or n + count > n | step_of(n)):
                found = note | MOVED
                notes[row] = found
                moved.append(row)
            if remembers and not note & CANARY:
                at: int = known_rows[row]
                found = known[at]
                counted: i64 = found
                before: i64 = counted & MOST
                if before == MOST:  # it has all that are kept
                    continue
                if history is not None and (added != count or before + count > MOST):
                    self._remember(history, trials, row, added)
                    continue
                found = counted + count
                known[at] = found
                good += count
                good_n += count * before + pairs
                good_e += count * (counted >> OF_EVENTS & MOST)
        tally.add_good(0, stable, stable_n, stable_e)
        tally.add_good(1, canary, canary_n, canary_e)
        if history is not None:
            history.learn_good(good, good_n, good_e)

    def _remember(self, history: History, trials: Trials, row: int, added: int) -> None:
        """Add trials of a unit of stable to the history: only the first ones where it would have too many."""
        at: int = self._units.known_rows[row]
        number = added & TRIALS
        if history.of(at)[0] + number <= MOST:
            history.learn(at, number, added >> EVENTS_SHIFT)
            return
        for one, bad in zip(trials.rows, trials.marks):  # noqa: B905 (quick where compiled)
            if one == row and history.of(at)[0] < MOST:
                history.learn(at, 1, bad)

    def _vote(self, units: ByUnit) -> None:
        """Bet on units whose first event in a round this is."""
        notes, voted = self.rows.notes, self.rows.voted
        live: i64 = self.live
        for row in units.bad:
            found: int = voted[row]
            if found & live != live:
                note: int = notes[row]
                self.look_up_event(self.rounds, row, class_of(note), note & CANARY)

    @property
    def is_behind(self) -> bool:
        """Whether the looks must learn of units that have moved: a look is due, or they are too many."""
        first, moved = self.rounds[0], len(self._moved)
        if first.looks is None or not moved:
            return False
        return moved >= _MOST_MOVED or self.tally.total - first.total >= first.looks.next

    def follow(self) -> bool:
        """Let the looks know the cells of some units that have moved; return whether there are more."""
        looks, rows = self.rounds[0].looks, self.rows
        if looks is None:
            return False
        sums, notes, cells = rows.sums, rows.notes, rows.cells
        left: tuple[list[int], list[int]] = ([], [])
        joined: tuple[list[int], list[int]] = ([], [])
        row: i64
        for row in self._moved[:_AT_ONCE]:
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
        del self._moved[:_AT_ONCE]
        for side in (0, 1):
            looks.cells.move(left[side], joined[side], canary=side == 1)
        return len(self._moved) > 0

    def _meet(self, row: int, note: int, bad: int) -> int:
        """Look up a unit that a round has not met, by its first trial there; return its note."""
        rows = self.rows
        if not rows.tried[row] & 1:
            canary = self._units.positions[row] < self._lottery.limit
            self.tally.users[canary] += 1
            at: int = self._units.known_rows[row]
            note = self.expected.class_of(at) << CLASS_SHIFT | canary
            self.newcomers.append(row)
        self.look_up_trial(self.rounds, row, class_of(note), note & CANARY, bad)
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
                self.look_up_trial(self.rounds, row, 0, at, bad)
            if bad:
                seen = voted[row]
                if seen & live != live:
                    self.look_up_event(self.rounds, row, 0, at)
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

    def look_up_trial(
        self, rounds: list[Round], row: int, unit_class: int, canary: int, bad: int
    ) -> None:
        """Bet on a unit in the rounds in which this is its first trial."""
        tried = self.rows.tried
        for one in rounds:
            seen: int = tried[row]
            if not seen & one.bit:
                tried[row] = seen | one.bit
                one.first_trial(unit_class, canary, bad, row)

    def look_up_event(self, rounds: list[Round], row: int, unit_class: int, canary: int) -> None:
        """Bet on a unit in the rounds in which this is its first event."""
        voted = self.rows.voted
        for one in rounds:
            seen: int = voted[row]
            if not seen & one.bit:
                voted[row] = seen | one.bit
                one.first_event(unit_class, canary, row)

    def counts(self, row: int) -> tuple[int, int]:
        """Return trials and events of a unit; of a test with looks, as it is settled."""
        found: int = self.rows.sums[row]
        return found & TRIALS, found >> EVENTS_SHIFT
