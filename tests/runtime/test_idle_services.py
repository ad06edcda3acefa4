"""What an idle service costs: the pages of shared memory that worker and control plane touch."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from canaryproxy.measure.shared_memory import MOST_SERVICES, Block, ServiceBlock
from canaryproxy.runtime.shared_block import SharedBlock
from canaryproxy.runtime.worker import Worker

from .test_control_process import Proxy, service

TICKS = 30
"""Three seconds: an idle service takes part in one tick of ten."""


def touched(shared: SharedBlock, slot: int) -> list[int]:
    """Return the pages of a slot that take memory, by their number in it."""
    workers = len(shared.block.workers)
    begin = Block.size(workers) - (MOST_SERVICES - slot) * ServiceBlock.size(workers)
    end = begin + ServiceBlock.size(workers)
    pages: list[int] = []
    at = begin
    while at < end:
        try:
            at = os.lseek(shared.descriptor, at, os.SEEK_DATA)
        except OSError:  # nothing from here on
            break
        hole = os.lseek(shared.descriptor, at, os.SEEK_HOLE)
        pages += [
            (one - begin) // mmap.PAGESIZE for one in range(at, min(hole, end), mmap.PAGESIZE)
        ]
        at = hole
    return pages


@pytest.mark.parametrize("workers", [1, 3])
async def test_an_idle_service_touches_the_beginning_of_its_slot(
    tmp_path: Path, workers: int
) -> None:
    proxy = Proxy(tmp_path, cart=service("cart"), shop=service("shop"))
    shared = SharedBlock(workers)
    proxy.block = shared.block
    async with proxy.control() as control:
        made = [Worker(proxy.config, shared.block, index) for index in range(workers)]
        for worker in made:
            await worker.start([], clock=False)
        for _ in range(TICKS):
            for worker in made:
                worker.tick()
            control._ticker.tick()
        for slot in (0, 1):
            assert touched(shared, slot)[0] == 0, "its table"
            assert len(touched(shared, slot)) <= workers, "and where each worker has its endpoints"
        cells = shared.block.service(0).worker(0)
        cells.mark_used()
        cells.counters.stable[0] += 1
        for _ in range(TICKS):
            control._ticker.tick()
        assert len(touched(shared, 0)) > workers, "it is looked at"
        assert len(touched(shared, 1)) <= workers
        for worker in made:
            await worker.drain(0.0)
