"""RFC 9113 §5.1: each frame in each state of a stream; and that each section that binds us has its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from canaryproxy.http2.connection import Connection
from canaryproxy.http2.errors import (
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    name_of,
)
from canaryproxy.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
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
from canaryproxy.http2.settings import Bounds
from tests.http2.peer import (
    GET,
    POST,
    block,
    data,
    headers,
    number_frame,
    request,
    server,
    verdict,
    written,
)

RESPONSE = b"HTTP/1.1 200 OK\r\n"
TRAILERS = block([(b"a", b"b")])
FRAMES: dict[str, bytes] = {
    "HEADERS": frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
    "DATA": data(1, b"a"),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "RST_STREAM": number_frame(RST_STREAM, 1, 8),
    "SETTINGS": frame(SETTINGS, 0, 1),
    "PUSH_PROMISE": frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
    "PING": frame(PING, 0, 1, bytes(8)),
    "GOAWAY": frame(GOAWAY, 0, 1, bytes(8)),
    "WINDOW_UPDATE": number_frame(WINDOW_UPDATE, 1, 1),
    "CONTINUATION": frame(CONTINUATION, END_HEADERS, 1, TRAILERS),
    "unknown": frame(0xBA, 0, 1, b"any"),
}
NEVER = ("SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "CONTINUATION")
"""What ends the connection on any stream, whatever its state."""
BROKEN = ("connection", PROTOCOL_ERROR)
ENDED = ("connection", STREAM_CLOSED)
MALFORMED = ("stream", PROTOCOL_ERROR)
FINE = ("", 0)
STATES: dict[str, dict[str, tuple[str, int]]] = {
    "idle": {"HEADERS": MALFORMED, "DATA": BROKEN, "RST_STREAM": BROKEN, "WINDOW_UPDATE": BROKEN},
    "implicitly closed": {"HEADERS": BROKEN, "DATA": ENDED},
    "open": {},
    "half-closed (local)": {},
    "half-closed (remote)": {"HEADERS": ("stream", STREAM_CLOSED), "DATA": ("stream", STREAM_CLOSED)},
    "closed by both": {"HEADERS": ENDED, "DATA": ENDED},
    "reset by the peer": {"HEADERS": ENDED, "DATA": ENDED},
    "reset by us": {},
}  # fmt: skip


def in_state(state: str) -> Connection:
    """Return a server whose stream 1 is in this state."""
    connection = server()
    if state == "implicitly closed":
        connection.receive(headers(3, GET, end=True))
    elif state == "half-closed (remote)":
        request(connection)
    elif state != "idle":
        connection.receive(headers(1, POST))
        (stream,) = connection._streams.active.values()
        if state in ("half-closed (local)", "closed by both"):
            connection.respond(stream, RESPONSE, ends=True)
        if state == "closed by both":
            connection.receive(data(1, b"", end=True))
        elif state == "reset by the peer":
            connection.receive(number_frame(RST_STREAM, 1, 8))
        elif state == "reset by us":
            connection.reset(stream)
    connection.take()
    return connection


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", FRAMES)
def test_5_1_each_frame_in_each_state(state: str, kind: str) -> None:
    expected = BROKEN if kind in NEVER else STATES[state].get(kind, FINE)
    assert verdict(in_state(state), FRAMES[kind]) == expected


LENGTHS: dict[int, set[int]] = {
    PRIORITY: {5}, RST_STREAM: {4}, PING: {8}, WINDOW_UPDATE: {4}, SETTINGS: set(range(0, 60, 6)),
    GOAWAY: set(range(8, 60)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LENGTHS)
def test_4_2_a_frame_of_a_wrong_length_is_a_frame_size_error(kind: int) -> None:
    for length in range(20):
        number = 1 if kind in (PRIORITY, RST_STREAM) else 0
        connection = server()
        connection.receive(headers(1, POST))
        kind_of_error, code = verdict(connection, frame(kind, 0, number, bytes(length)))
        wrong = length not in LENGTHS[kind]
        assert (code == FRAME_SIZE_ERROR) == wrong, length
        if wrong:
            assert kind_of_error == ("stream" if kind == PRIORITY else "connection"), length


# What else is sent and counted


def test_3_4_the_settings_of_the_preface_are_acknowledged_after_our_own() -> None:
    connection = Connection()
    connection.receive(PREFACE + frame(SETTINGS, 0, 0))
    kinds = [(type(one), set(one.flags)) for one in written(connection)]
    assert kinds[0] == (SettingsFrame, set())
    assert kinds[-1] == (SettingsFrame, {"ACK"})


def test_4_1_no_reserved_bit_and_no_flag_without_meaning_is_ever_sent() -> None:
    connection = Connection()
    connection.receive(PREFACE + settings([(4, 100)]) + frame(PING, 0, 0, bytes(8)))
    stream = request(connection, 2**31 - 1)
    connection.respond(stream, RESPONSE + b"x: %b\r\n" % (b"v" * 40_000), ends=False)
    connection.send(stream, bytes(500), ends=False)
    connection.receive(number_frame(WINDOW_UPDATE, 2**31 - 1, 1000))
    connection.send_trailers(stream, b"a: b\r\n")
    connection.shut_down(now=True)
    output = connection.take()
    meaningful = {
        DATA: END_STREAM, HEADERS: END_STREAM | END_HEADERS, SETTINGS: ACK, PING: ACK, GOAWAY: 0,
        WINDOW_UPDATE: 0, CONTINUATION: END_HEADERS,
    }  # fmt: skip
    seen = set()
    while output:
        one, length = Frame.parse_frame_header(memoryview(output[:9]))
        assert not output[4] & ~meaningful[output[3]]
        assert not output[5] & 0x80
        seen.add(output[3])
        output = output[9 + length :]
        assert one is not None
    assert seen == set(meaningful)


def test_5_1_1_a_used_number_closes_the_idle_ones_below_it() -> None:
    connection = server()
    connection.receive(headers(5, GET, end=True))
    assert verdict(connection, number_frame(WINDOW_UPDATE, 3, 1)) == FINE
    assert verdict(connection, headers(3, GET, end=True)) == BROKEN


def test_5_4_1_goaway_names_the_last_stream_that_was_taken() -> None:
    connection = server()
    connection.receive(headers(7, GET, end=True))
    connection.receive(headers(9, [*GET, (b"connection", b"close")]))
    connection.take()
    connection.receive(data(0, b""))
    (goaway,) = written(connection)
    assert isinstance(goaway, GoAwayFrame)
    assert goaway.last_stream_id == 9


@pytest.mark.parametrize(
    ("what", "payload", "flags"),
    [
        ("content that does not fit", bytes(10_000), 0),
        ("padding", b"\xff" + bytes(9_999), PADDED),
    ],
)
def test_6_9_data_in_error_counts_for_the_connection(what: str, payload: bytes, flags: int) -> None:
    connection = server(Bounds(connection_window=65_535))
    for number in range(1, 9, 2):
        connection.receive(headers(number, [*POST, (b"content-length", b"1")]))
        connection.receive(frame(DATA, flags, number, payload))
    updates = [one for one in written(connection) if isinstance(one, WindowUpdateFrame)]
    assert [one.window_increment for one in updates if not one.stream_id] == [40_000]


def test_6_9_2_settings_do_not_change_the_window_of_the_connection() -> None:
    connection = server()
    connection.receive(settings([(4, 2**20)]))
    stream = request(connection)
    assert not connection.send(stream, bytes(100_000), ends=True)
    assert sum(one.body_len for one in written(connection) if one.stream_id == 1) == 65_535
    connection.receive(settings([(4, 0)]) + number_frame(WINDOW_UPDATE, 0, 100_000))
    assert not [one for one in written(connection) if one.stream_id == 1]


def test_6_9_2_values_of_a_frame_are_applied_in_their_order() -> None:
    connection = server()
    connection.receive(headers(1, POST) + number_frame(WINDOW_UPDATE, 1, 1))
    kind, code = verdict(connection, settings([(4, 2**31 - 1), (4, 65_535)]))
    assert (kind, name_of(code)) == ("connection", "FLOW_CONTROL_ERROR")


def test_8_1_a_response_before_the_end_of_its_request_resets_it_without_an_error() -> None:
    connection = in_state("half-closed (local)")
    (stream,) = connection._streams.active.values()
    connection.reset(stream, NO_ERROR)
    (reset,) = written(connection)
    assert isinstance(reset, RstStreamFrame)
    assert reset.error_code == NO_ERROR
    assert verdict(connection, data(1, b"late") + data(1, b"", end=True)) == FINE


# The rules, and where they are tested

RULES: dict[str, str] = {
    "3.4": "the preface: its bytes, SETTINGS first, acknowledged; else PROTOCOL_ERROR",
    "4.1": "reserved bits and flags without meaning: ignored, and never sent",
    "4.2": "sizes of frames: FRAME_SIZE_ERROR, of the connection where its state is concerned",
    "4.3": "a field block is not interleaved; one that does not decode is COMPRESSION_ERROR",
    "5.1": "which frame may come in which state",
    "5.1.1": "numbers of streams: odd, ascending, not 0",
    "5.1.2": "no more streams than announced",
    "5.4.1": "connection errors: GOAWAY with the last stream, then the end",
    "5.4.2": "stream errors: RST_STREAM, and never as the answer to one",
    "5.5": "unknown frames are ignored, but not inside a field block",
    "6.1": "DATA: stream, padding",
    "6.2": "HEADERS: stream, padding, priority",
    "6.3": "PRIORITY: stream, length",
    "6.4": "RST_STREAM: stream, idle streams, length",
    "6.5": "SETTINGS: stream, length, acknowledgement without a payload",
    "6.5.2": "values of settings; unknown ones are ignored",
    "6.5.3": "settings are applied in order, then acknowledged",
    "6.6": "PUSH_PROMISE from a client, or to one that takes none",
    "6.7": "PING: stream, length, answered with its payload, answers are not",
    "6.8": "GOAWAY: stream, later streams are not processed, the last stream never rises",
    "6.9": "WINDOW_UPDATE: by nothing, length; all data counts for the connection",
    "6.9.1": "no window above 2^31-1, none exceeded",
    "6.9.2": "SETTINGS_INITIAL_WINDOW_SIZE changes open streams, not the connection; windows below 0",
    "6.10": "CONTINUATION: only after HEADERS of the same stream that goes on",
    "7": "unknown error codes",
    "8.1": "order of the parts of a message; responses before the end of their request",
    "8.1.1": "malformed messages are not forwarded; Content-Length against DATA",
    "8.2.1": "names and values",
    "8.2.2": "connection-specific fields, TE",
    "8.2.3": "crumbs of a cookie are joined",
    "8.3": "pseudo-fields: once, first, defined, not in trailers",
    "8.3.1": ":method, :scheme, :authority, :path of requests",
    "8.3.2": ":status of responses",
    "8.4": "a client does not push",
    "8.5": "CONNECT",
    "8.6": "no Upgrade, no 101",
    "8.7": "REFUSED_STREAM and GOAWAY say that nothing was processed",
    "10.5.1": "heads that are too large",
}
HPACK_RULES = (
    "2.3.2",
    "2.3.3",
    "4.2",
    "4.3",
    "4.4",
    "5.1",
    "5.2",
    "6.2.2",
    "6.2.3",
    "6.3",
    "7.1.3",
)
"""Of RFC 7541."""


def sections(*names: str) -> set[str]:
    """Return the sections that names and parameters of tests in these files begin with."""
    folder = Path(__file__).parent
    found: set[str] = set()
    for name in names:
        text = (folder / name).read_text()
        found |= {one.replace("_", ".") for one in re.findall(r"def test_(\d+(?:_\d+)*)_", text)}
        for one in re.findall(r'"(?:and )?(\d+(?:\.\d+)*(?: and \d+(?:\.\d+)*)*) [^"]', text):
            found |= set(one.split(" and "))
        for one, other in re.findall(r"def test_(\d+(?:_\d+)*)_and_(\d+(?:_\d+)*)_", text):
            found |= {one.replace("_", "."), other.replace("_", ".")}
    return found


def test_each_rule_of_rfc_9113_has_a_test_named_after_its_section() -> None:
    files = [path.name for path in Path(__file__).parent.glob("test_rfc9113_*.py")]
    assert set(RULES) - sections(*files, "../wire/test_http2_attacks.py") == set()


def test_each_rule_of_rfc_7541_has_a_test_named_after_its_section() -> None:
    assert set(HPACK_RULES) - sections("test_rfc7541.py") == set()
