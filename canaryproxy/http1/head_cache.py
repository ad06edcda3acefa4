"""Caches in front of the head parsers: they make parsing fast and never change its result.

Clients repeat themselves: the requests of one browser or service differ in the request line and share all
fields. So request lines and header blocks are cached apart, by their bytes. Otherwise equal clients differ in
their Cookie, and one client's requests in their traceparent: an unknown block is looked up without these two
lines, if they are plain (``HeaderTemplate``). Most often it differs from the last block on the same
connection in the value of the Cookie only, so a connection keeps the number of its template
(``Peer.template``).

What is measured and why four levels: docs/decisions/0006-header-caches.md.
"""

from __future__ import annotations

import re
from typing import Any, Final

from canaryproxy.http1.fields import without
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_REQUEST_LINE,
    PATH,
    QUERY,
    ParsedHeaders,
    Request,
    RequestFields,
    RequestLine,
    RequestParser,
    RuleCache,
)
from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.http1.trace import NO_PARENT, NO_TRACE
from canaryproxy.measure.routing import Headers

ADMIT_ONE_IN: Final = 8
"""A full cache admits one new key in this many.

Keys that come often are soon admitted; a million users who come once each do not push them out.
"""
MAX_BLOCKS: Final = 4096
"""Maximum number of cached header blocks."""
MAX_TEMPLATES: Final = 1024
"""Maximum number of header templates."""
MAX_LINES: Final = 1024
"""Maximum number of cached request lines."""
MAX_RESPONSES: Final = 1024
"""Maximum number of cached response heads."""
MAX_CACHED_HEAD: Final = 2048
"""Longest block or response head in bytes that is cached."""
MAX_CACHED_LINE: Final = 256
"""Longest request line in bytes that is cached."""

_PLAIN_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (" + PATH + QUERY + rb") HTTP/1\.1"
)
"""Request lines whose meaning does not depend on any field: all but those of rare requests."""
_CRLF: Final = b"\r\n"
_END: Final = b"\r\n\r\n"
_COOKIE_NAME: Final = b"ookie: "
_COOKIE_STARTS: Final = frozenset((b"C", b"c"))
_TRACE_NAME: Final = b"raceparent: "
_TRACE_STARTS: Final = frozenset((b"T", b"t"))
_BLANK: Final = 0x20
_BLANKED: Final = bytes(byte if 0x20 <= byte <= 0x7E else 0x20 for byte in range(256))
"""Turns every byte that is neither visible ASCII nor a blank into a blank."""
_TRACE: Final = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ODD: Final = b"13579bdf"


class SampledFifo:
    """Admission policy of a bounded dict: once full, one new key in eight evicts the oldest.

    So keys that come once do not push out those that come often.
    """

    __slots__ = ("_keys", "_oldest", "_refused", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: list[bytes] = []
        """A ring once it is full, with the oldest key at ``_oldest``."""
        self._oldest = 0
        self._refused = 0

    def admit(self, key: bytes, cache: dict[bytes, Any]) -> bool:
        """Tell whether to put a new key into ``cache``; if it is full, evicts the oldest key then."""
        keys = self._keys
        if len(keys) < self._size:
            keys.append(key)
            return True
        self._refused += 1
        if self._refused % ADMIT_ONE_IN:
            return False
        at = self._oldest
        # One at a time: clearing all of it would stall, and a dict's oldest key lies behind holes.
        del cache[keys[at]]
        keys[at] = key
        self._oldest = (at + 1) % self._size
        return True


class HeaderTemplate:
    """The common part of header blocks that differ only in the value of their Cookie."""

    __slots__ = ("_after", "_before", "_fields", "_lead", "_rule_cache", "_trail")

    def __init__(
        self,
        fields: RequestFields,
        before: bytes,
        value: bytes,
        after: bytes,
        rule_cache: RuleCache | None,
    ) -> None:
        """``fields`` are those without the Cookie of a block that is ``before + value + after``.

        ``rule_cache`` is shared by all these blocks; ``None`` if results depend on cookies.
        """
        self._fields = fields
        self._before = before
        self._after = after
        self._rule_cache = rule_cache
        line = before.rpartition(b"\n")[2] + value
        name = fields.cookie_name = line.partition(b":")[0]
        block = _CRLF + before + value + after[:-2]
        if fields.dropped:
            block = without(block, fields.dropped, [*fields.raw, (name, value)])
        lead, _, trail = block.partition(_CRLF + line + _CRLF)
        self._lead = lead + _CRLF + name + b": "
        """The forwarded bytes before the value, and after it."""
        self._trail = _CRLF + trail

    def match(self, block: bytes) -> ParsedHeaders | None:
        """Return the parsed block; ``None`` if another template applies or its Cookie is not plain."""
        start, end = len(self._before), len(block) - len(self._after)
        if start >= end or not (block.startswith(self._before) and block.endswith(self._after)):
            return None
        value = block[start:end]
        # ``_is_plain``, written out: this runs with each request of a returning browser.
        if value.translate(_BLANKED) != value or value[0] == _BLANK or value[-1] == _BLANK:
            return None
        if len(block) > MAX_CACHED_HEAD:
            return None
        return ParsedHeaders(
            self._fields, value, self._lead + value + self._trail, self._rule_cache
        )


class RequestHeadCache:
    """Parses request heads with a ``RequestParser``, or without it where it has parsed the same before.

    trace_matters: match rules or outcomes read traceparent. cookie_matters: they read cookies.
    remember_cookies: blocks with a plain Cookie are cached too, not only their template. That pays where
    evaluating a cookie costs more than a lookup in a large table that is not in the processor's caches.
    enabled: false parses each head anew.
    """

    __slots__ = (
        "_blocks",
        "_blocks_fifo",
        "_by_number",
        "_cookie_matters",
        "_enabled",
        "_last_line",
        "_last_parts",
        "_lines",
        "_lines_fifo",
        "_parser",
        "_remember_cookies",
        "_templates",
        "_trace_matters",
    )

    def __init__(
        self,
        parser: RequestParser,
        *,
        trace_matters: bool = False,
        cookie_matters: bool = True,
        remember_cookies: bool = True,
        enabled: bool = True,
    ) -> None:
        self._parser = parser
        self._trace_matters = trace_matters or parser.create_trace
        self._cookie_matters = cookie_matters
        self._remember_cookies = remember_cookies
        self._enabled = enabled
        self._lines: dict[bytes, RequestLine] = {}
        self._lines_fifo = SampledFifo(MAX_LINES)
        self._last_line = _CRLF
        """The request line before, with its end, and its parts: often the next one is the same."""
        self._last_parts: RequestLine | None = None
        self._blocks: dict[bytes, ParsedHeaders] = {}
        self._blocks_fifo = SampledFifo(MAX_BLOCKS)
        self._by_number: list[HeaderTemplate] = []
        """Templates by number. A connection only keeps the number: ``match`` compares all bytes anyway."""
        self._templates: dict[tuple[bytes, bytes], HeaderTemplate | None] = {}
        """By what comes before and after the Cookie's value; ``None``: such blocks have no template."""

    def parse_single(self, data: bytes, peer: Peer) -> Request | None:
        """Parse received bytes that end with an empty line; ``None`` if they are more than one head.

        Raises ``Refusal`` as ``parse`` does. Cached blocks end with their only empty line: where one
        matches, there is nothing to search for.
        """
        parts = self._last_parts
        if parts is not None and data.startswith(self._last_line):
            line = self._last_line
            block = data[len(line) :]
            line = line[:-2]
        else:
            line, _, block = data.partition(_CRLF)
            parts = self._lines.get(line)
            if parts is not None:
                self._last_line, self._last_parts = line + _CRLF, parts
        if parts is not None:
            headers, trace = self._lookup(block, peer)
            if headers is not None and headers.fields.host:
                if trace:
                    return self._build_traced(line, parts, headers, trace, block, peer)
                return self._parser.build(line, parts, False, headers, headers.block, peer)
        if data.find(_END) != len(data) - len(_END):
            return None
        return self.parse(data, peer)

    def parse(self, head: bytes, peer: Peer) -> Request:
        """Check one complete head (with its empty line) and return the request, ready to forward.

        Raises ``Refusal`` as ``RequestParser.parse`` does, and returns an equal request.
        """
        line, _, block = head.partition(_CRLF)
        parts = self._lines.get(line)
        if parts is None:
            parts = self._plain_line(line)
        if parts is None or len(head) > MAX_HEAD:
            return self._parser.parse(head, peer)
        headers, trace = self._lookup(block, peer)
        if headers is None:
            headers, trace = self._learn(block)
        if not headers.fields.host or headers.fields.max_forwards:
            return self._parser.parse(head, peer)
        if trace:
            return self._build_traced(line, parts, headers, trace, block, peer)
        return self._parser.build(line, parts, False, headers, headers.block, peer)

    def repeats(self, request: Request) -> bool:
        """Tell whether to parse the same head from the same peer again would only make an equal request."""
        return request.trace is not None and self._parser.tolerate is None

    def _build_traced(
        self,
        line: bytes,
        parts: RequestLine,
        headers: ParsedHeaders,
        trace: bytes,
        block: bytes,
        peer: Peer,
    ) -> Request:
        """Return the request whose headers were cached without ``trace``, its traceparent line."""
        raw: Headers = ()
        if headers.fields.dropped:
            name, _, value = trace.partition(b": ")
            raw = [*headers.raw, (name, value)]
        forwarded = self._parser.forwarded(_CRLF + block[:-2], raw, headers.fields.dropped)
        request = self._parser.build(line, parts, False, headers, forwarded, peer)
        request.trace = trace[16:48]
        request.sampled = request.trace if trace[-1] in _ODD else b""
        return request

    def _plain_line(self, line: bytes) -> RequestLine | None:
        """Return the parts of a plain request line and cache them; ``None`` leaves it to the parser."""
        plain = _PLAIN_LINE.fullmatch(line) if self._enabled else None
        if plain is None or len(line) > MAX_REQUEST_LINE:
            return None
        method, target = plain[1], plain[2]
        parts = method, target, (method, target.partition(b"?")[0])
        if len(line) <= MAX_CACHED_LINE and self._lines_fifo.admit(line, self._lines):
            self._lines[line] = parts
        return parts

    def _lookup(self, block: bytes, peer: Peer) -> tuple[ParsedHeaders | None, bytes]:
        """Return a block that is cached, maybe without its Cookie or its traceparent.

        A block is all that follows the request line. The second value is the traceparent line if the headers
        returned are those of the block without it.
        """
        remember = self._remember_cookies
        if remember and (headers := self._blocks.get(block)) is not None:
            return headers, b""
        number = peer.template
        template = self._by_number[number] if 0 <= number < len(self._by_number) else None
        if template is not None and (headers := template.match(block)) is not None:
            self._remember(block, headers)
            return headers, b""
        if not remember and (headers := self._blocks.get(block)) is not None:
            return headers, b""
        rest, trace = (block, b"") if self._trace_matters else _without_trace(block)
        headers = self._blocks.get(rest) if trace else None
        if headers is not None:
            peer.template = -1  # blocks with a trace id of their own match none
        else:
            if trace and template is not None:
                headers = template.match(rest)
            if headers is None:
                headers = self._match_template(rest)
            if headers is None:
                return None, b""
            if headers.fields.template >= 0:
                peer.template = headers.fields.template
            self._remember(rest, headers)
        if trace and not _allows_trace(headers.fields):
            return None, b""
        return headers, trace

    def _learn(self, block: bytes) -> tuple[ParsedHeaders, bytes]:
        """Parse a block that is not cached, and cache it; returns the same as ``_lookup``."""
        if not self._trace_matters:
            rest, trace = _without_trace(block)
            if trace:
                headers = self._blocks.get(rest)
                if headers is None:
                    headers = self._match_template(rest, new=True) or self._parser.parse_headers(
                        rest
                    )
                    self._remember(rest, headers)
                if _allows_trace(headers.fields):
                    return headers, trace
        headers = self._match_template(block, new=True) or self._parser.parse_headers(block)
        if not headers.fields.trace_id:  # a trace id does not come again
            self._remember(block, headers)
        return headers, b""

    def _remember(self, block: bytes, headers: ParsedHeaders) -> None:
        fields = headers.fields
        if (
            (fields.template >= 0 and not self._remember_cookies)
            or len(block) > MAX_CACHED_HEAD
            or not fields.host
            or fields.max_forwards
        ):
            return
        if self._blocks_fifo.admit(block, self._blocks):
            self._blocks[block] = headers

    def _match_template(self, block: bytes, *, new: bool = False) -> ParsedHeaders | None:
        """Return the headers of a block with a template; with ``new`` it may be made from this block.

        The result equals that of the parser; ``None`` where it might not. Raises ``Refusal`` for mistakes in
        the other lines.
        """
        if self._parser.strip is not None or len(block) > MAX_CACHED_HEAD:
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
        template = self._templates.get(key)
        if template is None:
            if not new or key in self._templates:
                return None
            template = self._new_template(key, lines, value)
            if template is None:
                return None
        return template.match(block)

    def _new_template(
        self, key: tuple[bytes, bytes], lines: bytes, value: bytes
    ) -> HeaderTemplate | None:
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
            self._by_number.clear()
        before, rest = key
        fields = self._parser.parse_headers(lines + rest).fields
        if (
            fields.has_cookie
            or fields.has_trace
            or fields.nominated
            or fields.max_forwards
            or len(fields.raw) >= MAX_FIELDS
        ):
            # A second Cookie, or fields that Connection drops: their meaning depends on the Cookie line.
            self._templates[key] = None
            return None
        rule_cache: RuleCache | None = None if self._cookie_matters else {}
        fields.template = len(self._by_number)
        template = HeaderTemplate(fields, before, value, _CRLF + rest, rule_cache)
        self._templates[key] = template
        self._by_number.append(template)
        return template


class ResponseHeadCache:
    """Parses response heads with a ``ResponseParser``, or without it where it has parsed the same before.

    A service's responses of one second often differ in their bodies only. ``enabled`` false parses each
    head anew.
    """

    __slots__ = ("_enabled", "_fifo", "_heads", "_parser", "last", "last_head")

    last: Response | None
    """The last response whose head is cached: most often the next one begins like it."""
    last_head: bytes
    """Its head."""

    def __init__(self, parser: ResponseParser, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._heads: dict[bytes, Response] = {}
        self.replace_parser(parser)

    def replace_parser(self, parser: ResponseParser) -> None:
        """Parse with another parser from now on."""
        self._parser = parser
        self._heads.clear()
        self._fifo = SampledFifo(MAX_RESPONSES)
        self.last, self.last_head = None, b""

    def get(self, head: bytes) -> Response | None:
        """Return the response if this head is cached: then it is one complete head and nothing else."""
        response = self._heads.get(head)
        if response is not None:
            self.last, self.last_head = response, head
        return response

    def parse(self, head: bytes) -> Response:
        """Check one complete head (with its empty line) and return the response, ready to forward.

        Raises ``InvalidResponse``.
        """
        cached = self._heads.get(head)
        if cached is not None:
            return cached
        response = self._parser.parse(head)
        if self._enabled and len(head) <= MAX_CACHED_HEAD and self._fifo.admit(head, self._heads):
            self._heads[head] = response
        return response


def _is_plain(value: bytes) -> bool:
    """Tell whether no parser reads anything special into a value: visible ASCII, with blanks inside only."""
    return (
        bool(value)
        and value.translate(_BLANKED) == value
        and value[0] != _BLANK
        and value[-1] != _BLANK
    )


def _allows_trace(fields: RequestFields) -> bool:
    """Tell whether these fields keep their meaning when one traceparent line is added to them."""
    return not (fields.nominated or fields.has_trace) and len(fields.raw) + 1 < MAX_FIELDS


def _without_trace(block: bytes) -> tuple[bytes, bytes]:
    """Return a block without its traceparent line, and that line; empty if it has none that is plain."""
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
