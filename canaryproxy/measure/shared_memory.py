"""Memory shared by the controller and the workers: one block, a single writer for each part of it.

A block has a process part and a slot for each service:

===========  ==============  ===========================================================================
part         writer          content
===========  ==============  ===========================================================================
config       the controller  the text of the configuration in force and the slots of its services, under
                             a sequence number that is odd while it is written
addresses    the controller  the addresses that the names of endpoints stand for, likewise
worker i     worker i        its state, its counters that belong to no service, the slots that it uses
slot: table  the controller  the route table of a service, under a sequence number
slot: outs   the controller  the endpoints that it has taken out of service, likewise
slot,        worker i        the counters of a service, its endpoints (``endpoint_cells``), its records
worker i
===========  ==============  ===========================================================================

Slots are made when they are first used (``Memory.part``), as most of them never are. A slot whose service is
gone is given to another one only when no worker uses it (``Block.may_be_reused``), and cleared then. What is
read and written of a service without requests stands at the beginning of its slot, one page or two, and
nothing else is touched: the memory of a page is spent even if it is only read.

A reader never waits: while a part is being written, or if its writer died in the middle, the reader goes on
with the last value and tries again later. A new writer repairs what a dead one left half-written. This is a
seqlock with the sequence number and a checksum inside the data, too: if a processor shows stores of another
one out of order, number or checksum do not match, and no reader takes half a table.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from zlib import crc32

from canaryproxy.measure import counters
from canaryproxy.measure.counters import Counters
from canaryproxy.measure.endpoint_cells import EndpointCells
from canaryproxy.measure.records import NameRing, RecordRing
from canaryproxy.measure.resolved import Addresses
from canaryproxy.measure.routing import RouteTable

LARGEST_CONFIG: Final = 8 * 1024 * 1024
"""Maximum bytes of a configuration with its slots and the files of its TLS."""
LARGEST_ADDRESSES: Final = 1024 * 1024
"""Maximum bytes of the addresses of all names."""
MOST_SERVICES: Final = 1024
"""Maximum number of services, and of slots."""
LONGEST_SALT: Final = 1024
"""Maximum length of a salt in bytes."""

LONGEST_COHORTS: Final = 2048
"""Maximum bytes of the cohorts of a table."""

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

HELD: Final = 1
"""Flag of a slot: the worker uses it, for new requests or for those in flight."""
USED: Final = 2
"""Flag of a slot: the worker has counted something in it since it was cleared."""

_PART_ALIGNMENT: Final = 64 * 1024
"""A multiple of the size of a page, whatever the processor."""


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _checksum(data: bytes, sequence: int) -> int:
    """Return a checksum of data and number, as the header itself may be read half-written."""
    return crc32(data, sequence & 0xFFFFFFFF)


class _Versioned:
    """Bytes under a sequence number (a seqlock). One writer, any number of readers.

    ``front`` is memory of ``FRONT`` bytes for the number and the header; ``None``: that before the data.
    """

    __slots__ = ("_data", "_header", "sequence")

    FRONT = 64 + 16
    """Bytes before the data: the sequence number in a cache line of its own, and the header."""
    _HEADER_FORMAT = struct.Struct("=QII")
    """Sequence number, length, checksum of both number and data."""

    def __init__(self, memory: memoryview, front: memoryview | None = None) -> None:
        if front is None:
            front, memory = memory[: self.FRONT], memory[self.FRONT :]
        self.sequence: memoryview[int] = front[:_CELL].cast("Q")
        """One cell: odd while the bytes are written, 0 if they never were."""
        self._header = front[64 : self.FRONT]
        self._data = memory

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

    SIZE = _Versioned.FRONT + _TABLE.size + LONGEST_COHORTS

    __slots__ = ("_bytes", "sequence")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._bytes = _Versioned(memory)
        self.sequence = self._bytes.sequence
        """One cell that changes with every table: compare it before each request."""

    def publish(self, table: RouteTable, version: int = 0) -> None:
        """Route by this table from the next request on. Raises ``ValueError`` for one too long."""
        if len(table.salt) > LONGEST_SALT:
            raise ValueError(f"a salt has at most {LONGEST_SALT} bytes")
        cohorts = _packed_cohorts(table)
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
            + cohorts
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
        ) = _TABLE.unpack_from(data)  # fmt: skip
        cohorts, cohort = _unpacked_cohorts(data[_TABLE.size :])
        table = RouteTable(
            weight=weight,
            salt=salt[:length],
            circuit_open=circuit_open,
            new_sessions_only=new_sessions_only,
            late=late,
            stall_after=stall_after,
            slow=(slow_stable, slow_canary),
            cohorts=cohorts,
            cohort=cohort,
        )
        return sequence, table, version


def _packed_cohorts(table: RouteTable) -> bytes:
    """Return the cohorts of a table as bytes: none without any. Raises ``ValueError``."""
    if not table.cohorts:
        return b""
    data = json.dumps([table.cohort, table.cohorts]).encode()
    if len(data) > LONGEST_COHORTS:
        raise ValueError(f"the cohorts of a table have at most {LONGEST_COHORTS} bytes")
    return data


def _unpacked_cohorts(data: bytes) -> tuple[tuple[tuple[str, float], ...], str | None]:
    """Return ``RouteTable.cohorts`` and ``RouteTable.cohort`` as ``_packed_cohorts`` has packed them."""
    if not data:
        return (), None
    cohort, cohorts = json.loads(data)
    return tuple((name, percent) for name, percent in cohorts), cohort


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a service is in the block."""

    slot: int
    """Number of its slot, below ``MOST_SERVICES``."""
    outcomes: Mapping[str, int]
    """``counters.slots`` of its outcomes."""
    promoted: bool = False
    """The release before its own was promoted: stable runs what was the canary then."""


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration in force."""

    generation: int
    text: str
    services: Mapping[str, Placement]
    """By the names of ``Config.by_service``."""
    files: Mapping[str, bytes]
    """The files of its TLS, as they were when it was loaded."""


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
        services: Mapping[str, Placement],
        files: Mapping[str, bytes] | None = None,
    ) -> int:
        """Put a configuration in force; return its generation. Raises ``ValueError`` if it is too large."""
        held = {path: content.decode("latin-1") for path, content in (files or {}).items()}
        places = {
            name: (one.slot, dict(one.outcomes), one.promoted) for name, one in services.items()
        }
        data = json.dumps({"text": text, "services": places, "files": held}).encode()
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
        services = {name: Placement(*place) for name, place in found["services"].items()}
        return Configured(whole[0], found["text"], services, files)


class OutCell:
    """The endpoints that the control plane has taken out of service, in shared memory.

    Each worker reads them ten times a second. A worker that restarts finds them, and so does the control
    plane after a restart of its own; they name endpoints by identity, so a reload mixes nothing up. ``front``
    is memory of ``FRONT`` bytes, all that is read while no endpoint has ever been out; ``None``: that before
    the others.
    """

    MOST: Final = 16384
    """Endpoints that can be out at a time; any more stay in service."""
    FRONT = _Versioned.FRONT
    SIZE = FRONT + MOST * 2 * _CELL

    __slots__ = ("_bytes", "sequence")

    def __init__(
        self,
        buffer: bytearray | memoryview | None = None,
        front: bytearray | memoryview | None = None,
    ) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        self._bytes = _Versioned(memory, None if front is None else memoryview(front))
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


class Memory(Protocol):
    """Memory that is used in parts, each of which is made when it is first asked for."""

    def part(self, at: int, size: int) -> memoryview:
        """Return a part, all zeros at first; it lasts as long as it is used. ``at``: a multiple of 64 KiB."""

    def clear(self, at: int, size: int) -> None:
        """Make a part all zeros, and give its memory back."""


class PrivateMemory:
    """Memory of this process alone. Two blocks over the same one share it."""

    def __init__(self) -> None:
        self._parts: dict[int, bytearray] = {}

    def part(self, at: int, size: int) -> memoryview:
        """Return a part of so many bytes."""
        return memoryview(self._parts.setdefault(at, bytearray(size)))

    def clear(self, at: int, size: int) -> None:
        """Make a part all zeros."""
        self.part(at, size)[:] = bytes(size)


def _split(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """Return aligned parts of these sizes."""
    parts = []
    for size in sizes:
        parts.append(memory[:size])
        memory = memory[_aligned(size) :]
    return parts


class WorkerCells:
    """One worker's state and the counters that belong to none of its services."""

    _SIZES = (STATUS_CELLS * _CELL, counters.PROXY_SIZE, MOST_SERVICES)
    SIZE = sum(map(_aligned, _SIZES))

    __slots__ = ("proxy", "slots", "status")

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        status, proxy, slots = _split(memory, self._SIZES)
        self.status: memoryview[int] = status.cast("Q")
        self.proxy: memoryview[int] = proxy.cast("Q")
        """``Counters.proxy`` of all its services."""
        self.slots: memoryview[int] = slots
        """By slot: ``HELD`` and ``USED``."""

    def clear(self) -> None:
        """Mark it as unused: when a worker ends, and before one begins. The counts stay."""
        for cell in (PID, DRAINING, CONFIGURED, HEARTBEAT, LINGER, TASKS):
            self.status[cell] = 0
        for slot in self.held():
            self.slots[slot] &= ~HELD

    def held(self) -> list[int]:
        """Return the slots that the worker uses."""
        return [slot for slot, flags in enumerate(bytes(self.slots)) if flags & HELD]


class ServiceCells:
    """One service in one worker: counters, endpoints, records. A worker that replaces a dead one goes on.

    ``worker`` is that worker; ``None``: one of its own. ``rows`` are those of ``EndpointCells``.
    """

    _SIZES = (counters.SIZE, RecordRing.SIZE, NameRing.SIZE, EndpointCells.COUNTS_SIZE)
    SIZE = sum(map(_aligned, _SIZES))

    __slots__ = ("counters", "endpoints", "names", "records", "slot", "worker")

    def __init__(
        self,
        buffer: bytearray | memoryview | None = None,
        worker: WorkerCells | None = None,
        slot: int = 0,
        rows: memoryview | None = None,
    ) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)[: self.SIZE]
        counted, records, names, endpoints = _split(memory, self._SIZES)
        self.worker = WorkerCells() if worker is None else worker
        self.slot = slot
        self.counters = Counters(counted, self.worker.proxy)
        self.records = RecordRing(records)
        self.names = NameRing(names)
        self.endpoints = EndpointCells(rows, endpoints)

    @property
    def is_used(self) -> bool:
        """Whether the worker has counted something here. If not, all is 0 and need not be read."""
        return self.worker.slots[self.slot] & USED != 0

    def hold(self) -> None:
        """Take the slot; for the worker alone."""
        self.worker.slots[self.slot] |= HELD

    def release(self) -> None:
        """Give the slot back: nothing is in flight, and nothing will be written here any more."""
        self.worker.slots[self.slot] &= ~HELD

    def mark_used(self) -> None:
        """Say that something will be counted here; for the worker alone."""
        self.worker.slots[self.slot] |= USED

    def settle(self) -> int:
        """Count a dead worker's in-flight requests as ``client_closed``; return how many that were."""
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
        return lost


class ServiceBlock:
    """The slot of one service: its table, the endpoints that are out, and its cells in each worker."""

    __slots__ = ("_cells", "_memory", "_rows", "_side", "_sides", "outs", "slot", "table")

    def __init__(
        self, memory: memoryview, slot: int, sides: Sequence[Sequence[WorkerCells]], side: int
    ) -> None:
        parts = _split(memory, self._sizes(len(sides[side])))
        table, front, self._rows, outs, self._memory = parts
        self.slot = slot
        self.table = TableCell(table)
        self.outs = OutCell(outs, front)
        self._sides = sides
        self._side = side
        self._cells: dict[tuple[int, int], ServiceCells] = {}

    @classmethod
    def size(cls, workers: int) -> int:
        """Return the bytes needed for so many workers on both sides."""
        whole = sum(map(_aligned, cls._sizes(workers)))
        return -(-whole // _PART_ALIGNMENT) * _PART_ALIGNMENT

    @classmethod
    def _sizes(cls, workers: int) -> tuple[int, ...]:
        cells = workers * Block.SIDES
        return (
            TableCell.SIZE,
            OutCell.FRONT,
            EndpointCells.ROWS_SIZE * cells,
            OutCell.SIZE,
            ServiceCells.SIZE * cells,
        )

    def worker(self, index: int) -> ServiceCells:
        """Return those of one worker of this side."""
        return self._of(self._side, index)

    @property
    def workers(self) -> tuple[ServiceCells, ...]:
        """Those of the workers of this side."""
        return self._of_side(self._side)

    @property
    def others(self) -> tuple[ServiceCells, ...]:
        """Those of the workers of the other side."""
        return self._of_side(1 - self._side)

    @property
    def all_workers(self) -> tuple[ServiceCells, ...]:
        """Those of this side, then those of the other."""
        return (*self.workers, *self.others)

    def _of_side(self, side: int) -> tuple[ServiceCells, ...]:
        return tuple(self._of(side, index) for index in range(len(self._sides[side])))

    def _of(self, side: int, index: int) -> ServiceCells:
        found = self._cells.get((side, index))
        if found is None:
            at = side * len(self._sides[side]) + index
            found = ServiceCells(
                self._memory[at * ServiceCells.SIZE :],
                self._sides[side][index],
                self.slot,
                self._rows[at * EndpointCells.ROWS_SIZE :],
            )
            self._cells[side, index] = found
        return found


class Block:
    """The whole block for so many workers, over ``memory`` (``None``: of this process alone).

    It has two sides, for a proxy and for its successor in a hot restart: both route by the same tables, and
    count apart until the first has drained. ``side`` (0 or 1) is this process's own.
    """

    SIDES = 2

    def __init__(self, workers: int, memory: Memory | None = None, side: int = 0) -> None:
        self._memory: Memory = PrivateMemory() if memory is None else memory
        sizes = self._sizes(workers)
        config, addresses, heartbeats, *cells = _split(
            self._memory.part(0, self._process_size(workers)), sizes
        )
        self.side = side
        self.config = ConfigCell(config)
        self.addresses = AddressCell(addresses)
        self.heartbeats: memoryview[int] = heartbeats.cast("Q")
        """By side: milliseconds of the monotonic clock at the last tick of its control plane; 0: none yet."""
        made = [WorkerCells(one) for one in cells]
        self._sides = (tuple(made[:workers]), tuple(made[workers:]))
        self.workers = self._sides[side]
        """The workers of this side."""
        self.others = self._sides[1 - side]
        self.all_workers = (*self.workers, *self.others)
        self._services: dict[int, ServiceBlock] = {}

    @classmethod
    def _sizes(cls, workers: int) -> tuple[int, ...]:
        of_workers = (WorkerCells.SIZE,) * (workers * cls.SIDES)
        return (ConfigCell.SIZE, AddressCell.SIZE, cls.SIDES * _CELL, *of_workers)

    @classmethod
    def _process_size(cls, workers: int) -> int:
        whole = sum(map(_aligned, cls._sizes(workers)))
        return -(-whole // _PART_ALIGNMENT) * _PART_ALIGNMENT

    @classmethod
    def size(cls, workers: int) -> int:
        """Return the bytes needed, those of all slots included."""
        return cls._process_size(workers) + MOST_SERVICES * ServiceBlock.size(workers)

    def service(self, slot: int) -> ServiceBlock:
        """Return a slot, which is made in memory when it is first used."""
        found = self._services.get(slot)
        if found is None:
            memory = self._memory.part(*self._place(slot))
            found = ServiceBlock(memory, slot, self._sides, self.side)
            self._services[slot] = found
        return found

    def forget(self, slot: int) -> None:
        """Let go of a slot: it is unmapped once nothing here refers to a part of it."""
        self._services.pop(slot, None)

    def may_be_reused(self, slot: int, generation: int) -> bool:
        """Tell whether a slot can be cleared and given to another service.

        No configuration since ``generation`` names it: that of the configuration that dropped its service.
        """
        return all(
            not worker.slots[slot] & HELD
            and (not worker.status[PID] or worker.status[CONFIGURED] >= generation)
            for worker in self.all_workers
        )

    def clear(self, slot: int) -> None:
        """Make an unused slot as good as new; a service that gets it counts from 0."""
        self.forget(slot)
        self._memory.clear(*self._place(slot))
        for worker in self.all_workers:
            worker.slots[slot] = 0

    def in_flight(self, worker: WorkerCells) -> int:
        """Return the requests that a worker has in flight, of all its services."""
        return sum(
            counters.in_flight(cells)
            for service in self._held(worker)
            for cells in service.counters.variants
        )

    def _held(self, worker: WorkerCells) -> Iterator[ServiceCells]:
        """Yield what a worker uses; slots that this process has no other use for are let go of again."""
        at = self.all_workers.index(worker)
        for slot in worker.held():
            known = slot in self._services
            yield self.service(slot).all_workers[at]
            if not known:
                self.forget(slot)

    def _place(self, slot: int) -> tuple[int, int]:
        if not 0 <= slot < MOST_SERVICES:
            raise ValueError(f"there are {MOST_SERVICES} slots")
        workers = len(self.workers)
        size = ServiceBlock.size(workers)
        return self._process_size(workers) + slot * size, size

    def settle_dead_worker(self, worker: WorkerCells) -> int:
        """Count a dead worker's in-flight requests as ``client_closed``: routed = finished + in flight.

        Returns how many requests that were. Only for a process that knows that the worker is dead.
        """
        lost = 0
        for cells in self._held(worker):
            lost += cells.settle()
        worker.proxy[counters.CONNECTIONS_CLOSED] = worker.proxy[counters.CONNECTIONS_OPENED]
        worker.clear()
        return lost
