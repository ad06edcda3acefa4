"""Time: nobody waits for ever, and nobody who still moves is cut short."""

from __future__ import annotations

import asyncio

from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    CODES,
    ERRORS,
    FINISHED,
    REFUSED,
    RESCUED,
    TUNNELS_CLOSED,
    TUNNELS_OPENED,
    Reason,
)

from .harness import (
    COOKIE,
    OK,
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
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"


async def silence(link: Link) -> None:
    await link.to_end()


# Nobody waits for ever


async def test_stable_has_its_own_time_after_a_canary_that_timed_out() -> None:
    more = "split: {weight: 100}\nlimits: {first_byte_timeout: 500ms}"
    async with (
        Upstream(silence).serving() as stable,
        Upstream(silence).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got) == 504
        assert stable.got == canary.got
        assert running.counters.canary[CODES + 504] == running.counters.canary[FINISHED] == 1
        assert running.counters.canary[RESCUED] == 0
        for cells in running.counters.variants:
            assert cells[ERRORS + Reason.FIRST_BYTE_TIMEOUT] == 1
        assert running.context.in_flight == 0


async def test_a_request_that_waits_for_a_connection_is_504_in_the_end() -> None:
    release = asyncio.Event()

    async def late(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await release.wait()
        await link.send(OK)

    more = "limits: {max_endpoint_connections: 1, first_byte_timeout: 100ms, body_timeout: 100ms}"
    async with (
        Upstream(late).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        first, second = await running.connect(), await running.connect()
        for client in (first, second):
            await client.send(GET)
        for client in (first, second):
            await client.take(b"Request ID")
            assert status_of(client.got) == 504
        assert running.counters.stable[CODES + 504] == 2
        assert running.service.context.pools[0].endpoints[0].open <= 1
        assert len(upstream.links) <= 2  # another one only when the first is closed
        release.set()
        third = await running.connect()  # who gave up does not stand in the way
        await third.send(GET)
        await third.take(b"ok")


async def test_who_never_reads_the_last_answer_does_not_keep_a_connection_for_ever() -> None:
    body = bytes(1 << 15)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    more = "limits: {idle_timeout: 1s, body_timeout: 1s}"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        client.stop_reading()
        await until(lambda: running.context.connections)
        connection = running.connection()
        cells = running.counters.stable
        asked = 0

        def answered() -> bool:
            return cells[FINISHED] == asked

        # One request after the other, until an answer does not leave the process.
        while not connection.transport.get_write_buffer_size():
            asked += 1
            await client.send(GET)
            await until(answered)
        await until(lambda: not running.context.connections, "end of the connection")


async def test_a_connection_that_never_says_anything_is_closed() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {header_timeout: 100ms}")) as running,
    ):
        assert await running.ask(b"") == b""
        assert upstream.links == []


async def test_empty_lines_do_not_keep_a_connection_open() -> None:
    more = "limits: {header_timeout: 100ms, idle_timeout: 100ms}"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()

        async def drip() -> None:
            while True:
                await client.send(b"\r\n")
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        await client.to_end()
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        await until(lambda: not running.context.connections)


async def test_a_head_that_drips_is_408_however_lively_it_is() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {header_timeout: 150ms}")) as running,
    ):
        client = await running.connect()

        async def drip() -> None:
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
            while True:
                await client.send(b"x")
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        got = await client.to_end()
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        assert status_of(got) == 408
        assert upstream.got == b""
        assert running.counters.proxy[REFUSED + 408] == 1


async def test_an_upstream_that_never_says_100_is_late_not_the_client() -> None:
    more = "limits: {first_byte_timeout: 100ms, body_timeout: 300ms}"
    async with (
        Upstream(silence).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"PUT / HTTP/1.1\r\n"
            + HOST
            + COOKIE
            + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        await client.take(b"Request ID")
        assert status_of(client.got) == 504
        assert running.counters.stable[ERRORS + Reason.FIRST_BYTE_TIMEOUT] == 1
        assert running.counters.stable[CLIENT_CLOSED] == 0


EXPECTING = (
    b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
)


async def test_stable_that_never_says_100_either_is_late_too() -> None:
    more = "split: {weight: 100}\nlimits: {first_byte_timeout: 100ms, body_timeout: 300ms}"
    async with (
        Upstream(silence).serving() as stable,
        Upstream(silence).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        await client.send(EXPECTING)
        await client.take(b"Request ID")
        assert status_of(client.got) == 504
        assert stable.got == canary.got
        assert running.counters.canary[CODES + 504] == 1


async def test_a_client_that_is_told_to_go_on_by_stable_and_does_not_is_408() -> None:
    async def go_on(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await link.to_end()

    more = "split: {weight: 100}\nlimits: {first_byte_timeout: 100ms, body_timeout: 100ms}"
    async with (
        Upstream(go_on).serving() as stable,
        Upstream(silence).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        await client.send(EXPECTING)
        await client.take(b"100 Continue")
        got = (await client.to_end()).partition(b"\r\n\r\n")[2]
        assert status_of(got) == 408
        await until(lambda: stable.links[0].closed)


async def test_an_upload_that_two_deaf_variants_do_not_read_is_504() -> None:
    async def deaf(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await asyncio.Event().wait()

    more = (
        "split: {weight: 100}\nrescue: {replay_buffer: 64MiB}\n"
        "limits: {first_byte_timeout: 300ms, body_timeout: 2s}"
    )
    async with (
        Upstream(deaf).serving() as stable,
        Upstream(deaf).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        size = 32 << 20
        await client.send(
            b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: %d\r\n\r\n" % size
        )
        uploading = asyncio.create_task(client.send(bytes(size)))
        await client.take(b"\r\n\r\n")
        assert status_of(client.got) == 504
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        assert running.counters.canary[CODES + 504] == 1
        assert running.counters.stable[ERRORS + Reason.FIRST_BYTE_TIMEOUT] == 1


async def test_an_answer_of_the_upstream_that_the_client_does_not_read_ends() -> None:
    async def flood(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        while True:
            await link.send(bytes(1 << 18))

    async with (
        Upstream(flood).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {body_timeout: 100ms}")) as running,
    ):
        client = await running.connect()
        client.stop_reading()
        await client.send(GET)
        await until(lambda: running.counters.stable[FINISHED] == 1, "end")
        assert running.counters.stable[CLIENT_CLOSED] == 1
        await until(lambda: upstream.links[0].closed)


async def test_an_upstream_that_does_not_read_a_body_is_504() -> None:
    async def deaf(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await asyncio.Event().wait()

    more = "limits: {body_timeout: 100ms, first_byte_timeout: 100ms}"
    async with (
        Upstream(deaf).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: %d\r\n\r\n" % (1 << 40)
        )

        async def upload() -> None:
            while True:
                await client.send(bytes(1 << 18))

        uploading = asyncio.create_task(upload())
        await client.take(b"\r\n\r\n")
        assert status_of(client.got) == 504
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        assert running.counters.stable[CODES + 504] == 1
        assert running.counters.stable[CLIENT_CLOSED] == 0


async def test_a_half_closed_tunnel_that_is_silent_ends() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await link.to_end()
        await asyncio.Event().wait()

    async with (
        Upstream(answer).serving() as upstream,
        proxy(
            variants(upstream.port, more="limits: {idle_timeout: 100ms, body_timeout: 100ms}")
        ) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        client.send_eof()
        await until(lambda: running.counters.stable[TUNNELS_CLOSED] == 1, "end of the tunnel")
        assert running.context.in_flight == 0


# Nobody who moves is cut short


async def test_a_silent_tunnel_is_left_alone() -> None:
    more = (
        "limits: {idle_timeout: 50ms, body_timeout: 50ms, first_byte_timeout: 50ms,"
        " header_timeout: 50ms}"
    )

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await link.take(b"ping")
        await link.send(b"pong")

    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(UPGRADE)
        await client.take(b"\r\n\r\n")
        await asyncio.sleep(0.4)  # a silence that would end anything else
        assert running.counters.stable[TUNNELS_OPENED] == 1
        await client.send(b"ping")
        await client.take(b"pong")


async def test_a_body_that_drips_arrives_whole() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"x" * 40)
        await link.send(OK)

    more = "limits: {body_timeout: 150ms, header_timeout: 150ms, first_byte_timeout: 150ms}"
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 40\r\n\r\n")
        for _ in range(40):
            await client.send(b"x")
            await asyncio.sleep(0.01)
        await client.take(b"ok")


async def test_an_answer_that_drips_arrives_whole() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        for _ in range(40):
            await link.send(b"x")
            await asyncio.sleep(0.01)

    more = "limits: {body_timeout: 150ms, header_timeout: 150ms, first_byte_timeout: 150ms}"
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"x" * 40)
        assert running.counters.stable[CODES + 200] == 1


# Small buffers of the system, so that the end of an answer waits in the process while the client reads.
SMALL = 16 << 10
SIZE = 240 << 10
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE)


async def slow_reader(request: bytes, seconds: float, more: str = "") -> int:
    """Read until the upstream's part is over, then slowly, then the rest; return the body's bytes."""
    async with (
        Upstream(always(ANSWER)).serving() as upstream,
        proxy(variants(upstream.port, more=more), send_buffer=SMALL) as running,
    ):
        client = await running.connect(receive_buffer=SMALL)
        await client.send(request)
        await client.take_head()
        count = 0
        while not running.counters.stable[FINISHED]:
            count += await client.read_slowly(1 << 12, 1 << 12, 0.001)
        for _ in range(int(seconds / 0.02)):
            count += await client.read_slowly(1 << 8, 1 << 8, 0.02)
        count += await client.read_slowly(SIZE - count, SIZE, 0)
        assert running.counters.stable[CODES + 200] == 1
        return count


async def test_a_slow_reader_of_a_last_answer_gets_all_of_it() -> None:
    request = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: close\r\n\r\n"
    assert await slow_reader(request, 0.5, "limits: {body_timeout: 100ms}") == SIZE


async def test_a_slow_reader_of_an_early_answer_gets_all_of_it() -> None:
    request = b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 9\r\n\r\nabc"
    assert await slow_reader(request, 3.0) == SIZE
