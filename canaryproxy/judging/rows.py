"""Arrays of a test by unit: eleven bytes each, two for a test of first events and first trials alone."""

from __future__ import annotations

from array import array
from typing import Final

from canaryproxy.judging.history import grow

_WITHOUT: Final = [bytes(value & ~(1 << bit) for value in range(256)) for bit in range(8)]


class Rows:
    """By row: trials and events (for looks), class of expected rate, and in which rounds it was looked up.

    ``tried`` and ``voted`` have a bit for each round in which the unit has had a trial and an event.
    """

    __slots__ = ("_classes", "_sums", "classes", "e", "n", "tried", "voted")

    def __init__(self, sums: bool, classes: bool) -> None:
        self._sums = sums
        self._classes = classes
        self.n: array[int] = array("I")
        self.e: array[int] = array("I")
        self.classes = bytearray()
        self.tried = bytearray()
        self.voted = bytearray()

    def grow(self, row: int) -> None:
        """Let there be a row, and some more."""
        if self._sums:
            grow(self.n, row)
            grow(self.e, row)
        more = bytes(row + 1 + row // 8 + 64 - len(self.tried))
        if self._classes:
            self.classes += more
        self.tried += more
        self.voted += more

    def clear(self, bit: int) -> None:
        """Forget who was looked up in an earlier round at this bit."""
        without = _WITHOUT[bit.bit_length() - 1]
        self.tried = self.tried.translate(without)
        self.voted = self.voted.translate(without)
