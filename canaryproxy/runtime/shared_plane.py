"""The workers as the controller sees them: through shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from canaryproxy.config import Config
from canaryproxy.control.upstream_watch import EndpointState, VariantState
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.counters import ERRORS, Reason
from canaryproxy.measure.routing import VARIANTS, RouteTable
from canaryproxy.measure.shared_memory import Block, EndpointCells

_ADOPTED_WITHIN = 2.0
_POLL_EVERY = 0.01


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _merged(url: str, states: list[EndpointCells]) -> EndpointState:
    """Sum an endpoint over the workers; the reason is that of one that has ejected it, if there is one."""
    worst = min(states, key=lambda one: (one.usable, -one.errors), default=EndpointCells(True, 0))
    return EndpointState(
        url,
        usable=worst.usable,
        errors=sum(one.errors for one in states),
        reason=Reason(worst.reason),
        errno=worst.errno,
    )


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
        return [
            {
                "url": url,
                "usable": any(one.usable for one in states),
                "in_flight": sum(one.in_flight for one in states),
            }
            for url, states in self._endpoint_states(variant)
        ]

    def _endpoint_states(self, variant: int) -> list[tuple[str, list[EndpointCells]]]:
        """Return each endpoint's URL and its state in each worker that runs."""
        variants = self.config.variants
        which = (variants.stable, variants.canary)[variant]
        urls = [] if which is None else [str(endpoint) for endpoint in which.endpoints]
        workers = [
            worker.endpoints(variant, len(urls))
            for worker in self._block.workers
            if worker.status[shared.PID]
        ]
        return [
            (url, [states[at] for states in workers])
            for at, url in enumerate(urls[: shared.MOST_ENDPOINTS])
        ]

    # For the log

    def upstreams(self) -> dict[str, VariantState] | None:
        """Return the endpoints by variant; ``None`` while a worker takes a new configuration."""
        running = [worker for worker in self._block.workers if worker.status[shared.PID]]
        newest = self._block.config.sequence[0]
        if any(worker.status[shared.CONFIGURED] != newest for worker in running):
            return None
        return {
            name: VariantState(
                [_merged(url, states) for url, states in self._endpoint_states(variant)],
                sum(
                    worker.counters.variants[variant][ERRORS + Reason.NO_ENDPOINT]
                    for worker in running
                ),
            )
            for variant, name in enumerate(VARIANTS)
        }

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
