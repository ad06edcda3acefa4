"""Reading the sticky cookie: the quick way finds what the expression finds that says what is meant."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.request import RequestParser
from canaryproxy.proxy.sticky import CookieFinder

MEANT = re.compile(rb'(?:^|;)[ \t]*id="?([^;" \t]+)')
find = CookieFinder("id").find

pieces = st.lists(
    st.sampled_from(
        [b"id=", b"id", b"=", b"a", b"b1", b";", b"; ", b" ", b"\t", b'"', b"xid=", b",", b"\xe4"]
    ),
    max_size=12,
).map(b"".join)


@given(pieces)
@example(b"xid=a")
@example(b" id=a")
@example(b"x; id=; id=b")
@example(b'id="a b"')
@settings(max_examples=2000)
def test_the_value_of_a_cookie(cookies: bytes) -> None:
    match = MEANT.search(cookies)
    assert find(cookies) == (match[1] if match else None)


@given(st.sampled_from([b"Cookie", b"cookie", b"cOOkie"]), pieces, st.booleans())
@settings(max_examples=500)
def test_a_cookie_line_is_read_the_same_alone_and_among_known_lines(
    name: bytes, value: bytes, first: bool
) -> None:
    peer = Peer("127.0.0.1", b"http", False, b"localhost")
    other, line = b"Host: h\r\nX-Cookie: y\r\n", name + b": " + value + b"\r\n"
    head = b"GET / HTTP/1.1\r\n" + (line + other if first else other + line) + b"\r\n"
    parser = RequestParser(b"\r\n")
    cache = RequestHeadCache(parser)
    for _ in range(2):
        cached, parsed = cache.parse(head, peer), parser.parse(head, peer)
        assert cached.head == parsed.head
        assert cached.headers.cookie == parsed.headers.cookie
        assert cached.headers.field(b"cookie") == parsed.headers.field(b"cookie")
