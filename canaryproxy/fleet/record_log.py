"""One log of records for a fleet: replicas write what they saw, and all of them read the same samples. Pure.

Theory of operation
-------------------

Each replica appends the records of its last tick as one entry to a log in the store (``Outbox``). The
script that appends closes a *tick* when the last one was closed 90 ms ago or more: the closing entry and
those before it are one sample, in the order of the log, at the time of the server. So split, records, their
order and the time of each sample are the same at every reader (``LogReader``): replicas that have read the
same log hold the same evidence, and together they are one judge with one α. A unit is a position of the
hash, the same at all replicas, so a user votes once however many replicas serve it.

**The order is blind to variants.** Under the judge's null hypothesis (the version changes nothing that a
user meets), what a replica sees, when it settles, and when it is exchanged are functions of the users'
histories and not of the sides that the hash gave them. So is the order of the log.

**Losses cost power, not validity.** Entries are missing because Redis was away or has trimmed them; records
are left out because there were too many. Neither looks at variants: what is left is again a sequence that
does not depend on the draw, of units that are drawn as before, and the judge's bets need no more than that.

**Thinning is by record, not by unit.** Over the budget a replica keeps every m-th record. To keep some
units only, those with ``position % m < k``, is blind as well, but changes the draw: the units that are left
lie on k/m of the positions, and a bet that counts all positions as not yet looked up has a wrong
probability and is no martingale. It is also weaker: a tenth of the records shows more of the users who
failed than a tenth of the users does. Early and final records of a request hold different trials, so each
trial is kept with the same chance.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite
from struct import Struct, error, unpack_from
from sys import byteorder
from typing import Any, Final

from canaryproxy.judging.verdict import Sample
from canaryproxy.measure.records import LONGEST_NAME, POSITION_MASK, WORDS, template_of
from canaryproxy.measure.routing import BUCKETS, POSITIONS

RATE: Final = 4_000.0
"""Records a second that the replicas of a fleet may write together; beyond it they are thinned."""
_ENTRIES: Final = 500.0
"""Entries with records a second that the replicas of a fleet may write together."""
_MOST: Final = 40_000
"""Records that wait for the store at most."""
_NAMED_FOR: Final = 10.0
"""Seconds after which the name of a template in use is written again, for readers that join."""
_NAMES: Final = 4096
_NAMES_EACH: Final = 64
"""Names in an entry at most."""

_FORMAT: Final = 1
_LOST: Final = 1
_HEAD: Final = Struct("<BBBBHHI")
"""Format, flags, epoch, group; limit, one record of how many is kept, number of records."""
_NAME: Final = Struct("<IB")


@dataclass(frozen=True, slots=True)
class Entry:
    """The records of one replica's tick."""

    limit: int
    """Buckets on the canary when they were written."""
    epoch: int
    """The split by which the replica routed then."""
    records: Sequence[int] = ()
    """Three words for each (``measure.records``)."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of some of their route templates."""
    thinned: int = 1
    """One record of how many was kept."""
    lost: bool = False
    """Whether the replica lost records before it could write them."""
    group: int = 0
    """The users that are compared: 0 are all of them, n those of the n-th cohort of the plan."""

    def pack(self) -> bytes:
        """Return it as bytes."""
        words = array("Q", self.records)
        if byteorder == "big":
            words.byteswap()
        head = _HEAD.pack(
            *(_FORMAT, _LOST if self.lost else 0, self.epoch, self.group),
            *(self.limit, self.thinned, len(words) // WORDS),
        )
        parts = [head, words.tobytes()]
        for template, name in self.names.items():
            text = name.encode("ascii")
            parts += (_NAME.pack(template, len(text)), text)
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Entry:
        """Return the entry whose ``pack`` this was. Raises ``ValueError`` for anything else."""
        try:
            form, flags, epoch, group, limit, thinned, count = _HEAD.unpack_from(data)
            if form != _FORMAT or limit > BUCKETS or not thinned:
                raise ValueError("not an entry of this format")
            records = unpack_from(f"<{count * WORDS}Q", data, _HEAD.size)
        except error as wrong:
            raise ValueError(str(wrong)) from None
        if any(word & POSITION_MASK >= POSITIONS for word in records[::WORDS]):
            raise ValueError("a position beyond the last one")
        names = dict(_names(data, _HEAD.size + count * WORDS * 8))
        return cls(limit, epoch, records, names, thinned, bool(flags & _LOST), group)


def _names(data: bytes, at: int) -> Iterator[tuple[int, str]]:
    """Return the names from byte ``at`` to the end. Raises ``ValueError`` or ``struct.error``."""
    while at < len(data):
        if len(data) < at + _NAME.size:
            raise ValueError("half a name")
        template, length = _NAME.unpack_from(data, at)
        at += _NAME.size
        name = data[at : at + length]
        at += length
        if len(name) != length or length > LONGEST_NAME or template_of(name) != template:
            raise ValueError("not a name of its template")
        text = name.decode("ascii")
        if not text.isprintable():
            raise ValueError("a name that cannot be printed")
        yield template, text


class Outbox:
    """The records of a replica that wait for the store."""

    def __init__(self, rate: float = RATE) -> None:
        self._rate = rate
        self._split = (0, 0)
        self._group = 0
        self._words = array("Q")
        self._lost = False
        self._taken: float | None = None
        self._names: dict[int, str] = {}
        self._named: dict[int, float] = {}
        """When the name of a template was written last."""

    def add(self, sample: Sample, group: int = 0) -> None:
        """Take the records of a tick; those of a split before are dropped, for no lottery has them.

        ``group``: the users that they compare (``Entry.group``).
        """
        split = (sample.limit, sample.epoch)
        if (split, group) != (self._split, self._group):
            self._split, self._group = split, group
            self._words = array("Q")
        for template, name in sample.names.items():
            if len(self._names) >= _NAMES:
                self._forget(next(iter(self._names)))
            self._names[template] = name
        self._words.extend(sample.records)
        self._lost = self._lost or sample.lost
        if len(self._words) > _MOST * WORDS:
            self._words = _thin(self._words, 2)
            self._lost = True

    def _forget(self, template: int) -> None:
        del self._names[template]
        self._named.pop(template, None)

    def take(self, now: float, limit: int, replicas: int, group: int = 0) -> Entry | None:
        """Return what is to be written now, and forget it: what the store does not take is lost.

        ``now`` in seconds on a clock that does not fall; ``limit`` and ``group`` are in force now (``None``
        is returned if no tick has seen them yet); ``replicas`` share the budget.
        """
        share = max(replicas, 1)
        since = 1.0 if self._taken is None else min(max(now - self._taken, 0.0), 1.0)
        is_seen = (limit, group) == (self._split[0], self._group)
        if since < min(share / _ENTRIES, 1.0) and is_seen:
            return Entry(*self._split, group=group)  # the records wait for more
        self._taken = now
        budget = max(self._rate / share * since, 1.0)
        thinned = min(max(ceil(len(self._words) / WORDS / budget), 1), 0xFFFF)
        words = _thin(self._words, thinned)
        lost, self._words, self._lost = self._lost, array("Q"), False
        if not is_seen:
            return None
        return Entry(*self._split, words, self._to_name(now, words), thinned, lost, group)

    def _to_name(self, now: float, words: Sequence[int]) -> dict[int, str]:
        """Return the names of the templates of some records that were not written lately."""
        found: dict[int, str] = {}
        for template in {word & 0xFFFFFFFF for word in words[1::WORDS]}:
            name = self._names.get(template)
            last = self._named.get(template)
            if name is None or (last is not None and now - last < _NAMED_FOR):
                continue
            if len(found) == _NAMES_EACH:
                break
            self._named[template] = now
            if name.isascii() and template_of(name.encode()) == template:
                found[template] = name
        return found


def _thin(words: array[int], every: int) -> array[int]:
    """Return one record of ``every``."""
    if every == 1:
        return words
    step = every * WORDS
    thinned = array("Q", bytes(8 * WORDS * ceil(len(words) / step)))
    for at in range(WORDS):
        thinned[at::WORDS] = words[at::step]
    return thinned


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as the store has it."""

    id: str
    """Its id in the log; ids grow."""
    tick: int
    """Number of the last tick that was closed when it was written; by it, if the number is new. -1: none."""
    at: float
    """When that tick was closed, in seconds since the epoch by the server's clock."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """The records of a fleet in a tick: the same at every replica."""

    time: float
    """Seconds since the epoch by the server's clock; never falls."""
    limit: int
    epoch: int
    records: list[int]
    names: Mapping[int, str]
    lost: bool
    group: int = 0
    """``Entry.group``."""


BEGINNING: Final = "0-0"
"""The id before the first entry."""


class LogReader:
    """Reads the log of a round of evidence, entry by entry."""

    def __init__(self) -> None:
        self.cursor = BEGINNING
        """Id of the last entry that was read."""
        self.has_gap = False
        """Whether entries were missed that other replicas may have read."""
        self._tick: int | None = None
        self._time = 0.0
        self._split: tuple[int, int] | None = None
        self._group = 0
        self._records: list[int] = []
        self._names: dict[int, str] = {}
        self._lost = False
        self._closed_at = BEGINNING

    def take(self, now: float, entries: Sequence[StoredEntry]) -> list[Tick]:
        """Return the ticks that these entries close. ``now``: the server's clock."""
        if not entries and int(self.cursor.partition("-")[0]) / 1000 > now + 1.0:
            self.cursor = BEGINNING  # another server, or its clock was set back: ids begin again
            self.has_gap = True
        return [tick for entry in entries if (tick := self._read(now, entry)) is not None]

    def _read(self, now: float, entry: StoredEntry) -> Tick | None:
        self.cursor = entry.id
        try:
            found = Entry.unpack(entry.data)
        except ValueError:
            self._lost = True
        else:
            self._add(found)
        last = self._tick
        if entry.tick in (last, -1):
            return None
        if last is not None and entry.tick != last + 1:
            self.has_gap = self._lost = True
        self._tick, self._closed_at = entry.tick, entry.id
        self._time = max(self._time, min(entry.at, now))
        if self._split is None:
            return None  # nothing that could be read yet
        limit, epoch = self._split
        told = self._records, self._names, self._lost
        tick = Tick(self._time, limit, epoch, *told, self._group)
        self._records, self._names, self._lost = [], {}, False
        return tick

    def _add(self, found: Entry) -> None:
        split = (found.limit, found.epoch)
        if (split, found.group) != (self._split, self._group):
            self._split, self._group = split, found.group
            self._records = []
        self._records.extend(found.records)
        self._names.update(found.names)
        self._lost = self._lost or found.lost

    def to_dict(self) -> dict[str, Any]:
        """Return where the last closed tick ends, as JSON values: what was read since is read again."""
        return {"cursor": self._closed_at, "tick": self._tick, "time": self._time}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LogReader:
        """Return a reader that goes on from a state. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        reader = cls()
        first, _, second = str(state["cursor"]).partition("-")
        reader.cursor = reader._closed_at = f"{int(first)}-{int(second)}"
        reader._tick = None if state["tick"] is None else int(state["tick"])
        reader._time = float(state["time"])
        if not isfinite(reader._time) or int(first) < 0 or int(second) < 0:
            raise ValueError("not a place in a log")
        return reader
