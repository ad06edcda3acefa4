"""A head that comes again is parsed once, as long as it would be parsed to the same."""

from __future__ import annotations

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.request import RequestParser, Tolerated
from canaryproxy.http2.messages import Head
from canaryproxy.http2.streams import UNKNOWN_LENGTH
from canaryproxy.proxy.known_request import parse

END = b"Via: 2.0 canaryproxy\r\n\r\n"
TEXT = b"GET / HTTP/1.1\r\nHost: shop.example\r\ncookie: canary_id=abc\r\n\r\n"


def peer(address: str = "127.0.0.1") -> Peer:
    return Peer(address, b"http", False, b"")


def head() -> Head:
    made = Head(TEXT, UNKNOWN_LENGTH, frozenset())
    made.chunked = TEXT[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    return made


def test_a_head_that_comes_again_is_the_same_request() -> None:
    parser, client, one = RequestHeadCache(RequestParser(END)), peer(), head()
    first = parse(parser, client, one, one.text)
    assert parse(parser, client, one, one.text) is first
    assert first.head == RequestHeadCache(RequestParser(END)).parse(TEXT, peer()).head


def test_a_head_with_content_is_another_request() -> None:
    parser, client, one = RequestHeadCache(RequestParser(END)), peer(), head()
    alone = parse(parser, client, one, one.text)
    with_content = parse(parser, client, one, one.chunked)
    assert (alone.fields.chunked, with_content.fields.chunked) == (False, True)
    assert not parse(parser, client, one, one.text).fields.chunked


def test_what_a_reload_has_changed_is_parsed_again() -> None:
    parser, client, one = RequestHeadCache(RequestParser(END)), peer(), head()
    before = parse(parser, client, one, one.text)
    assert b"10.0.0.7" in parse(parser, peer("10.0.0.7"), one, one.text).head
    other = RequestHeadCache(RequestParser(b"X: 1\r\n\r\n"))
    assert parse(other, client, one, one.text).head.endswith(b"X: 1\r\n\r\n")
    assert parse(parser, client, one, one.text).head == before.head


def test_each_request_that_begins_a_trace_has_its_own() -> None:
    parser = RequestHeadCache(RequestParser(END, create_trace=True))
    client, one = peer(), head()
    assert len({parse(parser, client, one, one.text).trace_id for _ in range(3)}) == 3


def test_each_tolerated_request_is_counted() -> None:
    seen: list[Tolerated] = []
    parser = RequestHeadCache(RequestParser(END, tolerate=seen.append))
    client = peer()
    odd = Head(TEXT.replace(b"GET /", b'GET /"'), UNKNOWN_LENGTH, frozenset())
    for _ in range(3):
        parse(parser, client, odd, odd.text)
    assert seen == [Tolerated.RAW_TARGET] * 3


def test_a_request_is_remembered_with_its_head_alone() -> None:
    parser, client = RequestHeadCache(RequestParser(END)), peer()
    one, other = head(), head()
    assert parse(parser, client, one, one.text) is not parse(parser, client, other, other.text)


def test_calls_with_a_deadline_have_heads_of_their_own() -> None:
    parser, client = RequestHeadCache(RequestParser(END)), peer()
    text = TEXT[:-2] + b"grpc-timeout: 100m\r\n\r\n"
    one = Head(text, UNKNOWN_LENGTH, frozenset())
    assert parse(parser, client, one, one.text) is not parse(parser, client, one, one.text)


def test_what_may_not_be_indexed_is_said_of_each_request() -> None:
    parser, client = RequestHeadCache(RequestParser(END)), peer()
    one = Head(TEXT, UNKNOWN_LENGTH, frozenset((b"cookie",)))
    for _ in range(2):
        assert parse(parser, client, one, one.text).never_indexed == {b"cookie"}
