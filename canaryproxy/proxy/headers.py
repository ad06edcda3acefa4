"""Heads of requests and answers: checked, stripped of hop-by-hop fields, and made ready to forward.

aiohttp's C parser splits a head into fields and refuses most malformed ones; this module refuses what the
parser lets through and a proxy must not, and edits the received bytes as little as possible: fields that
must go are cut out, fields that must come are appended, the rest is forwarded byte for byte.

The parser is given whole heads only, never bodies (see ``chunked``), so one parser serves all connections.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser

from canaryproxy.proxy.errors import BrokenAnswer, Refusal
from canaryproxy.routing import Headers

MAX_REQUEST_LINE: Final = 8 * 1024
"""Longest request line in bytes; longer ones get 414."""
MAX_HEAD: Final = 32 * 1024
"""Largest head of a request in bytes; larger ones get 431."""
MAX_FIELDS: Final = 128
"""Most fields of a head; more get 431."""
MAX_ANSWER_HEAD: Final = 64 * 1024
"""Largest head of an answer in bytes; larger ones are broken answers."""

_UNLIMITED: Final = 1 << 20

_TARGET = rb"[!$-;=?-Z\[\\\]^_`a-z{|}~]+"
_REQUEST_LINE = re.compile(rb"([A-Z\-]+) (" + _TARGET + rb") HTTP/1\.([01])")
"""Visible ASCII but ``"``, ``#``, ``<`` and ``>``: RFC 3986 plus what browsers leave unescaped."""
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(/[^?]*)?(\?.*)?")
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+(?::[0-9]{0,5})?"
    rb"|\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\](?::[0-9]{0,5})?"
)
"""``uri-host [ ":" port ]`` (RFC 9110 §7.2), not empty."""
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t \x21-\x7e\x80-\xff]*)?")
_LEGAL_IN_LINE = bytes(b for b in range(256) if b == 0x09 or 0x20 <= b != 0x7F)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BARE_LF = re.compile(rb"(?<!\r)\n")

_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND", "REPORT", "SEARCH"))
"""Methods that may be repeated without harm (RFC 9110 §9.2.2; WebDAV's safe ones)."""


# What a field means to a proxy. Plain integers: they are compared for every field of every message.
_IS_PLAIN: Final = 0
_IS_HOP: Final = 1
_IS_CONNECTION: Final = 2
_IS_HOST: Final = 3
_IS_LENGTH: Final = 4
_IS_CODING: Final = 5
_IS_COOKIE: Final = 6
_IS_EXPECT: Final = 7
_IS_UPGRADE: Final = 8
_IS_FORWARDED_FOR: Final = 9
_IS_FORWARDED_PROTO: Final = 10
_IS_FORWARDED_HOST: Final = 11
_IS_FORWARDED: Final = 12
_IS_LOOK_ALIKE: Final = 13

_REQUEST_KINDS: dict[bytes, int] = {
    b"keep-alive": _IS_HOP,
    b"proxy-connection": _IS_HOP,
    b"proxy-authorization": _IS_HOP,
    b"te": _IS_HOP,
    b"connection": _IS_CONNECTION,
    b"host": _IS_HOST,
    b"content-length": _IS_LENGTH,
    b"transfer-encoding": _IS_CODING,
    b"cookie": _IS_COOKIE,
    b"expect": _IS_EXPECT,
    b"upgrade": _IS_UPGRADE,
    b"x-forwarded-for": _IS_FORWARDED_FOR,
    b"x-forwarded-proto": _IS_FORWARDED_PROTO,
    b"x-forwarded-host": _IS_FORWARDED_HOST,
    b"forwarded": _IS_FORWARDED,
}
_ANSWER_KINDS: dict[bytes, int] = {
    b"keep-alive": _IS_HOP,
    b"proxy-connection": _IS_HOP,
    b"proxy-authenticate": _IS_HOP,
    b"te": _IS_HOP,
    b"connection": _IS_CONNECTION,
    b"content-length": _IS_LENGTH,
    b"transfer-encoding": _IS_CODING,
    b"upgrade": _IS_UPGRADE,
}
_NEVER_NOMINATED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"close")
)
"""Fields that ``Connection`` cannot name away: without them the message would change its meaning."""

_CLOSE = [b"close"]
"""What Connection mostly says when it says anything but keep-alive; it names no fields to drop."""

_CACHED_NAMES = 512


class _Names:
    """Looks the kind of a field up by its name as received, without lowering it each time.

    Bounded: a peer that sends many distinct names cannot make it grow, only miss it.
    """

    __slots__ = ("_cache", "_kinds", "cached")

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self._cache: dict[bytes, int] = {}
        self.cached = self._cache.get

    def classify(self, name: bytes) -> int:
        lower = name.lower()
        kind = self._kinds.get(lower)
        if kind is None:
            kind = _IS_PLAIN
            if b"_" in lower and lower.replace(b"_", b"-") in self._kinds:
                kind = _IS_LOOK_ALIKE
        if len(self._cache) < _CACHED_NAMES:
            self._cache[name] = kind
        return kind


class _NoFlowControl(BaseProtocol):
    """Stands in for the protocol that aiohttp's parser would pause; it sees no bodies."""


class Request:
    """One request's head, checked. All byte strings are as received."""

    __slots__ = (
        "chunked",
        "cookie",
        "expect",
        "fields",
        "head",
        "host",
        "http10",
        "keep_alive",
        "length",
        "method",
        "target",
        "upgrade",
    )

    method: str
    target: bytes
    """The target in origin or asterisk form."""
    host: bytes
    http10: bool
    keep_alive: bool
    """The client lets the connection be used again."""
    length: int
    """Bytes of the body by Content-Length, 0 without one."""
    chunked: bool
    expect: bool
    """The client waits for ``100 Continue``."""
    upgrade: bool
    """The client asks for another protocol on this connection."""
    cookie: bytes
    """The value of the Cookie field, empty without one."""
    fields: Headers
    head: bytes
    """The head to forward, up to and with the empty line."""

    @property
    def idempotent(self) -> bool:
        """Whether the method may be repeated (RFC 9110 §9.2.2)."""
        return self.method in _IDEMPOTENT

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name (lower case), or ``None``."""
        for key, value in self.fields:
            if key.lower() == name:
                return value
        return None


class Response:
    """One answer's head, checked."""

    __slots__ = ("block", "chunked", "keep_alive", "length", "line", "status", "upgrade")

    status: int
    line: bytes
    """The status line, as HTTP/1.1, without CRLF."""
    block: bytes
    """The fields to forward: CRLF, then whole lines with their CRLF."""
    length: int
    """Content-Length, or -1 without one."""
    chunked: bool
    keep_alive: bool
    """The upstream lets the connection be used again."""
    upgrade: bytes
    """The value of Upgrade, empty without one."""


class Peer:
    """What the forwarding fields say of one downstream connection."""

    __slots__ = ("_host", "_lines", "address", "local", "proto", "trusted")

    def __init__(self, address: str, proto: bytes, trusted: bool, local: bytes) -> None:
        self.address = address
        """The client's address, empty for a Unix socket."""
        self.proto = proto
        """``http`` or ``https``, as this connection is."""
        self.trusted = trusted
        """Its own forwarding fields are kept and appended to."""
        self.local = local
        """Host for HTTP/1.0 clients that name none: the address that the client connected to."""
        self._host = b""
        self._lines = b""

    def forwarding(self, host: bytes, received: list[tuple[int, bytes]] | None) -> bytes:
        """Return the X-Forwarded-* and Forwarded lines to send upstream.

        ``received`` holds the client's own such fields as pairs of kind and value.
        """
        if received and self.trusted:
            return self._forwarding(host, received)
        if host != self._host:
            self._host, self._lines = host, self._forwarding(host, [])
        return self._lines

    def _forwarding(self, host: bytes, received: list[tuple[int, bytes]]) -> bytes:
        values: dict[int, list[bytes]] = {}
        for kind, value in received:
            values.setdefault(kind, []).append(value)
        chain = values.get(_IS_FORWARDED_FOR, [])
        if self.address:
            chain = [*chain, self.address.encode()]
        elements = [
            *values.get(_IS_FORWARDED, []),
            b"for=%b;host=%b;proto=%b" % (self._node(), _quoted(host), self.proto),
        ]
        return b"%bX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\n" % (
            b"X-Forwarded-For: " + b", ".join(chain) + b"\r\n" if chain else b"",
            values.get(_IS_FORWARDED_PROTO, [self.proto])[0],
            values.get(_IS_FORWARDED_HOST, [host])[0],
            b", ".join(elements),
        )

    def _node(self) -> bytes:
        """Return the client's address as a ``node`` of RFC 7239 §6."""
        if not self.address:
            return b"unknown"
        return f'"[{self.address}]"'.encode() if ":" in self.address else self.address.encode()


class HeadParser:
    """Checks heads and makes the heads to forward; one object serves all connections.

    ``via`` is the pseudonym for the Via field (RFC 9110 §7.6.3).
    """

    __slots__ = (
        "_answer_names",
        "_answers",
        "_loop",
        "_parser",
        "_request_names",
        "_requests",
        "end",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, via: str) -> None:
        self._loop = loop
        self.end = b"Via: 1.1 " + via.encode("latin-1") + b"\r\n\r\n"
        """What ends every head: our Via field and the empty line."""
        self._request_names = _Names(_REQUEST_KINDS)
        self._answer_names = _Names(_ANSWER_KINDS)
        self._new_request_parser()
        self._new_answer_parser()

    def _new_request_parser(self) -> None:
        self._requests = HttpRequestParser(
            _NoFlowControl(self._loop),
            self._loop,
            _UNLIMITED,
            max_line_size=_UNLIMITED,
            max_headers=_UNLIMITED,
            max_field_size=_UNLIMITED,
            response_with_body=False,
            auto_decompress=False,
        )

    def _new_answer_parser(self) -> None:
        self._answers = HttpResponseParser(
            _NoFlowControl(self._loop),
            self._loop,
            _UNLIMITED,
            max_line_size=_UNLIMITED,
            max_headers=_UNLIMITED,
            max_field_size=_UNLIMITED,
            response_with_body=False,
            auto_decompress=False,
        )

    def request(self, head: bytes, peer: Peer) -> Request:
        """Check one complete request head (with its empty line) and return it ready to forward.

        Raises ``Refusal`` with the status and the reason for the client.
        """
        line_end = head.find(b"\r\n")
        if line_end > MAX_REQUEST_LINE:
            raise Refusal(414, "request line too long")
        if len(head) > MAX_HEAD:
            raise Refusal(431, "request head too large")
        line = _REQUEST_LINE.fullmatch(head, 0, line_end)
        if line is None:
            raise _bad_request_line(head[:line_end])
        method, target, minor = line.groups()
        if method in (b"CONNECT", b"TRACE"):
            raise Refusal(405, f"method {method.decode()} is not allowed")
        try:
            messages, upgraded, _ = self._requests.feed_data(head)
            message = messages[0][0]
        except (HttpProcessingError, IndexError) as error:
            self._new_request_parser()
            raise Refusal(400, _first_line(error)) from None
        if upgraded:
            self._requests.set_upgraded(False)
        if message.should_close:
            # llhttp takes nothing more after a message that closes its connection.
            self._new_request_parser()
        fields = message.raw_headers
        if len(fields) > MAX_FIELDS:
            raise Refusal(431, "too many header fields")

        request = Request()
        request.method = message.method
        request.target = target
        request.http10 = http10 = minor == b"0"
        request.keep_alive = not message.should_close
        request.length = 0
        request.chunked = request.expect = request.upgrade = False
        request.cookie = b""
        request.fields = fields
        host: bytes | None = None
        drop: list[tuple[bytes, bytes]] | None = None
        connection: list[bytes] | None = None
        forwarding: list[tuple[int, bytes]] | None = None
        upgrade = b""
        trailers = has_length = False
        kind_of = self._request_names.cached
        for field in fields:
            name, value = field
            kind = kind_of(name)
            if not kind:
                if kind is not None:
                    continue
                kind = self._request_names.classify(name)
                if not kind:
                    continue
            if kind == _IS_HOST:
                if host is not None:
                    raise Refusal(400, "more than one Host field")
                host = value
            elif kind == _IS_COOKIE:
                request.cookie = request.cookie + b"; " + value if request.cookie else value
            elif kind == _IS_LENGTH:
                if not value.isdigit() or len(value) > 18:
                    raise Refusal(400, "malformed Content-Length")
                request.length = int(value)
                has_length = True
            else:
                if kind == _IS_CODING:
                    if http10 or value.lower() != b"chunked" or request.chunked:
                        raise Refusal(400, "unsupported Transfer-Encoding")
                    request.chunked = True
                elif kind == _IS_CONNECTION:
                    if value != b"keep-alive":
                        connection = (connection or []) + _tokens(value)
                elif kind == _IS_EXPECT:
                    if not http10:  # which knows no expectations: RFC 9110 §10.1.1
                        if value.lower() != b"100-continue":
                            raise Refusal(417, "unknown expectation")
                        request.expect = True
                        continue
                elif kind == _IS_UPGRADE:
                    upgrade = value
                elif kind == _IS_LOOK_ALIKE:
                    raise Refusal(400, f"ambiguous header name {name.decode('latin-1')}")
                elif kind != _IS_HOP:
                    forwarding = forwarding or []
                    forwarding.append((kind, value))
                elif name.lower() == b"te":
                    trailers = trailers or b"trailers" in _tokens(value)
                drop = drop or []
                drop.append(field)

        if request.chunked and has_length:
            raise Refusal(400, "both Content-Length and Transfer-Encoding")
        if host is None and not http10:
            raise Refusal(400, "no Host field")
        absolute = None
        if target[0] != 0x2F and target != b"*":
            absolute = _ABSOLUTE.fullmatch(target)
            if absolute is None:
                raise Refusal(400, "malformed request target")
        elif target == b"*" and method != b"OPTIONS":
            raise Refusal(400, "malformed request target")
        if host is not None and not _HOST.fullmatch(host):
            raise Refusal(400, "malformed Host")

        if drop is None and absolute is None and host is not None and not http10:
            # Nothing to take out, which is the common case: only append.
            request.host = host
            request.head = head[:-2] + peer.forwarding(host, None) + self.end
            return request
        extra = b""
        if connection and connection != _CLOSE:
            drop = _nominated(fields, drop or [], connection)
            extra = _renewed(request, connection, upgrade, trailers)
        block = _without(head, line_end, fields, drop) if drop else head[line_end:-2]
        if absolute is not None:
            target, block = _origin_form(absolute, block, fields, drop)
            if target == b"*" and method != b"OPTIONS":
                target = b"/"
            request.target = target
            host = absolute[1]
            block += b"Host: " + host + b"\r\n"
        elif host is None:
            host = peer.local
            block += b"Host: " + host + b"\r\n"
        request.host = host
        if request.chunked:
            extra += b"Transfer-Encoding: chunked\r\n"
        request.head = b"".join(
            (
                method,
                b" ",
                target,
                b" HTTP/1.1",
                block,
                peer.forwarding(host, forwarding),
                extra,
                self.end,
            )
        )
        return request

    def response(self, head: bytes) -> Response:
        """Check one complete answer head (with its empty line) and return it ready to forward.

        Raises ``BrokenAnswer``.
        """
        line_end = head.find(b"\r\n")
        line = _STATUS_LINE.fullmatch(head, 0, line_end)
        if line is None:
            raise BrokenAnswer("malformed status line")
        try:
            messages, upgraded, _ = self._answers.feed_data(head)
            message = messages[0][0]
        except (HttpProcessingError, IndexError) as error:
            self._new_answer_parser()
            raise BrokenAnswer(_first_line(error)) from None
        if upgraded:
            self._answers.set_upgraded(False)
        if message.should_close:
            self._new_answer_parser()
        fields = message.raw_headers
        if head.translate(None, _LEGAL_IN_LINE) != b"\r\n" * (len(fields) + 2):
            # llhttp takes more from servers than a client should be given: what is not a legal byte must
            # be one CRLF for the status line, each field and the empty line.
            raise BrokenAnswer("control bytes or folded lines in the head")
        response = Response()
        response.status = message.code
        http10 = line[1] == b"0"
        response.line = b"HTTP/1.1" + head[8:line_end]
        response.length = -1
        response.chunked = False
        response.upgrade = b""
        drop: list[tuple[bytes, bytes]] | None = None
        connection: list[bytes] | None = None
        kind_of = self._answer_names.cached
        for field in fields:
            name, value = field
            kind = kind_of(name)
            if not kind:
                if kind is not None:
                    continue
                kind = self._answer_names.classify(name)
                if not kind:
                    continue
            if kind == _IS_LENGTH:
                if not value.isdigit() or len(value) > 18:
                    raise BrokenAnswer("malformed Content-Length")
                if response.length not in (-1, int(value)):
                    raise BrokenAnswer("contradicting Content-Length fields")
                response.length = int(value)
                continue
            if kind == _IS_CODING:
                if http10 or value.lower() != b"chunked" or response.chunked:
                    raise BrokenAnswer("unsupported Transfer-Encoding")
                response.chunked = True
            elif kind == _IS_CONNECTION:
                if value != b"keep-alive" or http10:
                    connection = connection + _tokens(value) if connection else _tokens(value)
            elif kind == _IS_UPGRADE:
                response.upgrade = value
            elif kind == _IS_LOOK_ALIKE:
                raise BrokenAnswer("ambiguous header name")
            drop = drop or []
            drop.append(field)
        if response.chunked and response.length >= 0:
            raise BrokenAnswer("both Content-Length and Transfer-Encoding")
        response.keep_alive = not http10
        if connection:
            response.keep_alive = (
                b"keep-alive" in connection if http10 else b"close" not in connection
            )
            if connection != _CLOSE:
                drop = _nominated(fields, drop or [], connection)
        response.block = _without(head, line_end, fields, drop) if drop else head[line_end:-2]
        return response


def find_head_end(data: bytes, start: int = 0) -> int:
    """Return the offset just after the empty line that ends a head, or -1.

    ``start`` is how much of ``data`` was already searched.
    """
    end = data.find(b"\r\n\r\n", max(start - 3, 0))
    return end + 4 if end >= 0 else -1


def check_partial(data: bytes) -> None:
    """Refuse an unfinished request head that no further byte can make valid.

    Raises ``Refusal``, so that neither an endless head nor bare LF has to wait for a timeout.
    """
    line_end = data.find(b"\r\n")
    if (line_end if line_end >= 0 else len(data)) > MAX_REQUEST_LINE:
        raise Refusal(414, "request line too long")
    if len(data) > MAX_HEAD:
        raise Refusal(431, "request head too large")
    if _BARE_LF.search(data):
        raise Refusal(400, "bare LF in the request head")


def _bad_request_line(line: bytes) -> Refusal:
    if line.startswith(b"CONNECT "):
        return Refusal(405, "method CONNECT is not allowed")
    if re.fullmatch(rb"[A-Z\-]+ \S+ HTTP/[0-9]\.[0-9]", line) and not line.endswith(
        (b"/1.1", b"/1.0")
    ):
        return Refusal(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return Refusal(400, "malformed request line")


def _first_line(error: Exception) -> str:
    """Return what an aiohttp parser error says, without the peer's own bytes."""
    text = error.message if isinstance(error, BadHttpMessage) else ""
    return text.partition(":\n")[0].partition("\n")[0] or "malformed head"


def _tokens(value: bytes) -> list[bytes]:
    """Split a comma-separated list of tokens, in lower case."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def _nominated(
    fields: Headers, drop: list[tuple[bytes, bytes]], connection: list[bytes]
) -> list[tuple[bytes, bytes]]:
    """Return ``drop`` and the fields that Connection names (RFC 9110 §7.6.1)."""
    named = frozenset(connection) - _NEVER_NOMINATED
    return drop + [field for field in fields if field[0].lower() in named and field not in drop]


def _renewed(request: Request, connection: list[bytes], upgrade: bytes, trailers: bool) -> bytes:
    """Return the hop-by-hop fields that the next hop gets in its turn: Upgrade and ``TE: trailers``.

    An upgrade to h2c is not passed on: inside that tunnel requests would escape routing.
    """
    options, lines = [], b""
    if (
        upgrade
        and b"upgrade" in connection
        and not (request.http10 or request.chunked or request.length)
        and b"h2c" not in _tokens(upgrade)
    ):
        request.upgrade = True
        options.append(b"upgrade")
        lines += b"Upgrade: " + upgrade + b"\r\n"
    if trailers and b"te" in connection:
        options.append(b"TE")
        lines += b"TE: trailers\r\n"
    if options:
        lines += b"Connection: " + b", ".join(options) + b"\r\n"
    return lines


def _without(head: bytes, line_end: int, fields: Headers, drop: list[tuple[bytes, bytes]]) -> bytes:
    """Return the field lines of ``head`` less those in ``drop``, the others byte for byte."""
    block = head[line_end:-2]
    for name, value in drop:
        shorter = block.replace(b"\r\n%b: %b\r\n" % (name, value), b"\r\n", 1)
        if len(shorter) == len(block):
            break  # spelt with other white space: put the lines together anew
        block = shorter
    else:
        return block
    return b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields if field not in drop)


def _origin_form(
    absolute: re.Match[bytes], block: bytes, fields: Headers, drop: list[tuple[bytes, bytes]] | None
) -> tuple[bytes, bytes]:
    """Return the origin-form target and the fields without Host of an absolute-form request.

    RFC 9112 §3.2.2: the target's authority replaces Host. §3.2.4: ``OPTIONS`` without path is ``*``.
    """
    authority, path, query = absolute.groups()
    if not _HOST.fullmatch(authority):
        raise Refusal(400, "malformed authority in the request target")
    kept = [f for f in fields if f[0].lower() != b"host" and (drop is None or f not in drop)]
    block = b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in kept)
    if path is None and query is None:
        return b"*", block
    return (path or b"/") + (query or b""), block


def _quoted(value: bytes) -> bytes:
    """Return ``value`` as a token where it is one, else as a quoted-string (RFC 7239 §4)."""
    return value if _TOKEN.fullmatch(value) else b'"' + value + b'"'
