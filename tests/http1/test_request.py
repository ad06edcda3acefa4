"""What is remembered of requests' fields means the same as what is parsed anew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import ParsedHeaders, RequestParser
from canaryproxy.measure.compiled import COMPILED

END = b"Via: 1.1 canaryproxy\r\n\r\n"
PEER = Peer("127.0.0.1", b"http", False, b"localhost")
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Anew(RequestParser):
    """Remembers nothing."""

    def _find(self, line: bytes, block: bytes) -> tuple[ParsedHeaders, bytes]:
        return self._parsed(line + b"\r\n" + block, len(line)), b""


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def meaning(heads: RequestParser, head: bytes, *, take: bool = False, peer: Peer = PEER) -> Any:
    """Return all that a request means, or the status of its refusal."""
    try:
        request = (heads.parse_single if take else heads.parse)(head, peer)
    except Refusal as refusal:
        return refusal.status
    if request is None:
        return None
    fields = request.fields
    line, _, lines = request.head.partition(b"\r\n")
    return {
        "line": (request.method, request.target, request.http10, line),
        "lines": sorted(lines.split(b"\r\n")),
        "end": request.head.endswith(END),
        "trace": (request.trace, request.sampled),
        "cookie": request.headers.cookie,
        "raw": sorted(field for field in request.headers.raw if field[0].lower() != b"traceparent"),
        **{
            name: getattr(fields, name)
            for name in (
                *("host", "keep_alive", "length", "chunked", "expect", "upgrade", "forwarding"),
            )
        },
    }


lines = st.sampled_from(
    [
        b"Host: h", b"Host: h", b"Host: h", b"host: other", b"Cookie: canary_id=a", b"cookie: id=b; x=y",
        b"COOKIE: c=d", b"Cookie: ", b"Cookie:e=f", b"Cookie:  g=h ", b"Cookie: \xe4=1", b"Cookie: a\x00b",
        b"Cookie: a\rb", b" folded=1", b"\tfolded", b"Cookie : a=b", b"Cookie", b"X-Cookie: a=b",
        b"traceparent: " + PARENT, b"Traceparent: " + PARENT, b"TraceParent: " + PARENT,
        b"traceparent: 00-bad", b"traceparent: ", b"traceparent: " + PARENT + b" ", b"tracestate: a=1",
        b"Connection: cookie", b"Connection: close", b"Connection: keep-alive, traceparent",
        b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: websocket", b"TE: trailers",
        b"Content-Length: 5", b"Content-Length: 6", b"Content-Length: x", b"Transfer-Encoding: chunked",
        b"Transfer_Encoding: chunked", b"Expect: 100-continue", b"X-Forwarded-For: 1.2.3.4",
        b"Accept: */*", b"X-Long: " + b"x" * 3000, b"", b"\r", b"Bad Name: x", b"X: a\nCookie: z=1",
    ]
)  # fmt: skip
starts = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"GET /a?b HTTP/1.1",
        b"POST /x HTTP/1.1",
        b"GET / HTTP/1.0",
        b"FOO / HTTP/1.1",
    ]
)


@given(
    st.lists(st.tuples(starts, st.lists(lines, max_size=9)), min_size=1, max_size=6), st.booleans()
)
@settings(max_examples=600, deadline=None)
@pytest.mark.skipif(COMPILED, reason="nothing can inherit from what is compiled")
def test_a_remembered_head_means_what_a_parsed_one_means(
    loop: asyncio.AbstractEventLoop, requests: list[tuple[bytes, list[bytes]]], create: bool
) -> None:
    known = RequestParser(loop, END, create_trace=create)
    taken = RequestParser(loop, END, create_trace=create)
    nobody = RequestParser(loop, END, create_trace=create, remember_users=False)
    matters = RequestParser(loop, END, create_trace=create, trace_matters=True)
    anew = Anew(loop, END, create_trace=create)
    for start, fields in requests:
        head = b"\r\n".join((start, *fields, b"", b""))
        expected = meaning(anew, head)
        whole = head.find(b"\r\n\r\n") == len(head) - 4
        for heads, take in (
            *((known, False), (known, False), (taken, True), (taken, True)),
            *((nobody, True), (nobody, False)),
        ):
            found = meaning(heads, head, take=take)
            if take and not whole:
                assert found is None
                continue
            if isinstance(expected, dict) and expected["trace"][0] is None:
                made = [line for line in found["lines"] if line.startswith(b"traceparent: ")]
                assert len(made) == 1  # a trace of its own
                for one in (found, expected):
                    one["lines"] = [x for x in one["lines"] if not x.startswith(b"traceparent: ")]
            assert found == expected
        if isinstance(expected, dict):  # whoever looks at all fields sees all
            seen, looked = anew.parse(head, PEER), matters.parse(head, PEER)
            assert sorted(looked.headers.raw) == sorted(seen.headers.raw)


others = st.lists(
    st.sampled_from(
        [
            b"Accept: */*", b"Connection: keep-alive", b"Connection:  close", b"Connection: cookie",
            b"X-Forwarded-For: 1.2.3.4", b"Content-Length: 3", b"cookie: x=y", b"TE: trailers",
            b"traceparent: " + PARENT, b"X-Cookie: z", b"CAccept: 1", b"C: 1", b"Max-Forwards: 3",
        ]
    ),
    max_size=4,
)  # fmt: skip
values = st.one_of(
    st.text("abc=; ", max_size=8).map(str.encode),
    st.sampled_from(
        [
            b"id=a", b"id=b", b"", b" ", b"id=a ", b" id=a", b"id=\xe4", b"id=a\x00", b"id=\ta",
            b"id=a\r\nHost: evil", b"id=a\r\n\r\nGET / HTTP/1.1", b"id=a\r\nC", b"id=a\n", b"id=a\r",
            b"id=" + b"a" * 3000,
        ]
    ),
)  # fmt: skip


@given(
    others,
    others,
    st.sampled_from([b"Cookie", b"cookie"]),
    st.lists(values, min_size=2),
    st.booleans(),
)
@settings(max_examples=600, deadline=None)
@pytest.mark.skipif(COMPILED, reason="nothing can inherit from what is compiled")
def test_users_alike_on_one_connection_are_told_apart_by_their_cookie_only(
    loop: asyncio.AbstractEventLoop,
    before: list[bytes],
    after: list[bytes],
    name: bytes,
    cookies: list[bytes],
    users: bool,
) -> None:
    heads = RequestParser(loop, END, remember_users=users)
    peer = Peer("127.0.0.1", b"http", False, b"localhost")
    for cookie in (b"id=first", *cookies, *cookies):
        lines = [b"GET / HTTP/1.1", b"Host: h", *before, name + b": " + cookie, *after, b"", b""]
        head = b"\r\n".join(lines)
        found = meaning(heads, head, take=True, peer=peer)
        if head.find(b"\r\n\r\n") == len(head) - 4:
            assert found == meaning(Anew(loop, END), head)
        else:
            assert found is None


def test_a_connection_knows_what_its_users_have_in_common(loop: asyncio.AbstractEventLoop) -> None:
    heads = RequestParser(loop, END)
    peer = Peer("127.0.0.1", b"http", False, b"localhost")
    start = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nCookie: "
    for number in range(10):
        request = heads.parse_single(start + b"id=%d\r\nAccept: */*\r\n\r\n" % number, peer)
        assert request is not None
        assert request.headers.cookie == b"id=%d" % number
        assert b"\r\nCookie: id=%d\r\nAccept: */*\r\n" % number in request.head
        assert b"Connection" not in request.head
        assert request.headers.alike is heads._alikes[0]
        assert peer.template == (0 if number else -1)
    # What it has kept may by now be of somebody else, or of nobody.
    stale = Peer("127.0.0.1", b"http", False, b"localhost")
    for stale.template in (0, 1, 1000):
        found = meaning(heads, b"GET / HTTP/1.1\r\nHost: i\r\nCookie: id=1\r\n\r\n", peer=stale)
        assert found["host"] == b"i"


@pytest.mark.skipif(COMPILED, reason="nothing can inherit from what is compiled")
@pytest.mark.parametrize("cookie", [b"", b"Cookie: canary_id=%d\r\n"])
@pytest.mark.parametrize("trace", [b"", b"traceparent: " + PARENT + b"\r\n"])
@pytest.mark.parametrize("without", [b"Host: h\r\n", b""])
def test_two_heads_at_once_are_not_one_however_well_they_are_known(
    loop: asyncio.AbstractEventLoop, cookie: bytes, trace: bytes, without: bytes
) -> None:
    heads = RequestParser(loop, END)
    start = b"GET / HTTP/1.1\r\n"
    rest = without + b"Accept: */*\r\n"
    for number in range(3):
        lines = rest + (cookie % number if cookie else b"") + trace + b"\r\n"
        found = meaning(heads, start + lines, take=True)
        assert found == meaning(Anew(loop, END), start + lines)
        assert (found == 400) == (not without)
        for more in (
            start + lines,
            lines,
            cookie % 7 + b"\r\n" if cookie else trace + b"\r\n",
            b"\r\n",
        ):
            assert heads.parse_single(start + lines + more, PEER) is None


def test_users_that_differ_in_their_cookie_and_trace_share_a_template(
    loop: asyncio.AbstractEventLoop,
) -> None:
    heads = RequestParser(loop, END)
    for number in range(50):
        head = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=%d\r\nAccept: */*\r\n\r\n" % number
        request = heads.parse(head, PEER)
        assert request.headers.cookie == b"canary_id=%d" % number
        assert b"\r\nCookie: canary_id=%d\r\n" % number in request.head
        traced = head[:-2] + b"traceparent: 00-%032x-b7ad6b7169203331-01\r\n\r\n" % (number + 1)
        request = heads.parse(traced, PEER)
        assert request.trace == request.sampled == b"%032x" % (number + 1)
        assert request.head.count(b"traceparent: ") == 1
    assert len(heads._templates) == 1
    assert len(heads._known) == 50  # the blocks without a trace, which does not come again


@pytest.mark.parametrize("cookie", [b"", b"Cookie: id=1\r\n"])
def test_users_who_are_alike_are_not_remembered_if_that_is_no_quicker(
    loop: asyncio.AbstractEventLoop, cookie: bytes
) -> None:
    heads = RequestParser(loop, END, remember_users=False)
    for number in range(50):
        block = b"Host: h\r\nAccept: %d\r\n" % (number % 5) + cookie + b"\r\n"
        for _ in range(2):
            assert heads.parse_single(b"GET / HTTP/1.1\r\n" + block, PEER) is not None
    assert len(heads._known) == (0 if cookie else 5)
    assert len(heads._templates) == (5 if cookie else 0)


def test_users_that_come_again_are_soon_known_and_the_oldest_give_way(
    loop: asyncio.AbstractEventLoop,
) -> None:
    heads = RequestParser(loop, END)

    def ask(kind: bytes, users: range) -> None:
        for number in users:
            heads.parse(
                b"GET / HTTP/1.1\r\nHost: h\r\nCookie: %b=%d\r\n\r\n" % (kind, number), PEER
            )

    def known(kind: bytes) -> int:
        return sum(b" %b=" % kind in block for block in heads._known)

    ask(b"old", range(4096))
    assert known(b"old") == 4096
    ask(b"once", range(8000))
    assert (known(b"old"), known(b"once")) == (3096, 1000)
    for _ in range(60):
        ask(b"returning", range(100))
    assert known(b"returning") == 100


def test_what_is_remembered_is_bounded(loop: asyncio.AbstractEventLoop) -> None:
    heads = RequestParser(loop, END)
    for number in range(6000):
        heads.parse(
            b"GET / HTTP/1.1\r\nHost: h%d\r\nCookie: canary_id=%d\r\n\r\n" % (number, number), PEER
        )
        assert len(heads._templates) <= 1024
        assert len(heads._known) <= 4096
