"""The PROXY protocol, versions 1 and 2: a previous proxy passes on the client's address.

Source: haproxy, doc/proxy-protocol.txt. A header is never guessed: a connection on which one is expected must
begin with it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from canaryproxy.config import TcpAddress

MAX_V1: Final = 107
"""Maximum size of a header of version 1 in bytes, with CRLF (§2.1)."""
MAX_V2: Final = 4096
"""Maximum size of a header of version 2 in bytes; real proxies use a few hundred for TLVs."""

_SIGNATURE_V1: Final = b"PROXY "
_SIGNATURE_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = struct.Struct("!12sBBH")
_LINE = re.compile(
    rb"PROXY (?:(UNKNOWN)(?: [^\r\n]*)?"
    rb"|(TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) ([0-9]{1,5}) ([0-9]{1,5}))\r\n"
)
_LOCAL: Final = 0
_PROXY: Final = 1
_UNSPECIFIED: Final = 0x00
_INET: Final = struct.Struct("!4s4sHH")
_INET6: Final = struct.Struct("!16s16sHH")
_UNIX_SIZE: Final = 216
_SIZES: Final = {0x11: _INET.size, 0x21: _INET6.size, 0x31: _UNIX_SIZE}
"""Size of the addresses in bytes, by family over a stream."""


class MalformedHeader(ValueError):
    """The received bytes cannot become a PROXY header; the text says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header.

    ``size`` is its length in bytes. Without ``has_addresses`` (LOCAL, UNKNOWN) it does not describe the
    client, and the connection's own addresses apply. ``source`` and ``destination`` are ``None`` for a client
    on a Unix socket.
    """

    size: int
    has_addresses: bool
    source: TcpAddress | None = None
    destination: TcpAddress | None = None


def parse(data: bytes) -> ProxyHeader | None:
    """Return the header that ``data`` begins with, or ``None`` if more bytes are needed.

    Raises ``MalformedHeader`` as soon as no further byte can complete a header.
    """
    if data.startswith(_SIGNATURE_V2):
        return _parse_v2(data)
    if data.startswith(_SIGNATURE_V1):
        return _parse_v1(data)
    if _SIGNATURE_V1.startswith(data) or _SIGNATURE_V2.startswith(data):
        return None
    raise MalformedHeader("no PROXY protocol header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise MalformedHeader("line too long")
        return None
    line = _LINE.fullmatch(data, 0, end + 1)
    if line is None:
        raise MalformedHeader("malformed line")
    if line[1]:
        return ProxyHeader(end + 1, has_addresses=False)
    kind = IPv4Address if line[2] == b"TCP4" else IPv6Address
    try:
        source, destination = (str(kind(text.decode())) for text in (line[3], line[4]))
    except ValueError:
        raise MalformedHeader("malformed address") from None
    return ProxyHeader(
        end + 1,
        has_addresses=True,
        source=TcpAddress(source, _port(line[5])),
        destination=TcpAddress(destination, _port(line[6])),
    )


def _port(digits: bytes) -> int:
    port = int(digits)
    if port > 65535 or (digits[:1] == b"0" and port):
        raise MalformedHeader("malformed port")
    return port


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED.size:
        return None
    _, version_and_command, family, length = _FIXED.unpack_from(data)
    command = version_and_command & 0x0F
    if version_and_command >> 4 != 2 or command not in (_LOCAL, _PROXY):
        raise MalformedHeader("unknown version or command")
    size = _FIXED.size + length
    if size > MAX_V2:
        raise MalformedHeader("header too long")
    if command == _PROXY and family != _UNSPECIFIED:
        # §2.2: connections with unexpected values here are dropped.
        if family not in _SIZES:
            raise MalformedHeader("unknown address family or transport")
        if length < _SIZES[family]:
            raise MalformedHeader("truncated addresses")
    if len(data) < size:
        return None
    if command == _LOCAL or family == _UNSPECIFIED:
        return ProxyHeader(size, has_addresses=False)
    if family == 0x31:
        return ProxyHeader(size, has_addresses=True)
    inet = family == 0x11
    source, destination, *ports = (_INET if inet else _INET6).unpack_from(data, _FIXED.size)
    kind = IPv4Address if inet else IPv6Address
    return ProxyHeader(
        size,
        has_addresses=True,
        source=TcpAddress(str(kind(source)), ports[0]),
        destination=TcpAddress(str(kind(destination)), ports[1]),
    )
