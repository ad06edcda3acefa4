"""Bodies both ways: framing, streaming, trailers, interim answers, tunnels."""

from __future__ import annotations

import asyncio

import pytest

from canaryproxy.measure.counters import CODES, TUNNELS_CLOSED, TUNNELS_OPENED

from .harness import (
    COOKIE,
    OK,
    VIA,
    Link,
    Upstream,
    always,
    proxy,
    status_of,
    undated,
    until,
    variants,
)

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"


def post(*lines: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"".join(lines) + b"\r\n"


async def test_a_body_of_known_length_is_passed_on_as_it_comes() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"first")
        await link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        await link.take(b"second")
        await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(post(b"Content-Length: 11\r\n") + b"first")
        await client.take(
            b"103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        )  # so it came before the rest was sent
        await client.send(b"second" + GET)
        await client.take(b"ok")
        assert upstream.links[0].got.partition(b"\r\n\r\n")[2].startswith(b"firstsecond")


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000])
async def test_a_chunked_body_is_passed_on_without_extensions_and_with_trailers(cut: int) -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n0\r\n")
        await link.take(b"X-Sum: 9\r\n\r\n")
        await link.send(OK)

    body = b'3;a="b;c"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 9\r\nContent-Length: 5\r\nHost: x\r\n\r\n'
    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        request = post(b"Transfer-Encoding: Chunked\r\n") + body
        for at in range(0, len(request), cut):
            await client.send(request[at : at + cut])
            await asyncio.sleep(0)
        await client.take(b"ok")
        head, _, got = upstream.got.partition(b"\r\n\r\n")
        assert head.count(b"Transfer-Encoding: chunked") == 1
        assert got.endswith(b"0\r\nX-Sum: 9\r\n\r\n")
        assert decoded(got) == b"abc0123456789"


def decoded(body: bytes) -> bytes:
    """Undo well-formed chunks."""
    text = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return text
        text += body[:size]
        assert body[size : size + 2] == b"\r\n"
        body = body[size + 2 :]


async def test_a_chunked_answer_keeps_its_trailers() -> None:
    body = b"2;x\r\nab\r\n0\r\nX-T: 1\r\nHost: x\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"X-T: 1\r\n\r\n", count)
        assert undated(client.got) == 2 * (
            b"HTTP/1.1 200 OK\r\n"
            + VIA
            + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
        )
        assert len(upstream.links) == 1


async def test_an_http_1_0_client_gets_a_chunked_answer_ended_by_closing() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    )
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        got = await running.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + COOKIE + b"\r\n")
        assert undated(got) == b"HTTP/1.1 200 OK\r\n" + VIA + b"Connection: close\r\n\r\nabcde"


async def test_an_answer_without_length_is_chunked_for_the_client() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nab")
        await link.send(b"cd")
        link.close()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"0\r\n\r\n")
        head, _, body = undated(client.got).partition(b"\r\n\r\n")
        via = VIA.replace(b"1.1", b"1.0")
        assert head == b"HTTP/1.1 200 OK\r\nA: b\r\n" + via + b"Transfer-Encoding: chunked"
        assert decoded(body) == b"abcd"


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 99\r\n", b"200 OK\r\nContent-Length: 99\r\n" + VIA),
        (b"HEAD", b"200 OK\r\n", b"200 OK\r\n" + VIA),
        (
            b"HEAD",
            b"200 OK\r\nTransfer-Encoding: chunked\r\n",
            b"200 OK\r\n" + VIA + b"Transfer-Encoding: chunked\r\n",
        ),
        (b"GET", b"204 No Content\r\n", b"204 No Content\r\n" + VIA),
        (
            b"GET",
            b"304 Not Modified\r\nContent-Length: 99\r\n",
            b"304 Not Modified\r\nContent-Length: 99\r\n" + VIA,
        ),
        (b"GET", b"200 OK\r\nContent-Length: 0\r\n", b"200 OK\r\nContent-Length: 0\r\n" + VIA),
        (b"GET", b"200\r\nContent-Length: 0\r\n", b"200 \r\nContent-Length: 0\r\n" + VIA),
    ],
)  # fmt: skip
async def test_answers_without_a_body(method: bytes, answer: bytes, expected: bytes) -> None:
    async with (
        Upstream(always(b"HTTP/1.1 " + answer + b"\r\n")).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        request = method + b" / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
        for count in (1, 2):
            await client.send(request)
            await client.take(b"\r\n\r\n", count)
        assert undated(client.got) == 2 * (b"HTTP/1.1 " + expected + b"\r\n")
        assert len(upstream.links) == 1


async def test_expect_100_continue_is_passed_both_ways() -> None:
    async def answer(link: Link) -> None:
        head = await link.take(b"\r\n\r\n")
        assert b"\r\nExpect: 100-continue\r\n" in head
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await link.take(b"body")
        await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(post(b"Expect: 100-continue\r\nContent-Length: 4\r\n"))
        await client.take(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.send(b"body")
        await client.take(b"ok")


async def test_a_final_answer_instead_of_100_ends_the_connection() -> None:
    refused = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"
    async with (
        Upstream(always(refused)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        got = await running.ask(post(b"Expect: 100-continue\r\nContent-Length: 4\r\n"))
        assert status_of(got) == 413
        assert b"\r\nConnection: close\r\n" in got


async def test_an_early_answer_to_an_unfinished_upload_arrives() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        got = await running.ask(post(b"Content-Length: 1000000\r\n") + b"x" * 5000)
        assert got.endswith(b"\r\nConnection: close\r\n\r\nok")


async def test_events_are_flushed_as_they_come() -> None:
    release = asyncio.Event()

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\ndata: 1\n\n"
        )
        await release.wait()
        await link.send(b"data: 2\n\n")
        link.close()

    more = "limits: {body_timeout: 50ms, first_byte_timeout: 50ms}"
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"data: 1\n\n")
        await asyncio.sleep(0.3)  # a silence that would end any other answer
        release.set()
        await client.take(b"data: 2\n\n")
        await client.take(b"0\r\n\r\n")


# Upgrade

UPGRADE = (
    b"GET /ws HTTP/1.1\r\n"
    + HOST
    + COOKIE
    + b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def test_an_upgrade_becomes_a_tunnel_both_ways_and_is_counted_as_its_handshake() -> None:
    async def answer(link: Link) -> None:
        head = await link.take(b"\r\n\r\n")
        assert b"\r\nUpgrade: websocket\r\nConnection: upgrade\r\n" in head
        await link.send(SWITCH + b"hello")
        await link.take(b"\x00early\xff")
        await link.send(b"\r\n\r\nHTTP/1.1 nothing\x00")
        await link.to_end()  # the client's half is closed, ours is not
        await link.send(b"bye")
        link.close()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE + b"\x00early\xff")
        await client.take(b"HTTP/1.1 nothing\x00")
        client.send_eof()
        got = await client.to_end()
        assert undated(got) == (
            b"HTTP/1.1 101 Switching Protocols\r\n" + VIA
            + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nhello\r\n\r\nHTTP/1.1 nothing\x00bye"
        )  # fmt: skip
        cells = running.counters.stable
        assert cells[CODES + 101] == 1
        await until(lambda: cells[TUNNELS_CLOSED] == 1)
        assert cells[TUNNELS_OPENED] == 1
        assert running.context.in_flight == 0


async def test_a_refused_upgrade_is_an_ordinary_answer() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"ok")
        await client.send(GET)
        await client.take(b"ok", 2)
        assert len(upstream.links) == 1


async def test_an_upgrade_to_h2c_is_not_passed_on() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"GET / HTTP/1.1\r\n"
            + HOST
            + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + GET
        )
        await client.take(b"ok", 2)
        assert b"pgrade" not in upstream.got
        assert b"HTTP2-Settings" not in upstream.got


async def test_an_unasked_101_is_a_broken_answer() -> None:
    async with (
        Upstream(always(SWITCH)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got) == 502


# Flow control


async def test_a_slow_reader_stops_the_upstream() -> None:
    sent = 0

    async def answer(link: Link) -> None:
        nonlocal sent
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 << 20))
        while sent < 256 << 20:
            await link.send(bytes(1 << 18))
            sent += 1 << 18

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await until(lambda: sent > 0)
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 64 << 20
        client.reset()
        await until(lambda: upstream.links[0].closed or running.context.in_flight == 0)


async def test_a_slow_upstream_stops_the_client() -> None:
    resume = asyncio.Event()

    async def answer(link: Link) -> None:
        await resume.wait()
        left = 64 << 20
        left -= len((await link.take(b"\r\n\r\n")).partition(b"\r\n\r\n")[2])
        while left:
            left -= len(await link.read())
            link.got = b""
        await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        sent = 0

        async def upload() -> None:
            nonlocal sent
            await client.send(post(b"Content-Length: %d\r\n" % (64 << 20)))
            while sent < 64 << 20:
                await client.send(bytes(1 << 18))
                sent += 1 << 18

        task = asyncio.create_task(upload())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 48 << 20
        resume.set()
        await client.take(b"ok")
        await task
