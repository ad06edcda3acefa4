"""The judge's part of an exchange: whether it is a trial, and what its response shows.

``measure.trials`` has the contract that this keeps. ``TrialRules.enroll`` decides what is a trial when the
request is routed, before anything is known of the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from canaryproxy.config import Config
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind, Tally
from canaryproxy.measure.outcomes import OutcomeRules, status_table
from canaryproxy.measure.routing import Headers, Routing
from canaryproxy.measure.trials import TICKS_PER_SECOND, UserReducer
from canaryproxy.proxy.body_sampler import BodySampler, SampledBody

_NO_TRIAL: Final = -1


class TrialRules:
    """Decides which requests are trials. One for all connections of a worker, until it is reconfigured."""

    __slots__ = (
        "_business",
        "_by_user",
        "_cells",
        "_converted_users",
        "_counts_exposed",
        "_error_users",
        "_exposed_users",
        "_sampler",
        "_slots",
        "error_statuses",
        "outcomes",
    )

    def __init__(
        self,
        config: Config,
        slots: Mapping[str, int],
        users: Sequence[UserReducer],
        sampler: BodySampler,
    ) -> None:
        """``slots``: ``counters.slots`` of the outcomes. ``users``: tried for errors, exposed, converted."""
        self._sampler = sampler
        metrics = config.judge.metrics
        errors = metrics.errors
        self.error_statuses = status_table(("5xx",) if errors is None else errors.statuses)
        """Whether a status is an error, by status."""
        self._by_user = errors is not None and errors.unit == "user"
        self._error_users, self._exposed_users, self._converted_users = users
        self.outcomes = OutcomeRules(config.judge.outcomes)
        names = [rule.name for rule in self.outcomes.rules]
        self._cells = tuple(counters.OUTCOMES + 2 * slots[name] for name in names)
        self._slots = tuple(slots[name] for name in names)
        self._business = -1
        """Index of the outcome that is a conversion; -1 without one."""
        if metrics.business is not None and metrics.business.outcome in names:
            self._business = names.index(metrics.business.outcome)
        self._counts_exposed = metrics.business is not None

    def enroll(
        self, routing: Routing, outcomes: tuple[int, ...], tally: Tally, now: float
    ) -> TrialRecorder | None:
        """Return what records the exchange for the judge, or ``None`` if it is a trial of no metric.

        ``outcomes`` are those whose rules match the request. ``now`` is when it was routed, in monotonic
        seconds. A request that a match rule forced to its variant was not randomised: it is not a trial.
        """
        if routing.forced:
            return None
        bucket, tick = routing.bucket, int(now * TICKS_PER_SECOND)
        is_trial = not self._by_user or self._error_users.claim(bucket, tick)
        error_bucket = bucket if is_trial else _NO_TRIAL
        slow = routing.table.slow
        late_after = stalled_after = 0.0
        if slow is not None:
            late_after, stalled_after = slow[routing.variant], routing.table.stall_after
        if outcomes or self._counts_exposed:
            exposed = self._counts_exposed and self._exposed_users.claim(bucket, tick)
            reads_body = self.outcomes.needs_body and self._reads_body(outcomes)
            if self.outcomes.needs_body and not reads_body:
                rules = self.outcomes.rules
                outcomes = tuple(at for at in outcomes if not rules[at].needs_body)
            if exposed or outcomes:
                return SampledResponse(
                    self, tally, error_bucket, late_after, stalled_after,
                    outcomes, bucket, exposed, reads_body,
                )  # fmt: skip
        if slow is not None or is_trial:
            return TrialRecorder(self, tally, error_bucket, late_after, stalled_after)
        return None

    def _reads_body(self, outcomes: tuple[int, ...]) -> bool:
        """Decide whether outcomes look into the body of this response: if one wants to, and it is chosen."""
        rules = self.outcomes.rules
        return any(rules[at].needs_body for at in outcomes) and self._sampler.choose()

    def failed(self, bucket: int) -> None:
        """Count no more errors of this user in this round: a trial ended in one."""
        if self._by_user:
            self._error_users.failed(bucket)

    def body_of(self, sample: SampledResponse) -> SampledBody | None:
        """Return what reads the body behind the head of a response; ``None`` if no outcome wants it."""
        reader = self.outcomes.reader(sample.outcomes, sample.status, sample.headers)
        return None if reader is None else SampledBody(self._sampler, reader)

    def evaluate(self, sample: SampledResponse, tally: Tally, now: float) -> None:
        """Count the outcomes of a complete response."""
        if sample.exposed:
            tally.add(counters.EXPOSED)
        converted = False
        reader = None if sample.body is None else sample.body.reader
        for at in sample.outcomes:
            held = self.outcomes.held(at, sample, reader)
            if held is True or held is False:
                trials = self._cells[at]
                tally.add(trials)
                if held:
                    tally.add(trials + 1)
                    converted = converted or at == self._business
            elif held is not None:
                tally.add(counters.BLIND + len(Blind) * self._slots[at] + held)
        if reader is not None:
            for at, present in reader.present.items():
                tally.add(counters.POINTERS + 2 * self._slots[at])
                if present:
                    tally.add(counters.POINTERS + 2 * self._slots[at] + 1)
        if converted and self._converted_users.claim(sample.bucket, int(now * TICKS_PER_SECOND)):
            tally.add(counters.CONVERTED)


class TrialRecorder:
    """Counts one exchange for the judge: latency, throughput and errors, each at most once.

    Seconds are counted from the end of the request.
    """

    __slots__ = ("_error_bucket", "_late_after", "_rules", "_stalled_after", "_tally")

    def __init__(
        self,
        rules: TrialRules,
        tally: Tally,
        error_bucket: int,
        late_after: float,
        stalled_after: float,
    ) -> None:
        self._rules = rules
        self._tally = tally
        self._error_bucket = error_bucket
        """The user's bucket if this is a trial of the metric errors, else -1."""
        self._late_after = late_after
        """Seconds to the first byte after which it is late; 0: counted, or no trial."""
        self._stalled_after = stalled_after
        """Seconds to the last byte after which it is stalled; 0: counted, or no trial."""

    def mark_late(self, waited: float) -> None:
        """Count the request as slow or stalled if it is by now: once, whatever becomes of it."""
        tally = self._tally
        if self._late_after and waited > self._late_after:
            self._late_after = 0.0
            tally.add(counters.LATENCY_TRIALS)
            tally.add(counters.LATENCY_EVENTS)
        if self._stalled_after and waited > self._stalled_after:
            self._stalled_after = 0.0
            tally.add(counters.THROUGHPUT_TRIALS)
            tally.add(counters.THROUGHPUT_EVENTS)

    def response_head(self, response: Response, body: bytes, waited: float) -> None:  # noqa: ARG002
        """Count the latency. ``body`` is what came with the head."""
        if self._late_after:
            self._count_latency(waited)

    def _count_latency(self, waited: float) -> None:
        self._tally.add(counters.LATENCY_TRIALS)
        if waited > self._late_after:
            self._tally.add(counters.LATENCY_EVENTS)
        self._late_after = 0.0

    def response_body(self, data: bytes) -> None:  # noqa: ARG002
        """Take note of more of the body."""
        return

    def switched(self) -> None:
        """Count no latency: the handshake of a tunnel is not a response."""
        self._late_after = 0.0

    def end(self, status: int, failed: bool, waited: float, now: float) -> None:  # noqa: ARG002
        """Count the end of the request. To be called once."""
        tally = self._tally
        if self._error_bucket >= 0:
            tally.add(counters.ERROR_TRIALS)
            if failed:
                tally.add(counters.ERROR_EVENTS)
                self._rules.failed(self._error_bucket)
            elif 400 <= status < 500:
                tally.add(counters.CLIENT_ERROR_EVENTS)
        if self._stalled_after:
            tally.add(counters.THROUGHPUT_TRIALS)
            if waited > self._stalled_after:
                tally.add(counters.THROUGHPUT_EVENTS)


class SampledResponse(TrialRecorder):
    """A trial whose response outcomes look at (``outcomes.ResponseView``).

    One object with the recorder, as most requests have both.
    """

    __slots__ = (
        "body",
        "bucket",
        "exposed",
        "headers",
        "outcomes",
        "reads_body",
        "size",
        "status",
    )

    def __init__(
        self,
        rules: TrialRules,
        tally: Tally,
        error_bucket: int,
        late_after: float,
        stalled_after: float,
        outcomes: tuple[int, ...],
        bucket: int,
        exposed: bool,
        reads_body: bool,
    ) -> None:
        # The recorder's own, not by its constructor: calls by ``super`` are dear where this is not compiled.
        self._rules = rules
        self._tally = tally
        self._error_bucket = error_bucket
        self._late_after = late_after
        self._stalled_after = stalled_after
        self.outcomes = outcomes
        """Indexes of the rules that look at this response."""
        self.bucket = bucket
        self.exposed = exposed
        """This request counts as a user exposed."""
        self.reads_body = reads_body
        """The body was chosen to be looked into."""
        self.status = 0
        self.headers: Headers = ()
        self.size = 0
        """Bytes of the body so far."""
        self.body: SampledBody | None = None
        """The body, if a rule looks into it."""

    def response_head(self, response: Response, body: bytes, waited: float) -> None:
        """Keep the head of the response, and begin with its body."""
        if self._late_after:
            self._count_latency(waited)
        self.status = response.status
        self.headers = response.fields
        self.size = len(body)
        if self.reads_body:
            self.body = self._rules.body_of(self)
            if self.body is not None and body:
                self.body.add(body)

    def response_body(self, data: bytes) -> None:
        """Take more of the body."""
        self.size += len(data)
        if self.body is not None and data:
            self.body.add(data)

    def end(self, status: int, failed: bool, waited: float, now: float) -> None:
        TrialRecorder.end(self, status, failed, waited, now)
        if self.body is None:
            self._rules.evaluate(self, self._tally, now)
        else:
            # A response that breaks off ends with the status of the failure.
            self.body.close(
                partial(self._rules.evaluate, self, self._tally, now), whole=status == self.status
            )
