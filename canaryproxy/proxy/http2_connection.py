"""A client's connection of HTTP/2: a stream for each request, which its exchange answers like any other.

``http2`` says what bytes mean and what is to be written. Here are the parts that need a clock or a socket:
timeouts, the transport, and what becomes of a request. An exchange sees an ``Http2Stream`` as its client's
connection, and writes HTTP/1.1 heads to it; content has no framing of its own.

Flow control. A client that reads slowly fills the window of its stream: the stream tells its exchange,
which stops its upstream. An upstream that reads slowly pauses the stream, whose bytes are then not given
back to the client.

The end. A connection that is idle, or whose worker shuts down, ends in steps (RFC 9113 §6.8), so that no
request on its way is lost:

    ``_leave``             GOAWAY without a last stream, and a ping: the client opens no more streams
    its answer             all that it sent before it read this has come: GOAWAY with the last stream
    the last stream ends   the connection closes
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from math import inf
from time import monotonic
from typing import Final, cast

from canaryproxy.config import Http2Limits
from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.proxy_protocol import ProxyHeader
from canaryproxy.http1.response import Response
from canaryproxy.http1.websocket import accept_of
from canaryproxy.http2.connection import Connection as Http2
from canaryproxy.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR, name_of
from canaryproxy.http2.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    HeadReceived,
    Pong,
    StreamDrained,
    StreamRefused,
    StreamReset,
    TrailersReceived,
)
from canaryproxy.http2.messages import opened_head
from canaryproxy.http2.settings import Bounds
from canaryproxy.http2.streams import ENDED, LOCAL, Stream
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Http2Failure
from canaryproxy.proxy.closing import LingeringClose
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.dispatch import begin, dispatch, find_service
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.interfaces import Connection, ResponseSink
from canaryproxy.proxy.known_request import parse
from canaryproxy.proxy.peer import peer_of
from canaryproxy.proxy.refusals import refuse

HTTP2_HEAD: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""How a client of HTTP/2 begins: no request of HTTP/1 does (RFC 9113 §3.4)."""
_LEAST_CONNECTION_WINDOW: Final = 1024 * 1024
_INTERIM: Final = b"1"
_LAST_CALL: Final = 1.0
"""Seconds in which a client tells that it has read the announcement of our end."""
_LAST_CALL_PING: Final = b"last one"
_ACCEPT: Final = b"sec-websocket-accept"
_KEY_SIZE: Final = 16
"""Bytes of a Sec-WebSocket-Key (RFC 6455 §4.1)."""


def _bounds(limits: Http2Limits) -> Bounds:
    return Bounds(
        max_streams=limits.max_streams,
        stream_window=limits.stream_window,
        connection_window=max(limits.stream_window, _LEAST_CONNECTION_WINDOW),
        points=limits.flood_budget,
        resets=limits.flood_budget // 10,
    )


class Http2Stream(ResponseSink):
    """One request and its response."""

    __slots__ = (
        "_active",
        "_at",
        "_began",
        "_client_ended",
        "_connection",
        "_early",
        "_ended",
        "_full",
        "_key",
        "_owed",
        "_paused",
        "_trailers",
        "exchange",
        "is_tunnel",
        "stream",
    )

    def __init__(self, connection: Http2Connection, stream: Stream) -> None:
        self.peer = connection.peer
        self.own = None
        self.deadline = inf
        self.stream = stream
        self.exchange: Exchange | None = None
        self._connection = connection
        self._active = False
        """Something moved since the last ``sweep``."""
        self._at = 0
        """How far the data that waits was sent at the last ``sweep``."""
        self._began = self._ended = False
        """The head of the final response was written, and its end."""
        self._full = False
        """The client reads slower than we write."""
        self._paused = False
        self._owed = 0
        """Bytes that were passed on while ``_paused``."""
        self._trailers = b""
        self._key = b""
        """The Sec-WebSocket-Key of the handshake, if it is to open a WebSocket."""
        self._early = bytearray()
        """What the client has sent before the handshake was complete; its window bounds it."""
        self._client_ended = False
        """The client sends no more to the WebSocket."""
        self.is_tunnel = False
        """The handshake is complete."""

    # The client's side

    def begin(self, event: HeadReceived, context: WorkerContext) -> None:
        """Route the request and start its exchange. Raises ``Refusal``."""
        head = event.head
        text = head.text_for(ends=event.ends)
        if head.opens_tunnel:
            self._key = b64encode(os.urandom(_KEY_SIZE))
            self._client_ended = event.ends
            text = head.handshake(self._key)
        request = parse(context.request_parser, self.peer, head, text)
        if context.in_flight >= context.max_requests:
            raise Refusal(503, "too many requests in flight")
        now = monotonic()
        fields = request.fields
        has_body = not event.ends and (fields.length > 0 or fields.chunked)
        service = context.only
        if service is None:
            service = context.by_host.get(fields.host) or find_service(context, request)
            if service.request_parser is not context.request_parser:
                request = parse(service.request_parser, self.peer, head, text)
                fields = request.fields
        exchange = self.exchange = dispatch(service, self, request, now, has_body)
        service = exchange.service
        context.in_flight += 1
        if has_body and not fields.expect:
            self.deadline = now + context.body_timeout
        else:
            self.deadline = now + context.first_byte_timeout
        service.tallies[exchange.variant].add(counters.HTTP2)
        begin(exchange)
        if not has_body and service.mirror is not None:
            service.mirror.offer(request, exchange.routing, now)

    def received(self, data: bytes) -> None:
        """Take content of the request."""
        self._active = True
        exchange = self.exchange
        if self._key:
            if not self.is_tunnel:
                self._early += data
                return
            if exchange is not None:
                exchange.tunnel_send(data)
        elif exchange is not None:
            exchange.request_body(data)
        if self._paused:
            self._owed += len(data)
        else:
            self._connection.http2.consume(self.stream, len(data))

    def received_end(self, trailers: bytes = b"") -> None:
        """Take the end of the request, or of what the client sends to a WebSocket."""
        exchange = self.exchange
        if self._key:
            self._client_ended = True
            if self.is_tunnel and exchange is not None:
                self.deadline = monotonic() + self._connection.context.idle_timeout
                exchange.tunnel_client_eof()
        elif exchange is not None and not exchange.finished and exchange.has_body:
            exchange.request_end(trailers)

    def drained(self) -> None:
        """All that was written is sent."""
        self._active = True
        self._full = False
        if self.exchange is not None:
            self.exchange.client_drained()
        else:
            self._leave()

    def gone(self) -> None:
        """The stream was closed: drop the request."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._connection.context.in_flight -= 1
            exchange.client_gone()

    def broke_rules(self) -> None:
        """The client sent what may not come on the stream of a WebSocket (RFC 9113 §8.5)."""
        self.gone()
        self._reset(PROTOCOL_ERROR)

    def refuse(self, refusal: Refusal, head: bytes) -> None:
        """Write the proxy's own error in place of a response."""
        self.deadline = monotonic() + self._connection.context.body_timeout
        refuse(self._connection.context, self, refusal, head)
        self._end()

    # The exchange's side

    def write(self, data: bytes, *, ends: bool = False) -> None:
        if not self._began:
            head, _, body = data.partition(b"\r\n\r\n")
            self.write_head(head, b"", body, ends=ends)
            return
        http2, stream, trailers = self._connection.http2, self.stream, self._trailers
        self._ended = ends
        if not http2.send(stream, data, ends=ends and not trailers):
            self._full = True
            if self.exchange is not None:
                self.exchange.client_full()
        if trailers and ends:
            http2.send_trailers(stream, trailers)
        self._active = True
        self._connection.flush()

    def write_head(self, head: bytes, end: bytes, body: bytes, *, ends: bool) -> None:
        head += end
        if self._key:
            head = opened_head(head)
        self._began = head[9:10] != _INTERIM
        alone = not body and not self._trailers
        self._connection.http2.respond(self.stream, head, ends=ends and alone)
        if body or (ends and not alone):
            self.write(body, ends=ends)
            return
        self._ended = ends
        self._active = True
        self._connection.flush()

    def write_interim(self, data: bytes) -> None:
        self.write(data)

    def keep_trailers(self, lines: bytes) -> None:
        self._trailers = lines

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        owed, self._owed = self._owed, 0
        if owed:
            self._connection.http2.consume(self.stream, owed)
            self._connection.flush()

    def await_response(self, now: float) -> None:
        self._active = False
        self.deadline = now + self._connection.context.first_byte_timeout

    def stream_response(self, now: float, *, event_stream: bool) -> None:
        self.deadline = inf if event_stream else now + self._connection.context.body_timeout

    def exchange_done(self, now: float, *, close: bool) -> None:  # noqa: ARG002
        self.exchange = None
        self._connection.context.in_flight -= 1
        self.deadline = now + self._connection.context.body_timeout
        self._end()

    def break_off(self, *, framed: bool) -> None:  # noqa: ARG002
        if self.exchange is not None:
            self.exchange = None
            self._connection.context.in_flight -= 1
        self._reset(CANCEL if self.is_tunnel else INTERNAL_ERROR)

    def close(self) -> None:
        self.linger()

    def linger(self) -> None:
        context = self._connection.context
        if self.exchange is not None:
            self.exchange = None
            context.in_flight -= 1
        self.deadline = monotonic() + context.body_timeout
        self._end()

    def opens(self, response: Response) -> bool:
        accepts = [value for name, value in response.fields if name.lower() == _ACCEPT]
        return accepts == [accept_of(self._key)]

    def switch(self) -> None:
        self.is_tunnel = True
        self.deadline = inf
        early, self._early = self._early, bytearray()
        if early:
            self.received(bytes(early))
        if self._client_ended:
            self.received_end()

    def tunnel_eof(self) -> None:
        self.deadline = monotonic() + self._connection.context.idle_timeout
        self._ended = True
        self._connection.http2.send(self.stream, b"", ends=True)
        self._connection.flush()

    def tunnel_reset(self) -> None:
        self.break_off(framed=False)

    def _end(self) -> None:
        """The response is written: end our side."""
        if not self._ended:
            self._ended = True
            self._connection.http2.send(self.stream, b"", ends=True)
        self._leave()
        self._connection.flush()

    def _leave(self) -> None:
        """Leave the connection if the stream is over: the client need not send the rest of a request."""
        if self.stream.state == LOCAL:
            self._connection.http2.reset(self.stream, NO_ERROR)
        if self.stream.state >= ENDED:
            self._connection.forget(self.stream.number)

    def _reset(self, code: int) -> None:
        self._connection.http2.reset(self.stream, code)
        self._connection.forget(self.stream.number)
        self._connection.flush()

    # The worker's side

    def sweep(self, now: float) -> None:
        """Extend the deadline if something moved, else time out."""
        at = self.stream.at
        if self._active or at != self._at:
            self._active, self._at = False, at
            self.deadline = now + self._connection.context.body_timeout
            return
        self.deadline = inf
        exchange = self.exchange
        if exchange is None or self._full or self.is_tunnel:
            self.gone()
            self._reset(CANCEL)  # the client does not read
        elif not exchange.request_done and not self._paused and not exchange.holds_continue:
            exchange.spoilt(Refusal(408, "the request's body did not arrive in time"))
        else:
            exchange.timed_out()

    def drain(self, until: float | None) -> None:
        """Do nothing: its connection drains."""

    def abort(self) -> None:
        self._connection.abort()


class Http2Connection(Connection):
    """An HTTP/2 server connection: an ``asyncio.Protocol`` by its methods, so it can be compiled."""

    __slots__ = (
        "_header",
        "_idle_since",
        "_last_call",
        "_moved_at",
        "_named_last",
        "_outbox",
        "_put_off",
        "_resets",
        "_sent",
        "_streams",
        "_swept_at",
        "_unsent",
        "_whole_at",
        "_written",
        "context",
        "http2",
        "peer",
        "transport",
    )

    def __init__(
        self,
        context: WorkerContext,
        transport: asyncio.Transport,
        peer: Peer,
        header: ProxyHeader | None,
    ) -> None:
        self.context = context
        self.transport = transport
        self.peer = peer
        peer.http2 = True
        self._header = header
        self.http2 = Http2(bounds=_bounds(context.limits.http2))
        self._streams: dict[int, Http2Stream] = {}
        self._outbox = context.outbox
        self._put_off = False
        """The outbox has what there is to be written."""
        self._idle_since = self._moved_at = self._swept_at = self._whole_at = monotonic()
        self._sent = self._unsent = 0
        """Bytes that the client had taken at the last ``sweep``, and that waited to be written."""
        self._written = 0
        self._last_call = inf
        """When the client has had its time to read that we take no more streams."""
        self._named_last = False
        """The last stream was named to the client."""
        self._resets = (0, 0)
        """Streams that the client and we had reset when they were counted last."""
        self.deadline = 0.0  # it is swept each time, for its streams

    def take_over(self, connection: Connection, data: bytes) -> None:
        """Take the place of a connection of HTTP/1 that got ``HTTP2_HEAD``; ``data`` is all that came."""
        self.context.connections.discard(connection)
        self.context.connections.add(self)
        self.transport.set_protocol(cast(asyncio.Protocol, self))
        self.context.proxy_tally.add(counters.HTTP2_OPENED)
        self.data_received(data)

    # asyncio's side

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.context.connections.discard(self)
        self.context.proxy_tally.add(counters.CONNECTIONS_CLOSED)
        self._lose_streams()
        self._count_end()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.http2.hold()

    def resume_writing(self) -> None:
        self._act(self.http2.release())

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self._act(self.http2.receive(data))

    def _act(self, events: list[Event]) -> None:
        outbox = self._outbox
        ends = outbox.begin()
        try:
            for event in events:
                self._take(event)
            self.flush()
            if self.http2.closed:
                self._fail()
        finally:
            if ends:
                outbox.end()

    def _fail(self) -> None:
        """The client broke a rule: close, so that what it still sends does not destroy our GOAWAY."""
        self._lose_streams()
        self._close()

    def _count_end(self) -> None:
        self._count_resets()
        self.context.proxy_tally.add(counters.HTTP2_CLOSED)

    def _count_resets(self) -> None:
        """Count the streams that were reset since the last time."""
        resets = (self.http2.resets_received, self.http2.resets_sent)
        if resets != self._resets:
            tally = self.context.proxy_tally
            for by, before in enumerate(self._resets):
                tally.add(counters.HTTP2_RESETS + by, resets[by] - before)
            self._resets = resets

    def _lose_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.gone()
            stream.drop_own()

    def _take(self, event: Event) -> None:
        if isinstance(event, HeadReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            stream = self._streams.get(event.stream.number)
            if stream is not None:
                if event.data:
                    stream.received(event.data)
                if event.ends:
                    stream.received_end()
        elif isinstance(event, TrailersReceived):
            stream = self._streams.get(event.stream.number)
            if stream is not None and stream.is_tunnel:
                stream.broke_rules()
            elif stream is not None:
                stream.received_end(event.lines)
        elif isinstance(event, StreamDrained):
            stream = self._streams.get(event.stream.number)
            if stream is not None:
                stream.drained()
        elif isinstance(event, StreamReset):
            stream = self._streams.get(event.stream.number)
            self.forget(event.stream.number)
            if stream is not None:
                stream.gone()
            if event.reason:
                self._log("stream reset", event.code, event.reason)
        elif isinstance(event, StreamRefused):
            self._log("stream reset", event.code, event.reason)
        elif isinstance(event, ConnectionFailed):
            failure = Http2Failure[name_of(event.code)]
            self.context.proxy_tally.add(counters.HTTP2_FAILED + failure)
            self._log("connection closed", event.code, event.reason)
        elif isinstance(event, Pong) and event.payload == _LAST_CALL_PING:
            self._name_last()

    def _log(self, what: str, code: int, why: str) -> None:
        self.context.error_log.faulted(monotonic(), what, name_of(code), why, self.peer.address)

    def _begin(self, event: HeadReceived) -> None:
        if event.stream.state >= ENDED:
            return  # it was reset by what came with it
        stream = self._streams[event.stream.number] = Http2Stream(self, event.stream)
        refusal = event.head.refusal
        if refusal is None:
            try:
                stream.begin(event, self.context)
                return
            except Refusal as error:
                refusal = error
        stream.refuse(refusal, event.head.text)

    # For its streams

    def flush(self) -> None:
        """Write what there is to be written, once all that was received is acted on."""
        if not self._outbox.collects:
            self._write()
        elif not self._put_off:
            self._put_off = True
            self._outbox.put_off(self._write)

    def _write(self) -> None:
        self._put_off = False
        if (data := self.http2.take()) and not self.transport.is_closing():
            self._written += len(data)
            self.transport.write(data)

    def forget(self, number: int) -> None:
        """Forget a stream that is over."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.drop_own()
        if not self._streams:
            self._idle_since = monotonic()

    # The worker's side

    def sweep(self, now: float) -> None:
        """Time out streams and the connection itself, and earn its points."""
        self._count_resets()
        seconds = int(now - self._swept_at)
        if seconds:
            self._swept_at += seconds
            self.http2.refill(seconds)
        unsent = self._unsent = self.transport.get_write_buffer_size()
        sent = self._written - unsent
        if sent > self._sent or not unsent:
            self._sent, self._moved_at = sent, now
        elif now - self._moved_at > self.context.body_timeout:
            self.transport.abort()
            return
        if not self.http2.waits_for_head:
            self._whole_at = now
        elif now - self._whole_at > self.context.header_timeout:
            self.http2.shut_down(now=True)
            self.flush()
            self._fail()
            return
        for stream in list(self._streams.values()):
            if stream.deadline < now:
                stream.sweep(now)
        idle = not self._streams and now - self._idle_since > self.context.idle_timeout
        if idle or self.context.draining:
            self._leave(now)
        if self._last_call < now:
            self._name_last()
        if self._named_last and not self._streams:
            self._close()

    def _leave(self, now: float) -> None:
        """Announce that we take no more streams than those that are on their way."""
        if self._last_call == inf:
            self._last_call = now + _LAST_CALL
            self.http2.shut_down(now=False)
            self.http2.ping(_LAST_CALL_PING)
            self.flush()

    def _name_last(self) -> None:
        """Name the last stream that we take."""
        if self._last_call < inf and not self._named_last:
            self._named_last = True
            self.http2.shut_down(now=True)
            self.flush()

    def _close(self) -> None:
        self._write()
        self._count_end()
        self.context.connections.discard(self)
        LingeringClose(self.context, self.transport, self._unsent).start()

    def mark_late(self, now: float) -> None:
        for stream in self._streams.values():
            if stream.exchange is not None:
                stream.exchange.mark_late(now)

    def drain(self, until: float | None) -> None:  # noqa: ARG002
        self._leave(monotonic())

    def abort(self) -> None:
        self.transport.abort()

    def carries(self, service: object) -> bool:
        exchanges = [stream.exchange for stream in self._streams.values()]
        return any(one is not None and one.service is service for one in exchanges)

    def renew_peer(self) -> None:
        if not self.transport.is_closing():
            self.peer = peer_of(self.transport, self.context.trusted_proxies, self._header)
            self.peer.http2 = True
