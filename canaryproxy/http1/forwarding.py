"""X-Forwarded-* and Forwarded (RFC 7239): fields that describe the client to the upstream."""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.fields import (
    IS_FORWARDED,
    IS_FORWARDED_FOR,
    IS_FORWARDED_HOST,
    IS_FORWARDED_PROTO,
    TOKEN,
)

_MAX_CACHED_HOST: Final = 256
"""Longest host in bytes that an idle connection keeps in memory."""


class Peer:
    """The client of one connection, as the forwarding fields describe it."""

    __slots__ = ("_end", "_ending", "_host", "address", "local", "proto", "template", "trusted")

    def __init__(self, address: str, proto: bytes, trusted: bool, local: bytes) -> None:
        self.address = address
        """The client's address, empty for a Unix socket."""
        self.proto = proto
        """The scheme of this connection, ``http`` or ``https``."""
        self.trusted = trusted
        """The client's own forwarding fields are kept, and ours appended."""
        self.local = local
        """Host for HTTP/1.0 clients that send none: the address that the client connected to."""
        self.template = -1
        """Number of the header template of the last request (``head_cache``); -1: none yet."""
        self._host = self._end = self._ending = b""

    def ending(
        self, host: bytes, received: list[tuple[int, bytes]] | None, extra: bytes, end: bytes
    ) -> bytes:
        """Return the last lines of a head to forward: X-Forwarded-*, Forwarded, ``extra`` and ``end``.

        ``received`` are the client's own forwarding fields as pairs of kind and value.
        """
        if (received and self.trusted) or extra:
            return self._forwarding(host, received or []) + extra + end
        if host != self._host or end != self._end:
            ending = self._forwarding(host, []) + end
            if len(host) > _MAX_CACHED_HOST:
                return ending
            self._host, self._end, self._ending = host, end, ending
        return self._ending

    def _forwarding(self, host: bytes, received: list[tuple[int, bytes]]) -> bytes:
        values: dict[int, list[bytes]] = {}
        for kind, value in received if self.trusted else ():
            values.setdefault(kind, []).append(value)
        chain = values.get(IS_FORWARDED_FOR, [])
        if self.address:
            chain = [*chain, self.address.encode()]
        elements = [
            *values.get(IS_FORWARDED, []),
            b"for=%b;host=%b;proto=%b" % (self._node(), _quoted(host), self.proto),
        ]
        return b"%bX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\n" % (
            b"X-Forwarded-For: " + b", ".join(chain) + b"\r\n" if chain else b"",
            values.get(IS_FORWARDED_PROTO, [self.proto])[0],
            values.get(IS_FORWARDED_HOST, [host])[0],
            b", ".join(elements),
        )

    def _node(self) -> bytes:
        """Return the client's address as a ``node`` of RFC 7239 §6."""
        if not self.address:
            return b"unknown"
        return f'"[{self.address}]"'.encode() if ":" in self.address else self.address.encode()


def _quoted(value: bytes) -> bytes:
    """Return ``value`` as a token if possible, else as a quoted-string (RFC 7239 §4)."""
    return value if TOKEN.fullmatch(value) else b'"' + value + b'"'
