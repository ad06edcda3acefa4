"""The data path of one worker: what its connections share, and the clock that watches them."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from ipaddress import ip_address
from time import monotonic
from typing import Final, cast

from canaryproxy.config import Config, Listener, Sticky, Variant
from canaryproxy.config.secrets import signing_keys
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache, ResponseHeadCache
from canaryproxy.http1.proxy_protocol import ProxyHeader
from canaryproxy.http1.request import Request, RequestParser
from canaryproxy.http1.response import ResponseParser
from canaryproxy.measure import counters
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.counters import Counters, Tally
from canaryproxy.measure.routing import VARIANTS, MatchRules, RouteTable
from canaryproxy.measure.shared_memory import TableCell
from canaryproxy.measure.trials import UserReducer
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.client_connection import ClientConnection
from canaryproxy.proxy.handshake import Handshake, ListenerFilters
from canaryproxy.proxy.listener import BACKLOG
from canaryproxy.proxy.mirror import Mirror
from canaryproxy.proxy.pool import Endpoint, Pool
from canaryproxy.proxy.signing import Signer
from canaryproxy.proxy.sticky import CookieFinder, CookieJar, cookie_stripper, key_reader
from canaryproxy.proxy.trial_recorder import Witness
from canaryproxy.proxy.upstream_connection import UpstreamConnection
from canaryproxy.tls import files as certificates
from canaryproxy.tls.contexts import client_context, server_context
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

_FINEST_SWEEP: Final = 0.05
_COARSEST_SWEEP: Final = 0.5


class DataPath:
    """Everything that one worker's connections need, made from the configuration.

    ``counters`` is where it counts; ``access_log`` gets every request that ends. ``table`` is where route
    tables are published, possibly by another process: each acts on the next request. ``users`` knows them:
    trials of the metric errors, users exposed, users converted.
    """

    __slots__ = (
        "_cell",
        "_contexts",
        "_emptied",
        "_gates",
        "_inspector",
        "_loop",
        "_mirror",
        "_servers",
        "_sweep_every",
        "_sweeper",
        "_trust",
        "_users",
        "access_log",
        "answer_ends",
        "answers",
        "connections",
        "counters",
        "draining",
        "entering",
        "first_byte_timeout",
        "head_end",
        "idle_timeout",
        "in_flight",
        "jar",
        "key_is_in_fields",
        "key_reader",
        "limits",
        "looks",
        "max_requests",
        "mirror",
        "pools",
        "replay_buffer",
        "requests",
        "rescue",
        "rescue_header",
        "rules",
        "seen",
        "sequence",
        "table",
        "tallies",
        "variant_lines",
        "witness",
    )

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        cells: Counters,
        table: RouteTable | TableCell,
        access_log: AccessLog | None = None,
        users: tuple[UserReducer, ...] | None = None,
        files: Files | None = None,
    ) -> None:
        self._loop = loop
        self._contexts: dict[object, ssl.SSLContext] = {}
        self._gates: tuple[ListenerFilters | None, ...] = ()
        """What connections have to pass, by listener; ``None``: nothing."""
        self.access_log = access_log
        self.counters = cells
        self.tallies = (Tally(cells.stable), Tally(cells.canary))
        """Counts of each variant."""
        self._users = users or (UserReducer(), UserReducer(), UserReducer())
        self._inspector = BodySampler()
        if isinstance(table, TableCell):
            self._cell = table
        else:
            self._cell = TableCell()
            self._cell.publish(table)
        self.sequence = self._cell.sequence
        """One cell: when it is not ``seen``, there is another table."""
        self.seen = 0
        self.table = RouteTable()  # everybody to stable, until there is one
        self.look()
        self.answers = ResponseHeadCache(ResponseParser())
        self.connections: set[ClientConnection] = set()
        self.entering: set[Handshake] = set()
        """Connections whose PROXY header or TLS handshake is not complete."""
        self.in_flight = 0
        """Requests being answered, tunnels included."""
        self.draining = False
        self.pools = (Pool((), by_hash=False), Pool((), by_hash=False))
        self._mirror = Mirror(self)
        self._servers: list[asyncio.Server] = []
        self._emptied: asyncio.Event = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        if files is None:
            files = certificates.read(config)
        self._configure(config, counters.slots(list(config.judge.outcomes), {}), files)

    def reconfigure(
        self, config: Config, slots: Mapping[str, int], files: Files | None = None
    ) -> None:
        """Serve by another configuration from the next request on; nothing in flight is touched.

        ``slots`` are those of the outcomes, ``files`` those of TLS, read anew by default. Sockets stay as
        they are.
        """
        self._configure(config, slots, certificates.read(config) if files is None else files)
        for connection in self.connections:
            connection.renew_peer()

    def _configure(self, config: Config, slots: Mapping[str, int], files: Files) -> None:
        made: dict[object, ssl.SSLContext] = {}
        self._gates = tuple(self._gate(listener, files, made) for listener in config.listen)
        self.limits = limits = config.limits
        self.max_requests = limits.max_requests
        self.first_byte_timeout = limits.first_byte_timeout
        self.idle_timeout = limits.idle_timeout
        self.head_end = b"Via: 1.1 %b\r\n\r\n" % config.forwarded.via.encode("latin-1")
        """What ends every head that we send upstream: our Via field (RFC 9110 §7.6.3) and the empty line."""
        variant_header = (config.split.variant_header or "").encode("latin-1")
        self.variant_lines = tuple(
            b"%b: %b\r\n" % (variant_header, name.encode()) if variant_header else b""
            for name in VARIANTS
        )
        """The line that names the variant, if answers are to have one."""
        self.answer_ends = tuple(line + self.head_end for line in self.variant_lines)
        """What ends the head of an answer, by variant."""
        self.answers.replace_parser(ResponseParser(variant_header))
        self.rescue = config.rescue.enabled
        self.rescue_header = config.rescue.header
        self.replay_buffer = config.rescue.replay_buffer
        sticky = config.split.sticky
        signer = _signer(sticky, files)
        self.key_reader = key_reader(sticky, signer)
        self.key_is_in_fields = not sticky.address
        own_cookie = sticky.cookie is not None and sticky.set_
        self.jar = CookieJar(sticky, signer) if own_cookie else None
        hide = sticky.cookie is not None and not sticky.forward
        strip = cookie_stripper(sticky.cookie or "") if hide else None
        cookie_matters = _looks_at(config, "cookie") or any(
            rule.cookie is not None for rule in config.split.match
        )
        self.requests = RequestHeadCache(
            RequestParser(self.head_end, strip, create_trace=config.trace.create),
            trace_matters=_looks_at(config, "traceparent"),
            cookie_matters=cookie_matters,
            # Compiled, reading a plain cookie costs no more than finding its block among thousands.
            remember_cookies=cookie_matters or signer is not None or not COMPILED,
        )
        self.rules = MatchRules(config.split.match)
        self.witness = Witness(config, slots, self._users, self._inspector)
        self.looks = bool(self.rules) or bool(self.witness.outcomes)
        """Whether rules or outcomes look at requests."""
        stable, canary = self.pools
        self.pools = (
            self._pool(config.variants.stable, stable, files, made),
            self._pool(config.variants.canary, canary, files, made),
        )
        self._contexts = made
        self._mirror.set_percent(config.mirror.percent)
        self.mirror = (
            self._mirror if config.mirror.percent > 0 and self.pools[1].endpoints else None
        )
        """What copies requests, if any shall be."""
        self._trust = config.forwarded.trust
        shortest = min(
            limits.handshake_timeout,
            limits.header_timeout,
            limits.idle_timeout,
            limits.body_timeout,
            limits.first_byte_timeout,
            limits.endpoint_idle_timeout,
        )
        self._sweep_every = min(max(shortest / 4, _FINEST_SWEEP), _COARSEST_SWEEP)

    def _gate(
        self, listener: Listener, files: Files, made: dict[object, ssl.SSLContext]
    ) -> ListenerFilters | None:
        """Return what connections of a listener have to pass."""
        tls = listener.tls
        if tls is None:
            if listener.proxy_protocol == "off":
                return None
            return ListenerFilters(listener.proxy_protocol, None)
        names = [one for pair in tls.certificates for one in (pair.cert, pair.key)]
        context = self._context(
            (tls, *(files.get(name) for name in (*names, tls.client_ca or ""))),
            lambda: server_context(tls, files, certificates.server_names(tls, files)),
            made,
        )
        return ListenerFilters(listener.proxy_protocol, context)

    def _context(
        self,
        key: object,
        make: Callable[[], ssl.SSLContext],
        made: dict[object, ssl.SSLContext],
    ) -> ssl.SSLContext:
        """Return a context, the one in use if nothing has changed: it knows the sessions of its clients."""
        context = made[key] = made.get(key) or self._contexts.get(key) or make()
        return context

    def _pool(
        self,
        variant: Variant | None,
        before: Pool,
        files: Files,
        made: dict[object, ssl.SSLContext],
    ) -> Pool:
        """Return the variant's pool; endpoints that it had before keep their connections and their fate."""
        had = {endpoint.config: endpoint for endpoint in before.endpoints}
        wanted = variant.endpoints if variant is not None else ()
        endpoints = [
            had[one]
            if one in had
            else Endpoint(
                one, self.limits, self._loop, lambda where: UpstreamConnection(where, self.answers)
            )
            for one in wanted
        ]
        for one, gone in had.items():
            if one not in wanted:
                gone.close()
        pool = Pool(endpoints, by_hash=variant is not None and variant.balance == "hash")
        tls = None if variant is None else variant.tls
        context = None
        if any(one.scheme == "https" for one in wanted):
            names = () if tls is None else (tls.ca or "", tls.cert or "", tls.key or "")
            context = self._context(
                (tls, *map(files.get, names)), lambda: client_context(tls, files), made
            )
        for endpoint in endpoints:
            endpoint.limit(self.limits)
            endpoint.secure(context, None if tls is None else tls.server_name)
            endpoint.on_change = pool.refresh
        pool.refresh()
        return pool

    def publish(self, table: RouteTable) -> None:
        """Route by this table from the next request on."""
        self._cell.publish(table)

    def look(self) -> None:
        """Take the table that was published last; while it is being written, the old one holds."""
        found = self._cell.read()
        if found is not None:
            self.seen, self.table, _ = found

    def begin_tick(self) -> None:
        """Learn that a tick of the judge begins."""
        self._inspector.tick()

    def mark_late(self) -> None:
        """Count the requests in flight that are past a threshold: at once, not when they end."""
        now = monotonic()
        for connection in self.connections:
            connection.mark_late(now)

    def cookie(self, request: Request, name: str) -> str | None:
        """Return the value of a cookie of the request, or ``None``."""
        value = _finder(name).find(request.headers.cookie)
        return None if value is None else value.decode("latin-1")

    def is_full(self) -> bool:
        """Tell whether there are as many connections as there may be."""
        return len(self.connections) + len(self.entering) >= self.limits.max_connections

    def peer_of(self, transport: asyncio.Transport, header: ProxyHeader | None = None) -> Peer:
        """Return what the forwarding fields say of a client's connection.

        ``header`` is what the proxy before us said of it: then the client is who is named there.
        """
        address, local = "", b"localhost"
        name = transport.get_extra_info("peername")
        trusted = not isinstance(name, tuple)  # who may open our Unix socket is one of us
        if header is not None and header.has_addresses:
            trusted = False
            if header.source is not None:
                address = header.source.host.removeprefix("::ffff:")
                trusted = self._trusts(address)
                local = str(header.destination).encode()
        elif not trusted:
            address = name[0].partition("%")[0].removeprefix("::ffff:")
            trusted = self._trusts(address)
            host, port = transport.get_extra_info("sockname")[:2]
            local = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        proto = b"https" if transport.get_extra_info("sslcontext") else b"http"
        return Peer(address, proto, trusted, local)

    def _trusts(self, address: str) -> bool:
        if not self._trust:
            return False
        ip = ip_address(address)
        return any(ip in network for network in self._trust)

    async def serve(
        self, sockets: list[socket.socket], places: Sequence[int] | None = None
    ) -> None:
        """Accept connections on the listening sockets.

        ``places`` says which of ``listen`` each belongs to; by default they are in its order.
        """
        for at, sock in zip(places or range(len(sockets)), sockets, strict=True):
            server = await self._loop.create_server(
                partial(self._accept, at), sock=sock, backlog=BACKLOG
            )
            self._servers.append(server)
        self._sweeper = self._loop.call_later(self._sweep_every, self._sweep)

    def _accept(self, at: int) -> asyncio.Protocol:
        gate = self._gates[at] if at < len(self._gates) else None
        return (
            cast(asyncio.Protocol, ClientConnection(self))
            if gate is None
            else Handshake(self, gate)
        )

    def _sweep(self) -> None:
        now = monotonic()
        if self.entering:
            for entrance in [e for e in self.entering if e.deadline < now]:
                entrance.sweep()
        for connection in [c for c in self.connections if c.deadline < now]:
            connection.sweep(now)
        self._mirror.sweep(now)
        oldest = now - self.limits.endpoint_idle_timeout
        for pool in self.pools:
            for endpoint in pool.endpoints:
                endpoint.sweep(oldest)
        if self.draining and not (self.connections or self.entering):
            self._emptied.set()
        self._sweeper = self._loop.call_later(self._sweep_every, self._sweep)

    def abort(self) -> None:
        """Close every connection of a client, whatever is under way."""
        for entrance in list(self.entering):
            entrance.abort()
        for connection in list(self.connections):
            connection.transport.abort()

    async def drain(self, timeout: float, linger: float = 0.0) -> bool:
        """Stop accepting, let the requests in flight end, and close everything.

        Connections that wait for a request are closed at once, or after ``linger`` seconds; what they send
        until then is answered with ``Connection: close``. Waits at most ``timeout`` seconds; returns whether
        every connection ended by itself.
        """
        for server in self._servers:
            server.close()
        self.draining = True
        if linger <= 0:
            for entrance in list(self.entering):
                entrance.abort()
        until = monotonic() + linger if linger > 0 else None
        for connection in list(self.connections):
            connection.drain(until)
        self._sweep_every = _FINEST_SWEEP
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied.wait()
        except TimeoutError:
            _log.warning("drain timeout: closing %d connections", len(self.connections))
        clean = not (self.connections or self.entering)
        self.abort()
        self._mirror.end()
        for pool in self.pools:
            for endpoint in pool.endpoints:
                endpoint.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        return clean


def _signer(sticky: Sticky, files: Files) -> Signer | None:
    if sticky.sign is None:
        return None
    return Signer(
        signing_keys(files.get(sticky.sign.key_file, b"")), (sticky.cookie or "").encode()
    )


def _looks_at(config: Config, header: str) -> bool:
    """Tell whether a rule, an outcome or the sticky key looks at a header of requests."""
    matches = [rule.header for rule in config.split.match]
    matches += [outcome.match.header for outcome in config.judge.outcomes.values()]
    names = [config.split.sticky.header, *(match.name for match in matches if match is not None)]
    return header in [name.lower() for name in names if name is not None]


@lru_cache(maxsize=64)
def _finder(name: str) -> CookieFinder:
    return CookieFinder(name)
