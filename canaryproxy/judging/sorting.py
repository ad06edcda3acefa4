"""Sorts records by what they are trials of.

What a record is a trial of depends on few of its bits (status, flags, outcomes) and on which limits its first
byte passed. There are a dozen such kinds in practice, so each is worked out once (``metrics.outcomes_of``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from canaryproxy.judging import metrics
from canaryproxy.judging.batch import BAD, GOOD, NO_TRIAL
from canaryproxy.judging.metrics import Limits, Record
from canaryproxy.judging.settings import BusinessRule
from canaryproxy.measure.flat import append, i64, sum64, vec
from canaryproxy.measure.records import (
    FLAGS_SHIFT,
    NO_FIRST_BYTE,
    OVERDUE,
    SIZE_SHIFT,
    STATUS_SHIFT,
)

_MOST_KINDS: Final = 4096
CONTENTS: Final = 9
"""Codes of a kind, by what its content is: three times the mark of its size, and that of its type."""
NO_CONTENT: Final = CONTENTS - 1
"""Neither is a trial."""
IS_BAD: Final = 1
"""Fact of a kind: its records are bad responses."""
HAS_FAILED: Final = 2
"""Fact: they have failed."""
HAS_LATENCY: Final = 4
"""Fact: they are trials of their route's latency."""
HAS_CONTENT: Final = 8
"""Fact: they are trials of the metrics of content, where their route has limits for them."""
ROUTE_SHIFT: Final = 4
"""The bits of a fact from this one on are what they are to the tests of their route (``ROUTE_PLACES``)."""
ROUTE_PLACES: Final = {metrics.ERRORS: 9, metrics.ANSWERS: 3, metrics.LATENCY: 1}
"""By metric of a route: the value of its digit, which is a mark."""
_OUTCOMES_SHIFT: Final = 32
_OUTCOMES: Final = (1 << 32) - 1
_STATUS: Final = 0x3FF
_FLAGS: Final = 0xFFFF
_NEVER: Final = 8
"""Limits passed by a first byte that never came."""


def micros_within(seconds: float) -> int:
    """Return the most microseconds, as records have them, that are no more than so many seconds."""
    micros = int(min(seconds * 1e6, float(NO_FIRST_BYTE))) - 3
    while micros < NO_FIRST_BYTE - 1 and (micros + 1) / 1e6 <= seconds:
        micros += 1
    return micros


class Sorter:
    """Sorts by limits that stay. ``tests``: the metrics of the service's tests."""

    __slots__ = (
        *("_business", "_codes", "_hang", "_key", "_last", "_limits", "_outcomes", "_tests"),
        *("_times", "_warm", "business", "facts", "marks"),
    )

    def __init__(
        self,
        tests: Sequence[str],
        limits: Limits,
        outcomes: Sequence[tuple[int, str]],
        business: BusinessRule | None,
        *,
        warm: bool,
        hang: float,
    ) -> None:
        """``outcomes``: slots and names."""
        self._tests = tests
        self._limits = limits
        self._outcomes = outcomes
        self._business = business
        self._warm = warm
        self._hang = hang
        late = (limits if warm else limits.warming(hang)).late
        times = sorted([late, limits.late_p50, limits.late_p95, limits.late_p99])
        self._times = vec[sum64]([micros_within(seconds) for seconds in times])
        self._forget()

    def _forget(self) -> None:
        self._codes: dict[int, int] = {}
        self._key = -1
        self._last = 0
        """The code that was asked for last, and its key: most records are like the one before."""
        self.facts = vec[sum64]()
        """By code, as the next two. All three are others once kinds were found."""
        self.business = vec[sum64]()
        """What a record is to the business metric."""
        self.marks: list[bytes] = []
        """What a record is to the service's tests, in the order of their numbers; empty: not worked out."""

    def tidy(self) -> None:
        """Forget kinds, if there are many; no batch may have any."""
        if len(self._codes) >= _MOST_KINDS:
            self._forget()

    def codes(self, words: vec[sum64], chosen: vec[sum64], begin: i64, count: i64) -> vec[sum64]:
        """Return the codes of records, of their kinds without content.

        ``chosen`` has the places of their words; the first one's is at ``begin``.
        """
        times = self._times
        soon: i64 = times[0]
        last_key: i64 = self._key
        code: i64 = self._last
        found = vec[sum64]([0] * count)
        for i in range(count):
            at: i64 = chosen[begin + i]
            first: i64 = words[at]
            second: i64 = words[at + 1]
            third: i64 = words[at + 2]
            micros: i64 = third & NO_FIRST_BYTE
            passed: i64 = 0
            if micros > soon:
                if micros == NO_FIRST_BYTE:
                    passed = _NEVER
                else:
                    for limit in times:
                        if micros > limit:
                            passed += 1
            key: i64 = first >> STATUS_SHIFT & _STATUS | (first >> FLAGS_SHIFT & _FLAGS) << 10
            key = (second >> _OUTCOMES_SHIFT & _OUTCOMES) << 31 | key << 5 | passed << 1
            if third >> SIZE_SHIFT:
                key |= 1
            if key != last_key:
                code = self._find(key, first, second, third)
                last_key = key
            found[i] = code
        self._key, self._last = last_key, code
        return found

    def _find(self, key: int, first: int, second: int, third: int) -> int:
        found = self._codes.get(key)
        if found is None:
            found = self._codes[key] = len(self.marks) + NO_CONTENT
            self._add(metrics.unpacked(first, second, third))
        return found

    def add_content(self, code: int, size: int, media_type: int) -> None:
        """Add a kind, given by its code without content, where its content has these marks."""
        found = code - NO_CONTENT + CONTENTS // 3 * size + media_type
        if not self.marks[found]:
            by_metric = {metrics.SIZE: size, metrics.CONTENT_TYPE: media_type}
            pairs = zip(self._tests, self.marks[code], strict=True)
            self.marks[found] = bytes([by_metric.get(name, mark) for name, mark in pairs])

    def _add(self, record: Record) -> None:
        """Add the kind of a record."""
        found = metrics.outcomes_of(record, self._limits, warm=self._warm, hang=self._hang)
        for slot, name in self._outcomes:
            if record.trials >> slot & 1:
                found[name] = bool(record.events >> slot & 1)
        rule = self._business
        is_trial = metrics.ERRORS in found or bool(record.flags & OVERDUE)
        if rule is not None and is_trial and record.ended:
            found[metrics.BUSINESS] = rule.slot is not None and bool(record.events >> rule.slot & 1)
        self.marks += [b""] * CONTENTS
        self.marks[-1] = bytes([_trial(found, name) for name in self._tests])
        facts, business = _facts(record, found), _trial(found, metrics.BUSINESS)
        for _ in range(CONTENTS):
            self.facts = append(self.facts, facts)
            self.business = append(self.business, business)


def _facts(record: Record, found: Mapping[str, bool]) -> int:
    errors = _trial(found, metrics.ERRORS)
    answers = _trial(found, *metrics.CLASSES[:3])
    of_route = ROUTE_PLACES[metrics.ERRORS] * errors + ROUTE_PLACES[metrics.ANSWERS] * answers
    has_time = record.first_byte is not None or not record.ended
    return (
        (IS_BAD if BAD in (errors, answers) else 0)
        | (HAS_FAILED if errors == BAD else 0)
        | (HAS_LATENCY if metrics.LATENCY in found and has_time else 0)
        | (HAS_CONTENT if metrics.has_content(record) else 0)
        | of_route << ROUTE_SHIFT
    )


def _trial(found: Mapping[str, bool], *names: str) -> int:
    """Return what it is to the first of some metrics, and ``BAD`` where it is an event of any of them."""
    if names[0] not in found:
        return NO_TRIAL
    return BAD if any(found.get(name, False) for name in names) else GOOD
