"""A strict reader of what the proxy forwards: every byte is accounted for, and nothing is repaired.

It shares no code with the proxy. What it takes is narrower than what RFC 9112 lets a recipient take: the one
way in which the proxy writes requests.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
LINE = re.compile(rb"(" + TOKEN + rb") (\*|/[!$-;=?-Z\[\\\]^_`a-z{|}~]*) HTTP/1\.1")
FIELD = re.compile(
    rb"(" + TOKEN + rb"):[\t ]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[\t ]*"
)
HOST = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\]|\[[vV][0-9A-Fa-f]+\.[^\]]+\])"
    rb"(?::[0-9]{0,5})?"
)
SIZE = re.compile(rb"0|[1-9a-f][0-9a-f]{0,14}")
FRAMING = (b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade", b"te")


class Malformed(AssertionError):
    """The proxy forwarded something that it must not forward."""


class Recorded(NamedTuple):
    """One request as the upstream understands it."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of all fields with this name."""
        return [value for key, value in self.fields if key == name]


class Recorder:
    """Reads one connection; ``requests`` are those that came whole."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.rest = b""

    @property
    def begun(self) -> bool:
        """Some of a request came that is not whole."""
        return bool(self.rest)

    def feed(self, data: bytes) -> int:
        """Take bytes and return how many requests they complete. Raises ``Malformed``."""
        self.rest += data
        before = len(self.requests)
        while (found := self._next()) is not None:
            self.requests.append(found)
        return len(self.requests) - before

    def _next(self) -> Recorded | None:
        head, mark, rest = self.rest.partition(b"\r\n\r\n")
        if not mark:
            if re.search(rb"[^\t\r\n -~\x80-\xff]|(?<!\r)\n|\r(?!\n|\Z)", head):
                raise Malformed(f"illegal byte in {head!r}")
            return None
        line, *lines = head.split(b"\r\n")
        start = LINE.fullmatch(line)
        if start is None:
            raise Malformed(f"request line {line!r}")
        fields = tuple(map(_field, lines))
        found = Recorded(start[1], start[2], fields, b"")
        length = _framing(found)
        if length is None:
            return self._chunks(found, rest)
        if len(rest) < length:
            return None
        self.rest = rest[length:]
        return found._replace(body=rest[:length])

    def _chunks(self, found: Recorded, rest: bytes) -> Recorded | None:
        body = b""
        while True:
            line, mark, rest = rest.partition(b"\r\n")
            if not mark:
                return None
            if not SIZE.fullmatch(line):
                raise Malformed(f"chunk size {line!r}")
            size = int(line, 16)
            if not size:
                break
            if len(rest) < size + 2:
                return None
            if rest[size : size + 2] != b"\r\n":
                raise Malformed("chunk does not end")
            body += rest[:size]
            rest = rest[size + 2 :]
        trailers = []
        while True:
            line, mark, rest = rest.partition(b"\r\n")
            if not mark:
                return None
            if not line:
                break
            trailers.append(_field(line))
        if any(name in FRAMING for name, _ in trailers):
            raise Malformed(f"trailers {trailers!r}")
        self.rest = rest
        return found._replace(body=body, trailers=tuple(trailers))


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = FIELD.fullmatch(line)
    if match is None:
        raise Malformed(f"field line {line!r}")
    name = match[1].lower()
    if b"_" in name and name.replace(b"_", b"-") in FRAMING:
        raise Malformed(f"look-alike {line!r}")
    return name, match[2]


def _framing(found: Recorded) -> int | None:
    """Return the length of the body, ``None`` if it comes in chunks."""
    hosts, lengths, codings = map(found.all, (b"host", b"content-length", b"transfer-encoding"))
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        raise Malformed(f"Host {hosts!r}")
    if len(found.all(b"via")) < 1:
        raise Malformed("without Via")
    for option in b",".join(found.all(b"connection")).lower().replace(b" ", b"").split(b","):
        if option not in (b"", b"upgrade", b"te"):
            raise Malformed(f"Connection {option!r}")
    if codings:
        if codings != [b"chunked"] or lengths:
            raise Malformed(f"framing {codings!r} {lengths!r}")
        return None
    if not lengths:
        return 0
    if len(lengths) != 1 or not re.fullmatch(rb"0|[1-9][0-9]{0,17}", lengths[0]):
        raise Malformed(f"Content-Length {lengths!r}")
    return int(lengths[0])
