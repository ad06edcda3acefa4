"""RFC 8441, extended CONNECT, of the server; tests are named after sections."""

from __future__ import annotations

import pytest

from canaryproxy.http1.websocket import accept_of
from canaryproxy.http2.connection import Connection
from canaryproxy.http2.errors import PROTOCOL_ERROR
from canaryproxy.http2.events import HeadReceived, StreamReset
from canaryproxy.http2.frames import SETTINGS, frame, setting_values
from canaryproxy.http2.messages import Head, opened_head
from canaryproxy.http2.settings import ENABLE_CONNECT_PROTOCOL
from tests.http2.peer import headers, server, verdict

Fields = list[tuple[bytes, bytes]]

OPEN: Fields = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":path", b"/chat"),
    (b":authority", b"h"),
    (b"sec-websocket-version", b"13"),
]


def head_of(fields: Fields) -> Head:
    (event,) = server().receive(headers(1, fields))
    assert isinstance(event, HeadReceived), event
    return event.head


def test_3_the_server_announces_extended_connect_and_a_client_does_not() -> None:
    announced = Connection().take()
    size = int.from_bytes(announced[:3])
    assert announced[3] == SETTINGS
    assert (ENABLE_CONNECT_PROTOCOL, 1) in setting_values(0, 0, announced[9 : 9 + size])
    assert bytes([0, ENABLE_CONNECT_PROTOCOL]) not in Connection(client=True).take()


def test_4_extended_connect_is_the_handshake_of_http_1() -> None:
    head = head_of([*OPEN, (b"cookie", b"a=1"), (b"cookie", b"b=2")])
    assert head.opens_tunnel
    assert head.handshake(b"KEY") == (
        b"GET /chat HTTP/1.1\r\nHost: h\r\nsec-websocket-version: 13\r\ncookie: a=1; b=2\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: KEY\r\n\r\n"
    )
    assert head.refusal is None


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"GET"), *OPEN[1:]],
        [*OPEN[:2], *OPEN[3:]],
        [*OPEN[:3], *OPEN[4:]],
        [*OPEN[:4], *OPEN[5:]],
        [OPEN[0], (b":protocol", b""), *OPEN[2:]],
        [OPEN[0], (b":protocol", b"web socket"), *OPEN[2:]],
        [OPEN[0], (b":protocol", b"a\r\nx: y"), *OPEN[2:]],
        [OPEN[1], *OPEN],
        [*OPEN, OPEN[1]],
        [*OPEN[:3], (b":path", b"*"), *OPEN[4:]],
        [*OPEN[:3], (b":path", b"https://h/"), *OPEN[4:]],
        [*OPEN, (b"content-length", b"0")],
        [*OPEN, (b"upgrade", b"websocket")],
        [*OPEN, (b"host", b"other")],
    ],
    ids=repr,
)
def test_4_what_is_malformed_is_an_error_of_its_stream(fields: Fields) -> None:
    assert verdict(server(), headers(1, fields)) == ("stream", PROTOCOL_ERROR)


def test_4_protocol_is_no_field_of_a_response() -> None:
    client = Connection(client=True)
    client.receive(frame(SETTINGS, 0, 0))
    assert client.open(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"http", ends=True)
    (event,) = client.receive(headers(1, [(b":status", b"200"), (b":protocol", b"websocket")]))
    assert isinstance(event, StreamReset), event


def test_5_key_and_accept_are_not_used() -> None:
    mean = [(b"sec-websocket-key", b"x"), (b"sec-websocket-accept", b"y"), (b"a", b"b")]
    assert head_of([*OPEN, *mean]).handshake(b"K") == head_of([*OPEN, mean[2]]).handshake(b"K")


def test_5_101_is_200_and_another_success_is_none() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\nsec-WebSocket-Accept: x\r\nC: d"
    assert opened_head(switched) == b"HTTP/1.1 200 OK\r\nA: b\r\nC: d"
    for status in (b"200 OK", b"204 No Content", b"299 Odd"):
        answer = b"HTTP/1.1 " + status + b"\r\nA: b"
        assert opened_head(answer) == b"HTTP/1.1 502 Bad Gateway\r\nA: b"
    for status in (b"100 Continue", b"302 Found", b"426 Upgrade Required", b"500 Error"):
        answer = b"HTTP/1.1 " + status + b"\r\nA: b"
        assert opened_head(answer) == answer


def test_rfc_6455_1_3_the_accept_of_a_key() -> None:
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
