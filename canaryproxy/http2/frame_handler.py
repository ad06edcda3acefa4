"""The receiving half of a connection: what each frame does to streams and windows, and what it means.

``Connection`` adds what its owner does. ``streams`` has the table of a stream's states.
"""

from __future__ import annotations

from canaryproxy.http2 import frames, messages
from canaryproxy.http2.decoder import Decoder, FieldBlock
from canaryproxy.http2.encoder import Encoder
from canaryproxy.http2.errors import (
    FLOW_CONTROL_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    ConnectionFault,
    StreamFault,
)
from canaryproxy.http2.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    GoneAway,
    HeadReceived,
    Pong,
    StreamDrained,
    StreamRefused,
    StreamReset,
    TrailersReceived,
)
from canaryproxy.http2.floods import (
    ACKNOWLEDGED,
    DATA_RECEIVED,
    IGNORED,
    MESSAGE_ENDED,
    PATIENT,
    RESET,
    Points,
)
from canaryproxy.http2.frames import HIGHEST
from canaryproxy.http2.reader import FrameReader
from canaryproxy.http2.sender import Sender
from canaryproxy.http2.settings import DEFAULT_WINDOW, Bounds
from canaryproxy.http2.streams import (
    DROPPED,
    ENDED,
    IDLE,
    LOCAL,
    ON_DATA,
    ON_END,
    ON_HEADERS,
    ON_RESET,
    ON_WINDOW,
    OPEN,
    REMOTE,
    RESET_BY_PEER,
    RESET_BY_US,
    UNKNOWN_LENGTH,
    Stream,
    StreamTable,
    after,
)


class FrameHandler:
    """Takes the frames of one connection.

    A frame is read whole or not at all; a fault of a stream ends the stream, one of the connection ends it.
    """

    __slots__ = (
        "_bounds",
        "_content",
        "_decoder",
        "_events",
        "_full_window",
        "_last",
        "_points",
        "_reader",
        "_resets",
        "_seconds",
        "_sender",
        "_streams",
        "_window",
        "client",
        "closed",
        "going_away",
        "resets_received",
        "resets_sent",
    )

    def __init__(self, client: bool, bounds: Bounds, table_size: int) -> None:
        self.client = client
        self.closed = False
        """A connection error was made or received; nothing more is read."""
        self.going_away = False
        """The peer takes no new streams."""
        self.resets_received = self.resets_sent = 0
        """Streams that the peer has reset, and those that we have reset for an error."""
        self._bounds = bounds
        self._decoder = Decoder(bounds.max_list)
        self._streams = StreamTable(client=client)
        self._points = points = Points(bounds.points)
        self._resets = Points(bounds.resets)
        self._seconds = 0
        """How many seconds ``refill`` was told of."""
        self._reader = FrameReader(points, bounds.max_block, client=client)
        self._sender = Sender(Encoder(table_size), points)
        self._events: list[Event] = []
        self._content: dict[int, DataReceived] = {}
        """Of these events the last one with content of each stream."""
        self._last = HIGHEST
        """The last stream of the peer that we take (§6.8)."""
        self._window = self._full_window = max(bounds.connection_window, DEFAULT_WINDOW)
        """Bytes that the peer may send on the connection, now and at most."""

    def consume(self, stream: Stream, size: int) -> None:
        """Let the peer send as much again: so many bytes of the stream were passed on."""
        stream.taken += size
        if stream.taken * 2 >= self._bounds.stream_window and stream.state < REMOTE:
            self._sender.control(
                frames.number_frame(frames.WINDOW_UPDATE, stream.number, stream.taken)
            )
            stream.receive_window += stream.taken
            stream.taken = 0

    def receive(self, data: bytes) -> list[Event]:
        """Return what these bytes mean. After ``ConnectionFailed`` nothing comes any more."""
        if not self.closed:
            try:
                reader = self._reader
                reader.feed(data)
                while reader.next():
                    self._frame(reader.kind, reader.flags, reader.number, reader.payload)
            except ConnectionFault as fault:
                self._fail(fault)
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events = self._events
        self._events = []
        if self._content:
            self._content.clear()
        return events

    def _fail(self, fault: ConnectionFault) -> None:
        self.closed = True
        self._sender.control(
            frames.goaway(min(self._streams.highest, self._last), fault.code, fault.reason)
        )
        self._events.append(ConnectionFailed(fault.code, fault.reason))

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        try:
            if kind == frames.HEADERS:
                self._fields(number, self._decoder.decode(payload), flags & frames.END_STREAM != 0)
            elif kind == frames.DATA:
                self._data(flags, number, payload)
            elif kind == frames.WINDOW_UPDATE:
                self._window_update(number, payload)
            elif kind == frames.RST_STREAM:
                self._rst_stream(number, payload)
            else:
                self._rare(kind, flags, number, payload)
        except StreamFault as fault:
            self._stream_fault(number, fault)

    def _rare(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.SETTINGS:
            self._settings(flags, frames.setting_values(number, flags, payload))
        elif kind == frames.PING:
            frames.check_ping(number, payload)
            if flags & frames.ACK:
                self._points.spend(IGNORED, "pongs")
                self._events.append(Pong(payload))
            else:
                self._points.spend(ACKNOWLEDGED, "pings")
                self._sender.control(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            self._goaway(*frames.last_stream_and_code(number, payload))
        elif kind == frames.PRIORITY:
            self._points.spend(IGNORED, "PRIORITY frames")
            frames.check_priority(number, payload, is_open=number in self._streams.active)
        elif kind == frames.PUSH_PROMISE or kind == frames.CONTINUATION:
            raise ConnectionFault(PROTOCOL_ERROR, "frame that may not come here")
        else:
            self._points.spend(IGNORED, "unknown frames")

    # Messages

    def _fields(self, number: int, block: FieldBlock, ends: bool) -> None:
        """Take the head or the trailers of a message."""
        stream = self._streams.active.get(number)
        if stream is None:
            state = self._streams.state_of(number)
            if after(state, ON_HEADERS) != DROPPED:
                self._request(number, block, ends)
            else:
                self._points.spend(IGNORED, "frames on closed streams")
            return
        stream.state = after(stream.state, ON_HEADERS)
        if stream.has_head:
            if not ends:
                raise StreamFault(PROTOCOL_ERROR, "trailers that do not end the stream")
            lines = messages.trailer_lines(block)
            self._received_end(stream)
            self._events.append(TrailersReceived(stream, lines))
            return
        head = messages.response_head(block)
        if head.status >= 200:
            stream.has_head = True
            if not stream.bodiless:
                stream.bodiless = head.status == 204 or head.status == 304
            stream.left = UNKNOWN_LENGTH if stream.bodiless else head.length
        elif ends:
            raise StreamFault(PROTOCOL_ERROR, "interim response that ends the stream")
        else:
            self._points.spend(IGNORED, "interim responses")
        if ends:
            self._received_end(stream)
        self._events.append(HeadReceived(stream, head, ends=ends))

    def _request(self, number: int, block: FieldBlock, ends: bool) -> None:
        """Take the head of a request, which opens a stream."""
        streams = self._streams
        if self.client or not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "the peer may not open this stream")
        streams.highest = number
        if number > self._last:
            streams.close(number, RESET_BY_US)
            self._points.spend(IGNORED, "streams after GOAWAY")
            return
        if len(streams.active) >= self._bounds.max_streams:
            raise StreamFault(REFUSED_STREAM, "too many streams")
        if self._sender.is_unread:
            raise StreamFault(REFUSED_STREAM, "too many responses that are not read")
        head = messages.request_head(block)
        stream = Stream(number, OPEN, self._bounds.stream_window, self._sender.peer.initial_window)
        stream.has_head = True
        stream.left = head.length
        stream.opened = self._seconds
        if ends:
            self._received_end(stream)
        streams.active[number] = stream
        self._events.append(HeadReceived(stream, head, ends=ends))

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on stream 0")
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._window * 2 < self._full_window:
            more = self._full_window - self._window
            self._window = self._full_window
            self._sender.control(frames.number_frame(frames.WINDOW_UPDATE, 0, more))
        data = frames.unpadded(payload, flags)
        stream = self._streams.active.get(number)
        if stream is None:
            after(self._streams.state_of(number), ON_DATA)
            self._points.spend(IGNORED, "frames on closed streams")
            return
        stream.state = after(stream.state, ON_DATA)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(FLOW_CONTROL_ERROR, "more data than the stream's window")
        if not stream.has_head or (stream.bodiless and data):
            raise StreamFault(PROTOCOL_ERROR, "DATA where a message has none")
        ends = flags & frames.END_STREAM != 0
        if data:
            if not self._sender.held:
                self._points.earn(DATA_RECEIVED)
        elif not ends:
            self._points.spend(IGNORED, "empty DATA frames")
        if stream.left != UNKNOWN_LENGTH:
            stream.left -= len(data)
            if stream.left < 0:
                raise StreamFault(PROTOCOL_ERROR, "more data than Content-Length")
        if size > len(data):
            self.consume(stream, size - len(data))
        if ends:
            self._received_end(stream)
        if data or ends:
            self._add_content(stream, data, ends)

    def _add_content(self, stream: Stream, data: bytes, ends: bool) -> None:
        """Put small frames that come at once together: each piece costs as much as a large one."""
        event = self._content.get(stream.number)
        if event is not None and len(event.data) + len(data) <= frames.MAX_FRAME:
            event.data += data
            event.ends = ends
            return
        event = self._content[stream.number] = DataReceived(stream, data, ends=ends)
        self._events.append(event)

    def _received_end(self, stream: Stream) -> None:
        """The peer has ended its side."""
        if stream.left > 0:
            raise StreamFault(PROTOCOL_ERROR, "less data than Content-Length")
        stream.state = after(stream.state, ON_END)
        if stream.state == ENDED:
            self._ended(stream)

    def _sent_end(self, stream: Stream) -> None:
        """We have ended our side."""
        if stream.state == OPEN:
            stream.state = LOCAL
        elif stream.state == REMOTE:
            stream.state = ENDED
            self._ended(stream)

    def _ended(self, stream: Stream) -> None:
        self._points.earn(MESSAGE_ENDED)
        self._resets.earn(RESET)
        self._streams.close(stream.number, ENDED)

    def _close(self, stream: Stream, state: int) -> None:
        stream.state = state
        self._sender.forget(stream)
        self._streams.close(stream.number, state)

    def _stream_fault(self, number: int, fault: StreamFault) -> None:
        """Answer a stream error with RST_STREAM, and tell the owner if it knows the stream."""
        self.resets_sent += 1
        stream = self._streams.active.get(number)
        if stream is None or not self.client:
            self._resets.spend(RESET, "errors of streams")
        self._sender.control(frames.number_frame(frames.RST_STREAM, number, fault.code))
        if stream is None:
            self._streams.close(number, RESET_BY_US)
            self._events.append(StreamRefused(number, fault.code, fault.reason))
        else:
            self._close(stream, RESET_BY_US)
            self._events.append(StreamReset(stream, fault.code, fault.reason, unprocessed=False))

    # Control

    def _rst_stream(self, number: int, payload: bytes) -> None:
        code = frames.number("RST_STREAM", payload)
        stream = self._streams.active.get(number)
        if stream is None:
            after(IDLE if not number else self._streams.state_of(number), ON_RESET)
            self._points.spend(IGNORED, "resets")
            return
        self.resets_received += 1
        if not self.client and self._seconds - stream.opened < PATIENT:
            self._resets.spend(RESET, "resets")
        self._close(stream, after(stream.state, ON_RESET))
        unprocessed = code == REFUSED_STREAM
        self._events.append(StreamReset(stream, code, "", unprocessed=unprocessed))

    def _window_update(self, number: int, payload: bytes) -> None:
        increment = frames.number("WINDOW_UPDATE", payload) & HIGHEST
        self._points.spend(IGNORED, "WINDOW_UPDATE frames")
        if not number:
            if not increment:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self._sender.widen(increment)
        else:
            stream = self._streams.active.get(number)
            if stream is None:
                after(self._streams.state_of(number), ON_WINDOW)
                return
            if not increment:
                raise StreamFault(PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            if not self._sender.widen_stream(stream, increment):
                return
        self._flush()

    def _settings(self, flags: int, values: list[tuple[int, int]]) -> None:
        if flags & frames.ACK:
            self._points.spend(IGNORED, "acknowledgements of settings")
            return
        self._points.spend(ACKNOWLEDGED + len(values), "settings")
        sender = self._sender
        peer = sender.peer
        for number, value in values:
            window = peer.initial_window
            peer.take(number, value, from_server=self.client)
            sender.encoder.limit(peer.table_size)
            if peer.initial_window != window:
                streams = list(self._streams.active.values())
                sender.change_windows(streams, peer.initial_window - window)
        sender.control(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._flush()

    def _goaway(self, last: int, code: int) -> None:
        """Take GOAWAY: streams of ours above ``last`` were not looked at."""
        self._points.spend(ACKNOWLEDGED, "GOAWAY frames")
        self.going_away = True
        self._events.append(GoneAway(code))
        for stream in list(self._streams.active.values()):
            if self.client and stream.number > last:
                self._close(stream, RESET_BY_PEER)
                self._events.append(StreamReset(stream, code, "GOAWAY", unprocessed=True))

    def _flush(self) -> None:
        for stream in self._sender.flush():
            if stream.ends:
                self._sent_end(stream)
            self._events.append(StreamDrained(stream))
