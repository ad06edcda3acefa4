"""Heads of answers: checked, and made ready to forward.

As with requests, the meaning of a head is remembered by its bytes: a service's answers of one second often
differ in their bodies only.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser

from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import (
    BARE_LF,
    CLOSE,
    IS_CODING,
    IS_CONNECTION,
    IS_LENGTH,
    IS_LOOK_ALIKE,
    IS_UPGRADE,
    MAX_CACHED_HEAD,
    RESPONSE_KINDS,
    UNLIMITED,
    Field,
    Names,
    first_line,
    nominated,
    tokens,
    without,
)
from canaryproxy.http1.head_cache import SampledFifo
from canaryproxy.http1.llhttp import NoFlowControl
from canaryproxy.measure.routing import Headers

MAX_RESPONSE_HEAD: Final = 64 * 1024
"""Largest head of an answer in bytes; larger ones are broken answers."""
REMEMBERED: Final = 1024
"""Heads whose meaning is remembered at the most."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t \x21-\x7e\x80-\xff]*)?")
_BEGINNING: Final = b"HTTP/1."
_LEGAL_IN_LINE = bytes(b for b in range(256) if b == 0x09 or 0x20 <= b != 0x7F)


class Response:
    """One answer's head, checked. Shared by equal answers: never changed once made."""

    __slots__ = ("chunked", "fields", "head", "keep_alive", "length", "status", "upgrade")

    def __init__(self, status: int) -> None:
        self.status = status
        self.fields: Headers = ()
        """All fields as received."""
        self.head = b""
        """The head to forward, as HTTP/1.1, less the empty line."""
        self.length = -1
        """Content-Length, or -1 without one."""
        self.chunked = False
        self.keep_alive = True
        """The upstream lets the connection be used again."""
        self.upgrade = b""
        """The value of Upgrade, empty without one."""

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events, which may be silent between them."""
        return any(
            name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in self.fields
        )


class ResponseParser:
    """Checks heads of answers; one object serves all connections."""

    __slots__ = ("_known", "_loop", "_names", "_parser", "_room")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[bytes, Response] = {}
        self._parser = self._new_parser()
        self.drop_header(b"")

    def drop_header(self, name: bytes) -> None:
        """Forward no field with this name from now on; empty: none that means nothing to a proxy."""
        self._names = Names(RESPONSE_KINDS, name.lower())
        self._known.clear()
        self._room = SampledFifo(REMEMBERED)

    def _new_parser(self) -> HttpResponseParser:
        return HttpResponseParser(
            NoFlowControl(self._loop),
            self._loop,
            UNLIMITED,
            max_line_size=UNLIMITED,
            max_headers=UNLIMITED,
            max_field_size=UNLIMITED,
            response_with_body=False,
            auto_decompress=False,
        )

    def known(self, head: bytes) -> Response | None:
        """Return the answer if this head was parsed before and is remembered.

        What is remembered is one complete head and nothing else.
        """
        return self._known.get(head)

    def parse(self, head: bytes) -> Response:
        """Check one complete head (with its empty line) and return the answer, ready to forward.

        Raises ``InvalidResponse``.
        """
        known = self._known.get(head)
        if known is not None:
            return known
        response = self._parse(head)
        if len(head) <= MAX_CACHED_HEAD and self._room.admit(head, self._known):
            self._known[head] = response
        return response

    def _parse(self, head: bytes) -> Response:
        if len(head) > MAX_RESPONSE_HEAD:
            raise InvalidResponse("head too large")
        line_end = head.find(b"\r\n")
        line = _STATUS_LINE.fullmatch(head, 0, line_end)
        if line is None:
            raise InvalidResponse("malformed status line")
        try:
            parser: Any = self._parser  # its messages are not of the class that it names
            messages, upgraded, _ = parser.feed_data(head)
            message = messages[0][0]
        except (HttpProcessingError, IndexError) as error:
            self._parser = self._new_parser()
            raise InvalidResponse(first_line(error)) from None
        if upgraded:
            self._parser.set_upgraded(False)
        if message.should_close:
            # llhttp takes nothing more after a message that closes its connection.
            self._parser = self._new_parser()
        raw = message.raw_headers
        if (
            head.translate(None, _LEGAL_IN_LINE) != b"\r\n" * (len(raw) + 2)
            or b"\n " in head
            or b"\n\t" in head
        ):
            # llhttp takes more from servers than a client should be given: what is not a legal byte must
            # be one CRLF for the status line, each field and the empty line.
            raise InvalidResponse("control bytes or folded lines in the head")
        response = Response(message.code)
        response.fields = raw
        http10 = line[1] == b"0"
        drop: list[Field] = []
        connection: list[bytes] = []
        for field in raw:
            name, value = field
            kind = self._names.kind(name)
            if not kind:
                continue
            if kind == IS_LENGTH:
                if not value.isdigit() or len(value) > 18:
                    raise InvalidResponse("malformed Content-Length")
                if response.length not in (-1, int(value)):
                    raise InvalidResponse("contradicting Content-Length fields")
                response.length = int(value)
                continue
            if kind == IS_LOOK_ALIKE:
                raise InvalidResponse("ambiguous header name")
            if kind == IS_CODING:
                if http10 or value.lower() != b"chunked" or response.chunked:
                    raise InvalidResponse("unsupported Transfer-Encoding")
                response.chunked = True
            elif kind == IS_CONNECTION:
                connection += tokens(value)
            elif kind == IS_UPGRADE:
                response.upgrade = value
            drop.append(field)
        if response.chunked and response.length >= 0:
            raise InvalidResponse("both Content-Length and Transfer-Encoding")
        response.keep_alive = b"keep-alive" in connection if http10 else b"close" not in connection
        if connection and connection != CLOSE:
            drop = nominated(raw, drop, connection)
        if response.status == 204 or response.status < 200:
            # RFC 9110 §8.6, RFC 9112 §6.1: they have no body, and must not say how long it is.
            drop = drop + [field for field in raw if self._names.kind(field[0]) == IS_LENGTH]
            response.length, response.chunked = -1, False
        block = without(head[line_end:-2], drop, raw)
        response.head = b"HTTP/1.1" + head[8:line_end] + block
        return response


def is_hopeless(data: bytes, searched: int) -> bool:
    """Tell whether no further byte can make an unfinished head valid.

    ``searched`` is how much of it was looked at before. So nonsense does not have to wait for a timeout.
    """
    return (
        len(data) > MAX_RESPONSE_HEAD
        or not _BEGINNING.startswith(data[: len(_BEGINNING)])
        or BARE_LF.search(data, searched) is not None
    )
