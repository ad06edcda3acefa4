"""Reads the records that the workers have written since the last tick.

The order is that of the workers, and of time within each: it does not depend on variants. When a tick brings
more records than the judge can take, it takes every m-th of them. A worker whose ring is full drops what
comes last. Neither looks at variants or at outcomes, so the draw stays fair.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from canaryproxy.measure.records import WORDS, NameRing, RecordRing

MOST_RECORDS = 4_000
"""Records of a tick that the judge takes; about as many are left of more."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Records and names that the workers have written since the last tick."""

    records: array[int] = field(default_factory=lambda: array("Q"))
    """Three words for each."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of route templates by their hash."""
    lost: bool = False
    """Whether workers had to drop records."""


@dataclass(slots=True)
class RecordCounts:
    """Numbers of records of requests since the reader began."""

    taken: int = 0
    """Read for the judge."""
    left_out: int = 0
    """Left out because a tick brought more than it takes."""
    dropped: int = 0
    """Dropped by workers whose rings were full: the control plane was late."""


class RecordReader:
    """The one reader of the rings of all workers; begins with what they write from now on.

    ``written`` says how many records each ring has, if that is known without a look at it.
    """

    def __init__(
        self,
        rings: Sequence[RecordRing],
        names: Sequence[NameRing],
        written: Sequence[int] | None = None,
    ) -> None:
        begin = [ring.written for ring in rings] if written is None else written
        self._rings = [
            (ring, at, ring.dropped if at else 0) for ring, at in zip(rings, begin, strict=True)
        ]
        """Each with where it began and how many it had dropped then."""
        self._names = [(ring, 0) for ring in names]
        self.counts = RecordCounts()

    @property
    def has_unread(self) -> bool:
        """Whether anything has been written since the last call of ``drain`` or ``skip``."""
        return any(ring.written != ring.read for ring, _, _ in self._rings)

    def drain(self) -> Drained:
        """Return what has been written since the last call."""
        parts = [_unread(ring, began) for ring, began, _ in self._rings]
        number = sum(limit - first for first, limit in parts)
        every = -(-number // MOST_RECORDS) or 1
        records = array("Q")
        before = 0
        for (ring, _, _), (first, limit) in zip(self._rings, parts, strict=True):
            records += ring.words(first + -before % every, limit, every)
            before += limit - first
            if ring.read != limit:
                ring.free(limit)
        dropped = sum(ring.dropped - already for ring, _, already in self._rings)
        counts, taken = self.counts, len(records) // WORDS
        lost = dropped > counts.dropped
        counts.taken += taken
        counts.left_out += number - taken
        counts.dropped = dropped
        names: dict[int, str] = {}
        for at, (named, read) in enumerate(self._names):
            written, found = named.since(read)
            self._names[at] = (named, written)
            names.update(found)
        return Drained(records, names, lost)

    def skip(self) -> None:
        """Free what has been written since the last call: nothing is to be judged."""
        for ring, _, _ in self._rings:
            if ring.read != (written := ring.written):
                ring.free(written)


def _unread(ring: RecordRing, began: int) -> tuple[int, int]:
    """Return the number of the first record to be read and of the first that is not yet written."""
    written = ring.written
    return min(max(began, ring.read), written), written


def thinned(records: list[int], most: int = MOST_RECORDS) -> list[int]:
    """Return every m-th record, for the least m that leaves ``most`` at most.

    Records and not units are left out: a test goes on counting the positions of units that are left out as
    ones that may still come, and its odds would be wrong.
    """
    number = len(records) // WORDS
    if number <= most:
        return records
    every = -(-number // most)
    return [
        word for at in range(0, len(records), WORDS * every) for word in records[at : at + WORDS]
    ]
