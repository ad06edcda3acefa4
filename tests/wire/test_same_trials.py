"""What befalls both variants alike leaves the same trials on both: versions are compared, not treatment.

The data path does more for a request of the canary than for one of stable: it does not let it wait as long,
and has stable answer in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from canaryproxy.judging.metrics import ERRORS, FALLBACK, Record, outcomes_of
from canaryproxy.measure import counters
from canaryproxy.measure.records import ENDED, FAILED, OVERDUE
from canaryproxy.measure.routing import CANARY, STABLE, bucket_of
from canaryproxy.measure.shedding import LEAST
from tests.ports import free_port

from .harness import OK, Client, Link, Proxy, Upstream, always, proxy, status_of, until, variants
from .test_faults import once, reset_unanswered
from .test_rescue import CANARY_ID, HALF, STABLE_ID, ask, assert_balance, ticking
from .test_shedding import SHED_AFTER, fill, overload

CROWD = [b"u%d" % at for at in range(100)]
USERS = (STABLE_ID, CANARY_ID)
SOON = "rescue: {after: 50ms}\n"


def trials(found: list[Record], variant: int, metric: str = ERRORS) -> list[bool]:
    """Return the trials of a metric that records are, each with whether it is an event."""
    seen = [
        outcomes_of(one, FALLBACK, warm=True, hang=5.0) for one in found if one.variant == variant
    ]
    return [outcomes[metric] for outcomes in seen if metric in outcomes]


@asynccontextmanager
async def stalled(more: str) -> AsyncIterator[tuple[Proxy, list[Upstream], asyncio.Event]]:
    """Run a proxy whose upstreams hang, both, until the event."""
    over = asyncio.Event()

    async def hangs(link: Link) -> None:
        answered = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > answered:
                answered += 1
                await over.wait()
                await link.send(OK)

    async with (
        Upstream(hangs).serving() as stable,
        Upstream(hangs).serving() as canary,
        proxy(variants(stable.port, canary.port, HALF + more)) as running,
    ):
        yield running, [stable, canary], over


async def sent(running: Proxy, upstreams: list[Upstream], method: bytes = b"GET") -> list[Client]:
    """Send a request of each user."""
    clients = [await running.connect() for _ in USERS]
    for client, user in zip(clients, USERS, strict=True):
        await client.send(ask(b"/", user, method))
    await until(lambda: all(upstream.got for upstream in upstreams), "requests at both upstreams")
    return clients


@pytest.mark.parametrize("budget", ["", ", budget: {share: 0, min_per_second: 0}"])
async def test_a_stall_of_both_is_an_error_of_both(budget: str) -> None:
    async with stalled(f"rescue: {{after: 50ms{budget}}}\n") as (running, upstreams, over):
        clients = await sent(running, upstreams)
        await ticking(running, lambda: len([r for r in running.records() if not r.ended]) == 2)
        early = running.records()
        assert sorted(one.variant for one in early if one.flags == OVERDUE) == [STABLE, CANARY]
        over.set()
        for client in clients:
            assert status_of(await client.take(b"ok")) == 200
        await ticking(running, lambda: len([r for r in running.records() if r.ended]) == 2)
        found = running.records()
        assert trials(found, STABLE) == trials(found, CANARY) == [True]
        assert running.counters.canary[counters.RESCUED] == (not budget)
        assert_balance(running)


@pytest.mark.parametrize(
    ("method", "more"),
    [(b"POST", SOON), (b"GET", "rescue: {enabled: false, after: 50ms}\n")],
    ids=["a method that stable may not repeat", "no rescue"],
)
async def test_a_wait_that_ends_no_request_of_the_canary_is_no_error_of_stable(
    method: bytes, more: str
) -> None:
    async with stalled(more) as (running, upstreams, over):
        clients = await sent(running, upstreams, method)
        running.datapath.tick()
        assert running.service.context.rescue_after == 0.05
        for connection in running.context.connections:
            connection.mark_late(monotonic() + 1.0)
        over.set()
        for client in clients:
            assert status_of(await client.take(b"ok")) == 200
        await ticking(running, lambda: len([r for r in running.records() if r.ended]) == 2)
        found = running.records()
        assert trials(found, STABLE) == trials(found, CANARY) == [False]


@pytest.mark.parametrize("broken", [reset_unanswered, None], ids=["reset", "refused"])
async def test_an_endpoint_that_fails_is_an_error_whoever_answers_in_its_place(
    broken: object,
) -> None:
    """Stable's request goes to its other endpoint, the canary's to stable."""
    async with (
        Upstream(always(OK)).serving() as good,
        Upstream(reset_unanswered).serving() as bad,
    ):
        port = bad.port if broken else free_port()
        both = ", ".join(f'"http://127.0.0.1:{one}"' for one in (port, good.port))
        one = f"{{endpoints: [{both}], balance: hash}}"  # so that it is known who is asked first
        text = f"variants: {{stable: {one}, canary: {one}}}\n"
        async with proxy(text + HALF) as running:
            for variant, pool in enumerate(running.service.context.pools):
                of = [user for user in CROWD if (bucket_of(b"", user) < 5000) is (variant == 1)]
                for endpoint in pool.endpoints:
                    user = next(one for one in of if pool.choose(one) is endpoint)
                    assert status_of(await once(running, ask(b"/", user))) == 200
            await ticking(running, lambda: len(running.records()) == 4)
            found = running.records()
            assert sorted(trials(found, STABLE)) == sorted(trials(found, CANARY)) == [False, True]
            failed = [one for one in found if one.flags & FAILED]
            assert {one.variant: one.status for one in failed} == {STABLE: 200, CANARY: 502}
            assert running.counters.stable[counters.FAILED] == 0  # its user has met nothing
            assert_balance(running)


async def test_while_stable_sheds_load_nothing_is_compared() -> None:
    async with stalled(SHED_AFTER + "rescue: {enabled: false}\n") as (running, _, over):
        before = await fill(running, ask(b"/", STABLE_ID), LEAST + 1)
        overload(running)
        assert status_of(await once(running, ask(b"/", STABLE_ID))) == 503
        (canary,) = await fill(running, ask(b"/", CANARY_ID), 1)
        over.set()
        for client in (*before, canary):
            assert status_of(await client.take(b"ok")) == 200
        await ticking(
            running, lambda: len([r for r in running.records() if r.ended]) == len(before)
        )
        found = running.records()
        assert trials(found, STABLE) == [False] * len(before)  # they came before
        assert trials(found, CANARY) == []


async def test_a_canary_that_sheds_load_as_its_stable_does_has_not_failed() -> None:
    async with stalled(SHED_AFTER) as (running, _, over):
        clients = await fill(running, ask(b"/", STABLE_ID), LEAST + 1)
        clients += await fill(running, ask(b"/", CANARY_ID), LEAST + 1)
        overload(running)
        for user in USERS:
            assert status_of(await once(running, ask(b"/", user))) == 503
        for cells in running.counters.variants:
            assert cells[counters.SHED] == 1
            assert cells[counters.FAILED] == 0
        over.set()
        for client in clients:
            assert status_of(await client.take(b"ok")) == 200
        assert {one.flags & FAILED for one in running.records() if one.flags & ENDED} == {0}


async def test_after_an_outage_of_both_the_canary_is_tried_as_soon_as_stable_is_back() -> None:
    ports = free_port(), free_port()
    async with proxy(variants(*ports, HALF)) as running:
        endpoints = [pool.endpoints[0] for pool in running.service.context.pools]
        for endpoint in endpoints:
            endpoint._pause = 3600.0  # no probe comes by itself
        for user in USERS * 3:
            assert status_of(await once(running, ask(b"/", user))) == 502
        assert all(endpoint.ejected for endpoint in endpoints)
        async with Upstream(always(OK)).serving(ports[1]), Upstream(always(OK)).serving(ports[0]):
            assert status_of(await once(running, ask(b"/", STABLE_ID))) == 200
            await until(lambda: not endpoints[CANARY].ejected, "probe of the canary")
