"""Load shedding on real sockets: who is refused, what he is told, and what the judge learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from time import monotonic

import pytest

from canaryproxy import config
from canaryproxy.measure import counters, records
from canaryproxy.measure.counters import CODES, ERRORS, FAILED, RESCUED, ROUTED, SHED, Reason
from canaryproxy.measure.shedding import LEAST, WINDOWS

from .h2client import H2Client
from .harness import OK, Client, Link, Proxy, Upstream, always, proxy, status_of, until, variants
from .test_faults import GET, HOST, STABLE_OK, once
from .test_rescue import CANARY_ID, HALF, STABLE_ID, ask, assert_balance

NEW = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"
SHED_AFTER = "limits: {shed_after: 100ms}\n"


@dataclass
class Held:
    """An upstream whose responses wait."""

    release: asyncio.Event

    async def __call__(self, link: Link) -> None:
        answered = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > answered:
                answered += 1
                await self.release.wait()
                await link.send(OK)


def users() -> Iterator[bytes]:
    return (b"user%d" % at for at in count())


def held() -> Held:
    return Held(asyncio.Event())


async def fill(running: Proxy, request: bytes, times: int) -> list[Client]:
    """Send requests that get no response yet."""
    before = running.context.in_flight
    clients = [await running.connect() for _ in range(times)]
    for client in clients:
        await client.send(request)
    await until(lambda: running.context.in_flight == before + times, "requests in flight")
    return clients


def overload(running: Proxy) -> None:
    """Let the seconds pass in which nothing is answered."""
    for second in range(WINDOWS + 2):
        running.service.context.observe_load(1000.0 + second)
    assert running.service.context.load.sheds


@asynccontextmanager
async def overloaded_stable(more: str = "") -> AsyncIterator[tuple[Proxy, Held, list[Client]]]:
    """Run a proxy whose stable has one request more in flight than it may have."""
    slow = held()
    async with (
        Upstream(slow).serving() as stable,
        proxy(variants(stable.port, more=SHED_AFTER + more)) as running,
    ):
        clients = await fill(running, GET, LEAST + 1)
        overload(running)
        yield running, slow, clients


async def test_over_its_limit_stable_refuses_at_once_and_says_when_to_come_again() -> None:
    async with overloaded_stable() as (running, slow, clients):
        for request in (GET, NEW, POST):
            response = await once(running, request)
            assert status_of(response) == 503
            assert b"X-Canaryproxy-Reason: shed\r\n" in response
            seconds = int(response.partition(b"Retry-After: ")[2].partition(b"\r\n")[0])
            assert 2 <= seconds <= 9
            assert b"Set-Cookie" not in response
        slow.release.set()
        for client in clients:
            assert status_of(await client.take(b"ok")) == 200
        assert status_of(await once(running, NEW)) == 200
        await until(lambda: running.context.in_flight == 0, "end of all requests")
        cells = running.counters.stable
        assert cells[SHED] == cells[ERRORS + Reason.SHED] == cells[CODES + 503] == 3
        assert_balance(running)


async def test_a_stream_of_http2_is_refused_as_a_connection_is() -> None:
    async with overloaded_stable() as (running, slow, _):
        client = await H2Client.to(running)
        reply = await client.fetch()
        assert reply.status == 503
        assert reply.head[b"x-canaryproxy-reason"] == b"shed"
        slow.release.set()


async def test_new_users_are_refused_before_those_who_come_back() -> None:
    async with overloaded_stable() as (running, slow, clients):
        for client in clients[: LEAST // 2]:
            client.close()
        await until(lambda: running.context.in_flight == LEAST // 2 + 1, "clients that left")
        await fill(running, NEW, 1)
        assert status_of(await once(running, NEW)) == 503
        limit, at = running.service.context.load.of[0], running.context.in_flight + 1
        table = running.service.context.router.table
        known = next(one for one in users() if not limit.refuses(at, table.route(one)))
        await fill(running, ask(b"/", known), 1)
        assert running.counters.stable[SHED] == 1
        slow.release.set()


async def test_what_stable_refuses_is_no_evidence() -> None:
    async with overloaded_stable() as (running, slow, clients):
        assert status_of(await once(running, GET)) == 503
        cells = running.counters.stable
        assert cells[FAILED] == 0
        assert counters.answered(cells) == 0
        slow.release.set()
        for client in clients:
            await client.take(b"ok")
        await until(lambda: running.context.in_flight == 0, "end of all requests")
        assert [one.status for one in running.records() if one.ended] == [200] * len(clients)


async def test_off_by_default_nothing_is_refused() -> None:
    slow = held()
    async with (
        Upstream(slow).serving() as stable,
        proxy(variants(stable.port)) as running,
    ):
        clients = await fill(running, GET, 30)
        for second in range(60):
            running.service.context.observe_load(1000.0 + second)
        assert not running.service.context.load.sheds
        clients += await fill(running, NEW, 10)
        slow.release.set()
        for client in clients:
            assert status_of(await client.take(b"ok")) == 200


async def overloaded_canary(running: Proxy) -> None:
    await fill(running, ask(b"/", CANARY_ID), LEAST + 1)
    overload(running)


async def test_stable_answers_for_an_overloaded_canary_whose_failure_it_is() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(held()).serving() as canary,
        proxy(variants(stable.port, canary.port, HALF + SHED_AFTER)) as running,
    ):
        await overloaded_canary(running)
        response = await once(running, ask(b"/", CANARY_ID))
        assert status_of(response) == 200
        assert response.endswith(b"stable")
        cells = running.counters.canary
        assert cells[FAILED] == cells[RESCUED] == cells[ERRORS + Reason.SHED] == 1
        assert cells[SHED] == 0
        record = await running.record()
        assert record.variant == 1
        assert record.flags & records.FAILED
        assert not record.flags & records.UNREACHED
        assert running.counters.stable[ROUTED] == 0


async def test_stable_that_sheds_itself_answers_for_nobody() -> None:
    async with (
        Upstream(held()).serving() as stable,
        Upstream(held()).serving() as canary,
        proxy(variants(stable.port, canary.port, HALF + SHED_AFTER)) as running,
    ):
        await fill(running, ask(b"/", STABLE_ID), LEAST + 1)
        await overloaded_canary(running)
        assert status_of(await once(running, ask(b"/", CANARY_ID))) == 503
        assert running.counters.canary[SHED] == 1
        assert running.counters.canary[RESCUED] == 0


async def test_a_reload_turns_it_off() -> None:
    async with overloaded_stable() as (running, slow, clients):
        assert status_of(await once(running, GET)) == 503
        port = next(iter(running.service.context.pools[0].endpoints)).config
        text = f"variants: {{stable: {{endpoints: ['{port}']}}}}"
        running.reconfigure(config.parse(text, file="test.yaml"))
        (client,) = await fill(running, GET, 1)
        slow.release.set()
        for one in (client, *clients):
            assert status_of(await one.take(b"ok")) == 200


async def test_ticks_of_the_worker_find_the_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Upstream(held()).serving() as stable,
        proxy(variants(stable.port, more=SHED_AFTER)) as running,
    ):
        await fill(running, GET, LEAST + 1)
        seconds = count(int(monotonic()) + 1)
        with monkeypatch.context() as patch:
            patch.setattr("canaryproxy.proxy.datapath.monotonic", lambda: float(next(seconds)))
            for _ in range(WINDOWS + 2):
                running.datapath.tick()
        assert status_of(await once(running, NEW)) == 503
