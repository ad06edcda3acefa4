"""Floods: what a peer sends for nothing ends its connection, and what others do in good faith does not."""

from __future__ import annotations

import pytest

from canaryproxy.http2.errors import CANCEL, ENHANCE_YOUR_CALM
from canaryproxy.http2.events import ConnectionFailed, DataReceived, HeadReceived
from canaryproxy.http2.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from canaryproxy.http2.settings import Bounds
from tests.http2.peer import GET, POST, block, data, headers, number_frame, request, server

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
BLOCK = block(GET)
MOST = 3000
"""Frames of a flood; a connection takes fewer, whatever kind they are."""


FLOODS = [
    "rapid reset",
    "made you reset: window",
    "made you reset: overflow",
    "made you reset: late data",
    "made you reset: PRIORITY",
    "refused streams",
    "malformed requests",
    "settings",
    "acknowledgements",
    "pings",
    "window updates",
    "window updates of a stream",
    "priority",
    "unknown frames",
    "empty data",
    "padding only",
    "late resets",
]


def flood(kind: str, number: int) -> bytes:
    """Return the next frames of a flood."""
    stream = 2 * number + 3
    whole = frame(HEADERS, END_HEADERS | END_STREAM, stream, BLOCK)
    open_ = frame(HEADERS, END_HEADERS, stream, BLOCK)
    return {
        "rapid reset": whole + number_frame(RST_STREAM, stream, CANCEL),
        "made you reset: window": whole + number_frame(WINDOW_UPDATE, stream, 0),
        "made you reset: overflow": whole + number_frame(WINDOW_UPDATE, stream, 2**31 - 1),
        "made you reset: late data": whole + data(stream, b"a"),
        "made you reset: PRIORITY": open_ + frame(PRIORITY, 0, stream, bytes(4)),
        "refused streams": open_,
        "malformed requests": headers(stream, [*GET, (b"connection", b"close")]),
        "settings": frame(SETTINGS, 0, 0),
        "acknowledgements": frame(SETTINGS, 1, 0),
        "pings": frame(PING, 0, 0, bytes(8)),
        "window updates": number_frame(WINDOW_UPDATE, 0, 1),
        "window updates of a stream": number_frame(WINDOW_UPDATE, 1, 1),
        "priority": frame(PRIORITY, 0, stream, bytes(5)),
        "unknown frames": frame(0xBA, 0, 0),
        "empty data": data(1, b""),
        "padding only": frame(0, 8, 1, b"\x00"),
        "late resets": number_frame(RST_STREAM, 3, CANCEL),
    }[kind]


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_connection(kind: str) -> None:
    connection = server()
    connection.receive(headers(1, POST))
    if kind == "late resets":
        connection.receive(headers(3, POST) + number_frame(RST_STREAM, 3, CANCEL))
    size = 0
    for number in range(MOST):
        events = connection.receive(flood(kind, number))
        size += len(connection.take())
        assert connection.open_streams <= 100
        if connection.closed:
            break
    else:
        pytest.fail("the flood went on")
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].code == ENHANCE_YOUR_CALM
    assert size < 50_000
    assert connection.receive(flood(kind, MOST)) == []


@pytest.mark.parametrize("fragment", [b"", b"\x00\x01a\x01b" * 100])
def test_a_field_block_that_does_not_end_ends_the_connection(fragment: bytes) -> None:
    connection = server()
    connection.receive(frame(HEADERS, 0, 1, BLOCK))
    received = 0
    while not connection.closed:
        received += 1
        assert received < MOST
        events = connection.receive(frame(CONTINUATION, 0, 1, fragment))
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].code == ENHANCE_YOUR_CALM
    assert received * len(fragment) < 70_000


def test_pings_of_a_peer_that_does_not_read_are_bounded_whatever_else_it_sends() -> None:
    connection = server(Bounds(stream_window=2**30, connection_window=2**30))
    connection.receive(headers(1, POST))
    connection.hold()
    for _ in range(MOST):
        connection.receive(data(1, b"a") + frame(PING, 0, 0, bytes(8)))
        if connection.closed:
            break
    assert connection.closed
    assert len(connection.take()) < 20_000


def test_a_few_pings_a_second_go_on_for_ever() -> None:
    connection = server()
    for _ in range(MOST):
        for _ in range(5):
            connection.receive(frame(PING, 0, 0, bytes(8)))
        connection.refill(20)
    assert not connection.closed


def test_clients_that_update_both_windows_for_each_4_kib_download_for_ever() -> None:
    connection = server()
    stream = request(connection)
    for _ in range(1000):
        connection.send(stream, bytes(16_384), ends=False)
        for _ in range(4):
            connection.receive(number_frame(WINDOW_UPDATE, 0, 4096))
            connection.receive(number_frame(WINDOW_UPDATE, 1, 4096))
        connection.take()
    assert not connection.closed


def test_uploads_with_a_ping_for_each_frame_go_on_for_ever() -> None:
    connection = server()
    connection.receive(headers(1, POST))
    for _ in range(3000):
        for event in connection.receive(data(1, bytes(1000)) + frame(PING, 0, 0, bytes(8))):
            assert isinstance(event, DataReceived)
            connection.consume(event.stream, len(event.data))
    assert not connection.closed


def test_requests_that_are_answered_pay_for_one_in_three_that_is_cancelled() -> None:
    connection = server()
    for number in range(1, 6001, 6):
        events = connection.receive(
            headers(number, GET, end=True)
            + headers(number + 2, GET, end=True)
            + headers(number + 4, GET, end=True)
            + number_frame(RST_STREAM, number + 4, CANCEL)
        )
        for event in events[:2]:
            assert isinstance(event, HeadReceived)
            connection.respond(event.stream, RESPONSE, ends=False)
            connection.send(event.stream, b"ok", ends=True)
    assert not connection.closed


def test_a_page_that_is_left_may_cancel_all_its_requests() -> None:
    connection = server()
    for number in range(1, 200, 2):
        connection.receive(headers(number, GET, end=True))
    for number in range(1, 200, 2):
        connection.receive(number_frame(RST_STREAM, number, CANCEL))
    assert not connection.closed
    assert connection.open_streams == 0


def test_uploads_go_on_for_ever_while_our_responses_are_not_read() -> None:
    connection = server(Bounds(points=100))
    connection.receive(headers(1, POST))
    connection.hold()
    for _ in range(1000):
        for event in connection.receive(data(1, bytes(1000))):
            assert isinstance(event, DataReceived)
            connection.consume(event.stream, len(event.data))
        connection.take()
    assert not connection.closed


def test_what_a_peer_has_earned_is_bounded() -> None:
    connection = server(Bounds(points=100))
    for number in range(1, 1001, 2):
        connection.respond(request(connection, number), RESPONSE, ends=True)
    for _ in range(100):
        connection.receive(frame(0xBA, 0, 0))
    assert not connection.closed
    connection.receive(frame(0xBA, 0, 0))
    assert connection.closed
