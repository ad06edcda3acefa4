"""Streams and flow control: RFC 9113 §5 and §6.9, in both roles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame, RstStreamFrame, WindowUpdateFrame
from hypothesis import given, settings
from hypothesis import strategies as st

import canaryproxy
from canaryproxy.http2 import streams
from canaryproxy.http2.connection import Connection
from canaryproxy.http2.errors import (
    CANCEL,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from canaryproxy.http2.events import DataReceived, StreamDrained, StreamReset
from canaryproxy.http2.frames import (
    DATA,
    END_HEADERS,
    HEADERS,
    PADDED,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)
from canaryproxy.http2.frames import settings as settings_frame
from canaryproxy.http2.settings import Bounds
from tests.http2.peer import (
    GET,
    OK,
    POST,
    ask,
    client,
    data,
    headers,
    kinds,
    number_frame,
    request,
    server,
    verdict,
    written,
)

ROWS = ["IDLE", "OPEN", "LOCAL", "REMOTE", "ENDED", "RESET_BY_PEER", "RESET_BY_US", "FORGOTTEN"]
INPUTS = [
    streams.ON_HEADERS,
    streams.ON_DATA,
    streams.ON_END,
    streams.ON_RESET,
    streams.ON_WINDOW,
]


def shown(state: int, received: int) -> str:
    """Return what the documented table says of a transition."""
    try:
        following = streams.after(state, received)
    except StreamFault as fault:
        return "?CLOSED" if fault.code == STREAM_CLOSED else "?"
    except ConnectionFault as fault:
        return {STREAM_CLOSED: "!CLOSED", PROTOCOL_ERROR: "!PROTOCOL"}[fault.code]
    return "~" if following == streams.DROPPED else ROWS[following]


def test_5_1_the_table_does_what_its_documentation_says() -> None:
    # Not ``__doc__``: compiled modules have none.
    source = Path(canaryproxy.__file__).with_name("http2") / "streams.py"
    text = ast.get_docstring(ast.parse(source.read_text()), clean=False)
    assert text is not None
    lines = text.partition("WINDOW\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ROWS
    for state, line in enumerate(lines):
        expected = line.split()[1:]
        inputs = INPUTS if len(expected) == 5 else [one for one in INPUTS if one != streams.ON_END]
        assert [shown(state, one) for one in inputs] == expected


LATE = [
    ("HEADERS", headers(1, GET, end=True)),
    ("DATA", data(1, b"a")),
    ("WINDOW_UPDATE", number_frame(WINDOW_UPDATE, 1, 1)),
    ("RST_STREAM", number_frame(RST_STREAM, 1, 8)),
]


@pytest.mark.parametrize(("kind", "late"), LATE)
def test_5_1_frames_after_both_sides_ended(kind: str, late: bytes) -> None:
    connection = server()
    connection.respond(request(connection), b"HTTP/1.1 204 No Content\r\n", ends=True)
    connection.take()
    wrong = kind in ("HEADERS", "DATA")
    assert verdict(connection, late) == (("connection", STREAM_CLOSED) if wrong else ("", 0))


@pytest.mark.parametrize(("kind", "late"), LATE)
def test_5_1_frames_after_a_reset_by_the_peer(kind: str, late: bytes) -> None:
    connection = server()
    connection.receive(headers(1, POST) + number_frame(RST_STREAM, 1, 8))
    wrong = kind in ("HEADERS", "DATA")
    assert verdict(connection, late) == (("connection", STREAM_CLOSED) if wrong else ("", 0))


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize(("kind", "late"), LATE)
def test_5_1_frames_after_our_reset_are_dropped(kind: str, late: bytes, forgotten: bool) -> None:
    connection = server()
    connection.receive(headers(1, POST))
    (stream,) = connection._streams.active.values()
    connection.reset(stream)
    for number in range(3, 1003 if forgotten else 5, 2):
        connection.respond(request(connection, number), b"HTTP/1.1 200 OK\r\n", ends=True)
    connection.take()
    assert verdict(connection, late) == ("", 0)


def test_5_1_the_state_of_compression_survives_what_is_dropped() -> None:
    connection = server()
    connection.receive(headers(1, POST))
    (stream,) = connection._streams.active.values()
    connection.reset(stream)
    late = frame(HEADERS, END_HEADERS, 1, b"\x40\x03x-a\x011")
    assert verdict(connection, late) == ("stream", CANCEL)
    head = GET_BLOCK + b"\xbe"
    (event,) = connection.receive(frame(HEADERS, END_HEADERS, 3, head))
    assert b"x-a: 1\r\n" in event.head.text  # type: ignore[attr-defined]


GET_BLOCK = b"\x82\x86\x84\x01\x0cshop.example"


def test_5_1_2_more_streams_than_announced_are_refused() -> None:
    connection = server(Bounds(max_streams=2))
    assert verdict(connection, headers(1, GET) + headers(3, GET)) == ("", 0)
    assert verdict(connection, headers(5, GET)) == ("stream", REFUSED_STREAM)
    connection.receive(number_frame(RST_STREAM, 1, 8))
    assert verdict(connection, headers(7, GET)) == ("", 0)
    assert connection.open_streams == 2


def test_5_1_2_a_client_keeps_to_the_announced_number() -> None:
    connection = client()
    connection.receive(settings_frame([(3, 1)]))
    stream = ask(connection)
    assert connection.open(b"GET / HTTP/1.1\r\n", b"http", ends=True) is None
    connection.receive(headers(stream.number, OK, end=True))
    assert ask(connection).number == 3


def test_8_7_a_refused_stream_was_not_processed() -> None:
    connection = client()
    ask(connection)
    (event,) = connection.receive(number_frame(RST_STREAM, 1, REFUSED_STREAM))
    assert isinstance(event, StreamReset)
    assert event.unprocessed


def test_8_1_a_response_before_the_end_of_its_request_is_complete() -> None:
    connection = client()
    stream = ask(connection, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", ends=False)
    events = connection.receive(
        headers(1, OK, end=True) + number_frame(RST_STREAM, stream.number, NO_ERROR)
    )
    assert kinds(events) == ["HeadReceived", "StreamReset"]
    assert connection.open_streams == 0


# Flow control, as receiver


def test_6_9_1_more_data_than_the_window_of_the_stream() -> None:
    connection = server(Bounds(stream_window=65_535))
    connection.receive(headers(1, POST))
    parts = b"".join(data(1, bytes(16_384)) for _ in range(3)) + data(1, bytes(16_383))
    assert verdict(connection, parts) == ("", 0)
    assert verdict(connection, data(1, b"a")) == ("stream", FLOW_CONTROL_ERROR)


def test_6_9_1_more_data_than_the_window_of_the_connection() -> None:
    connection = server(Bounds(stream_window=2**20, connection_window=65_535))
    connection._window = 10
    connection._full_window = 0
    connection.receive(headers(1, POST))
    assert verdict(connection, data(1, bytes(11))) == ("connection", FLOW_CONTROL_ERROR)


def test_6_1_padding_counts_and_is_given_back() -> None:
    connection = server(Bounds(stream_window=65_535))
    connection.receive(headers(1, POST))
    (stream,) = connection._streams.active.values()
    for _ in range(1000):
        padded = frame(DATA, PADDED, 1, b"\xfe" + b"a" + bytes(254))
        (event,) = connection.receive(padded)
        assert isinstance(event, DataReceived)
        connection.consume(event.stream, len(event.data))
    assert stream.receive_window > 0


def test_6_9_data_that_was_passed_on_is_given_back_and_no_other() -> None:
    connection = server(Bounds(stream_window=65_535, connection_window=65_535))
    connection.receive(headers(1, POST))
    (stream,) = connection._streams.active.values()
    part = data(1, bytes(16_000))
    connection.receive(part * 3)
    updates = [one for one in written(connection) if isinstance(one, WindowUpdateFrame)]
    assert {one.stream_id for one in updates} == {0}
    connection.consume(stream, 48_000)
    (update,) = written(connection)
    assert isinstance(update, WindowUpdateFrame)
    assert (update.stream_id, update.window_increment) == (1, 48_000)


def test_6_9_data_on_a_closed_stream_counts_for_the_connection() -> None:
    connection = server(Bounds(connection_window=65_535))
    connection.receive(headers(1, POST))
    (stream,) = connection._streams.active.values()
    connection.reset(stream)
    connection.take()
    connection.receive(data(1, bytes(16_384)) * 3)
    (update,) = written(connection)
    assert isinstance(update, WindowUpdateFrame)
    assert (update.stream_id, update.window_increment) == (0, 2 * 16_384)


# Flow control, as sender


def sent(connection: Connection) -> dict[int, int]:
    """Return the bytes of data written to each stream."""
    sums: dict[int, int] = {}
    for one in written(connection):
        if isinstance(one, DataFrame):
            sums[one.stream_id] = sums.get(one.stream_id, 0) + len(one.data)
    return sums


def test_6_9_1_an_empty_frame_that_ends_a_stream_needs_no_window() -> None:
    connection = server()
    connection.receive(settings_frame([(4, 0)]))
    stream = request(connection)
    connection.respond(stream, b"HTTP/1.1 200 OK\r\n", ends=False)
    assert connection.send(stream, b"", ends=True)
    assert connection.open_streams == 0


def test_6_9_2_a_negative_window_stops_the_stream_until_it_is_positive() -> None:
    connection = server()
    stream = request(connection)
    assert connection.send(stream, bytes(60_000), ends=False)
    connection.receive(settings_frame([(4, 16_384)]))
    assert not connection.send(stream, b"abc", ends=True)
    assert sent(connection) == {1: 60_000}
    connection.receive(number_frame(WINDOW_UPDATE, 1, 60_000 - 16_384))
    assert sent(connection) == {}
    events = connection.receive(number_frame(WINDOW_UPDATE, 1, 3))
    assert kinds(events) == ["StreamDrained"]
    assert sent(connection) == {1: 3}
    assert connection.open_streams == 0


def test_a_stream_that_is_read_slowly_holds_up_none_of_its_neighbours() -> None:
    connection = server()
    slow, fast = request(connection, 1), request(connection, 3)
    connection.receive(number_frame(WINDOW_UPDATE, 0, 2**20))
    assert not connection.send(slow, bytes(100_000), ends=True)
    assert connection.send(fast, bytes(50_000), ends=True)
    assert sent(connection) == {1: 65_535, 3: 50_000}


def test_streams_that_wait_for_the_connection_take_turns() -> None:
    connection = server()
    connection.receive(settings_frame([(4, 2**20)]))
    streams_ = [request(connection, number) for number in (1, 3, 5)]
    for stream in streams_:
        connection.send(stream, bytes(100_000), ends=True)
    connection.take()
    connection.receive(number_frame(WINDOW_UPDATE, 0, 6 * 16_384))
    assert sent(connection) == {1: 2 * 16_384, 3: 2 * 16_384, 5: 2 * 16_384}


def test_nothing_but_control_frames_is_written_while_the_transport_is_full() -> None:
    connection = server()
    first, second = request(connection, 1), request(connection, 3)
    connection.hold()
    assert not connection.send(first, b"abc", ends=True)
    assert not connection.send(second, b"def", ends=False)
    connection.send_trailers(second, b"grpc-status: 0\r\n")
    assert sent(connection) == {}
    events = connection.release()
    assert [event.stream for event in events if isinstance(event, StreamDrained)] == [first, second]
    assert sent(connection) == {1: 3, 3: 3}
    assert connection.open_streams == 0


def test_what_waits_is_dropped_with_its_stream() -> None:
    connection = server()
    stream = request(connection)
    assert not connection.send(stream, bytes(100_000), ends=True)
    connection.take()
    connection.receive(number_frame(RST_STREAM, 1, 8))
    connection.receive(number_frame(WINDOW_UPDATE, 0, 2**20))
    assert written(connection) == []
    assert stream.pending == b""
    assert connection.send(stream, b"more", ends=True)
    connection.respond(stream, b"HTTP/1.1 200 OK\r\n", ends=True)
    connection.send_trailers(stream, b"a: b\r\n")
    connection.reset(stream)
    assert written(connection) == []


actions = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 3), st.integers(0, 40_000)),
    st.tuples(st.just("window"), st.integers(0, 4), st.integers(1, 70_000)),
    st.tuples(st.just("initial"), st.integers(0, 100_000), st.just(0)),
    st.tuples(st.just("hold"), st.just(0), st.just(0)),
    st.tuples(st.just("release"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(actions, max_size=25))
def test_no_window_is_ever_exceeded_and_all_bytes_arrive_in_order(
    steps: list[tuple[str, int, int]],
) -> None:
    connection = server(Bounds(points=10**6))
    numbers = [1, 3, 5, 7]
    opened = [request(connection, number) for number in numbers]
    initial, whole = 65_535, 65_535
    windows = dict.fromkeys(numbers, 65_535)
    given_bytes = dict.fromkeys(numbers, b"")
    arrived = dict.fromkeys(numbers, b"")
    counter = 0

    def check() -> None:
        nonlocal whole
        for one in written(connection):
            if isinstance(one, DataFrame):
                size = len(one.data)
                assert size <= 16_384
                windows[one.stream_id] -= size
                whole -= size
                assert not size or (windows[one.stream_id] >= 0 and whole >= 0)
                arrived[one.stream_id] += one.data

    check()
    for what, which, much in steps:
        if what == "send":
            counter += 1
            part = bytes((counter % 256,)) * much
            given_bytes[numbers[which]] += part
            connection.send(opened[which], part, ends=False)
        elif what == "window":
            if which < 4:
                windows[numbers[which]] += much
            else:
                whole += much
            number = numbers[which] if which < 4 else 0
            connection.receive(number_frame(WINDOW_UPDATE, number, much))
        elif what == "initial":
            for number in numbers:
                windows[number] += which - initial
            initial = which
            connection.receive(settings_frame([(4, which)]))
        elif what == "hold":
            connection.hold()
        else:
            connection.release()
        check()
    connection.release()
    for number in [0, *numbers]:
        connection.receive(number_frame(WINDOW_UPDATE, number, 2**30))
        windows[number] = whole = 2**40
    check()
    assert arrived == given_bytes


def test_a_stream_error_tells_the_owner_of_the_stream() -> None:
    connection = server()
    connection.receive(headers(1, [*POST, (b"content-length", b"2")]))
    (event,) = connection.receive(data(1, b"abc"))
    assert isinstance(event, StreamReset)
    assert event.code == PROTOCOL_ERROR
    (one,) = written(connection)
    assert isinstance(one, RstStreamFrame)


def test_6_5_3_what_waited_is_sent_after_the_acknowledgement_of_its_window() -> None:
    connection = server()
    connection.receive(settings_frame([(4, 0)]))
    stream = request(connection)
    assert not connection.send(stream, b"abc", ends=True)
    connection.take()
    connection.receive(settings_frame([(4, 10)]))
    assert [type(one).__name__ for one in written(connection)] == ["SettingsFrame", "DataFrame"]
