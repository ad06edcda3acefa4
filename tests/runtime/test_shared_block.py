"""The block in a memory file: what processes share, and what memory it takes."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from canaryproxy.measure import counters
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
