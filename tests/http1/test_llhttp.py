"""The parsers of heads: names that aiohttp takes only once, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.llhttp import HeadParser, MalformedHead, request_parser, response_parser

REQUEST, RESPONSE = b"GET / HTTP/1.1\r\nHost: h\r\n", b"HTTP/1.1 200 OK\r\nHost: h\r\n"
NAMES = [
    b"User-Agent", b"user-agent", b"Content-Type", b"ETag", b"SERVER", b"Content-Range", b"Max-Forwards",
    b"Content-Location", b"Sec-WebSocket-Key1", b"User-Agent~", b"X-Server", b"Server-", b"A",
]  # fmt: skip
fields = st.lists(
    st.tuples(st.sampled_from(NAMES), st.from_regex(rb"[!-~]([ -~]{0,9}[!-~])?", fullmatch=True)),
    max_size=8,
)
requests, responses = request_parser(), response_parser()


@pytest.mark.parametrize(("parser", "start"), [(requests, REQUEST), (responses, RESPONSE)])
@given(fields)
def test_every_field_is_returned_as_it_came(
    parser: HeadParser, start: bytes, found: list[tuple[bytes, bytes]]
) -> None:
    head = start + b"".join(b"%b: %b\r\n" % field for field in found) + b"\r\n"
    assert list(parser.fields(head)[0]) == [(b"Host", b"h"), *found]


@pytest.mark.parametrize(
    "line",
    [
        b"Host: h", b"User-Agent : a", b" User-Agent: a", b"A: b\nServer: c", b"A: b\rServer: c",
        b"Transfer-Encoding: chunked\r\nContent-Length: 1", b"Content-Length: 1\r\nContent-Length: 1",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ],
)  # fmt: skip
def test_another_mistake_is_refused_beside_fields_that_come_twice(line: bytes) -> None:
    with pytest.raises(MalformedHead):
        requests.fields(REQUEST + b"User-Agent: a\r\nUser-Agent: b\r\n" + line + b"\r\n\r\n")
