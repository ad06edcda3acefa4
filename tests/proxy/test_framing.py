"""How the end of a body is marked for the client (RFC 9112 §6.3), for each kind of request and response."""

from __future__ import annotations

import pytest

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import Request, RequestParser
from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.proxy.framing import (
    AS_RECEIVED,
    BY_CLOSE,
    CHUNKED,
    connection_line,
    framing_line,
    framing_of,
)

CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"


def request(line: bytes) -> Request:
    head = line + b"\r\nHost: h\r\n\r\n"
    return RequestParser(b"\r\n").parse(head, Peer("127.0.0.1", b"http", False, b"localhost"))


def response(status: bytes, field: bytes = b"") -> Response:
    return ResponseParser().parse(b"HTTP/1.1 " + status + b" X\r\n" + field + b"\r\n")


GET, GET10, HEAD = (
    request(line) for line in (b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"HEAD / HTTP/1.1")
)
LENGTH = b"Content-Length: 5\r\n"


@pytest.mark.parametrize(
    ("asked", "status", "field", "framing", "line"),
    [
        (GET, b"200", LENGTH, AS_RECEIVED, b""),
        (GET, b"200", CHUNKED_LINE, CHUNKED, CHUNKED_LINE),
        (GET, b"200", b"", CHUNKED, CHUNKED_LINE),
        (GET10, b"200", LENGTH, AS_RECEIVED, b""),
        (GET10, b"200", CHUNKED_LINE, BY_CLOSE, b""),
        (GET10, b"200", b"", BY_CLOSE, b""),
        (HEAD, b"200", b"", AS_RECEIVED, b""),
        (HEAD, b"200", CHUNKED_LINE, AS_RECEIVED, CHUNKED_LINE),
        (GET, b"204", b"", AS_RECEIVED, b""),
        (GET, b"304", b"", AS_RECEIVED, b""),
        (GET10, b"304", b"", AS_RECEIVED, b""),
    ],
)
def test_each_body_ends_where_the_client_can_tell(
    asked: Request, status: bytes, field: bytes, framing: int, line: bytes
) -> None:
    received = response(status, field)
    assert framing_of(asked, received) == framing
    assert framing_line(asked, received, framing) == line


def test_the_connection_line_says_only_what_is_not_the_default() -> None:
    assert connection_line(GET, close=True) == b"Connection: close\r\n"
    assert connection_line(GET10, close=True) == b"Connection: close\r\n"
    assert connection_line(GET, close=False) == b""
    assert connection_line(GET10, close=False) == b"Connection: keep-alive\r\n"
