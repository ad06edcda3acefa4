"""Bodies so long that the proxy relays them without reading them, where its transports can do that."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from canaryproxy.measure.counters import CLIENT_CLOSED, CODES, ERRORS, FINISHED, Reason

from .harness import COOKIE, Link, Upstream, proxy, until, variants

HOST = b"Host: h\r\n"
GET = b"GET /%d HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
SIZES = (30_000, 65_536, 81_800, 81_920, 114_687, 114_688, 300_000, 1 << 20, 3_000_001)
HEAD_END = b"\r\n\r\n"


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def head_of(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size


async def by_target(link: Link) -> None:
    """Answer each request with as many bytes as its target says."""
    answered = 0
    while await link.read():
        heads = link.got.split(HEAD_END)[:-1]
        for head in heads[answered:]:
            size = int(head.split(b" ")[1][1:])
            await link.send(head_of(size) + body(size))
        answered = len(heads)


@pytest.mark.parametrize("logged", [False, True], ids=["", "logged"])
async def test_bodies_arrive_whole_over_one_connection(tmp_path: Path, logged: bool) -> None:
    path = tmp_path / "access.log"
    more = f"access_log: {{path: {path}}}\n" if logged else ""
    async with (
        Upstream(by_target).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(b"".join(GET % size for size in SIZES))  # pipelined
        got = b""
        for size in SIZES:
            while got.count(HEAD_END) < 1 or len(got.partition(HEAD_END)[2]) < size:
                got += await client.read()
            head, _, rest = got.partition(HEAD_END)
            assert b"\r\nContent-Length: %d\r\n" % size in head + b"\r\n"
            assert rest[:size] == body(size)
            got = rest[size:]
        assert got == b""
        assert len(upstream.links) == 1
        cells = running.counters.stable
        assert cells[CODES + 200] == cells[FINISHED] == len(SIZES)
        if running.log is not None:
            log = running.log
            await until(lambda: log.written == len(SIZES))
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            assert [line["bytes"] for line in lines] == list(SIZES)


async def test_more_bytes_than_announced_end_the_upstreams_connection() -> None:
    async def answer(link: Link) -> None:
        await link.take(HEAD_END)
        await link.send(head_of(1 << 20) + body(1 << 20) + b"HTTP/1.1 200 OK\r\n\r\n")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        for asked in (1, 2):
            client = await running.connect()
            await client.send(GET % 1)
            got = await client.take(HEAD_END)
            while len(got.partition(HEAD_END)[2]) < 1 << 20:
                got = client.got + await client.read()
            assert client.got.partition(HEAD_END)[2] == body(1 << 20)
            await until(lambda asked=asked: upstream.links[asked - 1].closed)  # type: ignore[misc]
        assert len(upstream.links) == 2
        assert running.counters.stable[FINISHED] == 2


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
async def test_an_upstream_that_breaks_off_within_a_body(tmp_path: Path, resets: bool) -> None:
    path = tmp_path / "access.log"
    sent = head_of(2 << 20) + body(1 << 20)
    arrived = 0

    async def answer(link: Link) -> None:
        await link.take(HEAD_END)
        await link.send(sent)
        await until(lambda: arrived >= len(sent))
        if resets:
            link.reset()
        else:
            link.close()

    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=f"access_log: {{path: {path}}}\n")) as running,
    ):
        client = await running.connect()
        await client.send(GET % 1)
        while arrived < len(sent):
            await client.read()
            # The proxy's head is longer than the upstream's.
            arrived = len(client.got.partition(HEAD_END)[2]) + len(head_of(2 << 20))
        got = await client.to_end()
        assert got.partition(HEAD_END)[2] == body(1 << 20)
        cells = running.counters.stable
        assert cells[ERRORS + Reason.INCOMPLETE_ANSWER] == cells[FINISHED] == 1
        log = running.log
        assert log is not None
        await until(lambda: log.written == 1)
        line = json.loads(path.read_bytes())
        assert (line["bytes"], line["reason"]) == (1 << 20, Reason.INCOMPLETE_ANSWER.label)


async def test_a_client_that_leaves_within_a_body_ends_the_upstreams_connection() -> None:
    async def answer(link: Link) -> None:
        await link.take(HEAD_END)
        await link.send(head_of(256 << 20))
        for _ in range(256):
            await link.send(bytes(1 << 20))

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect(receive_buffer=65536)
        await client.send(GET % 1)
        await client.take(bytes(1 << 16))
        client.reset()
        await until(lambda: running.counters.stable[CLIENT_CLOSED] == 1)
        await until(lambda: upstream.links[0].closed or running.context.in_flight == 0)
        assert running.counters.stable[FINISHED] == 1
