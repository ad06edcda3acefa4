"""The rules for responses: which heads are invalid, what the others mean, and the heads to forward.

Pure and without memory: ``head_cache`` makes it fast for services that repeat themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from canaryproxy.http1.cacheability import (
    IMMUTABLE,
    SHARED,
    UNSHARED,
    kind_of,
    made_private,
    varying,
)
from canaryproxy.http1.endless import ENCODED, ENDS, EVENTS, LINES
from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import (
    BARE_LF,
    CLOSE,
    HARMLESS,
    IS_CHALLENGE,
    IS_CODING,
    IS_CONNECTION,
    IS_DATE,
    IS_LENGTH,
    IS_LOOK_ALIKE,
    IS_PROXY_CHALLENGE,
    IS_TYPE,
    IS_UPGRADE,
    NO_NAMES,
    RESPONSE_KINDS,
    Field,
    Names,
    binds,
    nominated,
    plain_length,
    tokens,
    without,
)
from canaryproxy.http1.llhttp import MalformedHead, response_parser
from canaryproxy.measure.records import BODILESS, ENDED, EVENT_STREAM, pack_first, type_code
from canaryproxy.measure.routing import Headers

AS_IT_IS: Final = 0
"""Shared caches may keep what the upstream lets them keep."""
VARYING: Final = 1
"""The same, and the response varies by the headers that a user's variant depends on."""
UNLESS_IMMUTABLE: Final = 2
"""Shared caches may keep immutable responses only."""
NEVER: Final = 3
"""Shared caches may keep nothing."""
MAX_HEAD: Final = 64 * 1024
"""Largest response head in bytes; larger ones are invalid."""
UNDATED: Final = 2
"""In ``Response.end``: the response has no Date, and gets one (RFC 9110 §6.6.1)."""
VERSION: Final = 4
"""In ``Response.end``: times the place of the minor version in ``MINORS``."""
MOST_DIGITS: Final = 18
"""Of a Content-Length."""
MINORS: Final = b"1023456789"
"""The minor versions of HTTP/1, the usual one first. All but 0 are treated as 1.1 (RFC 9112 §2.3)."""

_UNKNOWN: Final = -1
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})( [\t \x21-\x7e\x80-\xff]*)?(?=\r\n)")
_BLANK_BEFORE_COLON = re.compile(rb"(?<=\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]++(?=:)")
_FOR_LLHTTP: Final = (b"1", b"0")
"""The minor versions that it knows."""
_BEGINNING: Final = b"HTTP/1."
_LEGAL_IN_LINE = bytes(b for b in range(256) if b == 0x09 or 0x20 <= b != 0x7F)


@mypyc_attr(acyclic=True, free_list_len=1)
class Response:
    """The head of one response, checked. Equal responses share one object, so it never changes."""

    __slots__ = (
        "_common",
        "_names",
        "_private_head",
        "_sharing",
        "_values",
        "binds",
        "chunked",
        "end",
        "endless",
        "head",
        "is_event_stream",
        "keep_alive",
        "length",
        "nominated",
        "status",
        "upgrade",
        "word",
    )

    def __init__(self, status: int, fields: Headers = ()) -> None:
        self.status = status
        self._common = fields
        self._names: Sequence[bytes] = ()
        """Names of the fields that are not among ``_common``, and their values."""
        self._values: Sequence[bytes] = ()
        self.head = b""
        """The head to forward, as HTTP/1.1, without the empty line."""
        self.length = -1
        """Content-Length in bytes, or -1 without one."""
        self.chunked = False
        self.keep_alive = True
        """The upstream allows the connection to be reused."""
        self.upgrade = b""
        """The value of Upgrade, empty without one."""
        self.binds = False
        """The upstream authenticates its connections (``fields.binds``)."""
        self.nominated = NO_NAMES
        """Names (lower case) of trailers that are not forwarded."""
        self.end = UNDATED
        """What ends the head to forward, as a sum of ``UNDATED`` and a multiple of ``VERSION``."""
        self.endless = ENDS
        """How the body can be ended where it has no length (``http1.endless``)."""
        self.is_event_stream = False
        """The body is a stream of events, which may pause for any time."""
        self.word = 0
        """Status, media type and whether it has no body, as the first word of the record of a request that
        has ended has them (``records.pack_first``)."""
        self._private_head = b""
        self._sharing = _UNKNOWN

    @property
    def fields(self) -> Headers:
        """All fields as received. Their order is kept among those of the same name only."""
        if not self._values:
            return self._common
        return [*self._common, *zip(self._names, self._values, strict=True)]

    def alike(
        self,
        head: bytes,
        length: int,
        common: Headers,
        names: Sequence[bytes],
        values: Sequence[bytes],
    ) -> Response:
        """Return a response that differs in its length and in values only that mean nothing to a proxy.

        ``head`` is to be forwarded; ``names`` and ``values`` are those of the fields that ``common`` lacks.
        """
        made = Response(self.status, common)
        made._names = names
        made._values = values
        made.head = head
        made.length = length
        made.chunked = self.chunked
        made.keep_alive = self.keep_alive
        made.upgrade = self.upgrade
        made.binds = self.binds
        made.nominated = self.nominated
        made.end = self.end
        made.endless = self.endless
        made.is_event_stream = self.is_event_stream
        made.word = self.word
        made._sharing = self.sharing
        return made

    @property
    def sharing(self) -> int:
        """Whether shared caches may keep it (``cacheability``)."""
        if self._sharing == _UNKNOWN:
            self._sharing = kind_of(self.fields)
        return self._sharing

    @property
    def private_head(self) -> bytes:
        """The head to send with a cookie of ours: shared caches must not keep it."""
        if not self._private_head:
            self._private_head = self._made_private() if self.sharing == SHARED else self.head
        return self._private_head

    def restrict(self, policy: int, varies_by: tuple[bytes, ...]) -> None:
        """Restrict what shared caches may do with it. To be called once, before it is used."""
        sharing = self.sharing
        if sharing == UNSHARED or (sharing == IMMUTABLE and policy != NEVER):
            return
        if policy == VARYING:
            line, _, lines = self.head.partition(b"\r\n")
            self.head = line + b"\r\n" + varying(lines, self.fields, varies_by)
        else:
            self.head = self._made_private()
            self._sharing = UNSHARED

    def _made_private(self) -> bytes:
        line, _, lines = self.head.partition(b"\r\n")
        return line + b"\r\n" + made_private(lines, self.fields)


class ResponseParser:
    """Checks response heads and makes the heads to forward; one object serves all connections.

    ``dropped`` is the name of one more field that is not forwarded, empty for none. ``policy`` says what
    shared caches may keep, ``varies_by`` are the request headers for ``VARYING``. ``streams`` are media types
    of bodies without an end of their own and with a record a line, in lower case.
    """

    __slots__ = ("_llhttp", "_names", "_policy", "_streams", "_varies_by", "dropped")

    def __init__(
        self,
        dropped: bytes = b"",
        policy: int = AS_IT_IS,
        varies_by: tuple[bytes, ...] = (),
        streams: tuple[bytes, ...] = (),
    ) -> None:
        self._policy = policy
        self._varies_by = varies_by
        self._streams = streams
        self.dropped = frozenset((dropped.lower(),)) if dropped else NO_NAMES
        """Names (lower case) of fields that are never forwarded, those of a connection apart."""
        self._names = Names(RESPONSE_KINDS, dropped.lower())
        self._llhttp = response_parser()

    def parse(self, head: bytes) -> Response:
        """Check one complete head (with its empty line) and return the response, ready to forward.

        Raises ``InvalidResponse``.
        """
        if len(head) > MAX_HEAD:
            raise InvalidResponse("head too large")
        line = _STATUS_LINE.match(head)
        if line is None:
            raise InvalidResponse("malformed status line")
        minor, line_end = line[1], line.end()
        if not line[3]:  # no reason: the blank before it has to be there all the same (RFC 9112 §4)
            head = head[:line_end] + b" " + head[line_end:]
            line_end += 1
        if minor not in _FOR_LLHTTP:
            head = b"HTTP/1.1" + head[8:]
        head, raw = self._split(head)
        if (
            head.translate(None, _LEGAL_IN_LINE) != b"\r\n" * (len(raw) + 2)
            or b"\n " in head
            or b"\n\t" in head
        ):
            # llhttp accepts more from servers than clients should get. All bytes that are illegal in a line
            # must be one CRLF each for the status line, every field and the empty line.
            raise InvalidResponse("control bytes or folded lines in the head")
        response = Response(int(line[2]), raw)
        response.nominated = self.dropped
        connection, drop = self._read(response, http10=minor == b"0")
        if b"date" in connection:
            response.end = UNDATED
        response.end += VERSION * MINORS.index(minor)
        if connection and connection != CLOSE:
            drop = nominated(raw, drop, connection)
            response.nominated = self.dropped.union(connection)
        if response.status == 204 or response.status < 200:
            # RFC 9110 §8.6, RFC 9112 §6.1: they have no body, and must not have a length.
            drop = drop + [field for field in raw if self._names.kind(field[0]) == IS_LENGTH]
            response.length, response.chunked = -1, False
        response.head = b"HTTP/1.1" + head[8:line_end] + without(head[line_end:-2], drop, raw)
        if response.length >= 0 and any(self._names.kind(name) == IS_LENGTH for name, _ in drop):
            response.head += b"Content-Length: %d\r\n" % response.length
        if response.status == 426 and response.upgrade:
            # RFC 9110 §15.5.22: it means nothing without.
            response.head += b"Upgrade: %b\r\nConnection: upgrade\r\n" % response.upgrade
        if self._policy != AS_IT_IS and response.status >= 200:
            response.restrict(self._policy, self._varies_by)
        return response

    def _split(self, head: bytes) -> tuple[bytes, Headers]:
        """Return the head and its fields. Blanks before colons are removed (RFC 9112 §5.1).

        Raises ``InvalidResponse``.
        """
        try:
            return head, self._llhttp.fields(head)[0]
        except MalformedHead as error:
            mended = _BLANK_BEFORE_COLON.sub(self._harmless_name, head)
            if mended == head:
                raise InvalidResponse(str(error)) from None
        return self._split(mended)

    def _harmless_name(self, found: re.Match[bytes]) -> bytes:
        """Return a name that blanks followed. Raises ``InvalidResponse`` if it means something here."""
        name = found[1]
        if self._names.kind(name) not in HARMLESS:
            raise InvalidResponse(f"blank before the colon of {name.decode()}")
        return name

    def _read(self, response: Response, *, http10: bool) -> tuple[list[bytes], list[Field]]:
        """Read each field that means something to a proxy.

        Returns the options of Connection and the fields that are not forwarded. Raises ``InvalidResponse``.
        """
        drop: list[Field] = []
        connection: list[bytes] = []
        content_type = 0
        for field in response.fields:
            name, value = field
            kind = self._names.kind(name)
            if not kind:
                continue
            if kind == IS_LENGTH:
                if not value.isdigit() or len(value) > MOST_DIGITS:
                    raise InvalidResponse("malformed Content-Length")
                if response.length not in (-1, int(value)):
                    raise InvalidResponse("contradicting Content-Length fields")
                response.length = int(value)
                if not plain_length(value):
                    drop.append(field)
                continue
            if kind == IS_TYPE:
                content_type = content_type or type_code(value)
                continue
            if kind == IS_DATE:
                response.end = 0
                continue
            if kind == IS_CHALLENGE or (kind == IS_PROXY_CHALLENGE and response.status == 407):
                response.binds = response.binds or binds(value)
                continue
            if kind == IS_LOOK_ALIKE:
                raise InvalidResponse(f"ambiguous header name {name.decode('latin-1')}")
            if kind == IS_CODING:
                if response.chunked:
                    raise InvalidResponse("more than one Transfer-Encoding")
                if http10 or value.lower() != b"chunked":
                    where = "in HTTP/1.0" if http10 else "other than chunked"
                    raise InvalidResponse(f"Transfer-Encoding {where}")
                response.chunked = True
            elif kind == IS_CONNECTION:
                connection += tokens(value)
            elif kind == IS_UPGRADE:
                response.upgrade = response.upgrade + b", " + value if response.upgrade else value
            drop.append(field)
        if response.chunked and response.length >= 0:
            raise InvalidResponse("both Content-Length and Transfer-Encoding")
        response.keep_alive = b"keep-alive" in connection if http10 else b"close" not in connection
        response.is_event_stream = content_type == EVENT_STREAM
        if response.length < 0 and (response.is_event_stream or self._streams):
            response.endless = self._endless(response)
        flags = ENDED | BODILESS if response.status in (204, 304) else ENDED
        response.word = pack_first(0, 0, 0, response.status, content_type, flags)
        return connection, drop

    def _endless(self, response: Response) -> int:
        """Return how the body of a response without a length can be ended, ``ENDS`` if it ends by itself."""
        kind = EVENTS if response.is_event_stream else ENDS
        coded = False
        for name, value in response.fields:
            lowered = name.lower()
            if lowered == b"content-encoding":
                coded = value.lower() != b"identity"
            elif lowered == b"content-type" and not kind:
                media_type = value.partition(b";")[0].strip().lower()
                kind = LINES if media_type in self._streams else ENDS
        return ENCODED if kind and coded else kind


def is_hopeless(data: bytes, searched: int) -> bool:
    """Tell whether no further byte can make an unfinished head valid, so that no timeout is awaited.

    ``searched`` is how many bytes were checked before.
    """
    return (
        len(data) > MAX_HEAD
        or not _BEGINNING.startswith(data[: len(_BEGINNING)])
        or BARE_LF.search(data, searched) is not None
    )
