"""How connections of HTTP/2 end: nothing in flight is lost, and neighbours stay."""

from __future__ import annotations

import asyncio

import pytest

from canaryproxy.http2.errors import NO_ERROR
from canaryproxy.http2.frames import HIGHEST
from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    ENDED_CLEANLY,
    LEAVING,
    ROUTED,
    SHED,
)

from .h2client import GET, H2Client
from .harness import OK, Link, Upstream, always, proxy, until, variants
from .test_long_lived import AT_ONCE, chunk, moving
from .test_shedding import overloaded_stable

SHORT = "limits: {idle_timeout: 100ms}\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def path(text: bytes) -> list[tuple[bytes, bytes]]:
    return [*GET[:3], (b":path", text), *GET[4:]]


async def until_goaway(client: H2Client, count: int) -> None:
    while len(client.last) < count:
        assert await client.read()


async def to_end(client: H2Client) -> None:
    while await client.read():
        pass


def slow(go: asyncio.Event) -> Upstream:
    """Return an upstream that answers /slow late."""

    async def answer(link: Link) -> None:
        answered = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > answered:
                answered += 1
                if b"/slow" in link.got:
                    await go.wait()
                await link.send(OK)

    return Upstream(answer)


async def test_a_drain_takes_streams_on_their_way_and_names_the_last_one() -> None:
    """RFC 9113 §6.8."""
    go = asyncio.Event()
    async with slow(go).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        first = await client.ask(path(b"/slow"))
        await until(lambda: upstream.got, "request")
        draining = asyncio.ensure_future(running.datapath.drain(10))
        await asyncio.sleep(0)
        second = await client.ask(path(b"/sent-before-goaway-was-read"))
        await until_goaway(client, 1)
        assert client.last == [HIGHEST]
        assert (await client.reply(second)).body == b"ok"
        go.set()
        assert (await client.reply(first)).body == b"ok"
        await until_goaway(client, 2)
        assert (client.last, client.goaway) == ([HIGHEST, second], NO_ERROR)
        await to_end(client)
        client.client.close()
        assert await draining


async def test_a_client_that_does_not_answer_the_ping_is_given_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("canaryproxy.proxy.http2_connection._LAST_CALL", 0.1)
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        number = (await client.ask(), await client.ask())[1]
        await client.reply(number)
        draining = asyncio.ensure_future(running.datapath.drain(10))
        client.flush = nothing  # type: ignore[method-assign]
        await to_end(client)
        assert client.last == [HIGHEST, number]
        client.client.close()
        assert await draining


async def nothing() -> None:
    pass


async def test_a_request_that_meets_the_idle_timeout_is_answered() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=SHORT)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).body == b"ok"
        data = (
            await client.client.read()
        )  # GOAWAY and a ping: the client sends before it reads them
        number = await client.ask()
        for event in client.h2.receive_data(data):
            client._take(event)
        await client.flush()
        assert (await client.reply(number)).body == b"ok"
        await to_end(client)
        assert (client.last, client.goaway) == ([HIGHEST, number], NO_ERROR)
        assert running.counters.stable[ROUTED] == 2
        assert running.counters.stable[CLIENT_CLOSED] == 0


async def test_a_stream_after_the_last_one_is_not_forwarded() -> None:
    go = asyncio.Event()
    async with slow(go).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        first = await client.ask(path(b"/slow"))
        await until(lambda: upstream.got, "request")
        draining = asyncio.ensure_future(running.datapath.drain(10))
        await until_goaway(client, 2)
        await client.ask(path(b"/late"))
        go.set()
        assert (await client.reply(first)).body == b"ok"
        await to_end(client)
        client.client.close()
        assert await draining
        assert b"/late" not in upstream.got


async def test_drain_timeout_ends_what_is_left() -> None:
    async with (
        slow(asyncio.Event()).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        await client.ask(path(b"/slow"))
        await until(lambda: upstream.got, "request")
        assert not await running.datapath.drain(0.2)
        await until(lambda: running.counters.stable[CLIENT_CLOSED] == 1, "end of the request")
        assert running.context.in_flight == 0


def streaming(more: asyncio.Event) -> Upstream:
    """Return an upstream with an event stream, which goes on when ``more`` is set."""

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        if b"/events" not in link.got:
            await link.send(OK)
            return
        await link.send(EVENTS + chunk(b"data: 1\n\ndata: 2"))
        await more.wait()
        await link.send(chunk(b"\n\ndata: 3\n\n"))

    return Upstream(answer)


async def test_an_event_stream_leaves_the_canary_at_a_boundary_and_its_neighbours_stay() -> None:
    more = asyncio.Event()
    async with moving(streaming(more)._answer, AT_ONCE) as (running, canary):
        client = await H2Client.to(running)
        number = await client.ask(path(b"/events"))
        while b"data: 2" not in client.replies[number].body:
            assert await client.read()
        running.weight(0)
        await until(lambda: running.counters.canary[LEAVING], "connections that leave")
        stable = running.counters.stable[ROUTED]
        assert (await client.fetch()).body == b"ok"  # a new stream of the same connection
        assert running.counters.stable[ROUTED] == stable + 1
        more.set()
        reply = await client.reply(number)
        assert (reply.body, reply.ended) == (b"data: 1\n\ndata: 2\n\n", True)
        await until(lambda: running.counters.canary[ENDED_CLEANLY] == 1, "clean end")
        assert (await client.fetch()).body == b"ok"
        assert not client.last
        assert len(canary.links) == 1


async def test_an_event_stream_ends_at_a_boundary_when_drain_timeout_is_over() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(EVENTS + chunk(b"data: 1\n\n"))

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask(path(b"/events"))
        while not client.replies[number].body:
            assert await client.read()
        draining = asyncio.ensure_future(running.datapath.drain(0.2))
        reply = await client.reply(number)
        assert (reply.body, reply.ended) == (b"data: 1\n\n", True)
        assert not await draining


async def test_over_its_limit_a_variant_refuses_streams_too() -> None:
    async with overloaded_stable() as (running, _, _):
        client = await H2Client.to(running)
        reply = await client.fetch(GET[:4])
        assert (reply.status, reply.head[b"x-canaryproxy-reason"]) == (503, b"shed")
        assert running.counters.stable[SHED] == 1
