"""Header fields: what they mean to a proxy, and how fields are cut out of a head."""

from __future__ import annotations

import re
from typing import Final

from canaryproxy.measure.routing import Headers

Field = tuple[bytes, bytes]

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 §5.6.2."""

BARE_LF = re.compile(rb"(?<!\r)\n")
"""A line ending that is not CRLF (RFC 9112 §2.2)."""

# Kinds of fields. Plain integers, because they are compared for every field of every message.
IS_PLAIN: Final = 0
IS_HOP: Final = 1
IS_CONNECTION: Final = 2
IS_HOST: Final = 3
IS_LENGTH: Final = 4
IS_CODING: Final = 5
IS_COOKIE: Final = 6
IS_EXPECT: Final = 7
IS_UPGRADE: Final = 8
IS_FORWARDED_FOR: Final = 9
IS_FORWARDED_PROTO: Final = 10
IS_FORWARDED_HOST: Final = 11
IS_FORWARDED: Final = 12
IS_LOOK_ALIKE: Final = 13
IS_TRACEPARENT: Final = 14
IS_TRACESTATE: Final = 15
IS_MAX_FORWARDS: Final = 16
IS_TYPE: Final = 17
IS_DATE: Final = 18
IS_VIA: Final = 19
IS_CREDENTIALS: Final = 20
IS_CHALLENGE: Final = 21
IS_PROXY_CHALLENGE: Final = 22
IS_PROPAGATED: Final = 23
"""Tells proxies which version a request gets (``http1.propagated``), under a name that is configured."""
IS_BAGGAGE: Final = 24
"""May tell them so in one of its members."""

REQUEST_KINDS: dict[bytes, int] = {
    b"keep-alive": IS_HOP,
    b"proxy-connection": IS_HOP,
    b"proxy-authorization": IS_HOP,
    b"te": IS_HOP,
    b"connection": IS_CONNECTION,
    b"host": IS_HOST,
    b"content-length": IS_LENGTH,
    b"transfer-encoding": IS_CODING,
    b"cookie": IS_COOKIE,
    b"expect": IS_EXPECT,
    b"upgrade": IS_UPGRADE,
    b"x-forwarded-for": IS_FORWARDED_FOR,
    b"x-forwarded-proto": IS_FORWARDED_PROTO,
    b"x-forwarded-host": IS_FORWARDED_HOST,
    b"forwarded": IS_FORWARDED,
    b"traceparent": IS_TRACEPARENT,
    b"tracestate": IS_TRACESTATE,
    b"max-forwards": IS_MAX_FORWARDS,
    b"via": IS_VIA,
    b"authorization": IS_CREDENTIALS,
    b"content-type": IS_TYPE,
}
RESPONSE_KINDS: dict[bytes, int] = {
    b"keep-alive": IS_HOP,
    b"proxy-connection": IS_HOP,
    b"proxy-authenticate": IS_PROXY_CHALLENGE,
    b"te": IS_HOP,
    b"connection": IS_CONNECTION,
    b"content-length": IS_LENGTH,
    b"transfer-encoding": IS_CODING,
    b"upgrade": IS_UPGRADE,
    b"content-type": IS_TYPE,
    b"date": IS_DATE,
    b"www-authenticate": IS_CHALLENGE,
}
HARMLESS: Final = frozenset((IS_PLAIN, IS_TYPE, IS_DATE, IS_CHALLENGE))
"""Kinds that neither frame nor route a message: no harm if a recipient reads such a name otherwise."""
NO_NAMES: Final[frozenset[bytes]] = frozenset()
_NEVER_NOMINATED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"close")
)
"""Fields that are kept although ``Connection`` names them: the message would change its meaning."""

CLOSE: Final = [b"close"]
"""The most frequent options of Connection; they name no field to drop."""

_CACHED_NAMES = 512


class Names:
    """Looks up the kind of a field by its name as received, without converting it to lower case each time.

    Bounded: a peer that sends many distinct names makes it slower, not larger.
    """

    __slots__ = ("_cache", "_hop", "_kinds")

    def __init__(self, kinds: dict[bytes, int], hop: bytes = b"") -> None:
        """``hop`` is the name (lower case) of one more field that is not forwarded."""
        self._kinds = kinds
        self._hop = hop
        self._cache: dict[bytes, int] = {}

    def kind(self, name: bytes) -> int:
        """Return the kind of a field with this name, one of the ``IS_`` constants."""
        kind = self._cache.get(name)
        return self._classify(name) if kind is None else kind

    def _classify(self, name: bytes) -> int:
        lower = name.lower()
        kind = self._kinds.get(lower)
        if kind is None and lower == self._hop:
            kind = IS_HOP
        if kind is None:
            kind = IS_PLAIN
            if not TOKEN.fullmatch(name) or (
                b"_" in lower
                and self._kinds.get(lower.replace(b"_", b"-"), IS_PLAIN) not in HARMLESS
            ):
                kind = IS_LOOK_ALIKE
        if len(self._cache) < _CACHED_NAMES:
            self._cache[name] = kind
        return kind


def find_head_end(data: bytes, start: int = 0) -> int:
    """Return the offset just after the empty line that ends a head, or -1.

    ``start`` is how many bytes of ``data`` were searched before.
    """
    end = data.find(b"\r\n\r\n", max(start - 3, 0))
    return end + 4 if end >= 0 else -1


def tokens(value: bytes) -> list[bytes]:
    """Split a comma-separated list of tokens, in lower case."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def nominated(fields: Headers, drop: list[Field], connection: list[bytes]) -> list[Field]:
    """Return ``drop`` and the fields that Connection nominates (RFC 9110 §7.6.1)."""
    named = frozenset(connection) - _NEVER_NOMINATED
    return drop + [field for field in fields if field[0].lower() in named and field not in drop]


def without(block: bytes, drop: list[Field], fields: Headers) -> bytes:
    """Return the field lines of ``block`` without those in ``drop``, the others byte for byte.

    A block is CRLF, then whole lines; ``fields`` are all its fields as the parser read them.
    """
    for name, value in drop:
        shorter = block.replace(b"\r\n%b: %b\r\n" % (name, value), b"\r\n", 1)
        if len(shorter) == len(block):
            break  # other white space around the value: rebuild the lines from the fields
        block = shorter
    else:
        return block
    return b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields if field not in drop)


_BINDING = re.compile(rb"(?i)(?:\A|,)[ \t]*(?:NTLM|Negotiate)(?![^ \t,])")


def binds(value: bytes) -> bool:
    """Tell whether credentials or a challenge are of a scheme that authenticates the connection.

    Who has passed NTLM or Negotiate need not do so again: the server knows the connection (RFC 4559 §6).
    """
    return _BINDING.search(value) is not None


def plain_length(value: bytes) -> bool:
    """Tell whether a valid Content-Length has one meaning to all: C's ``strtol`` takes ``010`` for 8."""
    return value[0] != 0x30 or len(value) == 1
