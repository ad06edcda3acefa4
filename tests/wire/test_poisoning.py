"""Answers of an upstream that wants to be heard by somebody else, or never to end."""

from __future__ import annotations

import asyncio
import re

import pytest

from canaryproxy.measure.counters import CODES, ERRORS, FINISHED, Reason
from canaryproxy.measure.records import LATE
from canaryproxy.measure.routing import RouteTable

from .harness import COOKIE, OK, Answer, Link, Upstream, always, proxy, status_of, until, variants

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def first_then(first: bytes, later: bytes, sent: asyncio.Event, go: asyncio.Event) -> Answer:
    """Answer ``first``, and ``later`` when ``go`` is set; each further connection gets ``OK``."""
    links = 0

    async def run(link: Link) -> None:
        nonlocal links
        links += 1
        if links > 1:
            await always(OK)(link)
        await link.take(b"\r\n\r\n")
        await link.send(first)
        await go.wait()
        await link.send(later)
        sent.set()

    return run


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 57\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 57\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 57\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_a_body_where_none_is_allowed_is_nobodys_answer(
    method: bytes, answer: bytes, late: bool
) -> None:
    """With the answer, or later over the connection that waits in the pool."""
    sent, go = asyncio.Event(), asyncio.Event()
    first, later = (answer, POISON) if late else (answer + POISON, b"")
    async with (
        Upstream(first_then(first, later, sent, go)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(method + b" / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n")
        await until(lambda: running.counters.stable[FINISHED] == 1)
        go.set()
        await sent.wait()
        endpoint = running.service.context.pools[0].endpoints[0]
        await until(lambda: not endpoint.idle)
        other = await running.connect()
        for asking in (client, other):
            await asking.send(GET)
            await asking.take(b"ok")
            assert b"poison" not in asking.got
        assert len(upstream.links) == 2


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
async def test_a_flood_of_interim_answers_is_no_answer(status: bytes) -> None:
    """Each is legal; a million of them are not, and the client is told so."""
    sent = 0

    async def flood(link: Link) -> None:
        nonlocal sent
        await link.take(b"\r\n\r\n")
        while True:
            await link.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
            sent += 1

    async with Upstream(flood).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        finals = re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", client.got)
        assert finals == [b"502"]
        assert client.got.count(b"HTTP/1.1 " + status) == (1 if status[:3] == b"100" else 100)
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1
        await until(lambda: upstream.links[0].closed)


async def test_a_hundred_interim_answers_pass() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with (
        Upstream(always(100 * hint + OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"ok", count)
        assert client.got.count(hint) == 200
        assert len(upstream.links) == 1


@pytest.mark.parametrize("status", [b"102 Processing", b"103 Early Hints"])
async def test_interim_answers_give_no_more_time(status: bytes) -> None:
    async def drip(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        while True:
            await link.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
            await asyncio.sleep(0.1)

    limits = "limits: {first_byte_timeout: 400ms, body_timeout: 5s}"
    async with (
        Upstream(drip).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", client.got) == [b"504"]
        assert running.counters.stable[ERRORS + Reason.FIRST_BYTE_TIMEOUT] == 1


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["endless", "whole"])
@pytest.mark.parametrize("field", [b"A: " + b"b" * (1 << 20), b"A: b\r\n" * (1 << 17)])
@pytest.mark.parametrize("piece", [1 << 20, 5000])
async def test_a_head_of_a_megabyte_is_no_answer(end: bytes, field: bytes, piece: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + field + end + b"ok"

    async def large(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        for at in range(0, len(head), piece):
            await link.send(head[at : at + piece])

    async with Upstream(large).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got) == 502
        cells = running.counters.stable
        assert cells[ERRORS + Reason.BROKEN_ANSWER] == cells[CODES + 502] == 1
        await until(lambda: upstream.links[0].closed)


async def test_a_canary_that_only_says_wait_is_late_for_the_judge() -> None:
    """Interim answers are no first byte: latency counts the request while it waits."""
    go = asyncio.Event()

    async def wait(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await go.wait()
        await link.send(OK)

    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(wait).serving() as canary,
        proxy(variants(stable.port, canary.port)) as running,
    ):
        table = running.service.context.router.table
        running.service.publish(RouteTable(100.0, table.salt, late=0.01))
        client = await running.connect()
        await client.send(GET)
        await client.take(b"102 Processing")

        def late() -> bool:
            return any(record.flags & LATE for record in running.records())

        await until(late)
        go.set()
        await client.take(b"ok")
