"""The workers as the controller sees them: through the shared block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from canaryproxy.config import Config
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import Block
from canaryproxy.measure.trials import TICKS_PER_SECOND

_ADOPTED_WITHIN = 2.0
_LOOK_EVERY = 0.01


class SharedPlane:
    """Publishes to all workers, and tells how they fare.

    ``local`` is the tick of a worker in this process, if there is one; others have their own clock.
    """

    def __init__(
        self, block: Block, config: Config, local: Callable[[], None] | None = None
    ) -> None:
        self._block = block
        self._local = local
        self.config = config
        """What is in force: whose endpoints there are."""

    # For the controller

    def publish(self, table: RouteTable, version: int) -> None:
        """Route by this table from the next request of every worker on."""
        self._block.table.publish(table, version)

    def mark_late(self) -> None:
        """Let a worker in this process count what is late; others do by themselves."""
        if self._local is not None:
            self._local()

    def new_round(self) -> None:
        """Let every user count again."""
        self._block.reducers[0].new_round()

    def refresh(self, limit: int) -> None:
        """Every ten seconds; buckets below ``limit`` are on the canary."""
        self._block.reducers[0].refresh(limit)

    # For operators

    @property
    def draining(self) -> bool:
        """No worker takes new requests."""
        running = [worker for worker in self._block.workers if worker.status[shared.PID]]
        return bool(running) and all(worker.status[shared.DRAINING] for worker in running)

    def users_seen(self, limit: int) -> int | None:
        """Return the buckets below ``limit`` whose users asked within ten seconds, if that is known."""
        errors = self.config.judge.metrics.errors
        if errors is None or errors.unit != "user":
            return None
        return self._block.reducers[0].seen(limit, int(monotonic() * TICKS_PER_SECOND))

    def endpoints(self, variant: int) -> list[dict[str, Any]]:
        """Return ``url``, ``usable`` (for any worker) and ``in_flight`` of each endpoint of a variant."""
        variants = self.config.variants
        which = (variants.stable, variants.canary)[variant]
        urls = [] if which is None else [str(endpoint) for endpoint in which.endpoints]
        told = [
            worker.endpoints(variant, len(urls))
            for worker in self._block.workers
            if worker.status[shared.PID]
        ]
        return [
            {
                "url": url,
                "usable": any(one[at][0] for one in told) if told else False,
                "in_flight": sum(one[at][1] for one in told),
            }
            for at, url in enumerate(urls[: shared.MOST_ENDPOINTS])
        ]

    # For reloads

    async def adopted(self) -> None:
        """Return when every worker serves by the newest configuration; gives up after two seconds."""
        if self._local is not None:
            self._local()
        newest = self._block.config.sequence[0]
        end = monotonic() + _ADOPTED_WITHIN
        for worker in self._block.workers:
            status = worker.status
            while status[shared.PID] and status[shared.CONFIGURED] != newest:
                if monotonic() > end:
                    return
                await asyncio.sleep(_LOOK_EVERY)
