"""The data path of one worker: what its connections share, and the clock that watches them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from time import monotonic
from typing import Final

from canaryproxy import counters
from canaryproxy.config import Config, Variant
from canaryproxy.counters import Counters
from canaryproxy.proxy.answer_head import AnswerHeads
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.forwarding import Peer
from canaryproxy.proxy.listener import BACKLOG
from canaryproxy.proxy.pool import Endpoint, Pool
from canaryproxy.proxy.request_head import Request, RequestHeads
from canaryproxy.proxy.sticky import CookieJar, cookie_finder, cookie_stripper, key_reader
from canaryproxy.proxy.upstream import Upstream
from canaryproxy.proxy.witness import Witness
from canaryproxy.routing import MatchRules, RouteTable

_log = logging.getLogger(__name__)

_FINEST_SWEEP: Final = 0.05
_COARSEST_SWEEP: Final = 0.5


class DataPath:
    """Everything that one worker's connections need, made from the configuration.

    ``counters`` is where it counts. ``publish`` replaces the route table: it acts on the next request.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        cells: Counters,
        table: RouteTable,
    ) -> None:
        self._loop = loop
        self.counters = cells
        self.table = table
        self.limits = config.limits
        self.head_end = b"Via: 1.1 %b\r\n\r\n" % config.forwarded.via.encode("latin-1")
        """What ends every head that we send: our Via field (RFC 9110 §7.6.3) and the empty line."""
        self.rescue = config.rescue.enabled
        self.rescue_header = config.rescue.header
        self.replay_buffer = config.rescue.replay_buffer
        sticky = config.split.sticky
        self.read_key = key_reader(sticky)
        self.key_is_in_fields = not sticky.address
        own_cookie = sticky.cookie is not None and sticky.set_
        self.jar = CookieJar(sticky) if own_cookie else None
        hide = sticky.cookie is not None and not sticky.forward
        strip = cookie_stripper(sticky.cookie or "") if hide else None
        self.requests = RequestHeads(loop, self.head_end, strip)
        self.answers = AnswerHeads(loop)
        self.rules = MatchRules(config.split.match)
        self.witness = Witness(config, counters.slots(list(config.judge.outcomes), {}))
        self.pools = (self._pool(config.variants.stable), self._pool(config.variants.canary))
        self.connections: set[Downstream] = set()
        self.in_flight = 0
        """Requests being answered, tunnels included."""
        self.draining = False
        self._trust = config.forwarded.trust
        self._servers: list[asyncio.Server] = []
        self._emptied: asyncio.Event = asyncio.Event()
        limits = config.limits
        shortest = min(
            limits.header_timeout,
            limits.idle_timeout,
            limits.body_timeout,
            limits.first_byte_timeout,
            limits.endpoint_idle_timeout,
        )
        self._sweep_every = min(max(shortest / 4, _FINEST_SWEEP), _COARSEST_SWEEP)
        self._sweeper: asyncio.TimerHandle | None = None

    def _pool(self, variant: Variant | None) -> Pool:
        if variant is None:
            return Pool((), by_hash=False)

        def refresh() -> None:
            pool.refresh()

        pool = Pool(
            [
                Endpoint(
                    endpoint,
                    self.limits,
                    self._loop,
                    lambda where: Upstream(where, self.answers),
                    refresh,
                )
                for endpoint in variant.endpoints
            ],
            by_hash=variant.balance == "hash",
        )
        return pool

    def publish(self, table: RouteTable) -> None:
        """Route by this table from the next request on."""
        self.table = table

    def begin_tick(self) -> None:
        """Learn that a tick of the judge begins."""
        self.witness.tick()

    def new_round(self) -> None:
        """Let every user count again for the metric errors."""
        self.witness.new_round()

    def refresh(self, limit: int) -> None:
        """To be called every ten seconds; buckets below ``limit`` are on the canary."""
        self.witness.refresh(limit)

    def mark_late(self) -> None:
        """Count the requests in flight that are past a threshold: at once, not when they end."""
        now = monotonic()
        for connection in self.connections:
            connection.mark_late(now)

    def cookie(self, request: Request, name: str) -> str | None:
        """Return the value of a cookie of the request, or ``None``."""
        value = _finder(name)(request.fields.cookie)
        return None if value is None else value.decode("latin-1")

    def peer_of(self, transport: asyncio.Transport) -> Peer:
        """Return what the forwarding fields say of a client's connection."""
        address, local = "", b"localhost"
        name = transport.get_extra_info("peername")
        trusted = not isinstance(name, tuple)  # who may open our Unix socket is one of us
        if not trusted:
            address = name[0].partition("%")[0].removeprefix("::ffff:")
            if self._trust:
                ip = ip_address(address)
                trusted = any(ip in network for network in self._trust)
            host, port = transport.get_extra_info("sockname")[:2]
            local = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        proto = b"https" if transport.get_extra_info("sslcontext") else b"http"
        return Peer(address, proto, trusted, local)

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Accept connections on the listening sockets."""
        for sock in sockets:
            self._servers.append(
                await self._loop.create_server(lambda: Downstream(self), sock=sock, backlog=BACKLOG)
            )
        self._sweeper = self._loop.call_later(self._sweep_every, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        for connection in [c for c in self.connections if c.deadline < now]:
            connection.sweep(now)
        oldest = now - self.limits.endpoint_idle_timeout
        for pool in self.pools:
            for endpoint in pool.endpoints:
                endpoint.sweep(oldest)
        if self.draining and not self.connections:
            self._emptied.set()
        self._sweeper = self._loop.call_later(self._sweep_every, self._sweep)

    async def drain(self, timeout: float) -> bool:
        """Stop accepting, let the requests in flight end, and close everything.

        Waits at most ``timeout`` seconds; returns whether every connection ended by itself.
        """
        for server in self._servers:
            server.close()
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        self._sweep_every = _FINEST_SWEEP
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied.wait()
        except TimeoutError:
            _log.warning("drain timeout: closing %d connections", len(self.connections))
        clean = not self.connections
        for connection in list(self.connections):
            connection.transport.abort()
        for pool in self.pools:
            for endpoint in pool.endpoints:
                endpoint.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        return clean


@lru_cache(maxsize=64)
def _finder(name: str) -> Callable[[bytes], bytes | None]:
    return cookie_finder(name)
