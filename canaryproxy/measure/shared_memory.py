"""Memory shared by the controller and the workers: one block, a single writer for each part of it.

=========  ==================  =========================================================================
part       writer              content
=========  ==================  =========================================================================
table      the controller      the route table, under a sequence number that is odd while it is written
config     the controller      the text of the configuration in force and the outcomes' slots, likewise
outs       the controller      the endpoints that it has taken out of service, likewise
addresses  the controller      the addresses that the names of endpoints stand for, likewise
worker i   worker i            its counters, its state, its endpoints (``endpoint_cells``), its records
=========  ==================  =========================================================================

A reader never waits: while a part is being written, or if its writer died in the middle, the reader goes on
with the last value and tries again later. A new writer repairs what a dead one left half-written. This is a
seqlock with the sequence number and a checksum inside the data, too: if a processor shows stores of another
one out of order, number or checksum do not match, and no reader takes half a table.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from canaryproxy.measure import counters
from canaryproxy.measure.counters import Counters
from canaryproxy.measure.endpoint_cells import EndpointCells
from canaryproxy.measure.records import NameRing, RecordRing
from canaryproxy.measure.resolved import Addresses
from canaryproxy.measure.routing import RouteTable

LARGEST_CONFIG: Final = 4 * 1024 * 1024
"""Maximum bytes of a configuration with its slots and the files of its TLS."""
LARGEST_ADDRESSES: Final = 1024 * 1024
"""Maximum bytes of the addresses of all names."""
LONGEST_SALT: Final = 1024
"""Maximum length of a salt in bytes."""

_TABLE: Final = struct.Struct(f"=dddBB??H{LONGEST_SALT}sQ")
_CELL: Final = 8

CHECK: Final = 1
"""Why an endpoint is out: it fails its health check."""
OUTLIER: Final = 2
"""Why an endpoint is out: its requests fail more, or are slower, than those of the others."""
_WHY_BITS: Final = 8
_WHY: Final = (1 << _WHY_BITS) - 1

# Cells of a worker beside its counters.
PID = 0
DRAINING = 1
CONFIGURED = 2
"""Generation of the configuration that the worker runs with."""
LOG_DROPPED = 3
HEARTBEAT = 4
"""Milliseconds of the monotonic clock at the last tick of its event loop."""
LINGER = 5
"""Set by another process before SIGTERM: idle connections may send one more request."""
TASKS = 6
"""Tasks of its event loop."""
STATUS_CELLS = 7


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _checksum(data: bytes, sequence: int) -> int:
    """Return a checksum of data and number, as the header itself may be read half-written."""
    return crc32(data, sequence & 0xFFFFFFFF)


class _Versioned:
    """Bytes under a sequence number (a seqlock). One writer, any number of readers."""

    __slots__ = ("_data", "_header", "sequence")

    FRONT = 64 + 16
    """Bytes before the data: the sequence number in a cache line of its own, and the header."""
    _HEADER_FORMAT = struct.Struct("=QII")
    """Sequence number, length, checksum of both number and data."""

    def __init__(self, memory: memoryview) -> None:
        self.sequence: memoryview[int] = memory[:_CELL].cast("Q")
        """One cell: odd while the bytes are written, 0 if they never were."""
        self._header = memory[64 : self.FRONT]
        self._data = memory[self.FRONT :]

    def write(self, data: bytes) -> int:
        """Replace the bytes; return the new sequence number."""
        began = self.sequence[0] | 1
        self.sequence[0] = began
        self._data[: len(data)] = data
        self._header[:] = self._HEADER_FORMAT.pack(began + 1, len(data), _checksum(data, began + 1))
        self.sequence[0] = began + 1
        return began + 1

    def read(self) -> tuple[int, bytes] | None:
        """Return sequence number and bytes; ``None`` while they are written, or if they never were."""
        sequence = self.sequence[0]
        written, length, checksum = self._HEADER_FORMAT.unpack(self._header)
        if sequence & 1 or not sequence or written != sequence or length > len(self._data):
            return None
        data = bytes(self._data[:length])
        return (sequence, data) if _checksum(data, sequence) == checksum else None


class TableCell:
    """The route table in shared memory. ``version`` is the controller's when it was published."""

    SIZE = _Versioned.FRONT + _TABLE.size

    __slots__ = ("_bytes", "sequence")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._bytes = _Versioned(memory)
        self.sequence = self._bytes.sequence
        """One cell that changes with every table: compare it before each request."""

    def publish(self, table: RouteTable, version: int = 0) -> None:
        """Route by this table from the next request on. Raises ``ValueError`` for a salt too long."""
        if len(table.salt) > LONGEST_SALT:
            raise ValueError(f"a salt has at most {LONGEST_SALT} bytes")
        self._bytes.write(
            _TABLE.pack(
                table.weight,
                table.late,
                table.stall_after,
                *table.slow,
                table.circuit_open,
                table.new_sessions_only,
                len(table.salt),
                table.salt,
                version,
            )
        )

    def read(self) -> tuple[int, RouteTable, int] | None:
        """Return sequence number, table and version; ``None`` if there is none to be read now."""
        found = self._bytes.read()
        if found is None:
            return None
        sequence, data = found
        (
            weight, late, stall_after, slow_stable, slow_canary, circuit_open, new_sessions_only, length,
            salt, version,
        ) = _TABLE.unpack(data)  # fmt: skip
        table = RouteTable(
            weight=weight,
            salt=salt[:length],
            circuit_open=circuit_open,
            new_sessions_only=new_sessions_only,
            late=late,
            stall_after=stall_after,
            slow=(slow_stable, slow_canary),
        )
        return sequence, table, version


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration in force."""

    generation: int
    text: str
    slots: Mapping[str, int]
    """``counters.slots`` of its outcomes."""
    files: Mapping[str, bytes]
    """The files of its TLS, as they were when it was loaded."""
    promoted: bool
    """The release before its own was promoted: stable runs what was the canary then."""


class ConfigCell:
    """The configuration in shared memory, for running workers and for their successors."""

    SIZE = _Versioned.FRONT + LARGEST_CONFIG

    __slots__ = ("_bytes", "sequence")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._bytes = _Versioned(memory)
        self.sequence = self._bytes.sequence
        """One cell that changes with every configuration."""

    def publish(
        self,
        text: str,
        slots: Mapping[str, int],
        files: Mapping[str, bytes] | None = None,
        *,
        promoted: bool = False,
    ) -> int:
        """Put a configuration in force; return its generation. Raises ``ValueError`` if it is too large."""
        held = {path: content.decode("latin-1") for path, content in (files or {}).items()}
        whole = {"text": text, "slots": dict(slots), "files": held, "promoted": promoted}
        data = json.dumps(whole).encode()
        if len(data) > LARGEST_CONFIG:
            raise ValueError(f"a configuration has at most {LARGEST_CONFIG} bytes")
        return self._bytes.write(data)

    def read(self) -> Configured | None:
        """Return the configuration in force; ``None`` if there is none to be read now."""
        whole = self._bytes.read()
        if whole is None:
            return None
        found = json.loads(whole[1])
        files = {path: content.encode("latin-1") for path, content in found["files"].items()}
        promoted = bool(found.get("promoted"))  # a proxy before this one may not have written it
        return Configured(whole[0], found["text"], found["slots"], files, promoted)


class OutCell:
    """The endpoints that the control plane has taken out of service, in shared memory.

    Each worker reads them ten times a second. A worker that restarts finds them, and so does the control
    plane after a restart of its own; they name endpoints by identity, so a reload mixes nothing up.
    """

    MOST: Final = 16384
    """Endpoints that can be out at a time; any more stay in service."""
    SIZE = _Versioned.FRONT + MOST * 2 * _CELL

    __slots__ = ("_bytes", "sequence")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._bytes = _Versioned(memory)
        self.sequence = self._bytes.sequence
        """One cell that changes with every ``publish``."""

    def publish(self, outs: Mapping[tuple[int, int], int]) -> None:
        """Replace them: by variant and identity, the bits of ``CHECK`` and ``OUTLIER``."""
        cells = array("Q")
        for (variant, identity), why in list(outs.items())[: self.MOST]:
            cells.extend((identity, variant << _WHY_BITS | why))
        self._bytes.write(cells.tobytes())

    def read(self) -> dict[tuple[int, int], int] | None:
        """Return what ``publish`` was given; ``None`` if there is nothing to be read now."""
        found = self._bytes.read()
        if found is None:
            return None
        cells = memoryview(found[1]).cast("Q").tolist()
        return {
            (word >> _WHY_BITS, identity): word & _WHY
            for identity, word in zip(cells[::2], cells[1::2], strict=True)
        }


class AddressCell:
    """The addresses behind the names of endpoints, in shared memory."""

    SIZE = _Versioned.FRONT + LARGEST_ADDRESSES

    __slots__ = ("_bytes", "sequence")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._bytes = _Versioned(memory)
        self.sequence = self._bytes.sequence
        """One cell that changes with every change of the addresses."""

    def publish(self, found: Addresses) -> None:
        """Make these the addresses. Raises ``ValueError`` if they are too many."""
        data = json.dumps(found).encode()
        if len(data) > LARGEST_ADDRESSES:
            raise ValueError(f"the addresses of all names have at most {LARGEST_ADDRESSES} bytes")
        self._bytes.write(data)

    def read(self) -> tuple[int, Addresses] | None:
        """Return sequence number and addresses; ``None`` if there is nothing to be read now."""
        whole = self._bytes.read()
        if whole is None:
            return None
        found = json.loads(whole[1])
        return whole[0], {
            name: tuple(tuple(place) for place in places) for name, places in found.items()
        }


class WorkerCells:
    """One worker's counters, state and records. A worker that replaces a dead one continues them."""

    _SIZES = (
        counters.SIZE,
        STATUS_CELLS * _CELL,
        RecordRing.SIZE,
        NameRing.SIZE,
        EndpointCells.SIZE,
    )
    SIZE = sum(map(_aligned, _SIZES))

    __slots__ = ("counters", "endpoints", "names", "records", "status")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        parts = []
        for size in self._SIZES:
            parts.append(memory[:size])
            memory = memory[_aligned(size) :]
        self.counters = Counters(parts[0])
        self.status: memoryview[int] = parts[1].cast("Q")
        self.records = RecordRing(parts[2])
        self.names = NameRing(parts[3])
        self.endpoints = EndpointCells(parts[4])

    def settle_dead_worker(self) -> int:
        """Count a dead worker's in-flight requests as ``client_closed``: routed = finished + in flight.

        Returns how many requests that were. Only for a process that knows that the worker is dead.
        """
        lost = 0
        for cells in self.counters.variants:
            # It may have died between counting a status and counting the request as finished.
            answered = sum(count for _, count in counters.codes(cells))
            gone = cells[counters.ROUTED] - answered - cells[counters.CLIENT_CLOSED]
            cells[counters.CLIENT_CLOSED] += gone
            cells[counters.FINISHED] = cells[counters.ROUTED]
            cells[counters.TUNNELS_CLOSED] = cells[counters.TUNNELS_OPENED]
            cells[counters.STREAMS_CLOSED] = cells[counters.STREAMS_OPENED]
            cells[counters.LEFT] = cells[counters.LEAVING]
            lost += gone
        proxy = self.counters.proxy
        proxy[counters.CONNECTIONS_CLOSED] = proxy[counters.CONNECTIONS_OPENED]
        self.clear()
        return lost

    def clear(self) -> None:
        """Mark the block as unused: when a worker ends, and before one begins."""
        for cell in (PID, DRAINING, CONFIGURED, HEARTBEAT, LINGER, TASKS):
            self.status[cell] = 0


class Block:
    """The whole block for so many workers, over ``buffer`` (at least ``Block.size(workers)`` bytes).

    It has two sides, for a proxy and for its successor in a hot restart: both route by one table, and count
    apart until the first has drained. ``side`` (0 or 1) is this process's own.
    """

    SIDES = 2

    def __init__(self, workers: int, buffer: Any = None, side: int = 0) -> None:
        memory = memoryview(bytearray(self.size(workers)) if buffer is None else buffer)
        at = 0

        def take(size: int) -> memoryview:
            nonlocal at
            part = memory[at : at + size]
            at += _aligned(size)
            return part

        self.side = side
        self.table = TableCell(take(TableCell.SIZE))
        self.config = ConfigCell(take(ConfigCell.SIZE))
        self.outs = OutCell(take(OutCell.SIZE))
        self.addresses = AddressCell(take(AddressCell.SIZE))
        self.heartbeats: memoryview[int] = take(self.SIDES * _CELL).cast("Q")
        """By side: milliseconds of the monotonic clock at the last tick of its control plane; 0: none yet."""
        sides = [
            tuple(WorkerCells(take(WorkerCells.SIZE)) for _ in range(workers))
            for _ in range(self.SIDES)
        ]
        self.workers = sides[side]
        """The workers of this side."""
        self.others = sides[1 - side]
        self.all_workers = (*self.workers, *self.others)

    @classmethod
    def size(cls, workers: int) -> int:
        """Return the bytes needed."""
        parts = (
            TableCell.SIZE,
            ConfigCell.SIZE,
            OutCell.SIZE,
            AddressCell.SIZE,
            cls.SIDES * _CELL,
            *(WorkerCells.SIZE,) * (workers * cls.SIDES),
        )
        return sum(map(_aligned, parts))
