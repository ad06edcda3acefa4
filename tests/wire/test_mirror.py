"""Copies for the canary: what is copied, that nobody waits for it, and that it gives way."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from canaryproxy import config
from canaryproxy.measure import counters
from canaryproxy.measure.counters import COPY_RESULTS, DROPPED, FAILED_COPY, FINISHED, ROUTED
from canaryproxy.measure.routing import RouteTable
from canaryproxy.proxy.mirror import MOST_COPIES

from .harness import OK, Answer, Link, Proxy, Upstream, always, proxy, until, variants

LINES = b"Host: h\r\nCookie: canary_id=u\r\n"
GET = b"GET /a?b HTTP/1.1\r\n" + LINES + b"\r\n"
ALL = "split: {weight: 0}\nmirror: {percent: 100}\n"
ANSWERED = b"\r\n\r\nok"


async def never(link: Link) -> None:
    """Read, and never answer."""
    await link.to_end()


def results(running: Proxy) -> dict[str, int]:
    cells = running.counters.service[counters.MIRRORED :]
    return {name: cells[at] for at, name in enumerate(COPY_RESULTS) if cells[at]}


def has_results(running: Proxy, wanted: dict[str, int]) -> bool:
    return results(running) == wanted


async def ask(running: Proxy, request: bytes = GET, times: int = 1) -> None:
    client = await running.connect()
    for number in range(times):
        await client.send(request)
        await client.take(ANSWERED, number + 1)


async def test_a_copy_is_the_request_with_one_more_line_and_users_get_stables_answer() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(
            always(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\ncanary")
        ).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        for number in (1, 2, 3):
            await ask(running)
            await until(partial(has_results, running, {"4xx": number}))
        assert canary.got == stable.got.replace(b"\r\n\r\n", b"\r\nX-Canary-Mirror: 1\r\n\r\n")
        assert len(canary.links) == 1  # kept and used again
        assert running.counters.stable[ROUTED] == running.counters.stable[FINISHED] == 3
        assert not any(running.counters.canary)  # no evidence, no request of a user
        assert running.service.context.pools[1].endpoints[0].active == 0


@pytest.mark.parametrize(
    ("more", "request_", "copies"),
    [
        (ALL, b"HEAD / HTTP/1.1\r\n" + LINES + b"\r\n", 1),
        (ALL, b"POST / HTTP/1.1\r\n" + LINES + b"Content-Length: 0\r\n\r\n", 0),
        (ALL, b"DELETE / HTTP/1.1\r\n" + LINES + b"\r\n", 0),
        (ALL, b"GET / HTTP/1.1\r\n" + LINES + b"Content-Length: 1\r\n\r\nx", 0),
        (ALL, b"GET / HTTP/1.1\r\n" + LINES + b"Connection: upgrade\r\nUpgrade: a\r\n\r\n", 0),
        ("mirror: {percent: 0}\n", GET, 0),
        ("mirror: {percent: 100}\nsplit: {weight: 100}\n", GET, 0),
        ("mirror: {percent: 100}\nsplit: {match: [{variant: stable, method: GET}]}\n", GET, 0),
    ],
)
async def test_what_is_copied(more: str, request_: bytes, copies: int) -> None:
    head_only = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    answer = head_only if request_.startswith(b"HEAD") else OK
    async with (
        Upstream(always(answer)).serving() as stable,
        Upstream(always(answer)).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        for number in range(2):  # when the second is answered a copy of the first has been sent
            await client.send(request_)
            await client.take(b"HTTP/1.1 200 OK", number + 1)
        await until(lambda: sum(results(running).values()) == 2 * copies)
        assert canary.got.count(b"X-Canary-Mirror: 1\r\n") == 2 * copies


async def test_nothing_is_copied_while_the_circuit_is_open() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(OK)).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        running.service.publish(RouteTable(circuit_open=True))
        await ask(running, times=5)
        running.service.publish(RouteTable())
        await ask(running)
        await until(lambda: results(running) == {"2xx": 1})
        assert canary.got.count(b"GET") == 1


async def test_the_share_is_what_was_asked_for() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(OK)).serving() as canary,
        proxy(variants(stable.port, canary.port, "mirror: {percent: 20}\n")) as running,
    ):
        await ask(running, times=2000)
        await until(lambda: not running.service._mirror.copies)
        assert 300 < results(running)["2xx"] < 500  # 400 ± 5.6 standard deviations


async def test_nobody_waits_for_a_canary_that_does_not_answer_and_copies_end() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(never).serving() as canary,
        proxy(
            variants(stable.port, canary.port, ALL + "limits: {first_byte_timeout: 200ms}\n")
        ) as running,
    ):
        await ask(running, times=20)
        await until(lambda: results(running) == {"failed": 20})
        assert not running.service._mirror.copies
        assert running.service.context.pools[1].endpoints[0].active == 0
        await until(lambda: all(link.closed for link in canary.links))


async def test_copies_are_bounded_and_leave_room_for_users() -> None:
    limits = "limits: {max_endpoint_connections: 20}\n"
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(never).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + limits)) as running,
    ):
        await ask(running, times=30)
        assert results(running) == {"dropped": 20}
        assert running.service.context.pools[1].endpoints[0].open == 10
        await until(lambda: len(canary.links) == 10)


async def test_a_worker_has_so_many_copies_and_no_more() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(never).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        await ask(running, times=MOST_COPIES + 5)
        assert results(running) == {"dropped": 5}


async def resets(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    link.reset()


async def half(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    link.close()


async def nonsense(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"SMTP ready\r\n\r\n")


async def switches(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n"
    )


@pytest.mark.parametrize("answer", [resets, half, nonsense, switches])
async def test_whatever_the_canary_does_is_a_failed_copy_and_no_more(answer: Answer) -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(answer).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        await ask(running, times=2)
        await until(lambda: results(running) == {COPY_RESULTS[FAILED_COPY]: 2})
        assert running.service.context.pools[1].endpoints[0].active == 0


async def test_a_canary_that_is_down_is_found_out_and_left_alone() -> None:
    async with Upstream(always(OK)).serving() as canary:
        port = canary.port
    async with (
        Upstream(always(OK)).serving() as stable,
        proxy(variants(stable.port, port, ALL)) as running,
    ):
        client = await running.connect()
        sent = 0

        async def ejected() -> bool:
            nonlocal sent
            await client.send(GET)
            sent += 1
            await client.take(ANSWERED, sent)
            return running.service.context.pools[1].endpoints[0].ejected

        async with asyncio.timeout(60):
            while not await ejected():
                pass
            before = results(running)[COPY_RESULTS[FAILED_COPY]]
        await ask(running, times=3)
        found = results(running)
        assert found[COPY_RESULTS[DROPPED]] >= 3
        assert found[COPY_RESULTS[FAILED_COPY]] >= before


async def test_a_stale_connection_is_tried_once_more() -> None:
    async def once(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(OK)
        await link.take(b"\r\n\r\n", 2)
        link.close()

    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(once).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        client = await running.connect()
        for number in (1, 2):
            await client.send(GET)
            await client.take(ANSWERED, number)
            await until(lambda number=number: results(running) == {"2xx": number})  # type: ignore[misc]
        assert len(canary.links) == 2


async def test_a_reload_turns_it_off_and_what_is_in_flight_ends() -> None:
    text = variants(1, 2, "")
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(never).serving() as canary,
        proxy(
            variants(stable.port, canary.port, ALL + "limits: {first_byte_timeout: 200ms}\n")
        ) as running,
    ):
        await ask(running, times=3)
        text = variants(stable.port, canary.port, "limits: {first_byte_timeout: 200ms}\n")
        running.reconfigure(config.parse(text, file="t"))
        await ask(running, times=3)
        await until(lambda: results(running) == {"failed": 3})


async def test_a_drain_does_not_wait_for_copies() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(never).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(ANSWERED)
        await until(lambda: canary.got)
        async with asyncio.timeout(10):
            assert await running.datapath.drain(8.0)
        assert not running.service._mirror.copies
