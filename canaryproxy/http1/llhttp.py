"""llhttp, as aiohttp wraps it: splits heads into fields and refuses most malformed ones.

The only module of this package that imports aiohttp. The parsers are fed complete heads and never
bodies (see ``chunked``), so one parser serves all connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser

from canaryproxy.measure.routing import Headers

_UNLIMITED: Final = 1 << 20
"""For aiohttp's own limits: ours are checked first."""
_NO_LOOP: Final[Any] = None
"""aiohttp's parsers take an event loop for bodies, of which they see none here."""
_RESERVED: Final = re.compile(
    rb"(?i)(?<=\n)(?:content-location|content-range|content-type|etag|max-forwards|server|user-agent"
    rb"|sec-websocket-key1)(?=:)"
)
"""Names that aiohttp takes only once, or not at all. For a proxy they are names like others.

Content-Length, Transfer-Encoding and Host stay its business.
"""


class MalformedHead(ValueError):
    """llhttp refused the head; the text says why, without the peer's own bytes."""


class HeadParser:
    """Parses heads one after another with one llhttp parser, which it replaces when that takes no more."""

    __slots__ = ("_new", "_parser")

    def __init__(self, new: Callable[[], Any]) -> None:
        self._new = new
        self._parser = new()

    def fields(self, head: bytes) -> tuple[Headers, bool]:
        """Return the fields of one complete head, and whether its message closes the connection.

        Raises ``MalformedHead``.
        """
        try:
            messages, upgraded, _ = self._parser.feed_data(head)
            message = messages[0][0]
        except (HttpProcessingError, IndexError) as error:
            self._parser = self._new()
            renamed = _RESERVED.sub(rb"\g<0>~", head)
            if renamed != head:
                return self._named_again(renamed, head)
            raise MalformedHead(_first_line(error)) from None
        if upgraded:
            self._parser.set_upgraded(False)
        if message.should_close:
            # llhttp parses nothing after a message that closes its connection.
            self._parser = self._new()
        return message.raw_headers, message.should_close

    def _named_again(self, renamed: bytes, head: bytes) -> tuple[Headers, bool]:
        """Return the fields of a head whose reserved names were changed, with the names that it has."""
        found, closes = self.fields(renamed)
        lines = head.split(b"\r\n")[1:-2]
        if len(lines) != len(found):
            raise MalformedHead("folded lines or bare LF")
        names = [line.partition(b":")[0] for line in lines]
        return [(name, value) for name, (_, value) in zip(names, found, strict=True)], closes


def request_parser() -> HeadParser:
    """Return a parser of request heads."""
    return HeadParser(lambda: _new(HttpRequestParser))


def response_parser() -> HeadParser:
    """Return a parser of response heads."""
    return HeadParser(lambda: _new(HttpResponseParser))


def _new(kind: type[HttpRequestParser] | type[HttpResponseParser]) -> Any:
    return kind(
        BaseProtocol(_NO_LOOP),
        _NO_LOOP,
        _UNLIMITED,
        max_line_size=_UNLIMITED,
        max_headers=_UNLIMITED,
        max_field_size=_UNLIMITED,
        response_with_body=False,
        auto_decompress=False,
    )


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, BadHttpMessage) else ""
    return text.partition(":\n")[0].partition("\n")[0].rstrip(".") or "malformed head"
