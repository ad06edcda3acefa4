"""Chunked transfer coding (RFC 9112 §7.1), decoded strictly and without I/O.

aiohttp's parser is not used for bodies: it does not return trailers, mixes them into the fields of the next
message, and copies each body through a stream. Chunk extensions are dropped, as RFC 9112 §7.1.1 allows;
everything ambiguous (bare LF, signs, blanks, an overlong size) is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from canaryproxy.http1.fields import NO_NAMES

MAX_LINE = 4096
"""Longest chunk-size line in bytes, extensions included."""
MAX_EXTENSIONS = 16 * 1024
"""Bytes of chunk extensions in a whole body; more only where the payload is larger (RFC 9112 §7.1.1)."""
MAX_TRAILERS = 16 * 1024
"""Largest trailer section in bytes."""

_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb"(?:[ \t]*=[ \t]*(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb'|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"))?)*'
)
_TRAILER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t \x21-\x7e\x80-\xff]*")

FORBIDDEN_TRAILERS = frozenset(
    (
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"keep-alive",
        b"max-forwards",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"www-authenticate",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    )
)
"""Fields that frame, route, authenticate or modify a message: not allowed in trailers (RFC 9110 §6.5.1)."""


class ChunkedError(ValueError):
    """The bytes are not a valid chunked body; the text says why."""


_Step = Callable[["ChunkedDecoder", bytes, int, list[bytes]], int]


class ChunkedDecoder:
    """Decodes one chunked body from slices of any size.

    ``done`` becomes true with the last byte of the body; ``rest`` then holds the bytes behind it, and
    ``trailers`` the part of the trailer section that may be forwarded: whole lines with CRLF, or nothing.
    ``dropped`` are names (lower case) of more trailers that are not: those that Connection names. ``mends``:
    blanks before the colon of a trailer are removed, as from a response (RFC 9112 §5.1).
    """

    __slots__ = (
        "_dropped",
        "_left",
        "_mends",
        "_pending",
        "_reading",
        "_spare",
        "done",
        "rest",
        "trailers",
    )

    def __init__(self, dropped: frozenset[bytes] = NO_NAMES, *, mends: bool = False) -> None:
        self._dropped = dropped
        self._mends = mends
        self._spare = MAX_EXTENSIONS
        """Bytes of extensions that may still come."""
        self._left = 0
        """Bytes of the chunk still to come; in trailers, bytes received."""
        self._pending = b""
        self._reading: _Step = ChunkedDecoder._size
        self.done = False
        self.rest = b""
        self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        """Decode the next bytes and return their payload, without chunk boundaries.

        Raises ``ChunkedError``. The decoder cannot be used after that, nor after ``done``.
        """
        if self._pending:
            data = self._pending + data
            self._pending = b""
        payload: list[bytes] = []
        at = 0
        while not self.done:
            step = self._reading(self, data, at, payload)
            if step < 0:
                self._pending = data[at:]
                break
            at = step
        else:
            self.rest = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _size(self, data: bytes, at: int, _payload: list[bytes]) -> int:
        end = data.find(b"\r\n", at)
        line = data[at:end] if end >= 0 else data[at:]
        if len(line) > MAX_LINE:
            raise ChunkedError("chunk-size line too long")
        if end < 0:
            if b"\n" in line or not _may_begin_size(line):
                raise ChunkedError("malformed chunk size")
            return -1
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ChunkedError("malformed chunk size")
        self._left = left = int(match[1], 16)
        self._spare += left - len(line) + len(match[1])
        if self._spare < 0:
            raise ChunkedError("too many chunk extensions")
        self._reading = ChunkedDecoder._data if self._left else ChunkedDecoder._trailers
        return end + 2

    def _data(self, data: bytes, at: int, payload: list[bytes]) -> int:
        have = len(data) - at
        if not have:
            return -1
        if have >= self._left:
            at += self._left
            payload.append(data[at - self._left : at])
            self._left = 0
            self._reading = ChunkedDecoder._data_end
            return at
        payload.append(data[at:] if at else data)
        self._left -= have
        return len(data)

    def _data_end(self, data: bytes, at: int, _payload: list[bytes]) -> int:
        end = data[at : at + 2]
        if end == b"\r\n":
            self._reading = ChunkedDecoder._size
            return at + 2
        if end in (b"", b"\r"):
            return -1
        raise ChunkedError("chunk data does not end with CRLF")

    def _trailers(self, data: bytes, at: int, _payload: list[bytes]) -> int:
        end = data.find(b"\r\n", at)
        line = data[at:end] if end >= 0 else data[at:]
        if self._left + len(line) > MAX_TRAILERS:
            raise ChunkedError("trailers too long")
        if end < 0:
            if b"\n" in line:
                raise ChunkedError("bare LF in trailers")
            return -1
        if not line:
            self.done = True
            return end + 2
        self._left += len(line) + 2
        if self._mends:
            name, colon, value = line.partition(b":")
            line = name.rstrip(b" \t") + colon + value
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise ChunkedError("malformed trailer field")
        name = match[1].lower()
        if name not in self._dropped and name.replace(b"_", b"-") not in FORBIDDEN_TRAILERS:
            self.trailers += line + b"\r\n"
        return end + 2


def _may_begin_size(line: bytes) -> bool:
    """Tell whether an unfinished line can become a chunk size; anything else fails before its CRLF."""
    return not line or line == b"\r" or line[:1] in b"0123456789abcdefABCDEF"


def encode_chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk; it must not be empty, because an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: bytes = b"") -> bytes:
    """Return the last chunk of a body, with its trailer section."""
    return b"0\r\n" + trailers + b"\r\n"
