"""Reads the records that the workers have written since the last tick.

The order is that of the workers, and of time within each: it does not depend on variants. Where a ring was
lapped, all that its worker wrote since the last tick is dropped; when a tick brings more records than the
judge can take, it takes every m-th of them. Neither looks at variants or at outcomes, so the draw stays fair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from canaryproxy.measure.records import WORDS, NameRing, RecordRing

MOST_RECORDS = 4_000
"""Records of a tick that the judge takes; about as many are left of more."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Records and names that the workers have written since the last tick."""

    records: Sequence[int] = ()
    """Three words for each."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of route templates by their hash."""
    lost: bool = False
    """Whether records of a worker were dropped."""


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
        self._rings = list(zip(rings, begin, strict=True))
        self._names = [(ring, 0) for ring in names]

    def drain(self) -> Drained:
        """Return what has been written since the last call."""
        records: list[int] = []
        lost = False
        for at, (ring, read) in enumerate(self._rings):
            written, words = ring.since(read)
            self._rings[at] = (ring, written)
            if words is None:
                lost = True
            else:
                records += words
        names: dict[int, str] = {}
        for at, (named, read) in enumerate(self._names):
            written, found = named.since(read)
            self._names[at] = (named, written)
            names.update(found)
        return Drained(thinned(records), names, lost)


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
