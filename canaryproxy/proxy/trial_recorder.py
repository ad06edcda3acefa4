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
from canaryproxy.measure.counters import Tally
from canaryproxy.measure.outcomes import INSPECTED, OutcomeRules, status_table
from canaryproxy.measure.routing import Headers, Routing
from canaryproxy.measure.trials import TICKS_PER_SECOND, UserReducer
from canaryproxy.proxy.body_sampler import BodySampler

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
        sample = None
        if outcomes or self._counts_exposed:
            sample = self._sample(outcomes, bucket, tick)
        slow = routing.table.slow
        if slow is not None:
            late, stalled = slow[routing.variant], routing.table.stall_after
        elif is_trial or sample is not None:
            late = stalled = 0.0
        else:
            return None
        return TrialRecorder(self, tally, bucket if is_trial else _NO_TRIAL, late, stalled, sample)

    def _sample(self, outcomes: tuple[int, ...], bucket: int, tick: int) -> SampledResponse | None:
        """Return what collects the response for these outcomes, or ``None`` if there is nothing to count."""
        exposed = self._counts_exposed and self._exposed_users.claim(bucket, tick)
        reads_body = False
        if outcomes and self.outcomes.needs_body:
            rules = self.outcomes.rules
            reads_body = any(rules[at].needs_body for at in outcomes)
            if reads_body and not self._sampler.choose():
                reads_body = False
                outcomes = tuple(at for at in outcomes if not rules[at].needs_body)
        if exposed or outcomes:
            return SampledResponse(outcomes, bucket, exposed=exposed, reads_body=reads_body)
        return None

    def failed(self, bucket: int) -> None:
        """Count no more errors of this user in this round: a trial ended in one."""
        if self._by_user:
            self._error_users.failed(bucket)

    def evaluate(self, sample: SampledResponse, tally: Tally, now: float) -> None:
        """Count the outcomes of a complete response, later if the time for looking into bodies is used up."""
        if sample.reads_body:
            self._sampler.run(partial(self._count, sample, tally, now))
        else:
            self._count(sample, tally, now)

    def _count(self, sample: SampledResponse, tally: Tally, now: float) -> None:
        if sample.exposed:
            tally.add(counters.EXPOSED)
        converted = False
        body = self.outcomes.body_of(sample)
        for at in sample.outcomes:
            held = self.outcomes.held(at, sample, body)
            if held is None:
                continue
            trials = self._cells[at]
            tally.add(trials)
            if held:
                tally.add(trials + 1)
                converted = converted or at == self._business
        if converted and self._converted_users.claim(sample.bucket, int(now * TICKS_PER_SECOND)):
            tally.add(counters.CONVERTED)


class TrialRecorder:
    """Counts one exchange for the judge: latency, throughput, errors and outcomes, each at most once.

    Seconds are counted from the end of the request.
    """

    __slots__ = ("_error_bucket", "_late_after", "_rules", "_sample", "_stalled_after", "_tally")

    def __init__(
        self,
        rules: TrialRules,
        tally: Tally,
        error_bucket: int,
        late_after: float,
        stalled_after: float,
        sample: SampledResponse | None,
    ) -> None:
        self._rules = rules
        self._tally = tally
        self._error_bucket = error_bucket
        """The user's bucket if this is a trial of the metric errors, else -1."""
        self._late_after = late_after
        """Seconds to the first byte after which it is late; 0: counted, or no trial."""
        self._stalled_after = stalled_after
        """Seconds to the last byte after which it is stalled; 0: counted, or no trial."""
        self._sample = sample

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

    def response_head(self, response: Response, body: bytes, waited: float) -> None:
        """Count the latency; keep what outcomes need of the head and of the body that came with it."""
        if self._late_after:
            self._tally.add(counters.LATENCY_TRIALS)
            if waited > self._late_after:
                self._tally.add(counters.LATENCY_EVENTS)
            self._late_after = 0.0
        if self._sample is not None:
            self._sample.head(response, body)

    def response_body(self, data: bytes) -> None:
        """Keep what outcomes need of the body."""
        if self._sample is not None:
            self._sample.body(data)

    def switched(self) -> None:
        """Count no latency: the handshake of a tunnel is not a response."""
        self._late_after = 0.0

    def end(self, status: int, failed: bool, waited: float, now: float) -> None:
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
        if self._sample is not None:
            self._rules.evaluate(self._sample, tally, now)


class SampledResponse:
    """A response as outcomes need to see it (``outcomes.Answer``)."""

    __slots__ = (
        "_parts",
        "_wanted",
        "bucket",
        "exposed",
        "headers",
        "outcomes",
        "reads_body",
        "size",
        "status",
    )

    def __init__(
        self, outcomes: tuple[int, ...], bucket: int, *, exposed: bool, reads_body: bool
    ) -> None:
        self.outcomes = outcomes
        """Indexes of the rules that look at this response."""
        self.bucket = bucket
        self.exposed = exposed
        """This request counts as a user exposed."""
        self.reads_body = reads_body
        """A rule looks into the body."""
        self.status = 0
        self.headers: Headers = ()
        self.size = 0
        self._wanted = INSPECTED if reads_body else 0
        """How many more bytes of the body are kept."""
        self._parts: list[bytes] | None = [] if reads_body else None

    @property
    def prefix(self) -> bytes:
        """The beginning of the body."""
        return b"".join(self._parts) if self._parts else b""

    def head(self, response: Response, body: bytes) -> None:
        """Keep the head of the response and the beginning of its body."""
        self.status = response.status
        self.headers = response.fields
        if self._wanted:
            self.body(body)
        else:
            self.size = len(body)

    def body(self, data: bytes) -> None:
        """Keep more of the body."""
        self.size += len(data)
        if self._parts is not None and self._wanted and data:
            data = data[: self._wanted]
            self._wanted -= len(data)
            self._parts.append(data)
