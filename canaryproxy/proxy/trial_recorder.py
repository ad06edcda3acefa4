"""The judge's part of an exchange: whether it is a trial, and what its response shows.

``TrialRules.enroll`` decides what is a trial when the request is routed, before anything is known of the
response. A record says what happened; the judge decides what it means (``judging.metrics``).
"""

from __future__ import annotations

from collections.abc import Mapping
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
from canaryproxy.measure.routing import Headers, Routing
from canaryproxy.proxy.body_sampler import BodySampler, SampledBody

_ENDED: Final = ENDED << FLAGS_SHIFT
_LONG: Final = 4000.0
"""Seconds that a record can hold with certainty."""


class TrialRules:
    """Decides which requests are trials. One for all connections of a worker, until it is reconfigured."""

    __slots__ = (
        "_cells",
        "_event_bits",
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
        sampler: BodySampler,
        records: RecordRing,
        routes: RouteNames,
    ) -> None:
        """``slots``: ``counters.slots`` of the outcomes."""
        self._sampler = sampler
        self.pending = records.pending
        """The words of records that the worker will write."""
        self._routes = routes
        self._templates = routes.templates
        errors = config.judge.metrics.errors
        self.error_statuses = status_table(("5xx",) if errors is None else errors.statuses)
        """Whether a status is an error, by status."""
        self.outcomes = OutcomeRules(config.judge.outcomes)
        names = [rule.name for rule in self.outcomes.rules]
        self._cells = tuple(counters.OUTCOMES + 2 * slots[name] for name in names)
        self._slots = tuple(slots[name] for name in names)
        self._trial_bits = tuple(pack_second(0, 1 << slot, 0) for slot in self._slots)
        """What each outcome adds to the second word of a record (``records.pack_second``)."""
        self._event_bits = tuple(pack_second(0, 0, 1 << slot) for slot in self._slots)

    def enroll(
        self, routing: Routing, outcomes: tuple[int, ...], tally: Tally, request: Request
    ) -> TrialRecorder | None:
        """Return what records the exchange for the judge, or ``None`` if it is a trial of no metric.

        ``outcomes`` are those whose rules match the request. Outcomes are counted for all requests but those
        that a match rule forced to their variant; records are left by randomised ones only.
        """
        word = 0
        if routing.mark >= 0:
            word = self._templates.get(request.rule_key) or self._routes.learn(request.rule_key)
        elif routing.forced or not outcomes:
            return None
        flags = BODILESS if request.method == b"HEAD" else 0
        if outcomes:
            reads_body = self.outcomes.needs_body and self._reads_body(outcomes)
            if self.outcomes.needs_body and not reads_body:
                rules = self.outcomes.rules
                outcomes = tuple(at for at in outcomes if not rules[at].needs_body)
            if outcomes:
                return SampledResponse(self, tally, routing, word, flags, outcomes, reads_body)
        return TrialRecorder(self, routing, word, flags)

    def _reads_body(self, outcomes: tuple[int, ...]) -> bool:
        """Decide whether outcomes look into the body of this response: if one wants to, and it is chosen."""
        rules = self.outcomes.rules
        return any(rules[at].needs_body for at in outcomes) and self._sampler.choose()

    def body_of(self, sample: SampledResponse) -> SampledBody | None:
        """Return what reads the body behind the head of a response; ``None`` if no outcome wants it."""
        reader = self.outcomes.reader(sample.outcomes, sample.status, sample.headers)
        return None if reader is None else SampledBody(self._sampler, reader)

    def evaluate(self, sample: SampledResponse, tally: Tally) -> None:
        """Count the outcomes of a complete response, and note them for its record."""
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
            elif held is not None:
                tally.add(counters.BLIND + len(Blind) * self._slots[at] + held)
        if reader is not None:
            for at, present in reader.present.items():
                tally.add(counters.POINTERS + 2 * self._slots[at])
                if present:
                    tally.add(counters.POINTERS + 2 * self._slots[at] + 1)


class TrialRecorder:
    """Leaves the records of one randomised request (``measure.records``).

    Seconds are counted from the end of the request.
    """

    __slots__ = (
        "_first_byte",
        "_response",
        "_rules",
        "flags",
        "routing",
        "size",
        "word",
    )

    _first_byte: float
    """Seconds to the first byte of the response, once there is one."""
    size: int
    """Bytes of its body so far."""

    def __init__(self, rules: TrialRules, routing: Routing, word: int, flags: int) -> None:
        self._rules = rules
        self.routing = routing
        self.word = word
        """The template and the outcomes, as records have them."""
        self.flags = flags
        """What the last record will say, as far as it is known."""
        self._response: Response | None = None

    def mark_late(self, waited: float) -> None:
        """Write an early record if the request has passed a limit since the last one."""
        table, response = self.routing.table, self._response
        if not table.late:
            return
        passed = 0
        if response is None and waited > table.late:
            passed = LATE
        is_open = self.flags & TUNNEL or (response is not None and response.is_event_stream)
        if waited > table.stall_after > 0.0 and not is_open:
            passed |= STALLED
        passed &= ~self.flags
        if passed:
            self.flags |= passed
            self.write(passed)

    def response_head(self, response: Response, body: bytes, waited: float) -> None:
        """Take the head of the response, and ``body``, which came with it."""
        self._response = response
        self._first_byte = waited
        self.size = len(body)

    def response_body(self, data: bytes) -> None:
        """Take note of more of the body."""
        self.size += len(data)

    # A tunnel

    def switched(self, response: Response, failed: bool, waited: float) -> None:
        """Take the handshake of a tunnel."""
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
            # While the canary warms up the published limit is far longer than a user's patience.
            limit = min(self.routing.table.late or FALLBACK_LATE, FALLBACK_LATE)
            if flags & LATE or waited > limit:
                flags |= ABANDONED
        elif response.is_event_stream:
            flags |= TUNNEL
        self.write(flags)

    def end(self, status: int, failed: bool, waited: float, flags: int = 0) -> None:
        """Record the end of the request. To be called once.

        ``flags``: ``records.UNREACHED``, ``RESCUED`` and ``FAILED`` where they apply, and ``BROKEN`` if the
        upstream broke its response off.
        """
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


class SampledResponse(TrialRecorder):
    """A trial whose response outcomes look at (``outcomes.ResponseView``).

    One object with the recorder, as most requests have both.
    """

    __slots__ = (
        "_tally",
        "body",
        "headers",
        "outcomes",
        "reads_body",
        "status",
    )

    def __init__(
        self,
        rules: TrialRules,
        tally: Tally,
        routing: Routing,
        word: int,
        flags: int,
        outcomes: tuple[int, ...],
        reads_body: bool,
    ) -> None:
        # The recorder's own, not by its constructor: calls by ``super`` are dear where this is not compiled.
        self._rules = rules
        self._tally = tally
        self.routing = routing
        self.word = word
        self.flags = flags
        self._response = None
        self.size = 0
        self.outcomes = outcomes
        """Indexes of the rules that look at this response."""
        self.reads_body = reads_body
        """The body was chosen to be looked into."""
        self.status = 0
        self.headers: Headers = ()
        self.body: SampledBody | None = None
        """The body, if a rule looks into it."""

    def response_head(self, response: Response, body: bytes, waited: float) -> None:
        """Keep the head of the response, and begin with its body."""
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

    def switched(self, response: Response, failed: bool, waited: float) -> None:
        TrialRecorder.switched(self, response, failed, waited)
        self._rules.evaluate(self, self._tally)

    def end(self, status: int, failed: bool, waited: float, flags: int = 0) -> None:
        body = self.body
        if body is None:
            self._rules.evaluate(self, self._tally)
            TrialRecorder.end(self, status, failed, waited, flags)
            return
        self._settle(failed, waited, flags)
        # A response that breaks off ends with the status of the failure.
        body.close(partial(self._evaluated, status), whole=status == self.status)

    def _evaluated(self, status: int) -> None:
        """Write the last record: the body was looked into."""
        self._rules.evaluate(self, self._tally)
        self.write(self.flags, status)
