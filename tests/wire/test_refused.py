"""What the proxy refuses: the status, a closed connection, and not one byte upstream."""

from __future__ import annotations

import re

import pytest

from canaryproxy.measure.counters import REFUSED

from .harness import COOKIE, OK, Upstream, always, proxy, status_of, variants

HOST = b"Host: h\r\n"


def get(
    *lines: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1", host: bytes = HOST
) -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + b"".join(lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"".join(lines) + b"\r\n" + body


REFUSED_REQUESTS = {
    "both lengths": (400, post(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n")),
    "both lengths, other order": (
        400, post(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", body=b"0\r\n\r\n")
    ),
    "length twice": (400, post(b"Content-Length: 3\r\nContent-Length: 3\r\n", body=b"abc")),
    "lengths differ": (400, post(b"Content-Length: 3\r\nContent-Length: 4\r\n", body=b"abc")),
    "length list": (400, post(b"Content-Length: 3, 3\r\n", body=b"abc")),
    "length plus": (400, post(b"Content-Length: +3\r\n", body=b"abc")),
    "length minus": (400, post(b"Content-Length: -3\r\n", body=b"abc")),
    "length blank inside": (400, post(b"Content-Length: 1 2\r\n", body=b"abc")),
    "length hex": (400, post(b"Content-Length: 0x3\r\n", body=b"abc")),
    "length empty": (400, post(b"Content-Length: \r\n")),
    "length huge": (400, post(b"Content-Length: 99999999999999999999\r\n")),
    "coding unknown": (400, post(b"Transfer-Encoding: gzip\r\n")),
    "coding list": (501, post(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n")),
    "coding prefix": (400, post(b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n")),
    "coding suffix": (400, post(b"Transfer-Encoding: chunkedx\r\n", body=b"0\r\n\r\n")),
    "coding twice": (400, post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
    "codings in two lines": (
        400, post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n")
    ),
    "chunked before another line": (
        400, post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", body=b"0\r\n\r\n")
    ),
    "chunked twice before gzip": (400, post(b"Transfer-Encoding: chunked, gzip, chunked\r\n")),
    "coding identity": (400, post(b"Transfer-Encoding: identity\r\n")),
    "coding in quotes": (400, post(b'Transfer-Encoding: "chunked"\r\n')),
    "coding with tab name": (400, post(b"Transfer-Encoding\t: chunked\r\n", body=b"0\r\n\r\n")),
    "coding in HTTP/1.0": (
        400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "look-alike coding": (400, post(b"Transfer_Encoding: chunked\r\n")),
    "look-alike length": (400, post(b"Content_Length: 3\r\n")),
    "bare LF": (400, b"GET / HTTP/1.1\nHost: h\n\n"),
    "bare LF in a field": (400, get(b"A: b\nC: d\r\n")),
    "bare CR in a value": (400, get(b"A: b\rC: d\r\n")),
    "space before colon": (400, get(b"A : b\r\n")),
    "space before host colon": (400, get(host=b"Host : h\r\n")),
    "folded line": (400, get(b"A: b\r\n c\r\n")),
    "NUL": (400, get(b"A: b\x00c\r\n")),
    "control byte": (400, get(b"A: b\x01c\r\n")),
    "DEL": (400, get(b"A: b\x7fc\r\n")),
    "empty name": (400, get(b": b\r\n")),
    "name with blank": (400, get(b"A b: c\r\n")),
    "name with high byte": (400, get(b"A\xe9: c\r\n")),
    "no colon": (400, get(b"A\r\n")),
    "no Host": (400, get(host=b"")),
    "Host twice": (400, get(host=b"Host: h\r\nHost: h\r\n")),
    "Host empty": (400, get(host=b"Host:\r\n")),
    "Host with path": (400, get(host=b"Host: h/x\r\n")),
    "Host with user": (400, get(host=b"Host: a@h\r\n")),
    "Host with blank": (400, get(host=b"Host: a b\r\n")),
    "Host with bad port": (400, get(host=b"Host: h:8x\r\n")),
    "Host list": (400, get(host=b"Host: a, b\r\n")),
    "target with blank": (400, get(target=b"/a b")),
    "target with tab": (400, get(target=b"/a\tb")),
    "target with high byte": (400, get(target=b"/\xff")),
    "target with fragment": (400, get(target=b"/a#b")),
    "target with quote": (400, get(target=b'/a"b')),
    "target with angle": (400, get(target=b"/a<b>")),
    "target relative": (400, get(target=b"a/b")),
    "target star": (400, get(target=b"*")),
    "target other scheme": (400, get(target=b"ftp://h/")),
    "target without host": (400, get(target=b"http:///x")),
    "target with user": (400, get(target=b"http://u:p@h/")),
    "two blanks": (400, b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "blank at the end": (400, b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n"),
    "no version": (400, b"GET /\r\nHost: h\r\n\r\n"),
    "lower-case method": (400, b"get / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "mixed-case method": (400, b"Frob / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "lower-case version": (400, get(version=b"http/1.1")),
    "version 2.0": (505, get(version=b"HTTP/2.0")),
    "version 3.0": (505, get(version=b"HTTP/3.0")),
    "version 0.9": (505, get(version=b"HTTP/0.9")),
    "version 1.10": (400, get(version=b"HTTP/1.10")),
    "other protocol": (400, get(version=b"RTSP/1.0")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "CONNECT": (405, b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "expectation": (417, post(b"Expect: 200-ok\r\nContent-Length: 1\r\n")),
    "long request line": (414, get(target=b"/" + b"a" * 8200)),
    "long request line, unfinished": (414, b"GET /" + b"a" * 9000),
    "big head": (431, get(*[b"A%d: %s\r\n" % (n, b"x" * 1000) for n in range(33)])),
    "big head, unfinished": (431, get(*[b"A%d: %s\r\n" % (n, b"x" * 1000) for n in range(33)])[:-2]),
    "one big field": (431, get(b"A: " + b"x" * 33000 + b"\r\n")),
    "many fields": (431, get(*[b"A%d: x\r\n" % n for n in range(129)])),
    "chunk size sign": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"+3\r\nabc\r\n0\r\n\r\n")),
    "chunk size blank": (400, post(b"Transfer-Encoding: chunked\r\n", body=b" 3\r\nabc\r\n0\r\n\r\n")),
    "chunk size 0x": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"0x3\r\nabc\r\n0\r\n\r\n")),
    "chunk bare LF": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"3\nabc\n0\n\n")),
    "chunk too long": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"3\r\nabcd\r\n0\r\n\r\n")),
    "chunk size overflow": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"1" * 17 + b"\r\n")),
    "chunk endless extension": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"3;" + b"a" * 5000)),
    "trailer malformed": (400, post(b"Transfer-Encoding: chunked\r\n", body=b"0\r\nA b: c\r\n\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_REQUESTS)
async def test_a_malformed_request_is_refused_with_its_status(name: str) -> None:
    expected, request = REFUSED_REQUESTS[name]
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(request)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert status_of(answer) == expected, answer
        assert b"\r\nConnection: close" in head
        assert b"\r\nContent-Type: text/plain" in head
        assert re.fullmatch(rb"[A-Z][A-Za-z- ]+ \(.+\)\. Request ID: [0-9a-f]{16}\n", body)
        assert b"\r\nContent-Length: %d\r\n" % len(body) in head + b"\r\n"
        if "chunk" not in name and "trailer" not in name:  # there the head was good and is gone
            assert upstream.got == b""
        assert running.counters.proxy[REFUSED + expected] == 1


async def test_what_follows_a_refused_request_is_not_forwarded() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        smuggled = b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n"
        answer = await running.ask(
            post(
                b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n" + smuggled
            )
        )
        assert answer.count(b"HTTP/1.1 ") == 1
        assert upstream.got == b""


async def test_requests_before_a_refused_one_are_answered() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(get(COOKIE, target=b"/1") + get(b"A : b\r\n", target=b"/2"))
        assert status_of(answer) == 200
        assert b"HTTP/1.1 400 Bad Request" in answer
        assert b"/2" not in upstream.got


LEGAL_REQUESTS = {
    "empty value": get(b"A:\r\n"),
    "value with high bytes": get(b"A: caf\xc3\xa9\r\n"),
    "value with tabs": get(b"A:\tb\tc\t\r\n"),
    "leading empty line": b"\r\n" + get(),
    "two leading empty lines": b"\r\n\r\n" + get(),
    "connection list": get(b"Connection: keep-alive, foo\r\n", b"Foo: 1\r\n"),
    "browser's query": get(target=b"/s?a[]=1&b={2}|3^`\\'~"),
    "encoded target": get(target=b"/a%20b/%2e%2e/c;d=1?e=%zz"),
    "double slash": get(target=b"//a//b"),
    "long target": get(target=b"/" + b"a" * 8000),
    "IPv6 host": get(host=b"Host: [::1]:8080\r\n"),
    "host with port": get(host=b"Host: example.org:80\r\n"),
    "absolute": get(target=b"http://other.example/x"),
    "absolute https": get(target=b"HTTPS://other.example:443?x"),
    "options star": b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "webdav": b"PROPFIND /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "128 fields": get(*[b"A%d: x\r\n" % n for n in range(127)]),
    "underscore name": get(b"my_field: 1\r\n"),
    "upper-case names": get(b"ACCEPT: */*\r\n", host=b"HOST: h\r\n"),
}


@pytest.mark.parametrize("name", LEGAL_REQUESTS)
async def test_legal_oddities_pass(name: str) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(LEGAL_REQUESTS[name])
        answer = await client.take(b"ok")
        assert status_of(answer) == 200
