"""Events: what received bytes mean to the owner of a connection, in their order."""

from __future__ import annotations

from canaryproxy.http2.messages import Head
from canaryproxy.http2.streams import Stream


class Event:
    """One event. Which one it is, its class says."""

    __slots__ = ()


class HeadReceived(Event):
    """A request, or a response, which is interim if its status is below 200.

    ``ends``: it has no content.
    """

    __slots__ = ("ends", "head", "stream")

    def __init__(self, stream: Stream, head: Head, *, ends: bool) -> None:
        self.stream = stream
        self.head = head
        self.ends = ends


class DataReceived(Event):
    """Content of a message, of one frame or several; to be given back with ``Connection.consume``."""

    __slots__ = ("data", "ends", "stream")

    def __init__(self, stream: Stream, data: bytes, *, ends: bool) -> None:
        self.stream = stream
        self.data = data
        self.ends = ends


class TrailersReceived(Event):
    """The message ends, with these lines."""

    __slots__ = ("lines", "stream")

    def __init__(self, stream: Stream, lines: bytes) -> None:
        self.stream = stream
        self.lines = lines


class StreamReset(Event):
    """The stream is closed: by the peer, or by us, as the peer broke a rule (``reason``).

    ``unprocessed``: the peer has not looked at the request, which may be sent again.
    """

    __slots__ = ("code", "reason", "stream", "unprocessed")

    def __init__(self, stream: Stream, code: int, reason: str, *, unprocessed: bool) -> None:
        self.stream = stream
        self.code = code
        self.reason = reason
        self.unprocessed = unprocessed


class StreamRefused(Event):
    """The peer broke a rule with the head of a stream, which is reset and was never open."""

    __slots__ = ("code", "number", "reason")

    def __init__(self, number: int, code: int, reason: str) -> None:
        self.number = number
        self.code = code
        self.reason = reason


class StreamDrained(Event):
    """All that was written to the stream is sent: it takes more."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class Pong(Event):
    """The peer answered a ping."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class GoneAway(Event):
    """The peer takes no new streams on this connection."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class ConnectionFailed(Event):
    """The peer broke a rule of the connection: GOAWAY is written, and it is to be closed."""

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
