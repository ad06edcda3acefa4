"""One client connection: reads requests, one at a time and in order, and writes their responses."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Final, cast

from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError
from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.length import LengthDecoder
from canaryproxy.http1.proxy_protocol import ProxyHeader
from canaryproxy.http1.request import Request, RequestFields
from canaryproxy.http1.request_buffer import RequestBuffer
from canaryproxy.measure import counters, native
from canaryproxy.proxy.closing import LingeringClose, reset
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.dispatch import begin, dispatch, service_of
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.http2_connection import HTTP2_HEAD, Http2Connection
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.network import relay
from canaryproxy.proxy.peer import peer_of
from canaryproxy.proxy.refusals import refuse

_joined: Final = native.joined
_now: Final = monotonic

HTTP1: Final = 1
HTTP2: Final = 2

_HEAD: Final = 0
"""Waits for a request, or for the rest of its head."""
_BODY: Final = 1
"""Reads the request's body."""
_RESPONSE: Final = 2
"""The request was read; its response is awaited or being written."""
_TUNNEL: Final = 3
_CLOSED: Final = 4
"""It is closed, or a ``LingeringClose`` has taken it over."""

_CR: Final = 13
_READ_AHEAD: Final = 64 * 1024
"""Bytes of pipelined requests that are kept during a response; then reading stops."""


class ClientConnection(ResponseSink):
    """An HTTP/1.x server connection: an ``asyncio.Protocol`` by its methods, so it can be compiled."""

    __slots__ = (
        "_active",
        "_context",
        "_decoder",
        "_exchange",
        "_full",
        "_header",
        "_pending",
        "_processing",
        "_reading",
        "_state",
        "_takes",
        "_unsent",
        "_write",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self,
        context: WorkerContext,
        header: ProxyHeader | None = None,
        *,
        takes: int = HTTP1 | HTTP2,
    ) -> None:
        self._context = context
        self._takes = takes
        """``HTTP1``, ``HTTP2`` or both; after the first request only its version."""
        self._header = header
        """The PROXY protocol header that the connection began with."""
        self._exchange: Exchange | None = None
        self.own = None
        self._state = _HEAD
        self._pending = RequestBuffer()
        """Input that no request has used yet."""
        self._decoder: ChunkedDecoder | LengthDecoder | None = None
        """Reads the body of the current request."""
        self._reading = True
        self._full = False
        """The client reads slower than we write."""
        self._processing = self._active = False
        """Something moved since the last ``sweep``."""
        self._unsent = 0
        """Bytes that waited to be written at the last ``sweep``."""
        self.deadline = inf

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._write = self.transport.write
        context = self._context
        self.peer = peer_of(self.transport, context.trusted_proxies, self._header)
        context.proxy_tally.add(counters.CONNECTIONS_OPENED)
        full = context.is_full()
        context.connections.add(self)
        self.deadline = _now() + context.header_timeout
        if full:
            context.proxy_tally.add(counters.CONNECTIONS_REFUSED)
            self._refuse(Refusal(503, "too many connections"), b"")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        context = self._context
        context.connections.discard(self)
        context.proxy_tally.add(counters.CONNECTIONS_CLOSED)
        self._state = _CLOSED
        self.deadline = inf
        self.peer.leave()
        self._pending.put(b"")
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            context.in_flight -= 1
            exchange.client_gone()
        self.drop_own()

    def eof_received(self) -> bool:
        """The client sends no more: as HTTP has no half-closed connections, it is gone, but in a tunnel."""
        if self._state == _TUNNEL and self._exchange is not None:
            self.deadline = _now() + self._context.limits.idle_timeout
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
                        self._begin(request, data)
                        return
                except Refusal as refusal:
                    self._refuse(refusal, data)
                    return
            pending.add(data)
            if state == _HEAD:
                self._process()
            if len(pending.data) > _READ_AHEAD:
                self.pause()
        elif state != _CLOSED:
            self._active = True
            if state == _BODY:
                self._body(data)
            elif self._exchange is not None:
                self._exchange.tunnel_send(data)

    # Requests

    def _process(self) -> None:
        """Take requests from the pending input until one has to be waited for."""
        if self._processing:
            return
        self._processing = True
        pending, head = self._pending, None
        try:
            while pending.data and self._state == _HEAD and not self._full:
                begins, head = not pending.searched, None
                head = pending.next_head()
                if head is None:
                    if begins and pending.searched:
                        self.deadline = _now() + self._context.header_timeout
                    break
                self._begin(self._context.request_parser.parse(head, self.peer), head)
        except Refusal as refusal:
            self._refuse(refusal, pending.data if head is None else head)
        finally:
            self._processing = False

    def _begin(self, request: Request, head: bytes) -> None:
        """Route one request, parsed from ``head``, and start its exchange. Raises ``Refusal``."""
        context = self._context
        if self._takes != HTTP1:
            self._takes = _only_http1(self._takes)
        if context.in_flight >= context.max_requests:
            raise Refusal(503, "too many requests in flight")
        now = _now()
        fields = request.fields
        has_body = fields.length > 0 or fields.chunked
        service = context.only
        if service is None:
            service = context.by_host.get(fields.host)
            if service is None:
                found = service_of(context, self, request, head)
                if found is None:
                    self._active, self.deadline = False, now + context.idle_timeout
                    return
                service, request = found
                fields = request.fields
        exchange = self._exchange = dispatch(service, self, request, now, has_body)
        context.in_flight += 1
        if not has_body:
            self._state = _RESPONSE
            self.deadline = now + context.first_byte_timeout
            if service.is_plain:
                exchange.start()
                return
            service = exchange.service
            begin(exchange)
            if service.mirror is not None:
                service.mirror.offer(request, exchange.routing, now)
            return
        timeout = context.first_byte_timeout if fields.expect else context.body_timeout
        self.deadline = now + timeout
        self._state = _BODY
        self._decoder = _decoder_of(fields)
        begin(exchange)
        if self._pending.data and self._exchange is exchange:
            self._body(self._pending.take())

    def _body(self, data: bytes) -> None:
        exchange, decoder = self._exchange, self._decoder
        assert exchange is not None
        assert decoder is not None
        try:
            payload = decoder.feed(data)
        except ChunkedError as error:
            exchange.spoilt(Refusal(400, str(error)))
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

    def _refuse(self, refusal: Refusal, head: bytes) -> None:
        if head == HTTP2_HEAD and self._takes & HTTP2:
            self._state = _CLOSED
            http2 = Http2Connection(self._context, self.transport, self.peer, self._header)
            http2.take_over(self, head + self._pending.take())
            return
        refuse(self._context, self, refusal, head)
        self.linger()

    # The exchange's side

    def write(self, data: bytes, *, ends: bool = False) -> None:  # noqa: ARG002
        self._active = True
        self.transport.write(data)

    def write_head(self, head: bytes, end: bytes, body: bytes, *, ends: bool) -> None:  # noqa: ARG002
        self._active, write = True, self._write  # in plain Python the attribute is dear to call
        write(head + end + body if _joined is None else _joined(head, end, body))

    def relay(self, source: asyncio.Transport, size: int) -> None:
        relay(source, self.transport, size)

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
        self.deadline = inf if event_stream else now + self._context.body_timeout

    def exchange_done(self, now: float, *, close: bool) -> None:
        self._exchange = None
        context = self._context
        context.in_flight -= 1
        if close or context.draining:
            if self._state == _RESPONSE and not self._pending.data:
                self.close()
            else:
                self.linger()
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
        if not framed:
            reset(self.transport)
        self.close()

    def close(self) -> None:
        if self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self.linger()
            return
        self._state = _CLOSED
        self.deadline = _now() + self._context.body_timeout
        self.transport.close()

    def linger(self) -> None:
        self._state = _CLOSED
        self._pending.put(b"")
        context = self._context
        if self._exchange is not None:  # a tunnel is over, or a body was refused
            self._exchange = None
            context.in_flight -= 1
        context.connections.discard(self)
        self.drop_own()
        LingeringClose(context, self.transport, self._unsent).start()
        self.resume()

    def switch(self) -> None:
        self._state = _TUNNEL
        self.deadline = inf
        data = self._pending.take()  # what the client sent too early
        if data and self._exchange is not None:
            self._exchange.tunnel_send(data)
        self.resume()

    def tunnel_eof(self) -> None:
        self.deadline = _now() + self._context.limits.idle_timeout
        self.transport.write_eof()

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
            self.deadline = now + self._context.body_timeout
            return
        _time_out(self, exchange, unsent)

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

    def carries(self, service: object) -> bool:
        return self._exchange is not None and self._exchange.service is service

    def renew_peer(self) -> None:
        if not self.transport.is_closing():
            self.peer = peer_of(self.transport, self._context.trusted_proxies, self._header)


def _time_out(connection: ClientConnection, exchange: Exchange | None, unsent: int) -> None:
    """Act on a deadline that has passed although nothing moved."""
    state = connection._state
    connection.deadline = inf
    if state == _TUNNEL or (exchange is None and unsent):
        connection.transport.abort()
    elif exchange is not None:
        if state == _BODY and connection._reading and not exchange.holds_continue:
            exchange.spoilt(Refusal(408, "the request's body did not arrive in time"))
        elif connection._full:
            connection.transport.abort()  # the client does not read
        else:
            exchange.timed_out()
    elif state == _HEAD and connection._pending.data:
        refusal = Refusal(408, "the request's head did not arrive in time")
        connection._refuse(refusal, connection._pending.data)
    elif state == _HEAD:
        connection.transport.close()
    else:
        connection.transport.abort()


def _decoder_of(fields: RequestFields) -> ChunkedDecoder | LengthDecoder:
    return ChunkedDecoder(fields.nominated) if fields.chunked else LengthDecoder(fields.length)


def _only_http1(takes: int) -> int:
    """Return what a connection takes whose first request is of HTTP/1. Raises ``Refusal``."""
    if not takes & HTTP1:
        raise Refusal(505, "only HTTP/2 is supported here")
    return HTTP1
