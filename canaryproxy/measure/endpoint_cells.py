"""Each endpoint's state and counts, per worker, in shared memory.

A worker notes what is to be counted in a list (``Endpoint.marks``), which costs a request one ``append``, and
adds it up in its slots ten times a second. A slot bears the identity of its endpoint, so a reload that adds
or removes endpoints mixes no counts up, and a worker that replaces a dead one goes on with its counts; what
was noted in its last tenth of a second is lost. It takes ``SLOT_BYTES`` an endpoint, variant, worker and side
of the block; memory that no endpoint uses is never touched. Endpoints beyond ``MOST_ENDPOINTS`` share a slot.
What a worker writes of an endpoint without requests, its identity and its state, stands apart from the counts
and beside that of the other variant's endpoints, so that it takes part of a page.

Attempts are counted, not requests: one that fails on an endpoint and is answered by another is a failure of
the first and a response of the second. An attempt whose client went away is not counted.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from random import getrandbits
from typing import Final, NamedTuple

from mmh3 import hash64

from canaryproxy.measure import histogram
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import VARIANTS

MOST_ENDPOINTS: Final = 256
"""Endpoints of a variant with a slot of their own."""

# Offsets of the counts.
FIRST_BYTE: Final = 0
"""Histogram of the time from the complete request to the first byte of the response."""
UNTIMED: Final = histogram.BUCKETS
"""Responses whose time is not the endpoint's alone: another one had failed before."""
FAILED: Final = UNTIMED + 1
"""Responses that are errors as the configuration defines them, and attempts without a complete one."""
CLASSES: Final = FAILED + 1
"""Responses by class, from 1xx to 5xx; 2xx stays 0 and is what the others leave."""
_CLASSES: Final = 5
ERRORS: Final = CLASSES + _CLASSES
"""Attempts that got no complete response, by ``Reason``."""
FAILED_KEYS: Final = ERRORS + len(Reason)
"""Failures by a hash of the sticky key, where the key chooses the endpoint: how many users fail."""
KEYS: Final = 64
SLOW_KEYS: Final = FAILED_KEYS + KEYS
"""In the same way, slow responses by the limit for the other endpoints (``slowness``)."""
_KEY_BITS: Final = 8
MANY_KEYS: Final = 1 << _KEY_BITS
"""More of them, as slow responses are common on all endpoints."""
FAR_KEYS: Final = SLOW_KEYS + MANY_KEYS
"""In the same way, slow responses by the limit for the endpoint itself."""
COUNTS: Final = FAR_KEYS + MANY_KEYS
"""Number of counts."""

OTHERS: Final = 1
"""Identity of all endpoints beyond ``MOST_ENDPOINTS``."""


def identity(url: str) -> int:
    """Return the number by which slots name an endpoint; never ``OTHERS`` or 0, which names none."""
    return hash64(url.encode(), signed=False)[0] | 2


def key_cell(key: bytes | None) -> int:
    """Return the cell (below ``MANY_KEYS``) of a sticky key; of a request without one, any."""
    return getrandbits(_KEY_BITS) if key is None else hash64(key, signed=False)[1] % MANY_KEYS


def class_of(status: int) -> int:
    """Return the count of a status' class."""
    return CLASSES + min(max(status // 100, 1), _CLASSES) - 1


@dataclass(frozen=True, slots=True)
class EndpointCounts:
    """The counts of one endpoint, in the order of the offsets."""

    cells: Sequence[int]

    @property
    def responses(self) -> int:
        """Complete responses."""
        return sum(self.cells[: UNTIMED + 1])

    @property
    def errors(self) -> int:
        """Attempts that got no complete response."""
        return sum(self.cells[ERRORS:FAILED_KEYS])

    @property
    def requests(self) -> int:
        """Attempts that ended."""
        return self.responses + self.errors

    @property
    def failed(self) -> int:
        """Attempts that failed, be it with a response or without."""
        return self.cells[FAILED]

    @property
    def classes(self) -> tuple[int, ...]:
        """Responses from 1xx to 5xx."""
        counted = list(self.cells[CLASSES : CLASSES + _CLASSES])
        counted[1] = max(self.responses - sum(counted), 0)
        return tuple(counted)

    @property
    def keys(self) -> Sequence[int]:
        """Failures by a hash of the sticky key."""
        return self.cells[FAILED_KEYS:SLOW_KEYS]

    @property
    def slow_keys(self) -> Sequence[int]:
        """Slow responses by a hash of the sticky key, by the limit for the other endpoints."""
        return self.cells[SLOW_KEYS:FAR_KEYS]

    @property
    def far_keys(self) -> Sequence[int]:
        """Slow responses by a hash of the sticky key, by the limit for the endpoint itself."""
        return self.cells[FAR_KEYS:]

    @property
    def times(self) -> Sequence[int]:
        """The histogram of the times to the first byte."""
        return self.cells[: histogram.BUCKETS]

    def error(self, reason: Reason) -> int:
        """Return the attempts that got no complete response for a reason."""
        return self.cells[ERRORS + reason]

    def quantile(self, q: float) -> float | None:
        """Return a quantile (``q`` in 0..1) of the time to the first byte in seconds."""
        return histogram.quantile(self.cells, q)

    def since(self, old: EndpointCounts | None) -> EndpointCounts:
        """Return what was counted after ``old``; counts that fell began again at 0."""
        if old is None:
            return self
        pairs = zip(self.cells, old.cells, strict=True)
        return EndpointCounts([new - was if new >= was else new for new, was in pairs])


_ZEROS: Final = (0,) * COUNTS
NONE: Final = EndpointCounts(_ZEROS)
"""No attempts."""


def total(counts: Sequence[EndpointCounts]) -> EndpointCounts:
    """Return the sum."""
    cells = counts[0].cells
    for one in counts[1:]:
        cells = list(map(add, cells, one.cells))
    return EndpointCounts(cells)


class LocalState(NamedTuple):
    """An endpoint as one worker sees it."""

    usable: bool
    """It takes connections, as far as this worker knows."""
    in_flight: int
    """Requests that it has not answered yet."""
    reason: int = 0
    """``Reason`` of the last failure."""
    errno: int = 0
    """Of the last failure, 0 if the system gave none."""
    starting: bool = False
    """It has come back and gets less than its share of the requests."""


class Entry(NamedTuple):
    """An endpoint, as it is given to ``EndpointCells.write``."""

    identity: int
    state: LocalState
    marks: list[int]
    """Offsets of the counts that grow by one."""


_ROW: Final = 1 + len(LocalState._fields)
"""Cells of an endpoint beside its counts: its identity, then its state."""
_NO_STATE: Final = (0,) * len(LocalState._fields)
_SLOTS: Final = MOST_ENDPOINTS + 1
_CELL: Final = 8
SLOT_BYTES: Final = (_ROW + COUNTS) * _CELL
"""Bytes of an endpoint."""


@dataclass(slots=True)
class _Slot:
    state: LocalState
    counts: list[int] | None
    """``None``: all are 0, as they are in memory."""


class EndpointCells:
    """The slots of one worker; ``write`` by the worker alone.

    ``rows`` and ``counted`` are memory of ``ROWS_SIZE`` and ``COUNTS_SIZE`` bytes, all zeros at first;
    ``None``: its own. The first has the number of slots in use by variant, then the rows of the first slot of
    each variant, of the second, and so on.
    """

    ROWS_SIZE: Final = len(VARIANTS) * (1 + _ROW * _SLOTS) * _CELL
    COUNTS_SIZE: Final = len(VARIANTS) * COUNTS * _SLOTS * _CELL

    __slots__ = ("_counts", "_numbers", "_rows", "_slots")

    def __init__(
        self,
        rows: bytearray | memoryview | None = None,
        counted: bytearray | memoryview | None = None,
    ) -> None:
        cells = _cells(rows, self.ROWS_SIZE)
        self._numbers = cells[: len(VARIANTS)]
        self._rows = cells[len(VARIANTS) :]
        self._counts = _cells(counted, self.COUNTS_SIZE)
        self._slots: list[dict[int, _Slot] | None] = [None] * len(VARIANTS)
        """The writer's copy of its slots, by identity and in order; ``None`` before the first ``write``."""

    def write(self, variant: int, entries: Sequence[Entry]) -> None:
        """Write the states of all endpoints of a variant, and count their marks, which are forgotten.

        Those that are not there any more are forgotten, too.
        """
        if len(entries) > MOST_ENDPOINTS:
            entries = [*entries[:MOST_ENDPOINTS], _folded(entries[MOST_ENDPOINTS:])]
        slots = self._slots[variant]
        if slots is None or list(slots) != [one.identity for one in entries]:
            slots = self._arrange(variant, entries)
        for number, one in enumerate(entries):
            slot = slots[one.identity]
            if one.state != slot.state:
                slot.state = one.state
                self._write_state(_row(variant, number), one.state)
            if one.marks:
                counts = slot.counts
                if counts is None:
                    counts = slot.counts = [0] * COUNTS
                at, cells = _counts_at(variant, number), self._counts
                for mark, times in Counter(one.marks).items():
                    counts[mark] = count = counts[mark] + times
                    cells[at + mark] = count
                one.marks.clear()

    def _arrange(self, variant: int, entries: Sequence[Entry]) -> dict[int, _Slot]:
        """Give each endpoint its slot; one that had a slot before keeps its counts."""
        known = self.counts(variant)
        rows, used = self._rows, self._used(variant)
        for number in range(used):
            rows[_row(variant, number)] = 0  # no reader takes the counts for another endpoint's
        slots: dict[int, _Slot] = {}
        for number, one in enumerate(entries):
            before = known.get(one.identity, NONE)
            counts = list(before.cells) if any(before.cells) else None
            slots[one.identity] = _Slot(one.state, counts)
            if number < used or counts is not None:
                self._write_counts(variant, number, before.cells)
            self._write_state(_row(variant, number), one.state)
            rows[_row(variant, number)] = one.identity
        for number in range(len(entries), used):  # memory beyond the slots in use is all zeros
            self._write_counts(variant, number, _ZEROS)
            self._write_state(_row(variant, number), _NO_STATE)
        self._numbers[variant] = len(entries)
        self._slots[variant] = slots
        return slots

    def _write_state(self, at: int, state: Sequence[int]) -> None:
        self._rows[at + 1 : at + _ROW] = memoryview(array("Q", state))

    def _write_counts(self, variant: int, number: int, counts: Sequence[int]) -> None:
        at = _counts_at(variant, number)
        self._counts[at : at + COUNTS] = memoryview(array("Q", counts))

    def states(self, variant: int, *, counted: bool = True) -> dict[int, tuple[LocalState, int]]:
        """Return state and attempts without a complete response, by identity.

        Without ``counted`` the worker has counted nothing yet, and the counts are not looked at.
        """
        return {
            identity: (
                self._state(_row(variant, number)),
                self._errors(variant, number) if counted else 0,
            )
            for number, identity in self._places(variant)
        }

    def counts(self, variant: int) -> dict[int, EndpointCounts]:
        """Return the counts, by identity."""
        cells = self._counts
        return {
            identity: EndpointCounts(cells[at : at + COUNTS].tolist())
            for number, identity in self._places(variant)
            for at in (_counts_at(variant, number),)
        }

    def _state(self, at: int) -> LocalState:
        usable, in_flight, reason, errno, starting = self._rows[at + 1 : at + _ROW]
        return LocalState(bool(usable), in_flight, reason, errno, bool(starting))

    def _errors(self, variant: int, number: int) -> int:
        at = _counts_at(variant, number)
        return sum(self._counts[at + ERRORS : at + FAILED_KEYS])

    def _used(self, variant: int) -> int:
        """Return the number of slots in use."""
        return min(self._numbers[variant], _SLOTS)

    def _places(self, variant: int) -> list[tuple[int, int]]:
        """Return the number of each slot that is in use, and its identity."""
        rows = self._rows
        return [
            (number, identity)
            for number in range(self._used(variant))
            if (identity := rows[_row(variant, number)])
        ]


def _cells(memory: bytearray | memoryview | None, size: int) -> memoryview[int]:
    return memoryview(bytearray(size) if memory is None else memory)[:size].cast("B").cast("Q")


def _row(variant: int, number: int) -> int:
    """Return where the row of a slot begins."""
    return (number * len(VARIANTS) + variant) * _ROW


def _counts_at(variant: int, number: int) -> int:
    """Return where the counts of a slot begin."""
    return (variant * _SLOTS + number) * COUNTS


def _folded(entries: Sequence[Entry]) -> Entry:
    """Return many endpoints as one: usable if all are; the reason is that of one that is not, if there is."""
    worst = min(entries, key=lambda one: one.state.usable).state
    marks = [mark for one in entries for mark in one.marks]
    for one in entries:
        one.marks.clear()
    in_flight = sum(one.state.in_flight for one in entries)
    return Entry(OTHERS, worst._replace(in_flight=in_flight), marks)
