"""Caches in front of the head parsers: they make parsing fast and never change its result.

Clients repeat themselves: the requests of one browser or service differ in the request line and share all
fields. So request lines and header blocks are cached apart, by their bytes. A block with values of its own,
such as a Cookie or the id of a request, is matched with the template of blocks like it
(``header_template``). Most often that is the template of the last block on the same connection, so a
connection keeps its number (``Peer.template``).

What is measured and why four levels: docs/decisions/0006-header-caches.md.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any, Final

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.header_template import (
    NO_MATCH,
    OWN_VALUES,
    HeaderTemplate,
    Match,
    learn,
    own_lines,
)
from canaryproxy.http1.request import (
    MAX_HEAD,
    MAX_REQUEST_LINE,
    PATH,
    QUERY,
    ParsedHeaders,
    Request,
    RequestLine,
    RequestParser,
)
from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.http1.response_template import OWN_VALUES as OWN_RESPONSE_VALUES
from canaryproxy.http1.response_template import ResponseTemplate
from canaryproxy.http1.response_template import learn as learn_response

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
"""Longest block or response head in bytes that is cached; of a template, what its blocks have in common."""
MAX_CACHED_LINE: Final = 256
"""Longest request line in bytes that is cached."""

_PLAIN_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (" + PATH + QUERY + rb") HTTP/1\.1"
)
"""Request lines whose meaning does not depend on any field: all but those of rare requests."""
_CRLF: Final = b"\r\n"
_END: Final = b"\r\n\r\n"


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


class RequestHeadCache:
    """Parses request heads with a ``RequestParser``, or without it where it has parsed the same before.

    reads: names (lower case) of fields that the variant, an outcome or a cohort depends on.
    remember_cookies: what is decided by a plain Cookie is cached too, not only the template. That pays where
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
        "_last_request_line",
        "_lines",
        "_lines_fifo",
        "_own",
        "_own_lines",
        "_parser",
        "_remember_cookies",
        "_templates",
        "_users",
        "_users_fifo",
    )

    def __init__(
        self,
        parser: RequestParser,
        *,
        reads: Set[bytes] = frozenset((b"cookie",)),
        remember_cookies: bool = True,
        enabled: bool = True,
    ) -> None:
        self._parser = parser
        self._cookie_matters = b"cookie" in reads
        self._own = OWN_VALUES.keys() - (reads - {b"cookie"}) - parser.claimed
        """Names of the fields whose values are not among what blocks have in common."""
        self._own_lines = own_lines(self._own)
        self._remember_cookies = remember_cookies
        self._enabled = enabled
        self._lines: dict[bytes, RequestLine] = {}
        self._lines_fifo = SampledFifo(MAX_LINES)
        self._last_request_line = b""
        self._last_line = _CRLF
        """The request line before, with its end, and its parts: often the next one is the same."""
        self._last_parts: RequestLine | None = None
        self._blocks: dict[bytes, ParsedHeaders] = {}
        self._blocks_fifo = SampledFifo(MAX_BLOCKS)
        self._by_number: list[HeaderTemplate] = []
        """Templates by number. A connection only keeps the number: ``match`` compares all bytes anyway."""
        self._templates: dict[tuple[bytes, ...], HeaderTemplate | None] = {}
        """By what their blocks have in common; ``None``: such blocks have no template."""
        self._users: dict[bytes, ParsedHeaders] = {}
        """Of blocks that are not cached themselves, by their template's key and their Cookie."""
        self._users_fifo = SampledFifo(MAX_BLOCKS)

    def parse_single(self, data: bytes, peer: Peer) -> Request | None:
        """Parse received bytes that end with an empty line; ``None`` if they are more than one head.

        Raises ``Refusal`` as ``parse`` does. Cached blocks end with their only empty line: where one
        matches, there is nothing to search for.
        """
        parts = self._last_parts
        if parts is not None and data.startswith(self._last_line):
            line = self._last_request_line
            if not self._remember_cookies:
                request = self._by_last_template(data, line, parts, peer)
                if request is not None:
                    return request
            block = data[len(line) + 2 :]
        else:
            line, _, block = data.partition(_CRLF)
            parts = self._lines.get(line)
            if parts is not None:
                self._last_line, self._last_parts = line + _CRLF, parts
                self._last_request_line = line
        if parts is not None:
            if self._remember_cookies and (headers := self._blocks.get(block)) is not None:
                return self._parser.build(line, parts, False, headers, headers.block, peer)
            headers, lines, trace_id, sampled, client = self._lookup(block, peer)
            if headers is not None and len(data) <= MAX_HEAD:
                return self._parser.build(
                    line, parts, False, headers, lines, peer, b"", trace_id, sampled, client
                )
        if data.find(_END) != len(data) - len(_END):
            return None
        return self.parse(data, peer)

    def _by_last_template(
        self, head: bytes, line: bytes, parts: RequestLine, peer: Peer
    ) -> Request | None:
        """Return the request of a head if its block is like that of the last one on its connection.

        It means the same as ``_lookup`` and ``build``, but the head is made in one go.
        """
        number = peer.template
        if not 0 <= number < len(self._by_number) or len(head) > MAX_HEAD:
            return None
        template = self._by_number[number]
        if template.names_client or peer.http2:
            return None
        parser, fields = self._parser, template.fields
        ending = peer.ending(fields.host, fields.forwarding, fields.extra, parser.end)
        headers, sent, trace_id, sampled, _ = template.match_head(head, line, ending)
        if headers is None:
            return None
        return parser.built(parts, headers, sent, trace_id, sampled)

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
        if self._remember_cookies and (headers := self._blocks.get(block)) is not None:
            return self._parser.build(line, parts, False, headers, headers.block, peer)
        headers, lines, trace_id, sampled, client = self._lookup(block, peer)
        if headers is None:
            headers, lines, trace_id, sampled, client = self._learn(block, peer)
        if headers is None or not headers.fields.host or headers.fields.max_forwards:
            return self._parser.parse(head, peer)
        return self._parser.build(
            line, parts, False, headers, lines, peer, b"", trace_id, sampled, client
        )

    def repeats(self, request: Request) -> bool:
        """Tell whether to parse the same head from the same peer again would only make an equal request."""
        return request.trace is not None and self._parser.tolerate is None

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

    def _lookup(self, block: bytes, peer: Peer) -> Match:
        """Return what a block means, all that follows a request line, if it or its template is known.

        With ``remember_cookies`` it is not among the cached ones.
        """
        number = peer.template
        if 0 <= number < len(self._by_number):
            template = self._by_number[number]
            found = template.match(block, self._users)
            headers = found[0]
            if headers is not None:
                if self._remember_cookies and headers.block is found[1]:
                    self._remember_match(template, block, headers)
                return found
        if not self._remember_cookies:
            headers = self._blocks.get(block)
            if headers is not None:
                return headers, headers.block, None, False, None
        return self._find_template(block, peer)

    def _remember_match(
        self, template: HeaderTemplate, block: bytes, headers: ParsedHeaders
    ) -> None:
        """Remember the user of a block whose headers are new, or the block if that may come again."""
        if len(block) > MAX_CACHED_HEAD:
            return
        if template.only_cookie:
            if self._blocks_fifo.admit(block, self._blocks):
                self._blocks[block] = headers
        elif headers.cookie:
            key = template.key + headers.cookie
            if len(key) <= MAX_CACHED_LINE and self._users_fifo.admit(key, self._users):
                self._users[key] = headers

    def _learn(self, block: bytes, peer: Peer) -> Match:
        """Parse a block that is not known, and its template. Returns the same as ``_lookup``."""
        found = self._find_template(block, peer, new=True)
        if found[0] is not None:
            return found
        headers = self._parser.parse_headers(block)
        fields = headers.fields
        if (
            len(block) <= MAX_CACHED_HEAD
            and fields.host
            and not fields.max_forwards
            and not fields.trace_id  # which does not come again
            and self._blocks_fifo.admit(block, self._blocks)
        ):
            self._blocks[block] = headers
        return headers, headers.block, None, False, None

    def _find_template(self, block: bytes, peer: Peer, *, new: bool = False) -> Match:
        """Return what a block means by its template; with ``new`` it may be made from this block.

        Raises ``Refusal`` for mistakes in the lines that it has in common with others.
        """
        pieces: list[bytes] = self._own_lines.split(_CRLF + block)
        if len(pieces) == 1:
            return NO_MATCH
        key = tuple(pieces[::3] + pieces[1::3])
        if sum(map(len, key)) > MAX_CACHED_HEAD:
            return NO_MATCH
        template = self._templates.get(key)
        if template is None:
            if not new or key in self._templates:
                return NO_MATCH
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
                self._by_number.clear()
                self._users.clear()
                self._users_fifo = SampledFifo(MAX_BLOCKS)
            template = learn(self._parser, self._own, pieces, cookie_matters=self._cookie_matters)
            self._templates[key] = template
            if template is None:
                return NO_MATCH
            template.fields.template = len(self._by_number)
            template.key = b"%d " % template.fields.template
            self._by_number.append(template)
        found = template.match(block, self._users)
        headers = found[0]
        if headers is not None:
            peer.template = template.fields.template
            if self._remember_cookies and headers.block is found[1]:
                self._remember_match(template, block, headers)
        return found


class ResponseHeadCache:
    """Parses response heads with a ``ResponseParser``, or without it where it has parsed the same before.

    A service's responses of one second often differ in their bodies only, or in values of their own, which
    are matched with a template (``response_template``). ``enabled`` false parses each head anew.
    """

    __slots__ = (
        "_enabled",
        "_fifo",
        "_heads",
        "_last_template",
        "_own",
        "_own_lines",
        "_parser",
        "_templates",
        "last",
        "last_head",
    )

    last: Response | None
    """The last response whose head is cached: most often the next one begins like it."""
    last_head: bytes
    """Its head."""

    def __init__(self, parser: ResponseParser, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._heads: dict[bytes, Response] = {}
        self._templates: dict[tuple[bytes, ...], ResponseTemplate | None] = {}
        """By what their heads have in common; ``None``: such heads have no template."""
        self.replace_parser(parser)

    def replace_parser(self, parser: ResponseParser) -> None:
        """Parse with another parser from now on."""
        self._parser = parser
        self._own = OWN_RESPONSE_VALUES - parser.dropped
        self._own_lines = own_lines(self._own)
        self._heads.clear()
        self._fifo = SampledFifo(MAX_RESPONSES)
        self._templates.clear()
        self._last_template: ResponseTemplate | None = None
        self.last, self.last_head = None, b""

    def get(self, head: bytes) -> Response | None:
        """Return the response if the head or its template is known: then it is one head and nothing else."""
        template = self._last_template
        if template is not None and not template.comes_again:
            response = template.match(head)
            if response is not None:
                return response
        response = self._heads.get(head)
        if response is not None:
            self.last, self.last_head = response, head
        return response

    def parse(self, head: bytes) -> Response:
        """Check one complete head (with its empty line) and return the response, ready to forward.

        Raises ``InvalidResponse``.
        """
        if not self._enabled:
            return self._parser.parse(head)
        response = self._heads.get(head)
        if response is not None:
            return response
        template = self._last_template
        if template is not None:
            response = template.match(head)
        if response is None:
            response, template = self._by_template(head)
        if (
            (template is None or template.comes_again)
            and len(head) <= MAX_CACHED_HEAD
            and self._fifo.admit(head, self._heads)
        ):
            self._heads[head] = response
        return response

    def _by_template(self, head: bytes) -> tuple[Response, ResponseTemplate | None]:
        """Return the response, and the template of heads like it if there is one or one can be learnt."""
        pieces: list[bytes] = self._own_lines.split(head)
        key = tuple(pieces[::3] + pieces[1::3])
        if len(pieces) == 1 or sum(map(len, key)) > MAX_CACHED_HEAD:
            return self._parser.parse(head), None
        template = self._templates.get(key)
        response = template.match(head) if template is not None else None
        if response is None:
            response = self._parser.parse(head)
            if key in self._templates:
                return response, None
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            template = learn_response(response, pieces, self._own_lines, self._own)
            self._templates[key] = template
        if template is not None:
            self._last_template = template
        return response, template
