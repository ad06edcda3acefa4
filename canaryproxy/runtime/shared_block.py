"""The block of shared memory, in a memory file that another program can map too."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from types import ModuleType

from canaryproxy.measure import counters, endpoint_cells, histogram, records, shared_memory
from canaryproxy.measure.shared_memory import Block


class SharedBlock:
    """A ``Block`` and the descriptor of its memory (memfd_create(2)).

    ``descriptor`` is that of the block of the predecessor in a hot restart, None for a new block. ``side`` is
    the side of the block that this proxy counts on; its predecessor counts on the other one.
    """

    def __init__(self, workers: int, descriptor: int | None = None, side: int = 0) -> None:
        size = Block.size(workers)
        if descriptor is None:
            descriptor = os.memfd_create("canaryproxy")
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self.block = Block(workers, mmap.mmap(descriptor, size), side)
        self.block.heartbeats[side] = 0
        for cells in self.block.workers:
            cells.clear()


def layout() -> str:
    """Return a hash of the code that defines the layout of the block.

    Two proxies share a block only if their hashes agree. Call it at start: the code on the disk may change
    while the proxy runs.
    """
    digest = hashlib.sha256()
    modules: tuple[ModuleType, ...] = (
        shared_memory,
        counters,
        endpoint_cells,
        histogram,
        records,
    )
    for module in modules:
        digest.update(Path(module.__file__ or "").read_bytes())
    return digest.hexdigest()
