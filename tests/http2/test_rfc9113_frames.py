"""Connections and frames: each MUST of RFC 9113 §§3-7 that binds what we receive, by its section."""

from __future__ import annotations

import pytest
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame

from canaryproxy.http2 import frames
from canaryproxy.http2.connection import Connection
from canaryproxy.http2.errors import (
    COMPRESSION_ERROR,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    name_of,
)
from canaryproxy.http2.events import ConnectionFailed, Pong
from canaryproxy.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    settings,
)
from tests.http2.peer import (
    GET,
    OK,
    POST,
    ask,
    block,
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

OPEN = headers(1, POST)
WHOLE = headers(1, GET, end=True)

ON_THE_CONNECTION: list[tuple[str, bytes, int]] = [
    (
        "4.2 frame larger than SETTINGS_MAX_FRAME_SIZE",
        OPEN + data(1, bytes(16_385)),
        FRAME_SIZE_ERROR,
    ),
    ("4.3 block that does not decode", frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
    (
        "4.3 frame of another stream inside a field block",
        frame(HEADERS, 0, 1, block(GET)) + data(3, b""),
        PROTOCOL_ERROR,
    ),
    (
        "4.3 unknown frame inside a field block",
        frame(HEADERS, 0, 1, block(GET)) + frame(0xBA, 0, 1),
        PROTOCOL_ERROR,
    ),
    ("5.1 DATA on an idle stream", data(1, b"a"), PROTOCOL_ERROR),
    ("5.1 RST_STREAM on an idle stream", number_frame(RST_STREAM, 1, 0), PROTOCOL_ERROR),
    ("5.1 WINDOW_UPDATE on an idle stream", number_frame(WINDOW_UPDATE, 1, 1), PROTOCOL_ERROR),
    ("5.1.1 stream with an even number", headers(2, GET), PROTOCOL_ERROR),
    ("5.1.1 stream with a lower number", headers(5, GET) + headers(3, GET), PROTOCOL_ERROR),
    ("6.1 DATA on stream 0", data(0, b"a"), PROTOCOL_ERROR),
    (
        "6.1 padding as long as the payload",
        OPEN + frame(DATA, PADDED, 1, b"\x03aa"),
        PROTOCOL_ERROR,
    ),
    ("6.1 padded and empty", OPEN + frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
    ("6.2 HEADERS on stream 0", headers(0, GET), PROTOCOL_ERROR),
    (
        "6.2 padding longer than the payload",
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\x10" + block(GET)[:4]),
        PROTOCOL_ERROR,
    ),
    (
        "6.2 too short for its priority",
        frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"\x00\x00"),
        FRAME_SIZE_ERROR,
    ),
    (
        "6.2 HEADERS inside a field block",
        frame(HEADERS, 0, 1, block(GET)) + headers(1, GET),
        PROTOCOL_ERROR,
    ),
    ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    (
        "6.3 PRIORITY of a wrong length, no stream to reset",
        frame(PRIORITY, 0, 1, bytes(4)),
        FRAME_SIZE_ERROR,
    ),
    ("6.4 RST_STREAM on stream 0", number_frame(RST_STREAM, 0, 0), PROTOCOL_ERROR),
    (
        "6.4 RST_STREAM of a wrong length",
        OPEN + frame(RST_STREAM, 0, 1, bytes(3)),
        FRAME_SIZE_ERROR,
    ),
    ("6.5 acknowledgement with a payload", frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    ("6.5 SETTINGS of a wrong length", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    ("6.5.2 ENABLE_PUSH above 1", settings([(2, 2)]), PROTOCOL_ERROR),
    ("6.5.2 INITIAL_WINDOW_SIZE above 2^31-1", settings([(4, 2**31)]), FLOW_CONTROL_ERROR),
    ("6.5.2 MAX_FRAME_SIZE below 2^14", settings([(5, 16_383)]), PROTOCOL_ERROR),
    ("6.5.2 MAX_FRAME_SIZE above 2^24-1", settings([(5, 2**24)]), PROTOCOL_ERROR),
    (
        "6.6 and 8.4 PUSH_PROMISE from a client",
        OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, b"\x00\x00\x00\x02"),
        PROTOCOL_ERROR,
    ),
    ("6.7 PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    ("6.7 PING of a wrong length", frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    ("4.2 GOAWAY too short", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    (
        "6.9 WINDOW_UPDATE of the connection by nothing",
        number_frame(WINDOW_UPDATE, 0, 0),
        PROTOCOL_ERROR,
    ),
    ("6.9 WINDOW_UPDATE of a wrong length", frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    (
        "6.9.1 window of the connection above 2^31-1",
        number_frame(WINDOW_UPDATE, 0, 2**31 - 1),
        FLOW_CONTROL_ERROR,
    ),
    (
        "6.9.2 setting that makes a window overflow",
        OPEN + number_frame(WINDOW_UPDATE, 1, 2**31 - 65_536) + settings([(4, 65_536)]),
        FLOW_CONTROL_ERROR,
    ),
    (
        "6.10 CONTINUATION on stream 0",
        frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, END_HEADERS, 0, b""),
        PROTOCOL_ERROR,
    ),
    (
        "6.10 CONTINUATION after a whole field block",
        OPEN + frame(CONTINUATION, END_HEADERS, 1, b""),
        PROTOCOL_ERROR,
    ),
    ("6.10 CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
]

ON_THE_STREAM: list[tuple[str, bytes, int]] = [
    ("5.1 DATA after END_STREAM", WHOLE + data(1, b"a"), STREAM_CLOSED),
    ("5.1 HEADERS after END_STREAM", WHOLE + headers(1, GET, end=True), STREAM_CLOSED),
    ("6.3 PRIORITY of a wrong length", OPEN + frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    (
        "6.9 WINDOW_UPDATE of a stream by nothing",
        OPEN + number_frame(WINDOW_UPDATE, 1, 0),
        PROTOCOL_ERROR,
    ),
    (
        "6.9.1 window of a stream above 2^31-1",
        OPEN + number_frame(WINDOW_UPDATE, 1, 2**31 - 1),
        FLOW_CONTROL_ERROR,
    ),
]

ACCEPTED: list[tuple[str, bytes]] = [
    ("4.1 reserved bit of a stream identifier", frame(HEADERS, END_HEADERS, 2**31 + 1, block(GET))),
    ("4.1 and 5.5 flags that mean nothing", frame(HEADERS, END_HEADERS | 0xD2, 1, block(GET))),
    ("4.2 frame of 2^14 bytes", OPEN + data(1, bytes(16_384))),
    (
        "5.1 WINDOW_UPDATE and RST_STREAM after END_STREAM",
        WHOLE + number_frame(WINDOW_UPDATE, 1, 1) + number_frame(RST_STREAM, 1, 0),
    ),
    (
        "5.1 WINDOW_UPDATE after RST_STREAM",
        OPEN + number_frame(RST_STREAM, 1, 8) + number_frame(WINDOW_UPDATE, 1, 1),
    ),
    (
        "5.1 PRIORITY in any state",
        frame(PRIORITY, 0, 3, bytes(5)) + WHOLE + frame(PRIORITY, 0, 1, bytes(5)),
    ),
    ("5.5 unknown frame", frame(0xBA, 0xFF, 0, b"any") + frame(0xBA, 0xFF, 7, b"any")),
    (
        "6.2 empty fragment",
        frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, END_HEADERS, 1, block(GET)),
    ),
    (
        "6.2 padding and priority",
        frame(
            HEADERS,
            END_HEADERS | PADDED | HAS_PRIORITY,
            1,
            b"\x02" + bytes(5) + block(GET) + bytes(2),
        ),
    ),
    ("6.5.2 unknown setting", settings([(0xBA, 1)])),
    (
        "6.5.2 limits of settings",
        settings([(2, 1), (4, 2**31 - 1), (5, 2**24 - 1), (1, 2**32 - 1), (3, 0)]),
    ),
    ("6.9.2 window that becomes negative", OPEN + settings([(4, 0)])),
    ("7 unknown error code", OPEN + number_frame(RST_STREAM, 1, 0xBAD)),
]


@pytest.mark.parametrize(
    ("received", "code"), [pytest.param(*one, id=said) for said, *one in ON_THE_CONNECTION]
)
def test_connection_error(received: bytes, code: int) -> None:
    kind, got = verdict(server(), received)
    assert (kind, name_of(got)) == ("connection", name_of(code))


@pytest.mark.parametrize(
    ("received", "code"), [pytest.param(*one, id=said) for said, *one in ON_THE_STREAM]
)
def test_stream_error(received: bytes, code: int) -> None:
    connection = server()
    kind, got = verdict(connection, received)
    assert (kind, name_of(got)) == ("stream", name_of(code))
    assert kinds(connection.receive(headers(3, GET, end=True))) == ["HeadReceived"]


@pytest.mark.parametrize("received", [pytest.param(*one, id=said) for said, *one in ACCEPTED])
def test_no_error(received: bytes) -> None:
    connection = server()
    assert verdict(connection, received) == ("", 0)
    assert kinds(connection.receive(headers(9, GET, end=True))) == ["HeadReceived"]


# §3.4: the preface


def test_3_4_both_sides_begin_with_their_preface_and_settings() -> None:
    begin = Connection(client=True).take()
    assert begin.startswith(PREFACE)
    assert begin[len(PREFACE) + 3] == SETTINGS
    assert isinstance(written(Connection())[0], SettingsFrame)


@pytest.mark.parametrize(
    "received",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(PREFACE[:-1] + b"x", id="a wrong last byte"),
        pytest.param(PREFACE + headers(1, GET, end=True), id="no SETTINGS"),
        pytest.param(PREFACE + frame(SETTINGS, ACK, 0), id="only an acknowledgement"),
    ],
)
def test_3_4_a_wrong_preface_is_a_connection_error(received: bytes) -> None:
    assert verdict(Connection(), received) == ("connection", PROTOCOL_ERROR)


def test_3_4_a_client_refuses_a_server_without_settings() -> None:
    assert verdict(Connection(client=True), headers(1, OK)) == ("connection", PROTOCOL_ERROR)


def test_3_4_a_preface_may_come_in_any_pieces() -> None:
    connection = Connection()
    for byte in PREFACE + frame(SETTINGS, 0, 0) + headers(1, GET, end=True)[:-1]:
        assert connection.receive(bytes((byte,))) == []
    assert kinds(connection.receive(headers(1, GET, end=True)[-1:])) == ["HeadReceived"]


# §4 to §6: what is written


def test_4_3_a_large_block_is_continued_and_stays_together() -> None:
    connection = server()
    stream = request(connection)
    value = b"v" * 40_000
    connection.respond(stream, b"HTTP/1.1 200 OK\r\nx: " + value + b"\r\n", ends=True)
    head, *rest = connection.take(), b""
    assert [head[3], head[4]] == [HEADERS, END_STREAM]
    sizes = []
    while head:
        length = int.from_bytes(head[:3], "big")
        sizes.append((head[3], length, head[4] & END_HEADERS))
        head = head[9 + length :]
    assert [kind for kind, _, _ in sizes] == [HEADERS, CONTINUATION, CONTINUATION]
    assert [flag for _, _, flag in sizes] == [0, 0, END_HEADERS]
    assert all(length <= 16_384 for _, length, _ in sizes)
    assert rest == [b""]


def test_5_4_1_a_connection_error_is_the_last_that_is_read() -> None:
    connection = server()
    events = connection.receive(data(0, b"") + headers(1, GET, end=True))
    assert kinds(events) == ["ConnectionFailed"]
    assert isinstance(events[0], ConnectionFailed)
    assert connection.receive(headers(3, GET, end=True)) == []
    (one,) = written(connection)
    assert isinstance(one, GoAwayFrame)
    assert one.last_stream_id == 0


def test_5_4_2_a_reset_is_not_answered_by_a_reset() -> None:
    connection = server()
    assert kinds(connection.receive(OPEN + number_frame(RST_STREAM, 1, 8))) == [
        "HeadReceived",
        "StreamReset",
    ]
    assert connection.receive(number_frame(RST_STREAM, 1, 8)) == []
    assert written(connection) == []


def test_6_5_3_settings_are_acknowledged_after_they_are_applied() -> None:
    connection = server()
    stream = request(connection)
    connection.receive(settings([(4, 3)]))
    assert not connection.send(stream, b"abcd", ends=True)
    ack, part = written(connection)
    assert isinstance(ack, SettingsFrame)
    assert set(ack.flags) == {"ACK"}
    assert part.body_len == 3


def test_6_5_3_an_acknowledgement_is_not_acknowledged() -> None:
    connection = server()
    assert connection.receive(frame(SETTINGS, ACK, 0)) == []
    assert written(connection) == []


def test_6_7_a_ping_is_answered_with_its_payload_and_an_answer_is_not() -> None:
    connection = server()
    connection.receive(frame(PING, 0, 0, b"12345678"))
    (pong,) = written(connection)
    assert isinstance(pong, PingFrame)
    assert (set(pong.flags), pong.opaque_data) == ({"ACK"}, b"12345678")
    (event,) = connection.receive(frame(PING, ACK, 0, b"12345678"))
    assert isinstance(event, Pong)
    assert event.payload == b"12345678"
    assert written(connection) == []


def test_6_8_after_goaway_new_streams_are_dropped_and_the_tables_kept() -> None:
    connection = server()
    first = request(connection)
    connection.shut_down(now=False)
    assert kinds(connection.receive(headers(3, GET, end=True))) == ["HeadReceived"]
    connection.shut_down(now=True)
    connection.shut_down(now=False)
    lasts = [one.last_stream_id for one in written(connection) if isinstance(one, GoAwayFrame)]
    assert lasts == [2**31 - 1, 3, 3]
    indexed = block([*GET, (b"x-new", b"1")])
    assert connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 5, indexed)) == []
    connection.respond(first, b"HTTP/1.1 200 OK\r\n", ends=True)
    (one,) = written(connection)
    assert isinstance(one, HeadersFrame)
    assert connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\xbe")) == []
    assert not connection.closed


def test_6_8_streams_above_the_last_one_were_not_processed() -> None:
    connection = client()
    first, second = ask(connection), ask(connection)
    events = connection.receive(frame(GOAWAY, 0, 0, b"\x00\x00\x00\x01\x00\x00\x00\x00"))
    assert kinds(events) == ["GoneAway", "StreamReset"]
    assert events[1].stream is second  # type: ignore[attr-defined]
    assert events[1].unprocessed  # type: ignore[attr-defined]
    assert connection.open(b"GET / HTTP/1.1\r\n", b"http", ends=True) is None
    assert kinds(connection.receive(headers(first.number, OK, end=True))) == ["HeadReceived"]


# §6.6: a client has said that it takes no pushes


def test_6_6_a_promise_to_a_client_that_takes_none_is_a_connection_error() -> None:
    connection = client()
    ask(connection)
    promise = frame(PUSH_PROMISE, END_HEADERS, 1, b"\x00\x00\x00\x02" + block(GET))
    assert verdict(connection, promise) == ("connection", PROTOCOL_ERROR)


def test_6_5_2_a_server_may_not_enable_push() -> None:
    assert verdict(client(), settings([(2, 1)])) == ("connection", PROTOCOL_ERROR)
    assert verdict(client(), settings([(2, 0)])) == ("", 0)


def test_5_1_a_server_may_not_open_a_stream() -> None:
    assert verdict(client(), headers(2, OK)) == ("connection", PROTOCOL_ERROR)


def test_frames_say_what_hyperframe_reads() -> None:
    for one in (
        frames.goaway(5, 11, "too many resets"),
        frames.settings([(3, 100), (4, 65_535)]),
        number_frame(RST_STREAM, 3, 8),
        number_frame(WINDOW_UPDATE, 0, 4096),
    ):
        parsed, length = SettingsFrame.parse_frame_header(memoryview(one[:9]))
        parsed.parse_body(memoryview(one[9:]))
        assert length == len(one) - 9
        assert parsed.serialize() == one
