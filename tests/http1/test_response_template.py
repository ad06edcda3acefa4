"""Response heads that differ in values of their own are parsed once, and mean what the parser says."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import find_head_end
from canaryproxy.http1.head_cache import MAX_RESPONSES, MAX_TEMPLATES, ResponseHeadCache
from canaryproxy.http1.response import (
    AS_IT_IS,
    MAX_HEAD,
    NEVER,
    UNLESS_IMMUTABLE,
    VARYING,
    Response,
    ResponseParser,
)
from canaryproxy.http1.response_template import COMES_AGAIN, OWN_VALUES
from tests.http1.heads import values_of

ATTRIBUTES = sorted(
    name
    for name in dir(Response)
    if not name.startswith("_") and name not in ("fields", "alike", "restrict")
)
"""What a response is beside its fields, in both builds."""


def meaning(heads: ResponseHeadCache | ResponseParser, head: bytes) -> Any:
    """Return all that a response means, or the reason why it is invalid."""
    try:
        response = heads.parse(head)
    except InvalidResponse as error:
        return str(error)
    fields = [(name.lower(), value) for name, value in response.fields]
    return {
        "fields": {name: values_of(fields, name) for name, _ in fields},
        **{name: getattr(response, name) for name in ATTRIBUTES},
    }


own_lines = st.sampled_from(
    [
        b"Date: Mon, 30 Nov 2026 08:00:00 GMT", b"Date: Mon, 30 Nov 2026 08:00:01 GMT", b"Date: ", b"date:x",
        b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 12345", b"content-length: 5",
        b"Content-Length: 05", b"Content-Length: +5", b"Content-Length: 5, 5",
        b"Content-Length: " + b"9" * 19,
        b"Content-Length: " + b"9" * 18, b"Content-Length:  5", b"Content-Length: ", b"Content-Length: \xb2",
        b"ETag: \"1\"", b"ETag: \"22\"", b"etag: W/\"\xe4\"", b"ETag:\"1\"", b"ETag : \"1\"",
        b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=22", b"set-cookie: c=\x013", b"Set-Cookie:d=4",
        b"X-Request-Id: 1", b"X-Request-ID: 22", b"X-Request-Id: 1 ", b"X-Request-Id: a\r\nETag: 1",
        b"X-Request-Id: a\nETag: 1", b"X-Request-Id: a\r\n\r\nHTTP/1.1 200 OK", b"X-Request-Id: a\r",
        b"X-Request-Id: " + b"a" * MAX_HEAD, b"Age: 7",
    ]
)  # fmt: skip
other_lines = st.sampled_from(
    [
        b"Server: x", b"Content-Type: text/plain", b"Content-Type: text/event-stream", b"X-Secret: 1",
        b"Content-Type: application/x-ndjson", b"Content-Encoding: gzip", b"Transfer-Encoding: chunked",
        b"Connection: close", b"Connection: keep-alive, etag", b"Connection: date",
        b"Connection: x-request-id", b"Connection: upgrade", b"Upgrade: h9", b"Vary: Accept",
        b"Cache-Control: private", b"Cache-Control: max-age=5", b"Cache-Control: max-age=5, immutable",
        b"CDN-Cache-Control: max-age=5",
        b"WWW-Authenticate: NTLM", b"WWW-Authenticate: Bearer", b" folded", b"Content_Length: 5",
        b"Bad Name: 1",
    ]
)  # fmt: skip
lines_of_status = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 200",
            b"HTTP/1.0 200 OK",
            b"HTTP/1.7 200 OK",
        ),
        *(
            b"HTTP/1.1 204 No Content",
            b"HTTP/1.1 304 Not Modified",
            b"HTTP/1.1 426 Upgrade Required",
        ),
        *(b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 407 Who", b"HTTP/2.0 200 OK"),
    ]
)


@st.composite
def heads(draw: st.DrawFn) -> list[bytes]:
    """Heads of one kind: the same lines, but for values of their own most of the time."""
    first = draw(lines_of_status)
    common = draw(st.lists(other_lines, max_size=2))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        own = draw(st.lists(own_lines, max_size=3))
        lines = [first, *common, *own] if draw(st.booleans()) else [first, *own, *common]
        data = b"\r\n".join((*lines, b"", b""))
        found.append(data[: find_head_end(data)])
    return found


@given(
    st.lists(heads(), min_size=1, max_size=3),
    st.sampled_from([AS_IT_IS, VARYING, UNLESS_IMMUTABLE, NEVER]),
    st.sampled_from([b"", b"X-Secret", b"X-Request-Id", b"ETag"]),
)
@settings(max_examples=500, deadline=None)
@example([[b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=22\r\n\r\n"]], NEVER, b"")
def test_the_cache_means_the_same_as_the_parser(
    received: list[list[bytes]], policy: int, dropped: bytes
) -> None:
    """Whatever came before, each head twice."""

    def parser() -> ResponseParser:
        return ResponseParser(dropped, policy, (b"Cookie",), (b"application/x-ndjson",))

    plain, cache = parser(), ResponseHeadCache(parser())
    for kind in received:
        for head in [*kind, *kind]:
            assert meaning(cache, head) == meaning(plain, head)
            if (response := cache.get(head)) is not None:
                assert response.head == plain.parse(head).head


def test_a_value_of_each_name_may_differ() -> None:
    for name in OWN_VALUES:
        cache = ResponseHeadCache(ResponseParser())
        for number in range(20):
            head = b"HTTP/1.1 200 OK\r\nServer: x\r\n%b: %d\r\n\r\n" % (name, number)
            assert meaning(cache, head) == meaning(ResponseParser(), head)
        assert len(cache._templates) == 1
        assert len(cache._heads) == (20 if name in COMES_AGAIN else 0)


def test_responses_of_an_application_share_a_template() -> None:
    """With a length, a validator, a session and an id of their own."""
    cache = ResponseHeadCache(ResponseParser())
    for number in range(50):
        lines = [
            b"HTTP/1.1 200 OK",
            b"Date: Mon, 30 Nov 2026 08:00:%02d GMT" % number,
            b"Content-Type: application/json",
            b"Content-Length: %d" % (number * 50),
            b'ETag: W/"%x"' % number,
            b"Set-Cookie: session=%032x; Path=/; HttpOnly" % number,
            b"Set-Cookie: seen=%d" % number,
            b"X-Request-Id: %032x" % number,
        ]
        head = b"\r\n".join((*lines, b"", b""))
        assert meaning(cache, head) == meaning(ResponseParser(), head)
        response = cache.parse(head)
        assert response.length == number * 50
        assert values_of(list(response.fields), b"Set-Cookie") == [
            b"session=%032x; Path=/; HttpOnly" % number,
            b"seen=%d" % number,
        ]
    assert len(cache._templates) == 1
    assert not cache._heads  # they do not come again


def test_templates_are_bounded() -> None:
    cache = ResponseHeadCache(ResponseParser())
    for number in range(3000):
        for size in (1, 3000):
            fixed = b"X: %b\r\nX-%d: 1\r\n" % (b"1" * size, number)
            cache.parse(b"HTTP/1.1 200 OK\r\n" + fixed + b"ETag: %d\r\n\r\n" % number)
        assert len(cache._templates) <= MAX_TEMPLATES
        assert len(cache._heads) <= MAX_RESPONSES
    assert all(sum(map(len, key)) <= 2048 for key in cache._templates)
    cache.replace_parser(ResponseParser())
    assert not cache._templates
