"""The other end of a connection under test: frames by hand, and what came back as frames."""

from __future__ import annotations

import hpack
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from canaryproxy.http2 import frames
from canaryproxy.http2.connection import Connection
from canaryproxy.http2.events import Event, HeadReceived
from canaryproxy.http2.frames import END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame
from canaryproxy.http2.settings import Bounds
from canaryproxy.http2.streams import Stream

Fields = list[tuple[bytes, bytes]]

GET: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"shop.example"),
    (b":path", b"/"),
]
POST: Fields = [(b":method", b"POST"), *GET[1:]]
OK: Fields = [(b":status", b"200")]
REQUEST = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"


def block(fields: Fields) -> bytes:
    """Return fields as a block that any decoder understands."""
    return bytes(hpack.Encoder().encode(fields, huffman=False))


def headers(number: int, fields: Fields, *, end: bool = False) -> bytes:
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, flags, number, block(fields))


def data(number: int, content: bytes, *, end: bool = False) -> bytes:
    return frame(frames.DATA, END_STREAM if end else 0, number, content)


def number_frame(kind: int, stream: int, number: int) -> bytes:
    return frames.number_frame(kind, stream, number)


def server(bounds: Bounds | None = None) -> Connection:
    """Return a server whose client has sent its preface."""
    connection = Connection(bounds=bounds or Bounds())
    assert connection.receive(PREFACE + frame(SETTINGS, 0, 0)) == []
    connection.take()
    return connection


def client(bounds: Bounds | None = None) -> Connection:
    """Return a client whose server has sent its preface."""
    connection = Connection(client=True, bounds=bounds or Bounds())
    assert connection.receive(frame(SETTINGS, 0, 0)) == []
    connection.take()
    return connection


def request(connection: Connection, number: int = 1, fields: Fields = GET) -> Stream:
    """Have the server receive a whole request, and return its stream."""
    (event,) = connection.receive(headers(number, fields, end=True))
    assert isinstance(event, HeadReceived)
    return event.stream


def ask(connection: Connection, head: bytes = REQUEST, *, ends: bool = True) -> Stream:
    """Have the client send a request, and return its stream."""
    stream = connection.open(head, b"http", ends=ends)
    assert stream is not None
    return stream


def written(connection: Connection) -> list[Frame]:
    """Return the frames that the connection has written since the last time."""
    output, parsed = connection.take().removeprefix(PREFACE), []
    while output:
        one, length = Frame.parse_frame_header(memoryview(output[:9]))
        one.parse_body(memoryview(output[9 : 9 + length]))
        parsed.append(one)
        output = output[9 + length :]
    return parsed


def verdict(connection: Connection, received: bytes) -> tuple[str, int]:
    """Return what became of bytes: the kind of the error and its code, ``("", 0)`` without one."""
    connection.receive(received)
    for one in written(connection):
        if isinstance(one, GoAwayFrame):
            assert connection.closed
            return "connection", one.error_code
        if isinstance(one, RstStreamFrame):
            return "stream", one.error_code
    assert not connection.closed
    return "", 0


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]
