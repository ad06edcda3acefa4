"""Outcomes: named kinds of responses, found by rules on status, headers, size, JSON or text.

A silent regression is a 200 that is wrong all the same: an empty list, a page without its content. A rule
says which requests it applies to and what makes their responses count.

Bodies are read only for rules that need them, as they come and without being kept: text up to its first
``INSPECTED`` bytes, JSON until the rule's pointer is resolved (``json_stream``), at most ``FURTHEST`` bytes.
A response that a rule applies to and cannot look into is counted with the reason (``Blind``), because a rule
that sees nothing would let every release pass. Responses to HEAD, 204 and 304 have no body, so they are no
trials of rules about bodies.

The caller decides which bodies are read (it may sample, as long as the draw does not depend on the response),
gives them to a ``BodyReader``, and calls ``OutcomeRules.held`` when the response is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from canaryproxy.config import HeaderMatch, JsonWhen, Outcome
from canaryproxy.config.patterns import searcher
from canaryproxy.measure.conditions import RequestView, conditions_of, text_test
from canaryproxy.measure.content_coding import SLICE, CodingError, Decoder, decoder
from canaryproxy.measure.counters import Blind
from canaryproxy.measure.json_stream import FOUND, INVALID, PENDING, PointerScanner, steps_of
from canaryproxy.measure.routing import Headers

INSPECTED: Final = 64 * 1024
"""Bytes at the beginning of a decoded body that regular expressions look at."""
FURTHEST: Final = 4 * 1024 * 1024
"""Bytes of a decoded body within which the end of a JSON pointer is looked for."""

ANY_SIZE: Final = 1 << 61
"""Bytes that no body has."""

ALL_STATUSES = tuple(f"{digit}xx" for digit in range(1, 10))
"""Patterns that match every status."""

_SHARED: Final = 64
"""Sets of rules that look at the same responses, each an object of its own."""
_MISSING = object()
_NO_TRIAL: Final = 2
"""In ``OutcomeRule.statuses``: such responses have no body, and the rule is about bodies."""


class OutcomeRule:
    """One compiled outcome."""

    __slots__ = (
        "_conditions",
        "about_body",
        "bad",
        "below",
        "expects_value",
        "header",
        "is_plain",
        "json",
        "margin",
        "name",
        "needs_body",
        "regex",
        "statuses",
        "steps",
    )

    def __init__(self, name: str, outcome: Outcome) -> None:
        self.name = name
        self.bad = outcome.bad
        """More of it on the canary is a regression."""
        self.margin = outcome.margin
        """Increase that matters, a fraction."""
        when = outcome.when
        self.needs_body = looks_into_bodies(outcome)
        """It reads bodies."""
        self.about_body = self.needs_body or when.body_under is not None
        """It applies only to responses that have a body."""
        match = outcome.match
        self._conditions = conditions_of(match.method, match.path, match.header)
        statuses = bytearray(status_table(when.status or ALL_STATUSES))
        if self.about_body:
            statuses[204] = statuses[304] = _NO_TRIAL
        self.statuses = bytes(statuses)
        """Whether a response may count, by status: 0, 1 or ``_NO_TRIAL``."""
        self.below = ANY_SIZE if when.body_under is None else when.body_under
        """Bytes from which on a response does not count."""
        self.header = None if when.header is None else _header_test(when.header)
        """The condition on a header."""
        self.regex = None if when.regex is None else searcher(when.regex)
        """The condition on the beginning of the body."""
        self.json = None if when.json_ is None else _json_test(when.json_)
        """The condition on the value at the pointer, ``_MISSING`` if there is none."""
        self.steps = () if when.json_ is None else steps_of(when.json_.pointer)
        """The pointer."""
        self.is_plain = self.header is None and not self.needs_body
        """Status and size decide."""
        self.expects_value = when.json_ is not None and when.json_.is_ != "present"
        """There should be something at the pointer in good responses, or the pointer is misspelt."""

    def watches(self, request: RequestView) -> bool:
        """Tell whether the rule looks at the response to this request."""
        if self.about_body and request.method == "HEAD":
            return False
        return all(condition(request) for condition in self._conditions)

    def may_hold(self, status: int, headers: Headers) -> bool:
        """Tell whether the head of a response meets the conditions on it."""
        return self.statuses[status] == 1 and (self.header is None or self.header(headers))


class BodyReader:
    """Reads one body for the rules that look into it.

    ``add`` takes the body as it comes, ``read`` works on it, a slice at each call. When the response has
    ended (``close``) and ``read`` has no more to do, ``held`` and ``present`` have the results.
    """

    __slots__ = (
        "_closed",
        "_decoder",
        "_parts",
        "_prefix",
        "_results",
        "_rules",
        "_scanners",
        "_seen",
        "_whole",
        "done",
        "pending",
        "present",
    )

    def __init__(self, rules: Mapping[int, OutcomeRule], headers: Headers) -> None:
        self._rules = rules
        self._decoder: Decoder | None = decoder(_content_encoding(headers))
        self._scanners = {
            at: PointerScanner(rule.steps) for at, rule in rules.items() if rule.json is not None
        }
        self._prefix: bytes | None = None
        """The beginning of the decoded body, where a rule looks at it."""
        if any(rule.regex is not None for rule in rules.values()):
            self._prefix = b""
        self._parts: deque[bytes] = deque()
        self.pending = 0
        """Bytes that were added and not read yet."""
        self._seen = 0
        """Bytes of the decoded body so far."""
        self._closed = self._whole = False
        self.done = False
        """All rules are decided; no more of the body is read."""
        self._results: dict[int, bool | Blind] = {}
        self.present: dict[int, bool] = {}
        """Whether there is something at the pointer, by rule that ``expects_value``, where that is known."""
        if self._decoder is None:
            self._decide(Blind.UNKNOWN_CODING)

    def add(self, data: bytes) -> bool:
        """Take more of the body as sent; tell whether there is enough to be read."""
        if self.done:
            return False
        self._parts.append(data)
        self.pending += len(data)
        return self.pending >= SLICE

    def close(self, *, whole: bool) -> None:
        """Take note that nothing more comes; ``whole``: the response did not break off."""
        self._closed, self._whole = True, whole

    def read(self) -> bool:
        """Read a slice of the body; tell whether there is more to do now."""
        packed = self._decoder
        if self.done or packed is None:
            return False
        data = b""
        if packed.hungry:
            if not self._parts:
                if self._closed:
                    self._end(packed)
                return False
            data = self._take()
        try:
            text = packed.decode(data)
        except CodingError:
            self._decide(Blind.UNDECODABLE)
            return False
        if text:
            self._feed(text)
        return not self.done

    def give_up(self) -> None:
        """Read no more: there is no time."""
        if not self.done:
            self._decide(Blind.NO_TIME)

    def held(self, at: int) -> bool | Blind:
        """Tell whether the conditions of rule ``at`` on the body hold, or why that cannot be told."""
        return self._results[at]

    def _take(self) -> bytes:
        """Return the next bytes as sent."""
        size, taken = 0, []
        while self._parts and size < SLICE:
            part = self._parts.popleft()
            taken.append(part)
            size += len(part)
        self.pending -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _feed(self, text: bytes) -> None:
        self._seen += len(text)
        is_open = False
        for scanner in self._scanners.values():
            scanner.feed(text)
            is_open = is_open or scanner.result == PENDING
        prefix = self._prefix
        if prefix is not None and len(prefix) < INSPECTED:
            self._prefix = prefix = prefix + text[: INSPECTED - len(prefix)]
            is_open = is_open or len(prefix) < INSPECTED
        if not is_open:
            self._decide(None)
        elif self._seen >= FURTHEST:
            self._decide(Blind.TOO_LARGE)

    def _end(self, packed: Decoder) -> None:
        """The body has ended."""
        if not self._whole:
            self._decide(Blind.INCOMPLETE)
        elif not packed.complete:
            self._decide(Blind.UNDECODABLE)
        else:
            for scanner in self._scanners.values():
                scanner.finish()
            self._decide(None)

    def _decide(self, unread: Blind | None) -> None:
        """Decide all rules. ``unread``: why part of the body was not read; ``None`` if it is not needed."""
        for at, rule in self._rules.items():
            self._results[at] = self._result(at, rule, unread)
        self.done = True
        self._decoder = None
        self._scanners = {}
        self._prefix = None
        self._parts.clear()
        self.pending = 0

    def _result(self, at: int, rule: OutcomeRule, unread: Blind | None) -> bool | Blind:
        result: bool | Blind = True
        if rule.json is not None:
            scanner = self._scanners[at]
            if scanner.result == INVALID:
                result = Blind.NOT_JSON
            elif scanner.result == PENDING:
                result = Blind.NOT_JSON if unread is None else unread
            else:
                found = scanner.result == FOUND
                if rule.expects_value:
                    self.present[at] = found
                if not rule.json(scanner.value if found else _MISSING):
                    return False
        if rule.regex is not None and self._prefix is not None and not rule.regex(self._prefix):
            if unread is None or len(self._prefix) >= INSPECTED:
                return False
            result = unread
        return result


class OutcomeRules:
    """All outcomes of a configuration, in the order of the file."""

    __slots__ = ("_known", "needs_body", "rules")

    def __init__(self, outcomes: Mapping[str, Outcome]) -> None:
        self.rules = tuple(OutcomeRule(name, outcome) for name, outcome in outcomes.items())
        self.needs_body = any(rule.needs_body for rule in self.rules)
        """A rule reads bodies."""
        self._known: dict[tuple[int, ...], tuple[int, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    def watching(self, request: RequestView) -> tuple[int, ...]:
        """Return the indexes of the rules that look at the response to this request.

        Equal ones are the same object, as long as there are not too many.
        """
        found = tuple(at for at, rule in enumerate(self.rules) if rule.watches(request))
        if len(self._known) < _SHARED:
            return self._known.setdefault(found, found)
        return self._known.get(found, found)

    def reader(self, watching: Iterable[int], status: int, headers: Headers) -> BodyReader | None:
        """Return what reads the body behind this head for ``watching``; ``None`` if no rule needs it."""
        wanted = {
            at: rule
            for at in watching
            if (rule := self.rules[at]).needs_body and rule.may_hold(status, headers)
        }
        return BodyReader(wanted, headers) if wanted else None

    def held(
        self, at: int, status: int, headers: Headers, size: int, reader: BodyReader | None
    ) -> bool | Blind | None:
        """Tell whether rule ``at`` holds, or why that cannot be told; ``None`` if the response is no trial.

        ``size``: bytes of the body as sent. ``reader`` as ``self.reader`` says, when it has no more to do.
        """
        rule = self.rules[at]
        may = rule.statuses[status]
        if may != 1:
            return None if may else False
        if size >= rule.below:
            return False
        if rule.is_plain:
            return True
        if rule.header is not None and not rule.header(headers):
            return False
        if not rule.needs_body:
            return True
        return Blind.INCOMPLETE if reader is None else reader.held(at)


def looks_into_bodies(outcome: Outcome) -> bool:
    """Tell whether an outcome reads bodies."""
    return outcome.when.json_ is not None or outcome.when.regex is not None


def _content_encoding(headers: Headers) -> bytes:
    """Return the content codings of a response; several fields are one list (RFC 9110 §5.3)."""
    return b",".join(value for name, value in headers if name.lower() == b"content-encoding")


@lru_cache(maxsize=64)
def status_table(patterns: tuple[str, ...]) -> bytes:
    """Return whether a status is one of ``5xx`` or ``404``, by status."""
    wanted = bytearray(1000)
    for text in patterns:
        low = int(text.replace("x", "0"))
        for status in range(low, low + (100 if "x" in text else 1)):
            wanted[status] = 1
    return bytes(wanted)


def _header_test(match: HeaderMatch) -> Callable[[Headers], bool]:
    name, test = match.name.lower().encode("latin-1"), text_test(match)

    def holds(headers: Headers) -> bool:
        values = [v.decode("latin-1") for n, v in headers if n.lower() == name]
        return any(map(test, values)) if values else test(None)

    return holds


def _json_test(when: JsonWhen) -> Callable[[Any], bool]:
    if when.is_ is not None:
        return _IS[when.is_]
    wanted = when.equals
    return lambda value: type(value) is type(wanted) and bool(value == wanted)


_IS: dict[str, Callable[[Any], bool]] = {
    "empty": lambda value: isinstance(value, (list, dict, str)) and not value,
    "missing": lambda value: value is _MISSING,
    "present": lambda value: value is not _MISSING,
    "null": lambda value: value is None,
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "zero": lambda value: value == 0 and not isinstance(value, bool),
}
