"""Floods: what a peer sends for nothing ends its connection, and what others do in good faith does not."""

from __future__ import annotations

import pytest

from canaryproxy.http2 import messages
from canaryproxy.http2.errors import CANCEL, ENHANCE_YOUR_CALM, REFUSED_STREAM
from canaryproxy.http2.events import ConnectionFailed, DataReceived, HeadReceived, StreamRefused
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
from tests.http2.peer import (
    GET,
    POST,
    block,
    data,
    headers,
    kinds,
    number_frame,
    request,
    server,
    verdict,
    written,
)

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
    "made you reset: content",
    "made you reset: trailers",
    "refused streams",
    "malformed requests",
    "settings",
    "acknowledgements",
    "pings",
    "window updates",
    "window updates of a stream",
    "window updates of one byte",
    "priority",
    "priority over itself",
    "unknown frames",
    "empty data",
    "padding only",
    "late resets",
    "late headers",
    "empty headers",
    "names of no length",
    "resets paid with data",
    "streams opened twice",
]


def beginning(kind: str) -> bytes:
    """Return what a client sends before a flood: requests, the first of which has content to come."""
    begin = headers(1, [*POST[:3], (b":path", b"/attack")])
    if kind == "late resets":
        begin += headers(3, POST) + number_frame(RST_STREAM, 3, CANCEL)
    if kind == "late headers":
        begin += headers(3, [*GET, (b"connection", b"close")])
    return begin


def flood(kind: str, number: int) -> bytes:
    """Return the next frames of a flood."""
    stream = 2 * number + 3
    whole = frame(HEADERS, END_HEADERS | END_STREAM, stream, BLOCK)
    open_ = frame(HEADERS, END_HEADERS, stream, BLOCK)
    sized = headers(stream, [*POST, (b"content-length", b"1")])
    return {
        "rapid reset": whole + number_frame(RST_STREAM, stream, CANCEL),
        "made you reset: window": whole + number_frame(WINDOW_UPDATE, stream, 0),
        "made you reset: overflow": whole + number_frame(WINDOW_UPDATE, stream, 2**31 - 1),
        "made you reset: late data": whole + data(stream, b"a"),
        "made you reset: PRIORITY": open_ + frame(PRIORITY, 0, stream, bytes(4)),
        "made you reset: content": sized + data(stream, b"ab"),
        "made you reset: trailers": open_ + headers(stream, [(b"a", b"b")]),
        "refused streams": open_,
        "malformed requests": headers(stream, [*GET, (b"connection", b"close")]),
        "settings": frame(SETTINGS, 0, 0),
        "acknowledgements": frame(SETTINGS, 1, 0),
        "pings": frame(PING, 0, 0, bytes(8)),
        "window updates": number_frame(WINDOW_UPDATE, 0, 1),
        "window updates of a stream": number_frame(WINDOW_UPDATE, 1, 1),
        "window updates of one byte": number_frame(WINDOW_UPDATE, 0, 1) * (number % 2)
        or number_frame(WINDOW_UPDATE, 1, 1),
        "priority over itself": frame(PRIORITY, 0, stream, stream.to_bytes(4, "big") + b"\x10"),
        "priority": frame(PRIORITY, 0, stream, bytes(5)),
        "unknown frames": frame(0xBA, 0, 0),
        "empty data": data(1, b""),
        "padding only": frame(0, 8, 1, b"\x00"),
        "late resets": number_frame(RST_STREAM, 3, CANCEL),
        "late headers": frame(HEADERS, END_HEADERS, 3, BLOCK),
        "empty headers": frame(HEADERS, END_HEADERS | END_STREAM, stream),
        "names of no length": headers(stream, [*GET, (b"", b"a")]),
        "resets paid with data": data(1, b"a") * 3
        + whole
        + number_frame(RST_STREAM, stream, CANCEL),
        "streams opened twice": whole + whole,
    }[kind]


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_connection(kind: str) -> None:
    connection = server()
    connection.receive(beginning(kind))
    connection.take()
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
        for _ in range(25):
            connection.receive(frame(PING, 0, 0, bytes(8)))
        connection.refill(1)
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


def test_clients_may_give_up_requests_that_have_waited() -> None:
    """A service hangs, and the deadlines of all its clients pass: that is no flood."""
    connection = server(Bounds(resets=10))
    number = 1
    for _ in range(20):
        opened = range(number, number + 200, 2)
        connection.receive(b"".join(headers(one, GET, end=True) for one in opened))
        connection.refill(1)
        connection.refill(1)
        connection.receive(b"".join(number_frame(RST_STREAM, one, CANCEL) for one in opened))
        assert not connection.closed
        number += 200
    for refills in (0, 1):
        connection = server(Bounds(resets=10))
        opened = range(1, 25, 2)
        connection.receive(b"".join(headers(one, GET, end=True) for one in opened))
        for _ in range(refills):
            connection.refill(1)
        connection.receive(b"".join(number_frame(RST_STREAM, one, CANCEL) for one in opened))
        assert connection.closed


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


def test_requests_that_are_answered_pay_for_no_more_resets_than_they_are() -> None:
    connection = server(Bounds(resets=10))
    answered = 0
    while not connection.closed:
        assert answered < 50
        for number in (6 * answered + 1, 6 * answered + 3, 6 * answered + 5):
            stream = request(connection, number)
            if number % 6 == 1:
                connection.respond(stream, RESPONSE, ends=True)
            else:
                connection.receive(number_frame(RST_STREAM, number, CANCEL))
            if connection.closed:
                break
        answered += 1
    assert answered <= 11


def test_a_response_taken_byte_by_byte_ends_the_connection() -> None:
    """Each WINDOW_UPDATE makes a frame for us, of one byte."""
    connection = server()
    stream = request(connection)
    connection.receive(number_frame(WINDOW_UPDATE, 0, 2**20))
    assert not connection.send(stream, bytes(200_000), ends=True)
    connection.take()
    for _ in range(MOST):
        connection.receive(number_frame(WINDOW_UPDATE, 1, 1))
        if connection.closed:
            break
    assert connection.closed
    assert len(connection.take()) < 50_000


def test_a_response_taken_by_256_bytes_goes_on_for_ever() -> None:
    connection = server()
    stream = request(connection)
    connection.receive(number_frame(WINDOW_UPDATE, 0, 2**30))
    assert not connection.send(stream, bytes(2**20), ends=True)
    for _ in range(MOST):
        connection.receive(number_frame(WINDOW_UPDATE, 1, 256))
    assert not connection.closed


def test_heads_that_are_not_read_are_bounded() -> None:
    """A response without content needs no window, and makes room for the next request."""
    connection = server()
    connection.hold()
    size = answered = 0
    for number in range(1, 100_001, 2):
        events = connection.receive(headers(number, [(b":method", b"HEAD"), *GET[1:]], end=True))
        if connection.closed:
            break
        for event in events:
            if not isinstance(event, HeadReceived):
                assert isinstance(event, StreamRefused)
                continue
            connection.respond(
                event.stream, b"HTTP/1.1 200 OK\r\nx: %0300d\r\n" % number, ends=True
            )
            answered += 1
        size += len(connection.take())
    assert connection.closed
    assert 100 < answered < 600
    assert size < 200_000


def test_heads_that_wait_for_a_slow_client_are_refused_only_while_they_wait() -> None:
    connection = server()
    connection.hold()
    head = b"HTTP/1.1 200 OK\r\nx: %s\r\n" % (b"v" * 30_000)
    for number in range(1, 15, 2):
        for event in connection.receive(headers(number, GET, end=True)):
            if isinstance(event, HeadReceived):
                connection.respond(event.stream, head, ends=True)
    assert verdict(connection, headers(15, GET)) == ("stream", REFUSED_STREAM)
    connection.release()
    assert verdict(connection, headers(17, GET)) == ("", 0)


def test_streams_after_goaway_end_the_connection() -> None:
    connection = server()
    connection.shut_down(now=True)
    for number in range(1, 2 * MOST, 2):
        connection.receive(headers(number, GET, end=True))
        if connection.closed:
            break
    assert connection.closed


def test_content_in_frames_of_one_byte_is_put_together() -> None:
    connection = server()
    connection.receive(headers(1, POST) + headers(3, POST))
    sent = b"".join(data(1, b"a") + data(3, b"b") for _ in range(20_000))
    events = connection.receive(
        sent + data(3, b"", end=True) + headers(1, [(b"x", b"y")], end=True)
    )
    assert len(events) == 5
    content = [event for event in events if isinstance(event, DataReceived)]
    for number, letter in ((1, b"a"), (3, b"b")):
        parts = [event for event in content if event.stream.number == number]
        assert b"".join(event.data for event in parts) == letter * 20_000
        assert [event.ends for event in parts] == [False, number == 3]


def test_what_was_read_is_not_kept_because_of_a_frame_that_is_not_whole() -> None:
    connection = server(Bounds(points=10**6))
    connection.receive(frame(PING, 0, 0, bytes(8)) * 10_000 + frame(PING, 0, 0, bytes(8))[:12])
    assert len(connection._reader._data) == 12
    assert len(written(connection)) == 10_000
    connection.receive(frame(PING, 0, 0, bytes(8))[12:])
    assert len(written(connection)) == 1


def test_long_names_are_not_remembered_beyond_their_connection() -> None:
    name = b"x-" + b"n" * 1000
    assert kinds(server().receive(headers(1, [*GET, (name, b"a")], end=True))) == ["HeadReceived"]
    assert name not in messages._known_names
