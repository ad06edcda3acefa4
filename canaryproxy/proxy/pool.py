"""The endpoints of a variant: which one gets a request, and the connections kept open to each.

An endpoint that fails to take connections is ejected: it gets no requests until a probe connection,
tried after a growing pause, succeeds. No request is spent on finding out that it is still down.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from random import getrandbits
from typing import TYPE_CHECKING, Final, cast

import aiohappyeyeballs
import mmh3

from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.config import Limits
from canaryproxy.measure.counters import Reason
from canaryproxy.proxy.failures import reason_of
from canaryproxy.tls.transport import TlsConnection

if TYPE_CHECKING:
    from canaryproxy.proxy.upstream_connection import UpstreamConnection

EJECT_AFTER = 3
"""Failures to connect in a row after which an endpoint is ejected."""
FIRST_PAUSE = 0.25
"""Seconds until an ejected endpoint is probed; doubles with every failed probe."""
LONGEST_PAUSE = 5.0
"""Longest pause between probes in seconds."""
DNS_TTL = 5.0
"""Seconds for which a resolved name is used before it is looked up again."""

# A linear congruential generator of full period (Hull & Dobell 1962) draws endpoints, for a tenth of what
# ``random`` costs. Its high bits are used, the better ones; all is small enough for compiled integers.
_FACTOR: Final = 22695477
_DRAW_BITS: Final = 30
_DRAWS: Final = 0x3FFFFFFF

_QUEUE_FULL = 0.01
"""Seconds until a Unix socket whose queue was full is tried again."""

_AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Caller:
    """Who asks an endpoint for a connection."""

    __slots__ = ()

    def wants(self, endpoint: Endpoint) -> bool:
        """Tell whether a connection of ``endpoint`` is still wanted."""
        raise NotImplementedError

    def connected(self, upstream: UpstreamConnection) -> None:
        """Take the connection; it is the caller's until released or closed."""
        raise NotImplementedError

    def connect_failed(self, endpoint: Endpoint, reason: Reason) -> None:
        """Learn that there is none to be had from ``endpoint``."""
        raise NotImplementedError


class Endpoint:
    """One endpoint: its open connections, and how it fares."""

    __slots__ = (
        "_addresses",
        "_connect_protocol",
        "_context",
        "_loop",
        "_pause",
        "_resolved_at",
        "_server_name",
        "_tasks",
        "_waiting",
        "active",
        "authority",
        "closed",
        "config",
        "ejected",
        "failures",
        "idle",
        "limits",
        "max_idle",
        "on_change",
        "on_open",
        "open",
    )

    def __init__(
        self,
        config: EndpointConfig,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        connect_protocol: Callable[[Endpoint], UpstreamConnection],
    ) -> None:
        self.config = config
        self.authority = config.authority
        self.active = 0
        """Requests that hold or wait for a connection of this endpoint."""
        self.idle: list[UpstreamConnection] = []
        """Connections to use again, the one used last at the end."""
        self.open = 0
        """Connections open or being opened."""
        self.failures = 0
        """Failures to connect since the last success."""
        self.ejected = False
        self.closed = False
        self.limit(limits)
        self.on_change: Callable[[], None] = _nothing
        """Called when the endpoint is ejected or comes back."""
        self.on_open: Callable[[Caller], None] | None = None
        """Called in place of dialling, for tests whose connections are in memory."""
        self._loop = loop
        self._connect_protocol = connect_protocol
        self._pause = FIRST_PAUSE
        self._waiting: deque[Caller] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._context: ssl.SSLContext | None = None
        self._server_name = config.host
        self._resolved_at = float("-inf")
        self._addresses: list[_AddrInfo] = [] if config.path else _literal(config.host, config.port)
        if self._addresses:
            self._resolved_at = float("inf")

    def limit(self, limits: Limits) -> None:
        """Keep within these from now on."""
        self.limits = limits
        self.max_idle = limits.max_endpoint_idle

    def secure(self, context: ssl.SSLContext | None, server_name: str | None) -> None:
        """Use this context for new connections, if the endpoint is https.

        ``server_name`` is the name to ask for and to verify; the endpoint's host by default.
        """
        self._context = context if self.config.scheme == "https" else None
        self._server_name = server_name or self.config.host.rstrip(".")

    def acquire(self, caller: Caller, *, fresh: bool = False) -> None:
        """Give the caller a connection: at once if one is idle, else when one is opened or released.

        ``fresh`` asks for a new connection, because an idle one just turned out to be stale.
        """
        if self.idle and not fresh:
            caller.connected(self.idle.pop())
        elif self.open < self.limits.max_endpoint_connections:
            self._open(caller)
        elif len(self._waiting) < self.limits.max_requests:
            self._waiting.append(caller)
        else:
            caller.connect_failed(self, Reason.OVERFLOW)

    def release(self, upstream: UpstreamConnection) -> None:
        """Take back a connection that can carry another request."""
        while self._waiting:
            caller = self._waiting.popleft()
            if caller.wants(self):
                caller.connected(upstream)
                return
        if len(self.idle) < self.max_idle and not self.closed:
            self.idle.append(upstream)
        else:
            upstream.close()

    def lost(self, upstream: UpstreamConnection) -> None:
        """Learn that a connection is closed."""
        self.open -= 1
        if upstream in self.idle:
            self.idle.remove(upstream)
        while self._waiting and self.open < self.limits.max_endpoint_connections:
            caller = self._waiting.popleft()
            if caller.wants(self):
                self._open(caller)

    def failed(self) -> None:
        """Note a failure to connect, or a new connection closed unanswered; may eject the endpoint."""
        self.failures += 1
        if self.failures >= EJECT_AFTER and not self.ejected and not self.closed:
            self.ejected = True
            self.on_change()
            self._loop.call_later(self._pause, self._probe)

    def sweep(self, oldest: float) -> None:
        """Close connections that have been idle since before ``oldest`` (monotonic seconds)."""
        while self.idle and self.idle[0].idle_since < oldest:
            self.idle.pop(0).close()

    def close(self) -> None:
        """Close idle connections and open no more for the pool; those in use close when released."""
        self.closed = True
        while self.idle:
            self.idle.pop().close()

    def _probe(self) -> None:
        if not self.closed:
            self._open(_Probe(self))

    def _readmit(self) -> None:
        self.failures = 0
        self._pause = FIRST_PAUSE
        if self.ejected:
            self.ejected = False
            self.on_change()

    def _probe_failed(self) -> None:
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if not self.closed:
            self._loop.call_later(self._pause, self._probe)

    def _open(self, caller: Caller) -> None:
        self.open += 1
        if self.on_open is not None:
            self.on_open(caller)
            return
        task = self._loop.create_task(self._connect(caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, caller: Caller) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                upstream = await self._dial()
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            self.open -= 1
            if not isinstance(caller, _Probe):
                self.failed()
            caller.connect_failed(self, reason_of(error))
            return
        if upstream.transport.is_closing():
            # It has been refused since it was opened; ``lost`` is told, or will be.
            if not isinstance(caller, _Probe):
                self.failed()
            caller.connect_failed(self, Reason.RESET)
            return
        self._readmit()
        if caller.wants(self):
            caller.connected(upstream)
        else:
            self.release(upstream)

    async def _dial(self) -> UpstreamConnection:
        if self.config.path:
            return await self._dial_unix(self.config.path)
        addresses = await self._resolve()
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=0.25 if len(addresses) > 1 else None, loop=self._loop
        )
        try:
            if self._context is not None:
                return await self._dial_tls(sock, self._context)
            _, upstream = await self._loop.create_connection(self._protocol, sock=sock)
        except BaseException:  # the socket is ours until a transport owns it, cancelled or not
            sock.close()
            raise
        return cast("UpstreamConnection", upstream)

    def _protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, self._connect_protocol(self))

    async def _dial_tls(self, sock: socket.socket, context: ssl.SSLContext) -> UpstreamConnection:
        done: asyncio.Future[UpstreamConnection | None] = self._loop.create_future()
        failure: list[Exception] = []  # not in the future: that would keep all of this alive

        def ready(error: Exception | None) -> None:
            if done.done():
                return
            if error is not None:
                failure.append(error)
                done.set_result(None)
                return
            upstream = self._connect_protocol(self)
            connection.set_protocol(cast(asyncio.Protocol, upstream))
            upstream.connection_made(connection)
            done.set_result(upstream)

        connection = TlsConnection(
            context, ready, server_side=False, server_hostname=self._server_name
        )
        await self._loop.create_connection(lambda: connection, sock=sock)
        try:
            upstream = await done
        except BaseException:  # a timeout, too
            connection.abort()
            raise
        if upstream is None:
            raise failure.pop()
        return upstream

    async def _dial_unix(self, path: str) -> UpstreamConnection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(path)
                except BlockingIOError:
                    # Its queue is full, and nothing tells when it is not (connect(2), EAGAIN).
                    await asyncio.sleep(_QUEUE_FULL)
                else:
                    break
            _, upstream = await self._loop.create_unix_connection(self._protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
        return cast("UpstreamConnection", upstream)

    async def _resolve(self) -> list[_AddrInfo]:
        """Return the addresses, another one first each time; the last known ones if DNS fails."""
        now = self._loop.time()
        if now - self._resolved_at >= DNS_TTL:
            try:
                found = await self._loop.getaddrinfo(
                    self.config.host, self.config.port, type=socket.SOCK_STREAM
                )
            except socket.gaierror:
                if not self._addresses:
                    raise
            else:
                self._addresses = [(int(f), int(t), p, n, a) for f, t, p, n, a in found]  # type: ignore[misc]
            self._resolved_at = now
        addresses = self._addresses
        if len(addresses) > 1:
            self._addresses = addresses[1:] + addresses[:1]
        return addresses


def _nothing() -> None:
    """Tell nobody."""


class _Probe(Caller):
    """Asks an ejected endpoint for a connection, in place of a request."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def wants(self, endpoint: Endpoint) -> bool:  # noqa: ARG002
        return True

    def connected(self, upstream: UpstreamConnection) -> None:
        self._endpoint.release(upstream)

    def connect_failed(self, endpoint: Endpoint, reason: Reason) -> None:  # noqa: ARG002
        self._endpoint._probe_failed()


class Pool:
    """The endpoints of one variant and how requests are spread over them."""

    __slots__ = ("_by_hash", "_draw", "_turn", "endpoints", "usable")

    def __init__(self, endpoints: Sequence[Endpoint], *, by_hash: bool) -> None:
        self.endpoints = tuple(endpoints)
        self.usable = self.endpoints
        """The endpoints that are not ejected."""
        self._by_hash = by_hash
        self._turn = 0
        self._draw = getrandbits(_DRAW_BITS)

    def refresh(self) -> None:
        """Learn that an endpoint was ejected or came back."""
        self.usable = tuple(endpoint for endpoint in self.endpoints if not endpoint.ejected)

    def choose(self, key: bytes | None, tried: Sequence[Endpoint] = ()) -> Endpoint | None:
        """Return the endpoint for a request, or ``None`` if none is usable.

        ``hash``: rendezvous hashing of the sticky key (Thaler & Ravishankar 1998), so that a session stays
        on its endpoint and only those of a lost endpoint move. Otherwise, and for requests without a key,
        the one with the fewest requests; above three endpoints the better of two drawn at random
        (Mitzenmacher 2001), which is as even and does not grow with their number.
        """
        usable = self.usable
        if tried:
            usable = tuple([endpoint for endpoint in usable if endpoint not in tried])
        count = len(usable)
        if count < 2:
            return usable[0] if count else None
        if self._by_hash and key is not None:
            return max(
                usable, key=lambda e: mmh3.hash(e.authority.encode() + b"\0" + key, signed=False)
            )
        if count > 3:
            self._draw = draw = (self._draw * _FACTOR + 1) & _DRAWS
            pair = draw * (count * (count - 1)) >> _DRAW_BITS
            one, other = pair // (count - 1), pair % (count - 1)
            first, second = usable[one], usable[other + 1 if other >= one else other]
            return second if second.active < first.active else first
        self._turn = turn = (self._turn + 1) % len(usable)
        best = usable[turn]  # among equals each in its turn
        for endpoint in usable:
            if endpoint.active < best.active:
                best = endpoint
        return best


def _literal(host: str, port: int) -> list[_AddrInfo]:
    """Return the address of an IP literal, which needs no resolving, or nothing for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if address.version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))]
