"""``strict: report``: what is mended passes the strict rules then, and nothing dangerous is mended."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.fields import find_head_end
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.request import Request, RequestParser, Tolerated
from canaryproxy.measure.counters import TOLERATED_REASONS

PEER = Peer("192.0.2.1", b"http", False, b"127.0.0.1:80")
HOST = b"Host: h\r\n"
STRICT = RequestParser(b"\r\n")


def parsed(head: bytes) -> tuple[Request, list[Tolerated]]:
    """Parse with the report mode, with and without caches: both must agree."""
    found: list[Tolerated] = []
    parser = RequestParser(b"\r\n", tolerate=found.append)
    request = parser.parse(head, PEER)
    seen = list(found)
    cache = RequestHeadCache(parser)
    for _ in range(2):
        found.clear()
        assert cache.parse(head, PEER).head == request.head
        assert found == seen
    return request, seen


@pytest.mark.parametrize(
    ("target", "mended"),
    [
        ("/größe?q=ä".encode(), b"/gr%C3%B6%C3%9Fe?q=%C3%A4"),
        (b"/caf\xe9", b"/caf%E9"),
        (b'/<a>"b"', b"/%3Ca%3E%22b%22"),
        (b"/a\\b^c`d{e}", b"/a%5Cb%5Ec%60d%7Be%7D"),
        (b"/a%20b\xff", b"/a%20b%FF"),
    ],
)
def test_raw_bytes_of_a_target_are_encoded(target: bytes, mended: bytes) -> None:
    head = b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    request, found = parsed(head)
    assert request.target == mended
    assert request.head.startswith(b"GET " + mended + b" HTTP/1.1\r\n")
    assert found == [Tolerated.RAW_TARGET]
    with pytest.raises(Refusal):
        STRICT.parse(head, PEER)


@pytest.mark.parametrize("line", [b"", b"Host:\r\n", b"host:  \r\n"])
def test_a_missing_host_is_that_of_the_listener(line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nA: 1\r\n" + line + b"\r\n"
    request, found = parsed(head)
    assert request.head.lower().count(b"\r\nhost:") == 1
    assert b"\r\nHost: 127.0.0.1:80\r\n" in request.head
    assert found == [Tolerated.NO_HOST]
    with pytest.raises(Refusal):
        STRICT.parse(head, PEER)


@pytest.mark.parametrize("line", [b"", b"Host:\r\n"])
def test_http_1_0_needs_no_host(line: bytes) -> None:
    request, found = parsed(b"GET / HTTP/1.0\r\n" + line + b"\r\n")
    assert request.head.lower().count(b"\r\nhost:") == 1
    assert found == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost:\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent_Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xc3\xa4 x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET \xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET http://h/\xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"G\xc3\xa4T / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(Refusal):
        RequestParser(b"\r\n", tolerate=lambda _: None).parse(head, PEER)


pieces = st.lists(
    st.sampled_from(
        [
            b"/",
            b"a",
            b"%41",
            b"%",
            b"%z",
            b"?",
            b"#",
            b"\\",
            b'"',
            b"<",
            b"{",
            b" ",
            b"\t",
            b"\x00",
            b"\xc3\xa4",
            b"\r\n",
            b"Host: h",
            b"Host:",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            b"HTTP/1.1",
        ]
    ),
    max_size=10,
).map(b"".join)


@given(st.sampled_from([b"GET /", b"OPTIONS *", b"GET http://h/"]), pieces, pieces)
@settings(max_examples=500)
def test_what_is_forwarded_passes_the_strict_rules(
    start: bytes, target: bytes, lines: bytes
) -> None:
    head = start + target + b" HTTP/1.1\r\n" + lines + b"\r\n\r\n"
    head = head[: find_head_end(head)]
    parser = RequestParser(b"\r\n", tolerate=lambda _: None)
    try:
        request = parser.parse(head, PEER)
    except Refusal:
        return
    again = STRICT.parse(request.head, PEER)
    assert (again.method, again.target) == (request.method, request.target)
    assert again.fields.length == request.fields.length
    assert again.fields.chunked == request.fields.chunked


def test_counters_have_the_names_of_the_reasons() -> None:
    assert tuple(reason.name.lower() for reason in Tolerated) == TOLERATED_REASONS
