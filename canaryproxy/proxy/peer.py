"""A client's connection as the forwarding fields describe it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.proxy_protocol import ProxyHeader

Networks = Sequence[IPv4Network | IPv6Network]


def peer_of(
    transport: asyncio.Transport, trusted_networks: Networks, header: ProxyHeader | None = None
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
            trusted = _is_in(address, trusted_networks)
            local = str(header.destination).encode()
    elif not trusted:
        address = name[0].partition("%")[0].removeprefix("::ffff:")
        trusted = _is_in(address, trusted_networks)
        host, port = transport.get_extra_info("sockname")[:2]
        local = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
    proto = b"https" if transport.get_extra_info("sslcontext") else b"http"
    return Peer(address, proto, trusted, local)


def _is_in(address: str, networks: Networks) -> bool:
    if not networks:
        return False
    ip = ip_address(address)
    return any(ip in network for network in networks)
