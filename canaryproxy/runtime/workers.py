"""The workers of a block as the control plane sees them, whatever service a request is for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.shared_memory import Block, ServiceBlock, ServiceCells, WorkerCells

_log = logging.getLogger(__name__)

_ADOPTED_WITHIN = 2.0
_POLL_EVERY = 0.01


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


class Workers:
    """Those of this side, and what is left of those of the other one.

    ``local_tick`` is the tick of a worker in this process, if there is one. Other workers have clocks of
    their own.
    """

    def __init__(self, block: Block, local_tick: Callable[[], None] | None = None) -> None:
        self._block = block
        self._local_tick = local_tick

    def tick(self) -> None:
        """Let a worker in this process count its late requests and adopt what is new."""
        if self._local_tick is not None:
            self._local_tick()

    @property
    def running(self) -> Sequence[WorkerCells]:
        """The workers that serve."""
        return [worker for worker in self._block.workers if worker.status[shared.PID]]

    def counting(self, service: ServiceBlock) -> list[ServiceCells]:
        """Return the cells of a service that hold counts; those of the other side only if it is used."""
        used = any(
            worker.status[shared.PID] or worker.slots[service.slot] for worker in self._block.others
        )
        return [*service.workers, *(service.others if used else ())]

    @property
    def draining(self) -> bool:
        """Whether no worker accepts new requests."""
        running = self.running
        return bool(running) and all(worker.status[shared.DRAINING] for worker in running)

    @property
    def have_adopted(self) -> bool:
        """Whether every worker serves by the newest configuration."""
        newest = self._block.config.sequence[0]
        return all(worker.status[shared.CONFIGURED] == newest for worker in self.running)

    async def adopted(self) -> None:
        """Wait until every worker serves by the newest configuration, for two seconds at most."""
        self.tick()
        end = monotonic() + _ADOPTED_WITHIN
        while not self.have_adopted and monotonic() <= end:  # noqa: ASYNC110 - shared memory sends no events
            await asyncio.sleep(_POLL_EVERY)

    @property
    def tasks(self) -> int:
        """Tasks in the event loops of all workers."""
        return sum(worker.status[shared.TASKS] for worker in self._block.all_workers)

    @property
    def log_lines_dropped(self) -> int:
        """Lines of the access log that all workers have dropped."""
        return sum(worker.status[shared.LOG_DROPPED] for worker in self._block.all_workers)

    def settle_other_side(self) -> None:
        """Settle the counts of a predecessor that has ended, or of a successor that has failed."""
        for worker in self._block.others:
            pid = worker.status[shared.PID]
            if pid and not is_alive(pid):
                lost = self._block.settle_dead_worker(worker)
                if lost:
                    _log.error("process %d ended with %d requests in flight", pid, lost)
