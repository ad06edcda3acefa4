"""Response heads without sockets: a head that passes is strict, and h11 reads the same in it."""

from __future__ import annotations

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import find_head_end
from canaryproxy.http1.response import ResponseParser

from .heads import fields, strict, values_of

parser = ResponseParser()


@settings(max_examples=600)
@given(
    fields,
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 404 X", b"HTTP/1.1 304", b"HTTP/1.1 204 "]),
)
@example(b"Content-Length : 5\r\n", b"HTTP/1.1 200 OK")
@example(b"Transfer-Encoding : chunked\r\n", b"HTTP/1.1 200 OK")
@example(b" Content-Length: 5\r\n", b"HTTP/1.1 200 OK")
@example(b"\tA: 5\r\n", b"HTTP/1.1 200 OK")
def test_responses_that_pass_are_strict_and_mean_the_same_to_h11(more: bytes, line: bytes) -> None:
    head = line + b"\r\n" + more + b"\r\n"
    try:
        response = parser.parse(head[: find_head_end(head)])
    except InvalidResponse:
        return
    sent = strict(response.head + b"\r\n")
    assert not values_of(sent, b"transfer-encoding")
    assert not values_of(sent, b"connection")
    assert not values_of(sent, b"keep-alive")
    lengths = values_of(sent, b"content-length")
    if response.chunked:
        assert lengths == []
    else:
        assert {int(value) for value in lengths} <= {response.length}
        assert bool(lengths) == (response.length >= 0)
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(response.head.replace(b"HTTP/1.1 304\r", b"HTTP/1.1 304 \r") + b"\r\n")
    event = reader.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == response.status
