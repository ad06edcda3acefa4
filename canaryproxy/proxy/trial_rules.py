"""The rules for trials: the outcomes that look at a response, and how records name its route.

Which requests leave a record is decided when they are routed (``Routing.mark``), and which outcomes look at
the response in ``TrialRules.choose``: both before anything is known of the response.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from canaryproxy.config import Config
from canaryproxy.config.grpc import ERRORS
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind, Tally
from canaryproxy.measure.outcomes import ANY_SIZE, BodyReader, OutcomeRules, status_table
from canaryproxy.measure.records import RecordRing, pack_second
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.proxy.body_sampler import BodySampler, SampledBody

_REMEMBERED: Final = 256
"""Kinds of responses whose evaluation is remembered: a service sends a few."""


class Evaluation:
    """The results of the same outcomes for all responses with one status and a size within limits."""

    __slots__ = ("below", "cells", "least", "outcomes", "status", "word")

    def __init__(
        self,
        outcomes: tuple[int, ...],
        status: int,
        sizes: tuple[int, int],
        cells: tuple[int, ...],
        word: int,
    ) -> None:
        """``sizes``: the least of them, and the one below which they are."""
        self.outcomes = outcomes
        self.status = status
        self.least, self.below = sizes
        self.cells = cells
        """Cells that count such a response, in the order in which they are to grow."""
        self.word = word
        """What the outcomes add to the second word of its record."""


NOTHING: Final = Evaluation((), 0, (0, 0), (), 0)
"""Of no response."""


class TrialRules:
    """The outcomes and route templates of trials. One for a worker, until it is reconfigured."""

    __slots__ = (
        "_cells",
        "_event_bits",
        "_last",
        "_limits",
        "_reads_headers",
        "_remembered",
        "_sampler",
        "_slots",
        "_trial_bits",
        "error_statuses",
        "grpc_errors",
        "outcomes",
        "reads_bodies",
        "records",
        "routes",
    )

    def __init__(
        self,
        config: Config,
        slots: Mapping[str, int],
        sampler: BodySampler,
        records: RecordRing,
        routes: RouteNames,
    ) -> None:
        """``slots``: ``counters.slots`` of the outcomes."""
        self._sampler = sampler
        self.records = records
        """Takes the records that the worker will write."""
        self.routes = routes
        """Finds the route template of a request by its ``rule_key``."""
        errors = config.judge.metrics.errors
        self.error_statuses = status_table(("5xx",) if errors is None else errors.statuses)
        """Whether a status is an error, by status."""
        self.grpc_errors = frozenset(ERRORS if errors is None else errors.grpc_statuses)
        """The names of the gRPC statuses that are."""
        self.outcomes = OutcomeRules(config.judge.outcomes)
        self.reads_bodies = self.outcomes.needs_body
        """An outcome looks into bodies."""
        names = [rule.name for rule in self.outcomes.rules]
        self._cells = tuple(counters.OUTCOMES + 2 * slots[name] for name in names)
        self._slots = tuple(slots[name] for name in names)
        self._trial_bits = tuple(pack_second(0, 1 << slot, 0) for slot in self._slots)
        """What each outcome adds to the second word of a record (``records.pack_second``)."""
        self._event_bits = tuple(pack_second(0, 0, 1 << slot) for slot in self._slots)
        rules = self.outcomes.rules
        self._limits = sorted({0, *(rule.below for rule in rules), ANY_SIZE})
        """Between two of them no outcome tells one size from another."""
        self._reads_headers = frozenset(at for at, rule in enumerate(rules) if rule.header)
        """Outcomes that tell responses with the same status and size apart."""
        self._remembered: dict[tuple[tuple[int, ...], int, int], Evaluation] = {}
        """By outcomes, status and the place of the size among ``_limits``."""
        self._last = NOTHING
        """The evaluation before: most often the next one is the same."""

    def choose(self, outcomes: tuple[int, ...]) -> tuple[int, ...]:
        """Return which of these outcomes will look at the response: all, if it is chosen to be looked into.

        ``outcomes`` are those whose rules match the request.
        """
        if not self.reads_bodies:
            return outcomes
        rules = self.outcomes.rules
        if any(rules[at].needs_body for at in outcomes) and self._sampler.choose():
            return outcomes
        return tuple(at for at in outcomes if not rules[at].needs_body)

    def body_of(self, outcomes: tuple[int, ...], response: Response) -> SampledBody | None:
        """Return what reads the body of a response; ``None`` if none of the outcomes wants it."""
        reader = self.outcomes.reader(outcomes, response.status, response.fields)
        return None if reader is None else SampledBody(self._sampler, reader)

    def recall(self, outcomes: tuple[int, ...], response: Response, size: int) -> Evaluation:
        """Return what the outcomes make of a complete response whose body nothing has looked into.

        It is what ``evaluate`` counts and returns, made once for all responses that are alike.
        """
        known = self._last
        if (
            outcomes is known.outcomes
            and response.status == known.status
            and known.least <= size < known.below
        ):
            return known
        if not self._reads_headers.isdisjoint(outcomes):
            cells, word = self._held(outcomes, response, size, None)
            return Evaluation(outcomes, response.status, (size, size + 1), cells, word)
        self._last = known = self._find(outcomes, response, size)
        return known

    def evaluate(
        self,
        outcomes: tuple[int, ...],
        response: Response,
        size: int,
        reader: BodyReader | None,
        tally: Tally,
    ) -> int:
        """Count the outcomes of a complete response; return what they add to its record.

        ``size`` is that of the body as sent.
        """
        cells, word = self._held(outcomes, response, size, reader)
        tally.add_each(cells)
        return word

    def _find(self, outcomes: tuple[int, ...], response: Response, size: int) -> Evaluation:
        """Return the evaluation of all responses like this one, whose headers do not matter."""
        limits = self._limits
        place = bisect_right(limits, size)
        key = outcomes, response.status, place
        known = self._remembered.get(key)
        if known is None:
            cells, word = self._held(outcomes, response, size, None)
            sizes = limits[place - 1], limits[place]
            known = Evaluation(outcomes, response.status, sizes, cells, word)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = known
        return known

    def _held(
        self,
        outcomes: tuple[int, ...],
        response: Response,
        size: int,
        reader: BodyReader | None,
    ) -> tuple[tuple[int, ...], int]:
        """Return the cells that count a complete response, and what its outcomes add to its record."""
        word, cells = 0, []
        for at in outcomes:
            headers = () if self.outcomes.rules[at].header is None else response.fields
            held = self.outcomes.held(at, response.status, headers, size, reader)
            if held is True or held is False:
                trials = self._cells[at]
                cells.append(trials)
                word |= self._trial_bits[at]
                if held:
                    cells.append(trials + 1)
                    word |= self._event_bits[at]
            elif held is not None:
                cells.append(counters.BLIND + len(Blind) * self._slots[at] + held)
        if reader is not None:
            for at, present in reader.present.items():
                cells.append(counters.POINTERS + 2 * self._slots[at])
                if present:
                    cells.append(counters.POINTERS + 2 * self._slots[at] + 1)
        return tuple(cells), word

    def settle(
        self,
        record: tuple[int, int, int],
        outcomes: tuple[int, ...],
        response: Response,
        size: int,
        reader: BodyReader,
        tally: Tally,
    ) -> None:
        """Evaluate a response whose body was looked into, and write its record, if it leaves one."""
        first, second, third = record
        second |= self.evaluate(outcomes, response, size, reader, tally)
        if first >= 0:
            self.records.add(first, second, third)
