"""The block in a memory file: what processes share, and what memory it takes."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from canaryproxy.control.record_reader import RecordReader
from canaryproxy.measure import counters
from canaryproxy.measure.records import POSITION_MASK, RECORDS, WORDS
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import Block
from canaryproxy.runtime.shared_block import SharedBlock


def _taken(memory: SharedBlock) -> int:
    """Return the bytes of memory that the file takes."""
    return os.fstat(memory.descriptor).st_blocks * 512


def _mappings() -> int:
    return Path("/proc/self/maps").read_text(encoding="ascii").count("memfd:canaryproxy")


def test_only_slots_that_are_used_take_memory_and_one_that_is_cleared_gives_it_back() -> None:
    memory = SharedBlock(4)
    assert os.fstat(memory.descriptor).st_size == Block.size(4)
    memory.block.clear(700)  # touches what says which slots are used
    before = _taken(memory)
    assert before < 1 << 20
    cells = memory.block.service(700).worker(3)
    for at in range(len(cells.counters.stable)):
        cells.counters.stable[at] = 1
    assert before < _taken(memory) < before + (64 << 10)
    del cells
    memory.block.clear(700)
    assert _taken(memory) == before
    os.close(memory.descriptor)


def test_a_slot_is_unmapped_when_nobody_refers_to_it() -> None:
    gc.collect()  # what other tests have left
    memory = SharedBlock(1)
    before = _mappings()
    table = memory.block.service(1).table
    table.publish(RouteTable(weight=5.0))
    assert _mappings() == before + 1
    memory.block.forget(1)
    gc.collect()
    assert _mappings() == before + 1, "the table is still used"
    del table
    gc.collect()
    assert _mappings() == before
    found = memory.block.service(1).table.read()
    assert found is not None
    assert found[1].weight == 5.0
    os.close(memory.descriptor)


def test_a_forked_process_maps_slots_of_its_own_accord() -> None:
    memory = SharedBlock(1)
    pid = os.fork()
    if not pid:
        memory.block.service(9).worker(0).counters.canary[counters.ROUTED] = 12
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert memory.block.service(9).worker(0).counters.canary[counters.ROUTED] == 12
    os.close(memory.descriptor)


def test_bursts_of_another_process_wait_for_a_late_reader_and_leave_no_memory_behind() -> None:
    """100,000 requests a second, and a reader that misses two ticks of three."""
    memory = SharedBlock(1)
    slot = memory.block.service(3)
    ring = slot.workers[0].records
    reader = RecordReader([ring], [])
    burst, ticks = 10_000, 9
    go, begun = os.pipe()
    done, told = os.pipe()
    pid = os.fork()
    if not pid:
        mine = memory.block.service(3).worker(0).records
        for number in range(ticks):
            os.read(go, 1)
            for at in range(number * burst, (number + 1) * burst):
                mine.add(at & POSITION_MASK, at, 0)
            mine.flush()
            os.write(told, b"x")
        os._exit(0)
    seen = 0
    for tick in range(1, ticks + 1):
        os.write(begun, b"x")
        os.read(done, 1)
        if tick % 3 == 0:
            numbers = list(reader.drain().records)[1::WORDS]
            assert numbers == list(range(seen, seen + 3 * burst, numbers[1] - numbers[0]))
            seen += 3 * burst
    assert os.waitpid(pid, 0)[1] == 0
    counts = reader.counts
    assert counts.dropped == 0
    assert counts.taken + counts.left_out == seen == ticks * burst
    before = _taken(memory)
    for _ in range(100):  # a service that is quiet now uses the same page again and again
        ring.write(1, 2, 3)
        reader.drain()
    assert _taken(memory) == before
    for pipe in (go, begun, done, told, memory.descriptor):
        os.close(pipe)


def test_records_of_a_quiet_service_take_one_page() -> None:
    memory = SharedBlock(1)
    ring = memory.block.service(3).worker(0).records
    reader = RecordReader([ring], [])
    ring.write(1, 2, 3)
    reader.drain()
    before = _taken(memory)
    for _ in range(2 * RECORDS // 10):
        for number in range(10):
            ring.add(number, 0, 0)
        ring.flush()
        reader.drain()
    assert _taken(memory) - before <= 4096
    os.close(memory.descriptor)
