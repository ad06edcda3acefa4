"""Outcomes: named kinds of responses, found by rules on status, headers, size, JSON or text.

A silent regression is a 200 that is wrong all the same: an empty list, a page without its content. A rule
says which requests it applies to and what makes their responses count. Bodies are read only for rules that
need them, and then only their first 64 KiB.

The caller decides which bodies are read (it may sample, as long as the draw does not depend on the response),
keeps the beginning of the body, and calls ``OutcomeRules.held`` when the response is complete.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Protocol

from canaryproxy.config import HeaderMatch, JsonWhen, Outcome
from canaryproxy.config.patterns import searcher
from canaryproxy.measure.routing import Headers, RequestView, conditions_of, text_test

INSPECTED = 64 * 1024
"""Bytes at the beginning of a body that rules may look at, before and after decompression."""

ALL_STATUSES = tuple(f"{digit}xx" for digit in range(1, 10))
"""Patterns that match every status."""

_MISSING = object()


class ResponseView(Protocol):
    """A response as rules see it."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def size(self) -> int:
        """Bytes of the body as sent."""

    @property
    def prefix(self) -> bytes:
        """The first ``INSPECTED`` bytes of the body as sent, if a rule ``needs_body``."""


Test = Callable[[ResponseView, "Body"], "bool | None"]
"""Whether a condition holds; ``None``: unknown."""


class Body:
    """The decoded beginning of a body, decoded once for all rules."""

    __slots__ = ("_decoded", "_json", "_response")

    def __init__(self, response: ResponseView) -> None:
        self._response = response
        self._decoded: tuple[bytes, bool] | None = None
        self._json: Any = _MISSING

    def decoded(self) -> tuple[bytes, bool]:
        """Return the decoded beginning, and whether it is the whole body."""
        if self._decoded is None:
            self._decoded = decode(self._response)
        return self._decoded

    def json(self) -> Any:
        """Return the JSON value, or ``_MISSING`` if the body is not JSON or not whole."""
        text, whole = self.decoded()
        if self._json is _MISSING and whole:
            try:
                self._json = json.loads(text)
            except (ValueError, RecursionError):
                self._json = _MISSING
        return self._json


class OutcomeRule:
    """One compiled outcome."""

    __slots__ = (
        "_conditions",
        "bad",
        "below",
        "margin",
        "name",
        "needs_body",
        "statuses",
        "tests",
    )

    def __init__(self, name: str, outcome: Outcome) -> None:
        self.name = name
        self.bad = outcome.bad
        """More of it on the canary is a regression."""
        self.margin = outcome.margin
        """Increase that matters, a fraction."""
        when = outcome.when
        self.needs_body = when.json_ is not None or when.regex is not None
        """It reads bodies."""
        match = outcome.match
        self._conditions = conditions_of(match.method, match.path, match.header)
        self.statuses = status_table(when.status or ALL_STATUSES)
        """Whether a status may count, by status."""
        self.below = inf if when.body_under is None else when.body_under
        """Bytes from which on a response does not count."""
        tests: list[Test] = []
        if when.header is not None:
            tests.append(_header_test(when.header))
        if when.regex is not None:
            tests.append(_regex_test(when.regex))
        if when.json_ is not None:
            tests.append(_json_test(when.json_))
        self.tests = tuple(tests)
        """Further conditions, all of which must hold."""

    def watches(self, request: RequestView) -> bool:
        """Tell whether the rule looks at the response to this request."""
        return all(condition(request) for condition in self._conditions)

    def holds(self, response: ResponseView, body: Body | None = None) -> bool | None:
        """Tell whether the response counts; ``None`` if that cannot be told (too long, undecodable)."""
        if not self.statuses[response.status] or response.size >= self.below:
            return False
        if not self.tests:
            return True
        body = body or Body(response)
        found: bool | None = True
        for test in self.tests:
            result = test(response, body)
            if result is False:
                return False
            if result is None:
                found = None
        return found


class OutcomeRules:
    """All outcomes of a configuration, in the order of the file."""

    __slots__ = ("needs_body", "rules")

    def __init__(self, outcomes: Mapping[str, Outcome]) -> None:
        self.rules = tuple(OutcomeRule(name, outcome) for name, outcome in outcomes.items())
        self.needs_body = any(rule.needs_body for rule in self.rules)
        """A rule reads bodies."""

    def __bool__(self) -> bool:
        return bool(self.rules)

    def watching(self, request: RequestView) -> tuple[int, ...]:
        """Return the indexes of the rules that look at the response to this request."""
        return tuple(at for at, rule in enumerate(self.rules) if rule.watches(request))

    def held(self, at: int, response: ResponseView, body: Body | None) -> bool | None:
        """Tell whether rule ``at`` holds; ``None`` if that is unknown. ``body`` as ``body_of`` says."""
        rule = self.rules[at]
        if not rule.statuses[response.status] or response.size >= rule.below:
            return False
        return rule.holds(response, body) if rule.tests else True

    def body_of(self, response: ResponseView) -> Body | None:
        """Return what rules share of a response's body, if any looks into bodies."""
        return Body(response) if self.needs_body else None


def decode(response: ResponseView) -> tuple[bytes, bool]:
    """Return the beginning of a body with its content coding undone, and whether that is all of it.

    At most ``INSPECTED`` bytes come out, whatever a small body would unpack to. A coding that is not known
    (gzip, deflate and, where the brotli package is installed, br are) gives nothing, and not all.
    """
    whole = response.size <= len(response.prefix)
    coding = b""
    for name, value in response.headers:
        if name.lower() == b"content-encoding":
            coding = value.strip().lower()
    if coding in (b"", b"identity"):
        return response.prefix[:INSPECTED], whole
    if coding in (b"gzip", b"x-gzip", b"deflate"):
        return _inflate(response.prefix, coding, whole)
    if coding == b"br":
        return _unbrotli(response.prefix, whole)
    return b"", False


def _inflate(data: bytes, coding: bytes, whole: bool) -> tuple[bytes, bool]:
    # 47: gzip or zlib, by the header. Some servers send deflate without zlib's header: -15.
    for bits in (47, -15) if coding == b"deflate" else (47,):
        unpacker = zlib.decompressobj(bits)
        try:
            text = unpacker.decompress(data, INSPECTED)
        except zlib.error:
            continue
        return text, whole and unpacker.eof and not unpacker.unused_data
    return b"", False


def _unbrotli(data: bytes, whole: bool) -> tuple[bytes, bool]:
    try:
        import brotli  # noqa: PLC0415 - an extra
    except ImportError:
        return b"", False
    unpacker = brotli.Decompressor()
    try:
        text: bytes = unpacker.process(data, output_buffer_limit=INSPECTED)
    except (brotli.error, TypeError):  # before 1.2 it knows no limit: it must not be used then
        return b"", False
    return text[:INSPECTED], whole and len(text) <= INSPECTED and bool(unpacker.is_finished())


def status_table(patterns: tuple[str, ...]) -> bytes:
    """Return whether a status is one of ``5xx`` or ``404``, by status."""
    wanted = bytearray(1000)
    for text in patterns:
        low = int(text.replace("x", "0"))
        for status in range(low, low + (100 if "x" in text else 1)):
            wanted[status] = 1
    return bytes(wanted)


def _header_test(match: HeaderMatch) -> Test:
    name, test = match.name.lower().encode("latin-1"), text_test(match)

    def holds(response: ResponseView, _body: Body) -> bool:
        values = [v.decode("latin-1") for n, v in response.headers if n.lower() == name]
        return any(map(test, values)) if values else test(None)

    return holds


def _regex_test(regex: str) -> Test:
    found = searcher(regex)

    def holds(_response: ResponseView, body: Body) -> bool | None:
        text, whole = body.decoded()
        if found(text):
            return True
        return False if whole or len(text) >= INSPECTED else None

    return holds


def _json_test(when: JsonWhen) -> Test:
    steps = [part.replace("~1", "/").replace("~0", "~") for part in when.pointer.split("/")[1:]]

    def holds(_response: ResponseView, body: Body) -> bool | None:
        document = body.json()
        if document is _MISSING:
            return None
        value = _follow(document, steps)
        if when.is_ is not None:
            return _IS[when.is_](value)
        return type(value) is type(when.equals) and value == when.equals

    return holds


def _follow(document: Any, steps: list[str]) -> Any:
    """Return the value at a JSON pointer (RFC 6901 §4), or ``_MISSING``."""
    here = document
    for step in steps:
        if isinstance(here, dict):
            here = here.get(step, _MISSING)
        elif isinstance(here, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", step):
            here = here[int(step)] if int(step) < len(here) else _MISSING
        else:
            return _MISSING
    return here


_IS: dict[str, Callable[[Any], bool]] = {
    "empty": lambda value: isinstance(value, (list, dict, str)) and not value,
    "missing": lambda value: value is _MISSING,
    "present": lambda value: value is not _MISSING,
    "null": lambda value: value is None,
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "zero": lambda value: value == 0 and not isinstance(value, bool),
}
