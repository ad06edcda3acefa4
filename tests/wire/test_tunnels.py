"""Upgrades: routed like any request, then bytes both ways with backpressure, each half closed on its own."""

from __future__ import annotations

import asyncio
import re

from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    CODES,
    ERRORS,
    FINISHED,
    FIRST_BYTE,
    RESCUED,
    TUNNELS_CLOSED,
    TUNNELS_OPENED,
    Reason,
)
from canaryproxy.measure.histogram import BUCKETS
from canaryproxy.measure.routing import bucket_of

from .harness import (
    ADDED,
    COOKIE,
    OK,
    VIA,
    Link,
    Upstream,
    always,
    proxy,
    undated,
    until,
    variants,
)

HOST = b"Host: h\r\n"
FIELDS = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
UPGRADE = b"GET /chat HTTP/1.1\r\n" + HOST + COOKIE + FIELDS + b"\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    + VIA
    + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
)


async def test_the_handshake_is_renewed_byte_for_byte() -> None:
    async with (
        Upstream(always(SWITCH)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        assert undated(client.got) == SWITCHED
        assert upstream.got == (
            b"GET /chat HTTP/1.1\r\n" + HOST + COOKIE
            + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + ADDED
            + b"Upgrade: websocket\r\nConnection: upgrade\r\n" + VIA + b"\r\n"
        )  # fmt: skip
        assert running.counters.stable[CODES + 101] == 1
        assert sum(running.counters.stable[FIRST_BYTE : FIRST_BYTE + BUCKETS]) == 1


async def test_a_new_user_gets_the_cookie_with_the_handshake_and_is_on_its_side() -> None:
    async def named(link: Link, name: bytes) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH + name)
        await link.to_end()

    async with (
        Upstream(lambda link: named(link, b"<stable>")).serving() as stable,
        Upstream(lambda link: named(link, b"<canary>")).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 50}")) as running,
    ):
        seen = set()
        for _ in range(20):
            client = await running.connect()
            await client.send(b"GET /chat HTTP/1.1\r\n" + HOST + FIELDS + b"\r\n")
            await client.take(b">")
            cookie = re.search(rb"\r\nSet-Cookie: canary_id=([0-9a-f]{32});", client.got)
            assert cookie
            expected = b"<canary>" if bucket_of(b"", cookie[1]) < 5000 else b"<stable>"
            assert client.got.endswith(expected)
            seen.add(expected)
        assert len(seen) == 2


async def test_the_upstream_may_end_its_half_first() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH + b"all")
        link.send_eof()
        await link.take(b"later")
        await link.to_end()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        assert undated(await client.to_end()) == SWITCHED + b"all"
        await client.send(b"later")
        await until(lambda: upstream.got.endswith(b"later"))
        client.send_eof()
        await until(lambda: upstream.links[0].closed)
        await until(lambda: running.counters.stable[TUNNELS_CLOSED] == 1)
        await until(lambda: not running.context.connections)
        assert running.context.in_flight == 0


async def test_a_client_that_resets_ends_the_upstreams_side() -> None:
    async with (
        Upstream(always(SWITCH)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        assert running.context.in_flight == 1
        client.reset()
        await until(lambda: upstream.links[0].closed)
        cells = running.counters.stable
        assert cells[TUNNELS_OPENED] == cells[TUNNELS_CLOSED] == 1
        assert cells[FINISHED] == cells[CODES + 101] == 1
        assert cells[CLIENT_CLOSED] == 0  # counted as its handshake
        assert running.context.in_flight == 0
        assert running.service.context.pools[0].endpoints[0].active == 0


async def test_an_upstream_that_resets_ends_the_clients_side() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await link.take(b"now")
        link.reset()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        await client.send(b"now")
        await client.to_end()
        cells = running.counters.stable
        assert cells[TUNNELS_OPENED] == cells[TUNNELS_CLOSED] == 1
        assert sum(cells[ERRORS : ERRORS + len(Reason)]) == 0
        await until(lambda: running.context.in_flight == 0)


TOTAL = 48 << 20
PIECE = bytes(range(256)) * 1024


async def test_a_client_that_does_not_read_stops_the_upstream() -> None:
    sent = 0

    async def answer(link: Link) -> None:
        nonlocal sent
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        while sent < TOTAL:
            await link.send(PIECE)
            sent += len(PIECE)
        link.send_eof()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take_head()
        client.stop_reading()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.1)
        assert sent < TOTAL // 2
        connection = running.connection()
        assert connection.transport.get_write_buffer_size() < 1 << 20
        client.read_on()
        assert await client.read_slowly(TOTAL, 1 << 18, 0) == TOTAL


async def test_an_upstream_that_does_not_read_stops_the_client() -> None:
    go = asyncio.Event()
    received = 0

    async def answer(link: Link) -> None:
        nonlocal received
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        link.got = b""
        await go.wait()
        while received < TOTAL:
            received += len(await link.read())
            link.got = b""
        await link.send(b"thanks")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        sent = 0

        async def push() -> None:
            nonlocal sent
            while sent < TOTAL:
                await client.send(PIECE)
                sent += len(PIECE)

        pushing = asyncio.create_task(push())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < TOTAL // 2
        go.set()
        await client.take(b"thanks")
        await pushing
        assert received == TOTAL


async def test_bytes_sent_with_the_handshake_go_first_and_none_is_lost() -> None:
    """More than is read ahead of an answer: the tunnel has to go on reading."""
    early = bytes(range(251)) * 4200  # over 1 MiB

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        head = link.got.index(b"\r\n\r\n") + 4
        await asyncio.sleep(0.05)  # so that the client's bytes are there before the answer
        await link.send(SWITCH)
        while len(link.got) < head + len(early):
            if not await link.read():
                return
        await link.send(b"same" if link.got[head:] == early else b"other")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        sending = asyncio.create_task(client.send(UPGRADE + early))
        while not client.got.endswith((b"same", b"other")):
            assert await client.read()
        await sending
        assert undated(client.got) == SWITCHED + b"same"


async def test_bytes_sent_with_a_refused_handshake_are_the_next_request() -> None:
    get = b"GET /next HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE + get)
        await client.take(b"ok", 2)
        assert upstream.got.endswith(
            b"GET /next HTTP/1.1\r\n" + HOST + COOKIE + ADDED + VIA + b"\r\n"
        )
        assert running.counters.stable[TUNNELS_OPENED] == 0


async def test_an_upgrade_that_fails_on_the_canary_is_rescued() -> None:
    async def broken(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        link.reset()

    async def echo(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await link.take(b"hi")
        await link.send(b"hi")

    more = "split: {weight: 100}\nrescue: {header: true}"
    async with (
        Upstream(echo).serving() as stable,
        Upstream(broken).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        assert b"\r\nX-Canary-Rescued: 1\r\n" in client.got
        await client.send(b"hi")
        await client.take(b"hi")
        assert running.counters.canary[CODES + 502] == 1
        assert running.counters.canary[RESCUED] == 1
        client.close()
        await until(lambda: running.context.in_flight == 0)
        for cells in running.counters.variants:
            assert cells[TUNNELS_OPENED] == cells[TUNNELS_CLOSED]


async def test_without_connection_upgrade_there_is_no_upgrade() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Upgrade: websocket\r\n\r\n"
            b"GET / HTTP/1.0\r\n" + HOST + COOKIE + FIELDS + b"\r\n"
        )
        await client.take(b"ok", 2)
        assert b"Upgrade:" not in upstream.got
        assert b"Connection:" not in upstream.got


async def test_an_upgrade_with_a_body_is_an_ordinary_request() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"POST / HTTP/1.1\r\n" + HOST + COOKIE + FIELDS + b"Content-Length: 4\r\n\r\nbody"
        )
        await client.take(b"ok")
        assert b"Upgrade:" not in upstream.got
        assert upstream.got.endswith(b"\r\n\r\nbody")


async def test_tunnels_do_not_keep_a_proxy_that_goes_away_for_longer_than_its_timeout() -> None:
    async with (
        Upstream(always(SWITCH)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        assert not await running.datapath.drain(0.1)
        await client.to_end()
        await until(lambda: upstream.links[0].closed)
        assert running.counters.stable[TUNNELS_CLOSED] == 1
