"""A worker: the data path, its part of the shared block, and its clock."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from math import inf
from time import monotonic

from canaryproxy import config as configuration
from canaryproxy.config import Config, ConfigError
from canaryproxy.config import Service as ServiceSection
from canaryproxy.control.reload import live
from canaryproxy.measure import counters
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.resolved import Addresses, names
from canaryproxy.measure.shared_memory import Block, Configured, Placement
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.datapath import DataPath
from canaryproxy.proxy.service_path import Service, ServicePath
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
_RESOLVED_WITHIN = 2.0
"""Seconds that a start and a reload wait for the first look-up of a name."""
_POLL_EVERY = 0.01
_ALONE = "default"
"""The name of the service of a configuration without names (``Config.by_service``)."""
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
        self._index = index
        self._cells = block.workers[index]
        self._log = None if config.access_log is None else AccessLog(config.access_log)
        self._running: dict[str, Service] = {}
        """The services that are served, by name."""
        if not config.services:  # where those of several services are, only what is published says
            outcomes = counters.slots(list(config.judge.outcomes), {})
            alone = self._service(_ALONE, config, None, Placement(0, outcomes))
            self._running = {_ALONE: alone}
        self.datapath = DataPath(
            config,
            list(self._running.values()),
            asyncio.get_running_loop(),
            self._cells,
            self._log,
            self._files,
        )
        self._generation = 0
        self._next: tuple[Config, Configured] | None = None
        """The configuration in force, while it is not adopted as a whole."""
        self._late: set[str] | None = None
        """Its services with names that were not looked up at the last tick; ``None``: not looked at yet."""
        self._wait_until = inf
        """When they are adopted all the same."""
        self._resolved = 0
        """Sequence number of the addresses in use."""
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
        self._adopt()
        end = monotonic() + _RESOLVED_WITHIN
        while self._is_incomplete() and monotonic() < end:
            await asyncio.sleep(_POLL_EVERY)
            self._adopt_addresses()
            self._adopt()
        self._wait_until = -inf
        self._adopt()
        self._follow_outs()
        self._report(self.datapath.services.values())
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
        self._follow_outs()
        self._report(self.datapath.due)
        for service in self.datapath.take_ended():
            service.cells.release()
            self._block.forget(service.cells.slot)

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
        self._report(self.datapath.services.values())
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

    def _is_incomplete(self) -> bool:
        """Tell whether the configuration in force could not be adopted as a whole yet."""
        return self._next is not None or not self._running or self._unresolved(self._config)

    def _adopt(self) -> None:
        """Serve by the configuration in force, if it has changed."""
        if self._block.config.sequence[0] != self._generation:
            found = self._block.config.read()
            if found is not None:
                self._generation = found.generation
                self._parse(found)
        if self._next is not None:
            self._follow(*self._next)

    def _parse(self, found: Configured) -> None:
        try:
            wanted = configuration.parse(found.text, file="configuration")
        except ConfigError as error:
            # The control plane has parsed it, so this should not happen, and it must not end a worker.
            _log.error(
                "the configuration in force is invalid in this worker: %s", error.problems[0]
            )
            return
        if self._next is None:
            self._wait_until = monotonic() + _RESOLVED_WITHIN
        self._next, self._late = (live(self._config, wanted), found), None

    def _follow(self, wanted: Config, found: Configured) -> None:
        """Adopt a configuration, but for services with a name that is not looked up: they go on as they were.

        They have a while for that. Without services by name, the whole configuration waits.
        """
        configs = wanted.by_service()
        late: set[str] = set()
        if monotonic() < self._wait_until:
            late = {name for name, one in configs.items() if self._unresolved(one)}
        if late == self._late or (late and not wanted.services):
            return
        self._late = late
        services: dict[str, Service] = {}
        for name, config in configs.items():
            before, place = self._running.get(name), found.services.get(name)
            if name in late or place is None:
                if before is not None:
                    services[name] = before
                continue
            services[name] = self._service(name, config, wanted.services.get(name), place)
            if before is not None and before.config.release_id != config.release_id:
                load = self.datapath.services[name].context.load
                load.begin(promoted=place.promoted)
        new = (wanted, found.files, services)
        if new != (self._config, self._files, self._running):
            self.datapath.reconfigure(wanted, list(services.values()), found.files)
            self._config, self._files, self._running = new
        if late:
            return
        self._next, self._wait_until = None, inf
        self._report(self.datapath.services.values())  # before the new endpoints are looked for
        self._cells.status[shared.CONFIGURED] = found.generation

    def _service(
        self, name: str, config: Config, places: ServiceSection | None, place: Placement
    ) -> Service:
        """Return a service as the data path gets it, and take its slot."""
        block = self._block.service(place.slot)
        cells = block.worker(self._index)
        cells.hold()
        return Service(name, config, places, place.outcomes, cells, block.table, block.outs)

    def _follow_outs(self) -> None:
        """Take the endpoints out of service that the control plane wants out."""
        for one in self.datapath.services.values():
            one.follow_outs()

    def _report(self, services: Iterable[ServicePath]) -> None:
        """Report the endpoints of these services, and the state of this worker."""
        cells = self._cells
        for one in services:
            one.report()
        cells.status[shared.HEARTBEAT] = int(monotonic() * 1000)
        cells.status[shared.TASKS] = len(asyncio.all_tasks())
        if self._log is not None:
            cells.status[shared.LOG_DROPPED] = self._log.dropped
