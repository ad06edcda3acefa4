"""Via (RFC 9110 §7.6.3): in which version a message came, and which proxies it has passed."""

from __future__ import annotations

from typing import Final

MOST_PASSES: Final = 5
"""How often a request may have passed proxies of our name before; then it goes in circles.

More than one, because some servers send a request on through the proxy that it came from.
"""
_START: Final = b"Via: 1.1 "


def via_line(name: str) -> bytes:
    """Return our Via line with its CRLF, as a message in HTTP/1.1 gets it; nothing without a name."""
    return _START + name.encode("latin-1") + b"\r\n" if name else b""


def name_in(end: bytes) -> bytes:
    """Return our name (lower case) in the end of a head; empty if it has no Via line."""
    return end.partition(_START)[2].partition(b"\r\n")[0].lower()


def in_version(end: bytes, minor: bytes) -> bytes:
    """Return the end of a head whose message came in ``HTTP/1.`` and this digit."""
    return end.replace(_START, b"Via: 1.%b " % minor, 1)


def in_http2(end: bytes) -> bytes:
    """Return the end of a head whose message came in HTTP/2."""
    return end.replace(_START, b"Via: 2.0 ", 1)


def passes(values: list[bytes], name: bytes) -> int:
    """Return how many entries of these Via fields are of proxies with this name (lower case)."""
    entries = b",".join(values).lower().split(b",")
    return sum(entry.split()[1:2] == [name] for entry in entries)
