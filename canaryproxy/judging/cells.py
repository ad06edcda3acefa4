"""Units counted by what a look needs to know of them: trials, events, class of expected rate."""

from __future__ import annotations

from math import log, sqrt
from typing import Final

from canaryproxy.judging.evidence import log_sum_exp
from canaryproxy.judging.look import best_tilt, log_mean, log_mean_independent
from canaryproxy.judging.tally import Tally
from canaryproxy.judging.units import ROW_BITS, Lottery, VirtualCanaries, unpacked
from canaryproxy.measure.flat import i64

FIRST_LOOK: Final = 8
LOOK_RATIO: Final = 1.3
"""Looks when events of both sides together reach 8, then 1.3 times as many."""
NOTHING: Final = -1e9
"""Log evidence before the first look."""
LEVELS: Final = 16.0
"""Scores are rounded to this part of their standard deviation."""
_HIGHEST: Final = 1 << 20
_SHIFT: Final = 10
_BIN: Final = (1 << _SHIFT) - 1


def bin_of(count: int) -> int:
    """Return the bin of a count: exact below 32, then sixteen bins an octave."""
    shift = count.bit_length() - 5
    if shift <= 0:
        return count
    return (shift << 4) + (count >> shift)


_BINNED: Final = 1024
_BINS: Final = [bin_of(count) for count in range(_BINNED + 1)]


def cell_of(unit_class: i64, n: i64, e: i64) -> i64:
    """Return the cell of a unit with n trials, one at least, and e events.

    Trials are the lowest bits: units differ most by them, and the hash of an integer is the integer.
    """
    return (unit_class << _SHIFT | _bin_of(e)) << _SHIFT | _bin_of(n)


def _by_trials(one: tuple[int, int]) -> int:
    """Return where a cell with its number of units comes in the order of class, trials and events."""
    cell = one[0]
    unit_class, trials, events = cell >> 2 * _SHIFT, cell & _BIN, cell >> _SHIFT & _BIN
    return (unit_class << _SHIFT | trials) << _SHIFT | events


def _bin_of(count: i64) -> i64:
    return _BINS[count] if count < _BINNED else bin_of(count)


def step_of(n: i64) -> i64:
    """Return bits that are 0 in each count above ``n`` with which a bin begins; ``n`` is 32 or more."""
    if n < 64:
        return 1
    return 3 if n < 256 else 15


def middle_of(at: int) -> float:
    """Return the middle of a bin."""
    if at < 32:
        return float(at)
    shift = (at >> 4) - 1
    return float((at - (shift << 4)) << shift) + 0.5 * ((1 << shift) - 1)


def stake_of_look(number: int) -> float:
    """Return the stake of the look with this number, from 1 on; all together 1."""
    return 4.0 / ((number + 3) * (number + 4))


class Cells:
    """Numbers of units by cell: of all, of the canary's, of the virtual canaries' (packed).

    Scores cost as much as there are cells, whatever the number of units. Rounding counts to bins and scores
    to levels is a choice of the score.
    """

    __slots__ = ("_who", "all", "canary", "virtual")

    def __init__(self, who: VirtualCanaries | None) -> None:
        self.all: dict[int, int] = {}
        self.canary: dict[int, int] = {}
        self.virtual: dict[int, int] = {}
        self._who = who

    def move(self, left: list[int], joined: list[int], *, canary: bool) -> None:
        """Move units of one side, each given by the cell that it has left or joined and its row together.

        The units of the canary count as well as the canary's own.
        """
        for units, by in ((joined, 1), (left, -1)):
            if not units:
                continue
            if not canary and self._who is not None:
                numbers, fields = self._who.sums(units)
                for cell, number in numbers.items():
                    _add(self.all, cell, by * number)
                    _add(self.virtual, cell, fields[cell] if by > 0 else -fields[cell])
                continue
            for one in units:
                _add(self.all, one >> ROW_BITS, by)
                if canary:
                    _add(self.canary, one >> ROW_BITS, by)

    def levels(self, tally: Tally) -> tuple[float, dict[int, int]]:
        """Return the grid of scores, and each cell's score in steps of it; the grid is 0 without scores.

        Score: ``c (e - n p)``, with p what is expected of the unit, scaled so that scores sum to 0, and c
        the weight of n requests that are alike: ``1 / (1 + (n-1) r)``.
        """
        scaled = tally.scaled(tally.trials, tally.events)
        alike = tally.likeness(scaled)
        events = expected = 0.0
        rows: list[tuple[int, int, float, float]] = []
        for cell, count in sorted(self.all.items(), key=_by_trials):
            n = middle_of(cell & _BIN)
            weight = 1.0 / (1.0 + (n - 1.0) * alike)
            e = weight * middle_of(cell >> _SHIFT & _BIN)
            n *= weight * scaled[cell >> 2 * _SHIFT]
            events += count * e
            expected += count * n
            rows.append((cell, count, e, n))
        scale = events / expected if expected else 0.0
        units = 0
        squares = 0.0
        for _, count, e, n in rows:
            units += count
            squares += count * (e - scale * n) ** 2
        grid = sqrt(squares / units) / LEVELS if units else 0.0
        if grid <= 0.0:
            return 0.0, {}
        return grid, {cell: round((e - scale * n) / grid) for cell, _, e, n in rows}


def _add(cells: dict[int, int], cell: int, units: int) -> None:
    """Add units to a cell; one that has none left is dropped."""
    known = cells.get(cell)
    now = units if known is None else known + units
    if now:
        cells[cell] = now
    elif known is not None:
        del cells[cell]


class Looks:
    """The looks of one round: when the next is due, and the sum of e-values so far.

    ``aim``: log evidence at which the test trips, all stakes but that of the look taken off.
    """

    __slots__ = ("_aim", "_lottery", "_sign", "_who", "cells", "last", "log_e", "looks", "next")

    def __init__(
        self, lottery: Lottery, increase: bool, aim: float, who: VirtualCanaries | None
    ) -> None:
        self._lottery = lottery
        self._sign = 1 if increase else -1
        self._aim = aim
        self._who = who
        self.cells = Cells(who)
        self.log_e = NOTHING
        """Natural logarithm of the sum over looks, with their stakes."""
        self.last = NOTHING
        """The same of the last look alone."""
        self.looks = 0
        self.next = FIRST_LOOK

    @property
    def cost(self) -> int:
        """The work of a look, in records."""
        return 3 * len(self.cells.all)

    def look(self, tally: Tally, events: int) -> list[float]:
        """Look, at this number of events; return each virtual canary's log evidence with the look's stake."""
        self.looks += 1
        self.next = max(events + 1, int(self.next * LOOK_RATIO) + 1)
        log_stake = log(stake_of_look(self.looks))
        grid, by_cell = self.cells.levels(tally)
        if grid <= 0.0:
            return []
        sign = self._sign
        units: dict[int, int] = {}
        stable: dict[int, int] = {}
        total = 0
        for cell, level in by_cell.items():
            level *= sign
            count, ours = self.cells.all[cell], self.cells.canary.get(cell, 0)
            units[level] = units.get(level, 0) + count
            stable[level] = stable.get(level, 0) + count - ours
            total += level * ours
        levels = [grid * level for level in units]
        counts = list(units.values())
        canary, others = self._lottery.canary, self._lottery.stable
        aim = self._aim - log_stake
        tilt = best_tilt(levels, counts, canary / (canary + others), aim)
        value = tilt * grid * total - log_mean(levels, counts, tilt, canary, others)
        self.last = log_stake + value
        self.log_e = log_sum_exp([self.log_e, self.last])
        if self._who is None:
            return []
        levels = [grid * level for level in stable]
        counts = list(stable.values())
        share = self._who.share
        tilt = best_tilt(levels, counts, share, aim)
        mean = log_mean_independent(levels, counts, tilt, share)[0]
        return [log_stake + tilt * grid * sign * score - mean for score in self._virtual(by_cell)]

    def _virtual(self, by_cell: dict[int, int]) -> list[int]:
        """Return the sum of levels of each virtual canary."""
        assert self._who is not None
        sums = units = 0
        for cell, fields in self.cells.virtual.items():
            sums += (by_cell[cell] + _HIGHEST) * fields
            units += fields
        count = self._who.count
        return [
            total - _HIGHEST * number
            for total, number in zip(unpacked(sums, count), unpacked(units, count), strict=True)
        ]
