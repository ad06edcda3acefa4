"""The data path of one worker: builds what its connections share, accepts, watches deadlines, drains."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import Final, cast

from canaryproxy.config import Config, Limits, Listener, Sticky, Variant
from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.config.secrets import signing_keys
from canaryproxy.http1.forwarding import TrustedProxies
from canaryproxy.http1.head_cache import RequestHeadCache, ResponseHeadCache
from canaryproxy.http1.request import RequestParser, Tolerated
from canaryproxy.measure import counters
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.conditions import MatchRules
from canaryproxy.measure.rescue import Patience, RescueRules
from canaryproxy.measure.resolved import Addresses, expand
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.measure.routing import CANARY, STABLE, RouteTable
from canaryproxy.measure.shared_memory import ServiceCells, TableCell
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.client_connection import HTTP1, HTTP2, ClientConnection
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.handshake import Handshake, ListenerFilters
from canaryproxy.proxy.http2_upstream import Http2Upstream
from canaryproxy.proxy.interfaces import ConnectionSource, SharedConnection, UpstreamLink
from canaryproxy.proxy.listener import BACKLOG
from canaryproxy.proxy.mirror import Mirror
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.probes import ProbeRules
from canaryproxy.proxy.routing import Router
from canaryproxy.proxy.sharing import Sharing
from canaryproxy.proxy.signing import Signer
from canaryproxy.proxy.sticky import CookieJar, cookie_stripper, key_reader
from canaryproxy.proxy.trial_rules import TrialRules
from canaryproxy.proxy.upstream_connection import UpstreamConnection
from canaryproxy.tls import files as certificates
from canaryproxy.tls.contexts import ContextCache, server_context
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
_FLUSH: Final = 0.05
"""Seconds for what was written at the end of a drain."""


class DataPath:
    """Carries the requests of one worker, by a configuration that can be replaced while it runs.

    ``cells`` is where it counts and leaves its records; ``access_log`` gets an entry for each request that
    ends. ``table`` is where route tables are published, possibly by another process: each takes effect with
    the next request.
    ``users``: users tried for the metric errors, users exposed, users converted.
    """

    __slots__ = (
        "_addresses",
        "_closer",
        "_config",
        "_drained",
        "_files",
        "_filters",
        "_loop",
        "_mirror",
        "_patience",
        "_records",
        "_rescue_after",
        "_routes",
        "_sampler",
        "_servers",
        "_sharing",
        "_sweep_every",
        "_sweeper",
        "_tls_contexts",
        "context",
    )

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        cells: ServiceCells,
        table: RouteTable | TableCell,
        access_log: AccessLog | None = None,
        files: Files | None = None,
    ) -> None:
        self._loop = loop
        if isinstance(table, TableCell):
            cell = table
        else:
            cell = TableCell()
            cell.publish(table)
        self._sharing = sharing = Sharing()
        self.context = WorkerContext(
            cells.counters,
            access_log,
            Router(cell, cells.counters.service, sharing),
            sharing.parsers,
        )
        cells.mark_used()
        self._records = cells.records
        self._routes = RouteNames(cells.names)
        self.context.pools = (Pool((), by_hash=False), Pool((), by_hash=False))
        self._tls_contexts = ContextCache()
        self._filters: tuple[ListenerFilters | None, ...] = ()
        """What precedes HTTP, by listener; ``None``: nothing."""
        self._sampler = BodySampler()
        self._mirror = Mirror(cells.counters)
        self._patience = Patience()
        self._rescue_after: float | None = None
        """Seconds, ``None``: those of ``_patience``."""
        self._servers: list[asyncio.Server] = []
        self._drained: asyncio.Event = asyncio.Event()
        """No connection is left."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._closer: asyncio.TimerHandle | None = None
        """Closes long-lived connections whose users have moved, while there are any."""
        if files is None:
            files = certificates.read(config)
        self._addresses: Addresses = {}
        self._configure(config, counters.slots(list(config.judge.outcomes), {}), files)

    # Configuration

    def reconfigure(
        self, config: Config, slots: Mapping[str, int], files: Files | None = None
    ) -> None:
        """Serve by another configuration from the next request on; requests in flight are not affected.

        ``slots`` are those of the outcomes, ``files`` those of TLS, read anew by default. Listening sockets
        stay as they are.
        """
        self._configure(config, slots, certificates.read(config) if files is None else files)
        for connection in self.context.connections:
            connection.renew_peer()

    def resolve(self, addresses: Addresses) -> None:
        """Make these the endpoints behind names, from the next request on.

        Requests at addresses that are gone end as they would have.
        """
        if addresses != self._addresses:
            self._addresses = addresses
            self._fill_pools(self._config)

    def _configure(self, config: Config, slots: Mapping[str, int], files: Files) -> None:
        context, limits = self.context, config.limits
        tls = ContextCache(self._tls_contexts)
        self._filters = tuple(_filters(listener, files, tls) for listener in config.listen)
        context.limits = limits
        context.max_requests = limits.max_requests
        context.first_byte_timeout = limits.first_byte_timeout
        context.idle_timeout = limits.idle_timeout
        context.trusted_proxies = TrustedProxies(
            config.forwarded.trust, by_forwarded=config.forwarded.client_from == "Forwarded"
        )
        context.load.configure(limits.shed_after)
        context.rescue = RescueRules(
            config.rescue, reversible=config.reversible, workers=config.worker_count
        )
        self._rescue_after = config.rescue.after
        context.rescue_after = inf
        context.head_ends.configure(config)
        self._sharing.configure(
            config.split,
            config.circuit,
            has_canary=config.variants.canary is not None,
            table=context.router.table,
        )
        context.long_lived.configure(config.circuit)
        context.trial_rules = TrialRules(config, slots, self._sampler, self._records, self._routes)
        signer = _signer(config.split.sticky, files)
        self._configure_router(config, signer)
        tolerate = self._tolerate if config.strict == "report" else None
        context.request_parser = _request_parser(
            config, signer, context.head_ends.requests, tolerate
        )
        self._config, self._files, self._tls_contexts = config, files, tls
        self._fill_pools(config)
        self._sweep_every = _sweep_every(limits)

    def _fill_pools(self, config: Config) -> None:
        context = self.context
        context.pools = (
            self._pool(STABLE, config.variants.stable),
            self._pool(CANARY, config.variants.canary),
        )
        self._refresh_pools()
        self._mirror.configure(config.mirror.percent, context.pools[1], context.first_byte_timeout)
        mirrors = config.mirror.percent > 0 and context.pools[1].endpoints
        context.mirror = self._mirror if mirrors else None

    def _tolerate(self, reason: Tolerated) -> None:
        """Count a request that ``strict: enforce`` would refuse; the log has the first of each kind."""
        cells, at = self.context.counters.proxy, counters.TOLERATED + reason
        cells[at] += 1
        if cells[at] == 1:
            _log.warning(
                "forwarded a request that strict: enforce would refuse: %s (logged once; see"
                " canaryproxy_tolerated_total)",
                _TOLERATED_TEXTS[reason],
            )

    def _configure_router(self, config: Config, signer: Signer | None) -> None:
        sticky = config.split.sticky
        mints = sticky.cookie is not None and sticky.set_
        probes, proxies = config.split.probes, self.context.trusted_proxies
        self.context.router.configure(
            key_reader(sticky, proxies, signer),
            CookieJar(sticky, signer) if mints else None,
            MatchRules(config.split.match),
            self.context.trial_rules.outcomes,
            probes=None if probes is None else ProbeRules(probes, proxies),
            proxies=proxies,
            key_is_in_headers=not sticky.address,
        )

    def _pool(self, which: int, variant: Variant | None) -> Pool:
        """Return the variant's pool; endpoints that it had before keep their connections and their state."""
        known = {endpoint.config: endpoint for endpoint in self.context.pools[which].endpoints}
        wanted = expand(variant.endpoints, self._addresses) if variant is not None else ()
        limits, parser = self.context.limits, self.context.response_parsers[which]
        endpoints = [
            known[one]
            if one in known
            else Endpoint(one, limits, self._loop, _protocol(one, parser))
            for one in wanted
        ]
        for one, endpoint in known.items():
            if one not in wanted:
                endpoint.close()
        by_hash = variant is not None and variant.balance == "hash"
        slow_start = 0.0 if variant is None else variant.slow_start
        pool = Pool(endpoints, by_hash=by_hash, slow_start=slow_start)
        tls = None if variant is None else variant.tls
        for one, endpoint in zip(wanted, endpoints, strict=True):
            endpoint.standing.was_up &= not known or one in known
            endpoint.config = one  # with the rank and the weight of now
            endpoint.limit(limits)
            endpoint.standing.by_hash = by_hash
            context = self._tls_contexts.client(endpoint.config, tls, self._files)
            endpoint.secure(context, None if tls is None else tls.server_name)
            endpoint.on_change = self._refresh_pools
        return pool

    def _refresh_pools(self) -> None:
        """Look again at which endpoints are up.

        Stable answers for a canary without any: it is tried all the same only if stable has none either.
        """
        now = monotonic()
        stable, canary = self.context.pools
        stable.refresh(now, may_panic=True)
        canary.refresh(now, may_panic=stable.panic)

    # The control plane's side

    def publish(self, table: RouteTable) -> None:
        """Route by this table from the next request on."""
        self.context.router.publish(table)

    def take_out(self, outs: Mapping[tuple[int, int], int]) -> None:
        """Take these endpoints, as ``OutCell.read`` returns them, out of service and all others back in."""
        changed = False
        for variant, pool in enumerate(self.context.pools):
            for endpoint in pool.endpoints:
                why, standing = outs.get((variant, endpoint.identity), 0), endpoint.standing
                changed |= why != standing.out
                standing.out = why
        if changed:
            self._refresh_pools()

    def tick(self) -> None:
        """Begin a tick of the judge: count the requests that are late by now, not when they end.

        What is recorded by then is shown to the judge. Then stable answers for a canary that is overdue, and
        long-lived connections follow their users.
        """
        now = monotonic()
        slow = self.context.router.current().slow
        for pool, slow_from in zip(self.context.pools, slow, strict=True):
            pool.tick(now, slow_from)
        self._renew_rescue(now)
        self.context.observe_load(now)
        for connection in self.context.connections:
            connection.mark_late(now)
        self._sampler.tick()
        self._records.flush()
        overdue, self.context.overdue = self.context.overdue, []
        for exchange in overdue:
            exchange.wait_no_longer()
        if self.context.long_lived.look(self.context.router.current(), now) and not self._closer:
            self._close_due()

    def _close_due(self) -> None:
        """Close the long-lived connections whose turn it is."""
        more = self.context.long_lived.close_due(monotonic())
        self._closer = self._loop.call_later(_CLOSE_EVERY, self._close_due) if more else None

    def _renew_rescue(self, now: float) -> None:
        """Update what rescue derives from stable's requests."""
        context = self.context
        stable = context.tallies[STABLE].values
        context.rescue.budget.observe(now, stable[counters.ROUTED])
        self._patience.observe(now, stable)
        after = self._patience.seconds if self._rescue_after is None else self._rescue_after
        context.rescue_after = after if after < context.first_byte_timeout else inf

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
            server = await self._loop.create_server(
                partial(self._accept, at), sock=sock, backlog=BACKLOG
            )
            self._servers.append(server)
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
        for connection in [c for c in context.connections if c.deadline < now]:
            connection.sweep(now)
        self._mirror.sweep(now)
        for pool in context.pools:
            for endpoint in pool.endpoints:
                endpoint.sweep(now)
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
            context.long_lived.end_all()
            await asyncio.sleep(_FLUSH)
        self.abort()
        self._records.flush()
        self._mirror.end()
        for pool in context.pools:
            for endpoint in pool.endpoints:
                endpoint.close()
        for timer in (self._sweeper, self._closer):
            if timer is not None:
                timer.cancel()
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
    names = [one for pair in tls.certificates for one in (pair.cert, pair.key)]
    alpn = tuple(name for protocol, name in _ALPN.items() if protocol in listener.protocols)
    context = tls_contexts.get(
        (tls, alpn, *(files.get(name) for name in (*names, tls.client_ca or ""))),
        lambda: server_context(tls, files, certificates.server_names(tls, files), protocols=alpn),
    )
    return ListenerFilters(listener.proxy_protocol, context, takes)


def _protocol(
    endpoint: EndpointConfig, parser: ResponseHeadCache
) -> Callable[[ConnectionSource], UpstreamLink | SharedConnection]:
    """Return what makes the protocol of a connection to an endpoint."""
    if endpoint.is_http2:
        return lambda source: Http2Upstream(source, parser)
    return lambda source: UpstreamConnection(source, parser)


def _request_parser(
    config: Config,
    signer: Signer | None,
    head_end: bytes,
    tolerate: Callable[[Tolerated], None] | None,
) -> RequestHeadCache:
    sticky = config.split.sticky
    hide = sticky.cookie is not None and not sticky.forward
    cookie_matters = _reads_header(config, "cookie") or any(
        part.cookie is not None for rule in config.split.match for part in rule.parts()
    )
    strip = cookie_stripper(sticky.cookie or "") if hide else None
    return RequestHeadCache(
        RequestParser(head_end, strip, create_trace=config.trace.create, tolerate=tolerate),
        trace_matters=_reads_header(config, "traceparent"),
        cookie_matters=cookie_matters,
        # Compiled, reading a plain cookie costs no more than finding its block among thousands.
        remember_cookies=cookie_matters or signer is not None or not COMPILED,
    )


def _signer(sticky: Sticky, files: Files) -> Signer | None:
    if sticky.sign is None:
        return None
    return Signer(
        signing_keys(files.get(sticky.sign.key_file, b"")), (sticky.cookie or "").encode()
    )


def _reads_header(config: Config, header: str) -> bool:
    """Tell whether a match rule, an outcome or the sticky key depends on this request header."""
    matches = [part.header for rule in config.split.match for part in rule.parts()]
    matches += [outcome.match.header for outcome in config.judge.outcomes.values()]
    names = [config.split.sticky.header, *(match.name for match in matches if match is not None)]
    return header in [name.lower() for name in names if name is not None]


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
