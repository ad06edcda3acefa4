"""What is counted for an endpoint: each attempt once, at the endpoint that had it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from canaryproxy.measure import endpoint_cells
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import EndpointCounts
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.measure.slowness import NEVER

from .harness import Answer, Link, Proxy, Upstream, always, proxy, status_of, until, variants
from .test_faults import ALL, GET, STABLE_OK, once, reset_unanswered, silence, status


def counted(running: Proxy, variant: int, at: int = 0) -> EndpointCounts:
    """Return what an endpoint's marks amount to."""
    marks = Counter(running.service.context.pools[variant].endpoints[at].marks)
    return EndpointCounts([marks[one] for one in range(endpoint_cells.COUNTS)])


def summary(counts: EndpointCounts) -> dict[str, int]:
    """Return what is not zero; ``timed`` are the responses whose time is the endpoint's."""
    classes = zip(("1xx", "2xx", "3xx", "4xx", "5xx"), counts.classes, strict=True)
    errors = {reason.label: counts.error(reason) for reason in Reason}
    timed = counts.responses - counts.cells[endpoint_cells.UNTIMED]
    found = {**dict(classes), **errors, "failed": counts.failed, "timed": timed}
    return {name: count for name, count in found.items() if count}


async def break_off(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    link.close()


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (always(STABLE_OK), {"2xx": 1, "timed": 1}),
        (status(b"404"), {"4xx": 1, "timed": 1}),
        (status(b"500"), {"5xx": 1, "failed": 1, "timed": 1}),
        (reset_unanswered, {"reset": 1, "failed": 1}),
        (break_off, {"incomplete_answer": 1, "failed": 1}),
    ],
)
async def test_an_attempt_is_counted_once(answer: Answer, wanted: dict[str, int]) -> None:
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await until(lambda: bool(counted(running, STABLE).requests))
        assert summary(counted(running, STABLE)) == wanted


async def test_a_rescued_request_is_a_failure_of_one_and_a_response_of_the_other() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(status(b"503")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        assert status_of(await once(running)) == 200
        assert summary(counted(running, CANARY)) == {"5xx": 1, "failed": 1, "timed": 1}
        assert summary(counted(running, STABLE)) == {"2xx": 1}, "its time has the canary's in it"


async def test_a_request_whose_client_leaves_is_not_counted() -> None:
    async with (
        Upstream(silence).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await until(lambda: bool(upstream.got))
        client.close()
        await until(lambda: not running.context.in_flight)
        assert summary(counted(running, STABLE)) == {}


async def linger(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await asyncio.sleep(0.02)
    await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("balance", "slow_from", "users"),
    [("hash", 1, 1), ("hash", NEVER, 0), ("least_requests", 1, 0)],
)
async def test_users_with_slow_responses_are_counted_where_the_hash_chooses(
    balance: str, slow_from: int, users: int
) -> None:
    async with Upstream(linger).serving() as upstream:
        stable = f'{{endpoints: ["http://127.0.0.1:{upstream.port}"], balance: {balance}}}'
        async with proxy(f"variants: {{stable: {stable}}}") as running:
            table = replace(running.service.context.router.current(), slow=(slow_from, NEVER))
            running.service.publish(table)
            running.datapath.tick()
            client = await running.connect()
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: canary_id=alice\r\n\r\n")
            await until(lambda: bool(counted(running, STABLE).requests))
            found = counted(running, STABLE)
            assert (sum(found.slow_keys), sum(found.far_keys)) == (users, users)
