"""Records: what the data path tells the judge of each randomised request that settles.

A worker writes three 64-bit words for each record into a ring in shared memory, ten times a second all that
it has collected, and the control plane reads the rings as often. One writer, one reader, no lock. A record
says what happened; the judge decides what it means.

==========  ==================================================================================================
word        bits, from the lowest
==========  ==================================================================================================
0           position 21, variant 1, epoch 8, status 10, content type 8, flags 16
1           route template 32, outcomes that are trials 16, outcomes that are events 16
2           microseconds to the first byte 32, bytes of the body 32
==========  ==================================================================================================

A ring holds a second of a worker's 30,000 requests. What does not fit, because the reader is late, is dropped
by the writer and counted: which records those are depends on the traffic and never on variants, so that the
lottery stays fair. When the reader has read everything, the writer begins again at the front, so that the
memory of a quiet service is that of its fullest tick and not of the whole ring.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Final

from mmh3 import mmh3_32_uintdigest

from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.flat import append, i64, vec

WORDS: Final = 3
"""Words of a record."""
RECORDS: Final = 32_768
"""Records that a ring holds."""
_CELL: Final = 8
_SHORT: Final = (1 << 62) - 1
"""Words up to this one are compared without an object where this is compiled."""
_WRAP: Final = 1 << 64

VARIANT_SHIFT: Final = 21
EPOCH_SHIFT: Final = 22
STATUS_SHIFT: Final = 30
TYPE_SHIFT: Final = 40
FLAGS_SHIFT: Final = 48
SIZE_SHIFT: Final = 32
POSITION_MASK: Final = (1 << 21) - 1
TEMPLATE_MASK: Final = (1 << 32) - 1
"""Bits of a second word that are the hash of its route template."""

ENDED: Final = 1
"""The request has ended. Without it the record is an early one of a request in flight, and its flags are the
limits that the request has just passed: each passes each limit in at most one early record."""
FAILED: Final = 2
"""It failed as ``judge.metrics.errors`` defines it, or the upstream broke it, or stable had to rescue it."""
LATE: Final = 4
"""In flight it passed the published limit of the time to the first byte, and an early record said so."""
STALLED: Final = 8
"""The same for the time to the last byte."""
CLIENT_GONE: Final = 16
"""The client closed before the response was complete."""
ABANDONED: Final = 32
"""The client closed before the first byte, after it had waited longer than the limit: the variant's fault."""
BODILESS: Final = 64
"""The response has no body by rule: HEAD, 204, 304."""
TUNNEL: Final = 128
"""A tunnel or an event stream, which has no end of its own. Its record comes when it ends."""
BROKEN: Final = 256
"""The upstream broke the response off. A tunnel or stream: it ended it abnormally, or within ``SHORT_TUNNEL``
seconds."""
UNREACHED: Final = 512
"""No attempt got a connection to an upstream, nor waited for one because all were in use."""
RESCUED: Final = 1024
"""Stable answered in the canary's place."""
POSTED: Final = 2048
"""No request: a business event that a service posted for the user at this position. The other words are 0."""
SPLIT: Final = 4096
"""No request: what an epoch of the requests that follow a front means (``measure.followed``)."""
OVERDUE: Final = 8192
"""In flight it passed ``rescue.after`` without a first byte, and an early record said so: on either side, if
it is a request that stable may answer in the canary's place, and whether stable does or not."""

EVENT_STREAM: Final = 1
"""The content type of ``text/event-stream``."""
NO_FIRST_BYTE: Final = (1 << 32) - 1
"""Microseconds of a request whose first byte never came."""
LARGEST: Final = (1 << 32) - 1
"""Bytes at which the size of a body saturates."""
FALLBACK_LATE: Final = 2.0
"""Seconds without a first byte after which a client that leaves was let down, unless the limit is shorter."""
SHORT_TUNNEL: Final = 5.0
"""Seconds that a tunnel or stream lives at least, unless its client ends it."""


_WRITTEN: Final = 0
_READ: Final = 1
_BEGAN: Final = 2
_DROPPED: Final = 3
_HEAD_CELLS: Final = 8


class RecordRing:
    """The ring of one worker over ``SIZE`` bytes of shared memory; written by the worker alone.

    The control plane alone calls ``free``. Records are numbered from 0 in the order of their writing.
    """

    SIZE: ClassVar[int] = (_HEAD_CELLS + RECORDS * WORDS) * _CELL

    __slots__ = ("_cells", "_head", "_packed", "listed")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        cells = memory.cast("B").cast("Q")
        self._head: memoryview[int] = cells[:_HEAD_CELLS]
        """Numbers of records: ever written; read (of the reader); the one at the front; dropped."""
        self._cells: memoryview[int] = cells[_HEAD_CELLS:]
        # What ``flush`` will write: to write each record by itself would cost three times as much.
        self.listed: list[int] | None = None if COMPILED else []
        """Words of pending records in plain Python, where a list takes them soonest."""
        self._packed: vec[i64] = vec[i64]()
        """Words of pending records where this is compiled, which needs no object for each then."""

    # The worker's side

    def write(self, first: int, second: int, third: int) -> None:
        """Write a record at once."""
        self.add(first, second, third)
        self.flush()

    @property
    def has_pending(self) -> bool:
        """Whether there are records that ``flush`` will write."""
        return len(self._packed) > 0 if self.listed is None else bool(self.listed)

    def add(self, first: int, second: int, third: int) -> None:
        """Keep a record until ``flush`` writes it."""
        listed = self.listed
        if listed is not None:
            listed.extend((first, second, third))
            return
        packed = append(self._packed, first if first <= _SHORT else _signed(first))
        packed = append(packed, second if second <= _SHORT else _signed(second))
        self._packed = append(packed, third if third <= _SHORT else _signed(third))

    def flush(self) -> None:
        """Write the pending records, as far as there is room. To be called ten times a second."""
        if not self.has_pending:
            return
        words = array("Q", self.listed or b"")
        if self.listed is None:
            words.frombytes(memoryview(self._packed).cast("B"))
            self._packed = vec[i64]()
        else:
            self.listed.clear()
        head, cells = self._head, self._cells
        written, read = head[_WRITTEN], head[_READ]
        if read == written:
            head[_BEGAN] = written
        room = (RECORDS - (written - read)) * WORDS
        if len(words) > room:
            head[_DROPPED] += (len(words) - room) // WORDS
            del words[room:]
        at = (written - head[_BEGAN]) % RECORDS * WORDS
        to_end = len(cells) - at
        cells[at : at + len(words)] = words[:to_end]
        cells[: max(len(words) - to_end, 0)] = words[to_end:]
        head[_WRITTEN] = written + len(words) // WORDS

    # The reader's side

    @property
    def written(self) -> int:
        """Number of records ever written, where a new reader begins."""
        return self._head[_WRITTEN]

    @property
    def read(self) -> int:
        """Number of the first record that was not read."""
        return self._head[_READ]

    @property
    def dropped(self) -> int:
        """Number of records for which there was no room."""
        return self._head[_DROPPED]

    def words(self, first: int, limit: int, every: int = 1) -> array[int]:
        """Return the words of every ``every``-th record from number ``first`` on, up to ``limit``.

        They must have been written, and not been freed.
        """
        if first >= limit:
            return array("Q")
        began = self._head[_BEGAN]
        start, end = (first - began) % RECORDS, (limit - 1 - began) % RECORDS + 1
        if start < end:
            return self._part(start, end, every)
        left_over = (start - RECORDS) % every  # of a stride that the end of the ring has cut
        return self._part(start, RECORDS, every) + self._part(left_over, end, every)

    def _part(self, start: int, end: int, every: int) -> array[int]:
        cells, words = self._cells[start * WORDS : end * WORDS], array("Q")
        if every == 1:
            words.frombytes(cells.cast("B"))
            return words
        words.frombytes(bytes(_CELL * WORDS * len(range(start, end, every))))
        for word in range(WORDS):
            words[word::WORDS] = array("Q", cells[word :: every * WORDS].tobytes())
        return words

    def free(self, limit: int) -> None:
        """Give the room of all records before number ``limit`` back to the writer; for the reader alone."""
        self._head[_READ] = limit


def _signed(word: int) -> int:
    """Return the signed number with the same 64 bits."""
    return word if word < _WRAP >> 1 else word - _WRAP


_NAMES: Final = 256
LONGEST_NAME: Final = 56
"""Bytes of the name of a route template; longer ones are cut before they are hashed."""
_NAME: Final = LONGEST_NAME


class NameRing:
    """The names of route templates that a worker has seen, by hash; ``write`` by the worker alone.

    A name that is lost because more than 256 came at once is written again when the worker forgets it.
    """

    SIZE: ClassVar[int] = _CELL + _NAMES * (_CELL + _NAME)

    __slots__ = ("_memory", "_written")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._written: memoryview[int] = memory[:_CELL].cast("B").cast("Q")
        self._memory = memory[_CELL:]

    def write(self, template: int, name: bytes) -> None:
        """Append a name: ASCII, at most ``LONGEST_NAME`` bytes, ``template_of(name) == template``."""
        written = self._written[0]
        at = written % _NAMES * (_CELL + _NAME)
        entry = template.to_bytes(_CELL, "little") + name[:_NAME].ljust(_NAME, b"\0")
        self._memory[at : at + _CELL + _NAME] = entry
        self._written[0] = written + 1

    def since(self, read: int) -> tuple[int, Mapping[int, str]]:
        """Return the number of names written, and those from number ``read`` on that are still there."""
        written = self._written[0]
        names: dict[int, str] = {}
        for number in range(max(read, written - _NAMES + 1, 0), written):
            at = number % _NAMES * (_CELL + _NAME)
            entry = bytes(self._memory[at : at + _CELL + _NAME])
            template = int.from_bytes(entry[:_CELL], "little")
            name = entry[_CELL:].rstrip(b"\0")
            if template == template_of(name):  # else it is being written
                names[template] = name.decode("ascii", "replace")
        return written, names


def template_of(name: bytes) -> int:
    """Return the 32-bit hash by which records name a route template."""
    return mmh3_32_uintdigest(name)


@lru_cache(maxsize=256)
def type_code(media_type: bytes) -> int:
    """Return the code (2..255) of a media type such as ``text/html``; 0 without one, or ``EVENT_STREAM``.

    Parameters such as a charset do not matter.
    """
    media_type = media_type.partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        return EVENT_STREAM
    return mmh3_32_uintdigest(media_type) % 254 + 2 if media_type else 0


def pack_first(
    position: int, variant: int, epoch: int, status: int, content_type: int, flags: int
) -> int:
    """Return the first word of a record."""
    return (
        position
        | variant << VARIANT_SHIFT
        | epoch << EPOCH_SHIFT
        | status << STATUS_SHIFT
        | content_type << TYPE_SHIFT
        | flags << FLAGS_SHIFT
    )


def pack_second(template: int, trials: int, events: int) -> int:
    """Return the second word of a record; outcomes are sets of slots as bits."""
    return template | trials << 32 | events << 48


def pack_third(first_byte: float | None, size: int) -> int:
    """Return the third word of a record; ``first_byte`` in seconds, ``None`` if it never came."""
    micros = NO_FIRST_BYTE
    if first_byte is not None:
        micros = min(int(first_byte * 1e6), NO_FIRST_BYTE - 1)
    return micros | min(size, LARGEST) << SIZE_SHIFT
