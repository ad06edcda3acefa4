"""A worker: the data path, its part of the shared block, and its clock."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from math import inf
from time import monotonic

from canaryproxy import config as configuration
from canaryproxy.config import Config, ConfigError
from canaryproxy.control.reload import live
from canaryproxy.measure import counters
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.resolved import Addresses, names
from canaryproxy.measure.shared_memory import Block
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.datapath import DataPath
from canaryproxy.proxy.service_path import Service
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
_RESOLVED_WITHIN = 2.0
"""Seconds that a start and a reload wait for the first look-up of a name."""
_POLL_EVERY = 0.01
_LINGER = 5.0
"""Seconds that an idle connection is kept open for one more request, after a hand-over."""


class Worker:
    """Serves requests by the configuration and the route table in the block. Needs a running loop.

    ``files`` are the files that the configuration names. While there is no controller, the worker routes
    by the last published table.
    """

    def __init__(
        self, config: Config, block: Block, index: int, files: Files | None = None
    ) -> None:
        self._config = config
        self._files = certificates.read(config) if files is None else files
        self._block = block
        self._cells = block.workers[index]
        self._service = block.service(0)
        self._service_cells = self._service.worker(index)
        self._service_cells.hold()
        self._log = None if config.access_log is None else AccessLog(config.access_log)
        self._slots: Mapping[str, int] = counters.slots(list(config.judge.outcomes), {})
        self.datapath = DataPath(
            config,
            self._services(config, self._slots),
            asyncio.get_running_loop(),
            self._cells,
            self._log,
            self._files,
        )
        self._generation = 0
        self._outs: Mapping[tuple[int, int], int] = {}
        self._outs_sequence = 0
        self._resolved = 0
        """Sequence number of the addresses in use."""
        self._wait_until = inf
        """When a configuration is adopted whose names have not been looked up."""
        self._addresses: Addresses = {}
        self._clock: asyncio.TimerHandle | None = None

    async def start(
        self, sockets: Sequence[tuple[int, socket.socket]], *, clock: bool = True
    ) -> None:
        """Adopt the configuration in force, and serve. Without a ``clock``, the caller calls ``tick``.

        Each socket comes with the index of its listener in the configuration.
        """
        if self._log is not None:
            self._log.start()
        self._adopt_addresses()
        end = monotonic() + _RESOLVED_WITHIN
        while self._unresolved(self._config) and monotonic() < end:
            await asyncio.sleep(_POLL_EVERY)
            self._adopt_addresses()
        self._adopt()
        self._take_out()
        self._report()
        await self.datapath.serve([sock for _, sock in sockets], [at for at, _ in sockets])
        self._cells.status[shared.PID] = os.getpid()
        if clock:
            self.start_clock()

    def start_clock(self) -> None:
        """Call ``tick`` ten times a second."""
        if self._clock is None:
            self._ticked()

    def stop_clock(self) -> None:
        """Leave ``tick`` to the caller from now on."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _ticked(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)
        self.tick()

    def tick(self) -> None:
        """Count late requests, adopt a new configuration and report the state; call it ten times a second."""
        self.datapath.tick()
        self._adopt_addresses()
        self._adopt()
        self._take_out()
        self._report()

    @property
    def drain_timeout(self) -> float:
        """Seconds for requests in flight to end."""
        return self._config.limits.drain_timeout

    def reopen_log(self) -> None:
        """Reopen the access log after a rotation, as SIGUSR1 demands."""
        if self._log is not None:
            self._log.reopen()

    def hurry(self) -> None:
        """Abort the requests that a drain still waits for."""
        self.datapath.abort()

    async def drain(self, timeout: float) -> bool:
        """Stop accepting, let requests in flight end, close; return whether all of them ended.

        ``shared.LINGER`` says that a successor serves the addresses. A client with an idle connection does
        not know, and may be about to send a request: it gets its response, and the connection is closed then.
        """
        self._cells.status[shared.DRAINING] = 1
        linger = min(_LINGER, timeout) if self._cells.status[shared.LINGER] else 0.0
        clean = await self.datapath.drain(timeout, linger)
        self.stop_clock()
        if self._log is not None:
            await self._log.stop()
        self._report()
        return clean

    def linger(self) -> None:
        """Make ``drain`` the one of a proxy whose addresses a successor serves."""
        self._cells.status[shared.LINGER] = 1

    def leave(self) -> None:
        """Clear the state of this worker in the block; its counts stay."""
        self._block.settle_dead_worker(self._cells)

    def _adopt_addresses(self) -> None:
        """Use the endpoints that names stand for now, if they have changed."""
        cell = self._block.addresses
        if cell.sequence[0] != self._resolved and (found := cell.read()) is not None:
            self._resolved, self._addresses = found
            self.datapath.resolve(self._addresses)

    def _unresolved(self, config: Config) -> bool:
        """Tell whether a name of the configuration has not been looked up yet."""
        return any(str(one) not in self._addresses for one in names(config.endpoints))

    def _adopt(self) -> None:
        """Serve by the configuration in force, if it has changed."""
        if self._block.config.sequence[0] == self._generation:
            return
        found = self._block.config.read()
        if found is None:
            return
        try:
            wanted = configuration.parse(found.text, file="configuration")
        except ConfigError as error:
            self._generation = found.generation
            # The control plane has parsed it, so this should not happen, and it must not end a worker.
            _log.error(
                "the configuration in force is invalid in this worker: %s", error.problems[0]
            )
            return
        if self._unresolved(wanted):
            self._wait_until = min(self._wait_until, monotonic() + _RESOLVED_WITHIN)
            if monotonic() < self._wait_until:
                return  # the requests go where they went
        self._generation, self._wait_until = found.generation, inf
        wanted = live(self._config, wanted)
        place = found.services["default"]
        new = (wanted, found.files, place.outcomes)
        if wanted.release_id != self._config.release_id:
            self.datapath.services["default"].context.load.begin(promoted=place.promoted)
        if new != (self._config, self._files, self._slots):
            services = self._services(wanted, place.outcomes)
            self.datapath.reconfigure(wanted, services, found.files)
            self._config, self._files, self._slots = new
        self._report()  # before the new endpoints are looked for
        self._cells.status[shared.CONFIGURED] = found.generation

    def _services(self, config: Config, outcomes: Mapping[str, int]) -> list[Service]:
        return [Service("default", config, outcomes, self._service_cells, self._service.table)]

    def _take_out(self) -> None:
        """Take the endpoints out of service that the control plane wants out."""
        sequence = self._service.outs.sequence[0]
        if sequence != self._outs_sequence:
            found = self._service.outs.read()
            if found is not None:
                self._outs, self._outs_sequence = found, sequence
        for one in self.datapath.services.values():
            one.take_out(self._outs)

    def _report(self) -> None:
        cells = self._cells
        for one in self.datapath.services.values():
            one.report()
        cells.status[shared.HEARTBEAT] = int(monotonic() * 1000)
        cells.status[shared.TASKS] = len(asyncio.all_tasks())
        if self._log is not None:
            cells.status[shared.LOG_DROPPED] = self._log.dropped
