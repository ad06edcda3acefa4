"""A client's connection as the forwarding fields describe it.

Clients that open a connection for each request come from few addresses. What is found out about the requests
of one connection is the beginning of the next one's.
"""

from __future__ import annotations

import asyncio

from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.proxy_protocol import ProxyHeader
from canaryproxy.tls.transport import TlsConnection


class ConnectedPeer(Peer):
    """The client at the other end of a connection over TCP."""

    __slots__ = ("_client", "_transport")

    def __init__(self, client: Peer, transport: asyncio.Transport) -> None:
        super().__init__(client.address, client.proto, client.trusted, b"")
        self._client = client
        self._transport = transport
        self.begin_like(client)

    @property
    def local(self) -> bytes:
        if not self._local:
            host, port = self._transport.get_extra_info("sockname")[:2]
            self._local = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        return self._local

    def leave(self) -> None:
        self._client.begin_like(self)


def peer_of(
    transport: asyncio.Transport, proxies: TrustedProxies, header: ProxyHeader | None = None
) -> Peer:
    """Describe the client at the other end of ``transport``.

    ``header`` is the PROXY protocol header that came first: if it has addresses, they are the client's. A
    client that may open our Unix socket is trusted.
    """
    tls = isinstance(transport, TlsConnection)
    if header is not None and header.has_addresses:
        return _named(header, proxies, tls=tls)
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return ConnectedPeer(proxies.peer(name[0], tls=tls), transport)
    return Peer("", b"https" if tls else b"http", True, b"localhost")


def _named(header: ProxyHeader, proxies: TrustedProxies, *, tls: bool) -> Peer:
    """Describe the client that a PROXY protocol header names."""
    address, local, trusted = "", b"localhost", False
    if header.source is not None:
        address = header.source.host.removeprefix("::ffff:")
        trusted = proxies.trusts(address)
        local = str(header.destination).encode()
    return Peer(address, b"https" if tls else b"http", trusted, local)
