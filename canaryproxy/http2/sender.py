"""Sending: heads, data as the peer's windows allow (RFC 9113 §5.2, §6.9), and control frames.

Data that no window has room for waits in its stream. Streams that wait take turns, a frame each, so that
one that is read slowly holds up none of its neighbours. What waits is bounded by those who write: they are
told that a stream is full (``data`` returns false), and when it has drained.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http2 import frames
from canaryproxy.http2.encoder import Encoder
from canaryproxy.http2.errors import FLOW_CONTROL_ERROR, ConnectionFault, StreamFault
from canaryproxy.http2.floods import CUT_DATA_SENT, DATA_SENT, Points
from canaryproxy.http2.frames import DATA, END_STREAM, HIGHEST
from canaryproxy.http2.messages import trailer_fields
from canaryproxy.http2.settings import DEFAULT_WINDOW, PeerSettings
from canaryproxy.http2.streams import Stream

_MOST_UNREAD: Final = 128 * 1024
"""Bytes of heads that wait to be read by the peer; then it may ask for nothing more."""
_TRAILERS: Final = b"\n"
"""Begins the key of a block of trailers; that of a head begins otherwise."""


class Sender:
    """Writes frames, which ``take`` returns."""

    __slots__ = ("_out", "_points", "_unread", "_waiting", "_window", "encoder", "held", "peer")

    def __init__(self, encoder: Encoder, points: Points) -> None:
        self.encoder = encoder
        self._points = points
        self.peer = PeerSettings()
        self.held = False
        """The transport is full: no data is written, control frames are."""
        self._unread = 0
        """Bytes of heads that were written while ``held``."""
        self._window = DEFAULT_WINDOW
        """Bytes that we may send on the connection."""
        self._out: list[bytes] = []
        self._waiting: dict[int, Stream] = {}
        """Streams with data to send, the next one first."""

    def take(self) -> bytes:
        """Return what is to be written, once."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def control(self, frame: bytes) -> None:
        """Write a frame that no window bounds."""
        self._out.append(frame)

    def head(self, stream: int, block: bytes, *, end: bool) -> None:
        """Write the head of a message: a block that ``encoder`` has just made, or knows."""
        if self.held:
            self._unread += len(block) + frames.HEAD_SIZE
        self._out.append(
            frames.headers(stream, block, end_stream=end, max_frame=self.peer.max_frame)
        )

    @property
    def is_unread(self) -> bool:
        """Tell whether the peer reads too few of the heads that no window bounds."""
        return self._unread > _MOST_UNREAD

    def hold(self) -> None:
        """Write no data until ``release``."""
        self.held = True
        self._unread = 0

    def release(self) -> None:
        """Write data again."""
        self.held = False
        self._unread = 0

    def data(self, stream: Stream, data: bytes, *, end: bool) -> bool:
        """Write data, or keep what no window has room for. Tell whether all is written.

        With ``end`` it ends the stream.
        """
        size = len(data)
        if stream.number in self._waiting:
            stream.pending = stream.pending[stream.at :] + data
            stream.at = 0
            stream.ends = end
            return False
        if not self.held and (
            not size
            or (size <= self._window and size <= stream.send_window and size <= self.peer.max_frame)
        ):
            if size or end:
                self._write(stream, data, END_STREAM if end else 0)
                self._points.earn(DATA_SENT)
            return True
        stream.pending = data
        stream.ends = end
        while not self.held:
            if self._turn(stream):
                return True
            if self._window <= 0 or stream.send_window <= 0:
                break
        self._waiting[stream.number] = stream
        return False

    def trailers(self, stream: Stream, lines: bytes) -> bool:
        """End a stream with trailers, after what waits in it. Tell whether all is written."""
        if stream.number in self._waiting:
            stream.trailers = lines
            stream.ends = True
            return False
        key = _TRAILERS + lines
        block = self.encoder.known(key)
        if block is None:
            block = self.encoder.encode(trailer_fields(lines), key)
        self.head(stream.number, block, end=True)
        return True

    def forget(self, stream: Stream) -> None:
        """Drop what waits in a stream: it was reset."""
        self._waiting.pop(stream.number, None)
        stream.pending = stream.trailers = b""

    def flush(self) -> list[Stream]:
        """Write what waits and has room now; returns the streams that have nothing left."""
        drained: list[Stream] = []
        blocked: dict[int, Stream] = {}
        waiting = self._waiting
        while waiting and not self.held:
            number = next(iter(waiting))
            stream = waiting.pop(number)
            if self._turn(stream):
                drained.append(stream)
            elif self._window > 0 and stream.send_window > 0:
                waiting[number] = stream
            else:
                blocked[number] = stream
        blocked.update(waiting)
        self._waiting = blocked
        return drained

    def _turn(self, stream: Stream) -> bool:
        """Write one frame of what waits in a stream; tell whether nothing is left."""
        pending, at = stream.pending, stream.at
        left = len(pending) - at
        size = min(left, self.peer.max_frame)
        size = min(size, self._window)
        size = min(size, stream.send_window)
        if size < left:
            if size > 0:
                self._write(stream, pending[at : at + size], 0)
                self._points.earn(size >> CUT_DATA_SENT)
                stream.at = at + size
            return False
        lines = stream.trailers
        ends = stream.ends and not lines
        if left or ends:
            self._write(stream, pending[at:] if at else pending, END_STREAM if ends else 0)
            self._points.earn(DATA_SENT)
        stream.pending = stream.trailers = b""
        stream.at = 0
        if lines:
            self.trailers(stream, lines)
        return True

    def _write(self, stream: Stream, data: bytes, flags: int) -> None:
        size = len(data)
        if size:
            self._window -= size
            stream.send_window -= size
        self._out.append(frames.frame_head(size, DATA, flags, stream.number))
        if size:
            self._out.append(data)

    # What the peer says of its windows

    def widen(self, increment: int) -> None:
        """Take a WINDOW_UPDATE of the connection. Raises ``ConnectionFault`` if it overflows (§6.9.1)."""
        self._window += increment
        if self._window > HIGHEST:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window overflows")

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """Take a WINDOW_UPDATE of a stream; tell whether something waits for it.

        Raises ``StreamFault`` if it overflows.
        """
        stream.send_window += increment
        if stream.send_window > HIGHEST:
            raise StreamFault(FLOW_CONTROL_ERROR, "the stream's window overflows")
        return stream.number in self._waiting

    def change_windows(self, streams: list[Stream], change: int) -> None:
        """Take a new SETTINGS_INITIAL_WINDOW_SIZE, which changes all windows by this much (§6.9.2)."""
        for stream in streams:
            stream.send_window += change
            if stream.send_window > HIGHEST:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window overflows")
