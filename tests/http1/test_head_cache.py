"""The caches mean the same as the parsers, and their memory is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.fields import find_head_end
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import (
    ADMIT_ONE_IN,
    MAX_BLOCKS,
    MAX_TEMPLATES,
    RequestHeadCache,
    ResponseHeadCache,
    SampledFifo,
)
from canaryproxy.http1.header_template import OWN_VALUES
from canaryproxy.http1.propagated import Names
from canaryproxy.http1.request import RequestParser
from canaryproxy.http1.response import ResponseParser
from canaryproxy.proxy.sticky import cookie_stripper

NOT_RAW = OWN_VALUES.keys() - {b"cookie"}
"""What templates keep no values of but in the head to forward."""
END = b"Via: 1.1 canaryproxy\r\n\r\n"
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def new_peer() -> Peer:
    return Peer("127.0.0.1", b"http", False, b"localhost")


PEER = new_peer()


def cache_of(*, remember_cookies: bool = True) -> RequestHeadCache:
    return RequestHeadCache(RequestParser(END), remember_cookies=remember_cookies)


def meaning(
    heads: RequestHeadCache | RequestParser,
    head: bytes,
    *,
    single: bool = False,
    peer: Peer = PEER,
    reads: frozenset[bytes] = frozenset(),
) -> Any:
    """Return all that a request means to who ``reads`` fields, or the status of its refusal."""
    try:
        if single:
            assert isinstance(heads, RequestHeadCache)
            request = heads.parse_single(head, peer)
        else:
            request = heads.parse(head, peer)
    except Refusal as refusal:
        return refusal.status
    if request is None:
        return None
    fields = request.fields
    line, _, lines = request.head.partition(b"\r\n")
    sent = sorted(lines.split(b"\r\n"))
    if request.trace is None:  # each time another one
        assert sum(one.startswith(b"traceparent: ") for one in sent) == 1
        sent = [one for one in sent if not one.startswith(b"traceparent: ")]
    return {
        "line": (request.method, request.target, request.http10, line),
        "lines": sent,
        "end": request.head.endswith(END) or request.trace is None,
        "trace": (request.trace, request.sampled),
        "cookie": request.headers.cookie,
        "raw": sorted(
            field for field in request.headers.raw if field[0].lower() not in NOT_RAW - reads
        ),
        "read": [request.headers.field(name) for name in sorted(reads)],
        "forwarding": sorted(request.forwarding) if request.forwarding else None,
        "logged": [request.field(name) for name in (b"x-request-id", b"referer", b"x-other")],
        **{
            name: getattr(fields, name)
            for name in (
                *("host", "keep_alive", "length", "chunked", "expect", "upgrade", "binds"),
                *("ordinary", "nominated", "grpc"),
            )
        },
    }


cookies = st.one_of(
    st.text("abc=; ", max_size=8).map(str.encode),
    st.sampled_from(
        [
            b"id=a", b"id=b", b"", b" ", b"id=a ", b" id=a", b"id=\xe4", b"id=a\x00", b"id=\ta", b"id=a\n",
            b"id=a\r\nHost: evil", b"id=a\r\n\r\nGET / HTTP/1.1", b"id=a\r\nC", b"id=a\r", b"a\rb",
            b"id=" + b"a" * 3000,
        ]
    ),
)  # fmt: skip
cookie_lines = st.tuples(
    st.sampled_from([b"Cookie: ", b"Cookie: ", b"cookie: ", b"COOKIE: ", b"Cookie:", b"Cookie : "]),
    cookies,
).map(b"".join)
trace_lines = st.sampled_from(
    [
        b"traceparent: " + PARENT, b"Traceparent: " + PARENT, b"TraceParent: " + PARENT,
        b"traceparent: 00-bad", b"traceparent: ", b"traceparent: " + PARENT + b" ", b"tracestate: a=1",
        b"traceparent: 00-" + b"0" * 32 + PARENT[35:], b"traceparent: " + PARENT[:-1] + b"0",
    ]
)  # fmt: skip
own_lines = st.sampled_from(
    [
        b"X-Request-Id: 1", b"x-request-id: 22", b"X-Request-Id:  1", b"X-Request-Id: \xe4",
        b"X-Request-Id: ",
        b"X-Forwarded-For: 1.2.3.4", b"x-forwarded-for: 2001:db8::1, 10.0.0.1", b"X-Forwarded-For:1.2.3.4",
        b"X-Forwarded-For: ", b"Authorization: Bearer abc", b"Authorization: Bearer abcd", b"Referer: http://h/",
        b"authorization: NTLM abc", b"Authorization: Bearer a, NTLM b", b"Authorization: Basic a",
        b"tracestate: a=1", b"tracestate: a=2", b"If-None-Match: \"1\"", b"X-Real-IP: 1.2.3.4",
    ]
)  # fmt: skip
other_lines = st.sampled_from(
    [
        b"Host: h", b"host: other", b"Cookie", b"X-Cookie: a=b", b" folded=1", b"\tfolded",
        b"CAccept: 1", b"C: 1", b"Max-Forwards: 3", b"Max-Forwards: 0", b"Accept: */*",
        b"Connection: cookie", b"Connection: close", b"Connection:  close", b"Connection: keep-alive",
        b"Connection: keep-alive, traceparent", b"Connection: upgrade", b"Upgrade: websocket",
        b"TE: trailers", b"Content-Length: 5", b"Content-Length: 6", b"Content-Length: x",
        b"Transfer-Encoding: chunked", b"Transfer_Encoding: chunked", b"Expect: 100-continue",
        b"X-Forwarded-For: 1.2.3.4", b"X-Long: " + b"x" * 3000, b"", b"\r", b"Bad Name: x",
        b"X: a\nCookie: z=1", b"X-Forwarded-Proto: https", b"Connection: x-request-id",
        b"Connection: x-forwarded-for", b"X-Forwarded-Host: h2", b"Forwarded: for=1.2.3.4",
    ]
)  # fmt: skip
starts = st.sampled_from(
    [
        *(b"GET / HTTP/1.1", b"GET / HTTP/1.1", b"GET /a?b HTTP/1.1", b"POST /x HTTP/1.1"),
        *(b"OPTIONS / HTTP/1.1", b"GET / HTTP/1.0", b"FOO / HTTP/1.1", b"GET http://o/ HTTP/1.1"),
        *(b"GET /" + b"a" * 9000 + b" HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET / HTTP/2.0", b"GET /"),
    ]
)
blocks = st.lists(st.one_of(other_lines, cookie_lines, trace_lines, own_lines), max_size=7)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A valid block with some values of its own most of the time: those are what caches leave out."""
    lines = [draw(starts)]
    if draw(st.integers(0, 3)):
        lines += [
            b"Host: h",
            *draw(st.lists(st.sampled_from([b"Accept: */*", b"TE: a"]), max_size=1)),
        ]
        own = draw(st.lists(cookie_lines, max_size=1)) + draw(st.lists(trace_lines, max_size=1))
        lines += draw(st.permutations(own + draw(st.lists(own_lines, max_size=2))))
        lines += draw(st.lists(other_lines, max_size=1))
    else:
        lines += draw(blocks)
    return b"\r\n".join((*lines, b"", b""))


@given(st.lists(heads(), min_size=1, max_size=6), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=600, deadline=None)
def test_the_cache_means_the_same_as_the_parser(
    received: list[bytes], create: bool, trusted: bool, takes_out: bool
) -> None:
    """Whatever came before, on the same connection or another, each head twice.

    From a trusted proxy or a stranger; the sticky cookie, and what says which version it gets, are taken out
    or not.
    """

    def parser() -> RequestParser:
        if not takes_out:
            return RequestParser(END, create_trace=create)
        names = Names(frozenset({b"x-real-ip"}), frozenset({b"v"}))
        return RequestParser(END, cookie_stripper("id"), create_trace=create, propagated=names)

    def client() -> Peer:
        return Peer("127.0.0.1", b"http", trusted, b"localhost")

    plain, off = parser(), RequestHeadCache(parser(), enabled=False)
    caches = [
        (RequestHeadCache(parser(), remember_cookies=remember, reads=reads), client(), reads)
        for remember in (True, False)
        for reads in (frozenset({b"cookie", b"traceparent"}), frozenset({b"x-request-id"}))
    ]
    for data in received:
        head = data[: find_head_end(data)]
        for cache, kept, reads in caches:
            expected = meaning(plain, head, peer=client(), reads=reads)
            for peer in (kept, client(), kept):
                found = meaning(cache, data, single=True, peer=peer, reads=reads)
                assert found == (expected if data == head else None)
                assert meaning(cache, head, peer=peer, reads=reads) == expected
        assert meaning(off, head, peer=client()) == meaning(plain, head, peer=client())
    assert len(off._blocks) + len(off._templates) + len(off._lines) == 0


def test_a_cached_block_does_not_hide_a_second_head_behind_it() -> None:
    start, accept = b"GET / HTTP/1.1\r\n", b"Accept: */*\r\n"
    for cookie in (b"", b"Cookie: canary_id=%d\r\n"):
        for trace in (b"", b"traceparent: " + PARENT + b"\r\n"):
            for host in (b"Host: h\r\n", b""):
                cache = cache_of()
                for number in range(3):
                    lines = host + accept + (cookie % number if cookie else b"") + trace + b"\r\n"
                    found = meaning(cache, start + lines, single=True)
                    assert (found == 400) == (not host)
                    more = cookie % 7 if cookie else trace
                    for second in (start + lines, lines, more + b"\r\n", b"\r\n"):
                        assert cache.parse_single(start + lines + second, PEER) is None


def test_a_connection_keeps_the_number_of_its_template() -> None:
    cache, peer = cache_of(), new_peer()
    start = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nCookie: "
    for number in range(10):
        request = cache.parse_single(start + b"id=%d\r\nAccept: */*\r\n\r\n" % number, peer)
        assert request is not None
        assert request.headers.cookie == b"id=%d" % number
        assert b"\r\nCookie: id=%d\r\nAccept: */*\r\n" % number in request.head
        assert b"Connection" not in request.head
        assert request.fields.template == 0
        assert peer.template == 0
    # The number may by now belong to another template, or to none.
    stale = new_peer()
    for stale.template in (0, 1, 1000):
        found = meaning(cache, b"GET / HTTP/1.1\r\nHost: i\r\nCookie: id=1\r\n\r\n", peer=stale)
        assert found["host"] == b"i"


def test_users_that_differ_in_their_cookie_and_trace_share_a_template() -> None:
    cache = cache_of()
    for number in range(50):
        head = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=%d\r\nAccept: */*\r\n\r\n" % number
        request = cache.parse(head, PEER)
        assert request.headers.cookie == b"canary_id=%d" % number
        assert b"\r\nCookie: canary_id=%d\r\n" % number in request.head
        traced = head[:-2] + b"traceparent: 00-%032x-b7ad6b7169203331-01\r\n\r\n" % (number + 1)
        request = cache.parse(traced, PEER)
        assert request.sampled
        assert request.trace == b"%032x" % (number + 1)
        assert request.head.count(b"traceparent: ") == 1
    assert len(cache._templates) == 2  # one with a traceparent, one without
    assert len(cache._blocks) == 50  # those without: a trace id does not come again


def test_requests_through_an_ingress_share_a_template() -> None:
    """Of many users over one connection, each with an address, a Cookie, credentials and ids of its own."""
    cache, peer = cache_of(), Peer("10.0.0.1", b"http", True, b"localhost")
    for number in range(50):
        lines = [
            b"GET / HTTP/1.1",
            b"Host: h",
            b"X-Request-ID: %032x" % number,
            b"X-Forwarded-For: 192.0.2.%d" % number,
            b"X-Forwarded-Proto: https",
            b"Cookie: canary_id=%d" % number,
            b"Authorization: Bearer %d" % number,
            b"traceparent: 00-%032x-b7ad6b7169203331-01" % (number + 1),
        ]
        head = b"\r\n".join((*lines, b"", b""))
        assert meaning(cache, head, peer=peer) == meaning(RequestParser(END), head, peer=peer)
        request = cache.parse(head, peer)
        assert b"\r\nX-Forwarded-For: 192.0.2.%d, 10.0.0.1\r\n" % number in request.head
        assert request.field(b"x-request-id") == b"%032x" % number
    assert len(cache._templates) == 1
    assert len(cache._blocks) == 0
    assert len(cache._users) == 50


@pytest.mark.parametrize("cookie", [b"", b"Cookie: id=1\r\n"])
def test_blocks_with_a_plain_cookie_are_not_cached_if_that_is_no_quicker(cookie: bytes) -> None:
    cache = cache_of(remember_cookies=False)
    for number in range(50):
        block = b"Host: h\r\nAccept: %d\r\n" % (number % 5) + cookie + b"\r\n"
        for _ in range(2):
            assert cache.parse_single(b"GET / HTTP/1.1\r\n" + block, PEER) is not None
    assert len(cache._blocks) == (0 if cookie else 5)
    assert len(cache._templates) == (5 if cookie else 0)


def test_returning_users_are_soon_cached_and_the_oldest_are_evicted() -> None:
    cache = cache_of()

    def ask(kind: bytes, users: range) -> None:
        for number in users:
            head = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: %b=%d\r\n\r\n" % (kind, number)
            cache.parse(head, PEER)

    def cached(kind: bytes) -> int:
        return sum(b" %b=" % kind in block for block in cache._blocks)

    ask(b"old", range(MAX_BLOCKS))
    assert cached(b"old") == MAX_BLOCKS == 4096
    ask(b"once", range(8000))
    assert (cached(b"old"), cached(b"once")) == (3096, 1000)
    for _ in range(60):
        ask(b"returning", range(100))
    assert cached(b"returning") == 100


def test_caches_of_requests_are_bounded() -> None:
    cache = cache_of()
    for number in range(6000):
        head = b"GET /%d HTTP/1.1\r\nHost: h%d\r\nCookie: canary_id=%d\r\n\r\n" % ((number,) * 3)
        cache.parse(head, PEER)
        for size in (1, 3000):
            own = b"Cookie: canary_id=%d\r\nX-Request-Id: %b\r\n" % (number, b"1" * size)
            cache.parse(b"GET / HTTP/1.1\r\nHost: h\r\n" + own + b"\r\n", PEER)
        assert len(cache._users) <= MAX_BLOCKS
        assert len(cache._lines) <= 1024
        assert len(cache._templates) <= MAX_TEMPLATES == 1024
        assert len(cache._blocks) <= 4096
    assert all(len(headers.block) <= 2048 for headers in cache._users.values())


def test_equal_responses_share_one_object() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Variant: canary\r\nContent-Length: 2\r\n\r\n"
    for enabled in (True, False):
        cache = ResponseHeadCache(ResponseParser(), enabled=enabled)
        first = cache.parse(head)
        assert (cache.get(head) is first) == enabled
        assert (cache.last, cache.last_head) == ((first, head) if enabled else (None, b""))
        assert (cache.parse(head) is first) == enabled
        assert cache.parse(head).head == first.head == ResponseParser().parse(head).head
        cache.replace_parser(ResponseParser(b"X-Variant"))
        assert cache.get(head) is cache.last is None
        assert b"X-Variant" not in cache.parse(head).head
        for number in range(3000):
            cache.parse(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number)
            assert len(cache._heads) <= 1024


@given(st.integers(1, 8), st.lists(st.integers(0, 40), max_size=300))
def test_sampled_fifo_admits_one_in_eight_and_evicts_the_oldest(size: int, keys: list[int]) -> None:
    fifo, cache = SampledFifo(size), dict[bytes, int]()
    order: list[bytes] = []
    refused = 0
    for number in keys:
        key = b"%d" % number
        if key in cache:
            continue
        full = len(cache) == size
        if fifo.admit(key, cache):
            cache[key] = number
            order.append(key)
            if full:
                assert refused == ADMIT_ONE_IN - 1
                refused = 0
        else:
            assert full
            refused += 1
        assert list(cache) == order[-size:]  # in order of arrival
