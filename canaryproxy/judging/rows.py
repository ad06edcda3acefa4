"""Arrays of a test by unit: eleven bytes each, two for a test of first events and first trials alone."""

from __future__ import annotations

from typing import Final

from canaryproxy.judging.flat import has_cleared, i64, u8, vec
from canaryproxy.judging.growth import with_bytes, with_longs

CANARY: Final = 1
"""Note: the unit is the canary's."""
MET: Final = 2
"""Note: every round that takes bets has had the unit's first trial."""
CLASS_SHIFT: Final = 2
"""The bits of a note above are the class of the rate that is expected of the unit."""
ONE_CLASS: Final = 1 << CLASS_SHIFT
EVENTS_SHIFT: Final = 32
TRIALS: Final = (1 << EVENTS_SHIFT) - 1
"""The bits of a sum above are events, those below trials."""
ONE_EVENT: Final = 1 << EVENTS_SHIFT


class Rows:
    """By row: trials and events together (for looks), a note, and in which rounds it was looked up.

    ``tried`` and ``voted`` have a bit for each round in which the unit has had a trial and an event.
    """

    __slots__ = ("_has_sums", "notes", "sums", "tried", "voted")

    def __init__(self, sums: bool) -> None:
        self._has_sums = sums
        self.sums = vec[i64]()
        self.notes = vec[u8]()
        self.tried = vec[u8]()
        self.voted = vec[u8]()

    def grow(self, units: int) -> None:
        """Let there be rows for so many units, and some more."""
        more = units + units // 8 + 64 - len(self.tried)
        if self._has_sums:
            self.sums = with_longs(self.sums, more)
            self.notes = with_bytes(self.notes, more)
        self.tried = with_bytes(self.tried, more)
        self.voted = with_bytes(self.voted, more)

    def class_of(self, row: int) -> int:
        """Return the class of a unit that has had a trial."""
        return self.notes[row] >> CLASS_SHIFT if self._has_sums else 0

    def open(self, bit: int) -> None:
        """A round begins at this bit: forget who was looked up in an earlier one."""
        _clear(self.tried, bit)
        _clear(self.voted, bit)
        _clear(self.notes, MET)


def _clear(values: vec[u8], bit: int) -> None:
    """Clear a bit in every element."""
    if has_cleared(values, bit):
        return
    for row in range(len(values)):
        value: int = values[row]
        values[row] = value & ~bit
