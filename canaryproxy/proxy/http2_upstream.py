"""A connection of HTTP/2 to an endpoint: many requests at a time, each on a stream of its own.

``http2`` says what bytes mean and what is to be written. Here are the parts that need a clock or a socket. An
exchange sees an ``Http2Link`` as its connection: it writes the head of HTTP/1.1 to it, and gets such a head
back; content has no framing of its own.

Flow control. An upstream that reads a stream slowly makes its exchange stop its client. A client that reads
slowly pauses the link, whose bytes are then not given back to the upstream: it fills the window of that
stream and of no other.

The end. A connection *retires* when the upstream announces its end (GOAWAY), when it was idle for too long or
is lost: it takes no more requests, and closes with the last one.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Final, cast

from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import tokens
from canaryproxy.http1.head_cache import ResponseHeadCache
from canaryproxy.http1.response import Response
from canaryproxy.http2.connection import Connection as Http2
from canaryproxy.http2.errors import CANCEL, NO_ERROR, PROTOCOL_ERROR, name_of
from canaryproxy.http2.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    GoneAway,
    HeadReceived,
    StreamDrained,
    StreamReset,
    TrailersReceived,
)
from canaryproxy.http2.messages import switched_head
from canaryproxy.http2.streams import ENDED, Stream
from canaryproxy.measure.counters import Reason
from canaryproxy.proxy.failures import how_closed
from canaryproxy.proxy.interfaces import ConnectionSource, Receiver, SharedConnection, UpstreamLink
from canaryproxy.proxy.outbox import Outbox

MOST_STREAMS: Final = 100
"""Requests on a connection at a time, or fewer if the upstream says so."""
_MOST_INTERIM: Final = 100
"""1xx responses before a final one, as over HTTP/1.1."""
PING_AFTER: Final = 15.0
"""Seconds of silence after which a ping finds out whether the upstream is still there."""
PING_AGAIN: Final = 300.0
"""Seconds from ping to ping of one silence: gRPC servers close connections that ping more often."""
PONG_WITHIN: Final = 5.0
"""Seconds that the upstream has for its answer."""
_PING: Final = b"canaryps"
_LAST_WORDS: Final = 2.0
"""Seconds that the upstream has to end its side of a WebSocket that we have left."""
_WEBSOCKET: Final = b"websocket"
_NO_WEBSOCKETS: Final = (
    "it takes no WebSockets over HTTP/2: no SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441)"
)
_SWITCHING: Final = 101
_LATE_SWEEP: Final = 2.0
"""Seconds between two sweeps from which on this process was stopped for a while."""


class Http2Link(UpstreamLink):
    """One request and its response."""

    __slots__ = (
        "_connection",
        "_ended",
        "_interim_count",
        "_owed",
        "_paused",
        "_responded",
        "_stream",
        "is_tunnel",
        "key",
        "left_at",
        "receiver",
        "sent_at",
    )

    def __init__(self, connection: Http2Upstream) -> None:
        self.endpoint = connection.endpoint
        self.transport = connection.transport
        self.frames = True
        self.idle_since = 0.0
        self.receiver: Receiver | None = None
        """``None`` once the request is over."""
        self.sent_at = 0
        """What the connection had ``received`` when the request was sent."""
        self._connection = connection
        self._stream: Stream | None = None
        self._interim_count = 0
        self._responded = False
        """The head of the final response has come."""
        self._paused = False
        self._owed = 0
        """Bytes that were passed on while ``_paused``."""
        self.key: bytes | None = None
        """The Sec-WebSocket-Key of the handshake, if it is to open a WebSocket."""
        self.is_tunnel = False
        """The WebSocket is open."""
        self._ended = False
        """The client sends no more to it."""
        self.left_at = inf
        """When it had no ``receiver`` any more, and the upstream had yet to end its side."""

    # The receiver's side

    def send(self, receiver: Receiver, head: bytes) -> None:
        self.receiver = receiver
        fields = receiver.request.fields
        ends = not (fields.length or fields.chunked)
        connection = self._connection
        if fields.upgrade and _WEBSOCKET in tokens(fields.upgrade):
            if not connection.http2.takes_websockets:
                # Not at once: who sends does not expect an end of it yet.
                asyncio.get_running_loop().call_soon(
                    self.fail, Reason.BROKEN_ANSWER, _NO_WEBSOCKETS
                )
                return
            self.key = fields.field(b"sec-websocket-key") or b""
            ends = False
        stream = connection.http2.open(
            head,
            connection.scheme,
            ends=ends,
            never_indexed=receiver.request.never_indexed,
            websocket=self.key is not None,
        )
        assert stream is not None  # ``link`` has seen that there is room
        self._stream = stream
        self.sent_at = connection.received
        connection.links[stream.number] = self
        connection.flush()

    def write(self, data: bytes) -> None:
        self._send(data, ends=False)

    def end_request(self, trailers: bytes) -> None:
        if trailers and self._stream is not None:
            self._connection.http2.send_trailers(self._stream, trailers)
            self._connection.flush()
        else:
            self._send(b"", ends=True)

    def _send(self, data: bytes, *, ends: bool) -> None:
        stream = self._stream
        if stream is not None:
            written = self._connection.http2.send(stream, data, ends=ends)
            self._connection.flush()
            if not written and self.receiver is not None:
                self.receiver.upstream_full()

    def finish(self, now: float, *, reusable: bool) -> None:  # noqa: ARG002
        self._connection.served = True
        self._leave()

    def close(self) -> None:
        self._leave()

    def end(self) -> None:
        """Leave, or end our side of a WebSocket and wait a while for the upstream to end its own."""
        self.receiver = None
        if self.is_tunnel:
            self.end_tunnel()
            self.resume()
        stream = self._stream
        if stream is not None and self.is_tunnel and stream.state < ENDED:
            self.left_at = monotonic()
        else:
            self._leave()

    def end_tunnel(self) -> None:
        if not self._ended:
            self._ended = True
            self._send(b"", ends=True)

    def is_stuck(self) -> bool:
        stream = self._stream
        return stream is not None and bool(stream.pending)

    def _leave(self) -> None:
        """Leave the connection, which goes on; what the stream still has to send or to say is dropped."""
        self.receiver = None
        stream, self._stream = self._stream, None
        if stream is not None:
            self._connection.forget(stream)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        owed, self._owed = self._owed, 0
        if owed and self._stream is not None:
            self._connection.http2.consume(self._stream, owed)
            self._connection.flush()

    # The upstream's side

    def head(self, response: Response, body: bytes, *, complete: bool) -> None:
        """Take the head of a response, and content that came with it."""
        receiver = self.receiver
        if receiver is None:
            return
        if response.status == _SWITCHING:
            self.is_tunnel = self._connection.served = True
            receiver.switched(response, b"")
            self.body(body, complete=complete)
            return
        if response.status < 200:
            self._interim_count += 1
            if self._interim_count > _MOST_INTERIM:
                self.fail(Reason.BROKEN_ANSWER, f"more than {_MOST_INTERIM} interim responses")
            else:
                receiver.interim(response)
            return
        self._responded = True
        receiver.response_head(response, body, complete=complete)
        self._passed_on(len(body))

    def body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        """Take more of the response, or of what comes through a tunnel."""
        if self.is_tunnel:
            if data and self.receiver is not None:
                self.receiver.tunnel_data(data)
            self._passed_on(len(data))
            if complete and self.receiver is not None:
                self.receiver.tunnel_eof()
            elif complete:
                self._leave()
        elif self.receiver is not None:
            self.receiver.response_body(data, complete=complete, trailers=trailers)
            self._passed_on(len(data))

    def _passed_on(self, size: int) -> None:
        """Let the upstream send as much again, unless the client reads too slowly."""
        if self._paused:
            self._owed += size
        elif size and self._stream is not None:
            self._connection.http2.consume(self._stream, size)

    def drained(self) -> None:
        """All that was written is sent."""
        if self.receiver is not None:
            self.receiver.upstream_drained()

    def closed(self) -> None:
        """Take note that the upstream has closed the tunnel in order."""
        receiver = self.receiver
        self._leave()
        if receiver is not None:
            receiver.tunnel_closed(reset=False)

    def fail(
        self, reason: Reason, detail: str, *, stale: bool = False, unprocessed: bool = False
    ) -> None:
        """Take note that there will be no complete response. ``reason``: if nothing of it has come."""
        receiver = self.receiver
        self._leave()
        if receiver is None:
            return
        if self.is_tunnel:
            receiver.tunnel_closed(reset=True)
            return
        if self._responded and reason == Reason.RESET:
            reason = Reason.INCOMPLETE_ANSWER
        receiver.upstream_failed(reason, detail, stale=stale, unprocessed=unprocessed)


class Http2Upstream(SharedConnection):
    """An HTTP/2 client connection: an ``asyncio.Protocol`` by its methods, so it can be compiled."""

    __slots__ = (
        "_established",
        "_heard_at",
        "_idle_since",
        "_listed",
        "_outbox",
        "_parser",
        "_pinged_at",
        "_put_off",
        "_refilled_at",
        "_swept_at",
        "http2",
        "links",
        "received",
        "retired",
        "scheme",
        "served",
    )

    def __init__(
        self, endpoint: ConnectionSource, parser: ResponseHeadCache, outbox: Outbox
    ) -> None:
        self.endpoint = endpoint
        self._parser = parser
        self._outbox = outbox
        self.http2 = Http2(client=True, table_size=0)
        self.links: dict[int, Http2Link] = {}
        """Requests by their streams."""
        self.scheme = b"http"
        self.served = False
        """A request had its response."""
        self.received = 0
        """How many times bytes have come."""
        self.retired = False
        """It takes no more requests."""
        self._listed = False
        """The endpoint knows it."""
        self._established: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the upstream has sent its settings; else the reason why it never will."""
        self._put_off = False
        """The outbox has what there is to be written."""
        self._idle_since = self._heard_at = self._refilled_at = self._swept_at = monotonic()
        self._pinged_at = -inf

    # The endpoint's side

    async def first_link(self) -> UpstreamLink:
        try:
            failure = await self._established
        except asyncio.CancelledError:
            self.transport.abort()
            raise
        link = self.link()
        if link is None:
            raise ValueError(failure or "it takes no requests")
        self._listed = True
        self.endpoint.opened(self)
        return link

    def link(self) -> UpstreamLink | None:
        if (
            self.retired
            or len(self.links) >= MOST_STREAMS
            or not self.http2.takes_streams
            or self.transport.is_closing()
        ):
            return None
        return Http2Link(self)

    def retire(self) -> None:
        if self.retired:
            return
        self.retired = True
        if self._listed:
            self.endpoint.retired(self)
        if not self.links:
            self._close()

    def _close(self) -> None:
        """Say that this is the end, and close once that is written; at once if nothing is read any more."""
        if self.transport.is_closing():
            return
        is_stuck = self.transport.get_write_buffer_size() > 0
        if not self.http2.closed:
            self.http2.shut_down(now=True)
        self._write()
        if is_stuck:
            self.transport.abort()
        else:
            self.transport.close()

    def sweep(self, now: float, oldest: float) -> None:
        late = now - self._swept_at > _LATE_SWEEP
        self._swept_at = now
        seconds = int(now - self._refilled_at)
        self._refilled_at += seconds
        self.http2.refill(seconds)
        for link in [one for one in self.links.values() if one.left_at + _LAST_WORDS < now]:
            link.close()
        if not self.links and self._idle_since < oldest:
            self.retire()
        elif self._heard_at < self._pinged_at < now - PONG_WITHIN:
            if not late:  # else the answer may lie unread
                self._lose("no answer to a ping")
                self.transport.abort()
        elif now - self._heard_at > PING_AFTER and now - self._pinged_at > PING_AGAIN:
            self._pinged_at = now
            self.http2.ping(_PING)
            self.flush()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("sslcontext"):
            self.scheme = b"https"
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(how_closed(exc))

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.http2.hold()

    def resume_writing(self) -> None:
        self._act(self.http2.release())

    def data_received(self, data: bytes) -> None:
        self._heard_at = monotonic()
        self.received += 1
        if not self.transport.is_closing():
            self._act(self.http2.receive(data))
            if not self._established.done() and self.http2.is_established:
                self._established.set_result("")

    def _act(self, events: list[Event]) -> None:
        outbox = self._outbox
        ends = outbox.begin()
        try:
            self._act_on(events)
            self.flush()
        finally:
            if ends:
                outbox.end()

    def _act_on(self, events: list[Event]) -> None:
        count = len(events)
        at = 0
        while at < count:
            event = events[at]
            at += 1
            if isinstance(event, HeadReceived):
                following = events[at] if at < count else None
                if isinstance(following, DataReceived) and following.stream is event.stream:
                    at += 1
                    self._head(event, following.data, ends=following.ends)
                else:
                    self._head(event, b"", ends=event.ends)
            else:
                self._take(event)

    def _head(self, event: HeadReceived, body: bytes, *, ends: bool) -> None:
        link = self.links.get(event.stream.number)
        if link is None:
            return
        text = event.head.text
        if link.key is not None and 200 <= event.head.status < 300:
            text = switched_head(text, link.key)
        try:
            response = self._parser.parse(text)
        except InvalidResponse as error:
            self.http2.reset(event.stream, PROTOCOL_ERROR)
            link.fail(Reason.BROKEN_ANSWER, str(error))
        else:
            link.head(response, body, complete=ends)

    def _take(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            link = self.links.get(event.stream.number)
            if link is not None:
                link.body(event.data, complete=event.ends)
        elif isinstance(event, TrailersReceived):
            link = self.links.get(event.stream.number)
            if link is not None:
                link.body(b"", complete=True, trailers=event.lines)
        elif isinstance(event, StreamDrained):
            link = self.links.get(event.stream.number)
            if link is not None:
                link.drained()
        elif isinstance(event, StreamReset):
            self._reset(event)
        elif isinstance(event, GoneAway):
            self.retire()
        elif isinstance(event, ConnectionFailed):
            self._lose(f"{name_of(event.code)}: {event.reason}", Reason.BROKEN_ANSWER)

    def _reset(self, event: StreamReset) -> None:
        link = self.links.get(event.stream.number)
        if link is None:
            return
        if event.unprocessed:
            what = event.reason or "RST_STREAM"
            link.fail(Reason.RESET, f"{what} {name_of(event.code)}", unprocessed=True)
        elif link.is_tunnel and event.code == NO_ERROR:
            link.closed()
        elif event.reason:
            link.fail(Reason.BROKEN_ANSWER, f"{name_of(event.code)}: {event.reason}")
        else:
            link.fail(Reason.RESET, f"RST_STREAM {name_of(event.code)}")

    def _lose(self, how: str, reason: Reason = Reason.RESET) -> None:
        """Fail what is under way: the connection is lost, or the upstream broke a rule of it."""
        if not self._established.done():
            self._established.set_result(f"it does not speak HTTP/2: {how}")
        links, self.links = self.links, {}
        if links and not self.served:
            self.endpoint.failed(reason)
        self.retire()
        self._close()
        for link in links.values():
            # Nothing has come since it was sent: the connection was lost before.
            stale = self.served and link.sent_at == self.received and reason == Reason.RESET
            link.fail(reason, how, stale=stale)

    # For its links

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
            self.transport.write(data)

    def forget(self, stream: Stream) -> None:
        """Forget a request that is over."""
        if stream.state < ENDED:
            self.http2.reset(stream, CANCEL)
            self.flush()
        if self.links.pop(stream.number, None) is None:
            return
        if not self.links:
            self._idle_since = monotonic()
            if self.retired:
                self._close()
                return
        if not self.retired:
            self.endpoint.has_room()
