"""Reads what a client gets: answers, each for a request whose method is known."""

from __future__ import annotations

import re
from typing import NamedTuple

_HEAD = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [^\r\n\0]*\r\n((?:[^\r\n\0:]+:[^\r\n\0]*\r\n)*)\r\n")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")
_TRAILERS = re.compile(rb"(?:[^\r\n:]+:[^\r\n]*\r\n)*\r\n")


class Parsed(NamedTuple):
    """One final answer."""

    status: int
    identity: bytes
    """What its upstream wrote into ``X-Id``: which request it answers."""
    complete: bool
    by_proxy: bool


def answers_in(data: bytes, methods: list[str], *, closed: bool) -> list[Parsed]:
    """Return the final answers in ``data``; the last one may be incomplete.

    After a 101 all is a tunnel. Raises ``AssertionError`` for what is no answer.
    """
    found: list[Parsed] = []
    at = 0
    while at < len(data):
        match = _HEAD.match(data, at)
        if match is None:
            assert b"\r\n\r\n" not in data[at:], data[at:]
            return found
        at = match.end()
        status = int(match[1])
        fields = dict(re.findall(rb"(?m)^([^:]+): *([^\r]*)\r$", match[2].lower()))
        if status == 101:
            found.append(Parsed(status, fields[b"x-id"], True, False))
            return found
        if status < 200:
            assert b"content-length" not in fields
            continue
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
        assert length is None or coding is None
        end: int | None
        if method == "HEAD" or status in (204, 304):
            end = at
        elif coding is not None:
            end = _end_of_chunks(data, at)
        elif length is not None:
            end = at + int(length)
        else:
            end = len(data) if closed else None
        complete = end is not None and end <= len(data)
        by_proxy = b"x-request-id" in fields and b"x-id" not in fields
        found.append(Parsed(status, fields.get(b"x-id", b""), complete, by_proxy))
        if end is None:
            return found
        at = end
    return found


def _end_of_chunks(data: bytes, at: int) -> int | None:
    while (match := _CHUNK.match(data, at)) is not None:
        size = int(match[1], 16)
        at = match.end()
        if not size:
            last = _TRAILERS.match(data, at)
            return last.end() if last else None
        if len(data) < at + size + 2:
            return None
        assert data[at + size : at + size + 2] == b"\r\n"
        at += size + 2
    assert re.fullmatch(rb"[0-9a-f]*\r?", data[at:]), data[at:]
    return None
