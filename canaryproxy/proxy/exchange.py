"""One request and its response: attempts, rescue, counting.

Theory of operation. An exchange is in one of six states:

    WAITING      there is no connection to an endpoint yet: nothing was sent
    SENT         the request was written to an upstream, at least in part
    RESPONDING   the head of the final response was written to the client
    STREAMING    the same, and the response has no end of its own (``EndlessResponse``)
    TUNNEL       the upstream switched protocols: both sides exchange bytes
    FINISHED     nothing is expected any more; a connection that comes late is for others

The plain case, a line for each step:

    the client's connection reads a head  -> ``start`` asks an endpoint for a connection
    the endpoint has one                  -> ``connected`` writes the head, and the body as it comes
    the upstream sends the response       -> ``response_head`` writes it, ``response_body`` the rest
    the response is complete              -> it is counted; the connection goes back to the pool

What may come between:

    a kept-alive connection was stale     -> the request is sent on a new one, and not counted twice
    an endpoint fails                     -> another endpoint (``retry``), rescue, or an error
    the canary fails, a file is missing   -> counted; the other variant answers (``rescuer``)
    the client closes                     -> the upstream's connection closes; counted as client_closed
"""

from __future__ import annotations

import asyncio
from time import monotonic, time
from typing import Final

from mypy_extensions import mypyc_attr

from canaryproxy.config import Limits
from canaryproxy.http1.cacheability import IMMUTABLE
from canaryproxy.http1.chunked import encode_chunk, last_chunk
from canaryproxy.http1.endless import BoundaryReader
from canaryproxy.http1.errors import CLIENT_TEXT, STATUS_OF, Refusal, error_response
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters, records
from canaryproxy.measure.counters import ROUTED, Reason
from canaryproxy.measure.endpoint_cells import UNTIMED
from canaryproxy.measure.histogram import bucket_index
from canaryproxy.measure.routing import NOT_SHARED, STABLE, Routing
from canaryproxy.measure.shedding import retry_after
from canaryproxy.proxy import retry
from canaryproxy.proxy.access_log import id_and_size
from canaryproxy.proxy.context import ServiceContext
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.framing import (
    AS_RECEIVED,
    BY_CLOSE,
    CHUNKED,
    connection_line,
    framing_line,
    framing_of,
)
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.refusals import refuse_body
from canaryproxy.proxy.replay import ReplayBuffer
from canaryproxy.proxy.request_sender import FINISHED, RESPONDING, STREAMING, TUNNEL, WAITING
from canaryproxy.proxy.rescuer import Rescuer
from canaryproxy.proxy.trial_rules import NOTHING

_now: Final = monotonic
_time: Final = time
_RESCUED: Final = b"X-Canary-Rescued: 1\r\n"
_MANY_USERS: Final = (Reason.OVERFLOW, Reason.SHED)
_LONGEST_ID: Final = 128
"""Bytes of a client's X-Request-Id that are logged."""


@mypyc_attr(free_list_len=1)
class Exchange(Rescuer):
    """The state of one request, from its head to the last byte of its response."""

    __slots__ = (
        "_close",
        "_framing",
        "_started",
    )

    def __init__(
        self,
        service: ServiceContext,
        sink: ResponseSink,
        request: Request,
        routing: Routing,
        outcomes: tuple[int, ...],
        now: float,
        has_body: bool,
    ) -> None:
        self.service = service
        self._sink = sink
        self.request = request
        self.routing = routing
        self.variant = variant = routing.variant
        self._state = WAITING
        self._started = self._received = now
        self._request_done = not has_body
        self._replay = ReplayBuffer(service.rescue.replay_buffer) if has_body else None
        self._upstream = None
        self._endpoint = None
        self._tried = ()
        self._continued = False
        self._flags = records.BODILESS if request.method == b"HEAD" else 0
        self._rules = service.trial_rules
        self._outcomes = outcomes
        self._response = None
        self._tally = tally = service.tallies[variant]
        # ``Tally.route``, written out: each call is dear where this is not compiled.
        values = tally.copy
        if values is None:
            tally.route()
        else:
            values[ROUTED] = tally.cells[ROUTED] = values[ROUTED] + 1
        self._responded_at = 0.0
        """When the head of the final response came."""
        self._rescued = 0
        self._close = False
        """The client's connection closes after the response."""
        self._framing = AS_RECEIVED

    @property
    def responding(self) -> bool:
        """Part of the final response was written to the client."""
        return self._responded_at > 0

    @property
    def framed(self) -> bool:
        """The end of the response is marked by something else than closing."""
        return self._framing != BY_CLOSE

    @property
    def _status(self) -> int:
        """Status of the final response; 0: it has not come."""
        return 0 if self._response is None else self._response.status

    def mark_late(self, now: float) -> None:
        """Record the request as slow, stalled or overdue if it is by now, and note if its canary is."""
        if self._request_done:
            self.record_late(now - self._received, overdue=self._has_waited(now))
            if self._is_overdue(now):
                self.service.worker.overdue.append(self)

    # The response, from the upstream

    def response_head(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        now = _now()
        status = response.status
        service, variant = self.service, self.variant
        self._response = response
        self._first_byte = now - self._received
        self._size = len(body)
        if self._outcomes and self._rules.reads_bodies:
            self.sample_head()
            self.sample_body(body)
        if status >= 400:
            if response.binds or self.request.fields.binds:
                self._bind()
            if self._passes_on(response, body, now, complete=complete, trailers=trailers):
                return
        self._state = RESPONDING
        self._responded_at = now
        request = self.request
        head, end = response.head, service.response_ends[response.end + variant]
        if (
            response.length < 0
            or self.routing.cookie
            or self._rescued
            or request.http10
            or not request.fields.ordinary
            or not self._request_done
            or service.worker.draining
        ):
            if request.fields.binds:
                self._bind()
            end = self._head_end(response)
            if self.routing.cookie:
                head = response.private_head
            if response.endless and request.method == b"GET" and not complete:
                boundaries = BoundaryReader(response.endless)
                boundaries.feed(body)
                self.begin_stream(boundaries)
            if self._framing == CHUNKED:
                body = encode_chunk(body) if body else body
                if complete:
                    body += last_chunk(trailers)
            elif trailers and self._sink.peer.http2:
                self._sink.keep_trailers(trailers)
        self._sink.write_head(head, end, body, ends=complete)
        if complete:
            self._complete(now)
        else:
            self._sink.stream_response(now, event_stream=response.is_event_stream)

    def _head_end(self, response: Response) -> bytes:
        """Return the fields that the proxy adds to this response, and decide how its body is framed."""
        request = self.request
        framing = AS_RECEIVED if self._sink.peer.http2 else framing_of(request, response)
        self._framing = framing
        self._close = close = framing == BY_CLOSE or self._closes()
        lines = self.service.response_ends[response.end + self.variant][:-2]
        # A cache may keep an immutable response for all: a user gets the cookie with the next response.
        is_kept = response.sharing != IMMUTABLE and self.routing.cookie != NOT_SHARED
        cookie = self.routing.cookie if is_kept else b""
        framed = framing_line(request, response, framing)
        if self.variant != self.routing.variant and self.service.rescue.header:
            framed = framed + _RESCUED
        return b"%b%b%b%b\r\n" % (lines, cookie, framed, connection_line(request, close=close))

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        self._size += len(data)
        if self._outcomes and self._rules.reads_bodies:
            self.sample_body(data)
        if self._state == STREAMING:
            data, complete = self.stream_data(data, complete=complete)
        if self._framing == CHUNKED:
            data = encode_chunk(data) if data else data
            if complete:
                data += last_chunk(trailers)
        elif trailers and self._sink.peer.http2:
            self._sink.keep_trailers(trailers)
        if data or (complete and self._sink.peer.http2):
            self._sink.write(data, ends=complete)
        if complete:
            self._complete(monotonic())

    def relay_body(self, source: asyncio.Transport, size: int) -> None:
        read = self._outcomes and self._rules.reads_bodies
        if self._state == RESPONDING and self._framing == AS_RECEIVED and not read:
            self._sink.relay(source, size)

    def body_relayed(self, size: int, *, complete: bool) -> None:
        self._size += size
        self._sink.write(b"")  # the client's deadline is extended
        if complete:
            self._complete(monotonic())

    def _complete(self, now: float) -> None:
        upstream, self._upstream = self._upstream, None
        endpoint = self._endpoint
        assert self._response is not None
        status = self._response.status
        if self._rescued:
            self._tally.add(self._rescued)
            self._count_on_endpoint(status, 0.0)
        else:
            # Same as _count, written out: this is the end of every plain request.
            tally, took, waited = self._tally, now - self._started, self._first_byte
            rules, known = self._rules, NOTHING
            if self._outcomes and (not rules.reads_bodies or self._body is None):
                known = rules.recall(self._outcomes, self._response, self._size)
            bucket = tally.finish(status, waited, took, known.cells)
            if self.request.sampled:
                _keep_exemplars(self, bucket, waited, took, now)
            failed = rules.error_statuses[status] != 0
            if failed:
                tally.add(counters.FAILED)
            self.record_end(status, failed, now, 0, known)
            if endpoint is not None:
                endpoint.marks.append(UNTIMED if self._tried else bucket)
                if bucket >= endpoint.slow_from and not self._tried:
                    endpoint.add_slow(bucket, self.routing.key)
                if failed or status >= 300:
                    endpoint.add_status(status, failed, self.routing.key)
        if endpoint is not None:
            endpoint.active -= 1
            self._endpoint = None
        self._state = FINISHED
        if upstream is not None:
            upstream.finish(now, reusable=self._request_done)
        self._sink.exchange_done(now, close=self._close)

    # A tunnel begins

    def switched(self, response: Response, data: bytes) -> None:
        """Pass on a 101 response and become a tunnel, which is counted as its handshake."""
        now = monotonic()
        failed = self._is_error(101)
        self._count(101, now, now, failed=failed)
        self.record_switch(response, failed, now - self._received)
        self._count_on_endpoint(101, now - self._received)
        self._responded_at = now
        self.begin_tunnel(response.upgrade, data)
        lines = self.service.response_ends[response.end + self.variant][:-2] + self.routing.cookie
        if self._rescued:
            self._tally.add(self._rescued)
            if self.service.rescue.header:
                lines += _RESCUED
        head = response.head + lines
        head += b"Connection: upgrade\r\nUpgrade: " + response.upgrade + b"\r\n\r\n"
        self._sink.write(head + data)
        self._sink.switch()

    # Failures

    def shed(self) -> None:
        """Refuse the request in place of ``start``: its variant is over its measured limit.

        It fails for the canary, and stable answers if it has room. It is no trial if stable was late, too.
        """
        self._failed(Reason.SHED)

    def timed_out(self) -> None:
        """The upstream sent nothing in time."""
        reason = Reason.BODY_TIMEOUT if self.responding else Reason.FIRST_BYTE_TIMEOUT
        self._failed(reason, _waited(reason, self.service.worker.limits))

    def client_gone(self) -> None:
        """The client closed its connection: drop the request."""
        if self._state == FINISHED:
            return
        if self._state == STREAMING:
            self.end_stream()
        if self._state == TUNNEL:
            self._tunnel_ends(by_client=True)
            self._end_tunnel()
        elif not self._rescued:
            self.record_gone(monotonic() - self._received if self._request_done else 0.0)
            self._tally.add(counters.CLIENT_CLOSED)
            self._tally.add(counters.FINISHED)
        self._state = FINISHED
        self._drop_upstream()
        self._leave_endpoint()

    def spoilt(self, refusal: Refusal) -> None:
        """End a request that the client broke off or spoilt after its head."""
        self.note_refusal(refusal)
        self.client_gone()
        if self.responding:  # the client would take an error for the rest of the response
            self._sink.break_off(framed=self.framed)
        else:
            refuse_body(self.service.worker, self._sink, refusal, self.request)
            self._sink.linger()

    def _failed(self, reason: Reason, detail: str = "") -> None:
        """An attempt failed: count it, then try what may still answer the client."""
        self.service.tallies[self.variant].add(counters.ERRORS + reason)
        self._drop_upstream()
        endpoint = self._endpoint
        self._leave_endpoint()
        if endpoint is not None:
            endpoint.add_error(reason, self.routing.key)
        now = monotonic()
        if self._state >= RESPONDING:
            if self._state == STREAMING:
                self.end_stream()
            self._state = FINISHED
            count_failure(self, reason, self._responded_at, now, records.BROKEN)
            self.note_end(self._status, now, b"")
            _log_failure(self, now, endpoint, reason, detail)
            self._break_off(reason, now, framed=self.framed)
            return
        if self._rescued == counters.ASSETS_FOUND:
            self._send_own()
            return
        if endpoint is not None:
            self._tried = (*self._tried, endpoint)
        rescue = self._needs_rescue(reason)
        if rescue and self.service.rescue.budget.take(now, self._routed_to_stable()):
            count_failure(self, reason, now, now, records.RESCUED | _unreached(self, reason))
            self._ask_other(counters.RESCUED)
        elif (
            self._repeatable()
            and retry.on_next_endpoint(reason, len(self._tried))
            and self._has_another_endpoint()
        ):
            if reason == Reason.FIRST_BYTE_TIMEOUT:
                self._sink.await_response(now)
            self._flags |= records.FAILED  # as if stable had to answer in the canary's place
            self.start()
        else:
            if rescue:
                self._tally.add(counters.OVER_BUDGET)
            self._send_error(reason, now, endpoint, detail)

    def _send_error(
        self, reason: Reason, now: float, endpoint: Endpoint | None, detail: str
    ) -> None:
        """Send the client the proxy's own error: ``endpoint`` failed last, or none was usable."""
        status = STATUS_OF[reason]
        count_failure(self, reason, now, now, _unreached(self, reason))
        self._state = FINISHED
        close = self._closes()
        lines = self.service.head_ends.variant_lines[self.variant]
        if reason != Reason.SHED:  # a new user that comes again is as new as he was
            lines += self.routing.cookie
        if not close:
            lines += connection_line(self.request, close=False)
        response = self._own_error(reason, lines, close=close)
        self.note_end(status, now, response)
        _log_failure(self, now, endpoint, reason, detail, response)
        self._sink.write(response, ends=True)
        self._sink.exchange_done(now, close=close)

    def _own_error(self, reason: Reason, lines: bytes, *, close: bool) -> bytes:
        """Return the proxy's own response to a request that failed, with these lines in its head."""
        return _own_error(self, reason, lines, close=close)

    # Counting

    def _count(self, status: int, responded: float, now: float, *, failed: bool) -> None:
        """Count the request once, for the variant that it was routed to."""
        if self._rescued:
            return
        waited, took = max(responded - self._received, 0.0), now - self._started
        tally = self._tally
        bucket = tally.finish(status, waited, took)
        if failed:
            tally.add(counters.FAILED)
        if self.request.sampled:
            _keep_exemplars(self, bucket, waited, took, now)

    # For the access log (``LoggedExchange``); a plain request calls neither

    def note_refusal(self, refusal: Refusal) -> None:
        """Take note why ``client_gone`` follows: the request was malformed after its head, or late."""

    def note_end(self, status: int, now: float, response: bytes) -> None:
        """Take note that it ends now: with the proxy's ``response``, or with ``b""`` inside another's."""


def _own_error(exchange: Exchange, reason: Reason, lines: bytes, *, close: bool) -> bytes:
    return error_response(
        STATUS_OF[reason],
        CLIENT_TEXT[reason],
        exchange.service.worker.head_ends.date,
        label=reason.label,
        close=close,
        head_only=exchange.request.method == b"HEAD",
        extra=lines,
        retry_after=retry_after(exchange.routing) if reason == Reason.SHED else 1,
    )


def _unreached(exchange: Exchange, reason: Reason) -> int:
    """Return ``records.UNREACHED`` if no attempt got a connection, for another reason than many users."""
    unreached = exchange._state == WAITING and reason not in _MANY_USERS
    return records.UNREACHED if unreached else 0


def count_failure(
    exchange: Exchange, reason: Reason, responded: float, now: float, flags: int
) -> None:
    """Count and record that the request failed; ``flags`` as ``record_end`` has them."""
    status, failed = STATUS_OF[reason], exchange._note_failure(reason)
    if reason == Reason.SHED and (
        exchange.variant == STABLE or exchange.service.load.of[STABLE].was_late
    ):
        exchange._tally.add(counters.SHED)
        exchange._count(status, responded, now, failed=False)
        return
    exchange._count(status, responded, now, failed=failed)
    exchange.record_end(status, failed, now, flags)


def _keep_exemplars(
    exchange: Exchange, bucket: int, waited: float, took: float, now: float
) -> None:
    """Keep the request's trace beside the buckets that count it; ``bucket`` is that of ``waited``."""
    trace, writer = exchange.request.trace, exchange.service.exemplars[exchange.variant]
    assert trace is not None
    writer.keep(counters.FIRST_BYTE, bucket, waited, trace, now, _time)
    if took != waited:
        bucket = bucket_index(took)
    writer.keep(counters.DURATION, bucket, took, trace, now, _time)


def _waited(reason: Reason, limits: Limits) -> str:
    """Say what did not come in time."""
    if reason == Reason.BODY_TIMEOUT:
        return f"nothing moved for {limits.body_timeout:g} s"
    return f"nothing came within {limits.first_byte_timeout:g} s"


def _log_failure(
    exchange: Exchange,
    now: float,
    endpoint: Endpoint | None,
    reason: Reason,
    detail: str,
    response: bytes | None = None,
) -> None:
    """Log what the client's error does not tell. ``response``: the proxy's own, if the client got one."""
    if response is None:
        request_id = (exchange.request.field(b"x-request-id") or b"")[:_LONGEST_ID]
    else:
        request_id, _ = id_and_size(response)
    exchange.service.worker.error_log.failed(
        now,
        request_id,
        exchange._status if response is None else STATUS_OF[reason],
        exchange.variant,
        "" if endpoint is None else endpoint.authority,
        reason,
        detail,
        rescue=exchange._rescued != 0,
        broke_off=response is None,
        service=exchange.service.name,
    )
