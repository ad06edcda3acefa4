"""Tunnels and event streams follow their users to the other variant: cleanly, and within the time for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode

from canaryproxy.http1.websocket import close_frame
from canaryproxy.measure import records
from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    CODES,
    ENDED_CLEANLY,
    ENDED_ROUGHLY,
    ERRORS,
    FINISHED,
    LEAVING,
    LEFT,
    ROUTED,
    STREAMS_CLOSED,
    STREAMS_OPENED,
    TUNNELS_CLOSED,
    TUNNELS_OPENED,
    Reason,
    leaving,
)
from canaryproxy.measure.routing import bucket_of

from .harness import COOKIE, OK, Client, Link, Proxy, Upstream, always, proxy, until, variants
from .test_tunnels import SWITCH, UPGRADE
from .test_websockets import echo, service, through

AT_ONCE = "circuit: {close_after: 0s, spread: 100ms}\nsplit: {weight: 100}"
PATIENT = "circuit: {close_after: 0s, spread: 20s}\nsplit: {weight: 100}"
ENDED = close_frame(1012)
EVENTS = b"GET /events HTTP/1.1\r\nHost: h\r\n" + COOKIE + b"\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def text(payload: bytes, *, fin: bool = True, first: bool = True) -> bytes:
    """Return a server's frame."""
    opcode = Opcode.TEXT if first else Opcode.CONT
    return Frame(opcode, payload, fin=fin).serialize(mask=False)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def moving(
    answer: Callable[[Link], Awaitable[None]], more: str
) -> AsyncIterator[tuple[Proxy, Upstream]]:
    """Run a proxy whose canary answers so, with ticks as a worker has them."""
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(answer).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
        ticking(running),
    ):
        yield running, canary


@asynccontextmanager
async def ticking(running: Proxy) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            running.datapath.tick()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


async def told(running: Proxy) -> None:
    """Move every user to stable, and wait until the connections there are told."""
    running.weight(0)
    await until(lambda: running.counters.canary[LEAVING])
    await asyncio.sleep(0.05)


def script(
    first: bytes, *later: bytes
) -> tuple[Callable[[Link], Awaitable[None]], asyncio.Queue[bytes]]:
    """Return an upstream that answers with ``first`` and then sends what is queued."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    for one in later:
        queue.put_nowait(one)

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        link.got = b""
        await link.send(first)
        reading = asyncio.create_task(link.to_end())
        try:
            while not reading.done():
                getting = asyncio.create_task(queue.get())
                await asyncio.wait((getting, reading), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    await link.send(getting.result())
                else:
                    getting.cancel()
        finally:
            reading.cancel()

    return answer, queue


async def settled(running: Proxy) -> None:
    """Wait for the end of everything, and see that the accounts balance."""
    await until(lambda: running.context.in_flight == 0)
    for cells in running.counters.variants:
        assert cells[TUNNELS_OPENED] == cells[TUNNELS_CLOSED]
        assert cells[STREAMS_OPENED] == cells[STREAMS_CLOSED]
        assert cells[LEAVING] == cells[LEFT]
        assert cells[ROUTED] == cells[FINISHED]
        assert sum(cells[ERRORS : ERRORS + len(Reason)]) == 0
    for pool in running.service.context.pools:
        assert all(endpoint.active == 0 for endpoint in pool.endpoints)


# WebSockets


@pytest.mark.parametrize("by", ["client", "service"])
async def test_a_websocket_of_which_half_has_ended_gets_no_close_frame_there(by: str) -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        link.got = b""
        await link.send(SWITCH)
        if by == "service":
            link.send_eof()
        await link.to_end()
        await asyncio.Event().wait()

    async with moving(answer, AT_ONCE) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take_head()
        if by == "client":
            client.send_eof()
            await until(lambda: canary.links[0].closed)
        else:
            assert await client.read() == b""
        await told(running)
        await until(lambda: running.context.in_flight == 0)
        await settled(running)
        if by == "client":
            assert (await client.to_end()).endswith(ENDED)
            assert canary.links[0].got == b""
        else:
            await until(lambda: canary.links[0].closed)
            assert canary.links[0].got.startswith(b"\x88\x82")


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_trip_closes_a_websocket_with_1012_on_both_sides(compression: str | None) -> None:
    seen: list[Close | None] = []

    async def note(server: ServerConnection) -> None:
        try:
            await echo(server)
        except ConnectionClosed:
            pass
        finally:
            await server.wait_closed()
            seen.append(server.protocol.close_rcvd)

    more = "circuit: {close_after: 0s, spread: 20s}\nsplit: {weight: 100}"
    async with (
        Upstream(always(OK)).serving() as stable,
        service(note, compression=compression) as port,
        proxy(variants(stable.port, port, more)) as running,
        ticking(running),
    ):
        async with through(
            running, compression=compression, cookie=COOKIE[8:-2].decode()
        ) as client:
            await client.send("hello" * 50)
            assert await client.recv() == "hello" * 50
            running.weight(0)
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.protocol.close_rcvd == Close(1012, "")
            assert client.protocol.close_rcvd_then_sent
            await client.wait_closed()
        await until(lambda: seen)
        assert seen == [Close(1012, "")]
        await settled(running)
        cells = running.counters.canary
        assert (cells[ENDED_CLEANLY], cells[ENDED_ROUGHLY]) == (1, 0)
        (record,) = [one for one in running.records() if one.ended]
        assert record.flags & records.TUNNEL
        assert not record.flags & records.BROKEN


async def test_the_close_frame_comes_after_the_message_that_has_begun() -> None:
    whole = text(b"a" * 300)
    answer, queue = script(SWITCH + whole + whole[:200])
    async with moving(answer, PATIENT) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(whole[:200], 2)
        before = len(client.got)
        await told(running)
        assert len(client.got) == before
        await queue.put(whole[200:] + text(b"for nobody"))
        await client.take(ENDED)
        await queue.put(text(b"neither"))
        await client.send(Frame(Opcode.PING, b"").serialize(mask=True))
        await client.send(close_frame(1012, b"mask"))
        assert (await client.to_end())[before:] == whole[200:] + ENDED
        await until(lambda: canary.links[0].closed)
        assert canary.got.endswith(close_frame(1012, b"mask"))
        await settled(running)


async def test_fragments_and_pings_between_them_are_one_message() -> None:
    answer, queue = script(SWITCH + text(b"a", fin=False))
    async with moving(answer, PATIENT) as (running, _):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(text(b"a", fin=False))
        before = len(client.got)
        await told(running)
        ping = Frame(Opcode.PING, b"?").serialize(mask=False)
        await queue.put(ping)
        await client.take(ping)
        await queue.put(text(b"b", first=False) + ping)
        await client.take(ENDED)
        assert client.got[before:] == ping + text(b"b", first=False) + ENDED
        await client.send(close_frame(1012, b"mask"))
        await client.to_end()
        await settled(running)


@pytest.mark.parametrize(
    ("begun", "cleanly"),
    [(text(b"a", fin=False), True), (text(b"a" * 40)[:20], False), (b"\x83\x00", False)],
    ids=["fragments without end", "half a frame", "no frame"],
)
async def test_a_message_without_end_is_ended_when_the_time_is_over(
    begun: bytes, cleanly: bool
) -> None:
    answer, _ = script(SWITCH + begun)
    async with moving(answer, AT_ONCE) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(begun)
        running.weight(0)
        assert (await client.to_end()).endswith(begun + ENDED if cleanly else begun)
        await until(lambda: canary.links[0].closed)
        await settled(running)
        cells = running.counters.canary
        assert (cells[ENDED_CLEANLY], cells[ENDED_ROUGHLY]) == (cleanly, not cleanly)


async def test_a_client_that_does_not_reply_keeps_nothing_on_the_canary() -> None:
    answer, _ = script(SWITCH)
    async with moving(answer, AT_ONCE) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        running.weight(0)
        await until(lambda: canary.links[0].closed)
        frame = canary.got
        assert frame == close_frame(1012, frame[2:6])
        assert (await client.to_end()).endswith(ENDED)
        await settled(running)


async def test_a_client_with_half_a_frame_gets_its_close_frame_and_the_canary_its_end() -> None:
    answer, _ = script(SWITCH)
    half = Frame(Opcode.TEXT, b"a" * 40).serialize(mask=True)[:20]
    async with moving(answer, AT_ONCE) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        await client.send(half)
        running.weight(0)
        assert (await client.to_end()).endswith(ENDED)
        await until(lambda: canary.links[0].closed)
        assert canary.got == half
        await settled(running)


async def test_a_client_that_never_reads_keeps_nothing_on_the_canary() -> None:
    async def flood(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        while True:
            await link.send(text(b"a" * 60_000))

    async with moving(flood, AT_ONCE) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take_head()
        client.stop_reading()
        await until(running.connection().transport.get_write_buffer_size)
        running.weight(0)
        await until(lambda: running.context.in_flight == 0)
        await until(lambda: canary.links[0].closed)
        await settled(running)


async def test_an_upstream_that_never_reads_keeps_nothing() -> None:
    async def deaf(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await asyncio.sleep(60)

    async with moving(deaf, AT_ONCE) as (running, _):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        message = Frame(Opcode.BINARY, bytes(1 << 20)).serialize(mask=True)
        sending = asyncio.create_task(_send_until_closed(client, message))
        await until(lambda: not running.connection()._reading)
        running.weight(0)
        assert (await client.to_end()).endswith(ENDED)
        await sending
        await settled(running)


async def _send_until_closed(client: Client, message: bytes) -> None:
    try:
        for _ in range(64):
            await client.send(message)
    except ConnectionError:
        pass


@pytest.mark.parametrize("by_client", [True, False])
async def test_a_websocket_that_is_closing_anyway_gets_no_second_close_frame(
    by_client: bool,
) -> None:
    theirs = close_frame(1000)
    answer, queue = script(SWITCH + (b"" if by_client else theirs))
    async with moving(answer, PATIENT) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        if by_client:
            await client.send(close_frame(1000, b"mask"))
            await until(lambda: canary.got)
        await told(running)
        if by_client:
            await queue.put(theirs)
        await client.take(theirs)
        client.close()
        await until(lambda: running.context.in_flight == 0)
        assert client.got.endswith(b"\r\n\r\n" + theirs)
        await settled(running)
        assert running.counters.canary[ENDED_CLEANLY] == 0


async def test_an_upstream_that_closes_at_the_same_time_is_the_end() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await until(lambda: running.counters.canary[LEAVING])
        link.reset()

    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(answer).serving() as canary,
        proxy(variants(stable.port, canary.port, PATIENT)) as running,
        ticking(running),
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        running.weight(0)
        await client.to_end()
        await settled(running)


async def test_a_tunnel_of_another_protocol_is_ended() -> None:
    answer, _ = script(SWITCH.replace(b"websocket", b"raw") + b"bytes")
    async with moving(answer, PATIENT) as (running, canary):
        client = await running.connect()
        await client.send(UPGRADE.replace(b"websocket", b"raw"))
        await client.take(b"bytes")
        running.weight(0)
        assert (await client.to_end()).endswith(b"bytes")
        await until(lambda: canary.links[0].closed)
        await settled(running)


# Streams


async def test_an_event_stream_ends_after_its_event_and_the_connection_goes_on() -> None:
    answer, queue = script(STREAM + chunk(b"data: 1\n\ndata"))
    async with moving(answer, PATIENT) as (running, canary):
        client = await running.connect()
        await client.send(EVENTS)
        await client.take(b"data: 1\n\ndata\r\n")
        before = len(client.got)
        await told(running)
        await queue.put(chunk(b": 2\n\ndata: 3\n\n"))
        await client.take(LAST_CHUNK)
        assert client.got[before:] == chunk(b": 2\n\n") + LAST_CHUNK
        await until(lambda: canary.links[0].closed)
        await client.send(EVENTS)
        await client.take(b"ok")
        await settled(running)
        cells = running.counters.canary
        assert (cells[ENDED_CLEANLY], cells[CODES + 200], cells[CLIENT_CLOSED]) == (1, 1, 0)
        record = next(one for one in running.records() if one.ended)
        assert record.flags & records.TUNNEL
        assert not record.flags & records.BROKEN


async def test_a_silent_event_stream_ends_at_once_and_half_an_event_when_the_time_is_over() -> None:
    for sent, cleanly in ((b": hello\n\n", True), (b"data: ", False)):
        answer, _ = script(STREAM + chunk(sent))
        async with moving(answer, AT_ONCE) as (running, _):
            client = await running.connect()
            await client.send(EVENTS)
            await client.take(sent)
            running.weight(0)
            await client.take(LAST_CHUNK)
            assert client.got.endswith(chunk(sent) + LAST_CHUNK)
            await settled(running)
            cells = running.counters.canary
            assert (cells[ENDED_CLEANLY], cells[ENDED_ROUGHLY]) == (cleanly, not cleanly)


async def test_an_http10_client_sees_the_end_of_its_stream_by_the_connections() -> None:
    answer, _ = script(STREAM.replace(b"Transfer-Encoding: chunked\r\n", b"") + b"data: 1\n\n")
    async with moving(answer, PATIENT) as (running, canary):
        client = await running.connect()
        await client.send(EVENTS.replace(b"1.1", b"1.0"))
        await client.take(b"data: 1\n\n")
        running.weight(0)
        assert (await client.to_end()).endswith(b"\r\n\r\ndata: 1\n\n")
        await until(lambda: canary.links[0].closed)
        await settled(running)


@pytest.mark.parametrize(
    ("head", "request_"),
    [
        (STREAM, EVENTS.replace(b"GET", b"POST")),
        (STREAM.replace(b"text/event-stream", b"application/zip"), EVENTS),
        (STREAM.replace(b"Transfer-Encoding: chunked", b"Content-Length: 18"), EVENTS),
    ],
    ids=["a POST", "a download", "a length"],
)
async def test_a_response_that_ends_by_itself_is_left_alone(head: bytes, request_: bytes) -> None:
    body = b"data: 1\n\n"
    chunked = b"chunked" in head
    answer, queue = script(head + (chunk(body) if chunked else body))
    async with moving(answer, AT_ONCE) as (running, _):
        client = await running.connect()
        await client.send(request_)
        await client.take(body)
        running.weight(0)
        await asyncio.sleep(0.2)
        await queue.put(chunk(body) + LAST_CHUNK if chunked else body)
        await client.take(body, 2)
        await settled(running)
        assert running.counters.canary[LEAVING] == 0


async def test_a_coded_event_stream_ends_anywhere_and_a_heartbeat_is_no_part_of_an_event() -> None:
    coded = STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    for head, sent in ((coded, b"\x1f\x8b\x08"), (STREAM, b"data: 1\n\n:\n")):
        answer, _ = script(head + chunk(sent))
        async with moving(answer, PATIENT) as (running, _):
            client = await running.connect()
            await client.send(EVENTS)
            await client.take(sent)
            running.weight(0)
            await client.take(LAST_CHUNK)
            assert client.got.endswith(chunk(sent) + LAST_CHUNK)
            await settled(running)
            assert running.counters.canary[ENDED_CLEANLY] == 1


@pytest.mark.parametrize("head", [STREAM, STREAM.replace(b"200 OK", b"204 No Content")])
async def test_a_response_without_a_body_is_no_stream(head: bytes) -> None:
    answer, _ = script(head.replace(b"Transfer-Encoding: chunked\r\n", b""))
    async with moving(answer, AT_ONCE) as (running, _):
        client = await running.connect()
        await client.send(EVENTS if b"204" in head else EVENTS.replace(b"GET", b"HEAD"))
        await client.take(b"\r\n\r\n")
        running.weight(0)
        await client.send(EVENTS)
        await client.take(b"ok")
        await settled(running)
        assert running.counters.canary[STREAMS_OPENED] == 0


async def test_configured_types_end_at_a_line() -> None:
    head = STREAM.replace(b"text/event-stream", b"application/x-ndjson")
    answer, queue = script(head + chunk(b'{"a":'))
    more = PATIENT.replace("20s", "20s, streams: [application/x-ndjson]")
    async with moving(answer, more) as (running, _):
        client = await running.connect()
        await client.send(EVENTS)
        await client.take(b'{"a":')
        await told(running)
        await queue.put(chunk(b"1}\n{}\n"))
        await client.take(LAST_CHUNK)
        assert client.got.endswith(chunk(b"1}\n") + LAST_CHUNK)
        await settled(running)


# Who moves, and when


async def _open(running: Proxy, key: str) -> Client:
    client = await running.connect()
    await client.send(UPGRADE.replace(COOKIE, b"Cookie: canary_id=%b\r\n" % key.encode()))
    await client.take(b"\r\n\r\n")
    return client


async def test_a_lower_weight_closes_only_those_who_have_moved() -> None:
    keys = [f"{number:032x}" for number in range(12)]
    async with moving(always(SWITCH), AT_ONCE) as (running, _):
        clients = {key: await _open(running, key) for key in keys}
        gone = [key for key in keys if bucket_of(b"", key.encode()) >= 5000]
        assert 0 < len(gone) < len(keys)
        running.weight(50)
        for key in gone:
            assert (await clients[key].to_end()).endswith(ENDED)
        await until(lambda: not leaving(running.counters.canary))
        cells = running.counters.canary
        assert cells[TUNNELS_OPENED] - cells[TUNNELS_CLOSED] == len(keys) - len(gone)
        assert cells[LEAVING] == len(gone)


async def test_users_who_are_back_in_time_and_forced_ones_stay() -> None:
    more = PATIENT.replace("0s", "10s").replace(
        "weight: 100", "weight: 100, match: [{variant: canary, path: {prefix: /beta}}]"
    )
    async with moving(always(SWITCH), more) as (running, _):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        forced = await running.connect()
        await forced.send(UPGRADE.replace(b"/chat", b"/beta"))
        await forced.take(b"\r\n\r\n")
        running.weight(0)
        await until(lambda: leaving(running.counters.canary))
        assert leaving(running.counters.canary) == 1
        running.weight(100)
        await until(lambda: not leaving(running.counters.canary))
        assert running.context.in_flight == 2


@pytest.mark.parametrize(("follow", "closes"), [("both", True), ("stable", False), ("off", False)])
async def test_follow_says_whether_users_of_stable_are_closed_too(
    follow: str, closes: bool
) -> None:
    more = f"circuit: {{close_after: 0s, spread: 0s, follow: {follow}}}\nsplit: {{weight: 0}}"
    async with (
        Upstream(always(SWITCH)).serving() as upstream,
        proxy(variants(upstream.port, upstream.port, more)) as running,
        ticking(running),
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        running.weight(100)
        if closes:
            assert (await client.to_end()).endswith(ENDED)
            assert running.counters.stable[ENDED_CLEANLY] == 1
        else:
            await asyncio.sleep(0.2)
            assert running.context.in_flight == 1
            running.weight(0)


async def test_a_stream_that_begins_after_the_trip_is_closed_with_the_others() -> None:
    go = asyncio.Event()

    async def late(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await go.wait()
        await link.send(STREAM + chunk(b"data: 1\n\n"))

    async with moving(late, AT_ONCE) as (running, canary):
        client = await running.connect()
        await client.send(EVENTS)
        await until(lambda: canary.got)
        running.weight(0)
        await asyncio.sleep(0.2)
        go.set()
        await client.take(LAST_CHUNK)
        await settled(running)


async def test_60_websockets_and_20_streams_leave_evenly_within_the_time() -> None:
    """What the clients see is what the counters say: each gets a clean end, none later than the spread."""
    sockets, streams, after, spread = 60, 20, 0.1, 0.5
    more = "circuit: {close_after: 100ms, spread: 500ms}\nsplit: {weight: 100}"

    async def either(link: Link) -> None:
        head = await link.take(b"\r\n\r\n")
        await link.send(SWITCH if b"Upgrade:" in head else STREAM + chunk(b"data: 1\n\n"))

    ended: list[float] = []

    async def one(number: int, client: Client) -> bytes:
        upgrade = number < sockets
        cookie = b"Cookie: canary_id=%032x\r\n" % number
        await client.send((UPGRADE if upgrade else EVENTS).replace(COOKIE, cookie))
        await client.take(b"\r\n\r\n" if upgrade else b"data: 1\n\n")
        opened.release()
        await client.take(ENDED if upgrade else LAST_CHUNK)
        ended.append(monotonic())
        if upgrade:
            await client.send(close_frame(1012, b"mask"))
            await client.to_end()
        return client.got[-len(ENDED) :] if upgrade else client.got[-len(LAST_CHUNK) :]

    async with moving(either, more) as (running, canary):
        opened = asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(one(number, await running.connect()))
            for number in range(sockets + streams)
        ]
        for _ in tasks:
            await opened.acquire()
        running.datapath.tick()
        began = monotonic()
        running.weight(0)
        gone = await asyncio.gather(*tasks)
        assert Counter(gone) == {ENDED: sockets, LAST_CHUNK: streams}
        await settled(running)
        cells = running.counters.canary
        assert cells[ENDED_CLEANLY] == cells[LEAVING] == sockets + streams
        assert cells[ENDED_ROUGHLY] == 0
        await until(lambda: all(link.closed for link in canary.links))
        # None is earlier than the even spread has it, however slow the machine is.
        step = spread / (sockets + streams)
        for place, moment in enumerate(sorted(ended)):
            assert moment - began > after + (place - 1) * step - 0.01


# Shutdown


async def test_the_end_of_a_drain_is_clean_for_them_too() -> None:
    async def either(link: Link) -> None:
        head = await link.take(b"\r\n\r\n")
        await link.send(SWITCH if b"Upgrade:" in head else STREAM + chunk(b"data: 1\n\n"))

    async with (
        Upstream(either).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        socket, stream = await running.connect(), await running.connect()
        await socket.send(UPGRADE)
        await stream.send(EVENTS)
        await socket.take(b"\r\n\r\n")
        await stream.take(b"data: 1\n\n")
        assert not await running.datapath.drain(0.1)
        assert (await socket.to_end()).endswith(ENDED)
        assert (await stream.to_end()).endswith(LAST_CHUNK)
        await settled(running)


# The judge


@pytest.mark.parametrize(("code", "broken"), [(1000, False), (1001, False), (1011, True)])
async def test_an_internal_error_of_the_upstream_counts_however_long_the_tunnel_was(
    code: int, broken: bool
) -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH + text(b"hi"))
        await link.take(b"go")
        await link.send(close_frame(code))

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(text(b"hi"))
        exchange = running.connection()._exchange
        assert exchange is not None
        exchange._responded_at -= 60.0  # it has been open for a minute
        await client.send(b"go")
        await client.take(close_frame(code))
        client.close()
        record = await running.record()
        assert bool(record.flags & records.BROKEN) == broken


async def test_an_internal_error_while_the_proxy_waits_for_a_boundary_counts() -> None:
    answer, queue = script(SWITCH + text(b"a", fin=False))
    async with moving(answer, PATIENT) as (running, _):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(text(b"a", fin=False))
        await told(running)
        await queue.put(close_frame(1011))
        await client.take(close_frame(1011))
        client.close()
        await settled(running)
        record = next(one for one in running.records() if one.ended)
        assert record.flags & records.BROKEN
        assert running.counters.canary[ENDED_CLEANLY] == 0
