"""Messages (RFC 9113 §8): field blocks to heads of HTTP/1.1 as the data path has them, and back.

The data path knows one form of a head, the text of HTTP/1.1. A request of HTTP/2 becomes such a text, and
then goes through ``http1.request`` like any other, with its rules and its caches. So nothing is decided
here but what HTTP/2 itself forbids: a message that breaks that is malformed (§8.1.1), a stream error that
is never forwarded.

A text cannot say more than its fields did: a name is a token in small letters, a value has no CR, LF or
NUL, and a target no blank.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from canaryproxy.http1.chunked import FORBIDDEN_TRAILERS
from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.fields import TOKEN, Field
from canaryproxy.http1.websocket import accept_of
from canaryproxy.http2.decoder import FieldBlock
from canaryproxy.http2.errors import ENHANCE_YOUR_CALM, PROTOCOL_ERROR, StreamFault
from canaryproxy.http2.streams import UNKNOWN_LENGTH

# Kinds of fields. Plain integers, because they are compared for every field of every new block.
_PLAIN: Final = 0
_METHOD: Final = 1
_SCHEME: Final = 2
_AUTHORITY: Final = 3
_PATH: Final = 4
_STATUS: Final = 5
_PROTOCOL: Final = 6
_LAST_PSEUDO: Final = 6
_HOST: Final = 7
_COOKIE: Final = 8
_LENGTH: Final = 9
_TE: Final = 10
_FORBIDDEN: Final = 11

_KINDS: Final[dict[bytes, int]] = {
    b":method": _METHOD,
    b":scheme": _SCHEME,
    b":authority": _AUTHORITY,
    b":path": _PATH,
    b":status": _STATUS,
    b":protocol": _PROTOCOL,
    b"host": _HOST,
    b"cookie": _COOKIE,
    b"content-length": _LENGTH,
    b"te": _TE,
    b"connection": _FORBIDDEN,
    b"keep-alive": _FORBIDDEN,
    b"proxy-connection": _FORBIDDEN,
    b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN,
}
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""§8.2.2."""
_MOST_NAMES: Final = 512
_LONGEST_NAME: Final = 64
_known_names: Final[dict[bytes, int]] = dict(_KINDS)
"""The kinds of names that were seen to be valid: bounded, and the same for all connections."""

_LEGAL: Final = bytes(byte for byte in range(256) if byte == 0x09 or 0x20 <= byte != 0x7F)
"""In values, but not at their ends. HTTP/1 has no value with another control byte (RFC 9110 §5.5)."""
_PATH_FORM: Final = re.compile(rb"/[!-~\x80-\xff]*")
_AUTHORITY_FORM: Final = re.compile(rb"[!-?A-~\x80-\xff]*")
"""Without ``@``: it has no user (§8.3.1). The rest is checked as Host."""
_WEBSOCKET: Final = b"websocket"
_KEYS: Final = re.compile(rb"(?m)^sec-websocket-(?:key|accept): [^\r]*\r\n")
_ACCEPT: Final = re.compile(rb"(?i)\r\nsec-websocket-accept:[^\r]*")
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}


class Head:
    """The head of a message of HTTP/2 as one of HTTP/1.1. Equal blocks share one object."""

    __slots__ = (
        "chunked",
        "length",
        "meaning",
        "method",
        "never_indexed",
        "opens_tunnel",
        "refusal",
        "status",
        "text",
    )

    def __init__(self, text: bytes, length: int, never_indexed: frozenset[bytes]) -> None:
        self.text = text
        """The head with its empty line, for a message that ends with its head or has a Content-Length."""
        self.chunked = text
        """The same, for a request whose content has an unknown length."""
        self.length = length
        """Content-Length, or ``UNKNOWN_LENGTH``."""
        self.never_indexed = never_indexed
        """Names of fields that the next hop may not put into a table either (RFC 7541 §6.2.3)."""
        self.method = b""
        """Of a request."""
        self.opens_tunnel = False
        """It opens a WebSocket (RFC 8441): ``handshake`` is to be its text."""
        self.status = 0
        """Of a response."""
        self.refusal: Refusal | None = None
        """Why the request is not forwarded, although HTTP/2 allows it."""
        self.meaning: object | None = None
        """For what the owner of the connection makes of it."""

    def text_for(self, *, ends: bool) -> bytes:
        """Return the head; ``ends``: there is no content."""
        return self.text if ends else self.chunked

    def handshake(self, key: bytes) -> bytes:
        """Return the head of the handshake by which HTTP/1.1 opens a WebSocket (RFC 6455 §4.1)."""
        return b"%bSec-WebSocket-Key: %b\r\n\r\n" % (self.text[:-2], key)


class _Fields:
    """The fields of a block, read one by one."""

    __slots__ = (
        "authority",
        "cookies",
        "host",
        "length",
        "lines",
        "method",
        "path",
        "protocol",
        "scheme",
        "status",
        "te",
    )

    def __init__(self) -> None:
        self.method: bytes | None = None
        self.scheme: bytes | None = None
        self.authority: bytes | None = None
        self.path: bytes | None = None
        self.protocol: bytes | None = None
        self.status: bytes | None = None
        self.host: bytes | None = None
        self.cookies: list[bytes] = []
        self.length = UNKNOWN_LENGTH
        self.te = False
        self.lines = b""
        """The plain fields as lines."""


def request_head(block: FieldBlock) -> Head:
    """Return the head of a request. Raises ``StreamFault`` if it is malformed."""
    meaning = block.meaning
    if isinstance(meaning, Head):
        return meaning
    if block.too_large:
        head = Head(b"", UNKNOWN_LENGTH, block.never_indexed)
        head.refusal = Refusal(431, "request head too large")
    else:
        head = _request_head(block)
    block.meaning = head
    return head


def _request_head(block: FieldBlock) -> Head:
    fields = _read(block.fields, is_request=True)
    method, authority = fields.method, fields.authority
    if fields.status is not None or method is None or not TOKEN.fullmatch(method):
        raise _malformed("pseudo-fields")
    if authority is not None and not _AUTHORITY_FORM.fullmatch(authority):
        raise _malformed(":authority")
    host = _host(fields)
    target = fields.path
    if fields.protocol is not None:
        return _tunnel_head(block, fields)
    if method == b"CONNECT":
        if fields.scheme is not None or target is not None or not authority:
            raise _malformed("CONNECT")
        target = authority
    else:
        if fields.scheme is None or target is None:
            raise _malformed("pseudo-fields")
        if not (_PATH_FORM.fullmatch(target) or (target == b"*" and method == b"OPTIONS")):
            raise _malformed(":path")
    text = _text(method, target, host, fields)
    head = Head(text + b"\r\n", fields.length, block.never_indexed)
    if fields.length == UNKNOWN_LENGTH:
        head.chunked = text + b"Transfer-Encoding: chunked\r\n\r\n"
    head.method = method
    if fields.scheme is not None and fields.scheme.lower() not in _DEFAULT_PORTS:
        head.refusal = Refusal(400, "unsupported scheme")
    return head


def _tunnel_head(block: FieldBlock, fields: _Fields) -> Head:
    """Return the head of an extended CONNECT (RFC 8441 §4) as the GET that opens a WebSocket in HTTP/1.1."""
    protocol, target = fields.protocol, fields.path
    if (
        fields.method != b"CONNECT"
        or not protocol
        or not TOKEN.fullmatch(protocol)
        or fields.scheme is None
        or not fields.authority
        or target is None
        or not _PATH_FORM.fullmatch(target)
        or fields.length != UNKNOWN_LENGTH
    ):
        raise _malformed("extended CONNECT")
    fields.lines = _KEYS.sub(b"", fields.lines)  # of HTTP/1.1, and not used here (§5)
    text = _text(b"GET", target, _host(fields), fields)
    text += b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol
    head = Head(text, UNKNOWN_LENGTH, block.never_indexed)
    head.method = b"GET"
    head.opens_tunnel = True
    if protocol != _WEBSOCKET:
        head.refusal = Refusal(501, "the only :protocol that is supported is websocket")
    elif fields.scheme.lower() not in _DEFAULT_PORTS:
        head.refusal = Refusal(400, "unsupported scheme")
    return head


def _text(method: bytes, target: bytes, host: bytes | None, fields: _Fields) -> bytes:
    """Return a request as HTTP/1.1, up to what says how its content is framed."""
    line = b"%b %b HTTP/1.1\r\n" % (method, target)
    if host is not None:
        line += b"Host: %b\r\n" % host
    text = line + fields.lines
    if fields.cookies:
        text += b"cookie: %b\r\n" % b"; ".join(fields.cookies)
    if fields.te:
        text += b"TE: trailers\r\nConnection: TE\r\n"
    return text


def _host(fields: _Fields) -> bytes | None:
    """Return the host that the request is for: of two that differ, neither (§8.3.1)."""
    authority, host = fields.authority, fields.host
    if authority is None:
        return host
    if host is not None and host != authority:
        scheme = fields.scheme or b""
        if _normal(host, scheme) != _normal(authority, scheme):
            raise _malformed("Host, which differs from :authority")
    return authority


def _normal(host: bytes, scheme: bytes) -> bytes:
    """Return a host in small letters and without the scheme's own port (RFC 3986 §6.2.3)."""
    return host.lower().removesuffix(_DEFAULT_PORTS.get(scheme.lower(), b":")).removesuffix(b":")


def response_head(block: FieldBlock) -> Head:
    """Return the head of a response. Raises ``StreamFault`` if it is malformed."""
    meaning = block.meaning
    if isinstance(meaning, Head):
        return meaning
    if block.too_large:
        raise StreamFault(ENHANCE_YOUR_CALM, "response head too large")
    fields = _read(block.fields, is_request=False)
    status = fields.status
    if (
        status is None
        or len(status) != 3
        or not status.isdigit()
        or status < b"100"
        or status == b"101"
        or fields.method is not None
        or fields.scheme is not None
        or fields.authority is not None
        or fields.path is not None
        or fields.protocol is not None
    ):
        raise _malformed("pseudo-fields")
    number = int(status)
    line = b"HTTP/1.1 %b %b\r\n" % (status, _phrase(number))
    if fields.host is not None:
        line += b"host: %b\r\n" % fields.host
    cookies = b"".join([b"cookie: %b\r\n" % value for value in fields.cookies])
    head = Head(line + fields.lines + cookies + b"\r\n", fields.length, block.never_indexed)
    head.status = number
    block.meaning = head
    return head


def trailer_lines(block: FieldBlock) -> bytes:
    """Return the trailers that may be forwarded, as lines. Raises ``StreamFault`` if they are malformed."""
    meaning = block.meaning
    if isinstance(meaning, bytes):
        return meaning
    if block.too_large:
        raise StreamFault(ENHANCE_YOUR_CALM, "trailers too large")
    lines = b""
    kept: list[bytes] = []
    for field in block.fields:
        name = field[0]
        kind = _kind(name)
        if 0 < kind <= _LAST_PSEUDO or kind == _FORBIDDEN:
            raise _malformed("trailers")
        if kind == _TE and field[1].lower() != b"trailers":
            raise _malformed("TE")
        line = b"%b: %b\r\n" % field
        lines += line
        if name.replace(b"_", b"-") not in FORBIDDEN_TRAILERS:
            kept.append(line)
    _check_values(block.fields, lines)
    block.meaning = forwarded = b"".join(kept)
    return forwarded


def _read(received: list[Field], *, is_request: bool) -> _Fields:
    """Read each field. Raises ``StreamFault`` for one that is malformed, or out of its place."""
    fields = _Fields()
    lines: list[bytes] = []
    texts: list[bytes] = []
    regular = False
    for field in received:
        name, value = field
        kind = _kind(name)
        if 0 < kind <= _LAST_PSEUDO:
            if regular:
                raise _malformed("pseudo-fields")
            _take_pseudo(fields, kind, value)
            continue
        regular = True
        line = b"%b: %b\r\n" % field
        texts.append(line)
        if kind == _PLAIN:
            lines.append(line)
        elif kind == _COOKIE:
            fields.cookies.append(value)
        elif kind == _LENGTH:
            if fields.length != UNKNOWN_LENGTH or not value.isdigit() or len(value) > 18:
                raise _malformed("content-length")
            fields.length = int(value)
            lines.append(line)
        elif kind == _HOST:
            if fields.host is not None:
                raise _malformed("Host")
            fields.host = value
        elif kind == _TE:
            if value.lower() != b"trailers" or not is_request:
                raise _malformed("TE")
            fields.te = True
        else:
            raise _malformed("connection-specific field")
    _check_values(received[len(received) - len(texts) :], b"".join(texts))
    fields.lines = b"".join(lines)
    return fields


def _take_pseudo(fields: _Fields, kind: int, value: bytes) -> None:
    """Take a pseudo-field, each of which comes once (§8.3). Their values are checked by their own forms."""
    if kind == _METHOD:
        before, fields.method = fields.method, value
    elif kind == _SCHEME:
        before, fields.scheme = fields.scheme, value
    elif kind == _AUTHORITY:
        before, fields.authority = fields.authority, value
    elif kind == _PATH:
        before, fields.path = fields.path, value
    elif kind == _PROTOCOL:
        before, fields.protocol = fields.protocol, value
    else:
        before, fields.status = fields.status, value
    if before is not None:
        raise _malformed("pseudo-fields")


def _kind(name: bytes) -> int:
    """Return the kind of a field. Raises ``StreamFault`` if its name is none (§8.2.1)."""
    kind = _known_names.get(name, -1)
    if kind < 0:
        if not TOKEN.fullmatch(name) or name != name.lower():
            raise _malformed("field name")
        kind = _PLAIN
        if len(_known_names) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
            _known_names[name] = kind
    return kind


def _check_values(fields: list[Field], text: bytes) -> None:
    """Check the values of regular fields, which are the lines of ``text`` (§8.2.1).

    Their bytes all at once: what is not legal in a line must be one CRLF for each.
    """
    if text.translate(None, _LEGAL) != b"\r\n" * len(fields):
        raise _malformed("field value")
    for _, value in fields:
        if value and (_is_blank(value[0]) or _is_blank(value[-1])):
            raise _malformed("field value")


def _is_blank(byte: int) -> bool:
    return byte == 0x20 or byte == 0x09


def _malformed(what: str) -> StreamFault:
    return StreamFault(PROTOCOL_ERROR, f"malformed message: {what}")


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


# Heads of HTTP/1.1 to fields


def response_fields(head: bytes) -> list[Field]:
    """Return the fields of a response; ``head`` is its status line and its field lines."""
    line, _, lines = head.partition(b"\r\n")
    return [(b":status", line[9:12]), *_fields(lines)]


def opened_head(head: bytes) -> bytes:
    """Return what answers an extended CONNECT (RFC 8441 §5), for what answers its handshake in HTTP/1.1.

    101 is 200. Any other success opens no WebSocket, though the client would take it for that: 502.
    """
    status = head[9:12]
    if status == b"101":
        return b"HTTP/1.1 200 OK" + _ACCEPT.sub(b"", head[head.index(b"\r\n") :])
    if status[:1] == b"2":
        return b"HTTP/1.1 502 Bad Gateway" + head[head.index(b"\r\n") :]
    return head


def request_fields(head: bytes, scheme: bytes) -> list[Field]:
    """Return the fields of a request; ``head`` is its request line and its field lines, one of them Host."""
    line, _, lines = head.partition(b"\r\n")
    method, _, rest = line.partition(b" ")
    authority = b""
    fields: list[Field] = []
    for field in _fields(lines):
        if field[0] == b"host":
            authority = field[1]
        elif field[0] != b"te" or field[1].lower() == b"trailers":
            fields.append(field)
    target = rest.partition(b" ")[0]
    pseudo = [(b":method", method), (b":scheme", scheme), (b":path", target)]
    if authority:
        pseudo.append((b":authority", authority))
    return pseudo + fields


def connect_fields(head: bytes, scheme: bytes) -> list[Field]:
    """Return the fields of the extended CONNECT (RFC 8441 §5) for a WebSocket's handshake in HTTP/1.1."""
    fields = request_fields(head, scheme)[1:]
    kept = [field for field in fields if field[0] != b"sec-websocket-key"]
    return [(b":method", b"CONNECT"), (b":protocol", _WEBSOCKET), *kept]


def switched_head(head: bytes, key: bytes) -> bytes:
    """Return the 101 of HTTP/1.1 to a handshake with this key, for what accepts its extended CONNECT."""
    lines = _KEYS.sub(b"", head[head.index(b"\r\n") + 2 :])
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b" % (accept_of(key), lines)
    )


def trailer_fields(lines: bytes) -> list[Field]:
    """Return the fields of a trailer section."""
    return _fields(lines)


def _fields(lines: bytes) -> list[Field]:
    """Return field lines as fields of HTTP/2: names in small letters, and nothing of this hop (§8.2.2)."""
    fields: list[Field] = []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon and (lower := name.lower()) not in _CONNECTION_SPECIFIC:
            fields.append((lower, value.strip(b" \t")))
    return fields
