"""The rules for trials: the outcomes that look at a response, and how records name its route.

Which requests leave a record is decided when they are routed (``Routing.mark``), and which outcomes look at
the response in ``TrialRules.choose``: both before anything is known of the response.
"""

from __future__ import annotations

from collections.abc import Mapping

from canaryproxy.config import Config
from canaryproxy.config.grpc import ERRORS
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind, Tally
from canaryproxy.measure.outcomes import BodyReader, OutcomeRules, status_table
from canaryproxy.measure.records import RecordRing, pack_second
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.proxy.body_sampler import BodySampler, SampledBody


class TrialRules:
    """The outcomes and route templates of trials. One for a worker, until it is reconfigured."""

    __slots__ = (
        "_cells",
        "_event_bits",
        "_routes",
        "_sampler",
        "_slots",
        "_trial_bits",
        "error_statuses",
        "grpc_errors",
        "outcomes",
        "pending",
        "reads_bodies",
        "templates",
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
        self.pending = records.pending
        """The words of records that the worker will write."""
        self._routes = routes
        self.templates = routes.templates
        """Route templates that are known, by ``Request.rule_key``; of others ``learn`` returns them."""
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

    def learn(self, rule_key: tuple[bytes, bytes]) -> int:
        """Return the route template of a request that is not among ``templates``."""
        return self._routes.learn(rule_key)

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
        word = 0
        for at in outcomes:
            headers = () if self.outcomes.rules[at].header is None else response.fields
            held = self.outcomes.held(at, response.status, headers, size, reader)
            if held is True or held is False:
                trials = self._cells[at]
                tally.add(trials)
                word |= self._trial_bits[at]
                if held:
                    tally.add(trials + 1)
                    word |= self._event_bits[at]
            elif held is not None:
                tally.add(counters.BLIND + len(Blind) * self._slots[at] + held)
        if reader is not None:
            for at, present in reader.present.items():
                tally.add(counters.POINTERS + 2 * self._slots[at])
                if present:
                    tally.add(counters.POINTERS + 2 * self._slots[at] + 1)
        return word

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
            self.pending.extend((first, second, third))
