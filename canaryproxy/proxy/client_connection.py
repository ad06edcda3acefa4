"""One client connection: reads requests, one at a time and in order, and writes their responses."""

from __future__ import annotations

import asyncio
import socket
import struct
from math import inf
from time import monotonic
from typing import Final, cast

from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError
from canaryproxy.http1.errors import Refusal, error_response
from canaryproxy.http1.length import LengthDecoder
from canaryproxy.http1.proxy_protocol import ProxyHeader
from canaryproxy.http1.request import Request
from canaryproxy.http1.request_buffer import RequestBuffer
from canaryproxy.measure import counters
from canaryproxy.measure.routing import STABLE
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.logged_exchange import LoggedExchange, refused
from canaryproxy.proxy.peer import peer_of

_HEAD: Final = 0
"""Waits for a request, or for the rest of its head."""
_BODY: Final = 1
"""Reads the request's body."""
_RESPONSE: Final = 2
"""The request was read; its response is awaited or being written."""
_TUNNEL: Final = 3
_LINGER: Final = 4
"""The last response was written; input is discarded, so that no reset destroys the response."""
_CLOSED: Final = 5

_CR: Final = 13
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing sends a reset instead of an end."""
_LINGER_SECONDS: Final = 2.0
"""How long a client may be silent while the connection lingers."""
_MOST_LINGER_TURNS: Final = 15
"""How many times that long it may go on sending: 30 s in all, as with nginx."""
_READ_AHEAD: Final = 64 * 1024
"""Bytes of pipelined requests that are kept during a response; then reading stops."""


class ClientConnection(ResponseSink):
    """An HTTP/1.x server connection: an ``asyncio.Protocol`` by its methods only, so that it can be compiled.

    ``header`` is the PROXY protocol header that the connection began with, if any.
    """

    __slots__ = (
        "_active",
        "_context",
        "_decoder",
        "_exchange",
        "_full",
        "_half_closed",
        "_header",
        "_linger_turns",
        "_pending",
        "_processing",
        "_reading",
        "_state",
        "_unsent",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, context: WorkerContext, header: ProxyHeader | None = None) -> None:
        self._context = context
        self._header = header
        self._exchange: Exchange | None = None
        self._state = _HEAD
        self._pending = RequestBuffer()
        """Input that no request has used yet."""
        self._decoder: ChunkedDecoder | LengthDecoder | None = None
        """Reads the body of the current request."""
        self._reading = True
        self._full = False
        """The client reads slower than we write."""
        self._half_closed = False
        """One side of the tunnel sends no more."""
        self._processing = False
        self._active = False
        """Something moved since the last ``sweep``."""
        self._unsent = 0
        """Bytes that waited to be written at the last ``sweep``."""
        self._linger_turns = 0
        """How many times lingering may still be extended."""
        self.deadline = inf

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        context = self._context
        self.peer = peer_of(self.transport, context.trusted_networks, self._header)
        context.counters.proxy[counters.CONNECTIONS_OPENED] += 1
        full = context.is_full()
        context.connections.add(self)
        self.deadline = monotonic() + context.limits.header_timeout
        if full:
            context.counters.proxy[counters.CONNECTIONS_REFUSED] += 1
            self._refuse(Refusal(503, "too many connections"), b"")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        context = self._context
        context.connections.discard(self)
        context.counters.proxy[counters.CONNECTIONS_CLOSED] += 1
        self._state = _CLOSED
        self.deadline = inf
        self._pending.put(b"")
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            context.in_flight -= 1
            exchange.client_gone()

    def eof_received(self) -> bool:
        """The client sends no more: as HTTP has no half-closed connections, it is gone, but in a tunnel."""
        if self._state == _TUNNEL and self._exchange is not None:
            if self._half_closed:
                self._exchange.tunnel_over()
                self.close()
            else:
                self._half_close()
                self._exchange.tunnel_client_eof()
            return True
        return False

    def pause_writing(self) -> None:
        self._full = True
        if self._exchange is not None:
            self._exchange.client_full()

    def resume_writing(self) -> None:
        self._full = False
        self._active = True
        if self._exchange is not None:
            self._exchange.client_drained()
        elif self._state == _HEAD:
            self.resume()
            self._process()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD or state == _RESPONSE:
            pending = self._pending
            if (
                state == _HEAD
                and data.endswith(b"\r\n\r\n")
                and data[0] != _CR
                and not pending.data
                and not self._full
            ):
                # The plain case: one whole head and nothing else.
                try:
                    request = self._context.request_parser.parse_single(data, self.peer)
                    if request is not None:
                        self._begin(request)
                        return
                except Refusal as refusal:
                    self._refuse(refusal, data)
                    return
            pending.add(data)
            if state == _HEAD:
                self._process()
            if len(pending.data) > _READ_AHEAD:
                self.pause()
        elif state == _TUNNEL:
            self._active = True
            if self._exchange is not None:
                self._exchange.tunnel_send(data)
        elif state == _BODY:
            self._active = True
            self._body(data)
        elif state == _LINGER:
            self._active = True

    # Requests

    def _process(self) -> None:
        """Take requests from the pending input until one has to be waited for."""
        if self._processing:
            return
        self._processing = True
        pending = self._pending
        try:
            while pending.data and self._state == _HEAD and not self._full:
                begins = not pending.searched
                head = pending.next_head()
                if head is None:
                    if begins and pending.searched:
                        self.deadline = monotonic() + self._context.limits.header_timeout
                    break
                try:
                    self._begin(self._context.request_parser.parse(head, self.peer))
                except Refusal as refusal:
                    self._refuse(refusal, head)
        except Refusal as refusal:
            self._refuse(refusal, pending.data)
        finally:
            self._processing = False

    def _begin(self, request: Request) -> None:
        """Route one request and start its exchange. Raises ``Refusal``."""
        context = self._context
        if context.in_flight >= context.max_requests:
            raise Refusal(503, "too many requests in flight")
        now = monotonic()
        routing, outcomes = context.router.route(request, self.peer)
        variant = routing.variant
        tally = context.tallies[variant]
        if routing.forced:
            tally.add(counters.FORCED)
        recorder = context.trial_rules.enroll(routing, outcomes, tally, now)
        fields = request.fields
        length = fields.length
        has_body = length > 0 or fields.chunked
        context.in_flight += 1
        exchange = self._exchange = (
            Exchange(context, self, request, routing, recorder, now, has_body)
            if context.access_log is None
            else LoggedExchange(context, self, request, routing, recorder, now, has_body)
        )
        if not has_body:
            self._state = _RESPONSE
            self.deadline = now + context.first_byte_timeout
            exchange.start()
            if context.mirror is not None and variant == STABLE and not routing.forced:
                context.mirror.offer(request, routing, now)
            return
        limits = context.limits
        self.deadline = now + (limits.first_byte_timeout if fields.expect else limits.body_timeout)
        self._state = _BODY
        self._decoder = ChunkedDecoder() if fields.chunked else LengthDecoder(length)
        exchange.start()
        if self._pending.data and self._exchange is exchange:
            self._body(self._pending.take())

    def _body(self, data: bytes) -> None:
        exchange, decoder = self._exchange, self._decoder
        assert exchange is not None
        assert decoder is not None
        try:
            payload = decoder.feed(data)
        except ChunkedError as error:
            self._give_up(exchange, Refusal(400, str(error)))
            return
        done = decoder.done
        if done:
            self._decoder = None
            self._pending.put(decoder.rest)
            self._state = _RESPONSE
        if payload:
            exchange.request_body(payload)
        if done and not exchange.finished:
            exchange.request_end(decoder.trailers)

    def _refuse(self, refusal: Refusal, head: bytes | None, method: bytes = b"") -> None:
        """Send the proxy's own error and close.

        ``head`` is what came of the request; ``None`` if its exchange has logged it, with its ``method``.
        """
        self._context.counters.proxy[counters.REFUSED + refusal.status] += 1
        to_head = method == b"HEAD" if head is None else head.startswith(b"HEAD ")
        response = error_response(refusal.status, refusal.reason, close=True, head_only=to_head)
        log = self._context.access_log
        if log is not None and head is not None:
            log.add(refused(self.peer, head, refusal, response, monotonic()))
        self.write(response)
        self._linger()

    def _give_up(self, exchange: Exchange, refusal: Refusal) -> None:
        """End a request that the client broke off or spoilt after its head."""
        self._exchange = None
        self._context.in_flight -= 1
        exchange.note_refusal(refusal)
        exchange.client_gone()
        if exchange.responding:  # the client would take an error for the rest of the response
            self._break(framed=exchange.framed)
        else:
            self._refuse(refusal, None, exchange.request.method)

    # The exchange's side

    def write(self, data: bytes) -> None:
        self._active = True
        self.transport.write(data)

    def write_interim(self, data: bytes) -> None:
        self.transport.write(data)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()

    def await_response(self, now: float) -> None:
        self._active = False
        self.deadline = now + self._context.first_byte_timeout

    def stream_response(self, now: float, *, event_stream: bool) -> None:
        self.deadline = inf if event_stream else now + self._context.limits.body_timeout

    def exchange_done(self, now: float, *, close: bool) -> None:
        self._exchange = None
        context = self._context
        context.in_flight -= 1
        if close or context.draining:
            if self._state == _RESPONSE and not self._pending.data:
                self.close()
            else:
                self._linger()
            return
        self._state = _HEAD
        self._active = False
        self.deadline = now + context.idle_timeout
        if not self._reading:
            self.resume()
        if self._pending.data:
            self._process()

    def break_off(self, *, framed: bool) -> None:
        self._exchange = None
        self._context.in_flight -= 1
        self._break(framed=framed)

    def _break(self, *, framed: bool) -> None:
        if not framed:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        self.close()

    def close(self) -> None:
        if self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self._linger()
            return
        self._state = _CLOSED
        self.deadline = monotonic() + self._context.limits.body_timeout
        self.transport.close()

    def _linger(self) -> None:
        """Send no more, and discard what the client still sends, for a short while."""
        self._state = _LINGER
        self._linger_turns = _MOST_LINGER_TURNS
        self._active = False
        self._pending.put(b"")
        self._decoder = None
        self.deadline = monotonic() + _LINGER_SECONDS
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self.resume()

    def switch(self) -> None:
        self._state = _TUNNEL
        self.deadline = inf
        data = self._pending.take()  # what the client sent too early
        if data and self._exchange is not None:
            self._exchange.tunnel_send(data)
        self.resume()

    def tunnel_eof(self) -> None:
        if self._half_closed and self._exchange is not None:
            self._exchange.tunnel_over()
            self.close()
        else:
            self._half_close()
            self.transport.write_eof()

    def _half_close(self) -> None:
        """One side sends no more: the other may go on, but not be silent for ever."""
        self._half_closed = True
        self.deadline = monotonic() + self._context.limits.idle_timeout

    # The worker's side

    def sweep(self, now: float) -> None:
        """Extend the deadline if something moved, else time out."""
        exchange = self._exchange
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            # The client reads what it got: slowly, but it does.
            self._unsent = unsent
            self._active = self._active or exchange is None or self._full
        if self._active and (exchange is not None or unsent):
            self._active = False
            self.deadline = now + self._context.limits.body_timeout
            return
        state = self._state
        if self._active and state == _LINGER and self._linger_turns:
            self._active = False
            self._linger_turns -= 1
            self.deadline = now + _LINGER_SECONDS
            return
        self.deadline = inf
        if state == _TUNNEL or (exchange is None and unsent):
            self.transport.abort()
        elif exchange is not None:
            if state == _BODY and self._reading and not exchange.holds_continue:
                self._give_up(exchange, Refusal(408, "the request's body did not arrive in time"))
            elif self._full:
                self.transport.abort()  # the client does not read
            else:
                exchange.timed_out()
        elif state == _HEAD and self._pending.data:
            refusal = Refusal(408, "the request's head did not arrive in time")
            self._refuse(refusal, self._pending.data)
        elif state == _HEAD:
            self.transport.close()
        else:
            self.transport.abort()

    def mark_late(self, now: float) -> None:
        if self._exchange is not None:
            self._exchange.mark_late(now)

    def drain(self, until: float | None) -> None:
        if self._state == _HEAD and not self._pending.data:
            if until is None:
                self.close()
            else:
                self.deadline = min(self.deadline, until)

    def abort(self) -> None:
        self.transport.abort()

    def renew_peer(self) -> None:
        if not self.transport.is_closing():
            self.peer = peer_of(self.transport, self._context.trusted_networks, self._header)
