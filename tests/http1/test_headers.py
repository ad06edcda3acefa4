"""Heads without sockets: whatever is let through is strict, and means to h11 what it means to us."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import InvalidResponse, Refusal
from canaryproxy.http1.fields import REQUEST_KINDS, Names, find_head_end, nominated, tokens, without
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import Request, RequestParser, check_partial
from canaryproxy.http1.response import ResponseParser

PEER = Peer("192.0.2.1", b"http", False, b"local")
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
LINE = re.compile(TOKEN + rb":[\t \x21-\x7e\x80-\xff]*")

names = st.sampled_from(
    [
        b"A", b"X-Long-Name", b"Accept", b"Cookie", b"Connection", b"Keep-Alive", b"TE", b"Via", b"Upgrade",
        b"Content-Length", b"Transfer-Encoding", b"Host", b"Expect", b"Forwarded", b"X-Forwarded-For",
        b"content-length", b"TRANSFER-ENCODING", b"Content-Length ", b" Transfer-Encoding", b"Content_Length",
    ]
)  # fmt: skip
values = st.sampled_from(
    [
        b"", b"b", b"5", b"05", b"5, 5", b"+5", b"chunked", b"Chunked", b"gzip, chunked", b"close", b"h",
        b"keep-alive, A", b"Content-Length", b"upgrade", b"100-continue", b"a=1; b=2", b"\tb \t",
        b"caf\xe9", b"a\rb", b"a\nb", b"a\x00b", b"a\r\n b", b"\x0bchunked", b"trailers", b"websocket",
    ]
)  # fmt: skip
colons = st.sampled_from([b": ", b":", b":\t", b" : ", b":  "])
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n"])
fields = st.lists(
    st.tuples(names, colons, values, st.just(b"\r\n") | ends).map(b"".join), max_size=5
).map(b"".join)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def requests(loop: asyncio.AbstractEventLoop) -> RequestParser:
    return RequestParser(loop, b"Via: 1.1 us\r\n\r\n")


@pytest.fixture(scope="module")
def answers(loop: asyncio.AbstractEventLoop) -> ResponseParser:
    return ResponseParser(loop)


def strict(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a head, lower-case names; fails if a line is not exactly ``name: value``."""
    lines = head.split(b"\r\n")
    assert lines[-2:] == [b"", b""], head
    for line in lines[1:-2]:
        assert LINE.fullmatch(line), line
    pairs = [line.partition(b":") for line in lines[1:-2]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]


def of(found: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in found if key == name]


def ask(heads: RequestParser, head: bytes) -> Request | None:
    try:
        return heads.parse(head, PEER)
    except Refusal:
        return None


@settings(max_examples=600)
@given(
    fields, st.sampled_from([b"GET / HTTP/1.1", b"POST /a?b HTTP/1.0", b"PUT http://o/x HTTP/1.1"])
)
@example(b"Content-Length : 5\r\n", b"GET / HTTP/1.1")
@example(b" Content-Length: 5\r\n", b"GET / HTTP/1.1")
def test_requests_that_pass_are_strict_and_mean_the_same_to_h11(
    requests: RequestParser, more: bytes, line: bytes
) -> None:
    head = line + b"\r\nHost: h\r\n" + more + b"\r\n"
    end = find_head_end(head)
    request = ask(requests, head[:end])
    if request is None:
        return
    sent = strict(request.head)
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(request.head)
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    assert event.http_version == b"1.1"
    assert len(of(sent, b"host")) == 1
    lengths, codings = of(sent, b"content-length"), of(sent, b"transfer-encoding")
    if request.fields.chunked:
        assert codings == [b"chunked"]
        assert lengths == []
    else:
        assert codings == []
        assert len(lengths) <= 1
        assert int(lengths[0] if lengths else 0) == request.fields.length
    for name in (b"keep-alive", b"proxy-connection", b"proxy-authorization"):
        assert not of(sent, name)
    for value in of(sent, b"connection"):
        assert set(tokens(value)) <= {b"upgrade", b"te"}
    for value in of(sent, b"te"):
        assert value == b"trailers"
    assert of(sent, b"x-forwarded-for") == [b"192.0.2.1"]
    assert request.head.endswith(b"\r\nVia: 1.1 us\r\n\r\n")


@given(fields)
def test_what_is_remembered_is_what_would_be_found_again(
    loop: asyncio.AbstractEventLoop, more: bytes
) -> None:
    heads = RequestParser(loop, b"\r\n")
    one = b"GET /1 HTTP/1.1\r\nHost: h\r\n" + more + b"\r\n"
    first = ask(heads, one[: find_head_end(one)])
    two = one.replace(b"GET /1 ", b"PUT /2 ", 1)
    again = ask(heads, two[: find_head_end(two)])
    assert (first is None) == (again is None)
    if first is not None and again is not None:
        assert again.head == first.head.replace(b"GET /1 ", b"PUT /2 ", 1)
        assert again.fields is first.fields


@given(fields)
def test_no_part_of_a_good_head_is_refused_before_it_is_whole(
    requests: RequestParser, more: bytes
) -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + more + b"\r\n"
    head = head[: find_head_end(head)]
    if ask(requests, head) is not None:
        for end in range(len(head)):
            check_partial(head[:end])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"A", b"b", b"X-Y"]),
            st.from_regex(rb"[!-~]?([\t -~]*[!-~])?", fullmatch=True),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_other_fields_are_forwarded_byte_for_byte(
    requests: RequestParser, plain: list[tuple[bytes, bytes]]
) -> None:
    block = b"".join(b"%b:%b\r\n" % field for field in plain)
    head = b"GET / HTTP/1.1\r\n" + block + b"Host: h\r\nKeep-Alive: 1\r\n\r\n"
    request = ask(requests, head)
    assert request is not None
    # Without the line that goes, in the order that came; only white space may be put in order.
    sent = strict(request.head)
    assert sent[: len(plain)] == [(name.lower(), value.strip(b" \t")) for name, value in plain]
    same = ask(requests, head.replace(b"Keep-Alive: 1\r\n", b""))
    assert same is not None
    assert same.head.startswith(b"GET / HTTP/1.1\r\n" + block + b"Host: h\r\n")


@settings(max_examples=600)
@given(
    fields,
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 404 X", b"HTTP/1.1 304", b"HTTP/1.1 204 "]),
)
@example(b"Content-Length : 5\r\n", b"HTTP/1.1 200 OK")
@example(b"Transfer-Encoding : chunked\r\n", b"HTTP/1.1 200 OK")
@example(b" Content-Length: 5\r\n", b"HTTP/1.1 200 OK")
@example(b"\tA: 5\r\n", b"HTTP/1.1 200 OK")
def test_answers_that_pass_are_strict_and_mean_the_same_to_h11(
    answers: ResponseParser, more: bytes, line: bytes
) -> None:
    head = line + b"\r\n" + more + b"\r\n"
    try:
        answer = answers.parse(head[: find_head_end(head)])
    except InvalidResponse:
        return
    sent = strict(answer.head + b"\r\n")
    assert not of(sent, b"transfer-encoding")
    assert not of(sent, b"connection")
    assert not of(sent, b"keep-alive")
    lengths = of(sent, b"content-length")
    if answer.chunked:
        assert lengths == []
    else:
        assert {int(value) for value in lengths} <= {answer.length}
        assert bool(lengths) == (answer.length >= 0)
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(answer.head.replace(b"HTTP/1.1 304\r", b"HTTP/1.1 304 \r") + b"\r\n")
    event = reader.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == answer.status


@given(st.binary(max_size=40), st.integers(0, 40))
def test_the_end_of_a_head_is_found_wherever_the_search_was_left(data: bytes, start: int) -> None:
    head = data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n" + data
    end = find_head_end(head)
    assert head[:end].endswith(b"\r\n\r\n")
    assert find_head_end(head[: end - 1]) == -1
    assert find_head_end(head, min(start, end - 1)) == end


def test_names_are_looked_up_in_bounded_memory() -> None:
    known = Names(REQUEST_KINDS)
    for number in range(5000):
        assert known.kind(b"X-%d" % number) == 0
    assert len(known._cache) <= 512
    for name, kind in REQUEST_KINDS.items():
        assert known.kind(name) == known.kind(name.upper()) == known.kind(name.title()) == kind
        if b"-" in name:
            assert known.kind(name.replace(b"-", b"_")) not in (0, kind)


def test_tokens() -> None:
    assert tokens(b" A , ,b,\tC ,") == [b"a", b"b", b"c"]
    assert tokens(b"") == []


def test_connection_cannot_name_away_what_frames_or_routes() -> None:
    raw = [(b"Host", b"h"), (b"Content-Length", b"1"), (b"A", b"1"), (b"a", b"2"), (b"B", b"3")]
    dropped = nominated(raw, [], [b"host", b"content-length", b"a", b"close"])
    assert dropped == [(b"A", b"1"), (b"a", b"2")]


def test_lines_are_cut_out_whole_and_only_once_each() -> None:
    raw = [(b"A", b"1"), (b"AA", b"1"), (b"A", b"1"), (b"A", b"11")]
    block = b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in raw)
    assert without(block, [(b"A", b"1")] * 2, raw) == b"\r\nAA: 1\r\nA: 11\r\n"
    assert without(block, raw, raw) == b"\r\n"
    assert without(block, [], raw) == block
