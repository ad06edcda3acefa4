"""A connection of HTTP/2 (RFC 9113), as server or as client: received bytes in, events out.

What is written is returned by ``take``. Nothing here waits, knows the time or opens a socket. ``streams``
has the table of a stream's states, ``sender`` what goes out, ``messages`` what a message may be, ``floods``
what a peer may make us do for nothing.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http2 import frames, messages
from canaryproxy.http2.decoder import Decoder, FieldBlock
from canaryproxy.http2.encoder import Encoder
from canaryproxy.http2.errors import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
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
    StreamReset,
    TrailersReceived,
)
from canaryproxy.http2.floods import (
    ACKNOWLEDGED,
    DATA_RECEIVED,
    IGNORED,
    MESSAGE_ENDED,
    RESET,
    Points,
)
from canaryproxy.http2.frames import HIGHEST, MAX_FRAME, PREFACE
from canaryproxy.http2.sender import Sender
from canaryproxy.http2.settings import DEFAULT_WINDOW, Bounds, own_settings
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

_DEFAULT_BOUNDS: Final = Bounds()

_NOTHING: Final = 0
"""What was received: nothing yet."""
_PREFACE_READ: Final = 1
_SETTINGS_READ: Final = 2


class _OpenBlock:
    """A field block whose CONTINUATION frames are to come: nothing else may come before them (§4.3)."""

    __slots__ = ("ends", "fragments", "size", "stream")

    def __init__(self, stream: int, fragment: bytes, *, ends: bool) -> None:
        self.stream = stream
        self.fragments = [fragment]
        self.size = len(fragment)
        self.ends = ends


class Connection:
    """One connection. ``client``: we are its client; else its server.

    The owner calls ``receive`` with what the transport has read, acts on the events, and writes what ``take``
    returns. ``table_size``: bytes of the table that our field blocks may use; see ``Encoder``.
    """

    __slots__ = (
        "_block",
        "_bounds",
        "_buffer",
        "_decoder",
        "_events",
        "_full_window",
        "_last",
        "_points",
        "_received",
        "_sender",
        "_streams",
        "_window",
        "client",
        "closed",
        "going_away",
    )

    def __init__(
        self, *, client: bool = False, bounds: Bounds = _DEFAULT_BOUNDS, table_size: int = 4096
    ) -> None:
        self.client = client
        self.closed = False
        """A connection error was made or received; nothing more is read."""
        self.going_away = False
        """The peer takes no new streams."""
        self._bounds = bounds
        self._decoder = Decoder(bounds.max_list)
        self._streams = StreamTable(client=client)
        self._points = points = Points(bounds.points)
        self._sender = sender = Sender(Encoder(table_size), points)
        self._events: list[Event] = []
        self._buffer = b""
        self._block: _OpenBlock | None = None
        self._received = _NOTHING if not client else _PREFACE_READ
        self._last = HIGHEST
        """The last stream of the peer that we take (§6.8)."""
        self._window = self._full_window = max(bounds.connection_window, DEFAULT_WINDOW)
        """Bytes that the peer may send on the connection."""
        if client:
            sender.control(PREFACE)
        sender.control(frames.settings(own_settings(bounds, client=client)))
        if self._window > DEFAULT_WINDOW:
            more = self._window - DEFAULT_WINDOW
            sender.control(frames.number_frame(frames.WINDOW_UPDATE, 0, more))

    @property
    def open_streams(self) -> int:
        """How many streams are not closed."""
        return len(self._streams.active)

    @property
    def highest_stream(self) -> int:
        """The highest stream that the peer has opened; 0: none."""
        return self._streams.highest

    def take(self) -> bytes:
        """Return the bytes that are to be written, once."""
        return self._sender.take()

    # What the owner does

    def open(self, head: bytes, scheme: bytes, *, ends: bool) -> Stream | None:
        """Send the head of a request, in HTTP/1.1, on a new stream; ``None`` if there may be no more."""
        streams, sender = self._streams, self._sender
        if (
            self.going_away
            or self.closed
            or len(streams.active) >= sender.peer.max_streams
            or streams.is_used_up
        ):
            return None
        stream = Stream(
            streams.next_number(),
            LOCAL if ends else OPEN,
            self._bounds.stream_window,
            sender.peer.initial_window,
        )
        stream.bodiless = head.startswith(b"HEAD ")
        streams.active[stream.number] = stream
        key = scheme + b":" + head
        block = sender.encoder.known(key)
        if block is None:
            block = sender.encoder.encode(messages.request_fields(head, scheme), key)
        sender.head(stream.number, block, end=ends)
        return stream

    def respond(self, stream: Stream, head: bytes, *, ends: bool) -> None:
        """Send the head of a response, in HTTP/1.1: status line and fields."""
        if stream.state >= ENDED:
            return
        encoder = self._sender.encoder
        block = encoder.known(head)
        if block is None:
            block = encoder.encode(messages.response_fields(head), head)
        self._sender.head(stream.number, block, end=ends)
        if ends:
            self._sent_end(stream)

    def send(self, stream: Stream, data: bytes, *, ends: bool) -> bool:
        """Send content. False: it waits, and the stream takes no more until ``StreamDrained``."""
        if stream.state >= ENDED:
            return True
        written = self._sender.data(stream, data, end=ends)
        if written and ends:
            self._sent_end(stream)
        return written

    def send_trailers(self, stream: Stream, lines: bytes) -> None:
        """End a message with these trailer lines; with none, as ``send`` does."""
        if not lines:
            self.send(stream, b"", ends=True)
        elif stream.state < ENDED and self._sender.trailers(stream, lines):
            self._sent_end(stream)

    def reset(self, stream: Stream, code: int = CANCEL) -> None:
        """Close a stream at once."""
        if stream.state < ENDED:
            self._close(stream, RESET_BY_US)
            self._sender.control(frames.number_frame(frames.RST_STREAM, stream.number, code))

    def consume(self, stream: Stream, size: int) -> None:
        """Let the peer send as much again: so many bytes of the stream were passed on."""
        stream.taken += size
        if stream.taken * 2 >= self._bounds.stream_window and stream.state < REMOTE:
            self._sender.control(
                frames.number_frame(frames.WINDOW_UPDATE, stream.number, stream.taken)
            )
            stream.receive_window += stream.taken
            stream.taken = 0

    def hold(self) -> None:
        """Write no data until ``release``: the transport is full."""
        self._sender.held = True

    def release(self) -> list[Event]:
        """Write data again, and return what that leads to."""
        self._events = events = list[Event]()
        self._sender.held = False
        self._flush()
        return events

    def ping(self, payload: bytes) -> None:
        """Ask for a ``Pong`` with the same 8 bytes."""
        self._sender.control(frames.frame(frames.PING, 0, 0, payload))

    def shut_down(self, *, now: bool) -> None:
        """Announce the end (§6.8): without ``now``, streams that are on their way are still taken."""
        if now:
            self._last = min(self._last, self._streams.highest)
        self._sender.control(frames.goaway(self._last, NO_ERROR, ""))

    def refill(self, points: int) -> None:
        """Let the peer have a few more frames that bring nothing forward; to be called with the time."""
        self._points.earn(points)

    # What is received

    def receive(self, data: bytes) -> list[Event]:
        """Return what these bytes mean. After ``ConnectionFailed`` nothing comes any more."""
        self._events = events = list[Event]()
        if not self.closed:
            try:
                self._read(self._buffer + data if self._buffer else data)
            except ConnectionFault as fault:
                self._fail(fault)
        return events

    def _fail(self, fault: ConnectionFault) -> None:
        self.closed = True
        self._buffer = b""
        self._sender.control(
            frames.goaway(min(self._streams.highest, self._last), fault.code, fault.reason)
        )
        self._events.append(ConnectionFailed(fault.code, fault.reason))

    def _read(self, data: bytes) -> None:
        """Read frames, and keep what is the beginning of one."""
        at = 0
        end = len(data)
        if self._received == _NOTHING:
            if data[: len(PREFACE)] != PREFACE[:end]:
                raise ConnectionFault(PROTOCOL_ERROR, "no connection preface")
            if end < len(PREFACE):
                self._buffer = data
                return
            at = len(PREFACE)
            self._received = _PREFACE_READ
        while end - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > MAX_FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, "frame too large")
            stop = at + 9 + length
            if stop > end:
                break
            number = (
                (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            )
            self._frame(data[at + 3], data[at + 4], number, data[at + 9 : stop])
            at = stop
        self._buffer = data[at:] if at < end else b""

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None:
            self._continue(self._block, kind, flags, number, payload)
            return
        if self._received != _SETTINGS_READ:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the preface has no SETTINGS")
            self._received = _SETTINGS_READ
        try:
            if kind == frames.HEADERS:
                self._headers(flags, number, payload)
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

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS on stream 0")
        fragment = frames.fragment(payload, flags)
        ends = flags & frames.END_STREAM != 0
        if flags & frames.END_HEADERS:
            self._fields(number, self._decoder.decode(fragment), ends=ends)
        else:
            self._block = _OpenBlock(number, fragment, ends=ends)

    def _continue(
        self, block: _OpenBlock, kind: int, flags: int, number: int, payload: bytes
    ) -> None:
        """Take a CONTINUATION frame (§6.10)."""
        if kind != frames.CONTINUATION or number != block.stream:
            raise ConnectionFault(PROTOCOL_ERROR, "frame inside a field block")
        self._points.spend(IGNORED, "CONTINUATION frames")
        block.fragments.append(payload)
        block.size += len(payload)
        if block.size > self._bounds.max_block:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "field block too large")
        if flags & frames.END_HEADERS:
            self._block = None
            fields = self._decoder.decode(b"".join(block.fragments))
            try:
                self._fields(number, fields, ends=block.ends)
            except StreamFault as fault:
                self._stream_fault(number, fault)

    def _fields(self, number: int, block: FieldBlock, *, ends: bool) -> None:
        """Take the head or the trailers of a message."""
        stream = self._streams.active.get(number)
        if stream is None:
            state = self._streams.state_of(number)
            if after(state, ON_HEADERS) != DROPPED:
                self._request(number, block, ends=ends)
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

    def _request(self, number: int, block: FieldBlock, *, ends: bool) -> None:
        """Take the head of a request, which opens a stream."""
        streams = self._streams
        if self.client or not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "the peer may not open this stream")
        streams.highest = number
        if number > self._last:
            streams.close(number, RESET_BY_US)
            return
        if len(streams.active) >= self._bounds.max_streams:
            raise StreamFault(REFUSED_STREAM, "too many streams")
        head = messages.request_head(block)
        stream = Stream(number, OPEN, self._bounds.stream_window, self._sender.peer.initial_window)
        stream.has_head = True
        stream.left = head.length
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
        if data and not self._sender.held:
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
            self._events.append(DataReceived(stream, data, ends=ends))

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
        self._streams.close(stream.number, ENDED)

    def _close(self, stream: Stream, state: int) -> None:
        stream.state = state
        self._sender.forget(stream)
        self._streams.close(stream.number, state)

    def _stream_fault(self, number: int, fault: StreamFault) -> None:
        """Answer a stream error with RST_STREAM, and tell the owner if it knows the stream."""
        self._points.spend(RESET, "errors of streams")
        self._sender.control(frames.number_frame(frames.RST_STREAM, number, fault.code))
        stream = self._streams.active.get(number)
        if stream is None:
            self._streams.close(number, RESET_BY_US)
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
        if code != NO_ERROR or not self.client:
            self._points.spend(RESET, "resets")
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
            self._sender.widen_stream(stream, increment)
        self._flush()

    def _settings(self, flags: int, values: list[tuple[int, int]]) -> None:
        if flags & frames.ACK:
            self._points.spend(IGNORED, "acknowledgements of settings")
            return
        self._points.spend(ACKNOWLEDGED + len(values), "settings")
        sender = self._sender
        peer = sender.peer
        window = peer.initial_window
        for number, value in values:
            peer.take(number, value, from_server=self.client)
            sender.encoder.limit(peer.table_size)
        if peer.initial_window != window:
            streams = list(self._streams.active.values())
            sender.change_windows(streams, peer.initial_window - window)
            self._flush()
        sender.control(frames.frame(frames.SETTINGS, frames.ACK, 0))

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
