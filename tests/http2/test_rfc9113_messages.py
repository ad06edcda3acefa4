"""Messages: each MUST of RFC 9113 §8 that binds an intermediary, by its section."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import RequestParser
from canaryproxy.http1.response import ResponseParser
from canaryproxy.http2 import messages
from canaryproxy.http2.decoder import FieldBlock
from canaryproxy.http2.errors import PROTOCOL_ERROR, StreamFault
from canaryproxy.http2.events import DataReceived, HeadReceived, StreamRefused, TrailersReceived
from canaryproxy.http2.frames import END_HEADERS, HEADERS, frame
from canaryproxy.http2.settings import Bounds
from tests.http2.peer import (
    GET,
    OK,
    POST,
    Fields,
    ask,
    client,
    data,
    headers,
    kinds,
    request,
    server,
    verdict,
    written,
)

OPTIONS: Fields = [(b":method", b"OPTIONS"), *GET[1:3]]
LINE = GET[:3]

MALFORMED: list[tuple[str, Fields]] = [
    ("8.2.1 NUL in a value", [*GET, (b"a", b"b\x00c")]),
    ("8.2.1 CR in a value", [*GET, (b"a", b"b\rc")]),
    ("8.2.1 LF in a value", [*GET, (b"a", b"b\nc")]),
    ("8.2.1 a whole line in a value", [*GET, (b"a", b"b\r\nx: y")]),
    ("8.2.1 a request in a value", [*GET, (b"a", b"b\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n")]),
    ("8.2.1 another control byte in a value", [*GET, (b"a", b"b\x01c")]),
    ("8.2.1 DEL in a value", [*GET, (b"a", b"b\x7fc")]),
    ("8.2.1 blank before a value", [*GET, (b"a", b" b")]),
    ("8.2.1 blank after a value", [*GET, (b"a", b"b ")]),
    ("8.2.1 tab before a value", [*GET, (b"a", b"\tb")]),
    ("8.2.1 tab after a value", [*GET, (b"a", b"b\t")]),
    ("8.2.1 a value of one blank", [*GET, (b"a", b" ")]),
    ("8.2.1 NUL in a cookie", [*GET, (b"cookie", b"b\x00c")]),
    ("8.2.1 LF in Host", [*LINE[:2], GET[3], (b"host", b"a\nb")]),
    ("8.2.1 capital letter in a name", [*GET, (b"Accept", b"b")]),
    ("8.2.1 blank in a name", [*GET, (b"a b", b"c")]),
    ("8.2.1 colon in a name", [*GET, (b"a: b", b"c")]),
    ("8.2.1 colon at the end of a name", [*GET, (b"a:", b"c")]),
    ("8.2.1 LF in a name", [*GET, (b"a\r\nb", b"c")]),
    ("8.2.1 byte above ASCII in a name", [*GET, (b"\xe9", b"c")]),
    ("8.2.1 empty name", [*GET, (b"", b"c")]),
    ("8.2.2 Connection", [*GET, (b"connection", b"close")]),
    ("8.2.2 Keep-Alive", [*GET, (b"keep-alive", b"5")]),
    ("8.2.2 Proxy-Connection", [*GET, (b"proxy-connection", b"keep-alive")]),
    ("8.2.2 Transfer-Encoding", [*POST, (b"transfer-encoding", b"chunked")]),
    ("8.2.2 Upgrade", [*GET, (b"upgrade", b"websocket")]),
    ("8.2.2 TE other than trailers", [*GET, (b"te", b"trailers, deflate")]),
    ("8.3 pseudo-field after a field", [*LINE, (b"a", b"b"), GET[3]]),
    ("8.3 pseudo-field of responses", [*GET, (b":status", b"200")]),
    ("8.3 undefined pseudo-field", [*GET, (b":version", b"2")]),
    ("8.3 pseudo-field of an extension that was not agreed on", [*GET, (b":protocol", b"websocket")]),
    *[(f"8.3 {one[0].decode()} twice", [*GET, one]) for one in GET],
    ("8.3.1 no :method", GET[1:]),
    ("8.3.1 no :scheme", [GET[0], *GET[2:]]),
    ("8.3.1 no :path", GET[:3]),
    ("8.3.1 empty :method", [(b":method", b""), *GET[1:]]),
    ("8.3.1 blank in :method", [(b":method", b"GET /admin"), *GET[1:]]),
    ("8.3.1 line in :method", [(b":method", b"GET / HTTP/1.1\r\nx: y"), *GET[1:]]),
    ("8.3.1 empty :path", [*LINE, (b":path", b"")]),
    ("8.3.1 :path without a slash", [*LINE, (b":path", b"index.html")]),
    ("8.3.1 absolute :path", [*LINE, (b":path", b"http://other.example/")]),
    ("8.3.1 blank in :path", [*LINE, (b":path", b"/ HTTP/1.1")]),
    ("8.3.1 line in :path", [*LINE, (b":path", b"/ HTTP/1.1\r\nx: y\r\n")]),
    ("8.3.1 * for another method than OPTIONS", [*LINE, (b":path", b"*")]),
    ("8.3.1 user in :authority", [*GET[:2], (b":authority", b"me@shop.example"), GET[3]]),
    ("8.3.1 blank in :authority", [*GET[:2], (b":authority", b"shop example"), GET[3]]),
    ("8.3.1 line in :authority", [*GET[:2], (b":authority", b"a\r\nx: y"), GET[3]]),
    ("8.3.1 Host that differs from :authority", [*GET, (b"host", b"other.example")]),
    ("8.3.1 two Hosts", [*GET, (b"host", b"shop.example"), (b"host", b"shop.example")]),
    ("8.1.1 Content-Length without content", [*GET, (b"content-length", b"1")]),
    ("8.1.1 two Content-Lengths", [*GET, (b"content-length", b"0"), (b"content-length", b"0")]),
    ("8.1.1 Content-Length with a sign", [*GET, (b"content-length", b"+0")]),
    ("8.5 CONNECT with :path", [(b":method", b"CONNECT"), *GET[2:]]),
    ("8.5 CONNECT with :scheme", [(b":method", b"CONNECT"), *GET[1:3]]),
    ("8.5 CONNECT without :authority", [(b":method", b"CONNECT")]),
]  # fmt: skip


@pytest.mark.parametrize("fields", [pytest.param(one, id=said) for said, one in MALFORMED])
def test_a_malformed_request_is_a_stream_error_and_not_passed_on(fields: Fields) -> None:
    connection = server()
    (refused,) = connection.receive(headers(1, fields, end=True))
    assert isinstance(refused, StreamRefused)
    assert (refused.number, refused.code) == (1, PROTOCOL_ERROR)
    assert verdict(connection, b"") == ("stream", PROTOCOL_ERROR)
    assert kinds(connection.receive(headers(3, GET, end=True))) == ["HeadReceived"]


TEXTS: list[tuple[str, Fields, bytes]] = [
    ("8.3.1 :authority becomes Host", GET, b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
    (
        "8.3.1 equal Host is replaced",
        [*GET, (b"host", b"SHOP.example:80"), (b"a", b"b")],
        b"GET / HTTP/1.1\r\nHost: shop.example\r\na: b\r\n\r\n",
    ),
    (
        "8.3.1 Host alone",
        [GET[0], GET[1], GET[3], (b"host", b"a")],
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "8.3.1 asterisk form",
        [*OPTIONS, (b":path", b"*")],
        b"OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    ),
    (
        "8.2.3 crumbs of a cookie",
        [*GET, (b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d; e=f"), (b"cookie", b"g=h")],
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nx: y\r\ncookie: a=b; c=d; e=f; g=h\r\n\r\n",
    ),
    (
        "8.2.2 TE: trailers",
        [*GET, (b"te", b"trailers")],
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    ),
    (
        "8.2.1 values that look odd",
        [*GET, (b"a", b""), (b"b", b"c:  d"), (b"e", b"caf\xe9\tx")],
        b"GET / HTTP/1.1\r\nHost: shop.example\r\na: \r\nb: c:  d\r\ne: caf\xe9\tx\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("fields", "text"), [pytest.param(*one, id=said) for said, *one in TEXTS])
def test_a_request_becomes_one_of_http_1(fields: Fields, text: bytes) -> None:
    (event,) = server().receive(headers(1, fields, end=True))
    assert isinstance(event, HeadReceived)
    assert event.head.text_for(ends=True) == text
    RequestParser(b"\r\n").parse(text, Peer("127.0.0.1", b"http", False, b"x"))


def test_8_1_content_of_unknown_length_is_chunked_for_http_1() -> None:
    (event,) = server().receive(headers(1, POST))
    assert isinstance(event, HeadReceived)
    assert event.head.text_for(ends=False).endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    (event,) = server().receive(headers(1, [*POST, (b"content-length", b"3")]))
    assert isinstance(event, HeadReceived)
    assert event.head.text_for(ends=False).endswith(b"\r\ncontent-length: 3\r\n\r\n")


def test_8_5_connect_is_refused_by_the_rules_of_http_1() -> None:
    (event,) = server().receive(headers(1, [(b":method", b"CONNECT"), (b":authority", b"a:1")]))
    assert isinstance(event, HeadReceived)
    assert event.head.text == b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"


def test_8_3_1_a_scheme_that_is_not_ours_is_refused() -> None:
    fields = [GET[0], (b":scheme", b"ftp"), *GET[2:]]
    (event,) = server().receive(headers(1, fields, end=True))
    assert isinstance(event, HeadReceived)
    assert event.head.refusal is not None
    assert event.head.refusal.status == 400


def test_10_5_1_a_head_above_the_bound_is_refused_and_the_connection_goes_on() -> None:
    connection = server(Bounds(max_list=2000))
    (event,) = connection.receive(headers(1, [*GET, (b"a", b"b" * 2000)], end=True))
    assert isinstance(event, HeadReceived)
    assert event.head.refusal is not None
    assert event.head.refusal.status == 431
    assert kinds(connection.receive(headers(3, GET, end=True))) == ["HeadReceived"]


# Content and Content-Length (§8.1.1)


@pytest.mark.parametrize(
    ("parts", "malformed"),
    [
        ([(b"abc", True)], False),
        ([(b"ab", False), (b"c", True)], False),
        ([(b"ab", False), (b"c", False), (b"", True)], False),
        ([(b"ab", True)], True),
        ([(b"", True)], True),
        ([(b"abcd", False)], True),
        ([(b"abc", False), (b"d", True)], True),
    ],
)
def test_8_1_1_content_length_against_data(
    parts: list[tuple[bytes, bool]], malformed: bool
) -> None:
    connection = server()
    connection.receive(headers(1, [*POST, (b"content-length", b"3")]))
    received = b"".join(data(1, part, end=end) for part, end in parts)
    assert verdict(connection, received) == (("stream", PROTOCOL_ERROR) if malformed else ("", 0))


def test_8_1_1_trailers_do_not_make_up_for_missing_data() -> None:
    connection = server()
    connection.receive(headers(1, [*POST, (b"content-length", b"3")]) + data(1, b"ab"))
    assert verdict(connection, headers(1, [(b"a", b"b")], end=True)) == ("stream", PROTOCOL_ERROR)


# Trailers


def test_8_1_trailers_end_a_message_and_those_that_frame_it_are_dropped() -> None:
    connection = server()
    connection.receive(headers(1, POST) + data(1, b"abc"))
    trailers = [(b"grpc-status", b"0"), (b"content-length", b"5"), (b"host", b"evil")]
    (event,) = connection.receive(headers(1, trailers, end=True))
    assert isinstance(event, TrailersReceived)
    assert event.lines == b"grpc-status: 0\r\n"


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        pytest.param([(b"a", b"b")], False, id="8.1 without END_STREAM"),
        pytest.param([(b":path", b"/")], True, id="8.3 pseudo-field"),
        pytest.param([(b"A", b"b")], True, id="8.2.1 capital letter"),
        pytest.param([(b"a", b"b\n")], True, id="8.2.1 LF"),
        pytest.param([(b"connection", b"close")], True, id="8.2.2 Connection"),
        pytest.param([(b"te", b"gzip")], True, id="8.2.2 TE"),
        pytest.param([(b"transfer-encoding", b"chunked")], True, id="8.2.2 Transfer-Encoding"),
    ],
)
def test_malformed_trailers_are_a_stream_error(fields: Fields, end: bool) -> None:
    connection = server()
    connection.receive(headers(1, POST))
    assert verdict(connection, headers(1, fields, end=end)) == ("stream", PROTOCOL_ERROR)


# Responses

MALFORMED_RESPONSES: list[tuple[str, Fields]] = [
    ("8.3.2 no :status", [(b"a", b"b")]),
    ("8.3.2 :status of two digits", [(b":status", b"20")]),
    ("8.3.2 :status that is no number", [(b":status", b"2x0")]),
    ("8.3.2 :status below 100", [(b":status", b"099")]),
    ("8.6 status 101", [(b":status", b"101")]),
    ("8.3 :status twice", [*OK, *OK]),
    ("8.3 pseudo-field of requests", [*OK, (b":path", b"/")]),
    ("8.2.2 Connection", [*OK, (b"connection", b"close")]),
    ("8.2.2 TE", [*OK, (b"te", b"trailers")]),
    ("8.2.1 line in a value", [*OK, (b"a", b"b\r\nset-cookie: c")]),
    ("8.1.1 Content-Length without content", [*OK, (b"content-length", b"1")]),
    ("8.1 interim response that ends the stream", [(b":status", b"103")]),
]


@pytest.mark.parametrize(
    "fields", [pytest.param(one, id=said) for said, one in MALFORMED_RESPONSES]
)
def test_a_malformed_response_is_a_stream_error_and_not_passed_on(fields: Fields) -> None:
    connection = client()
    ask(connection)
    connection.take()
    assert kinds(connection.receive(headers(1, fields, end=True))) == ["StreamReset"]
    assert verdict(connection, b"") == ("stream", PROTOCOL_ERROR)


def test_8_1_interim_responses_come_before_the_final_one() -> None:
    connection = client()
    ask(connection)
    early = headers(1, [(b":status", b"103"), (b"link", b"</a>")])
    events = connection.receive(early + early + headers(1, OK) + data(1, b"a", end=True))
    assert kinds(events) == ["HeadReceived"] * 3 + ["DataReceived"]
    assert [event.head.status for event in events if isinstance(event, HeadReceived)] == [
        103,
        103,
        200,
    ]


def test_8_1_data_before_the_final_response_is_malformed() -> None:
    connection = client()
    ask(connection)
    connection.take()
    early = headers(1, [(b":status", b"103")])
    assert verdict(connection, early + data(1, b"a")) == ("stream", PROTOCOL_ERROR)


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
@pytest.mark.parametrize("status", [b"200", b"204", b"304"])
def test_8_1_1_a_response_without_content_may_have_a_length(method: bytes, status: bytes) -> None:
    connection = client()
    ask(connection, method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.take()
    fields = [(b":status", status), (b"content-length", b"9")]
    has_content = (method, status) == (b"GET", b"200")
    assert verdict(connection, headers(1, fields, end=True)) == (
        ("stream", PROTOCOL_ERROR) if has_content else ("", 0)
    )


def test_8_1_1_a_response_to_head_has_no_data() -> None:
    connection = client()
    ask(connection, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.take()
    assert verdict(connection, headers(1, OK) + data(1, b"a")) == ("stream", PROTOCOL_ERROR)


def test_a_response_becomes_one_of_http_1() -> None:
    connection = client()
    ask(connection)
    fields = [*OK, (b"content-type", b"text/plain"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    (event,) = connection.receive(headers(1, fields))
    assert isinstance(event, HeadReceived)
    assert event.head.text == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n"
    )
    assert ResponseParser().parse(event.head.text).length == -1


# What is written


def test_8_2_2_a_response_loses_what_was_for_its_connection() -> None:
    connection = server()
    head = (
        b"HTTP/1.1 200 OK\r\nX-Case: Kept\r\nConnection: close\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n"
        b"Transfer-Encoding: chunked\r\nProxy-Connection: close\r\n"
    )
    connection.respond(request(connection), head, ends=True)
    reader = client()
    ask(reader)
    (event,) = reader.receive(connection.take())
    assert isinstance(event, HeadReceived)
    assert event.head.text == b"HTTP/1.1 200 OK\r\nx-case: Kept\r\n\r\n"


def test_8_3_1_a_request_carries_its_host_as_authority() -> None:
    connection = client()
    head = (
        b"POST /a?b HTTP/1.1\r\nHost: shop.example\r\nX-A: b\r\nTE: trailers\r\nConnection: TE\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    ask(connection, head, ends=False)
    (event,) = server().receive(connection.take())
    assert isinstance(event, HeadReceived)
    assert event.head.text_for(ends=False) == (
        b"POST /a?b HTTP/1.1\r\nHost: shop.example\r\nx-a: b\r\nTE: trailers\r\nConnection: TE\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )


def test_8_3_1_a_request_without_authority_carries_none() -> None:
    assert messages.request_fields(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", b"http") == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b"a", b"b"),
    ]


def test_a_whole_conversation_between_our_two_ends() -> None:
    near, far = client(), server()
    stream = ask(near, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", ends=False)
    near.send(stream, b"hello", ends=True)
    head, content = far.receive(near.take())
    assert isinstance(head, HeadReceived)
    assert isinstance(content, DataReceived)
    assert (content.data, content.ends) == (b"hello", True)
    far.respond(head.stream, b"HTTP/1.1 100 Continue\r\n", ends=False)
    far.respond(head.stream, b"HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\n", ends=False)
    far.send(head.stream, b"hi", ends=False)
    far.send_trailers(head.stream, b"grpc-status: 0\r\n")
    events = near.receive(far.take())
    assert kinds(events) == ["HeadReceived", "HeadReceived", "DataReceived", "TrailersReceived"]
    assert near.open_streams == far.open_streams == 0
    assert written(near) == []


# Any fields

tokens = st.sampled_from([b"a", b"accept", b"cookie", b"te", b"x-b", b"content-length"])
texts = st.sampled_from([b"", b"b", b"5", b"a: b", b"a,  b", b"\r\nx: y", b"trailers", b"c "])
odd = st.lists(
    st.tuples(tokens | st.binary(max_size=6), texts | st.binary(max_size=12)), max_size=6
)


@given(odd)
def test_a_text_says_no_more_than_its_fields(fields: Fields) -> None:
    """What http1 reads in the text are the fields that came, or nothing was passed on."""
    received = [*GET, *fields]
    try:
        head = messages.request_head(FieldBlock(received, frozenset(), too_large=False))
    except StreamFault:
        return
    lines = head.text.split(b"\r\n")
    assert lines[0] == b"GET / HTTP/1.1"
    assert lines[-2:] == [b"", b""]
    got = [tuple(line.split(b": ", 1)) for line in lines[2:-2]]
    plain = [field for field in got if field[0] not in (b"cookie", b"TE", b"Connection")]
    assert plain == [field for field in fields if field[0] not in (b"cookie", b"te")]
    cookies = b"; ".join(value for name, value in fields if name == b"cookie")
    assert cookies == b"".join(value for name, value in got if name == b"cookie")


@given(odd)
def test_fields_survive_the_way_over_http_1(fields: Fields) -> None:
    received = [*OK, *fields]
    try:
        head = messages.response_head(FieldBlock(received, frozenset(), too_large=False))
    except StreamFault:
        return
    again = messages.response_fields(head.text)
    key = [field for field in received if field[0] == b"cookie"]
    rest = [field for field in received if field[0] != b"cookie"]
    assert again == rest + key


def test_a_block_of_equal_bytes_is_read_once() -> None:
    connection = server()
    once = b"\x82\x86\x84\x01\x0cshop.example"
    heads = []
    for number in (1, 3):
        (event,) = connection.receive(frame(HEADERS, END_HEADERS, number, once))
        assert isinstance(event, HeadReceived)
        heads.append(event.head)
    assert heads[0] is heads[1]
