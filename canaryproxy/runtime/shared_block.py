"""The block of shared memory, in a memory file that another program can map too."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from types import ModuleType

from canaryproxy.measure import counters, endpoint_cells, histogram, records, shared_memory
from canaryproxy.measure.shared_memory import Block


class MemoryFile:
    """The memory of a block in a file that other processes map, too. Unused parts take no memory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def part(self, at: int, size: int) -> memoryview:
        """Map a part; it is unmapped when the last view of it is gone."""
        return memoryview(mmap.mmap(self._descriptor, size, offset=at))

    def clear(self, at: int, size: int) -> None:
        """Give the memory of a part back, for all processes (MADV_REMOVE, madvise(2))."""
        with mmap.mmap(self._descriptor, size, offset=at) as memory:
            memory.madvise(mmap.MADV_REMOVE)


class SharedBlock:
    """A ``Block`` and the descriptor of its memory (memfd_create(2)).

    ``descriptor`` is that of the block of the predecessor in a hot restart, None for a new block. ``side`` is
    the side of the block that this proxy counts on; its predecessor counts on the other one.
    """

    def __init__(self, workers: int, descriptor: int | None = None, side: int = 0) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("canaryproxy")
            os.ftruncate(descriptor, Block.size(workers))
        self.descriptor = descriptor
        self.block = Block(workers, MemoryFile(descriptor), side)
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
