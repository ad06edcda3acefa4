"""The judge's part of an exchange: whether it is a trial, and what its response shows.

``measure.trials`` has the contract that this keeps. ``TrialRules.enroll`` decides what is a trial when the
request is routed, before anything is known of the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from canaryproxy.config import Config
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind, Tally
from canaryproxy.measure.outcomes import OutcomeRules, status_table
from canaryproxy.measure.records import (
    ABANDONED,
    BODILESS,
    BROKEN,
    CLIENT_GONE,
    ENDED,
    FAILED,
    FALLBACK_LATE,
    FLAGS_SHIFT,
    LARGEST,
    LATE,
    NO_FIRST_BYTE,
    SHORT_TUNNEL,
    SIZE_SHIFT,
    STALLED,
    STATUS_SHIFT,
    TUNNEL,
    RecordRing,
    pack_second,
    pack_third,
)
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.measure.routing import CANARY, Headers, Routing
from canaryproxy.measure.trials import TICKS_PER_SECOND, UserReducer
from canaryproxy.proxy.body_sampler import BodySampler, SampledBody

_NO_TRIAL: Final = -1
_ENDED: Final = ENDED << FLAGS_SHIFT
_LONG: Final = 4000.0
"""Seconds that a record can hold with certainty."""


class TrialRules:
    """Decides which requests are trials. One for all connections of a worker, until it is reconfigured."""

    __slots__ = (
        "_business",
        "_by_user",
        "_cells",
        "_converted_users",
        "_counts_exposed",
        "_error_users",
        "_event_bits",
        "_exposed_users",
        "_routes",
        "_sampler",
        "_slots",
        "_templates",
        "_trial_bits",
        "error_statuses",
        "outcomes",
        "pending",
    )

    def __init__(
        self,
        config: Config,
        slots: Mapping[str, int],
        users: Sequence[UserReducer],
        sampler: BodySampler,
        records: RecordRing,
        routes: RouteNames,
    ) -> None:
        """``slots``: ``counters.slots`` of the outcomes. ``users``: tried for errors, exposed, converted."""
        self._sampler = sampler
        self.pending = records.pending
        """The words of records that the worker will write."""
        self._routes = routes
        self._templates = routes.templates
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
        self._trial_bits = tuple(pack_second(0, 1 << slot, 0) for slot in self._slots)
        """What each outcome adds to the second word of a record (``records.pack_second``)."""
        self._event_bits = tuple(pack_second(0, 0, 1 << slot) for slot in self._slots)
        self._business = -1
        """Index of the outcome that is a conversion; -1 without one."""
        if metrics.business is not None and metrics.business.outcome in names:
            self._business = names.index(metrics.business.outcome)
        self._counts_exposed = metrics.business is not None

    def enroll(
        self,
        routing: Routing,
        outcomes: tuple[int, ...],
        tally: Tally,
        now: float,
        request: Request,
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
        flags = BODILESS if request.method == b"HEAD" else 0
        word = 0
        if routing.mark >= 0:
            word = self._templates.get(request.rule_key) or self._routes.learn(request.rule_key)
        if outcomes or self._counts_exposed:
            exposed = self._counts_exposed and self._exposed_users.claim(bucket, tick)
            reads_body = self.outcomes.needs_body and self._reads_body(outcomes)
            if self.outcomes.needs_body and not reads_body:
                rules = self.outcomes.rules
                outcomes = tuple(at for at in outcomes if not rules[at].needs_body)
            if exposed or outcomes:
                return SampledResponse(
                    self, tally, error_bucket, late_after, stalled_after, routing, word, flags,
                    outcomes, exposed, reads_body,
                )  # fmt: skip
        if slow is not None or is_trial or routing.mark >= 0:
            return TrialRecorder(
                self, tally, error_bucket, late_after, stalled_after, routing, word, flags
            )
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
        """Count the outcomes of a complete response, and note them for its record."""
        if sample.exposed:
            tally.add(counters.EXPOSED)
        converted = False
        reader = None if sample.body is None else sample.body.reader
        for at in sample.outcomes:
            held = self.outcomes.held(at, sample, reader)
            if held is True or held is False:
                trials = self._cells[at]
                tally.add(trials)
                sample.word |= self._trial_bits[at]
                if held:
                    tally.add(trials + 1)
                    sample.word |= self._event_bits[at]
                    converted = converted or at == self._business
            elif held is not None:
                tally.add(counters.BLIND + len(Blind) * self._slots[at] + held)
        if reader is not None:
            for at, present in reader.present.items():
                tally.add(counters.POINTERS + 2 * self._slots[at])
                if present:
                    tally.add(counters.POINTERS + 2 * self._slots[at] + 1)
        if converted and self._converted_users.claim(
            sample.routing.bucket, int(now * TICKS_PER_SECOND)
        ):
            tally.add(counters.CONVERTED)


class TrialRecorder:
    """Counts one exchange for the judge: latency, throughput and errors, each at most once.

    If the request was randomised, it leaves its records (``measure.records``). Seconds are counted from the
    end of the request.
    """

    __slots__ = (
        "_error_bucket",
        "_first_byte",
        "_late_after",
        "_response",
        "_rules",
        "_stalled_after",
        "_tally",
        "flags",
        "routing",
        "size",
        "word",
    )

    _first_byte: float
    """Seconds to the first byte of the response, once there is one."""
    size: int
    """Bytes of its body so far."""

    def __init__(
        self,
        rules: TrialRules,
        tally: Tally,
        error_bucket: int,
        late_after: float,
        stalled_after: float,
        routing: Routing,
        word: int,
        flags: int,
    ) -> None:
        self._rules = rules
        self._tally = tally
        self._error_bucket = error_bucket
        """The user's bucket if this is a trial of the metric errors, else -1."""
        self._late_after = late_after
        """Seconds to the first byte after which it is late; 0: counted, or no trial."""
        self._stalled_after = stalled_after
        """Seconds to the last byte after which it is stalled; 0: counted, or no trial."""
        self.routing = routing
        self.word = word
        """The template and the outcomes, as records have them."""
        self.flags = flags
        """What the last record will say, as far as it is known."""
        self._response: Response | None = None

    def mark_late(self, waited: float) -> None:
        """Count the request as slow or stalled if it is by now: once, whatever becomes of it."""
        self._record_late(waited)
        tally = self._tally
        if self._late_after and waited > self._late_after:
            self._late_after = 0.0
            tally.add(counters.LATENCY_TRIALS)
            tally.add(counters.LATENCY_EVENTS)
        if self._stalled_after and waited > self._stalled_after:
            self._stalled_after = 0.0
            tally.add(counters.THROUGHPUT_TRIALS)
            tally.add(counters.THROUGHPUT_EVENTS)

    def _record_late(self, waited: float) -> None:
        """Write an early record if the request has passed a limit since the last one."""
        table, response = self.routing.table, self._response
        if table.slow is None:
            return
        passed = 0
        if response is None and waited > table.slow[CANARY]:
            passed = LATE
        is_open = self.flags & TUNNEL or (response is not None and response.is_event_stream)
        if waited > table.stall_after > 0.0 and not is_open:
            passed |= STALLED
        passed &= ~self.flags
        if passed:
            self.flags |= passed
            self.write(passed)

    def response_head(self, response: Response, body: bytes, waited: float) -> None:
        """Count the latency. ``body`` is what came with the head."""
        if self._late_after:
            self._count_latency(waited)
        self._response = response
        self._first_byte = waited
        self.size = len(body)

    def _count_latency(self, waited: float) -> None:
        self._tally.add(counters.LATENCY_TRIALS)
        if waited > self._late_after:
            self._tally.add(counters.LATENCY_EVENTS)
        self._late_after = 0.0

    def response_body(self, data: bytes) -> None:
        """Take note of more of the body."""
        self.size += len(data)

    # A tunnel

    def switched(self, response: Response, failed: bool, waited: float, now: float) -> None:  # noqa: ARG002
        """Count the handshake of a tunnel; no latency, as it is not a response."""
        self._late_after = 0.0
        self._count_end(101, failed, waited)
        self._late_after = self._stalled_after = 0.0
        self._response = response
        self._first_byte = waited
        self.size = 0
        self.flags |= TUNNEL | FAILED if failed else TUNNEL

    def tunnel_ends(self, lasted: float, *, by_client: bool, reset: bool = False) -> None:
        """Take note that a side ends the tunnel: the first to do so is the one that counts.

        ``lasted`` in seconds since the handshake.
        """
        if not self.flags & ENDED:
            self.flags |= ENDED
            if not by_client and (reset or lasted < SHORT_TUNNEL):
                self.flags |= BROKEN

    def end_tunnel(self) -> None:
        """Record the end of the tunnel."""
        self.write(self.flags | ENDED)

    # The end

    def client_gone(self, waited: float) -> None:
        """Record that the client left. ``waited`` is 0 if it had not sent its request to the end."""
        flags = self.flags | ENDED | CLIENT_GONE
        response = self._response
        if response is None:
            slow = self.routing.table.slow
            limit = FALLBACK_LATE if slow is None else slow[CANARY]
            if flags & LATE or waited > limit:
                flags |= ABANDONED
        elif response.is_event_stream:
            flags |= TUNNEL
        self.write(flags)

    def end(self, status: int, failed: bool, waited: float, now: float, flags: int = 0) -> None:  # noqa: ARG002
        """Count the end of the request. To be called once.

        ``flags``: ``records.UNREACHED``, ``RESCUED`` and ``FAILED`` where they apply, and ``BROKEN`` if the
        upstream broke its response off.
        """
        self._count_end(status, failed, waited)
        response, mark = self._response, self.routing.mark
        if (
            response is None
            or response.is_event_stream
            or waited > _LONG
            or self.size > LARGEST
            or mark < 0
        ):
            self._settle(failed, waited, flags)
            self.write(self.flags, status)
            return
        # ``_settle`` and ``write``, written out: calls are dear where this is not compiled.
        flags |= self.flags
        if failed:
            flags |= FAILED
        first = mark | response.word | _ENDED
        if flags:
            first |= flags << FLAGS_SHIFT
        third = int(self._first_byte * 1e6) | self.size << SIZE_SHIFT
        self._rules.pending.extend((first, self.word, third))

    def _settle(self, failed: bool, waited: float, flags: int) -> None:
        """Complete what the last record says."""
        flags |= FAILED | ENDED if failed else ENDED
        response = self._response
        if response is not None and response.is_event_stream and not self.flags & BODILESS:
            flags |= TUNNEL
            if waited - self._first_byte < SHORT_TUNNEL:
                flags |= BROKEN
        self.flags |= flags

    def write(self, flags: int, status: int = 0) -> None:
        """Write a record, if the request was randomised. ``status`` counts if the upstream sent none."""
        mark = self.routing.mark
        if mark < 0:
            return
        response = self._response
        if response is None:
            first, third = status << STATUS_SHIFT, NO_FIRST_BYTE
        else:
            first, third = response.word, pack_third(self._first_byte, self.size)
        self._rules.pending.extend((mark | first | flags << FLAGS_SHIFT, self.word, third))

    def _count_end(self, status: int, failed: bool, waited: float) -> None:
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
        "exposed",
        "headers",
        "outcomes",
        "reads_body",
        "status",
    )

    def __init__(
        self,
        rules: TrialRules,
        tally: Tally,
        error_bucket: int,
        late_after: float,
        stalled_after: float,
        routing: Routing,
        word: int,
        flags: int,
        outcomes: tuple[int, ...],
        exposed: bool,
        reads_body: bool,
    ) -> None:
        # The recorder's own, not by its constructor: calls by ``super`` are dear where this is not compiled.
        self._rules = rules
        self._tally = tally
        self._error_bucket = error_bucket
        self._late_after = late_after
        self._stalled_after = stalled_after
        self.routing = routing
        self.word = word
        self.flags = flags
        self._response = None
        self.size = 0
        self.outcomes = outcomes
        """Indexes of the rules that look at this response."""
        self.exposed = exposed
        """This request counts as a user exposed."""
        self.reads_body = reads_body
        """The body was chosen to be looked into."""
        self.status = 0
        self.headers: Headers = ()
        self.body: SampledBody | None = None
        """The body, if a rule looks into it."""

    def response_head(self, response: Response, body: bytes, waited: float) -> None:
        """Keep the head of the response, and begin with its body."""
        if self._late_after:
            self._count_latency(waited)
        self._response = response
        self._first_byte = waited
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

    def switched(self, response: Response, failed: bool, waited: float, now: float) -> None:
        TrialRecorder.switched(self, response, failed, waited, now)
        self._rules.evaluate(self, self._tally, now)

    def end(self, status: int, failed: bool, waited: float, now: float, flags: int = 0) -> None:
        body = self.body
        if body is None:
            self._rules.evaluate(self, self._tally, now)
            TrialRecorder.end(self, status, failed, waited, now, flags)
            return
        self._count_end(status, failed, waited)
        self._settle(failed, waited, flags)
        # A response that breaks off ends with the status of the failure.
        body.close(partial(self._evaluated, status, now), whole=status == self.status)

    def _evaluated(self, status: int, now: float) -> None:
        """Write the last record: the body was looked into."""
        self._rules.evaluate(self, self._tally, now)
        self.write(self.flags, status)
