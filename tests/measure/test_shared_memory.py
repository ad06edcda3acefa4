"""The shared block: one writer a part, readers that never wait and never see half of anything."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure import counters
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.endpoint_cells import MOST_ENDPOINTS, Entry, LocalState
from canaryproxy.measure.routing import CANARY, STABLE, RouteTable
from canaryproxy.measure.shared_memory import (
    Block,
    ConfigCell,
    Placement,
    PrivateMemory,
    TableCell,
)
from canaryproxy.measure.slowness import NEVER

tables = st.builds(
    RouteTable,
    weight=st.floats(0.0, 100.0),
    salt=st.binary(max_size=shared.LONGEST_SALT),
    circuit_open=st.booleans(),
    new_sessions_only=st.booleans(),
    late=st.floats(0, 100),
    stall_after=st.floats(0, 100),
    slow=st.tuples(st.integers(1, NEVER), st.integers(1, NEVER)),
)


@given(tables, st.integers(0, 2**64 - 1))
def test_a_table_is_read_as_it_was_published(table: RouteTable, version: int) -> None:
    cell = TableCell()
    assert cell.read() is None
    cell.publish(table, version)
    assert cell.read() == (2, table, version)
    assert cell.sequence[0] == 2
    cell.publish(table)
    assert cell.read() == (4, table, 0)


@given(
    st.text(max_size=2000),
    st.dictionaries(
        st.text(max_size=10),
        st.builds(
            Placement,
            st.integers(0, shared.MOST_SERVICES - 1),
            st.dictionaries(st.text(max_size=10), st.integers(0, 15)),
            st.booleans(),
        ),
    ),
)
def test_a_configuration_is_read_as_it_was_published(
    text: str, services: dict[str, Placement]
) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    cell = ConfigCell()
    assert cell.read() is None
    cell.publish("x" * 5000, {})
    generation = cell.publish(text, services)
    found = cell.read()
    assert found is not None
    assert (found.generation, found.text, found.services) == (generation, text, services)


def test_what_is_too_large_is_refused_and_changes_nothing() -> None:
    table = TableCell()
    with pytest.raises(ValueError, match="1024 bytes"):
        table.publish(RouteTable(salt=b"x" * 1025))
    assert table.read() is None
    cell = ConfigCell()
    cell.publish("a", {})
    with pytest.raises(ValueError, match="bytes"):
        cell.publish("x" * shared.LARGEST_CONFIG, {})
    found = cell.read()
    assert found is not None
    assert found.text == "a"


def test_a_half_written_table_is_not_read_and_the_next_writer_mends_it() -> None:
    memory = bytearray(TableCell.SIZE)
    cell = TableCell(memory)
    cell.publish(RouteTable(weight=5.0))
    cell.sequence[0] += 1  # the writer died here
    assert TableCell(memory).read() is None
    TableCell(memory).publish(RouteTable(weight=7.0))
    found = cell.read()
    assert found is not None
    assert (found[0] % 2, found[1].weight) == (0, 7.0)


@pytest.mark.parametrize("offset", [64, 72, 76, 80, 100, 200])
def test_a_table_that_does_not_fit_its_number_or_checksum_is_not_read(offset: int) -> None:
    memory = bytearray(TableCell.SIZE)
    cell = TableCell(memory)
    cell.publish(RouteTable(weight=5.0, salt=b"salt"))
    memory[offset] ^= 0x40
    assert cell.read() is None


@contextmanager
def child(work: object) -> Iterator[int]:
    """Run a function in a forked process that is ended by pid."""
    pid = os.fork()
    if not pid:
        try:
            work()  # type: ignore[operator]
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_readers_of_a_storm_of_tables_see_whole_ones_only() -> None:
    """Another process writes as fast as it can; every table that is read fits together."""
    cell = TableCell(memoryview(mmap.mmap(-1, TableCell.SIZE)))

    def write() -> None:
        number = 0
        while True:
            number += 1
            salt = b"%d" % number * 20
            cell.publish(RouteTable(weight=number % 100, salt=salt), number)

    with child(write):
        read, last = 0, 0
        end = time.monotonic() + 300
        while read < 5000:
            assert time.monotonic() < end
            found = cell.read()
            if found is None or found[0] == last:
                continue
            last, table, version = found
            assert version == last // 2
            assert table.weight == version % 100
            assert table.salt == b"%d" % version * 20
            read += 1


def test_the_parts_of_a_block_do_not_overlap() -> None:
    block = Block(3)
    first, second = block.service(0), block.service(1)
    second.table.publish(RouteTable(weight=5.0))
    block.config.publish("x" * (shared.LARGEST_CONFIG - 100), {})
    many = [LocalState(True, number) for number in range(MOST_ENDPOINTS + 1)]
    endpoints = [Entry(number + 2, state, [0] * 9) for number, state in enumerate(many)]
    for worker in first.all_workers:
        for cells in (
            *worker.counters.variants,
            worker.counters.service,
            worker.counters.proxy,
            worker.worker.status,
        ):
            cells[:] = memoryview(bytes([255]) * 8 * len(cells)).cast("Q")
        for variant in (STABLE, CANARY):
            worker.endpoints.write(variant, endpoints)
    assert not any(worker.counters.stable[0] for worker in second.all_workers)
    found = second.table.read()
    assert found is not None
    assert found[1].weight == 5.0
    assert block.config.read() is not None
    assert block.workers[0].proxy[0] == 2**64 - 1
    assert block.workers[0].slots[0] == 0


@pytest.mark.parametrize("finished", [6, 7, 8])
def test_the_accounts_of_a_dead_worker_balance(finished: int) -> None:
    block = Block(1)
    worker, (service, other) = block.workers[0], [block.service(at).worker(0) for at in (7, 9)]
    for one in (service, other):
        one.hold()
        one.mark_used()
    cells = service.counters.canary
    other.counters.stable[counters.ROUTED] = 2
    # It may have died between counting how a request ended and that it did.
    cells[counters.ROUTED], cells[counters.FINISHED] = 10, finished
    cells[counters.CODES + 200] = 7
    cells[counters.TUNNELS_OPENED] = 2
    worker.proxy[counters.CONNECTIONS_OPENED] = 5
    worker.status[shared.PID] = 123
    assert block.in_flight(worker) == 12 - finished
    assert block.settle_dead_worker(worker) == 5
    assert block.in_flight(worker) == 0
    assert counters.in_flight(other.counters.stable) == 0
    assert counters.in_flight(cells) == 0
    assert cells[counters.CLIENT_CLOSED] == 3
    assert sum(count for _, count in counters.codes(cells)) == 7
    assert cells[counters.TUNNELS_CLOSED] == 2
    assert worker.proxy[counters.CONNECTIONS_CLOSED] == 5
    assert worker.status[shared.PID] == 0
    assert worker.held() == []
    assert service.is_used


def test_a_slot_is_free_for_another_service_once_every_worker_has_left_it() -> None:
    block = Block(2)
    old = block.config.publish("with it", {"cart": Placement(5, {})})
    for worker in block.workers:
        worker.status[shared.PID] = 7
        worker.status[shared.CONFIGURED] = old
    first, second = block.service(5).workers
    for one in (first, second):
        one.hold()
    first.mark_used()
    first.counters.stable[counters.ROUTED] = 3
    block.service(5).table.publish(RouteTable(weight=5.0))
    new = block.config.publish("without it", {})
    first.release()
    block.workers[0].status[shared.CONFIGURED] = new
    assert not block.may_be_reused(5, new)
    second.release()
    assert not block.may_be_reused(5, new), "it may be about to adopt the old configuration"
    block.workers[1].status[shared.CONFIGURED] = new
    assert block.may_be_reused(5, new)
    block.clear(5)
    again = block.service(5)
    assert again.table.read() is None
    assert again.worker(0).counters.stable[counters.ROUTED] == 0
    assert not again.worker(0).is_used


def test_a_worker_of_the_other_side_keeps_a_slot_too() -> None:
    memory = PrivateMemory()
    old, new = Block(1, memory), Block(1, memory, side=1)
    old.service(3).worker(0).hold()
    assert not new.may_be_reused(3, 2)
    old.workers[0].clear()
    assert new.may_be_reused(3, 2)


def test_there_is_no_slot_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="slots"):
        Block(1).service(shared.MOST_SERVICES)
