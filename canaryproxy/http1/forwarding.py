"""X-Forwarded-* and Forwarded (RFC 7239): fields that describe the client to the upstream."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final

from canaryproxy.http1.fields import (
    IS_FORWARDED,
    IS_FORWARDED_FOR,
    IS_FORWARDED_HOST,
    IS_FORWARDED_PROTO,
    TOKEN,
)
from canaryproxy.measure.conditions import Networks, is_within

_MAX_CACHED: Final = 256
"""Most bytes of a host, and of values of forwarding fields, that an idle connection keeps in memory."""


_CACHED_ADDRESSES: Final = 4096
_REMEMBERED_PEERS: Final = 1024
_LONGEST_ADDRESS: Final = 64
"""Bytes of the longest text that may be an address: IPv6 with a zone, brackets and a port."""


_BRACKETED: Final = re.compile(rb"\[([^\]]*)\](?::[0-9]+)?")
_WITH_PORT: Final = re.compile(rb"([0-9.]+):[0-9]+")
_PAIR: Final = re.compile(
    rb"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+|\"[^\"\\,;]*\"))?[ \t]*"
)
"""A pair of an element of Forwarded. Inside quotes no comma, semicolon or escape: no address needs them."""


class TrustedProxies:
    """The proxies before us whose forwarding fields are believed, as networks."""

    __slots__ = ("_cached", "_field", "_networks", "_peers")

    def __init__(self, networks: Networks = (), *, by_forwarded: bool = False) -> None:
        """``by_forwarded``: they describe the client in Forwarded (RFC 7239), not in X-Forwarded-For."""
        self._networks = tuple(networks)
        self._field = IS_FORWARDED if by_forwarded else IS_FORWARDED_FOR
        self._cached: dict[bytes, tuple[str, bool]] = {}
        # Of any length: a compiled pair would be made anew to take one of it by number.
        self._peers: tuple[dict[str, Peer], ...] = ({}, {})

    def peer(self, name: str, *, tls: bool) -> Peer:
        """Return the client at an address as the kernel names it, with what is remembered of it.

        It is the same object for all connections of the client, and none of them is its own.
        """
        peers = self._peers[tls]
        known = peers.get(name)
        if known is not None:
            return known
        address = name.partition("%")[0].removeprefix("::ffff:")
        found = Peer(address, b"https" if tls else b"http", self.trusts(address), b"")
        if len(peers) >= _REMEMBERED_PEERS:
            peers.clear()
        peers[name] = found
        return found

    def trusts(self, address: str) -> bool:
        """Tell whether the proxy with this address is one of them."""
        return bool(self._networks) and is_within(address, self._networks)

    def client_of(self, received: list[tuple[int, bytes]] | None, nearest: str) -> str:
        """Return the client's address according to the forwarding fields of a request.

        ``received`` are pairs of kind and value. One kind is read: a proxy that appends to X-Forwarded-For
        passes on a Forwarded that the client wrote, and the other way round.
        """
        if received is None:
            return nearest
        lines = [value for kind, value in received if kind == self._field]
        return self.client(b",".join(lines), nearest)

    def client_at(self, peer: Peer, received: list[tuple[int, bytes]] | None) -> str:
        """Return the client's address: the peer's, unless the peer is a trusted proxy that names another."""
        return self.client_of(received, peer.address) if peer.trusted else peer.address

    def client(self, chain: bytes, nearest: str) -> str:
        """Return the client's address: the first one from the right that is not a trusted proxy's.

        ``chain`` is the value of the field, ``nearest`` the trusted proxy that sent it. Each trusted
        proxy has appended the address that it saw, so its entry is true; what a stranger wrote further left
        is not read. If all are trusted, the client is one of them: the leftmost. At an entry that is no
        address, the walk ends with the proxy that wrote it.
        """
        if not chain:
            return nearest
        found = nearest
        for entry in reversed(chain.split(b",")):
            address, trusted = self._cached.get(entry) or self._read(entry)
            if not address:
                return found
            found = address
            if not trusted:
                return found
        return found

    def _read(self, entry: bytes) -> tuple[str, bool]:
        """Return the address in an entry, empty if it is none, and whether it is a trusted proxy's."""
        address = address_in(node_in(entry) if self._field == IS_FORWARDED else entry)
        read = address, is_within(address, self._networks)
        if len(entry) <= _LONGEST_ADDRESS:
            if len(self._cached) >= _CACHED_ADDRESSES:
                self._cached.clear()
            self._cached[entry] = read
        return read


def node_in(element: bytes) -> bytes:
    """Return the value of ``for`` in an element of Forwarded; empty if it has none or is malformed.

    A quote that a client has opened further left and not closed makes no element further right part of its
    text: elements are parted at each comma.
    """
    node = b""
    for pair in element.split(b";"):
        found = _PAIR.fullmatch(pair)
        if found is None:
            return b""
        if found[1] is not None and found[1].lower() == b"for":
            if node:
                return b""
            node = found[2]
    return node


def address_in(entry: bytes) -> str:
    """Return the IP address in an entry of X-Forwarded-For, in its shortest form; empty if it has none.

    A port, brackets and a zone are left out: they do not identify a user. An IPv4 address that is written as
    IPv6 is the IPv4 address.
    """
    text = entry.strip(b' \t"')
    if len(text) > _LONGEST_ADDRESS:
        return ""
    match = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match[1]
    try:
        ip = ip_address(text.partition(b"%")[0].decode("ascii"))
    except ValueError:
        return ""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip)


class Peer:
    """The client of one connection, as the forwarding fields describe it."""

    __slots__ = (
        "_end",
        "_ending",
        "_host",
        "_local",
        "_received",
        "_rest",
        "address",
        "http2",
        "proto",
        "template",
        "trusted",
    )

    def __init__(self, address: str, proto: bytes, trusted: bool, local: bytes) -> None:
        self.address = address
        """The client's address, empty for a Unix socket."""
        self.proto = proto
        """The scheme of this connection, ``http`` or ``https``."""
        self.trusted = trusted
        """The client's own forwarding fields are kept, and ours appended."""
        self._local = local
        self.http2 = False
        """It speaks HTTP/2."""
        self.template = -1
        """Number of the header template of the last request (``head_cache``); -1: none yet."""
        self._host = self._end = self._ending = b""
        self._received: list[tuple[int, bytes]] | None = None
        self._rest = b""
        """What the last lines of a head were made of, and those lines without X-Forwarded-For: most often as
        those of the next one."""

    @property
    def local(self) -> bytes:
        """Host for HTTP/1.0 clients that send none: the address that the client connected to."""
        return self._local

    def leave(self) -> None:
        """Keep what was found out for the next connection of the client: this one is over."""

    def begin_like(self, other: Peer) -> None:
        """Take over what was found out about another connection of the same client."""
        self.template = other.template
        self._host, self._end, self._ending = other._host, other._end, other._ending
        self._received, self._rest = other._received, other._rest

    def ending(
        self,
        host: bytes,
        received: list[tuple[int, bytes]] | None,
        extra: bytes,
        end: bytes,
        client: bytes | None = None,
    ) -> bytes:
        """Return the last lines of a head to forward: X-Forwarded-*, Forwarded, ``extra`` and ``end``.

        ``received`` are the client's own forwarding fields as pairs of kind and value, but for the ``client``
        in X-Forwarded-For if that is given.
        """
        if (
            received is self._received
            and host == self._host
            and end == self._end
            and client is None
            and not extra
        ):
            return self._ending
        if not self.trusted:
            received, client = None, None
        if extra:
            values = _by_kind(received)
            return self._chain(values, client) + self._rest_of(host, values) + extra + end
        if host != self._host or end != self._end or received != self._received:
            values = _by_kind(received)
            rest = self._rest_of(host, values) + end
            if len(host) + sum(len(value) for _, value in received or ()) > _MAX_CACHED:
                return self._chain(values, client) + rest
            self._host, self._end, self._received = host, end, received
            self._rest, self._ending = rest, self._chain(values) + rest
        if client is None:
            return self._ending
        return self._chain({}, client) + self._rest

    def _chain(self, values: dict[int, list[bytes]], client: bytes | None = None) -> bytes:
        """Return the line of X-Forwarded-For."""
        chain = values.get(IS_FORWARDED_FOR, []) if client is None else [client]
        if self.address:
            chain = [*chain, self.address.encode()]
        return b"X-Forwarded-For: " + b", ".join(chain) + b"\r\n" if chain else b""

    def _rest_of(self, host: bytes, values: dict[int, list[bytes]]) -> bytes:
        """Return the lines of the other forwarding fields."""
        elements = [
            *values.get(IS_FORWARDED, []),
            b"for=%b;host=%b;proto=%b" % (self._node(), _quoted(host), self.proto),
        ]
        return b"X-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\n" % (
            values.get(IS_FORWARDED_PROTO, [self.proto])[0],
            values.get(IS_FORWARDED_HOST, [host])[0],
            b", ".join(elements),
        )

    def _node(self) -> bytes:
        """Return the client's address as a ``node`` of RFC 7239 §6."""
        if not self.address:
            return b"unknown"
        return f'"[{self.address}]"'.encode() if ":" in self.address else self.address.encode()


def _by_kind(received: list[tuple[int, bytes]] | None) -> dict[int, list[bytes]]:
    values: dict[int, list[bytes]] = {}
    for kind, value in received or ():
        values.setdefault(kind, []).append(value)
    return values


def _quoted(value: bytes) -> bytes:
    """Return ``value`` as a token if possible, else as a quoted-string (RFC 7239 §4)."""
    return value if TOKEN.fullmatch(value) else b'"' + value + b'"'
