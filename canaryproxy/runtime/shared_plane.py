"""The workers as the controller sees them: through shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from canaryproxy.config import Config
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import Block

_ADOPTED_WITHIN = 2.0
_POLL_EVERY = 0.01


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


class SharedPlane:
    """Publishes route tables to all workers, and reads their state.

    ``local_tick`` is the tick of a worker in this process, if there is one. Other workers have clocks of
    their own.
    """

    def __init__(
        self, block: Block, config: Config, local_tick: Callable[[], None] | None = None
    ) -> None:
        self._block = block
        self._local_tick = local_tick
        self.config = config
        """The configuration in force, which names the endpoints."""

    # For the controller

    def publish(self, table: RouteTable, version: int) -> None:
        """Make every worker route by this table from its next request on."""
        self._block.table.publish(table, version)

    def mark_late(self) -> None:
        """Make a worker in this process count its late requests; the others do so by their clocks."""
        if self._local_tick is not None:
            self._local_tick()

    # For operators

    @property
    def draining(self) -> bool:
        """Whether no worker accepts new requests."""
        running = [worker for worker in self._block.workers if worker.status[shared.PID]]
        return bool(running) and all(worker.status[shared.DRAINING] for worker in running)

    def endpoints(self, variant: int) -> list[dict[str, Any]]:
        """Return ``url``, ``usable`` (by any worker) and ``in_flight`` of each endpoint of a variant."""
        variants = self.config.variants
        which = (variants.stable, variants.canary)[variant]
        urls = [] if which is None else [str(endpoint) for endpoint in which.endpoints]
        states = [
            worker.endpoints(variant, len(urls))
            for worker in self._block.workers
            if worker.status[shared.PID]
        ]
        return [
            {
                "url": url,
                "usable": any(one[at][0] for one in states),
                "in_flight": sum(one[at][1] for one in states),
            }
            for at, url in enumerate(urls[: shared.MOST_ENDPOINTS])
        ]

    # For reloads

    async def adopted(self) -> None:
        """Wait until every worker serves by the newest configuration, for two seconds at most."""
        if self._local_tick is not None:
            self._local_tick()
        newest = self._block.config.sequence[0]
        end = monotonic() + _ADOPTED_WITHIN
        for worker in self._block.workers:
            status = worker.status
            while status[shared.PID] and status[shared.CONFIGURED] != newest:
                if monotonic() > end:
                    return
                await asyncio.sleep(_POLL_EVERY)
