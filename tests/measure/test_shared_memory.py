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
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import (
    Block,
    ConfigCell,
    TableCell,
    WorkerCells,
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


@given(st.text(max_size=2000), st.dictionaries(st.text(max_size=10), st.integers(0, 15)))
def test_a_configuration_is_read_as_it_was_published(text: str, slots: dict[str, int]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    cell = ConfigCell()
    assert cell.read() is None
    cell.publish("x" * 5000, {})
    generation = cell.publish(text, slots)
    found = cell.read()
    assert found is not None
    assert (found.generation, found.text, found.slots) == (generation, text, slots)


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
        end = time.monotonic() + 60
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
    block = Block(3, bytearray(Block.size(3)))
    block.table.publish(RouteTable(weight=5.0))
    block.config.publish("x" * (shared.LARGEST_CONFIG - 100), {})
    for worker in block.workers:
        for cells in (
            *worker.counters.variants,
            worker.counters.proxy,
            worker.status,
            *worker.endpoints.variants,
        ):
            cells[:] = memoryview(bytes([255]) * 8 * len(cells)).cast("Q")
    found = block.table.read()
    assert found is not None
    assert found[1].weight == 5.0
    assert block.config.read() is not None
    assert block.workers[0].counters.proxy[0] == 2**64 - 1


@pytest.mark.parametrize("finished", [6, 7, 8])
def test_the_accounts_of_a_dead_worker_balance(finished: int) -> None:
    worker = WorkerCells()
    cells = worker.counters.canary
    # It may have died between counting how a request ended and that it did.
    cells[counters.ROUTED], cells[counters.FINISHED] = 10, finished
    cells[counters.CODES + 200] = 7
    cells[counters.TUNNELS_OPENED] = 2
    worker.counters.proxy[counters.CONNECTIONS_OPENED] = 5
    worker.status[shared.PID] = 123
    assert worker.settle_dead_worker() == 3
    assert counters.in_flight(cells) == 0
    assert cells[counters.CLIENT_CLOSED] == 3
    assert sum(count for _, count in counters.codes(cells)) == 7
    assert cells[counters.TUNNELS_CLOSED] == 2
    assert worker.counters.proxy[counters.CONNECTIONS_CLOSED] == 5
    assert worker.status[shared.PID] == 0
