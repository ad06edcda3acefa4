"""The data path of one worker: builds what its connections share, accepts, watches deadlines, drains."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial
from math import inf
from time import monotonic, time
from typing import Final, cast

from canaryproxy.config import Config, Forwarded, Limits, Listener
from canaryproxy.config.service_names import is_other, other_name
from canaryproxy.http1.forwarding import TrustedProxies
from canaryproxy.http1.request import Tolerated
from canaryproxy.measure import counters
from canaryproxy.measure.resolved import Addresses
from canaryproxy.measure.service_table import ServiceTable
from canaryproxy.measure.shared_memory import WorkerCells
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.client_connection import HTTP1, HTTP2, ClientConnection
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.handshake import Handshake, ListenerFilters
from canaryproxy.proxy.listener import BACKLOG
from canaryproxy.proxy.network import Listening, network_of
from canaryproxy.proxy.other_versions import OtherVersions
from canaryproxy.proxy.request_parsers import RequestParsers
from canaryproxy.proxy.service_path import Service, ServicePath
from canaryproxy.tls import files as certificates
from canaryproxy.tls.contexts import ContextCache
from canaryproxy.tls.files import Files

_log: Final = logging.getLogger(__name__)

_TOLERATED_TEXTS: Final = (
    "raw bytes in the target were percent-encoded",
    "HTTP/1.1 without Host, or with an empty one",
)
"""By ``Tolerated``."""
_FINEST_SWEEP: Final = 0.05
_COARSEST_SWEEP: Final = 0.5
_CLOSE_EVERY: Final = 0.02
"""Seconds between two connections that are closed because their users have moved."""
_ALPN: Final = {"http2": "h2", "http1": "http/1.1"}
"""Names of protocols in TLS, the preferred one first."""
_IDLE_TURNS: Final = 10
"""An idle service takes part in one of so many ticks."""
_FLUSH: Final = 0.05
"""Seconds for what was written at the end of a drain."""


class DataPath:
    """Carries the requests of one worker, by a configuration that can be replaced while it runs.

    ``cells`` are the worker's; ``access_log`` gets an entry for each request that ends. ``files`` are those
    of TLS, read anew by default.
    """

    __slots__ = (
        "_addresses",
        "_drained",
        "_ended",
        "_files",
        "_filters",
        "_forwarded",
        "_leaving",
        "_loop",
        "_parsers",
        "_sampler",
        "_servers",
        "_sweep_every",
        "_sweeper",
        "_tls_contexts",
        "_turn",
        "context",
        "due",
        "services",
    )

    def __init__(
        self,
        config: Config,
        services: Sequence[Service],
        loop: asyncio.AbstractEventLoop,
        cells: WorkerCells,
        access_log: AccessLog | None = None,
        files: Files | None = None,
    ) -> None:
        self._loop = loop
        self.context = WorkerContext(cells.proxy, access_log)
        self.services: dict[str, ServicePath] = {}
        """By name."""
        self._tls_contexts = ContextCache()
        self._filters: tuple[ListenerFilters | None, ...] = ()
        """What precedes HTTP, by listener; ``None``: nothing."""
        self._sampler = BodySampler()
        self._forwarded: Forwarded | None = None
        self._parsers = RequestParsers(self._tolerate)
        self._addresses: Addresses = {}
        self._files: Files = {}
        self._leaving: list[ServicePath] = []
        """Services that the configuration has dropped, while something of them is in flight."""
        self._ended: list[Service] = []
        self._turn = 0
        self.due: list[ServicePath] = []
        """The services that took part in the last tick."""
        self._servers: list[Listening] = []
        self._drained: asyncio.Event = asyncio.Event()
        """No connection is left."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._configure(config, services, certificates.read(config) if files is None else files)

    # Configuration

    def reconfigure(
        self, config: Config, services: Sequence[Service], files: Files | None = None
    ) -> None:
        """Serve by another configuration from the next request on; requests in flight are not affected.

        Listening sockets stay as they are.
        """
        self._configure(config, services, certificates.read(config) if files is None else files)

    def resolve(self, addresses: Addresses) -> None:
        """Make these the endpoints behind names, from the next request on."""
        self._addresses = addresses
        for one in self.services.values():
            one.resolve(addresses)

    def _configure(self, config: Config, services: Sequence[Service], files: Files) -> None:
        context, limits = self.context, config.limits
        tls = self._tls_contexts = ContextCache(self._tls_contexts)
        self._filters = tuple(_filters(listener, files, tls) for listener in config.listen)
        context.limit(limits)
        if self._forwarded != config.forwarded:
            self._forwarded = config.forwarded
            context.trusted_proxies = TrustedProxies(
                config.forwarded.trust, by_forwarded=config.forwarded.client_from == "Forwarded"
            )
            for connection in context.connections:
                connection.renew_peer()
        configs = [one.config for one in services]
        context.head_ends.configure(
            config.forwarded.via, {one.split.variant_header for one in configs}
        )
        self._parsers.configure(config, configs, context.head_ends.requests)
        context.request_parser = self._parsers.common
        context.propagated = self._parsers.propagated
        self._arrange(services, files)
        self._sweep_every = _sweep_every(limits)

    def _arrange(self, services: Sequence[Service], files: Files) -> None:
        """Make, change and drop services."""
        context, before, self.services = self.context, self.services, {}
        for one in services:
            path, changed = before.pop(one.name, None), files != self._files
            if path is not None and path.service.cells is not one.cells:
                self._drop(path)
                path = None
            if path is None:
                path, changed = self._revive_or_make(one), True
            changed |= path.service != one
            self.services[one.name] = path
            if changed:
                path.configure(one, files, self._tls_contexts)
            path.context.request_parser = self._parsers.of(one.config)
        self._files = files
        for path in before.values():
            self._drop(path)
        whole = [one for one in services if not is_other(one.name)]
        context.services = [self.services[one.name].context for one in whole]
        context.table = ServiceTable([one.place for one in whole if one.place is not None])
        takes_all = len(whole) == 1 and (whole[0].place is None or whole[0].place.is_default)
        context.only = context.services[0] if takes_all else None
        context.by_host = {}
        for one in whole:
            self._add_versions(one)
        if context.only is not None and not context.only.is_awake:
            context.only.wake()

    def _add_versions(self, service: Service) -> None:
        """Let a service choose among its versions beside the canary."""
        others = service.config.variants.others
        paths = [self.services.get(other_name(service.name, name)) for name in others]
        context = self.services[service.name].context
        context.others = (
            OtherVersions(
                [one.share for one in others.values()],
                [None if path is None else path.context for path in paths],
            )
            if others
            else None
        )
        context.settle()

    def _revive_or_make(self, service: Service) -> ServicePath:
        for path in self._leaving:
            if path.service.cells is service.cells:  # its cells have one writer
                self._leaving.remove(path)
                path.revive()
                return path
        return ServicePath(service, self.context, self._loop, self._sampler, self._addresses)

    def _drop(self, path: ServicePath) -> None:
        """Let a service finish what is in flight, its long-lived connections within ``drain_timeout``."""
        path.close()
        path.end_at = monotonic() + self.context.limits.drain_timeout
        self._leaving.append(path)

    def take_ended(self) -> list[Service]:
        """Return the services that were dropped and have nothing in flight any more, each once."""
        ended, self._ended = self._ended, []
        return ended

    def _look_after_leaving(self, now: float) -> None:
        for path in self._leaving:
            if now >= path.end_at:
                path.end_at = inf
                path.end_long_lived()
        over = [path for path in self._leaving if path.is_over(self.context.connections)]
        for path in over:
            path.dispose()
            self._leaving.remove(path)
            self._ended.append(path.service)

    def _tolerate(self, reason: Tolerated) -> None:
        """Count a request that ``strict: enforce`` would refuse; the log has the first of each kind."""
        tally, at = self.context.proxy_tally, counters.TOLERATED + reason
        tally.add(at)
        if tally.values[at] == 1:
            _log.warning(
                "forwarded a request that strict: enforce would refuse: %s (logged once; see"
                " canaryproxy_tolerated_total)",
                _TOLERATED_TEXTS[reason],
            )

    # The control plane's side

    def tick(self) -> None:
        """Begin a tick of the judge: count the requests that are late by now, not when they end.

        What is recorded by then is shown to the judge. Then stable answers for a canary that is overdue, and
        long-lived connections follow their users.
        """
        now = monotonic()
        services = self.due = self._choose_due()
        for one in services:
            one.begin_tick(now)
        for connection in self.context.connections:
            connection.mark_late(now)
        self._sampler.tick()
        for one in services:
            one.flush()
        overdue, self.context.overdue = self.context.overdue, []
        for exchange in overdue:
            exchange.wait_no_longer()
        for one in services:
            one.end_tick(now)
        if self._leaving:
            self._look_after_leaving(now)

    def _choose_due(self) -> list[ServicePath]:
        """Return the services that take part in this tick: those that are idle do once a second."""
        services = [*self.services.values(), *self._leaving]
        if len(services) == 1:
            return services
        self._turn = turn = (self._turn + 1) % _IDLE_TURNS
        return [
            one for at, one in enumerate(services) if not one.is_idle() or at % _IDLE_TURNS == turn
        ]

    # Connections

    @property
    def in_flight(self) -> int:
        """Requests being answered, tunnels included."""
        return self.context.in_flight

    async def serve(
        self, sockets: list[socket.socket], listeners: Sequence[int] | None = None
    ) -> None:
        """Accept connections on the listening sockets.

        ``listeners`` says which of ``listen`` each belongs to; by default they are in its order.
        """
        for at, sock in zip(listeners or range(len(sockets)), sockets, strict=True):
            accepts = network_of(self._loop).accept(sock, partial(self._accept, at), BACKLOG)
            self._servers.append(await accepts)
        self._sweeper = self._loop.call_later(self._sweep_every, self._sweep)

    def _accept(self, at: int) -> asyncio.Protocol:
        filters = self._filters[at] if at < len(self._filters) else None
        if filters is None:
            return cast(asyncio.Protocol, ClientConnection(self.context))
        return cast(asyncio.Protocol, Handshake(self.context, filters))

    def _sweep(self) -> None:
        context = self.context
        now = monotonic()
        context.head_ends.renew()
        self._tls_contexts.renew_keys(time())
        for connection in [c for c in context.connections if c.deadline < now]:
            connection.sweep(now)
        for service in [*self.services.values(), *self._leaving]:
            service.sweep(now)
        if context.draining and not context.connections:
            self._drained.set()
        self._sweeper = self._loop.call_later(self._sweep_every, self._sweep)

    def abort(self) -> None:
        """Close every connection of a client at once."""
        for connection in list(self.context.connections):
            connection.abort()

    async def drain(self, timeout: float, linger: float = 0.0) -> bool:
        """Stop accepting, let the requests in flight end, and close everything.

        Idle connections are closed at once, or after ``linger`` seconds; requests that they send until then
        get a response with ``Connection: close``. Waits at most ``timeout`` seconds; returns whether every
        connection ended by itself.
        """
        context = self.context
        for server in self._servers:
            server.close()
        context.draining = True
        until = monotonic() + linger if linger > 0 else None
        for connection in list(context.connections):
            connection.drain(until)
        self._sweep_every = _FINEST_SWEEP
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep()
        try:
            async with asyncio.timeout(timeout):
                await self._drained.wait()
        except TimeoutError:
            _log.warning(
                "drain timeout after %g s: closing %d connections",
                timeout,
                len(context.connections),
            )
        clean = not context.connections
        if not clean:
            for service in [*self.services.values(), *self._leaving]:
                service.end_long_lived()
            await asyncio.sleep(_FLUSH)
        self.abort()
        for service in [*self.services.values(), *self._leaving]:
            service.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        return clean


def _filters(
    listener: Listener, files: Files, tls_contexts: ContextCache
) -> ListenerFilters | None:
    """Return what precedes HTTP on the connections of a listener, ``None`` for nothing."""
    tls = listener.tls
    takes = (HTTP1 if "http1" in listener.protocols else 0) | (
        HTTP2 if "http2" in listener.protocols else 0
    )
    if tls is None:
        if listener.proxy_protocol == "off" and takes == HTTP1 | HTTP2:
            return None
        return ListenerFilters(listener.proxy_protocol, None, takes)
    alpn = [name for protocol, name in _ALPN.items() if protocol in listener.protocols]
    context = tls_contexts.server(tls, files, alpn, lambda: certificates.server_names(tls, files))
    return ListenerFilters(listener.proxy_protocol, context, takes)


def _sweep_every(limits: Limits) -> float:
    """Return the seconds between two sweeps: a quarter of the shortest timeout, within bounds."""
    shortest = min(
        limits.handshake_timeout,
        limits.header_timeout,
        limits.idle_timeout,
        limits.body_timeout,
        limits.first_byte_timeout,
        limits.endpoint_idle_timeout,
    )
    return min(max(shortest / 4, _FINEST_SWEEP), _COARSEST_SWEEP)
