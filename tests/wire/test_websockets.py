"""WebSockets end to end with the client and the server of ``websockets``, and other protocols by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_to
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    CODES,
    FINISHED,
    ROUTED,
    TUNNELS_CLOSED,
    TUNNELS_OPENED,
)

from ..certificates import authority, loopback
from .harness import COOKIE, DEADLINE, SECURED, Link, Proxy, Upstream, proxy, until, variants

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def service(handler: Handler, *, compression: str | None = None) -> AsyncIterator[int]:
    """Run a WebSocket server and yield its port."""
    context = authority().server(loopback()) if SECURED.upstream else None
    async with serve(
        handler, "127.0.0.1", 0, compression=compression, max_size=None, ssl=context
    ) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def through(
    running: Proxy, *, compression: str | None = None, cookie: str = "", path: str = "/chat"
) -> AsyncIterator[ClientConnection]:
    """Connect a WebSocket client to the proxy."""
    async with connect_to(
        f"ws{'s' * SECURED.downstream}://127.0.0.1:{running.port}{path}",
        ssl=authority().client() if SECURED.downstream else None,
        compression=compression,
        proxy=None,
        max_size=None,
        additional_headers={"Cookie": cookie} if cookie else {},
    ) as client:
        yield client


async def echo(server: ServerConnection) -> None:
    async for message in server:
        await server.send(message)


async def all_closed(running: Proxy, *, kept: int = 0) -> None:
    """Wait until nothing is left of any tunnel, and see that it is counted as its handshake.

    ``kept``: connections of HTTP/2 to endpoints, which go on.
    """
    await until(lambda: running.context.in_flight == 0)
    for cells in running.counters.variants:
        assert cells[TUNNELS_OPENED] == cells[TUNNELS_CLOSED] == cells[CODES + 101]
        assert cells[ROUTED] == cells[FINISHED]
        assert cells[CLIENT_CLOSED] == 0
    for pool in running.service.context.pools:
        assert all(endpoint.active == 0 for endpoint in pool.endpoints)
    await until(
        lambda: kept == sum(e.open for p in running.service.context.pools for e in p.endpoints)
    )


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_come_back(compression: str | None) -> None:
    async with service(echo, compression=compression) as port, proxy(variants(port)) as running:
        async with through(running, compression=compression) as client:
            deflates = [isinstance(one, PerMessageDeflate) for one in client.protocol.extensions]
            assert deflates == ([True] if compression else [])
            for message in ("", "text é", b"", bytes(range(256)), b"a" * 300_000, "b" * 70_000):
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), DEADLINE) == message
        await all_closed(running)


async def test_pings_of_both_sides_are_answered_by_the_other() -> None:
    async def ping(server: ServerConnection) -> None:
        await asyncio.wait_for(await server.ping(b"from the server"), DEADLINE)
        await server.send("it answered")
        await server.wait_closed()

    async with service(ping) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            await asyncio.wait_for(await client.ping(b"from the client"), DEADLINE)
            assert await asyncio.wait_for(client.recv(), DEADLINE) == "it answered"
        await all_closed(running)


async def test_fragments_stay_fragments() -> None:
    pieces = [b"one", b"", b"three" * 10_000, b"4"]
    got: list[str | bytes] = []

    async def handle(server: ServerConnection) -> None:
        async for piece in server.recv_streaming():
            got.append(piece)
        await server.send(pieces)

    async with service(handle) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            await client.send(pieces)
            back = [piece async for piece in client.recv_streaming()]
            # The library ends a message by an empty fragment.
            assert [*pieces, b""] == got == back
        await all_closed(running)


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "going"), (3000, "é"), (4999, "x" * 123)]
)
async def test_the_server_closes_with_a_code(code: int, reason: str) -> None:
    async def handle(server: ServerConnection) -> None:
        await server.close(code, reason)

    async with service(handle) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), DEADLINE)
            assert (client.close_code, client.close_reason) == (code, reason)
        await all_closed(running)


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1008, "policy"), (4000, "")])
async def test_the_client_closes_with_a_code(code: int, reason: str) -> None:
    seen: list[tuple[int | None, str | None]] = []

    async def handle(server: ServerConnection) -> None:
        await server.wait_closed()
        seen.append((server.close_code, server.close_reason))

    async with service(handle) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            await client.close(code, reason)
        await until(lambda: seen == [(code, reason)])
        await all_closed(running)


async def test_a_client_that_is_torn_off_is_seen_by_the_server() -> None:
    codes: list[int | None] = []

    async def handle(server: ServerConnection) -> None:
        await server.wait_closed()
        codes.append(server.close_code)

    async with service(handle) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            await asyncio.wait_for(await client.ping(), DEADLINE)
            client.transport.abort()
        await until(lambda: codes == [CloseCode.ABNORMAL_CLOSURE])
        await all_closed(running)


async def test_a_server_that_is_torn_off_is_seen_by_the_client() -> None:
    async def handle(server: ServerConnection) -> None:
        server.transport.abort()

    async with service(handle) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), DEADLINE)
            assert client.close_code == CloseCode.ABNORMAL_CLOSURE
        await all_closed(running)


async def test_a_message_right_behind_the_handshake_is_the_first_one() -> None:
    async def handle(server: ServerConnection) -> None:
        await server.send("first")
        await echo(server)

    async with service(handle) as port, proxy(variants(port)) as running:
        for _ in range(20):
            async with through(running) as client:
                assert await asyncio.wait_for(client.recv(), DEADLINE) == "first"
                await client.send("second")
                assert await asyncio.wait_for(client.recv(), DEADLINE) == "second"
        await all_closed(running)


async def test_frames_sent_with_the_handshake_reach_the_server() -> None:
    """No browser does, but nothing forbids a client to send before it has the 101."""
    message = b"\x81\x85\x00\x00\x00\x00hello"
    async with service(echo) as port, proxy(variants(port)) as running:
        client = await running.connect()
        await client.send(
            b"GET / HTTP/1.1\r\nHost: h\r\n" + COOKIE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + message
        )  # fmt: skip
        await client.take(b"\r\n\r\n\x81\x05hello")
        client.close()
        await all_closed(running)


async def test_a_user_stays_on_a_variant() -> None:
    def named(name: str) -> Handler:
        async def handle(server: ServerConnection) -> None:
            await server.send(name)

        return handle

    async with (
        service(named("stable")) as stable,
        service(named("canary")) as canary,
        proxy(variants(stable, canary, "split: {weight: 50}")) as running,
    ):
        seen = set()
        for _ in range(16):
            async with through(running) as client:
                name = await asyncio.wait_for(client.recv(), DEADLINE)
                assert client.response is not None
                cookie = client.response.headers["Set-Cookie"].partition(";")[0]
            async with through(running, cookie=cookie) as client:
                assert await asyncio.wait_for(client.recv(), DEADLINE) == name
                assert client.response is not None
                assert "Set-Cookie" not in client.response.headers
            seen.add(name)
        assert seen == {"stable", "canary"}
        await all_closed(running)


async def test_a_refused_handshake_is_an_answer_like_any() -> None:
    def refuse(server: ServerConnection, request: Request) -> Response:
        return server.respond(403, "not you\n")

    async with (
        serve(echo, "127.0.0.1", 0, process_request=refuse) as server,
        proxy(variants(server.sockets[0].getsockname()[1])) as running,
    ):
        with pytest.raises(InvalidStatus) as raised:
            async with through(running):
                pass
        assert raised.value.response.status_code == 403
        assert raised.value.response.body == b"not you\n"
        assert running.counters.stable[CODES + 403] == 1
        assert running.counters.stable[TUNNELS_OPENED] == 0


async def test_a_proxy_that_goes_away_waits_for_its_tunnels() -> None:
    async with service(echo) as port, proxy(variants(port)) as running:
        async with through(running) as client:
            await asyncio.wait_for(await client.ping(), DEADLINE)
            draining = asyncio.create_task(running.datapath.drain(DEADLINE))
            await until(lambda: running.context.draining)
            await client.send("still here")
            assert await asyncio.wait_for(client.recv(), DEADLINE) == "still here"
        assert await draining


async def test_many_tunnels_at_once_do_not_mix() -> None:
    async with service(echo, compression="deflate") as port, proxy(variants(port)) as running:

        async def talk(number: int) -> None:
            async with through(running, compression="deflate") as client:
                for turn in itertools.repeat(f"client {number} ", 20):
                    await client.send(turn * (number + 1))
                    assert await client.recv() == turn * (number + 1)

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(talk(number) for number in range(40)))
        await all_closed(running)
        assert running.counters.stable[TUNNELS_OPENED] == 40


# Other protocols

ASK = (
    b"GET /raw HTTP/1.1\r\nHost: h\r\n"
    + COOKIE
    + b"Connection: Upgrade\r\nUpgrade: raw/1, other\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw/1\r\n\r\n"


async def test_the_client_may_end_its_half_first() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH + b"early")
        await link.to_end()
        assert link.got.endswith(b"question")
        await link.send(b" and late")
        link.close()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(ASK)
        await client.take(b"early")
        assert b"\r\nUpgrade: raw/1\r\n" in client.got
        await client.send(b"question")
        client.send_eof()
        assert (await client.to_end()).endswith(b"early and late")
        await all_closed(running)


async def test_bytes_that_look_like_http_are_not_looked_at() -> None:
    smuggled = b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n"
    answer_like = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH + answer_like)
        await link.take(smuggled)
        await link.send(b"end")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(ASK + smuggled)
        await client.take(answer_like + b"end")
        assert upstream.got.endswith(b"\r\n\r\n" + smuggled)
        assert sum(cells[ROUTED] for cells in running.counters.variants) == 1
        client.close()
        await all_closed(running)
