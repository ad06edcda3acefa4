"""One request and its answer: routing, attempts, rescue, counting.

A request's life, the plain case in one line each:

    downstream reads a head        -> Exchange, routed by table and sticky key, counted as routed
    endpoint gives a connection    -> the head is written upstream, the body follows as it comes
    upstream reads the answer      -> ``answer`` writes it downstream, ``body`` the rest as it comes
    the answer is complete         -> counted by status and latency, the connection goes back to the pool

and what may come between:

    a kept-alive connection was stale   -> once more, on a new connection, not counted
    an endpoint of stable fails         -> another endpoint, if the request may be repeated
    the canary fails                    -> counted against the canary, then answered by stable (rescue)
    the client goes away                -> the upstream connection is closed, counted as client_closed
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Final

from canaryproxy.http1.chunked import encode_chunk, last_chunk
from canaryproxy.http1.errors import CLIENT_TEXT, STATUS_OF, Refusal, error_response
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY, STABLE, RouteTable
from canaryproxy.proxy.trial_recorder import SampledResponse
from canaryproxy.proxy.upstream_connection import Receiver, UpstreamConnection

if TYPE_CHECKING:
    from canaryproxy.proxy.client_connection import ClientConnection
    from canaryproxy.proxy.datapath import DataPath
    from canaryproxy.proxy.pool import Endpoint

_RESCUED_STATUSES: Final = frozenset((502, 503, 504))
"""Answers of the canary that count as its failure to answer at all."""
_FAILOVER: Final = frozenset(
    (
        Reason.CONNECT_REFUSED,
        Reason.CONNECT_TIMEOUT,
        Reason.CONNECT_FAILED,
        Reason.DNS,
        Reason.TLS,
        Reason.CERTIFICATE,
        Reason.RESET,
        Reason.FIRST_BYTE_TIMEOUT,
        Reason.BROKEN_ANSWER,
    )
)
"""Failures for which another endpoint of the same variant is worth trying."""
_ATTEMPTS: Final = 3
"""Endpoints of a variant that are tried for a request at the most."""
_PATIENT_ATTEMPTS: Final = 2
"""The same after one that did not answer in time: if all are slow, more requests make them no quicker."""

_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
_RESCUED: Final = b"X-Canary-Rescued: 1\r\n"

_FINISHED: Final = counters.FINISHED
_FIRST_BYTE: Final = counters.FIRST_BYTE
_DURATION: Final = counters.DURATION
_THROUGHPUT_TRIALS: Final = counters.THROUGHPUT_TRIALS


class Exchange(Receiver):
    """The state of one request, from its head to the last byte of its answer."""

    __slots__ = (
        "_answered_at",
        "_body_done",
        "_close",
        "_continued",
        "_cookie",
        "_counted",
        "_datapath",
        "_down",
        "_encode",
        "_endpoint",
        "_framed",
        "_key",
        "_received",
        "_replay",
        "_replay_size",
        "_rescued",
        "_sent",
        "_slow_after",
        "_stall_after",
        "_started",
        "_status",
        "_tally",
        "_trial",
        "_tried",
        "_upstream",
        "cancelled",
        "inspection",
        "variant",
    )

    def __init__(
        self,
        datapath: DataPath,
        down: ClientConnection,
        request: Request,
        key: bytes | None,
        cookie: bytes,
        variant: int,
        now: float,
        has_body: bool,
    ) -> None:
        self._datapath = datapath
        self._down = down
        self.request = request
        self.variant = variant
        self._key = key
        self._cookie = cookie
        """The Set-Cookie line for the answer, or nothing."""
        self._tally = tally = datapath.tallies[variant]
        tally.add(counters.ROUTED)
        self._counted = False
        self._started = self._received = now
        self._answered_at = 0.0
        """When the head of the answer came; 0 before."""
        self._status = 0
        self._body_done = not has_body
        """The whole request was read from the client."""
        self._sent = False
        """Some of the request was written to an upstream."""
        self._replay: list[bytes] | None = [] if has_body else None
        """The body so far, as written upstream; ``None`` when there is none or it is too large to keep."""
        self._replay_size = 0
        self._upstream: UpstreamConnection | None = None
        self._endpoint: Endpoint | None = None
        self._tried: tuple[Endpoint, ...] = ()
        self._rescued = False
        self._continued = False
        self._close = False
        self._framed = True
        self._encode = False
        """The answer is sent in chunks."""
        self.cancelled = False
        """The exchange is over: connections that come late are for others."""
        self._trial = -1
        """The user's bucket if this request is a trial of the metric errors."""
        self._slow_after = self._stall_after = 0.0
        """Seconds to the first, to the last byte after which it is late; 0: settled, or no trial."""
        self.inspection: SampledResponse | None = None

    # Witness (what is a trial is settled here, before anything is known of the answer)

    def enroll(self, table: RouteTable, bucket: int, tick: int) -> None:
        """Make the request a trial of the judge's metrics. ``tick``: now, in tenths of a second."""
        if table.slow is not None:
            self._slow_after = table.slow[self.variant]
            self._stall_after = table.stall_after
        if self._datapath.witness.claim(bucket, tick):
            self._trial = bucket

    def mark_late(self, now: float) -> None:
        """Count the request as slow or stalled if it is by now: once, whatever becomes of it."""
        if not self._body_done:
            return
        waited = now - self._received
        tally = self._tally
        if self._slow_after and waited > self._slow_after:
            self._slow_after = 0.0
            tally.add(counters.LATENCY_TRIALS)
            tally.add(counters.LATENCY_EVENTS)
        if self._stall_after and waited > self._stall_after:
            self._stall_after = 0.0
            tally.add(counters.THROUGHPUT_TRIALS)
            tally.add(counters.THROUGHPUT_EVENTS)

    def _settle_first_byte(self, now: float) -> None:
        tally = self._tally
        tally.add(counters.LATENCY_TRIALS)
        if now - self._received > self._slow_after:
            tally.add(counters.LATENCY_EVENTS)
        self._slow_after = 0.0

    def _settle(self, status: int, now: float, *, failed: bool) -> None:
        """Count the end of the request for the judge."""
        tally = self._tally
        if failed:
            tally.add(counters.FAILED)
        if self._trial >= 0:
            tally.add(counters.ERROR_TRIALS)
            if failed:
                tally.add(counters.ERROR_EVENTS)
                self._datapath.witness.failed(self._trial)
            elif 400 <= status < 500:
                tally.add(counters.CLIENT_ERROR_EVENTS)
            self._trial = -1
        if self._stall_after:
            tally.add(counters.THROUGHPUT_TRIALS)
            if now - self._received > self._stall_after:
                tally.add(counters.THROUGHPUT_EVENTS)
            self._stall_after = 0.0
        self._slow_after = 0.0
        inspection, self.inspection = self.inspection, None
        if inspection is not None:
            inspection.witness.judge(inspection, tally, now)

    @property
    def answering(self) -> bool:
        """Something of the final answer was written to the client."""
        return self._answered_at > 0

    @property
    def framed(self) -> bool:
        """The answer under way has a length or chunks."""
        return self._framed

    @property
    def holds_continue(self) -> bool:
        """The client waits for a 100 that the upstream has not said, so it is not the client who is late."""
        return self.request.fields.expect and not self._continued and not self._replay_size

    # Connections

    def start(self) -> None:
        """Send the request to an endpoint of its variant."""
        endpoint = self._datapath.pools[self.variant].choose(self._key, self._tried)
        if endpoint is None:
            self._failed(Reason.NO_ENDPOINT)
            return
        self._endpoint = endpoint
        endpoint.active += 1
        endpoint.acquire(self)

    def wants(self, endpoint: Endpoint) -> bool:
        """Tell whether a connection of ``endpoint`` is still wanted: not if it came too late."""
        return endpoint is self._endpoint and not self.cancelled

    def connected(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self._sent = True
        head = self.request.head
        if self._replay:
            head += b"".join(self._replay)
            if self._replay_size > self._datapath.replay_buffer:
                self._replay = None
            self._down.resume()
        upstream.send(self, head)

    def connect_failed(self, endpoint: Endpoint, reason: Reason) -> None:
        if endpoint is self._endpoint:
            self._failed(reason)

    def _leave_endpoint(self) -> None:
        if self._endpoint is not None:
            self._endpoint.active -= 1
            self._endpoint = None

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        self._leave_endpoint()

    # The request's body, from downstream

    def request_body(self, data: bytes) -> None:
        """Pass on part of the request's body."""
        if self.request.fields.chunked:
            data = encode_chunk(data)
        self._send_body(data)

    def request_end(self, trailers: bytes = b"") -> None:
        """Learn that the request was read whole."""
        if self.request.fields.chunked:
            self._send_body(last_chunk(trailers))
        self._body_done = True
        self._received = now = monotonic()
        if not self._answered_at:
            self._down.await_answer(now)

    def _send_body(self, data: bytes) -> None:
        upstream = self._upstream
        replay = self._replay
        if replay is not None:
            replay.append(data)
            self._replay_size += len(data)
            if self._replay_size > self._datapath.replay_buffer:
                if upstream is None:
                    self._down.pause()  # until connected: then the body is let go
                    return
                self._replay = None
        if upstream is not None:
            upstream.transport.write(data)

    # Flow control: whoever is full stops the other side from reading

    def upstream_full(self) -> None:
        self._down.pause()

    def upstream_drained(self) -> None:
        self._down.resume()

    def downstream_full(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def downstream_drained(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # The answer, from upstream

    def interim(self, response: Response) -> None:
        """Pass on a 1xx answer; 100 only once, whatever is tried again.

        Only 100 gives more time, because the client's body comes next: the others are not what it waits for.
        """
        if self.request.http10 or (response.status == 100 and self._continued):
            return
        if response.status == 100:
            self._continued = True
            self._down.write(response.head + b"\r\n")
        else:
            self._down.transport.write(response.head + b"\r\n")

    def answer(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        """Take the head of the final answer and what came of its body with it."""
        now = monotonic()
        status = response.status
        if self._slow_after:
            self._settle_first_byte(now)
        if self.inspection is not None:
            self.inspection.answer(response, body)
        if (
            status in _RESCUED_STATUSES
            and self.variant == CANARY
            and self._datapath.rescue
            and self._repeatable()
        ):
            self._count(status, now, now, proxy_made=False)
            upstream, self._upstream = self._upstream, None
            assert upstream is not None
            upstream.finish(now, reusable=complete and self._body_done)
            self._leave_endpoint()
            self._rescue()
            return
        self._status = status
        self._answered_at = now
        request = self.request
        end = self._datapath.answer_ends[self.variant]
        if (
            response.length < 0
            or self._cookie
            or self._rescued
            or request.http10
            or not request.fields.keep_alive
            or not self._body_done
            or self._datapath.draining
        ):
            end = self._answer_end(response)
            if self._encode:
                body = encode_chunk(body) if body else body
                if complete:
                    body += last_chunk(trailers)
        head = response.head + end
        self._down.write(head + body if body else head)
        if complete:
            self._complete(now)
        else:
            self._down.stream_answer(now, event_stream=response.is_event_stream)

    def _answer_end(self, response: Response) -> bytes:
        """Return the fields that the proxy adds to this answer, and decide how its body is framed."""
        request = self.request
        lines = self._datapath.answer_ends[self.variant][:-2] + self._cookie
        bodiless = response.status in (204, 304) or request.method == b"HEAD"
        self._close = (
            not request.fields.keep_alive or not self._body_done or self._datapath.draining
        )
        if response.length < 0 and not bodiless:
            if request.http10:
                self._close = True
                self._framed = False
            else:
                self._encode = True
        if self._encode or (response.chunked and bodiless and not request.http10):
            lines += b"Transfer-Encoding: chunked\r\n"
        if self._rescued and self._datapath.rescue_header:
            lines += _RESCUED
        if self._close:
            lines += b"Connection: close\r\n"
        elif request.http10:
            lines += _KEEP_ALIVE
        return lines + b"\r\n"

    def body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        """Take more of the answer's body."""
        if self.inspection is not None:
            self.inspection.body(data)
        if self._encode:
            data = encode_chunk(data) if data else data
            if complete:
                data += last_chunk(trailers)
        if data:
            self._down.write(data)
        if complete:
            self._complete(monotonic())

    def _complete(self, now: float) -> None:
        upstream, self._upstream = self._upstream, None
        if not self._counted:
            # Same as _count, written out: this is the end of every plain request.
            tally, status = self._tally, self._status
            waited, took = max(self._answered_at - self._received, 0.0), now - self._started
            tally.finish(status, waited, took)
            if self.request.sampled:
                self._keep_exemplars(waited, took)
            failed = self._datapath.witness.error_statuses[status]
            if failed or self._trial >= 0 or self.inspection is not None:
                self._settle(status, now, failed=bool(failed))
            elif self._stall_after:
                tally.add(_THROUGHPUT_TRIALS)
                if now - self._received > self._stall_after:
                    tally.add(counters.THROUGHPUT_EVENTS)
        elif self._rescued:
            self._datapath.tallies[CANARY].add(counters.RESCUED)
        endpoint = self._endpoint
        if endpoint is not None:
            endpoint.active -= 1
            self._endpoint = None
        self.cancelled = True
        if upstream is not None:
            upstream.finish(now, reusable=self._body_done)
        self._down.exchange_done(now, close=self._close)

    # Tunnels

    def switched(self, response: Response, data: bytes) -> None:
        """Take a 101 answer: from here on both sides are a tunnel of bytes, counted as its handshake."""
        now = monotonic()
        self._status = 101
        self._answered_at = now
        self._slow_after = 0.0  # a handshake is not an answer
        self._count(101, now, now, proxy_made=False)
        self._datapath.tallies[self.variant].add(counters.TUNNELS_OPENED)
        lines = self._datapath.answer_ends[self.variant][:-2] + self._cookie
        if self._rescued:
            self._datapath.tallies[CANARY].add(counters.RESCUED)
            if self._datapath.rescue_header:
                lines += _RESCUED
        head = response.head + lines
        head += b"Connection: upgrade\r\nUpgrade: " + response.upgrade + b"\r\n\r\n"
        self._down.write(head + data)
        self._down.switch()

    def tunnel_data(self, data: bytes) -> None:
        """Pass bytes from upstream to downstream."""
        self._down.write(data)

    def tunnel_send(self, data: bytes) -> None:
        """Pass bytes from downstream to upstream."""
        if self._upstream is not None:
            self._upstream.transport.write(data)

    def tunnel_eof(self) -> None:
        """The upstream sends no more: tell the client, which may still send."""
        self._down.tunnel_eof()

    def tunnel_client_eof(self) -> None:
        """The client sends no more: tell the upstream, which may still send."""
        if self._upstream is not None:
            self._upstream.transport.write_eof()

    def tunnel_over(self) -> None:
        """Both sides send no more: close the upstream's once it has everything."""
        upstream, self._upstream = self._upstream, None
        self._end_tunnel()
        if upstream is not None:
            upstream.end()

    def tunnel_closed(self) -> None:
        """The upstream side is closed: close the client's once it has everything."""
        self._upstream = None
        self._end_tunnel()
        self._down.close()

    def _end_tunnel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._leave_endpoint()
            self._datapath.tallies[self.variant].add(counters.TUNNELS_CLOSED)

    # What goes wrong

    def upstream_failed(self, reason: Reason, *, stale: bool = False) -> None:
        """The upstream's connection is of no more use, and its answer is not complete."""
        self._upstream = None
        endpoint = self._endpoint
        assert endpoint is not None
        if stale and self._may_resend():
            endpoint.acquire(self, fresh=True)
            return
        if reason in (Reason.RESET, Reason.TLS) and not stale:
            endpoint.failed()
        self._failed(reason)

    def timed_out(self) -> None:
        """Nothing came from the upstream in time."""
        self._failed(Reason.BODY_TIMEOUT if self._answered_at else Reason.FIRST_BYTE_TIMEOUT)

    def client_gone(self) -> None:
        """The client closed the connection: nobody waits for the answer."""
        if self.cancelled:
            return
        if self._status == 101:
            self._end_tunnel()
        self.cancelled = True
        self._drop_upstream()
        if not self._counted:
            self._counted = True
            self._tally.add(counters.CLIENT_CLOSED)
            self._tally.add(_FINISHED)

    def _may_resend(self) -> bool:
        """A stale connection: resend if nothing was answered and nothing can happen twice."""
        return self._whole() and (self.request.idempotent or not self._sent)

    def _repeatable(self) -> bool:
        """The request can be sent again: nothing reached a server, or the method says so."""
        return (
            not self._answered_at and self._whole() and (self.request.idempotent or not self._sent)
        )

    def _whole(self) -> bool:
        """All of the request that was read is still at hand."""
        return self._replay is not None or (self._body_done and not self._replay_size)

    def _failed(self, reason: Reason) -> None:
        """An attempt failed: count it, then try what may still answer the client."""
        self._datapath.tallies[self.variant].add(counters.ERRORS + reason)
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        endpoint = self._endpoint
        self._leave_endpoint()
        now = monotonic()
        if self._answered_at:
            self.cancelled = True
            self._count(STATUS_OF[reason], self._answered_at, now)
            self.note_end(self._status, now, b"")
            self._down.break_off(framed=self._framed)
            return
        if self._repeatable():
            if self.variant == CANARY and (self._datapath.rescue or reason == Reason.NO_ENDPOINT):
                self._count(STATUS_OF[reason], now, now)
                self._rescue()
                return
            if endpoint is not None and reason in _FAILOVER:
                self._tried = (*self._tried, endpoint)
                pool = self._datapath.pools[self.variant]
                late = reason == Reason.FIRST_BYTE_TIMEOUT
                most = _PATIENT_ATTEMPTS if late else _ATTEMPTS
                if len(self._tried) < most and pool.choose(self._key, self._tried) is not None:
                    if late:
                        self._down.await_answer(now)
                    self.start()
                    return
        status = STATUS_OF[reason]
        self._count(status, now, now)
        self.cancelled = True
        close = not self.request.fields.keep_alive or not self._body_done or self._datapath.draining
        answer = error_response(
            status,
            CLIENT_TEXT[reason],
            label=reason.label,
            close=close,
            head_only=self.request.method == b"HEAD",
            extra=self._datapath.variant_lines[self.variant]
            + self._cookie
            + (_KEEP_ALIVE if self.request.http10 and not close else b""),
        )
        self.note_end(status, now, answer)
        self._down.write(answer)
        self._down.exchange_done(now, close=close)

    def _rescue(self) -> None:
        """Let stable answer in the canary's place; the canary's failure is counted already."""
        self._rescued = True
        self.variant = STABLE
        self._tried = ()
        self._sent = False
        self._down.await_answer(monotonic())
        self.start()

    def _count(self, status: int, answered: float, now: float, *, proxy_made: bool = True) -> None:
        """Count the request once, for the variant that it was routed to.

        ``proxy_made``: the status stands for a failure, it is not the upstream's own.
        """
        if self._counted:
            return
        self._counted = True
        waited, took = max(answered - self._received, 0.0), now - self._started
        self._tally.finish(status, waited, took)
        failed = proxy_made or bool(self._datapath.witness.error_statuses[status])
        self._settle(status, now, failed=failed)
        if self.request.sampled:
            self._keep_exemplars(waited, took)

    def _keep_exemplars(self, waited: float, took: float) -> None:
        """Keep the request's trace beside the buckets that count it."""
        trace = self.request.sampled
        cells = self._datapath.counters.exemplars[self.variant]
        now = time()
        counters.keep_exemplar(cells, _FIRST_BYTE, waited, trace, now)
        counters.keep_exemplar(cells, _DURATION, took, trace, now)

    # For the access log (``logged.LoggedExchange``); a plain request comes by none of these

    def note_forced(self, bucket: int) -> None:
        """Learn that a match rule chose the variant, whatever the user's bucket."""

    def note_refusal(self, refusal: Refusal) -> None:
        """Learn why the client is about to be gone: its request was spoilt after its head."""

    def note_end(self, status: int, now: float, answer: bytes) -> None:
        """Learn that the exchange ends now: with the proxy's answer, or with ``b""`` inside another."""
