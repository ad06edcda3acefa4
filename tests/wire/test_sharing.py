"""What a response tells shared caches before the proxy (``split.cacheable``), by the route table in force."""

from __future__ import annotations

import asyncio

import pytest

from .harness import Link, Proxy, Upstream, always, proxy, until, variants
from .test_faults import GET, HOST, once

PAGE = b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: 2\r\n\r\nok"
FILE = PAGE.replace(b"public", b"public, immutable")
NEW_USER = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
IS_PUBLIC = b"\r\nCache-Control: public, max-age=60\r\n"
IS_PRIVATE = b"\r\nCache-Control: private, max-age=60\r\n"
BETA = "{variant: canary, header: {name: X-Beta, equals: 'yes'}}"


async def head_of(running: Proxy, request: bytes = GET) -> bytes:
    return (await once(running, request)).partition(b"\r\n\r\n")[0] + b"\r\n"


@pytest.mark.parametrize("weight", [0, 50, 100])
@pytest.mark.parametrize("mode", ["auto", "vary", "private"])
async def test_no_first_answer_lets_a_cache_keep_its_cookie(mode: str, weight: int) -> None:
    split = f"split: {{weight: {weight}, cacheable: {mode}}}"
    async with (
        Upstream(always(PAGE)).serving() as stable,
        Upstream(always(PAGE)).serving() as canary,
        proxy(variants(stable.port, canary.port, split)) as running,
    ):
        for _ in range(4):
            head = await head_of(running, NEW_USER)
            assert b"\r\nSet-Cookie: canary_id=" in head
            assert IS_PRIVATE in head
            assert head.count(b"Cache-Control") == 1


async def test_an_immutable_file_stays_public_and_carries_no_cookie() -> None:
    async with (
        Upstream(always(FILE)).serving() as stable,
        Upstream(always(FILE)).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 50}")) as running,
    ):
        head = await head_of(running, NEW_USER)
        assert b"Set-Cookie" not in head
        assert b"\r\nCache-Control: public, immutable, max-age=60\r\n" in head


async def test_only_what_all_users_get_is_left_to_caches() -> None:
    """Every weight, on one connection to each variant: what was parsed before is not remembered as public."""
    rescue = "split: {weight: 0}\n"
    async with (
        Upstream(always(PAGE)).serving() as stable,
        Upstream(always(PAGE)).serving() as canary,
        proxy(variants(stable.port, canary.port, rescue)) as running,
    ):
        for weight, expected in ((0, IS_PUBLIC), (5, IS_PRIVATE), (100, IS_PUBLIC), (0, IS_PUBLIC)):
            running.weight(weight)
            assert expected in await head_of(running)


async def test_an_answer_of_the_canary_that_a_trip_overtakes_is_private() -> None:
    tripped = asyncio.Event()

    async def late(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await tripped.wait()
        await link.send(PAGE)

    async with (
        Upstream(always(PAGE)).serving() as stable,
        Upstream(late).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 100}")) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await until(lambda: canary.got)
        running.weight(0)
        assert IS_PUBLIC in await head_of(running)
        tripped.set()
        assert IS_PRIVATE in await client.take(b"ok")


async def test_a_rescued_answer_is_private_too() -> None:
    failing = always(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")
    async with (
        Upstream(always(PAGE)).serving() as stable,
        Upstream(failing).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 100}")) as running,
    ):
        assert IS_PRIVATE in await head_of(running)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (f"{{match: [{BETA}]}}", IS_PRIVATE),  # a rule divides users whatever the weight
        (
            "{match: [{variant: canary, path: {prefix: /new}}]}",
            IS_PUBLIC,
        ),  # the cache sees the path
        (f"{{cacheable: vary, match: [{BETA}]}}", b"\r\nVary: x-beta, Cookie\r\n"),
        ("{cacheable: vary, sticky: {header: X-User}}", b"\r\nVary: X-User\r\n"),
        ("{cacheable: private}", IS_PRIVATE),
    ],
)
async def test_rules_and_keys_divide_users_too(split: str, expected: bytes) -> None:
    async with (
        Upstream(always(PAGE)).serving() as stable,
        Upstream(always(PAGE)).serving() as canary,
        proxy(variants(stable.port, canary.port, f"split: {split}")) as running,
    ):
        assert expected.lower() in (await head_of(running)).lower()


async def test_without_a_canary_nothing_is_changed() -> None:
    async with (
        Upstream(always(PAGE)).serving() as stable,
        proxy(
            variants(
                stable.port,
                more="split: {match: [{variant: stable, header: {name: A, present: true}}]}",
            )
        ) as running,
    ):
        assert IS_PUBLIC in await head_of(running)
