"""Response heads that are alike but for values of their own.

Each response has a Date, most have a length or a validator, many an id or a cookie. What such a value means
to a proxy can be read from it alone, so all heads with the same other lines, and the same names in the same
places, are parsed once: to a ``ResponseTemplate``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Final

from canaryproxy.http1.fields import plain_length
from canaryproxy.http1.header_template import BLANK, BLANKED, OPAQUE
from canaryproxy.http1.response import MAX_HEAD, MOST_DIGITS, Response
from canaryproxy.measure import native
from canaryproxy.measure.routing import Headers

COMES_AGAIN: Final = frozenset(
    (
        *(b"date", b"content-length", b"content-range", b"content-location", b"location"),
        *(b"etag", b"last-modified", b"expires", b"digest", b"content-digest", b"repr-digest"),
    )
)
"""Names (lower case) of fields whose values differ, and may be the same in a later response."""

OWN_VALUES: Final = COMES_AGAIN | frozenset(
    (
        *(b"age", b"set-cookie", b"retry-after", b"content-disposition"),
        b"content-security-policy",  # with a nonce
        # Ids of requests and traces.
        *(b"x-request-id", b"x-correlation-id", b"request-id", b"x-trace-id", b"traceparent"),
        *(
            b"traceresponse",
            b"tracestate",
            b"b3",
            b"x-b3-traceid",
            b"x-b3-spanid",
            b"uber-trace-id",
        ),
        *(
            b"x-amzn-trace-id",
            b"x-amzn-requestid",
            b"x-amz-request-id",
            b"x-amz-id-2",
            b"x-amz-cf-id",
        ),
        *(
            b"x-cloud-trace-context",
            b"x-goog-request-id",
            b"x-ms-request-id",
            b"cf-ray",
            b"x-vercel-id",
        ),
        # How long it took, and where.
        *(b"server-timing", b"x-runtime", b"x-response-time", b"x-process-time", b"x-timer"),
        *(b"x-envoy-upstream-service-time", b"x-served-by", b"x-cache-hits", b"x-varnish"),
        # What is left to a client, and its keys.
        *(b"ratelimit", b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset"),
        *(
            b"x-ratelimit-limit",
            b"x-ratelimit-remaining",
            b"x-ratelimit-reset",
            b"x-ratelimit-used",
        ),
        *(b"x-rate-limit-limit", b"x-rate-limit-remaining", b"x-rate-limit-reset"),
        *(b"x-csrf-token", b"x-xsrf-token"),
    )
)
"""Names (lower case) of fields that mean nothing to a proxy, or only by their value: Content-Length."""

_LENGTH: Final = b"content-length"
_SET_COOKIE: Final = b"set-cookie"
"""The only field of them that may come more than once."""
_CRLF: Final = b"\r\n"
_values: Final = native.response_values


class _OwnValue:
    """A place in response heads where each has a value of its own."""

    __slots__ = ("forwarded", "is_length", "rest", "size")

    def __init__(self, is_length: bool, size: int, rest: bytes, forwarded: bytes) -> None:
        self.is_length = is_length
        self.size = size
        """That of the last head's value: most often that of the next one's."""
        self.rest = rest
        """What all heads have from here to the next such place, or to the end."""
        self.forwarded = forwarded
        """The same of the heads to forward."""


class ResponseTemplate:
    """The common part of response heads that differ in values of their own only."""

    __slots__ = (
        "_common",
        "_first",
        "_form",
        "_forwarded_first",
        "_last",
        "_last_length",
        "_last_value",
        "_length_at",
        "_names",
        "_own",
        "_response",
        "comes_again",
    )

    def __init__(
        self,
        response: Response,
        common: Headers,
        pieces: Sequence[bytes],
        forwarded: Sequence[bytes],
    ) -> None:
        """``response`` is one of them, ``common`` are the fields that it has in common with the others.

        ``pieces`` are what its head consists of, ``forwarded`` those of the head to forward (``learn``).
        """
        self._response = response
        self._common = common
        self._names = pieces[1::3]
        names = [name.lower() for name in self._names]
        self._first = pieces[0] + _start(pieces[1])
        self._last = pieces[-1]
        """What heads end with."""
        self._forwarded_first = forwarded[0] + _start(forwarded[1])
        rests = [*_between(pieces), self._last]
        sent = [*_between(forwarded), forwarded[-1]]
        self._own = [
            _OwnValue(name == _LENGTH, len(value), rest, then)
            for name, value, rest, then in zip(names, pieces[2::3], rests, sent, strict=True)
        ]
        self._form: tuple[bytes, ...] | None = None
        """What the extension in C asks for; ``None``: it cannot read such heads."""
        if len(names) <= native.MOST_VALUES:
            kinds = bytes([OPAQUE]) * len(names)
            self._form = native.form(kinds, self._first, self._forwarded_first, rests, sent)
        self._last_value, self._last_length = b"", -1
        """The Content-Length before: most often the next one is the same."""
        self._length_at = names.index(_LENGTH) if _LENGTH in names else -1
        self.comes_again = COMES_AGAIN.issuperset(names)
        """The same head may come again."""

    def match(self, head: bytes) -> Response | None:
        """Return what a head means; ``None`` if it has other lines, or a value that needs the parser."""
        form = self._form
        if form is None or _values is None:
            return self._match(head)
        found = _values(head, form)
        if found is None or len(head) > MAX_HEAD:
            return None
        length = -1
        if self._length_at >= 0:
            value = found[1 + self._length_at]
            if value == self._last_value:
                length = self._last_length
            else:
                length = _length_of(value)
                if length < 0:
                    return None
                self._last_value, self._last_length = value, length
        return self._response.alike(found[0], length, self._common, self._names, found[1:])

    def _match(self, head: bytes) -> Response | None:
        """Do the same in Python."""
        if not head.startswith(self._first) or len(head) > MAX_HEAD:
            return None
        at = len(self._first)
        sent = self._forwarded_first
        length = -1
        values = []
        for own in self._own:
            rest = own.rest
            if rest is self._last:
                end = len(head) - len(rest)
                if not head.endswith(rest):
                    return None
            else:
                end = at + own.size
                if not head.startswith(rest, end):
                    end = head.find(rest, at)
                    own.size = max(end - at, 0)
            if end <= at:
                return None
            value = head[at:end]
            at = end + len(rest)
            if own.is_length:
                length = _length_of(value)
                if length < 0:
                    return None
            # No parser reads anything special into visible ASCII, with blanks inside only.
            elif value.translate(BLANKED) != value or value[0] == BLANK or value[-1] == BLANK:
                return None
            values.append(value)
            sent = sent + value + own.forwarded
        return self._response.alike(sent, length, self._common, self._names, values)


def learn(
    response: Response, pieces: Sequence[bytes], lines: re.Pattern[bytes], own: Set[bytes]
) -> ResponseTemplate | None:
    """Return the template of a response; ``None`` if its head means more than each of its values alone.

    ``pieces`` are what ``lines`` (``own_lines`` of the names ``own``) splits its head into: what it has in
    common with others and, between that, a name and a value.
    """
    forwarded = lines.split(response.head)
    common = [field for field in response.fields if field[0].lower() not in own]
    names = [name.lower() for name in pieces[1::3] if name.lower() != _SET_COOKIE]
    if (
        len(set(names)) < len(names)
        or len(response.fields) != len(common) + len(pieces) // 3
        # Not all of them are forwarded, or not as they are.
        or forwarded[1::3] != pieces[1::3]
        or forwarded[2::3] != pieces[2::3]
    ):
        return None
    return ResponseTemplate(response, common, pieces, forwarded)


def _length_of(value: bytes) -> int:
    """Return the value of Content-Length; -1 if that needs the parser."""
    if not value.isdigit() or len(value) > MOST_DIGITS or not plain_length(value):
        return -1
    return int(value)


def _start(name: bytes) -> bytes:
    return _CRLF + name + b": "


def _between(pieces: Sequence[bytes]) -> list[bytes]:
    """Return what is between the values of a head in pieces."""
    return [rest + _start(name) for rest, name in zip(pieces[3:-1:3], pieces[4::3], strict=True)]
