"""Header blocks that are alike but for values of their own.

Each user has a Cookie, credentials and an address, each request the ids of its trace. What such a value means
to a proxy can be read from it alone, so all blocks with the same other lines, and the same names in the same
places, are parsed once: to a ``HeaderTemplate``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from functools import lru_cache
from typing import Final

from canaryproxy.http1.fields import without
from canaryproxy.http1.request import (
    MAX_FIELDS,
    ParsedHeaders,
    RequestFields,
    RequestParser,
    RuleCache,
)
from canaryproxy.http1.trace import NO_PARENT, NO_TRACE
from canaryproxy.measure import native

# Kinds of values. Plain integers, because they are compared for every value.
COOKIE: Final = 0
TRACEPARENT: Final = 1
FORWARDED_FOR: Final = 2
CREDENTIALS: Final = 3
OPAQUE: Final = 4
"""Forwarded as it is, and nothing else."""

OWN_VALUES: Final[dict[bytes, int]] = {
    b"cookie": COOKIE,
    b"traceparent": TRACEPARENT,
    b"x-forwarded-for": FORWARDED_FOR,
    b"authorization": CREDENTIALS,
    **dict.fromkeys(
        (
            # Ids of requests and traces.
            *(b"tracestate", b"x-request-id", b"x-correlation-id", b"request-id", b"x-trace-id"),
            *(b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"uber-trace-id"),
            *(b"x-datadog-trace-id", b"x-datadog-parent-id", b"sentry-trace", b"cf-ray"),
            *(b"x-amzn-trace-id", b"x-cloud-trace-context", b"x-arr-log-id", b"x-request-start"),
            # The client's address, as other proxies and CDNs tell it.
            *(b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip"),
            *(b"x-client-ip", b"x-cluster-client-ip", b"x-envoy-external-address"),
            # What a client has already, where it comes from, and its keys.
            *(b"referer", b"if-none-match", b"if-modified-since", b"idempotency-key", b"range"),
            *(b"x-csrf-token", b"x-xsrf-token", b"x-api-key"),
        ),
        OPAQUE,
    ),
}
"""Kinds by name in lower case."""

_CRLF: Final = b"\r\n"
BLANK: Final = 0x20
BLANKED: Final = bytes(byte if 0x20 <= byte <= 0x7E else 0x20 for byte in range(256))
"""Turns every byte that is neither visible ASCII nor a blank into a blank."""
_DIGITS: Final = bytes(0x30 if byte in b"0123456789abcdef" else byte for byte in range(256))
_ZERO: Final = 0x30
_TRACEPARENT: Final = b"00-" + NO_TRACE + b"-" + NO_PARENT + b"-00"
"""The form of a traceparent of version 00: each hex digit as 0."""
_ODD: Final = b"13579bdf"
_values: Final = native.request_values
_SCHEMES: Final = (b"Bearer ", b"Basic ")
"""Schemes of credentials that authenticate a request, and not a connection (``fields.binds``)."""

Match = tuple[ParsedHeaders | None, bytes, bytes | None, bool, bytes | None]
"""Parsed headers, the lines to forward, and, if each block has its own, the trace id, whether the client may
have recorded that trace, and the value of X-Forwarded-For."""
NO_MATCH: Final[Match] = (None, b"", None, False, None)


def own_lines(names: Set[bytes]) -> re.Pattern[bytes]:
    """Return what finds the lines with values of their own in a block that CRLF was put before.

    ``names`` are some of ``OWN_VALUES``; fields of other names belong to what blocks have in common.
    """
    return _own_lines(frozenset(names))


@lru_cache(maxsize=64)
def _own_lines(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """The services of a proxy have few sets of names, and several patterns each."""
    either = b"|".join(map(re.escape, sorted(names)))
    return re.compile(rb"\r\n((?i:" + either + rb")): ([^\r\n]*)(?=\r\n)")


class _OwnValue:
    """A place in header blocks where each has a value of its own."""

    __slots__ = ("forwarded", "kind", "rest", "size")

    def __init__(self, kind: int, size: int, rest: bytes, forwarded: bytes) -> None:
        self.kind = kind
        self.size = size
        """That of the last block's value: most often that of the next one's."""
        self.rest = rest
        """What all blocks have from here to the next such place, or to the end."""
        self.forwarded = forwarded
        """What of it is forwarded."""


class HeaderTemplate:
    """The common part of header blocks that differ in values of their own only."""

    __slots__ = (
        "_cookie_lead",
        "_first",
        "_form",
        "_forwarded_first",
        "_forwarded_last",
        "_headers",
        "_is_plain",
        "_kinds",
        "_last",
        "_own",
        "_rule_cache",
        "_strip",
        "fields",
        "key",
        "names_client",
        "only_cookie",
    )

    def __init__(
        self,
        parser: RequestParser,
        fields: RequestFields,
        pieces: Sequence[bytes],
        rule_cache: RuleCache | None,
    ) -> None:
        """``fields`` are those without the lines of their own of a block; ``pieces`` as ``learn`` gets them.

        ``rule_cache`` is shared by all blocks; ``None`` if results depend on cookies.
        """
        self.fields = fields
        self.key = b""
        """What tells it from all other templates of a cache."""
        names = pieces[1::3]
        self._kinds = [OWN_VALUES[name.lower()] for name in names]
        self.only_cookie = self._kinds == [COOKIE]
        self.names_client = FORWARDED_FOR in self._kinds
        """Blocks have a value of their own that the last lines of what is forwarded depend on."""
        self._rule_cache = rule_cache
        self._strip = parser.strip
        self._is_plain = self.only_cookie and parser.strip is None
        """Blocks differ in a Cookie, which is forwarded."""
        self._cookie_lead = b""
        has_cookie = COOKIE in self._kinds
        self._headers = None if has_cookie else ParsedHeaders(fields, b"", b"", rule_cache)
        starts = [_CRLF + name + b": " for name in names]
        self._first = (pieces[0] + starts[0])[len(_CRLF) :]
        """What blocks have before their first value."""
        self._last = pieces[-1]
        """What they end with."""
        lines = [*map(bytes.__add__, pieces[3:-1:3], starts[1:]), self._last]
        self._forwarded_first, *forwarded = self._what_is_forwarded(pieces)
        self._forwarded_last = forwarded[-1]
        self._own = list(map(_OwnValue, self._kinds, map(len, pieces[2::3]), lines, forwarded))
        self._form: tuple[bytes, ...] | None = None
        """What the extension in C asks for; ``None``: it cannot read such blocks."""
        if not self._cookie_lead and len(names) <= native.MOST_VALUES:
            self._form = native.form(
                bytes(self._kinds), self._first, self._forwarded_first, lines, forwarded
            )

    def _what_is_forwarded(self, pieces: Sequence[bytes]) -> list[bytes]:
        """Return what is forwarded of what blocks have in common, before their first value and after each."""
        names, values = pieces[1::3], pieces[2::3]
        block = b"".join(
            piece if at % 3 == 0 else _CRLF + piece if at % 3 == 1 else b": " + piece
            for at, piece in enumerate(pieces)
        )[: -len(_CRLF)]
        fields = self.fields
        if fields.dropped:
            block = without(block, fields.dropped, [*fields.raw, *zip(names, values, strict=True)])
        parts = [b""]
        for kind, name, value in zip(self._kinds, names, values, strict=True):
            before, _, rest = block.partition(_CRLF + name + b": " + value + _CRLF)
            parts[-1] += before
            block = _CRLF + rest
            if kind == COOKIE:
                fields.cookie_name = name
            if kind == COOKIE and self._strip is not None:
                self._cookie_lead = _CRLF + name + b": "
            elif kind != FORWARDED_FOR:
                parts[-1] += _CRLF + name + b": "
            parts.append(b"")
        parts[-1] += block
        return parts

    def match(self, block: bytes, users: dict[bytes, ParsedHeaders]) -> Match:
        """Return what a block means; ``NO_MATCH`` if it has other lines, or a value that needs the parser.

        ``users`` are headers that are known, by ``key`` and their Cookie.
        """
        form = self._form
        if form is None or _values is None:
            return self._match(block, users)
        found = _values(block, form, None, b"")
        if found is None:
            return NO_MATCH
        sent, cookie, trace_id, sampled, client = found
        headers = self._headers
        if headers is None:
            if users:
                headers = users.get(self.key + cookie)
            if headers is None:
                headers = ParsedHeaders(self.fields, cookie, sent, self._rule_cache)
        return headers, sent, trace_id, sampled, client

    def match_head(self, head: bytes, line: bytes, ending: bytes) -> Match:
        """Do the same for a head that begins with a request line; what is returned is a head to forward.

        Its last lines are ``ending``. The headers are not to be remembered: they lack ``block``.
        """
        form = self._form
        found = None if form is None or _values is None else _values(head, form, line, ending)
        if found is None:
            return NO_MATCH
        sent, cookie, trace_id, sampled, client = found
        headers = self._headers
        if headers is None:
            headers = ParsedHeaders(self.fields, cookie, b"", self._rule_cache)
        return headers, sent, trace_id, sampled, client

    def _match(self, block: bytes, users: dict[bytes, ParsedHeaders]) -> Match:
        """Do the same in Python."""
        if not block.startswith(self._first):
            return NO_MATCH
        at = len(self._first)
        if self._is_plain:
            # The most frequent ones, without the loop: 2% of a whole request.
            end = len(block) - len(self._last)
            if end <= at or not block.endswith(self._last):
                return NO_MATCH
            value = block[at:end]
            if value.translate(BLANKED) != value or value[0] == BLANK or value[-1] == BLANK:
                return NO_MATCH
            sent = self._forwarded_first + value + self._forwarded_last
            one = ParsedHeaders(self.fields, value, sent, self._rule_cache)
            return one, sent, None, False, None
        sent = self._forwarded_first
        cookie = b""
        trace_id: bytes | None = None
        sampled = False
        client: bytes | None = None
        for own in self._own:
            rest = own.rest
            if rest is self._last:
                end = len(block) - len(rest)
                if not block.endswith(rest):
                    return NO_MATCH
            else:
                end = at + own.size
                if not block.startswith(rest, end):
                    end = block.find(rest, at)
                    own.size = max(end - at, 0)
            if end <= at:
                return NO_MATCH
            value = block[at:end]
            at = end + len(rest)
            kind = own.kind
            if kind == TRACEPARENT:
                if (
                    value.translate(_DIGITS) != _TRACEPARENT
                    or value[0] != _ZERO
                    or value[1] != _ZERO
                    or value[3:35] == NO_TRACE
                    or value[36:52] == NO_PARENT
                ):
                    return NO_MATCH
                trace_id, sampled = value[3:35], value[-1] in _ODD
            # No parser reads anything special into visible ASCII, with blanks inside only.
            elif value.translate(BLANKED) != value or value[0] == BLANK or value[-1] == BLANK:
                return NO_MATCH
            elif kind == COOKIE:
                cookie = value
                if self._strip is not None:
                    value = self._strip(self._cookie_lead + value)
            elif kind == FORWARDED_FOR:
                client, value = value, b""
            elif kind == CREDENTIALS and (not value.startswith(_SCHEMES) or b"," in value):
                return NO_MATCH
            sent = sent + value + own.forwarded
        headers = self._headers
        if headers is None:
            headers = users.get(self.key + cookie)
            if headers is None:
                headers = ParsedHeaders(self.fields, cookie, sent, self._rule_cache)
        return headers, sent, trace_id, sampled, client


def learn(
    parser: RequestParser, own: Set[bytes], pieces: Sequence[bytes], *, cookie_matters: bool
) -> HeaderTemplate | None:
    """Return the template of a block; ``None`` if what it means depends on more than each value alone.

    ``pieces`` are what ``own_lines`` of the names ``own`` splits it into: lines in common and, between them,
    a name and a value. ``cookie_matters``: what match rules say depends on cookies. Raises ``Refusal`` for
    the lines in common.
    """
    names = [name.lower() for name in pieces[1::3]]
    common = b"".join(pieces[::3])[len(_CRLF) :]
    traced = b"traceparent" in names
    if len(set(names)) < len(names) or (
        parser.create_trace and b"tracestate" in names and not traced
    ):
        return None
    if traced:  # whether there is a trace decides what else is forwarded
        line = b"traceparent: " + pieces[3 * names.index(b"traceparent") + 2] + _CRLF
        common = common[: -len(_CRLF)] + line + _CRLF
    fields = parser.parse_headers(common).fields
    if traced:
        if not fields.trace_id:
            return None
        fields.raw = fields.raw[:-1]
    if (
        fields.nominated  # by Connection: maybe one of the values
        or fields.max_forwards
        or not fields.host
        or len(fields.raw) + len(names) > MAX_FIELDS
        or not own.isdisjoint(name.lower() for name, _ in fields.raw)
    ):
        return None
    if b"x-forwarded-for" in names and fields.forwarding is None:
        fields.forwarding = []
    fields.own = frozenset(names)
    rule_cache: RuleCache | None = None if cookie_matters and b"cookie" in names else {}
    return HeaderTemplate(parser, fields, pieces, rule_cache)
