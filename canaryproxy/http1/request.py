"""Heads of requests: checked, and made ready to forward.

The received bytes are edited as little as possible: fields that must go are cut out, fields that must come
are appended, the rest is forwarded byte for byte. What aiohttp's parser lets through and a proxy must not is
refused here.

Clients repeat themselves: a browser's or a service's requests differ in the request line and share all
fields. So the meaning of a block of fields is remembered, by its bytes, and only the request line is new.
What differs between users that are otherwise alike is the Cookie, and between a user's requests the
traceparent: a block that is not known is looked up without these two lines, if they are plain. Most often it
is what came before on the same connection but for the value of the Cookie.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.fields import (
    BARE_LF,
    CLOSE,
    IS_CODING,
    IS_CONNECTION,
    IS_COOKIE,
    IS_EXPECT,
    IS_FORWARDED_FOR,
    IS_HOP,
    IS_HOPS,
    IS_HOST,
    IS_LENGTH,
    IS_LOOK_ALIKE,
    IS_TRACEPARENT,
    IS_TRACESTATE,
    IS_UPGRADE,
    MAX_CACHED_HEAD,
    REQUEST_KINDS,
    TOKEN,
    UNLIMITED,
    Field,
    Names,
    first_line,
    nominated,
    tokens,
    without,
)
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import SampledFifo
from canaryproxy.http1.llhttp import NoFlowControl
from canaryproxy.http1.trace import MADE_LINE, NO_PARENT, NO_TRACE, made_line, read
from canaryproxy.measure.routing import NO_KEY_BUCKET, STABLE, Headers

MAX_REQUEST_LINE: Final = 8 * 1024
"""Longest request line in bytes; longer ones get 414."""
MAX_HEAD: Final = 32 * 1024
"""Largest head of a request in bytes; larger ones get 431."""
MAX_FIELDS: Final = 128
"""Most fields of a head; more get 431."""
REMEMBERED: Final = 4096
"""Blocks of fields whose meaning is remembered at the most."""
TEMPLATES: Final = 1024
"""The same without Cookie and traceparent."""
LINES: Final = 1024
"""Request lines that are remembered at the most, none longer than ``_LONGEST_LINE`` bytes."""
_LONGEST_LINE: Final = 256
_Line = tuple[bytes, bytes, tuple[bytes, bytes]]
"""Method, target, and both again without the query."""

_IN_PATH = rb"[!$&-;=@-Z\[\]_a-z|~]*+"
_PATH = rb"/" + _IN_PATH + rb"(?:%[0-9A-Fa-f]{2}" + _IN_PATH + rb")*+"
_QUERY = rb"(?:\?[!$-;=?-Z\[\\\]^_`a-z{|}~]*+)?"
"""RFC 3986, and what browsers leave unescaped there (https://url.spec.whatwg.org/#percent-encoded-bytes)."""
_METHOD = rb"[A-Z][A-Z0-9_\-]*+"
"""Known to us or not: new ones may come (RFC 9110 §9.1), but by convention none in small letters."""
_REQUEST_LINE = re.compile(rb"(" + _METHOD + rb") ([!-~]+) HTTP/1\.([01])")
_PLAIN_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (" + _PATH + _QUERY + rb") HTTP/1\.1"
)
_ORIGIN = re.compile(_PATH + _QUERY)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(" + _PATH + rb")?(" + _QUERY + rb")")
_HOST = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+"
    rb"|\[(?:(?P<ipv6>[0-9A-Fa-f:.]+)|[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\])"
    rb"(?::(?P<port>[0-9]{0,5}))?"
)
"""``uri-host [ ":" port ]`` (RFC 9110 §7.2), not empty.

Without the comma that RFC 3986 allows in a name: it is what joins two Host fields (RFC 9110 §5.2).
"""
_HIGHEST_PORT: Final = 65535
_MOST_HOPS: Final = 255
"""The largest Max-Forwards that we send on."""
_HOST_LINE = re.compile(rb"\r\n(?i:host):[^\r\n]*(?=\r\n)")
_HOPS_LINE = re.compile(rb"\r\n(?i:max-forwards):[^\r\n]*(?=\r\n)")

_CRLF: Final = b"\r\n"
_END: Final = b"\r\n\r\n"
_COOKIE_NAME: Final = b"ookie: "
_COOKIE_STARTS: Final = frozenset((b"C", b"c"))
_TRACE_NAME: Final = b"raceparent: "
_TRACE_STARTS: Final = frozenset((b"T", b"t"))
_BLANK: Final = 0x20
_BLANKED: Final = bytes(byte if 0x20 <= byte <= 0x7E else 0x20 for byte in range(256))
"""Turns what is neither visible ASCII nor a blank into a blank."""
_TRACE: Final = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ODD: Final = b"13579bdf"
_PROTOCOL = re.compile(TOKEN.pattern + rb"(?:/" + TOKEN.pattern + rb")?")
"""A protocol and perhaps its version (RFC 9110 §7.8)."""
_HIDING: Final = frozenset((b"h2c", b"h2", b"http", b"tls"))
"""Protocols that would carry requests."""
_NOMINATE_NOTHING: Final = frozenset((b"close", b"keep-alive"))

_IDEMPOTENT = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND", b"REPORT", b"SEARCH")
)
"""Methods that may be repeated without harm (RFC 9110 §9.2.2; WebDAV's safe ones)."""


class RequestFields:
    """What fields mean. Shared by requests with equal fields, the Cookie and a traceparent apart."""

    __slots__ = (
        "chunked",
        "dropped",
        "expect",
        "extra",
        "forwarding",
        "has_cookie",
        "has_trace",
        "hops",
        "host",
        "keep_alive",
        "length",
        "logged",
        "nominates",
        "raw",
        "sampled",
        "trace_id",
        "upgrade",
    )

    def __init__(self, raw: Headers) -> None:
        self.raw = raw
        self.host = b""
        """Host, or the authority of an absolute-form target."""
        self.keep_alive = True
        """The client lets the connection be used again."""
        self.length = 0
        """Bytes of the body by Content-Length, 0 without one."""
        self.chunked = False
        self.expect = False
        """The client waits for ``100 Continue``."""
        self.upgrade = b""
        """The protocols that the client asks for on this connection, empty if it asks for none."""
        self.hops: list[bytes] = []
        """The values of Max-Forwards: they mean something with OPTIONS only."""
        self.dropped: list[Field] = []
        """The fields that are not forwarded."""
        self.extra = b""
        """Lines to add for the next hop."""
        self.forwarding: list[tuple[int, bytes]] | None = None
        """The client's own forwarding fields: kind and value."""
        self.trace_id: bytes | None = b""
        """The trace that the client names, empty without one; ``None``: each request begins its own."""
        self.logged: tuple[bytes | None, bytes | None, bytes] | None = None
        """What the access log says of these fields, once it was asked."""
        self.sampled = False
        """The client may have recorded that trace."""
        self.has_cookie = self.has_trace = False
        """There are such fields, valid or not."""
        self.nominates = False
        """Connection names more than ``close`` and ``keep-alive``."""

    @property
    def forwarded_for(self) -> bytes:
        """The address that the proxy before us saw, empty without one.

        The last one of the last X-Forwarded-For: those before it are what others said, clients among them.
        """
        chains = [value for kind, value in self.forwarding or () if kind == IS_FORWARDED_FOR]
        return chains[-1].rpartition(b",")[2].strip() if chains else b""

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name (lower case), or ``None``.

        The Cookie is not always among them, see ``ParsedHeaders.field``.
        """
        return _value(self.raw, name)


_RuleCache = dict[tuple[bytes, bytes], tuple[int | None, tuple[int, ...]]]


class ParsedHeaders:
    """Who sends a block of fields, as far as it tells, and where the split puts them."""

    __slots__ = (
        "alike",
        "block",
        "bucket",
        "cookie",
        "fields",
        "key",
        "rule_cache",
        "table_version",
        "variant",
    )

    def __init__(
        self,
        fields: RequestFields,
        cookie: bytes,
        block: bytes,
        alike: HeaderTemplate | None = None,
        rule_cache: _RuleCache | None = None,
    ) -> None:
        self.fields = fields
        self.cookie = cookie
        """The value of the Cookie field, empty without one."""
        self.block = block
        """The lines to forward as received: CRLF, then whole lines."""
        self.alike = alike
        """What the block has in common with those of other users, if that is known."""
        self.rule_cache = rule_cache
        """What match rules and outcomes say of requests with these fields, by method and path."""
        self.table_version = -1
        """The number of the route table by which ``key``, ``bucket`` and ``variant`` were found."""
        self.key: bytes | None = None
        self.variant = STABLE
        self.bucket = NO_KEY_BUCKET

    @property
    def raw(self) -> Headers:
        """All fields."""
        alike = self.alike
        return self.fields.raw if alike is None else [*self.fields.raw, (alike.name, self.cookie)]

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name (lower case), or ``None``."""
        return _value(self.raw, name)


class HeaderTemplate:
    """What blocks of fields have in common that differ in the value of their Cookie only."""

    __slots__ = ("_after", "_before", "_fields", "_lead", "_rule_cache", "_trail", "name", "number")

    def __init__(
        self,
        fields: RequestFields,
        before: bytes,
        value: bytes,
        after: bytes,
        rule_cache: _RuleCache | None,
        number: int,
    ) -> None:
        """``fields`` are those without the Cookie of a block that is ``before + value + after``."""
        self.number = number
        self._fields = fields
        self._before = before
        self._after = after
        self._rule_cache = rule_cache
        line = before.rpartition(b"\n")[2] + value
        self.name = line.partition(b":")[0]
        block = _CRLF + before + value + after[:-2]
        if fields.dropped:
            block = without(block, fields.dropped, [*fields.raw, (self.name, value)])
        lead, _, trail = block.partition(_CRLF + line + _CRLF)
        self._lead = lead + _CRLF + self.name + b": "
        """What is forwarded before the value, and after it."""
        self._trail = _CRLF + trail

    def match(self, block: bytes) -> ParsedHeaders | None:
        """Return who sends this block; ``None`` if it is another one, or its Cookie is not plain."""
        start, end = len(self._before), len(block) - len(self._after)
        if start >= end or not (block.startswith(self._before) and block.endswith(self._after)):
            return None
        value = block[start:end]
        if not _is_plain(value) or len(block) > MAX_CACHED_HEAD:
            return None
        return ParsedHeaders(
            self._fields, value, self._lead + value + self._trail, self, self._rule_cache
        )


class Request:
    """One request's head, checked. All byte strings are as received."""

    __slots__ = (
        "fields",
        "head",
        "headers",
        "http10",
        "method",
        "rule_key",
        "sampled",
        "target",
        "trace",
    )

    trace: bytes | None
    """The trace that the client names, empty without one; ``None``: it begins here."""
    sampled: bytes
    """That trace, if the client may have recorded it; else empty."""
    method: bytes
    target: bytes
    """The target in origin or asterisk form."""
    rule_key: tuple[bytes, bytes]
    """The method, and the target without its query."""
    http10: bool
    fields: RequestFields
    """What its fields mean; the Cookie is its user's."""
    headers: ParsedHeaders
    head: bytes
    """The head to forward, up to and with the empty line."""

    @property
    def idempotent(self) -> bool:
        """Whether the method may be repeated (RFC 9110 §9.2.2)."""
        return self.method in _IDEMPOTENT

    @property
    def trace_id(self) -> bytes:
        """The trace that the request belongs to (32 hex digits), empty without one."""
        named = self.trace
        return self.head.rpartition(MADE_LINE)[2][:32] if named is None else named


class RequestParser:
    """Checks heads of requests and makes the heads to forward; one object serves all connections.

    ``end`` is what ends every head: our Via field and the empty line. ``strip`` takes the lines of a head
    and returns them without the sticky cookie; ``None`` forwards it. With ``create_trace`` a request that
    comes without a valid traceparent gets one; ``trace_matters`` if somebody looks at that field,
    ``cookie_matters`` if match rules or outcomes look at cookies. ``remember_users`` if it takes more to find
    out about a user than to look for what was found out before: in a large table that nobody has looked at
    for a while the latter takes as long, and it takes no longer for a million users than for one.
    """

    __slots__ = (
        "_alikes",
        "_cookie_matters",
        "_create_trace",
        "_end",
        "_known",
        "_lines",
        "_loop",
        "_names",
        "_parser",
        "_remember_users",
        "_room",
        "_room_of_lines",
        "_strip",
        "_templates",
        "_trace_matters",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        end: bytes,
        strip: Callable[[bytes], bytes] | None = None,
        *,
        create_trace: bool = False,
        trace_matters: bool = False,
        cookie_matters: bool = True,
        remember_users: bool = True,
    ) -> None:
        self._loop = loop
        self._end = end
        self._cookie_matters = cookie_matters
        self._remember_users = remember_users
        self._create_trace = create_trace
        self._trace_matters = trace_matters or create_trace
        self._strip = strip
        self._names = Names(REQUEST_KINDS)
        self._known: dict[bytes, ParsedHeaders] = {}
        self._room = SampledFifo(REMEMBERED)
        self._lines: dict[bytes, _Line] = {}
        self._room_of_lines = SampledFifo(LINES)
        self._alikes: list[HeaderTemplate] = []
        """By number. Connections keep nothing but the number: what they ask for is looked at anyway."""
        self._templates: dict[tuple[bytes, bytes], HeaderTemplate | None] = {}
        """By what comes before and after the value of the Cookie; ``None``: such blocks are not alike."""
        self._parser = self._new_parser()

    def _new_parser(self) -> HttpRequestParser:
        return HttpRequestParser(
            NoFlowControl(self._loop),
            self._loop,
            UNLIMITED,
            max_line_size=UNLIMITED,
            max_headers=UNLIMITED,
            max_field_size=UNLIMITED,
            response_with_body=False,
            auto_decompress=False,
        )

    def parse_single(self, data: bytes, peer: Peer) -> Request | None:
        """Check what came and return the request, or ``None`` if it is not one head and nothing else.

        ``data`` ends with an empty line. So does what is remembered, and has no other: where it is the same,
        there is nothing to search for. Raises ``Refusal`` as ``parse`` does.
        """
        line, _, block = data.partition(_CRLF)
        found = self._lines.get(line)
        if found is not None:
            user, trace = self._lookup(block, peer)
            if user is not None and user.fields.host:
                return self._build(line, found, user, trace, block, peer)
        if data.find(_END) != len(data) - len(_END):
            return None
        return self.parse(data, peer)

    def parse(self, head: bytes, peer: Peer) -> Request:
        """Check one complete head (with its empty line) and return the request, ready to forward.

        Raises ``Refusal`` with the status and the reason for the client.
        """
        line, _, block = head.partition(_CRLF)
        found = self._lines.get(line)
        if found is None:
            found = self._plain(line)
        if found is None or len(head) > MAX_HEAD:
            return self._parse_rare(head, len(line), peer)
        user, trace = self._lookup(block, peer)
        if user is None:
            user, trace = self._find(line, block)
        if not user.fields.host:
            raise Refusal(400, "no Host field")
        if user.fields.hops:
            return self._parse_rare(head, len(line), peer)
        return self._build(line, found, user, trace, block, peer)

    def _build(
        self,
        line: bytes,
        found: _Line,
        user: ParsedHeaders,
        trace: bytes,
        block: bytes,
        peer: Peer,
    ) -> Request:
        """Return the request with this line from this user; ``trace`` is its own traceparent line."""
        request = Request()
        request.method, request.target, request.rule_key = found
        request.http10 = False
        request.headers = user
        request.fields = fields = user.fields
        forwarded = user.block
        if trace:
            request.trace = trace[16:48]
            request.sampled = request.trace if trace[-1] in _ODD else b""
            forwarded = self._with(_CRLF + block, trace, user)
        else:
            request.trace = fields.trace_id
            request.sampled = fields.trace_id if fields.sampled and fields.trace_id else b""
        request.head = (
            line + forwarded + peer.ending(fields.host, fields.forwarding, fields.extra, self._end)
        )
        if fields.trace_id is None:  # each has its own; what is remembered of the fields has none
            request.head = request.head[:-2] + made_line() + b"\r\n"
        return request

    def _plain(self, line: bytes) -> _Line | None:
        """Return what a request line says that needs no second look, and remember it."""
        plain = _PLAIN_LINE.fullmatch(line)
        if plain is None or len(line) > MAX_REQUEST_LINE:
            return None
        method, target = plain[1], plain[2]
        found = method, target, (method, target.partition(b"?")[0])
        if len(line) <= _LONGEST_LINE and self._room_of_lines.admit(line, self._lines):
            self._lines[line] = found
        return found

    def _lookup(self, block: bytes, peer: Peer) -> tuple[ParsedHeaders | None, bytes]:
        """Return who sends a block that is known, maybe but for its Cookie and its traceparent.

        A block is what comes after the request line. The second value is the traceparent line if the user's
        fields are those of the block without it.
        """
        users = self._remember_users
        if users and (user := self._known.get(block)) is not None:
            return user, b""
        alike = self._alikes[peer.template] if 0 <= peer.template < len(self._alikes) else None
        if alike is not None and (user := alike.match(block)) is not None:
            self._remember(block, user)
            return user, b""
        if not users and (user := self._known.get(block)) is not None:
            return user, b""
        rest, trace = (block, b"") if self._trace_matters else _without_trace(block)
        user = self._known.get(rest) if trace else None
        if user is None:
            if trace and alike is not None:
                user = alike.match(rest)
            if user is None:
                user = self._match_template(rest)
            if user is None:
                return None, b""
            if user.alike is not None:
                peer.template = user.alike.number
            self._remember(rest, user)
        if trace and not _takes_trace(user.fields):
            return None, b""
        return user, trace

    def _find(self, line: bytes, block: bytes) -> tuple[ParsedHeaders, bytes]:
        """Return who sends a block that is not known, and remember them; the rest as ``_lookup``."""
        if not self._trace_matters:
            rest, trace = _without_trace(block)
            if trace:
                user = self._known.get(rest)
                if user is None:
                    user = self._match_template(rest, new=True) or self._parsed(
                        line + _CRLF + rest, len(line)
                    )
                    self._remember(rest, user)
                if _takes_trace(user.fields):
                    return user, trace
        user = self._match_template(block, new=True) or self._parsed(
            line + _CRLF + block, len(line)
        )
        if not user.fields.trace_id:  # a trace id does not come again
            self._remember(block, user)
        return user, b""

    def _remember(self, block: bytes, user: ParsedHeaders) -> None:
        if (
            (user.alike is not None and not self._remember_users)
            or len(block) > MAX_CACHED_HEAD
            or not user.fields.host
            or user.fields.hops
        ):
            return
        if self._room.admit(block, self._known):
            self._known[block] = user

    def _with(self, block: bytes, trace: bytes, user: ParsedHeaders) -> bytes:
        """Return the lines to forward of a block whose user was found without its traceparent."""
        lines = block[:-2]
        if user.fields.dropped:
            name, _, value = trace.partition(b": ")
            lines = without(lines, user.fields.dropped, [*user.raw, (name, value)])
        return lines if self._strip is None else self._strip(lines)

    def _match_template(self, block: bytes, *, new: bool = False) -> ParsedHeaders | None:
        """Return who sends a block that is known but for its Cookie, if it is; a ``new`` one is learnt.

        Means the same as ``_parsed``, for less; ``None`` where it might not. Raises ``Refusal`` for what is
        wrong with the other lines.
        """
        if self._strip is not None or len(block) > MAX_CACHED_HEAD:
            return None
        before, found, after = block.partition(_COOKIE_NAME)
        lines = before[:-1]
        if before[-1:] not in _COOKIE_STARTS or (lines and not lines.endswith(_CRLF)):
            return None
        before += found
        value, found, rest = after.partition(_CRLF)
        if not found or not _is_plain(value):
            return None
        key = before, rest
        alike = self._templates.get(key)
        if alike is None:
            if not new or key in self._templates:
                return None
            if len(self._templates) >= TEMPLATES:
                self._templates.clear()
                self._alikes.clear()
            fields = self._parsed(b"GET / HTTP/1.1\r\n" + lines + rest, 14).fields
            if (
                fields.has_cookie
                or fields.has_trace
                or fields.nominates
                or fields.hops
                or len(fields.raw) >= MAX_FIELDS
            ):
                self._templates[key] = None
                return None  # the same field once more, or fields that Connection names away
            rule_cache: _RuleCache | None = None if self._cookie_matters else {}
            alike = HeaderTemplate(
                fields, before, value, _CRLF + rest, rule_cache, len(self._alikes)
            )
            self._templates[key] = alike
            self._alikes.append(alike)
        return alike.match(block)

    def _parse_rare(self, head: bytes, line_end: int, peer: Peer) -> Request:
        """Parse what is not an origin-form HTTP/1.1 request with a common method."""
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
        http10 = minor == b"0"
        # The parser takes only methods that it knows by name.
        user = self._parsed(b"GET / HTTP/1." + minor + head[line_end:], 14, http10=http10)
        fields, block = user.fields, user.block
        if not fields.host and not http10:
            raise Refusal(400, "no Host field")
        if fields.hops and method == b"OPTIONS":
            block = _one_hop_less(block, fields)
        if target == b"*":
            if method != b"OPTIONS":
                raise Refusal(400, "malformed request target")
        elif target.startswith(b"/"):
            if not _ORIGIN.fullmatch(target):
                raise Refusal(400, "malformed request target")
        else:
            target, fields.host = _origin_form(target, method)
            block = _HOST_LINE.sub(b"", block) + b"Host: " + fields.host + b"\r\n"
        if not fields.host:
            fields.host = peer.local
            block += b"Host: " + fields.host + b"\r\n"
        request = Request()
        request.method = method
        request.target = target
        request.rule_key = method, target.partition(b"?")[0]
        request.http10 = http10
        request.headers = user
        request.fields = fields
        line_bytes = method + b" " + target + b" HTTP/1.1"
        request.head = (
            line_bytes
            + block
            + peer.ending(fields.host, fields.forwarding, fields.extra, self._end)
        )
        request.trace = fields.trace_id
        request.sampled = fields.trace_id if fields.sampled and fields.trace_id else b""
        if fields.trace_id is None:
            request.head = request.head[:-2] + made_line() + b"\r\n"
        return request

    def _parsed(self, head: bytes, line_end: int, *, http10: bool = False) -> ParsedHeaders:
        """Check the fields of a head; ``host`` stays empty if there is none."""
        try:
            parser: Any = self._parser  # its messages are not of the class that it names
            messages, upgraded, _ = parser.feed_data(head)
            message = messages[0][0]
        except (HttpProcessingError, IndexError) as error:
            self._parser = self._new_parser()
            raise Refusal(400, first_line(error)) from None
        if upgraded:
            self._parser.set_upgraded(False)
        if message.should_close:
            # llhttp takes nothing more after a message that closes its connection.
            self._parser = self._new_parser()
        raw = message.raw_headers
        if len(raw) > MAX_FIELDS:
            raise Refusal(431, "too many header fields")
        fields = RequestFields(raw)
        fields.keep_alive = not message.should_close
        host: bytes | None = None
        drop: list[Field] = []
        connection: list[bytes] = []
        forwarding: list[tuple[int, bytes]] = []
        parents: list[bytes] = []
        trace: list[Field] = []
        cookie = upgrade = b""
        trailers = has_length = False
        for field in raw:
            name, value = field
            kind = self._names.kind(name)
            if not kind:
                continue
            if kind == IS_HOST:
                if host is not None:
                    raise Refusal(400, "more than one Host field")
                host = value
                continue
            if kind == IS_COOKIE:
                fields.has_cookie = True
                cookie = cookie + b"; " + value if cookie else value
                continue
            if kind == IS_LENGTH:
                if not value.isdigit() or len(value) > 18:
                    raise Refusal(400, "malformed Content-Length")
                fields.length = int(value)
                has_length = True
                continue
            if kind == IS_EXPECT and not http10:  # HTTP/1.0 has no expectations: RFC 9110 §10.1.1
                if value.lower() != b"100-continue":
                    raise Refusal(417, "unknown expectation")
                fields.expect = True
                continue
            if kind == IS_TRACEPARENT or kind == IS_TRACESTATE:
                if kind == IS_TRACEPARENT:
                    fields.has_trace = True
                    parents.append(value)
                trace.append(field)
                continue
            if kind == IS_LOOK_ALIKE:
                raise Refusal(400, f"ambiguous header name {name.decode('latin-1')}")
            if kind == IS_CODING:
                if http10 or value.lower() != b"chunked" or fields.chunked:
                    raise Refusal(400, "unsupported Transfer-Encoding")
                fields.chunked = True
            elif kind == IS_CONNECTION:
                options = tokens(value)
                if not all(map(TOKEN.fullmatch, options)):
                    raise Refusal(400, "malformed Connection")
                connection += options
            elif kind == IS_UPGRADE:
                upgrade = upgrade + b", " + value if upgrade else value
            elif kind == IS_HOP:
                trailers = trailers or (name.lower() == b"te" and b"trailers" in tokens(value))
            elif kind == IS_HOPS:
                fields.hops.append(value)
                continue
            elif kind != IS_EXPECT:
                forwarding.append((kind, value))
            drop.append(field)
        if fields.chunked and has_length:
            raise Refusal(400, "both Content-Length and Transfer-Encoding")
        if host is not None:
            if not _is_host(host):
                raise Refusal(400, "malformed Host")
            fields.host = host
        context = read(parents) if parents and b"traceparent" not in connection else None
        if context is not None:
            fields.trace_id, fields.sampled = context
        elif self._create_trace:
            fields.trace_id = None
            drop += trace  # without a valid traceparent, tracestate means nothing
        if connection and connection != CLOSE:
            fields.nominates = not _NOMINATE_NOTHING.issuperset(connection)
            drop = nominated(raw, drop, connection)
            fields.extra = _renewed(fields, connection, upgrade, trailers, http10=http10)
        if fields.chunked:
            fields.extra += b"Transfer-Encoding: chunked\r\n"
        fields.forwarding = forwarding or None
        fields.dropped = drop
        block = without(head[line_end:-2], drop, raw)
        return ParsedHeaders(fields, cookie, block if self._strip is None else self._strip(block))


def _value(fields: Headers, name: bytes) -> bytes | None:
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


def _is_plain(value: bytes) -> bool:
    """Tell whether a value means nothing special to any parser: visible ASCII, and blanks inside."""
    return (
        bool(value)
        and value.translate(_BLANKED) == value
        and value[0] != _BLANK
        and value[-1] != _BLANK
    )


def _takes_trace(fields: RequestFields) -> bool:
    """Tell whether these fields, a Cookie and one traceparent line mean what each of them means."""
    return not (fields.nominates or fields.has_trace) and len(fields.raw) + 1 < MAX_FIELDS


def _without_trace(block: bytes) -> tuple[bytes, bytes]:
    """Return a block without its traceparent line, and that line: empty if it is not a plain one."""
    before, found, after = block.partition(_TRACE_NAME)
    if not found:
        return block, b""
    start, lines = before[-1:], before[:-1]
    value, found, rest = after.partition(_CRLF)
    if (
        start not in _TRACE_STARTS
        or (lines and not lines.endswith(_CRLF))
        or not found
        or _TRACE.fullmatch(value) is None
        or value[3:35] == NO_TRACE
        or value[36:52] == NO_PARENT
    ):
        return block, b""
    return lines + rest, start + _TRACE_NAME + value


def check_partial(data: bytes, searched: int = 0) -> None:
    """Refuse an unfinished head that no further byte can make valid.

    ``searched`` is how much of it was looked at before. Raises ``Refusal``, so that neither an endless head
    nor bare LF has to wait for a timeout.
    """
    line_end = data.find(b"\r\n")
    if (line_end if line_end >= 0 else len(data)) > MAX_REQUEST_LINE:
        raise Refusal(414, "request line too long")
    if len(data) > MAX_HEAD:
        raise Refusal(431, "request head too large")
    if BARE_LF.search(data, searched):
        raise Refusal(400, "bare LF in the request head")


def _bad_request_line(line: bytes) -> Refusal:
    if line.startswith(b"CONNECT "):
        return Refusal(405, "method CONNECT is not allowed")
    if re.fullmatch(_METHOD + rb" \S+ HTTP/[0-9]\.[0-9]", line) and not line.endswith(
        (b"/1.1", b"/1.0")
    ):
        return Refusal(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return Refusal(400, "malformed request line")


def _origin_form(target: bytes, method: bytes) -> tuple[bytes, bytes]:
    """Return the target in origin form, and the authority, of an absolute-form target.

    RFC 9112 §3.2.2: the authority replaces Host. §3.2.4: ``OPTIONS`` without a path is ``*``.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Refusal(400, "malformed request target")
    authority, path, query = match.groups()
    if not _is_host(authority):
        raise Refusal(400, "malformed authority in the request target")
    if path is None and not query and method == b"OPTIONS":
        return b"*", authority
    return (path or b"/") + query, authority


def _is_host(value: bytes) -> bool:
    """Tell whether ``value`` is a host and perhaps a port that can be connected to."""
    match = _HOST.fullmatch(value)
    if match is None or int(match["port"] or 0) > _HIGHEST_PORT:
        return False
    if match["ipv6"] is None:
        return True
    try:
        IPv6Address(match["ipv6"].decode())
    except ValueError:
        return False
    return True


def _one_hop_less(block: bytes, fields: RequestFields) -> bytes:
    """Return the lines of an OPTIONS request with Max-Forwards less one (RFC 9110 §7.6.2).

    Raises ``Refusal`` with 200, our own answer, if the request is to go no further.
    """
    value = fields.hops[0]
    if len(fields.hops) > 1 or not value.isdigit():
        raise Refusal(400, "malformed Max-Forwards")
    value = value.lstrip(b"0")
    if not value:
        raise Refusal(200, "Max-Forwards is 0: the request goes no further")
    left = int(value) - 1 if len(value) < 4 else _MOST_HOPS
    return _HOPS_LINE.sub(b"\r\nMax-Forwards: %d" % min(left, _MOST_HOPS), block)


def _renewed(
    fields: RequestFields, connection: list[bytes], upgrade: bytes, trailers: bool, *, http10: bool
) -> bytes:
    """Return the hop-by-hop fields that the next hop gets in its turn: Upgrade and ``TE: trailers``.

    An upgrade to HTTP or TLS is not passed on: inside that tunnel requests would escape routing.
    """
    options, lines = [], b""
    # Not one expression for the whole list: it would try each way to read commas without end.
    protocols = tokens(upgrade) if b"upgrade" in connection else []
    if (
        protocols
        and not (http10 or fields.chunked or fields.length)
        and all(map(_PROTOCOL.fullmatch, protocols))
        and _HIDING.isdisjoint(one.partition(b"/")[0] for one in protocols)
    ):
        fields.upgrade = upgrade
        options.append(b"upgrade")
        lines += b"Upgrade: " + upgrade + b"\r\n"
    if trailers and b"te" in connection:
        options.append(b"TE")
        lines += b"TE: trailers\r\n"
    if options:
        lines += b"Connection: " + b", ".join(options) + b"\r\n"
    return lines
