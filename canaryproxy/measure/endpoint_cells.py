"""Each endpoint's state and counts, per worker, in shared memory.

A worker notes what is to be counted in a list (``Endpoint.marks``), which costs a request one ``append``, and
adds it up in its slots ten times a second. A slot bears the identity of its endpoint, so a reload that adds
or removes endpoints mixes no counts up, and a worker that replaces a dead one goes on with its counts; what
was noted in its last tenth of a second is lost. It takes ``SLOT_BYTES`` an endpoint, variant, worker and side
of the block; memory that no endpoint uses is never touched. Endpoints beyond ``MOST_ENDPOINTS`` share a slot.

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


_STATE: Final = len(LocalState._fields)
_COUNTS_AT: Final = 1 + _STATE
_SLOT: Final = _COUNTS_AT + COUNTS
_OF_VARIANT: Final = 1 + _SLOT * (MOST_ENDPOINTS + 1)
"""A cell with the number of slots in use, then the slots."""
_CELL: Final = 8
SLOT_BYTES: Final = _SLOT * _CELL
"""Bytes of an endpoint."""


@dataclass(slots=True)
class _Slot:
    state: LocalState
    counts: list[int] | None
    """``None``: all are 0, as they are in memory."""


class EndpointCells:
    """The slots of one worker; ``write`` by the worker alone."""

    SIZE: Final = _OF_VARIANT * len(VARIANTS) * _CELL

    __slots__ = ("_slots", "variants")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        cells = memory.cast("B").cast("Q")
        self.variants = tuple(
            cells[at * _OF_VARIANT : (at + 1) * _OF_VARIANT] for at in range(len(VARIANTS))
        )
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
        cells = self.variants[variant]
        at = 1
        for one in entries:
            slot = slots[one.identity]
            if one.state != slot.state:
                slot.state = one.state
                cells[at + 1 : at + _COUNTS_AT] = memoryview(array("Q", one.state))
            if one.marks:
                counts = slot.counts
                if counts is None:
                    counts = slot.counts = [0] * COUNTS
                for mark, times in Counter(one.marks).items():
                    counts[mark] = count = counts[mark] + times
                    cells[at + _COUNTS_AT + mark] = count
                one.marks.clear()
            at += _SLOT

    def _arrange(self, variant: int, entries: Sequence[Entry]) -> dict[int, _Slot]:
        """Give each endpoint its slot; one that had a slot before keeps its counts."""
        known = {key: list(found.cells) for key, found in self.counts(variant).items()}
        cells = self.variants[variant]
        used = min(cells[0], MOST_ENDPOINTS + 1)
        for at, _ in self._places(variant):
            cells[at] = 0  # no reader takes the counts for another endpoint's
        slots: dict[int, _Slot] = {}
        for number, one in enumerate(entries):
            slot = slots[one.identity] = _Slot(one.state, known.get(one.identity))
            at = 1 + number * _SLOT
            if slot.counts is None and number >= used:
                cells[at + 1 : at + _COUNTS_AT] = memoryview(array("Q", slot.state))
            else:
                counts = slot.counts or _ZEROS
                cells[at + 1 : at + _SLOT] = memoryview(array("Q", (*slot.state, *counts)))
            cells[at] = one.identity
        for number in range(len(entries), used):  # memory beyond the slots in use is all zeros
            at = 1 + number * _SLOT
            cells[at + 1 : at + _SLOT] = memoryview(array("Q", (0,) * (_SLOT - 1)))
        cells[0] = len(entries)
        self._slots[variant] = slots
        return slots

    def states(self, variant: int) -> dict[int, tuple[LocalState, int]]:
        """Return state and attempts without a complete response, by identity."""
        cells = self.variants[variant]
        return {
            identity: (
                _state(cells[at + 1 : at + _COUNTS_AT].tolist()),
                sum(cells[at + _COUNTS_AT + ERRORS : at + _COUNTS_AT + FAILED_KEYS]),
            )
            for at, identity in self._places(variant)
        }

    def counts(self, variant: int) -> dict[int, EndpointCounts]:
        """Return the counts, by identity."""
        cells = self.variants[variant]
        return {
            identity: EndpointCounts(cells[at + _COUNTS_AT : at + _SLOT].tolist())
            for at, identity in self._places(variant)
        }

    def _places(self, variant: int) -> list[tuple[int, int]]:
        """Return where each slot that is in use begins, and its identity."""
        cells = self.variants[variant]
        places = range(1, 1 + min(cells[0], MOST_ENDPOINTS + 1) * _SLOT, _SLOT)
        return [(at, found) for at in places if (found := cells[at])]


def _state(cells: Sequence[int]) -> LocalState:
    usable, in_flight, reason, errno, starting = cells
    return LocalState(bool(usable), in_flight, reason, errno, bool(starting))


def _folded(entries: Sequence[Entry]) -> Entry:
    """Return many endpoints as one: usable if all are; the reason is that of one that is not, if there is."""
    worst = min(entries, key=lambda one: one.state.usable).state
    marks = [mark for one in entries for mark in one.marks]
    for one in entries:
        one.marks.clear()
    in_flight = sum(one.state.in_flight for one in entries)
    return Entry(OTHERS, worst._replace(in_flight=in_flight), marks)
