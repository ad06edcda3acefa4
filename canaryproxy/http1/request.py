"""The rules for requests: which heads are refused, what the others mean, and the heads to forward.

The received bytes are edited as little as possible: dropped fields are cut out, added fields are appended,
and the rest is forwarded byte for byte. llhttp lets some heads through that a proxy must not forward; they
are refused here. Pure and without memory: ``head_cache`` makes it fast for clients that repeat themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Final

from mypy_extensions import mypyc_attr

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.fields import (
    BARE_LF,
    CLOSE,
    IS_CODING,
    IS_CONNECTION,
    IS_COOKIE,
    IS_CREDENTIALS,
    IS_EXPECT,
    IS_FORWARDED_FOR,
    IS_HOP,
    IS_HOST,
    IS_LENGTH,
    IS_LOOK_ALIKE,
    IS_MAX_FORWARDS,
    IS_PROPAGATED,
    IS_TRACEPARENT,
    IS_TRACESTATE,
    IS_TYPE,
    IS_UPGRADE,
    IS_VIA,
    NO_NAMES,
    REQUEST_KINDS,
    TOKEN,
    Field,
    Names,
    binds,
    nominated,
    plain_length,
    tokens,
    without,
)
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.grpc import is_grpc
from canaryproxy.http1.llhttp import MalformedHead, request_parser
from canaryproxy.http1.propagated import Claims, without_member
from canaryproxy.http1.propagated import Names as PropagatedNames
from canaryproxy.http1.trace import NEW_LINE, new_line, read
from canaryproxy.http1.via import MOST_PASSES, in_http2, in_version, name_in, passes
from canaryproxy.measure import native
from canaryproxy.measure.routing import Headers, Routing

MAX_REQUEST_LINE: Final = 8 * 1024
"""Longest request line in bytes; longer ones get 414."""
_joined: Final = native.joined

MAX_HEAD: Final = 32 * 1024
"""Largest request head in bytes; larger ones get 431."""
MAX_FIELDS: Final = 128
"""Maximum number of fields in a head; more get 431."""


class Tolerated(IntEnum):
    """Why a request that is forwarded would be refused with ``strict: enforce``.

    Only what leaves no doubt after it was mended: the upstream gets a request that every parser reads alike.
    Anything that says where a message ends, or for which host it is meant if it names one, is refused always.
    """

    RAW_TARGET = 0
    """The target has bytes that should be percent-encoded; they are."""
    NO_HOST = 1
    """HTTP/1.1 without Host, or an empty one; the upstream gets the address that the client connected to."""


RequestLine = tuple[bytes, bytes, tuple[bytes, bytes]]
"""Method, target, and the request's ``rule_key``."""
RuleCache = dict[
    tuple[bytes, bytes], tuple[object, tuple[int | None, tuple[int, ...], frozenset[str]]]
]
"""The variant that match rules force, the outcomes that apply, and the cohorts, by ``rule_key``."""

_IN_PATH = rb"[!$&-;=@-Z\[\]_a-z|~]*+"
PATH: Final = rb"/" + _IN_PATH + rb"(?:%[0-9A-Fa-f]{2}" + _IN_PATH + rb")*+"
QUERY: Final = rb"(?:\?[!$-;=?-Z\[\\\]^_`a-z{|}~]*+)?"
"""RFC 3986, and what browsers leave unescaped there (https://url.spec.whatwg.org/#percent-encoded-bytes)."""
_METHOD = rb"[A-Z][A-Z0-9_\-]*+"
"""Any method: new ones may be defined (RFC 9110 §9.1), by convention without small letters."""
_REQUEST_LINE = re.compile(rb"(" + _METHOD + rb") ([!-~]+) HTTP/1\.([0-9])")
_ORIGIN = re.compile(PATH + QUERY)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(" + PATH + rb")?(" + QUERY + rb")")
_HOST = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+"
    rb"|\[(?:(?P<ipv6>[0-9A-Fa-f:.]+)|[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\])"
    rb"(?::(?P<port>[0-9]{0,5}))?"
)
"""``uri-host [ ":" port ]`` (RFC 9110 §7.2), not empty.

Without the comma that RFC 3986 allows in a name: it is what joins two Host fields (RFC 9110 §5.2).
"""
_RAW_LINE = re.compile(rb"(" + _METHOD + rb") (/[!-~\x80-\xff]*) HTTP/1\.([0-9])")
_RAW_BYTES = re.compile(rb"[\"<>\\^`{}\x80-\xff]")
"""Bytes of a target that are to be percent-encoded (RFC 3986 §2), and have no meaning there."""
_NO_HOST: Final = "Missing 'Host'"
"""How llhttp's complaint begins about HTTP/1.1 without Host."""
_HIGHEST_PORT: Final = 65535
_HIGHEST_MAX_FORWARDS: Final = 255
"""The largest Max-Forwards that is sent on."""
_HOST_LINE = re.compile(rb"\r\n(?i:host):[^\r\n]*(?=\r\n)")
_MAX_FORWARDS_LINE = re.compile(rb"\r\n(?i:max-forwards):[^\r\n]*(?=\r\n)")
_LLHTTP_LINES: Final = (b"GET / HTTP/1.0", b"GET / HTTP/1.1")
"""Request lines for llhttp, by minor version: it knows only some methods, and the line is checked here."""
_PROTOCOL = re.compile(TOKEN.pattern + rb"(?:/" + TOKEN.pattern + rb")?")
"""A protocol and perhaps its version (RFC 9110 §7.8)."""
_CARRY_REQUESTS: Final = frozenset((b"h2c", b"h2", b"http", b"tls"))
"""Protocols inside which requests would escape routing."""
_NOMINATE_NOTHING: Final = frozenset((b"close", b"keep-alive"))
_OTHER_VERSION = re.compile(_METHOD + rb" \S+ HTTP/(?!1)[0-9]\.[0-9]")

# Kinds of User-Agents. Plain integers, because they are compared with each request of an address.
UNKNOWN: Final = 0
NO_AGENT: Final = 1
OTHER_AGENT: Final = 2
MONITOR: Final = 3

_IDEMPOTENT = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND", b"REPORT", b"SEARCH")
)
"""Methods that may be repeated without harm (RFC 9110 §9.2.2; WebDAV's safe ones)."""


class RequestFields:
    """The meaning of a header block, apart from values of its own (``header_template``).

    Requests whose blocks have the same meaning share one object.
    """

    __slots__ = (
        "agent_kind",
        "agents",
        "binds",
        "chunked",
        "claims",
        "cookie_name",
        "dropped",
        "expect",
        "extra",
        "forwarding",
        "grpc",
        "host",
        "keep_alive",
        "length",
        "logged",
        "max_forwards",
        "nominated",
        "ordinary",
        "own",
        "raw",
        "sampled",
        "template",
        "trace_id",
        "upgrade",
    )

    def __init__(self, raw: Headers) -> None:
        self.raw = raw
        self.cookie_name = b""
        """The name of the Cookie field as received, if that field is not among ``raw``."""
        self.own = NO_NAMES
        """Names (lower case) of the fields that have a value of their own in each block; they are not among
        ``raw`` (``header_template``)."""
        self.template = -1
        """Number of the ``HeaderTemplate`` that these fields belong to; -1: none."""
        self.host = b""
        """Host, or the authority of an absolute-form target."""
        self.keep_alive = True
        """The client allows the connection to be reused."""
        self.binds = False
        """The credentials authenticate the connection to the upstream (``fields.binds``)."""
        self.ordinary = True
        """``keep_alive`` and not ``binds``: one question instead of two for each response."""
        self.length = 0
        """Content-Length in bytes, 0 without one."""
        self.chunked = False
        self.grpc = False
        """The content is that of gRPC."""
        self.expect = False
        """The client waits for ``100 Continue``."""
        self.upgrade = b""
        """The protocols that the client asks to upgrade to, empty if there are none."""
        self.max_forwards: list[bytes] = []
        """The values of Max-Forwards: they only apply to OPTIONS."""
        self.dropped: list[Field] = []
        """The fields that are not forwarded."""
        self.extra = b""
        """Lines to add for the next hop."""
        self.forwarding: list[tuple[int, bytes]] | None = None
        """The client's own forwarding fields: kind and value; those of ``own`` are missing here
        (``Request.forwarding``)."""
        self.trace_id: bytes | None = b""
        """The client's trace id, empty without one; ``None``: each request starts a trace."""
        self.logged: tuple[bytes | None, bytes | None, bytes] | None = None
        """User-Agent, Referer and X-Request-Id for the access log, once it has used them."""
        self.agents: object = None
        """The rules for probes by which ``agent_kind`` was found."""
        self.agent_kind = UNKNOWN
        """Kind of the User-Agent: ``UNKNOWN`` until a rule for probes has asked."""
        self.sampled = False
        """The client may have recorded that trace."""
        self.nominated = NO_NAMES
        """What Connection names besides ``close`` and ``keep-alive``."""
        self.claims: Claims | None = None
        """The version that the client names, and its baggage, if such fields mean something here."""

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name (lower case), or ``None``.

        Those of ``own`` are missing here; ``Request.field`` finds them.
        """
        return _value(self.raw, name)


@mypyc_attr(acyclic=True, free_list_len=1)
class ParsedHeaders:
    """A parsed header block and the routing decision cached with it."""

    __slots__ = (
        "block",
        "cookie",
        "fields",
        "routing",
        "rule_cache",
    )

    def __init__(
        self,
        fields: RequestFields,
        cookie: bytes,
        block: bytes,
        rule_cache: RuleCache | None = None,
    ) -> None:
        self.fields = fields
        self.cookie = cookie
        """The value of the Cookie field, empty without one."""
        self.block = block
        """The lines to forward as received: CRLF, then whole lines."""
        self.rule_cache = rule_cache
        """The results of match rules and outcomes for requests with these headers."""
        self.routing: Routing | None = None
        """Where the last request with these headers was sent, unless that depends on something else."""

    @property
    def raw(self) -> Headers:
        """All fields but those of ``fields.own``; the Cookie is here."""
        fields = self.fields
        if not fields.cookie_name:
            return fields.raw
        return [*fields.raw, (fields.cookie_name, self.cookie)]

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name (lower case), or ``None``."""
        return _value(self.raw, name)


@mypyc_attr(acyclic=True, free_list_len=1)
class Request:
    """The head of one request, checked. All byte strings are as received."""

    __slots__ = (
        "fields",
        "forwarding",
        "head",
        "headers",
        "http10",
        "method",
        "never_indexed",
        "rule_key",
        "sampled",
        "target",
        "trace",
    )

    trace: bytes | None
    """The client's trace id, empty without one; ``None``: the trace starts here."""
    sampled: bool
    """The client may have recorded that trace."""
    method: bytes
    target: bytes
    """The target in origin or asterisk form."""
    rule_key: tuple[bytes, bytes]
    """The method, and the target without its query."""
    http10: bool
    headers: ParsedHeaders
    fields: RequestFields
    """``headers.fields``: the meaning of the headers, the Cookie apart."""
    forwarding: list[tuple[int, bytes]] | None
    """The client's own forwarding fields: kind and value."""
    head: bytes
    """The head to forward, including the empty line."""
    never_indexed: frozenset[bytes]
    """Names of fields that no hop of HTTP/2 may put into a table (RFC 7541 §6.2.3)."""

    @property
    def idempotent(self) -> bool:
        """Whether the method may be repeated (RFC 9110 §9.2.2)."""
        return self.method in _IDEMPOTENT

    def field(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name (lower case) that is forwarded, or ``None``."""
        fields = self.fields
        if name not in fields.own:
            return fields.field(name)
        at = self.head.lower().find(b"\r\n%b: " % name)
        return self.head[at + len(name) + 4 :].partition(b"\r\n")[0] if at >= 0 else None

    @property
    def trace_id(self) -> bytes:
        """The id of the trace that the request belongs to (32 hex digits), empty without one."""
        received = self.trace
        return self.head.rpartition(NEW_LINE)[2][:32] if received is None else received


class RequestParser:
    """Checks request heads and makes the heads to forward; one object serves all connections.

    ``end`` ends every forwarded head: our Via line (``via.via_line``) or nothing, and the empty line.
    ``strip`` takes header lines and returns them without the sticky cookie; ``None`` forwards that cookie.
    With ``create_trace`` a request without a valid traceparent gets one. ``tolerate`` is called where a
    request is forwarded that would be refused without it. ``propagated`` are the names of fields that say
    which version a request gets: those of clients are not forwarded.
    """

    __slots__ = (
        "_baggage_keys",
        "_http2_end",
        "_llhttp",
        "_names",
        "_via",
        "claimed",
        "create_trace",
        "end",
        "strip",
        "tolerate",
    )

    def __init__(
        self,
        end: bytes,
        strip: Callable[[bytes], bytes] | None = None,
        *,
        create_trace: bool = False,
        tolerate: Callable[[Tolerated], None] | None = None,
        propagated: PropagatedNames | None = None,
    ) -> None:
        self.tolerate = tolerate
        self.end = end
        self._http2_end = in_http2(end)
        self._via = name_in(end)
        self.strip = strip
        self.create_trace = create_trace
        self.claimed = NO_NAMES if propagated is None else frozenset(propagated.kinds)
        """Names (lower case) of the fields that say which version a request gets."""
        kinds = REQUEST_KINDS if propagated is None else REQUEST_KINDS | propagated.kinds
        self._names = Names(kinds)
        self._baggage_keys = NO_NAMES if propagated is None else propagated.baggage
        self._llhttp = request_parser()

    def parse(self, head: bytes, peer: Peer) -> Request:
        """Check one complete head (with its empty line) and return the request, ready to forward.

        Raises ``Refusal`` with the status and the reason for the client.
        """
        line, _, lines = head.partition(b"\r\n")
        if len(line) > MAX_REQUEST_LINE:
            raise Refusal(414, "request line too long")
        if len(head) > MAX_HEAD:
            raise Refusal(431, "request head too large")
        match = _REQUEST_LINE.fullmatch(line)
        tolerate = self.tolerate
        if match is None and tolerate is not None:
            match = _RAW_LINE.fullmatch(line)
        if match is None:
            raise _bad_request_line(line)
        method, target, minor = match.groups()
        if method in (b"CONNECT", b"TRACE"):
            raise Refusal(405, f"method {method.decode()} is not allowed")
        http10 = minor == b"0"
        headers = self.parse_headers(lines, http10=http10)
        fields, block = headers.fields, headers.block
        if not fields.host and not http10:
            if tolerate is None:
                raise Refusal(400, "missing Host field")
            tolerate(Tolerated.NO_HOST)
        if fields.max_forwards and method == b"OPTIONS":
            block = _one_hop_less(block, fields)
        if target == b"*":
            if method != b"OPTIONS":
                raise Refusal(400, "malformed request target")
        elif target.startswith(b"/"):
            if not _ORIGIN.fullmatch(target):
                target = self._mended(target)
        else:
            target, fields.host = _origin_form(target, method)
            block = _HOST_LINE.sub(b"", block) + b"Host: " + fields.host + b"\r\n"
        if not fields.host:
            fields.host = peer.local
            block = _HOST_LINE.sub(b"", block) + b"Host: " + fields.host + b"\r\n"
        parts = method, target, (method, target.partition(b"?")[0])
        line = method + b" " + target + b" HTTP/1.1"
        end = self.end if minor == b"1" else in_version(self.end, minor)
        return self.build(line, parts, http10, headers, block, peer, end)

    def _mended(self, target: bytes) -> bytes:
        """Return a target in which what should be percent-encoded is. Raises ``Refusal``."""
        if self.tolerate is not None:
            target = _RAW_BYTES.sub(lambda found: b"%%%02X" % found[0][0], target)
            if _ORIGIN.fullmatch(target):
                self.tolerate(Tolerated.RAW_TARGET)
                return target
        raise Refusal(400, "malformed request target")

    def build(
        self,
        line: bytes,
        parts: RequestLine,
        http10: bool,
        headers: ParsedHeaders,
        block: bytes,
        peer: Peer,
        end: bytes = b"",
        trace_id: bytes | None = None,
        sampled: bool = False,
        client: bytes | None = None,
    ) -> Request:
        """Return the request with this line and these headers.

        ``block`` is what is forwarded of them, ``end`` replaces the parser's. ``trace_id``, ``sampled`` and
        ``client``, the value of X-Forwarded-For, are not ``None`` if they are not among the headers' fields.
        """
        fields = headers.fields
        end = self._http2_end if peer.http2 else end or self.end
        ending = peer.ending(fields.host, fields.forwarding, fields.extra, end, client)
        head = line + block + ending if _joined is None else _joined(line, block, ending)
        request = self.built(parts, headers, head, trace_id, sampled)
        request.http10 = http10
        if client is not None:
            request.forwarding = [(IS_FORWARDED_FOR, client), *(fields.forwarding or ())]
        return request

    def built(
        self,
        parts: RequestLine,
        headers: ParsedHeaders,
        head: bytes,
        trace_id: bytes | None,
        sampled: bool,
    ) -> Request:
        """Return a request of HTTP/1.1; ``head`` is forwarded, with a traceparent where it needs one.

        ``trace_id`` and ``sampled`` as ``build`` takes them.
        """
        request = Request()
        request.method, request.target, request.rule_key = parts
        request.http10 = False
        request.never_indexed = NO_NAMES
        request.headers = headers
        request.fields = fields = headers.fields
        request.forwarding = fields.forwarding
        if trace_id is None:
            trace_id, sampled = fields.trace_id, fields.sampled
            if trace_id is None:
                head = head[:-2] + new_line() + b"\r\n"
        request.trace = trace_id
        request.sampled = sampled
        request.head = head
        return request

    def parse_headers(self, lines: bytes, *, http10: bool = False) -> ParsedHeaders:
        """Check a header block: all that follows the request line, with the empty line.

        ``host`` stays empty if the block has none. Raises ``Refusal``.
        """
        try:
            raw, closes = self._llhttp.fields(_LLHTTP_LINES[not http10] + b"\r\n" + lines)
        except MalformedHead as error:
            if self.tolerate is not None and str(error).startswith(_NO_HOST):
                return self.parse_headers(b"Host:\r\n" + lines, http10=http10)
            raise Refusal(400, str(error)) from None
        if len(raw) > MAX_FIELDS:
            raise Refusal(431, "too many header fields")
        fields = RequestFields(raw)
        fields.keep_alive = not closes
        received = self._read(fields, http10=http10)
        if fields.chunked and received.has_length:
            raise Refusal(400, "both Content-Length and Transfer-Encoding")
        if received.via and self._via and passes(received.via, self._via) > MOST_PASSES:
            raise Refusal(508, f"the request has passed this proxy over {MOST_PASSES} times (Via)")
        if received.host is not None and (received.host or self.tolerate is None):
            if not _is_host(received.host):
                raise Refusal(400, "malformed Host")
            fields.host = received.host
        connection = received.connection
        context = (
            read(received.parents)
            if received.parents and b"traceparent" not in connection
            else None
        )
        drop = received.drop
        if context is not None:
            fields.trace_id, fields.sampled = context
        elif self.create_trace:
            fields.trace_id = None
            drop += received.trace  # without a valid traceparent, tracestate means nothing
        if connection and connection != CLOSE:
            fields.nominated = frozenset(connection) - _NOMINATE_NOTHING
            drop = nominated(raw, drop, connection)
            fields.extra = _next_hop_lines(fields, received, http10=http10)
        if fields.claims is not None and b"baggage" in connection:
            fields.claims.baggage.clear()
        elif received.rest_of_baggage:
            fields.extra += b"baggage: %b\r\n" % b",".join(received.rest_of_baggage)
        if fields.chunked:
            fields.extra += b"Transfer-Encoding: chunked\r\n"
        elif received.mends_length:
            fields.extra += b"Content-Length: %d\r\n" % fields.length
        fields.ordinary = fields.keep_alive and not fields.binds
        fields.forwarding = received.forwarding or None
        fields.dropped = drop
        return ParsedHeaders(
            fields, received.cookie, self.forwarded(b"\r\n" + lines[:-2], raw, drop)
        )

    def forwarded(self, block: bytes, raw: Headers, dropped: list[Field]) -> bytes:
        """Return the lines of ``block`` that are forwarded; see ``fields.without``."""
        if dropped:
            block = without(block, dropped, raw)
        return block if self.strip is None else self.strip(block)

    def _read(self, fields: RequestFields, *, http10: bool) -> _Received:
        """Read each field that means something to a proxy. Raises ``Refusal``."""
        received = _Received()
        drop = received.drop
        for field in fields.raw:
            name, value = field
            kind = self._names.kind(name)
            if not kind:
                continue
            if kind == IS_HOST:
                if received.host is not None:
                    raise Refusal(400, "more than one Host field")
                received.host = value
                continue
            if kind == IS_COOKIE:
                received.cookie = received.cookie + b"; " + value if received.cookie else value
                continue
            if kind == IS_LENGTH:
                if not value.isdigit() or len(value) > 18:
                    raise Refusal(400, "malformed Content-Length")
                fields.length = int(value)
                received.has_length = True
                if plain_length(value):
                    continue
                received.mends_length = True
                drop.append(field)
                continue
            if kind == IS_TYPE:
                fields.grpc = fields.grpc or is_grpc(value)
                continue
            if kind == IS_VIA:
                received.via.append(value)
                continue
            if kind == IS_CREDENTIALS:
                fields.binds = fields.binds or binds(value)
                continue
            if kind == IS_EXPECT and not http10:  # HTTP/1.0 has no expectations: RFC 9110 §10.1.1
                if value.lower() != b"100-continue":
                    raise Refusal(417, "unsupported Expect value")
                fields.expect = True
                continue
            if kind == IS_TRACEPARENT or kind == IS_TRACESTATE:
                if kind == IS_TRACEPARENT:
                    received.parents.append(value)
                received.trace.append(field)
                continue
            if kind == IS_LOOK_ALIKE:
                raise Refusal(400, f"ambiguous header name {name.decode('latin-1')}")
            if kind == IS_CODING:
                if http10 or value.lower() != b"chunked" or fields.chunked:
                    raise _bad_coding(value, http10=http10, again=fields.chunked)
                fields.chunked = True
            elif kind == IS_CONNECTION:
                options = tokens(value)
                if not all(map(TOKEN.fullmatch, options)):
                    raise Refusal(400, "malformed Connection")
                received.connection += options
            elif kind == IS_UPGRADE:
                received.upgrade = received.upgrade + b", " + value if received.upgrade else value
            elif kind == IS_HOP:
                if name.lower() == b"te" and b"trailers" in tokens(value):
                    received.trailers = True
            elif kind == IS_MAX_FORWARDS:
                fields.max_forwards.append(value)
                continue
            elif kind >= IS_PROPAGATED:
                if not self._takes_out(kind, field, fields, received):
                    continue
            elif kind != IS_EXPECT:
                received.forwarding.append((kind, value))
            drop.append(field)
        return received

    def _takes_out(
        self, kind: int, field: Field, fields: RequestFields, received: _Received
    ) -> bool:
        """Read what a field says of the version; tell whether it is not forwarded as it is."""
        name, value = field
        claims = fields.claims
        if claims is None:
            claims = fields.claims = Claims()
        if kind == IS_PROPAGATED:
            claims.values.append((name.lower(), value))
            return True
        before = len(claims.values)
        for key in self._baggage_keys:
            value, found = without_member(key, value)
            claims.values += [(b"baggage", one) for one in found]
        if value:
            claims.baggage.append(value)
        if len(claims.values) == before:
            return False
        if value:
            received.rest_of_baggage.append(value)
        return True


class _Received:
    """The fields of one head, read one by one and not yet checked together."""

    __slots__ = (
        "connection",
        "cookie",
        "drop",
        "forwarding",
        "has_length",
        "host",
        "mends_length",
        "parents",
        "rest_of_baggage",
        "trace",
        "trailers",
        "upgrade",
        "via",
    )

    def __init__(self) -> None:
        self.host: bytes | None = None
        self.cookie = b""
        self.has_length = self.mends_length = False
        """There is a Content-Length, and one that servers read in more than one way."""
        self.via: list[bytes] = []
        self.drop: list[Field] = []
        """The fields that are not forwarded as they are."""
        self.connection: list[bytes] = []
        """The options of Connection, in lower case."""
        self.upgrade = b""
        self.trailers = False
        """``TE: trailers`` is there."""
        self.forwarding: list[tuple[int, bytes]] = []
        self.parents: list[bytes] = []
        """The values of traceparent."""
        self.trace: list[Field] = []
        """The traceparent and tracestate fields."""
        self.rest_of_baggage: list[bytes] = []
        """The members of other keys in the baggage fields that are not forwarded as they are."""


def _value(fields: Headers, name: bytes) -> bytes | None:
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


def check_partial(data: bytes, searched: int = 0) -> None:
    """Refuse an unfinished head that no further byte can make valid.

    ``searched`` is how many bytes were checked before. Raises ``Refusal``, so that neither an endless head
    nor a bare LF waits for a timeout.
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
    if _OTHER_VERSION.fullmatch(line):
        return Refusal(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    return Refusal(400, "malformed request line")


def _bad_coding(value: bytes, *, http10: bool, again: bool) -> Refusal:
    """Return why a Transfer-Encoding is refused: 501 if only the coding is unknown (RFC 9112 §6.1).

    If it is not certain where the body ends, the status has to be 400 (§6.3).
    """
    if http10:
        return Refusal(400, "Transfer-Encoding in HTTP/1.0")
    if again:
        return Refusal(400, "more than one Transfer-Encoding")
    *others, last = [one.strip(b" \t") for one in value.lower().split(b",")]
    names = [one.partition(b";")[0].rstrip(b" \t") for one in others]
    if (
        last == b"chunked"
        and names
        and b"chunked" not in names
        and all(map(TOKEN.fullmatch, names))
    ):
        return Refusal(501, "no transfer coding but chunked is supported")
    return Refusal(400, "malformed Transfer-Encoding, or one that does not end with chunked")


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
    """Tell whether ``value`` is a valid host, with or without a valid port."""
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

    Raises ``Refusal`` with 200, the proxy's own response, if Max-Forwards is 0.
    """
    value = fields.max_forwards[0]
    if len(fields.max_forwards) > 1 or not value.isdigit():
        raise Refusal(400, "malformed Max-Forwards")
    value = value.lstrip(b"0")
    if not value:
        raise Refusal(200, "Max-Forwards is 0: the request is not forwarded")
    left = int(value) - 1 if len(value) < 4 else _HIGHEST_MAX_FORWARDS
    return _MAX_FORWARDS_LINE.sub(b"\r\nMax-Forwards: %d" % min(left, _HIGHEST_MAX_FORWARDS), block)


def _next_hop_lines(fields: RequestFields, received: _Received, *, http10: bool) -> bytes:
    """Return the hop-by-hop fields that are renewed for the next hop: Upgrade and ``TE: trailers``.

    Upgrades to HTTP or TLS are not passed on: inside such a tunnel requests would escape routing.
    """
    options, lines = [], b""
    connection, upgrade = received.connection, received.upgrade
    # Split first: one expression for the whole list would backtrack over commas without end.
    protocols = tokens(upgrade) if b"upgrade" in connection else []
    if (
        protocols
        and not (http10 or fields.chunked or fields.length)
        and all(map(_PROTOCOL.fullmatch, protocols))
        and _CARRY_REQUESTS.isdisjoint(one.partition(b"/")[0] for one in protocols)
    ):
        fields.upgrade = upgrade
        options.append(b"upgrade")
        lines += b"Upgrade: " + upgrade + b"\r\n"
    if received.trailers and b"te" in connection:
        options.append(b"TE")
        lines += b"TE: trailers\r\n"
    if options:
        lines += b"Connection: " + b", ".join(options) + b"\r\n"
    return lines
