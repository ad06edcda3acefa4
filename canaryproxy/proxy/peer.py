"""A client's connection as the forwarding fields describe it."""

from __future__ import annotations

import asyncio

from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.proxy_protocol import ProxyHeader


def peer_of(
    transport: asyncio.Transport, proxies: TrustedProxies, header: ProxyHeader | None = None
) -> Peer:
    """Describe the client at the other end of ``transport``.

    ``header`` is the PROXY protocol header that came first: if it has addresses, they are the client's. A
    client that may open our Unix socket is trusted.
    """
    address, local = "", b"localhost"
    name = transport.get_extra_info("peername")
    trusted = not isinstance(name, tuple)
    if header is not None and header.has_addresses:
        trusted = False
        if header.source is not None:
            address = header.source.host.removeprefix("::ffff:")
            trusted = proxies.trusts(address)
            local = str(header.destination).encode()
    elif not trusted:
        address = name[0].partition("%")[0].removeprefix("::ffff:")
        trusted = proxies.trusts(address)
        host, port = transport.get_extra_info("sockname")[:2]
        local = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
    proto = b"https" if transport.get_extra_info("sslcontext") else b"http"
    return Peer(address, proto, trusted, local)
