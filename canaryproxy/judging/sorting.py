"""Sorts records into the tests that they are trials of.

What a record is a trial of depends on few of its bits (status, flags, outcomes) and on which limits its first
byte passed. There are a dozen such kinds in practice, so each is worked out once (``metrics.outcomes_of``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from canaryproxy.judging import metrics
from canaryproxy.judging.batch import BAD, GOOD, NO_TRIAL, Batch, MarkedKind
from canaryproxy.judging.metrics import Limits, Record, RouteLimits
from canaryproxy.judging.settings import BusinessRule
from canaryproxy.measure.records import (
    NO_FIRST_BYTE,
    OVERDUE,
    SIZE_SHIFT,
    STATUS_SHIFT,
    TYPE_SHIFT,
)

_MOST_KINDS: Final = 4096
_OUTCOMES_SHIFT: Final = 32
_NONE: Final = 8
"""Limits passed by a first byte that never came."""
_PLACES: Final = {metrics.ERRORS: 9, metrics.ANSWERS: 3, metrics.LATENCY: 1}
"""By metric of a route: the value of its digit, which is a mark."""


class Kind(MarkedKind):
    """A kind of record: what its records are to the tests of the service, and to those of a route."""

    __slots__ = (
        *("_contents", "_tests", "business", "content", "errors", "is_bad", "latency", "of_route"),
    )

    def __init__(self, record: Record, found: Mapping[str, bool], tests: Sequence[str]) -> None:
        """``tests``: the metrics of the service's tests in the order of their numbers."""
        super().__init__(bytes([_trial(found, name) for name in tests]))
        self.errors = _trial(found, metrics.ERRORS)
        self.business = _trial(found, metrics.BUSINESS)
        answers = _trial(found, *metrics.CLASSES[:3])
        self.is_bad = self.errors == BAD or answers == BAD
        self.of_route = _PLACES[metrics.ERRORS] * self.errors + _PLACES[metrics.ANSWERS] * answers
        """What it is to errors and answers of its route (``RouteSorter``)."""
        has_time = record.first_byte is not None or not record.ended
        self.latency = metrics.LATENCY in found and has_time
        """Whether it is a trial of its route's latency."""
        self.content = metrics.has_content(record)
        self._tests = tests
        self._contents: list[MarkedKind | None] = [None] * 9
        """The same kind by what its content is: three times the mark of its size, and that of its type."""

    def of_content(self, size: int, media_type: int) -> MarkedKind:
        """Return this kind where its content has these marks."""
        if size == NO_TRIAL and media_type == NO_TRIAL:
            return self
        found = self._contents[3 * size + media_type]
        if found is None:
            by_metric = {metrics.SIZE: size, metrics.CONTENT_TYPE: media_type}
            pairs = zip(self._tests, self.marks, strict=True)
            marks = bytes([by_metric.get(name, mark) for name, mark in pairs])
            found = self._contents[3 * size + media_type] = MarkedKind(marks)
        return found


def _trial(found: Mapping[str, bool], *names: str) -> int:
    """Return what it is to the first of some metrics, and ``BAD`` where it is an event of any of them."""
    if names[0] not in found:
        return NO_TRIAL
    return BAD if any(found.get(name, False) for name in names) else GOOD


class Sorter:
    """Sorts by limits that stay. ``tests``: the metrics of the service's tests."""

    __slots__ = (
        "_business",
        "_first",
        "_hang",
        "_key",
        "_kinds",
        "_last",
        "_limits",
        "_outcomes",
        "_tests",
        "_times",
        "_warm",
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
        self._times = sorted([late, limits.late_p50, limits.late_p95, limits.late_p99])
        self._first = self._times[0]
        self._kinds: dict[int, Kind] = {}
        self._key = -1
        self._last: Kind | None = None
        """The kind that was asked for last, and its key: most records are like the one before."""

    def kind(self, first: int, second: int, third: int) -> Kind:
        """Return the kind of a record, given by its words."""
        micros = third & NO_FIRST_BYTE
        if micros == NO_FIRST_BYTE:
            passed = _NONE
        else:
            seconds = micros / 1e6
            passed = 0 if seconds <= self._first else bisect_left(self._times, seconds)
        key = (second >> _OUTCOMES_SHIFT << 34 | first >> STATUS_SHIFT) << 5 | passed << 1
        if third >> SIZE_SHIFT:
            key |= 1
        kind = self._last
        if kind is None or key != self._key:
            kind = self._kinds.get(key)
            if kind is None:
                if len(self._kinds) >= _MOST_KINDS:
                    self._kinds.clear()
                kind = self._kinds[key] = self._work_out(metrics.unpacked(first, second, third))
            self._key, self._last = key, kind
        return kind

    def _work_out(self, record: Record) -> Kind:
        found = metrics.outcomes_of(record, self._limits, warm=self._warm, hang=self._hang)
        for slot, name in self._outcomes:
            if record.trials >> slot & 1:
                found[name] = bool(record.events >> slot & 1)
        rule = self._business
        is_trial = metrics.ERRORS in found or bool(record.flags & OVERDUE)
        if rule is not None and is_trial and record.ended:
            found[metrics.BUSINESS] = rule.slot is not None and bool(record.events >> rule.slot & 1)
        return Kind(record, found, self._tests)


class RouteSorter:
    """Collects the records of one route for its tests, and tells what their content is.

    ``route`` is ``None`` for the requests on none of the busiest.
    """

    __slots__ = (
        *(
            "_batch",
            "_has_late",
            "_has_size",
            "_has_tests",
            "_has_type",
            "_is_odd",
            "_kinds",
            "_late",
        ),
        *("_least", "_most"),
    )

    def __init__(
        self,
        tests: Sequence[str],
        route: RouteLimits | None,
        *,
        content: bool,
        warm: bool,
    ) -> None:
        """``tests``: the metrics of the route's tests in the order of their numbers."""
        self._batch = Batch()
        self._kinds = [
            MarkedKind(bytes([at // _PLACES[name] % 3 for name in tests])) for at in range(27)
        ]
        """What records are to the tests, by a number whose digits to the base of 3 are marks."""
        self._has_tests = bool(tests)
        late = None if route is None or not warm else route.late
        self._late = 0.0 if late is None else late
        self._has_late = late is not None
        sizes = None if route is None or not content else route.sizes
        self._least, self._most = (0.0, 0.0) if sizes is None else sizes
        self._has_size = sizes is not None
        types = frozenset[int]() if route is None or not content else route.types
        self._is_odd = bytes([code not in types for code in range(256)])
        """By code of a media type."""
        self._has_type = bool(types)

    def taken(self) -> Batch:
        """Return the records since this was asked last."""
        batch, self._batch = self._batch, Batch()
        batch.end()
        return batch

    def take(self, kind: Kind, first: int, third: int, row: int) -> MarkedKind:
        """Take a record of a unit, and return its kind with what its content is."""
        latency = NO_TRIAL
        if self._has_late and kind.latency:
            micros = third & NO_FIRST_BYTE
            is_late = micros == NO_FIRST_BYTE or micros / 1e6 > self._late
            latency = BAD if is_late else GOOD
        if self._has_tests:
            self._batch.add(row, self._kinds[kind.of_route + latency])
        if not kind.content:
            return kind
        size = third >> SIZE_SHIFT
        odd_size = odd_type = NO_TRIAL
        if self._has_size:
            odd_size = GOOD if self._least <= size <= self._most else BAD
        if self._has_type and size:
            odd_type = self._is_odd[first >> TYPE_SHIFT & 0xFF]
        return kind.of_content(odd_size, odd_type)
