"""Arrays of a test by unit: fifteen bytes each, two for a test of first events and first trials alone."""

from __future__ import annotations

from typing import Final

from canaryproxy.judging.growth import with_bytes, with_ints, with_longs, without
from canaryproxy.measure.flat import i32, i64, u8, vec

CANARY: Final = 1
"""Note: the unit is the canary's."""
MET: Final = 2
"""Note: every round that takes bets has had the unit's first trial."""
CLASS_SHIFT: Final = 2
CLASS_MASK: Final = 31 << CLASS_SHIFT
"""The next five bits of a note are the class of the rate that is expected of the unit."""
MOVED: Final = 1 << 7
"""Note: the looks have to learn in which cell the unit is now."""


def class_of(note: i64) -> i64:
    """Return the class in a note."""
    return (note & CLASS_MASK) >> CLASS_SHIFT


class Rows:
    """By row: trials and events together and the cell (for looks), a note, and who was looked up in rounds.

    ``cells`` is what the looks know, 0 before they know anything.
    ``tried`` and ``voted`` have a bit for each round in which the unit has had a trial and an event.
    """

    __slots__ = ("_has_sums", "cells", "notes", "sums", "tried", "voted")

    def __init__(self, sums: bool) -> None:
        self._has_sums = sums
        self.sums = vec[i64]()
        self.cells = vec[i32]()
        self.notes = vec[u8]()
        self.tried = vec[u8]()
        self.voted = vec[u8]()

    def grow(self, units: int) -> None:
        """Let there be rows for so many units, and some more."""
        more = units + units // 8 + 64 - len(self.tried)
        if self._has_sums:
            self.sums = with_longs(self.sums, more)
            self.cells = with_ints(self.cells, more)
            self.notes = with_bytes(self.notes, more)
        self.tried = with_bytes(self.tried, more)
        self.voted = with_bytes(self.voted, more)

    def class_of(self, row: int) -> int:
        """Return the class of a unit that has had a trial."""
        if not self._has_sums:
            return 0
        note: int = self.notes[row]
        return class_of(note)

    def open(self, bit: int) -> None:
        """A round begins at this bit: forget who was looked up in an earlier one."""
        self.tried = without(self.tried, bit)
        self.voted = without(self.voted, bit)
        self.notes = without(self.notes, MET)
