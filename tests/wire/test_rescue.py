"""Rescue on real sockets: which responses, within which budget, after which wait; missing files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from time import monotonic

import pytest

from canaryproxy.measure import counters
from canaryproxy.measure.counters import CLIENT_CLOSED, CODES, FINISHED, ROUTED, Reason
from canaryproxy.measure.routing import bucket_of
from tests.ports import free_port

from .harness import (
    COOKIE,
    Answer,
    Link,
    Proxy,
    Upstream,
    always,
    proxy,
    status_of,
    until,
    variants,
)
from .test_faults import (
    ALL,
    GET,
    HOST,
    STABLE_OK,
    errors,
    once,
    reset_unanswered,
    silence,
    status,
)

STABLE_ID, CANARY_ID = (
    next(b"u%d" % at for at in count() if (bucket_of(b"", b"u%d" % at) < 5000) is on_canary)
    for on_canary in (False, True)
)
"""Users of each variant at 50%."""
HALF = "split: {weight: 50}\n"
ASSETS = "rescue: {header: true, assets: {path: {prefix: /assets/}}}\n"


def ask(path: bytes, user: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n" % (method, path) + HOST + b"Cookie: canary_id=%b\r\n\r\n" % user


def files(version: bytes, *paths: bytes, missing: bytes = b"") -> Answer:
    """Serve these paths with the name of the version, and 404 (or ``missing``) for all others."""
    found = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(version), version)
    text = b"no such file in " + version
    missing = missing or b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (
        len(text),
        text,
    )

    async def run(link: Link) -> None:
        done = 0
        while await link.read():
            lines = [one for one in link.got.split(b"\r\n") if one.endswith(b" HTTP/1.1")]
            for line in lines[done:]:
                method, path, _ = line.split(b" ")
                answer = found if path in paths else missing
                await link.send(
                    answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else answer
                )
            done = len(lines)

    return run


def cells_of(running: Proxy, variant: str) -> memoryview:
    return running.counters.canary if variant == "canary" else running.counters.stable


def assert_balance(running: Proxy) -> None:
    """Every request that was routed has ended, once."""
    for cells in running.counters.variants:
        codes = sum(cells[CODES : CODES + 1000])
        assert cells[ROUTED] == cells[FINISHED] == codes + cells[CLIENT_CLOSED]
    assert running.context.in_flight == 0
    for pool in running.service.context.pools:
        assert [endpoint.active for endpoint in pool.endpoints] == [0] * len(pool.endpoints)


# Which answers, of which methods


@pytest.mark.parametrize(
    ("method", "rescue", "expected"),
    [
        (b"GET", "{}", 500),
        (b"GET", "{statuses: [500, 503]}", 200),
        (b"PUT", "{statuses: [500, 503]}", 500),  # half of it may be done
        (b"GET", "{statuses: [503]}", 500),
        (b"GET", "{statuses: [500], methods: [HEAD]}", 500),
    ],
)
async def test_a_500_is_rescued_where_that_is_configured_and_nothing_was_changed(
    method: bytes, rescue: str, expected: int
) -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(status(b"500")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + f"rescue: {rescue}")) as running,
    ):
        request = b"%b / HTTP/1.1\r\n" % method + HOST + COOKIE + b"Content-Length: 0\r\n\r\n"
        assert status_of(await once(running, request)) == expected
        assert running.counters.canary[CODES + 500] == 1
        assert running.counters.canary[counters.RESCUED] == (expected == 200)
        assert_balance(running)


@pytest.mark.parametrize("answer", [status(b"503"), reset_unanswered])
@pytest.mark.parametrize(
    ("method", "methods", "rescued"),
    [
        (b"PUT", "", True),
        (b"DELETE", "", True),
        (b"POST", "", False),
        (b"PUT", "methods: [GET, HEAD]", False),
        (b"POST", "methods: [GET, POST]", True),
    ],
)
async def test_methods_that_stable_repeats_are_configurable(
    answer: Answer, method: bytes, methods: str, rescued: bool
) -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(answer).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + f"rescue: {{{methods}}}")) as running,
    ):
        request = b"%b / HTTP/1.1\r\n" % method + HOST + COOKIE + b"Content-Length: 0\r\n\r\n"
        assert (status_of(await once(running, request)) == 200) is rescued
        assert bool(stable.got) is rescued
        assert_balance(running)


# The budget


async def test_a_dead_canary_at_half_adds_no_more_to_stable_than_the_budget() -> None:
    more = HALF + "rescue: {budget: {share: 20%, min_per_second: 0}}"
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        proxy(variants(stable.port, free_port(), more)) as running,
    ):
        client, asked, failed = await running.connect(), 400, 0
        for at in range(asked):
            await client.send(ask(b"/%d" % at, (STABLE_ID, CANARY_ID)[at % 2]))
            head = await client.take_head()
            failed += status_of(head) != 200
            size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            body = 0
            while body < size:
                body += len(await client.read())
        own = running.counters.stable[ROUTED]
        cells = running.counters.canary
        assert own == cells[ROUTED] == asked // 2
        assert stable.got.count(b"GET ") == own + cells[counters.RESCUED]
        assert 0.18 * own <= cells[counters.RESCUED] <= 0.20 * own
        assert cells[counters.RESCUED] + cells[counters.OVER_BUDGET] == cells[ROUTED]
        assert failed == cells[counters.OVER_BUDGET]
        assert_balance(running)


async def test_what_is_over_the_budget_is_the_canarys_own_answer() -> None:
    more = ALL + "rescue: {budget: {share: 0, min_per_second: 0}}"
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(status(b"503")).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        assert (await once(running)).endswith(b"\r\n\r\nx")
        assert stable.got == b""
        assert running.counters.canary[counters.OVER_BUDGET] == 1
        assert running.counters.canary[counters.RESCUED] == 0
        assert_balance(running)


# The wait


async def test_a_canary_that_is_silent_is_rescued_after_its_own_time() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(silence).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + "rescue: {after: 50ms}")) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await ticking(running, lambda: running.counters.canary[counters.RESCUED])
        assert b"stable" in await client.take(b"stable")
        cells = running.counters.canary
        assert cells[CODES + 504] == cells[counters.RESCUED] == 1
        assert errors(running, "canary", Reason.FIRST_BYTE_TIMEOUT) == 1
        assert_balance(running)


async def ticking(running: Proxy, condition: Callable[[], object]) -> None:
    """Wait for a condition while the clock of the worker ticks."""

    def ticked() -> object:
        running.datapath.tick()
        return condition()

    await until(ticked)


async def test_the_wait_is_that_of_stables_own_requests() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(silence).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        running.datapath.tick()
        assert running.service.context.rescue_after == float("inf")
        tally = running.service.context.tallies[0]
        for _ in range(600):  # what stable would have answered within the last seconds
            tally.finish(200, 0.01, 0.01)
        running.service._patience._next = 0.0
        running.datapath.tick()
        assert running.service.context.rescue_after == 1.0


@pytest.mark.parametrize(
    "more",
    [
        "rescue: {after: 50ms, methods: [HEAD]}",
        "rescue: {after: 50ms, budget: {share: 0, min_per_second: 0}}",
    ],
)
async def test_a_request_that_stable_may_not_answer_waits_for_the_canary(more: str) -> None:
    async def late(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        exchange = running.connection()._exchange
        assert exchange is not None
        await ticking(running, lambda: monotonic() - exchange._received > 0.1)
        assert running.service.context.rescue_after == 0.05
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary")

    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(late).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + more)) as running,
    ):
        assert (await once(running)).endswith(b"canary")
        assert stable.got == b""
        assert running.counters.canary[counters.OVER_BUDGET] == 0
        assert_balance(running)


# Files of the other variant

OLD, NEW = b"/assets/app.1111.js", b"/assets/app.2222.js"


async def test_files_of_a_page_are_found_after_a_trip_and_after_a_promotion() -> None:
    async with (
        Upstream(files(b"v1", b"/", OLD)).serving() as stable,
        Upstream(files(b"v2", b"/", NEW)).serving() as canary,
        proxy(variants(stable.port, canary.port, HALF + ASSETS)) as running,
    ):
        assert (await once(running, ask(b"/", CANARY_ID))).endswith(b"v2")
        running.weight(0)  # the trip
        got = await once(running, ask(NEW, CANARY_ID))
        assert got.endswith(b"\r\n\r\nv2")
        assert b"\r\nX-Canary-Rescued: 1\r\n" in got
        assert (await once(running, ask(b"/", CANARY_ID))).endswith(b"v1")
        running.weight(100)  # the promotion, with a page of v1 still open
        assert (await once(running, ask(OLD, STABLE_ID))).endswith(b"\r\n\r\nv1")
        assert (await once(running, ask(NEW, STABLE_ID))).endswith(b"\r\n\r\nv2")
        head = await running.connect()
        await head.send(ask(OLD, STABLE_ID, b"HEAD"))
        assert status_of(await head.take_head()) == 200
        for variant, expected in (("stable", 1), ("canary", 2)):
            cells = cells_of(running, variant)
            assert cells[counters.ASSETS_FOUND] == cells[CODES + 404] == expected
            assert cells[counters.ASSETS_MISSING] == 0
        assert_balance(running)


@pytest.mark.parametrize("split_head", [False, True])
async def test_what_neither_has_is_the_404_of_the_users_own_variant(split_head: bool) -> None:
    async def in_two_parts(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n")
        await until(lambda: stable.got, "the lookup")
        await link.to_end()

    async with (
        Upstream(files(b"v1")).serving() as stable,
        Upstream(in_two_parts if split_head else files(b"v2")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + ASSETS)) as running,
    ):
        got = await once(running, ask(NEW, CANARY_ID))
        assert status_of(got) == 404
        # Where its body had not come, that of the other variant is as good.
        assert got.endswith(b"no such file in v1" if split_head else b"no such file in v2")
        assert stable.got.count(b"GET ") == canary.got.count(b"GET ") == 1
        assert running.counters.canary[counters.ASSETS_MISSING] == 1
        assert_balance(running)


@pytest.mark.parametrize("other", [status(b"503"), reset_unanswered, None])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_lookup_that_fails_leaves_the_404(other: Answer | None, whole: bool) -> None:
    async def head_only(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n")
        await link.to_end()

    async with (
        Upstream(files(b"v1") if whole else head_only).serving() as stable,
        Upstream(other or silence).serving() as canary,
        proxy(variants(stable.port, canary.port if other else free_port(), ASSETS)) as running,
    ):
        got = await once(running, ask(NEW, CANARY_ID))
        assert status_of(got) == 404
        assert got.endswith(b"no such file in v1" if whole else b"Not found\n")
        assert b"X-Canary-Rescued" not in got
        cells = running.counters.stable
        assert cells[CODES + 404] == cells[ROUTED] == cells[counters.ASSETS_MISSING] == 1
        assert running.counters.canary[ROUTED] == 0
        assert_balance(running)


async def test_only_missing_files_are_looked_up_and_each_once() -> None:
    async with (
        Upstream(files(b"v1")).serving() as stable,
        Upstream(files(b"v2", b"/page")).serving() as canary,
        proxy(variants(stable.port, canary.port, ASSETS)) as running,
    ):
        assert status_of(await once(running, ask(b"/page", CANARY_ID))) == 404
        post = b"POST /assets/x HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 0\r\n\r\n"
        assert status_of(await once(running, post)) == 404
        assert canary.got == b""
        assert running.counters.stable[counters.ASSETS_MISSING] == 0


async def test_a_rescued_request_is_not_looked_up_on_the_canary_again() -> None:
    async with (
        Upstream(files(b"v1")).serving() as stable,
        Upstream(status(b"503")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL + ASSETS)) as running,
    ):
        assert status_of(await once(running, ask(NEW, CANARY_ID))) == 404
        assert canary.got.count(b"GET ") == stable.got.count(b"GET ") == 1
        assert running.counters.canary[counters.RESCUED] == 1
        assert_balance(running)


async def test_a_file_is_one_record_for_the_judge() -> None:
    async with (
        Upstream(files(b"v1", OLD)).serving() as stable,
        Upstream(files(b"v2")).serving() as canary,
        proxy(variants(stable.port, canary.port, HALF + ASSETS)) as running,
    ):
        assert (await once(running, ask(OLD, CANARY_ID))).endswith(b"v1")
        (record,) = running.records()
        assert (record.status, record.ended) == (404, True)


async def test_a_large_file_of_the_other_variant_is_streamed() -> None:
    size = 8 << 20

    async def large(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            await link.send(b"x" * (1 << 16))

    async with (
        Upstream(files(b"v1")).serving() as stable,
        Upstream(large).serving() as canary,
        proxy(variants(stable.port, canary.port, ASSETS)) as running,
    ):
        client = await running.connect()
        await client.send(ask(NEW, STABLE_ID))
        await client.take_head()
        got = await client.read_slowly(size, 1 << 20, 0)
        assert got == size
        await until(lambda: running.counters.stable[counters.ASSETS_FOUND] == 1)
        assert_balance(running)


async def test_a_client_that_leaves_during_a_lookup_is_counted_once() -> None:
    async with (
        Upstream(files(b"v1")).serving() as stable,
        Upstream(silence).serving() as canary,
        proxy(variants(stable.port, canary.port, ASSETS)) as running,
    ):
        client = await running.connect()
        await client.send(ask(NEW, STABLE_ID))
        await until(lambda: canary.got, "the lookup")
        client.close()
        await until(lambda: running.context.in_flight == 0)
        assert running.counters.stable[CODES + 404] == 1
        assert running.counters.stable[CLIENT_CLOSED] == 0
        assert_balance(running)
