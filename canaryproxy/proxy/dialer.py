"""Opens connections to one endpoint: DNS, TCP (Happy Eyeballs), TLS, Unix sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, cast

import aiohappyeyeballs

from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.proxy.interfaces import SharedConnection, UpstreamLink
from canaryproxy.proxy.network import network_of
from canaryproxy.tls.transport import TlsConnection

DNS_TTL: Final = 5.0
"""Seconds for which a resolved name is used before it is looked up again.

Only ``localhost`` is resolved here, and a name that ``runtime.resolver`` has not found an address of.
"""

_BACKLOG_FULL: Final = 0.01
"""Seconds until a Unix socket with a full backlog is tried again."""
_NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address is tried in parallel (RFC 8305 §5)."""

Protocol = UpstreamLink | SharedConnection
"""The protocol of a connection: of HTTP/1.1 a link itself."""

_AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Dialer:
    """Opens connections to one endpoint; ``create_link`` makes the protocol of each."""

    __slots__ = (
        "_addresses",
        "_config",
        "_context",
        "_create_link",
        "_loop",
        "_resolved_at",
        "_server_name",
    )

    def __init__(
        self,
        config: EndpointConfig,
        loop: asyncio.AbstractEventLoop,
        create_link: Callable[[], Protocol],
    ) -> None:
        self._config = config
        self._loop = loop
        self._create_link = create_link
        self._context: ssl.SSLContext | None = None
        self._server_name = config.host
        self._resolved_at = float("-inf")
        self._addresses: list[_AddrInfo] = (
            [] if config.path else _literal(config.address or config.host, config.port)
        )
        if self._addresses:
            self._resolved_at = float("inf")

    def secure(self, context: ssl.SSLContext | None, server_name: str | None) -> None:
        """Use this context for new connections, if the endpoint speaks TLS.

        ``server_name`` is sent as SNI and verified; the endpoint's host by default.
        """
        self._context = context if self._config.is_tls else None
        self._server_name = server_name or self._config.host.rstrip(".")

    async def dial(self) -> UpstreamLink:
        """Open a connection. Raises ``OSError``, or ``ValueError`` for a name that cannot be one."""
        protocol = await self._connect()
        if isinstance(protocol, SharedConnection):
            return await protocol.first_link()
        return protocol

    async def _connect(self) -> Protocol:
        if self._config.path:
            return await self._dial_unix(self._config.path)
        addresses = await self._resolve()
        sock = await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=_NEXT_ADDRESS if len(addresses) > 1 else None,
            loop=self._loop,
        )
        with ExitStack() as on_failure:
            on_failure.callback(sock.close)
            if self._context is not None:
                made = await self._dial_tls(sock, self._context)
            else:
                made = cast(Protocol, await network_of(self._loop).open(sock, self._protocol))
            on_failure.pop_all()  # the socket is the transport's now
        return made

    def _protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, self._create_link())

    async def _dial_tls(self, sock: socket.socket, context: ssl.SSLContext) -> Protocol:
        done: asyncio.Future[Protocol | None] = self._loop.create_future()
        failure: list[Exception] = []  # not in the future: that would keep all of this alive

        def handshake_done(error: Exception | None) -> None:
            if done.done():
                return
            if error is not None:
                failure.append(error)
                done.set_result(None)
                return
            tls: ssl.SSLObject = connection.get_extra_info("ssl_object")
            if self._config.is_http2 and tls.selected_alpn_protocol() != "h2":
                failure.append(ssl.SSLError(1, "the server does not agree on HTTP/2 (ALPN h2)"))
                connection.set_protocol(asyncio.Protocol())
                connection.abort()
                done.set_result(None)
                return
            link = self._create_link()
            protocol = cast(asyncio.Protocol, link)
            connection.set_protocol(protocol)
            protocol.connection_made(cast(asyncio.Transport, connection))
            done.set_result(link)

        connection = TlsConnection(
            context, handshake_done, server_side=False, server_hostname=self._server_name
        )
        await network_of(self._loop).open(sock, lambda: cast(asyncio.Protocol, connection))
        with ExitStack() as on_failure:
            on_failure.callback(connection.abort)  # also at the timeout, which cancels this
            link = await done
            on_failure.pop_all()
        if link is None:
            raise failure.pop()
        return link

    async def _dial_unix(self, path: str) -> Protocol:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as on_failure:
            on_failure.callback(sock.close)
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(path)
                except BlockingIOError:
                    # The backlog is full, and there is no event for when it is not (connect(2), EAGAIN).
                    await asyncio.sleep(_BACKLOG_FULL)
                else:
                    break
            protocol = await network_of(self._loop).open(sock, self._protocol)
            on_failure.pop_all()
        return cast(Protocol, protocol)

    async def _resolve(self) -> list[_AddrInfo]:
        """Return the addresses, each time another one first; the last known ones if DNS fails."""
        if self._config.service:
            raise socket.gaierror(socket.EAI_NONAME, "no SRV records yet")
        now = self._loop.time()
        if now - self._resolved_at >= DNS_TTL:
            try:
                found = await self._loop.getaddrinfo(
                    self._config.host, self._config.port, type=socket.SOCK_STREAM
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


def _literal(host: str, port: int) -> list[_AddrInfo]:
    """Return the address of an IP literal, which needs no DNS; nothing for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if address.version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))]
