"""A connection of HTTP/2 (RFC 9113), as server or as client: received bytes in, events out.

Its owner calls ``receive`` with what the transport has read, acts on the events, and writes what ``take``
returns. Nothing here waits, knows the time or opens a socket. ``frame_handler`` has what frames do,
``streams`` the table of a stream's states, ``sender`` what goes out, ``messages`` what a message may be,
``floods`` what a peer may make us do for nothing.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http2 import frames, messages
from canaryproxy.http2.errors import (
    CANCEL,
    NO_ERROR,
)
from canaryproxy.http2.events import (
    Event,
)
from canaryproxy.http2.floods import POINTS_A_SECOND, RESETS_A_SECOND
from canaryproxy.http2.frame_handler import FrameHandler
from canaryproxy.http2.frames import PREFACE
from canaryproxy.http2.settings import DEFAULT_WINDOW, Bounds, own_settings
from canaryproxy.http2.streams import (
    ENDED,
    LOCAL,
    OPEN,
    RESET_BY_US,
    Stream,
)

_DEFAULT_BOUNDS: Final = Bounds()
_NONE: Final[frozenset[bytes]] = frozenset()


class Connection(FrameHandler):
    """One connection. ``client``: we are its client; else its server.

    ``table_size``: bytes of the table that our field blocks may use; see ``Encoder``.
    """

    __slots__ = ()

    def __init__(
        self, *, client: bool = False, bounds: Bounds = _DEFAULT_BOUNDS, table_size: int = 4096
    ) -> None:
        super().__init__(client, bounds, table_size)
        sender = self._sender
        if client:
            sender.control(PREFACE)
        sender.control(frames.settings(own_settings(bounds, client=client)))
        if self._window > DEFAULT_WINDOW:
            more = self._window - DEFAULT_WINDOW
            sender.control(frames.number_frame(frames.WINDOW_UPDATE, 0, more))

    @property
    def is_established(self) -> bool:
        """The peer has said that it speaks HTTP/2, and sent its settings."""
        return self._reader.has_preface

    @property
    def takes_streams(self) -> bool:
        """Whether ``open`` returns a stream."""
        return not (
            self.going_away
            or self.closed
            or len(self._streams.active) >= self._sender.peer.max_streams
            or self._streams.is_used_up
        )

    @property
    def takes_websockets(self) -> bool:
        """The peer takes extended CONNECT (RFC 8441)."""
        return self._sender.peer.connect_protocol

    @property
    def open_streams(self) -> int:
        """How many streams are not closed."""
        return len(self._streams.active)

    @property
    def highest_stream(self) -> int:
        """The highest stream that the peer has opened; 0: none."""
        return self._streams.highest

    @property
    def waits_for_head(self) -> bool:
        """A field block was begun, or with no stream open a frame, and has not come whole."""
        reader = self._reader
        return reader.in_block or (reader.in_frame and not self._streams.active)

    def take(self) -> bytes:
        """Return the bytes that are to be written, once."""
        return self._sender.take()

    # What the owner does

    def open(
        self,
        head: bytes,
        scheme: bytes,
        *,
        ends: bool,
        never_indexed: frozenset[bytes] = _NONE,
        websocket: bool = False,
    ) -> Stream | None:
        """Send the head of a request, in HTTP/1.1, on a new stream; ``None`` if there may be no more.

        ``never_indexed``: see ``messages.Head``. ``websocket``: as extended CONNECT.
        """
        streams, sender = self._streams, self._sender
        if not self.takes_streams:
            return None
        stream = Stream(
            streams.next_number(),
            LOCAL if ends else OPEN,
            self._bounds.stream_window,
            sender.peer.initial_window,
        )
        stream.bodiless = head.startswith(b"HEAD ")
        streams.active[stream.number] = stream
        key = b"" if never_indexed or websocket else scheme + b":" + head
        block = sender.encoder.known(key)
        if block is None:
            if websocket:
                fields = messages.connect_fields(head, scheme)
            else:
                fields = messages.request_fields(head, scheme)
            block = sender.encoder.encode(fields, key, never_indexed)
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
            if self.closed:
                return
            self.resets_sent += code != NO_ERROR
            self._sender.control(frames.number_frame(frames.RST_STREAM, stream.number, code))

    def hold(self) -> None:
        """Write no data until ``release``: the transport is full."""
        self._sender.hold()

    def release(self) -> list[Event]:
        """Write data again, and return what that leads to."""
        self._sender.release()
        self._flush()
        return self._take_events()

    def ping(self, payload: bytes) -> None:
        """Ask for a ``Pong`` with the same 8 bytes."""
        self._sender.control(frames.frame(frames.PING, 0, 0, payload))

    def shut_down(self, *, now: bool) -> None:
        """Announce the end (§6.8): without ``now``, streams that are on their way are still taken."""
        if now:
            self._last = min(self._last, self._streams.highest)
        self._sender.control(frames.goaway(self._last, NO_ERROR, ""))

    def refill(self, seconds: int) -> None:
        """Give the peer the points of so many seconds that have passed."""
        self._seconds += seconds
        self._points.earn(seconds * POINTS_A_SECOND)
        self._resets.earn(seconds * RESETS_A_SECOND)
