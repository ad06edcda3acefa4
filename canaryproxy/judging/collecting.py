"""Collects the records of a step until its tests take them: those of the service, and those of each route."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor
from typing import Final

from canaryproxy.judging.bad_responses import BadResponses
from canaryproxy.judging.batch import BAD, GOOD, NO_TRIAL, Batch
from canaryproxy.judging.metrics import OTHER, RouteLimits
from canaryproxy.judging.sorting import (
    HAS_CONTENT,
    HAS_FAILED,
    HAS_LATENCY,
    IS_BAD,
    NO_CONTENT,
    ROUTE_PLACES,
    ROUTE_SHIFT,
    Sorter,
    micros_within,
)
from canaryproxy.judging.units import Units
from canaryproxy.measure.flat import append, extend, i64, sum64, vec
from canaryproxy.measure.records import (
    LARGEST,
    NO_FIRST_BYTE,
    SIZE_SHIFT,
    STATUS_SHIFT,
    TEMPLATE_MASK,
    TYPE_SHIFT,
    VARIANT_SHIFT,
)

_SLOTS: Final = 1024
"""Templates that are found without a search; templates are hashes."""
_TYPES: Final = 256
_NO_LIMIT: Final = -1
_CODE_BITS: Final = 5
_ROUTE_BITS: Final = 16
_CODE: Final = (1 << _CODE_BITS) - 1
_ROUTE: Final = (1 << _ROUTE_BITS) - 1
_CODES: Final = 27
"""What a record is to the tests of its route: a number whose digits to the base of 3 are marks."""


class Collector:
    """Collects records. ``begin_route`` begins the tests of a route and returns their metrics.

    ``routes`` has the limits of the busiest ones, by template; the requests on the others are one more.
    """

    __slots__ = (
        *("_bad_responses", "_batch", "_begin_route", "_content", "_late", "_least", "_most"),
        *("_numbers", "_odd", "_route_marks", "_routed", "_routes", "_slots", "_sorter"),
        *("_met", "_units", "_warm"),
    )

    def __init__(
        self,
        units: Units,
        sorter: Sorter,
        routes: Mapping[int, RouteLimits],
        begin_route: Callable[[int], Sequence[str]],
        bad_responses: BadResponses,
        *,
        content: bool,
        warm: bool,
    ) -> None:
        self._units = units
        self._sorter = sorter
        self._routes = routes
        self._begin_route = begin_route
        self._bad_responses = bad_responses
        self._content = content
        self._warm = warm
        self._batch = Batch(sorter.marks)
        self._routed = vec[sum64]()
        """Records for the tests of routes: row, number of the route and code together."""
        self._route_marks: list[bytes] = []
        """Marks by code, in the order of the tests of a route; empty: routes have none."""
        self._met: dict[int, int] = {}
        """Numbers of the routes that were met, by template."""
        self._slots = vec[sum64]([-1] * _SLOTS)
        self._numbers = vec[sum64]([0] * _SLOTS)
        """The last template of each slot, and the number of its route."""
        self._late = vec[sum64]()
        """By route, as the next two: the most microseconds that are not late."""
        self._least = vec[sum64]()
        self._most = vec[sum64]()
        """Bytes between which a body is not odd."""
        self._odd = vec[sum64]()
        """By route and code of a media type: the mark of the type."""

    def __len__(self) -> int:
        return len(self._batch)

    def add(
        self, words: vec[sum64], chosen: vec[sum64], begin: i64
    ) -> tuple[vec[sum64], vec[sum64]]:
        """Take records up to the first one of a route whose tests begin with it, or before an event.

        ``chosen`` has the places of their words; the first one's is at ``begin``. An event has a negative
        one. Return the rows of their units and the codes of their kinds.
        """
        routes = self._find_routes(words, chosen, begin)
        count: i64 = len(routes)
        rows = self._units.rows(words, chosen, begin, count)
        codes = self._sorter.codes(words, chosen, begin, count)
        self._collect(words, chosen[begin : begin + count], routes, rows, codes)
        return rows, codes

    def _collect(
        self,
        words: vec[sum64],
        chosen: vec[sum64],
        routes: vec[sum64],
        rows: vec[sum64],
        codes: vec[sum64],
    ) -> None:
        facts, late, odd = self._sorter.facts, self._late, self._odd
        least, most = self._least, self._most
        routed = vec[sum64]([0] * len(rows))
        has_tests = bool(self._route_marks) and bool(self._route_marks[0])
        known: i64 = -1
        for i in range(len(rows)):
            at: i64 = chosen[i]
            row: i64 = rows[i]
            code: i64 = codes[i]
            route: i64 = routes[i]
            fact: i64 = facts[code]
            if has_tests:
                mark: i64 = NO_TRIAL
                if fact & HAS_LATENCY and late[route] != _NO_LIMIT:
                    mark = BAD if words[at + 2] & NO_FIRST_BYTE > late[route] else GOOD
                of_route: i64 = (fact >> ROUTE_SHIFT) + mark
                routed[i] = (row << _ROUTE_BITS | route) << _CODE_BITS | of_route
            if fact & HAS_CONTENT:
                size: i64 = words[at + 2] >> SIZE_SHIFT & LARGEST
                odd_size: i64 = NO_TRIAL
                odd_type: i64 = NO_TRIAL
                if most[route] != _NO_LIMIT:
                    odd_size = GOOD if least[route] <= size <= most[route] else BAD
                if size:
                    odd_type = odd[route * _TYPES + (words[at] >> TYPE_SHIFT & 0xFF)]
                plain: i64 = code
                code += odd_size * 3 + odd_type - NO_CONTENT
                codes[i] = code
                if code != known:
                    self._sorter.add_content(plain, odd_size, odd_type)
                    known = code
            if fact & IS_BAD and words[at] >> VARIANT_SHIFT & 1:
                self._note(words[at], words[at + 1], fact)
        self._batch.add(rows, codes)
        if has_tests:
            self._routed = extend(self._routed, routed)

    def _note(self, first: int, second: int, fact: int) -> None:
        """Note a bad response of the canary."""
        status = first >> STATUS_SHIFT & 0x3FF
        failed = bool(fact & HAS_FAILED)
        self._bad_responses.add(second & TEMPLATE_MASK, status, failed=failed)

    def taken(self) -> Batch:
        """Return the records since this was asked last."""
        batch = self._batch
        self._sorter.tidy()
        self._batch = Batch(self._sorter.marks)
        return batch

    def taken_by_route(self) -> list[tuple[int, Batch]]:
        """Return the same by template, for the tests of routes."""
        routed, self._routed = self._routed, vec[sum64]()
        if not len(routed):
            return []
        places = vec[sum64]([0] * (len(self._met) + 1))
        for one in routed:
            places[(one >> _CODE_BITS & _ROUTE) + 1] += 1
        for number in range(len(self._met)):
            places[number + 1] += places[number]
        rows, codes = vec[sum64]([0] * len(routed)), vec[sum64]([0] * len(routed))
        for one in routed:
            route = one >> _CODE_BITS & _ROUTE
            at = places[route]
            places[route] = at + 1
            rows[at] = one >> _CODE_BITS + _ROUTE_BITS
            codes[at] = one & _CODE
        found: list[tuple[int, Batch]] = []
        begin = 0
        for number, template in enumerate(self._met):
            end = places[number]
            batch = Batch(self._route_marks)
            batch.rows, batch.codes = rows[begin:end], codes[begin:end]
            found.append((template, batch))
            begin = end
        return found

    # Routes

    def _find_routes(self, words: vec[sum64], chosen: vec[sum64], begin: i64) -> vec[sum64]:
        """Return the numbers of the routes of records, up to the first one of a route that is met first."""
        slots, numbers = self._slots, self._numbers
        found = vec[sum64]()
        for i in range(begin, len(chosen)):
            at: i64 = chosen[i]
            if at < 0:
                break
            template: i64 = words[at + 1] & TEMPLATE_MASK
            slot = template & _SLOTS - 1
            if slots[slot] != template:
                met = len(self._met)
                slots[slot], numbers[slot] = template, self._number(template)
                if len(self._met) > met:
                    return append(found, numbers[slot])
            found = append(found, numbers[slot])
        return found

    def _number(self, template: int) -> int:
        """Return the number of the route of a template."""
        of = template if template in self._routes else OTHER
        number = self._met.get(of)
        if number is None:
            number = self._met[of] = len(self._met)
            self._begin(of)
        return number

    def _begin(self, of: int) -> None:
        """Begin the tests of a route."""
        tests = self._begin_route(of)
        self._route_marks = [
            bytes([code // ROUTE_PLACES[name] % 3 for name in tests]) for code in range(_CODES)
        ]
        route = self._routes.get(of)
        late = None if route is None or not self._warm else route.late
        self._late = append(self._late, _NO_LIMIT if late is None else micros_within(late))
        sizes = None if route is None or not self._content else route.sizes
        self._least = append(self._least, 0 if sizes is None else ceil(sizes[0]))
        self._most = append(self._most, _NO_LIMIT if sizes is None else floor(sizes[1]))
        types = frozenset[int]() if route is None or not self._content else route.types
        for code in range(_TYPES):
            mark = NO_TRIAL if not types else GOOD if code in types else BAD
            self._odd = append(self._odd, mark)
