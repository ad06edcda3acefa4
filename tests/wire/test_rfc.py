"""Rules of RFC 9110 and 9112 that are easily got wrong, one by one."""

from __future__ import annotations

import asyncio

import pytest

from canaryproxy.measure.counters import CODES, ERRORS, RESCUED, TUNNELS_OPENED, Reason

from .harness import COOKIE, OK, VIA, Link, Upstream, always, proxy, status_of, until, variants

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_a_refused_upload_may_go_on_until_the_client_has_read_why() -> None:
    """A reset would destroy the answer in the client's socket (RFC 9112 §9.6)."""
    piece = bytes(1 << 18)
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 67108864\r\n\r\n")
        for _ in range(256):
            await client.send(piece)
        assert status_of(await client.to_end()) == 400
        client.close()
        await until(lambda: not running.context.connections)
        assert upstream.links == []


async def test_an_early_answer_to_a_long_upload_is_read_by_a_client_that_sends_all_of_it() -> None:
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!"

    async def early(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(answer)

    piece = bytes(1 << 18)
    async with Upstream(early).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(
            b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 67108864\r\n\r\n"
        )
        for _ in range(256):
            await client.send(piece)
        got = await client.to_end()
        assert status_of(got) == 413
        assert b"\r\nConnection: close\r\n" in got
        assert got.endswith(b"no!")
        assert running.counters.stable[CODES + 413] == 1


async def test_what_was_rescued_meanwhile_gets_no_connection_of_the_canary() -> None:
    """It waited for one of the canary's connections when its time was over."""
    end, answer = asyncio.Event(), asyncio.Event()

    async def busy(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")
        await end.wait()
        link.close()

    async def slow(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await answer.wait()
        await link.send(OK)

    more = (
        "split: {weight: 100}\n"
        "limits: {max_endpoint_connections: 1, first_byte_timeout: 500ms, body_timeout: 30s}"
    )
    async with (
        Upstream(slow).serving() as stable,
        Upstream(busy).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        first, second = await running.connect(), await running.connect()
        await first.send(GET)
        await first.take(b"begun")
        await second.send(GET)
        await until(lambda: stable.got)  # it is rescued
        end.set()
        await first.to_end()
        endpoint = running.service.context.pools[1].endpoints[0]
        assert endpoint.open == 0
        answer.set()
        await second.take(b"ok")
        assert running.counters.canary[RESCUED] == 1
        assert len(canary.links) == 1


async def test_a_flood_of_empty_lines_is_a_small_matter() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(b"\r\n" * (1 << 20) + GET)
        await client.take(b"ok")


async def test_an_interim_answer_has_no_length() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 20\r\n\r\n"
    async with (
        Upstream(always(interim + OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"ok")
        assert client.got.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (b"websocket", b"Upgrade: h2c\r\n"),
        (b"websocket", b""),
        (b"websocket", b"Upgrade:\r\n"),
        (b"a, b/1", b"Upgrade: b/1, c\r\n"),
    ],
)
async def test_a_protocol_that_was_not_asked_for_is_not_switched_to(
    asked: bytes, chosen: bytes
) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n" + chosen + b"\r\n"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET[:-2] + b"Connection: upgrade\r\nUpgrade: " + asked + b"\r\n\r\n")
        await client.take(b"Request ID")
        assert status_of(client.got) == 502
        assert running.counters.stable[TUNNELS_OPENED] == 0
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1


@pytest.mark.parametrize(
    "fields", [b"Upgrade: a b\r\n", b"Upgrade: \xa0websocket\r\n", b"Upgrade: a/\r\n"]
)
async def test_a_malformed_upgrade_is_not_passed_on(fields: bytes) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET[:-2] + b"Connection: upgrade\r\n" + fields + b"\r\n")
        await client.take(b"ok")
        assert b"Upgrade" not in upstream.got
        assert b"upgrade" not in upstream.got


async def test_several_upgrade_fields_are_one_list() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: B\r\n\r\n"
    async with (
        Upstream(always(switch)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET[:-2] + b"Connection: upgrade\r\nUpgrade: a/1\r\nUpgrade: b\r\n\r\n")
        await client.take(b"\r\n\r\n")
        assert b"\r\nUpgrade: a/1, b\r\nConnection: upgrade\r\n" in upstream.got
        assert client.got.endswith(VIA + b"Connection: upgrade\r\nUpgrade: B\r\n\r\n")


async def test_trailers_that_drip_arrive_whole() -> None:
    async with (
        Upstream(always(b"")).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(CHUNKED)
        trailers = b"".join(b"T%d: x\r\n" % number for number in range(1000))
        body = b"0\r\n" + trailers + b"Content-Length: 1\r\n\r\n"
        for at in range(0, len(body), 7):
            await client.send(body[at : at + 7])
        await until(lambda: upstream.got.endswith(b"\r\n\r\n0\r\n" + trailers + b"\r\n"))


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        (b"Expect: x\r\n", b"", 417),
        (b"A : b\r\n", b"", 400),
        (b"Transfer-Encoding: chunked\r\n", b"x\r\n", 400),
    ],
)
async def test_a_refused_head_gets_no_body(fields: bytes, body: bytes, status: int) -> None:
    """RFC 9110 §9.3.2."""
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        got = await running.ask(b"HEAD / HTTP/1.1\r\n" + HOST + COOKIE + fields + b"\r\n" + body)
        assert status_of(got) == status
        assert got.endswith(b"\r\n\r\n")
        assert got.count(b"\r\n\r\n") == 1
