"""One version front to back over HTTP/2, gRPC, WebSockets and event streams, through two proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close

from canaryproxy.http1.propagated import read
from canaryproxy.measure import counters
from canaryproxy.measure.counters import FOLLOWED, ROUTED
from canaryproxy.measure.routing import POSITIONS, RouteTable, position_of

from .h2client import GET, POST, Fields, H2Client
from .h2server import Asked, H2Server, plain
from .harness import Answer, Link, Proxy, Upstream, proxy, until, variants
from .test_grpc import CALL, HELLO, answering, outcome, unary
from .test_http2_both_sides import both
from .test_long_lived import LAST_CHUNK, STREAM, chunk, settled, ticking
from .test_propagation import (
    FOLLOW,
    LINE,
    PROPAGATE,
    RELEASE,
    cookie,
    get,
    refused,
    says,
)
from .test_websockets import service, through

AT_ONCE = "circuit: {close_after: 0s, spread: 100ms}\n"
USERS = [f"user-{number}" for number in range(20)]
FIELD = b"x-canary"


def by(user: str, fields: Fields = GET) -> Fields:
    """Return the fields of a request that a user makes."""
    others = [one for one in fields if one[0] != b"cookie"]
    return [*others, (b"cookie", b"canary_id=" + user.encode())]


def on_canary(user: str) -> bool:
    return position_of(b"web-2", user.encode()) < POSITIONS / 2


def answers(body: bytes) -> Answer:
    async def run(link: Link) -> None:
        done = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > done:
                done += 1
                await link.send(says(body))

    return run


def named(body: bytes) -> H2Server:
    """Return an upstream of HTTP/2 that says which version it is."""

    async def answer(asked: Asked) -> None:
        await asked.end()
        length = b"%d" % len(body)
        await asked.reply([(b":status", b"200"), (b"content-length", length)], body)

    return H2Server(answer)


@asynccontextmanager
async def chain(
    stable: int, canary: int, scheme: str = "http", more: str = ""
) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """Run a front before a proxy that follows it; ``scheme`` is that between the two."""
    async with proxy(variants(stable, canary, FOLLOW + more)) as back:
        url = f"{scheme}://127.0.0.1:{back.port}"
        text = both(url, url, RELEASE + PROPAGATE + more).replace("split: {weight: 100}\n", "")
        async with proxy(text) as front:
            front.service.publish(RouteTable(50.0, b"web-2"))
            yield front, back


def trip(front: Proxy) -> None:
    table = front.service.context.router.table
    front.service.publish(replace(table, circuit_open=True))


# HTTP/2


@pytest.mark.parametrize("scheme", ["http", "h2c"])
async def test_users_of_http_2_meet_one_version_through_two_proxies(scheme: str) -> None:
    async with (
        Upstream(answers(b"stable")).serving() as stable,
        Upstream(answers(b"canary")).serving() as canary,
        chain(stable.port, canary.port, scheme) as (front, back),
    ):
        client = await H2Client.to(front)
        for _ in range(2):
            for user in USERS:
                reply = await client.fetch(by(user))
                assert reply.body == (b"canary" if on_canary(user) else b"stable")
        trip(front)
        for user in USERS:
            assert (await client.fetch(by(user))).body == b"stable"
        assert back.counters.service[FOLLOWED] == 3 * len(USERS)
        assert not refused(back)


async def test_an_upstream_of_http_2_is_told_the_version() -> None:
    async with named(b"stable").serving() as stable, named(b"canary").serving() as canary:
        urls = [f"h2c://127.0.0.1:{one.port}" for one in (stable, canary)]
        text = both(urls[0], urls[1], RELEASE + PROPAGATE).replace("weight: 100", "weight: 0")
        async with proxy(text) as front:
            front.service.publish(RouteTable(50.0, b"web-2"))
            over_2 = await H2Client.to(front)
            over_1 = await front.connect()
            for number, user in enumerate(USERS, 1):
                hostile = [*by(user), (FIELD, b"canary;unit=1"), (FIELD, b"canary")]
                body = b"canary" if on_canary(user) else b"stable"
                assert (await over_2.fetch(hostile)).body == body
                await over_1.send(get(cookie(user), b"X-Canary: canary\r\n"))
                await over_1.take(b"\r\n\r\n", number)
            for server, is_canary in ((stable, False), (canary, True)):
                assert server.asked
                for asked in server.asked:
                    (value,) = [value for name, value in asked.fields if name == FIELD]
                    said, _ = read(value)
                    assert said.randomised
                    assert (said.variant, said.release) == (is_canary, "web-2")
            assert refused(front) == {"untrusted": 2 * len(USERS)}


async def test_a_stranger_of_http_2_is_not_followed() -> None:
    stranger = FOLLOW.replace("127.0.0.0/8", "10.0.0.0/8")
    async with named(b"stable").serving() as stable, named(b"canary").serving() as canary:
        urls = [f"h2c://127.0.0.1:{one.port}" for one in (stable, canary)]
        text = both(urls[0], urls[1]).replace("split: {weight: 100}\n", stranger)
        async with proxy(text) as back:
            client = await H2Client.to(back)
            for number in (1, 2, 3):
                fields = [*by("u"), (FIELD, b"canary")]
                assert (await client.fetch(fields)).body == b"stable"
                assert refused(back) == {"untrusted": number}
            assert not canary.asked
            assert not [one for one in stable.asked if FIELD in one.head]


@pytest.mark.parametrize("spelling", [FIELD, b"x_canary"])
@pytest.mark.parametrize("upstream_of", [1, 2])
async def test_it_is_no_trailer_of_http_2(upstream_of: int, spelling: bytes) -> None:
    async def whole(link: Link) -> None:
        await link.take(b"0\r\n")
        await link.take(b"\r\n\r\n", 2)
        await link.send(says(b"stable"))

    of_2, of_1 = H2Server(plain), Upstream(whole)
    async with of_2.serving(), of_1.serving():
        port = of_1.port if upstream_of == 1 else of_2.port
        url = f"{'h2c' if upstream_of == 2 else 'http'}://127.0.0.1:{port}"
        text = both(url, url, PROPAGATE).replace("weight: 100", "weight: 0")
        async with proxy(text) as front:
            client = await H2Client.to(front)
            number = await client.ask(by("u", POST), b"hi", end=False)
            client.h2.send_headers(
                number, [(b"x-sum", b"1"), (spelling, b"canary")], end_stream=True
            )
            await client.flush()
            assert (await client.reply(number)).status == 200
            if upstream_of == 2:
                (asked,) = of_2.asked
                assert asked.trailers == [(b"x-sum", b"1")]
            else:
                assert b"x-sum: 1\r\n" in of_1.got.lower()
                assert of_1.got.lower().count(b"canary: ") == 1


@pytest.mark.parametrize("canary_of", [1, 2])
async def test_a_rescued_request_of_http_2_carries_stable(canary_of: int) -> None:
    async def fails(asked: Asked) -> None:
        await asked.end()
        await asked.reply([(b":status", b"503")], b"")

    async def failing(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    of_2, of_1 = H2Server(fails), Upstream(failing)
    async with named(b"stable").serving() as stable, of_2.serving(), of_1.serving():
        port = of_2.port if canary_of == 2 else of_1.port
        canary = f"{'h2c' if canary_of == 2 else 'http'}://127.0.0.1:{port}"
        async with proxy(both(f"h2c://127.0.0.1:{stable.port}", canary, PROPAGATE)) as front:
            client = await H2Client.to(front)
            assert (await client.fetch(by("u"))).body == b"stable"
            assert front.counters.canary[counters.RESCUED] == 1
            assert [one.head[FIELD] for one in stable.asked] == [b"stable"]


# gRPC


@pytest.mark.parametrize("scheme", ["http", "h2c"])
async def test_calls_of_grpc_meet_one_version_through_two_proxies(scheme: str) -> None:
    async with (
        Upstream(answering(unary(0))).serving() as stable,
        Upstream(answering(unary(0))).serving() as canary,
        chain(stable.port, canary.port, scheme) as (front, back),
    ):
        client = await H2Client.to(front)
        for user in USERS:
            at = back.counters.canary[ROUTED]
            reply = await client.fetch(by(user, CALL), HELLO)
            assert (reply.body, outcome(reply)) == (HELLO, 0)
            assert back.counters.canary[ROUTED] - at == on_canary(user)
        assert back.counters.service[FOLLOWED] == len(USERS)
        assert not LINE.findall(stable.got + canary.got)


# Long-lived connections

MOVES = next(user for user in USERS if on_canary(user))
STAYS = next(user for user in USERS if not on_canary(user))


@pytest.mark.parametrize("scheme", ["http", "h2c"])
async def test_a_trip_of_the_front_closes_its_websockets_through_two_proxies(scheme: str) -> None:
    seen: list[Close | None] = []

    def told(version: str) -> object:
        async def run(server: ServerConnection) -> None:
            try:
                async for _ in server:
                    await server.send(version)
            except ConnectionClosed:
                pass
            finally:
                await server.wait_closed()
                if version == "canary":
                    seen.append(server.protocol.close_rcvd)

        return run

    async with (
        service(told("stable")) as stable,  # type: ignore[arg-type]
        service(told("canary")) as canary,  # type: ignore[arg-type]
        chain(stable, canary, scheme, AT_ONCE) as (front, back),
        ticking(front),
        ticking(back),
        through(front, cookie=f"canary_id={MOVES}") as moves,
        through(front, cookie=f"canary_id={STAYS}") as stays,
    ):
        for client, version in ((moves, "canary"), (stays, "stable")):
            await client.send("?")
            assert await client.recv() == version
        trip(front)
        with pytest.raises(ConnectionClosed):
            await moves.recv()
        assert moves.protocol.close_rcvd == Close(1012, "")
        await until(lambda: seen, "close at the canary behind")
        assert seen == [Close(1012, "")]
        await stays.send("?")
        assert await stays.recv() == "stable"
        async with through(front, cookie=f"canary_id={MOVES}") as again:
            await again.send("?")
            assert await again.recv() == "stable"


def events(body: bytes) -> Answer:
    async def run(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(STREAM + chunk(b"data: %b\n\n" % body))

    return run


@pytest.mark.parametrize("scheme", ["http", "h2c"])
async def test_a_trip_of_the_front_ends_its_event_streams_through_two_proxies(scheme: str) -> None:
    async with (
        Upstream(events(b"stable")).serving() as stable,
        Upstream(events(b"canary")).serving() as canary,
        chain(stable.port, canary.port, scheme, AT_ONCE) as (front, back),
        ticking(front),
        ticking(back),
    ):
        over_2 = await H2Client.to(front)
        number = await over_2.ask(by(MOVES))
        moves, stays = await front.connect(), await front.connect()
        await moves.send(get(cookie(MOVES)))
        await stays.send(get(cookie(STAYS)))
        await moves.take(b"data: canary\n\n")
        await stays.take(b"data: stable\n\n")
        while b"data: canary\n\n" not in over_2.replies[number].body:
            assert await over_2.read()
        trip(front)
        await moves.take(LAST_CHUNK)
        assert (await over_2.reply(number)).ended
        await until(lambda: all(link.closed for link in canary.links), "end at the canary behind")
        await moves.send(get(cookie(MOVES)))
        await moves.take(b"data: stable\n\n")
        assert not stays.eof
        assert back.counters.canary[ROUTED] == 2
        front.close_clients()
        await settled_behind(front, back)


async def settled_behind(*running: Proxy) -> None:
    for one in running:
        await until(lambda one=one: one.context.in_flight == 0)  # type: ignore[misc]
    await settled(running[0])
