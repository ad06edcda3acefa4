"""Bounds to the byte, more ways to be ambiguous, and what is read ahead."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from canaryproxy import config
from canaryproxy.config import TcpAddress, UnixAddress
from canaryproxy.measure.counters import CODES, ERRORS, REFUSED, ROUTED, Reason
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy.listener import listen
from tests.datapaths import data_path

from .harness import (
    ADDED,
    COOKIE,
    OK,
    VIA,
    Link,
    Upstream,
    always,
    proxy,
    status_of,
    until,
    variants,
)

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"


def line_of(length: int) -> bytes:
    """Return a request whose request line, less its CRLF, has this length."""
    return b"GET /" + b"a" * (length - 14) + b" HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"


def head_of(length: int) -> bytes:
    """Return a request whose head, with its empty line, has this length."""
    rest = length - len(b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"A: \r\nB: \r\n\r\n")
    return (
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"A: " + b"a" * (rest // 2) + b"\r\nB: "
        + b"b" * (rest - rest // 2) + b"\r\n\r\n"
    )  # fmt: skip


def fields_of(count: int) -> bytes:
    """Return a request with this many fields."""
    more = b"".join(b"A%d: x\r\n" % n for n in range(count - 2))
    return b"GET / HTTP/1.1\r\n" + HOST + COOKIE + more + b"\r\n"


def in_pieces(request: bytes) -> list[bytes]:
    return [request[at : at + 1000] for at in range(0, len(request), 1000)]


@pytest.mark.parametrize("pieces", [lambda request: [request], in_pieces], ids=["whole", "pieces"])
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (line_of(8192), 200),
        (line_of(8193), 414),
        (head_of(32768), 200),
        (head_of(32769), 431),
        (fields_of(128), 200),
        (fields_of(129), 431),
    ],
    ids=["line 8192", "line 8193", "head 32768", "head 32769", "128 fields", "129 fields"],
)
async def test_bounds_hold_to_the_byte(request_: bytes, expected: int, pieces: object) -> None:
    assert callable(pieces)
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for piece in pieces(request_):
            await client.send(piece)
        await client.take(b"\r\n\r\n")
        assert status_of(client.got) == expected
        if expected != 200:
            await client.to_end()
            assert upstream.got == b""
            assert running.counters.proxy[REFUSED + expected] == 1
        else:
            assert upstream.got == request_[:-2] + ADDED + VIA + b"\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"".join(lines) + b"\r\n" + body


def get(*lines: bytes, target: bytes = b"/", host: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + host + b"".join(lines) + b"\r\n"


END = b"0\r\n\r\n"
AMBIGUOUS = {
    "coding empty": post(b"Transfer-Encoding:\r\n"),
    "coding comma before": post(b"Transfer-Encoding: ,chunked\r\n", body=END),
    "coding comma after": post(b"Transfer-Encoding: chunked,\r\n", body=END),
    "coding with parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", body=END),
    "coding with vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", body=END),
    "coding with form feed": post(b"Transfer-Encoding: chunked\x0c\r\n", body=END),
    "coding with NUL": post(b"Transfer-Encoding: chunked\x00\r\n", body=END),
    "coding with high byte": post(b"Transfer-Encoding: chunked\xa0\r\n", body=END),
    "coding folded": post(b"Transfer-Encoding:\r\n chunked\r\n", body=END),
    "coding after a fold": post(b"A: b\r\n\tTransfer-Encoding: chunked\r\n", body=END),
    "coding chunked twice": post(b"Transfer-Encoding: chunked, chunked\r\n", body=END),
    "coding identity, chunked": post(
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", body=END
    ),
    "coding with bare CR before": post(b"A: b\rTransfer-Encoding: chunked\r\n", body=END),
    "coding with bare LF before": post(b"A: b\nTransfer-Encoding: chunked\r\n", body=END),
    "look-alike length in capitals": post(b"CONTENT_LENGTH: 3\r\n", body=b"abc"),
    "look-alike forwarded": get(b"X_Forwarded_For: 1.2.3.4\r\n"),
    "look-alike forwarded, half": get(b"X-Forwarded_For: 1.2.3.4\r\n"),
    "length with tab inside": post(b"Content-Length: 1\t2\r\n", body=b"abc"),
    "length underscore": post(b"Content-Length: 1_0\r\n", body=b"abc"),
    "length point": post(b"Content-Length: 3.0\r\n", body=b"abc"),
    "length exponent": post(b"Content-Length: 1e1\r\n", body=b"abc"),
    "length arabic digit": post(b"Content-Length: \xd9\xa3\r\n", body=b"abc"),
    "length comma": post(b"Content-Length: 3,\r\n", body=b"abc"),
    "length and length empty": post(b"Content-Length: 3\r\nContent-Length:\r\n", body=b"abc"),
    "length twice, other case": post(b"content-length: 3\r\nCONTENT-LENGTH: 3\r\n", body=b"abc"),
    "length in HTTP/1.0 twice": b"POST / HTTP/1.0\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "field before the first": b"GET / HTTP/1.1\r\n A: b\r\n" + HOST + b"\r\n",
    "tab before the first": b"GET / HTTP/1.1\r\n\tA: b\r\n" + HOST + b"\r\n",
    "tab before colon": get(b"A\t: b\r\n"),
    "line of blanks": get(b"  \r\n"),
    "bare LF ends the head": b"GET / HTTP/1.1\r\nHost: h\n\r\n\r\n",
    "bare CR ends the line": b"GET / HTTP/1.1\rHost: h\r\n\r\n",
    "two CR end the line": b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
    "bare LF after the line": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    "CR LF LF": b"GET / HTTP/1.1\r\nHost: h\r\n\n",
    "LF CR LF": b"GET / HTTP/1.1\r\nHost: h\n\r\n",
    "leading LF": b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "leading CR": b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "leading blank": b" GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "byte order mark": b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in the name": get(b"A\x00B: c\r\n"),
    "NUL in the target": get(target=b"/\x00"),
    "DEL in the target": get(target=b"/\x7f"),
    "NUL in the method": b"G\x00T / HTTP/1.1\r\nHost: h\r\n\r\n",
    "vertical tab in a value": get(b"A: b\x0bc\r\n"),
    "escape in a value": get(b"A: \x1b[2J\r\n"),
    "brackets in a name": get(b"A[b]: c\r\n"),
    "version with more digits": b"GET / HTTP/1.10\r\nHost: h\r\n\r\n",
    "version without minor": b"GET / HTTP/1\r\nHost: h\r\n\r\n",
    "version with comma": b"GET / HTTP/1,1\r\nHost: h\r\n\r\n",
    "tab in the request line": b"GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n",
    "Host unclosed bracket": get(host=b"Host: [::1\r\n"),
    "Host bracket and more": get(host=b"Host: [::1]x\r\n"),
    "Host bad percent": get(host=b"Host: a%zz\r\n"),
    "Host only a port": get(host=b"Host: :80\r\n"),
    "Host two ports": get(host=b"Host: h:80:81\r\n"),
    "Host with query": get(host=b"Host: h?x\r\n"),
    "Host with fragment": get(host=b"Host: h#x\r\n"),
    "Host with backslash": get(host=b"Host: h\\x\r\n"),
    "Host with high byte": get(host=b"Host: h\xff\r\n"),
    "Host with quote": get(host=b'Host: "h"\r\n'),
    "Host twice, other case": get(b"HOST: h\r\n"),
    "Host empty in HTTP/1.0": b"GET / HTTP/1.0\r\nHost:\r\n\r\n",
    "Host twice in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
    "Host twice, absolute": get(b"Host: i\r\n", target=b"http://h/"),
    "no Host, absolute": get(host=b"", target=b"http://h/"),
    "absolute with bad authority": get(target=b"http://a b/"),
    "absolute with bad port": get(target=b"http://h:x/"),
    "absolute without slashes": get(target=b"http:h/"),
    "authority form": get(target=b"h:80"),
    "absolute with list of hosts": get(target=b"http://a,b/"),
    "absolute with byte outside": get(target=b"http://h/\\x"),
    "absolute with high port": get(target=b"http://h:65536/"),
    "Host list without blank": get(host=b"Host: a,b\r\n"),
    "Host comma": get(host=b"Host: a,\r\n"),
    "Host with high port": get(host=b"Host: h:65536\r\n"),
    "Host not IPv6": get(host=b"Host: [:::1]\r\n"),
    "Host IPv6 with zone": get(host=b"Host: [fe80::1%25eth0]\r\n"),
    "path with backslash": get(target=b"/a\\b"),
    "path with brace": get(target=b"/{a"),
    "path with caret": get(target=b"/a^"),
    "path with backquote": get(target=b"/`a"),
    "path with bad percent": get(target=b"/%zz"),
    "path with cut percent": get(target=b"/a%2"),
    "option not a token": get(b"Connection: close, a b\r\n"),
    "option with high byte": get(b"Connection: \xa0close\r\n"),
    "option in quotes": get(b'Connection: "close"\r\n'),
    "hops not a number": b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: -1\r\n\r\n",
    "hops empty": b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards:\r\n\r\n",
    "hops twice": b"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
    "star with more": b"OPTIONS *x HTTP/1.1\r\nHost: h\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_what_is_ambiguous_is_refused_and_goes_nowhere(name: str) -> None:
    sentinel = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(AMBIGUOUS[name] + sentinel)
        assert status_of(answer) == 400, answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answer
        assert upstream.links == []
        assert running.counters.proxy[REFUSED + 400] == 1
        assert running.counters.stable[ROUTED] == 0


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE"])
@pytest.mark.parametrize("target", [b"/", b"h:80", b"http://h/", b"*"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_methods_that_a_proxy_must_not_pass_on(
    method: bytes, target: bytes, version: bytes
) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(
            method + b" " + target + b" HTTP/" + version + b"\r\n" + HOST + b"\r\n"
        )
        assert status_of(answer) == 405
        assert b"\r\nAllow: GET, HEAD, POST, " in answer
        assert upstream.links == []


IN_QUERY = bytes(b for b in range(0x21, 0x7F) if b not in b'"#<>')
IN_PATH = bytes(b for b in IN_QUERY if b not in b"%?\\^`{}")
LEGAL = {
    "coding with tabs": (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\tCHUNKED\t \r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ),
    "length with zeros": (
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0002\r\n\r\nab",
        b"Content-Length: 2\r\n",
    ),
    "Host with empty port": (b"GET / HTTP/1.1\r\nHost: h:\r\n\r\n", b"Host: h:\r\n"),
    "Host IPv6": (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", b"Host: [2001:db8::1]\r\n"),
    "Host IPvFuture": (b"GET / HTTP/1.1\r\nHost: [v1.a:b]:1\r\n\r\n", b"Host: [v1.a:b]:1\r\n"),
    "Host sub-delims": (b"GET / HTTP/1.1\r\nHost: a!$&'()*+;=_~%20\r\n\r\n", b"Host: a!$&'()*+;=_~%20\r\n"),
    "absolute IPv6": (b"GET http://[::1]:81/x HTTP/1.1\r\nHost: h\r\n\r\n", b"Host: [::1]:81\r\n"),
    "absolute, Host between": (
        b"GET http://o/ HTTP/1.1\r\nA: b\r\nhost:  h  \r\nC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\nHost: o\r\n",
    ),
    "absolute in HTTP/1.0": (b"GET http://o/x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: o\r\n"),
    "GET with a body": (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", b"\r\n\r\nab"),
    "empty fields": (b"GET / HTTP/1.1\r\nHost: h\r\nA:\r\nB: \t \r\n\r\n", b"\r\nA:\r\nB: \t \r\n"),
    "odd name": (
        b"GET / HTTP/1.1\r\nHost: h\r\n!#$%&'*+-.^_`|~0a: b\r\n\r\n", b"\r\n!#$%&'*+-.^_`|~0a: b\r\n"
    ),
    "equal fields": (
        b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nA: 1\r\na: 2\r\n\r\n", b"\r\nA: 1\r\nA: 1\r\na: 2\r\n"
    ),
    "zero chunk first": (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n0\r\n\r\n",
    ),
    "every legal byte of a path": (
        b"GET /" + IN_PATH + b"%2f HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /" + IN_PATH + b"%2f HTTP/1.1\r\n"
    ),
    "every legal byte of a query": (
        b"GET /?" + IN_QUERY + b" HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /?" + IN_QUERY + b" HTTP/1.1\r\n"
    ),
    "options in a list": (
        get(b"Connection: , a,,\tb ,\r\nA: 1\r\nB: 2\r\n"), b"GET / HTTP/1.1\r\nHost: h\r\nX-"
    ),
    "Max-Forwards of another method": (
        b"GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", b"\r\nMax-Forwards: 0\r\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
async def test_what_is_only_odd_is_passed_on_as_it_is(name: str) -> None:
    request, expected = LEGAL[name]
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(request)
        await client.take(b"\r\n\r\nok")
        await until(lambda: expected in upstream.got, f"{expected!r} in {upstream.got!r}")


async def test_what_is_remembered_of_paths_is_bounded() -> None:
    more = "split: {match: [{variant: stable, path: {prefix: /a}}]}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        for number in range(100):
            await client.send(get(COOKIE, target=b"/%d" % number + b"a" * 8000 * (number % 2)))
            await client.take(b"ok", number + 1)
        (alike,) = running.context.request_parser._by_number
        looks = alike._rule_cache
        assert looks
        assert len(looks) <= 32
        assert max(len(path) for _, path in looks) <= 256


# Read ahead


async def test_requests_are_read_ahead_only_so_far() -> None:
    """While one request is answered, a client that goes on sending is stopped; none is lost."""
    go = asyncio.Event()

    async def late(link: Link) -> None:
        answered = 0
        while await link.read():
            await go.wait()
            while link.got.count(b"\r\n\r\n") > answered:
                answered += 1
                await link.send(OK)
            link.got, answered = b"", 0

    large = GET[:-2] + b"A: " + b"x" * 16_000 + b"\r\n\r\n"
    total = 1000  # 16 MB: more than the system's buffers take
    async with Upstream(late).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        sent = 0

        async def pipeline() -> None:
            nonlocal sent
            while sent < total:
                await client.send(large * 25)
                sent += 25

        sending = asyncio.create_task(pipeline())
        before = -1
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.1)
        connection = running.connection()
        assert len(connection._pending.data) < 1 << 20
        assert running.counters.stable[ROUTED] == 1
        assert sent < total
        go.set()
        answers = 0
        while answers < total:
            client.got = client.got[-1:] if client.got.endswith(b"o") else b""
            assert await client.read()
            answers += client.got.count(b"ok")
        await sending
        assert running.counters.stable[CODES + 200] == total


async def test_a_client_that_does_not_read_is_not_served_on() -> None:
    """Pipelined requests whose answers nobody reads must not pile up as answers."""
    body = b"x" * 10_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port), send_buffer=1 << 14) as running,
    ):
        client = await running.connect(receive_buffer=1 << 14)
        client.stop_reading()
        total = 400
        sending = asyncio.create_task(client.send(GET * total))
        cells = running.counters.stable
        before = -1
        while before != cells[ROUTED] or not before:
            before = cells[ROUTED]
            await asyncio.sleep(0.05)
        assert cells[ROUTED] < 100
        connection = running.connection()
        assert connection.transport.get_write_buffer_size() < 200_000
        client.read_on()
        await client.take(body, total)
        await sending
        assert cells[CODES + 200] == total


async def test_more_requests_than_may_wait_for_a_connection_are_503() -> None:
    async def silence(link: Link) -> None:
        await link.to_end()

    more = "limits: {max_endpoint_connections: 1, max_requests: 2}"
    async with (
        Upstream(silence).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        first, second = await running.connect(), await running.connect()
        for client in (first, second):
            await client.send(GET)
        await until(lambda: running.counters.stable[ROUTED] == 2)
        got = await running.ask(GET)
        assert status_of(got) == 503
        assert b"\r\nRetry-After: 1\r\n" in got
        assert running.counters.proxy[REFUSED + 503] == 1
        assert running.counters.stable[ERRORS + Reason.OVERFLOW] == 0
        first.close()
        await until(lambda: running.context.in_flight == 1)
        third = await running.connect()  # there is room again
        await third.send(GET)
        await until(lambda: running.counters.stable[ROUTED] == 3)


async def test_connections_that_end_make_room_for_others() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {max_connections: 1}")) as running,
    ):
        for _ in range(3):
            client = await running.connect()
            await client.send(GET)
            await client.take(b"ok")
            client.close()
            await until(lambda: not running.context.connections)


# Other kinds of sockets


async def ask_at(address: TcpAddress | UnixAddress, more: str = "") -> bytes:
    """Run a data path on an address; return what the upstream gets for a request there."""
    async with Upstream(always(OK)).serving() as upstream:
        made = config.parse(variants(upstream.port, more=more), file="test.yaml")
        sock = listen(address)
        datapath, _ = data_path(made, ServiceCells())
        await datapath.serve([sock])
        client = socket.socket(sock.family)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, sock.getsockname())
        await loop.sock_sendall(
            client,
            b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"X-Forwarded-For: 203.0.113.9\r\n"
            b"X-Forwarded-Proto: https\r\nForwarded: for=203.0.113.9\r\n\r\n",
        )  # fmt: skip
        got = b""
        while not got.endswith(b"ok"):
            got += await loop.sock_recv(client, 65536)
        client.close()
        await datapath.drain(1)
        return upstream.got


async def test_an_ipv6_client_is_named_as_rfc_7239_wants() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    got = await ask_at(TcpAddress("::1", port))
    assert got == (
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE
        + b"X-Forwarded-For: ::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n"
        b'Forwarded: for="[::1]";host=h;proto=http\r\n' + VIA + b"\r\n"
    )  # fmt: skip


async def test_a_client_on_a_unix_socket_is_trusted(tmp_path: Path) -> None:
    got = await ask_at(UnixAddress(path=str(tmp_path / "p.sock")))
    assert got == (
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE
        + b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\n"
        b"Forwarded: for=203.0.113.9, for=unknown;host=h;proto=http\r\n" + VIA + b"\r\n"
    )  # fmt: skip


async def test_forwarding_fields_are_kept_only_from_the_networks_named() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(
            variants(upstream.port, more='forwarded: {trust: ["10.0.0.0/8", "127.0.0.2/32"]}')
        ) as running,
    ):
        client = await running.connect()
        await client.send(
            b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"X-Forwarded-For: 1.2.3.4\r\n"
            b"Connection: X-Forwarded-For\r\n\r\n"
        )  # fmt: skip
        await client.take(b"ok")
        assert upstream.got == b"GET / HTTP/1.1\r\n" + HOST + COOKIE + ADDED + VIA + b"\r\n"


async def test_fields_that_connection_names_cannot_hide_the_client() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more='forwarded: {trust: ["127.0.0.0/8"]}')) as running,
    ):
        client = await running.connect()
        await client.send(
            b"GET / HTTP/1.1\r\n" + HOST + COOKIE
            + b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n"
            b"Connection: X-Forwarded-For, Forwarded, Via, X-Forwarded-Host\r\n\r\n"
        )  # fmt: skip
        await client.take(b"ok")
        assert b"127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n" in upstream.got
        assert b"\r\nForwarded: for=127.0.0.1;host=h;proto=http\r\n" in upstream.got
        assert upstream.got.endswith(VIA + b"\r\n")
