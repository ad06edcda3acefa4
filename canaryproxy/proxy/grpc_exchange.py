"""Exchanges of gRPC: their outcome is ``grpc-status``, and their deadline the client's.

Theory of operation. What HTTP says by its status, gRPC says in the trailers of a 200. So a response is
counted, judged and rescued as one of the status of HTTP that its gRPC status stands for
(``http1.grpc.HTTP_STATUS``); only ``judge.metrics.errors.grpc_statuses`` decides what is an error. Where the
proxy ends a response itself, its status is in trailers, too.

``grpc-timeout`` takes the place of ``limits.first_byte_timeout`` and ``limits.body_timeout``. It is looked at
with each tick (``mark_late``), as precise timers are the client's: the request that runs out of time is most
often cancelled by its client at that moment, which is no client that went away.

A response with a second message is a stream: it follows its user, as event streams do.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Final

from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.http1.errors import CLIENT_TEXT, STATUS_OF, Refusal
from canaryproxy.http1.grpc import (
    OK,
    MessageReader,
    counted_as,
    grpc_error,
    of_http,
    status_lines,
    status_of_response,
    timeout_of,
    with_timeout,
)
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import Routing
from canaryproxy.proxy.access_log import CLIENT_CLOSED
from canaryproxy.proxy.context import ServiceContext
from canaryproxy.proxy.exchange import count_failure
from canaryproxy.proxy.interfaces import CLOSED, ResponseSink, UpstreamLink
from canaryproxy.proxy.logged_exchange import LoggedExchange
from canaryproxy.proxy.request_sender import FINISHED, RESPONDING, STREAMING, TUNNEL

_NO_STATUS: Final = -1
_NEARLY: Final = 0.05
"""Share of a deadline that may be left when a client cancels because of it: clients round the timeout up."""
_MOVED: Final = "the release has moved this client: call again"


class GrpcExchange(LoggedExchange):
    """One call and its response."""

    __slots__ = (
        "_counted",
        "_deadline",
        "_expired",
        "_is_error_of_grpc",
        "_messages",
        "_received_head",
        "_status_of_grpc",
        "_timeout",
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
        super().__init__(service, sink, request, routing, outcomes, now, has_body)
        timeout = timeout_of(request.fields.field(b"grpc-timeout"))
        self._timeout = inf if timeout is None else timeout
        self._deadline = now + self._timeout
        self._expired = False
        """The deadline has passed."""
        self._status_of_grpc = _NO_STATUS
        """The status in which the call ends, once that is known."""
        self._is_error_of_grpc = False
        """It counts as an error."""
        self._received_head: Response | None = None
        """The response's head as received; ``_response`` is what it is counted as once it has ended."""
        self._counted: Response | None = None
        self._messages = MessageReader()

    # The deadline

    def start(self) -> None:
        self._wait_until_deadline()
        super().start()

    def request_end(self, trailers: bytes = b"") -> None:
        super().request_end(trailers)
        if self._state < RESPONDING:
            self._wait_until_deadline()

    def _wait_until_deadline(self) -> None:
        if self._timeout < inf:
            self._sink.deadline = inf

    def connected(self, link: UpstreamLink) -> None:
        if self._timeout < inf:
            request = self.request
            request.head = with_timeout(request.head, max(self._deadline - monotonic(), 0.0))
        super().connected(link)

    def mark_late(self, now: float) -> None:
        if self._deadline <= now:
            self.service.worker.overdue.append(self)
        elif self._state != STREAMING:  # its length is its own
            super().mark_late(now)

    def wait_no_longer(self) -> None:
        if self._state == FINISHED:
            return
        if self._deadline > monotonic():
            super().wait_no_longer()
            return
        self._expired = True
        self._failed(self._late_reason(), "its grpc-timeout is over")

    def client_gone(self) -> None:
        now = monotonic()
        if self._state >= TUNNEL or now < self._deadline - _NEARLY * self._timeout:
            super().client_gone()
            return
        self._expired = True
        reason, endpoint = self._late_reason(), self._endpoint
        self.service.tallies[self.variant].add(counters.ERRORS + reason)
        if endpoint is not None:
            endpoint.add_error(reason, self.routing.key)
        if self._state == STREAMING:
            self.end_stream()
        count_failure(self, reason, self._responded_at or now, now, 0)
        self._log(now, CLIENT_CLOSED, reason.label)
        self._state = FINISHED
        self._drop_upstream()
        self._leave_endpoint()

    def _late_reason(self) -> Reason:
        return Reason.BODY_TIMEOUT if self.responding else Reason.FIRST_BYTE_TIMEOUT

    def _may_rescue(self) -> bool:
        return not self._expired and super()._may_rescue()

    def _repeatable(self) -> bool:
        return not self._expired and super()._repeatable()

    # The response

    def response_head(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        self._received_head = response
        if complete or response.status != OK:
            self._read_outcome(response, trailers)
        if complete and not body and response.status == OK and self._is_rescued(response):
            return
        super().response_head(response, body, complete=complete, trailers=trailers)
        if self._state == RESPONDING and not complete:
            self._sink.deadline = inf  # a stream may be silent
            self._messages.feed(body)
            self._follow_user()

    def _is_rescued(self, response: Response) -> bool:
        """Tell whether stable answers in place of a response that is nothing but a status."""
        counted = self._counted
        assert counted is not None
        if counted is response:
            return False
        now = monotonic()
        self._response = counted
        self._first_byte = now - self._received
        self._size = 0
        self._body = None
        self._reason = f"grpc_{GrpcStatus(self._status_of_grpc).name.lower()}"
        return self._passes_on(counted, b"", now, complete=True, trailers=b"")

    def relay_body(self, source: asyncio.Transport, size: int) -> None:
        """Do nothing: messages are counted and judged."""

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        messages = self._messages
        if data and not messages.begun and self._request_done:
            self._first_byte = monotonic() - self._received
        if complete and not (self._state == STREAMING and self.leaving == CLOSED):
            response = self._received_head
            assert response is not None
            self._read_outcome(response, trailers)
        elif self._state == RESPONDING:
            messages.feed(data)
        super().response_body(data, complete=complete, trailers=trailers)
        self._follow_user()

    def _read_outcome(self, response: Response, trailers: bytes) -> None:
        """Read the outcome of a response that is complete."""
        status = status_of_response(response, trailers)
        rules = self._rules
        if status is not None:
            self._is_error_of_grpc = status.name in rules.grpc_errors
        else:
            status = of_http(response.status)
            self._is_error_of_grpc = (
                response.status == OK or rules.error_statuses[response.status] != 0
            )
        self._status_of_grpc = status
        self._counted = counted_as(response, status) if response.status == OK else response

    def _is_error(self, status: int) -> bool:  # noqa: ARG002 - it is known
        return self._is_error_of_grpc

    def _complete(self, now: float) -> None:
        upstream, self._upstream = self._upstream, None
        self._log(now, self._status, self._rescue_reason)
        response = self._response = self._counted
        assert response is not None
        status, waited = response.status, self._first_byte
        if self._rescued:
            self._tally.add(self._rescued)
            waited = 0.0
        else:
            failed = self._is_error_of_grpc
            self._count(status, self._received + waited, now, failed=failed)
            self.record_end(status, failed, now)
        self._count_on_endpoint(status, waited)
        self._leave_endpoint()
        self._state = FINISHED
        if upstream is not None:
            upstream.finish(now, reusable=self._request_done)
        self._sink.exchange_done(now, close=self._close)

    # A stream follows its user

    def _follow_user(self) -> None:
        """Take note of a second message: the response is a stream."""
        if self._state == RESPONDING and self._messages.begun > 1 and self._sink.peer.http2:
            self.begin_stream(self._messages)

    def _stream_ended_by_proxy(self, *, cleanly: bool) -> None:
        super()._stream_ended_by_proxy(cleanly=cleanly)
        self._counted = self._received_head
        self._status_of_grpc = GrpcStatus.UNAVAILABLE
        self._is_error_of_grpc = False
        self._sink.keep_trailers(status_lines(GrpcStatus.UNAVAILABLE, _MOVED))

    # The proxy's own errors

    def _own_error(self, reason: Reason, lines: bytes, *, close: bool) -> bytes:
        return grpc_error(
            GrpcStatus(self._status_of_grpc),
            self._text(reason),
            self.service.worker.head_ends.date,
            close=close,
            label=reason.label,
            extra=lines,
        )

    def _break_off(self, reason: Reason, now: float, *, framed: bool) -> None:
        if not self._sink.peer.http2:
            super()._break_off(reason, now, framed=framed)
            return
        status = GrpcStatus(self._status_of_grpc)
        self._sink.keep_trailers(status_lines(status, self._text(reason)))
        self._sink.write(b"", ends=True)
        self._sink.exchange_done(now, close=False)

    def _text(self, reason: Reason) -> str:
        return "deadline exceeded" if self._expired else CLIENT_TEXT[reason]

    def spoilt(self, refusal: Refusal) -> None:
        self._status_of_grpc = of_http(refusal.status)
        super().spoilt(refusal)

    # Counting

    def _note_failure(self, reason: Reason) -> bool:
        if not self._expired:
            self._status_of_grpc = of_http(STATUS_OF[reason])
            return True
        self._status_of_grpc = GrpcStatus.DEADLINE_EXCEEDED
        return GrpcStatus.DEADLINE_EXCEEDED.name in self._rules.grpc_errors

    def _count(self, status: int, responded: float, now: float, *, failed: bool) -> None:
        if not self._rescued and self._status_of_grpc != _NO_STATUS:
            self._tally.add(counters.GRPC + self._status_of_grpc)
        super()._count(status, responded, now, failed=failed)

    def _grpc_name(self) -> str | None:
        status = self._status_of_grpc
        return None if status == _NO_STATUS else GrpcStatus(status).name

    def _log(self, now: float, status: int, reason: str, request_id: bytes = b"") -> None:
        """Log the status of HTTP that the client got: where nothing else came, our own 200."""
        if self._received_head is None and status != CLIENT_CLOSED:
            status = OK
        super()._log(now, status, reason, request_id)
