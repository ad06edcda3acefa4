"""What serves a request is freed when it is over, and not left to the garbage collector.

Its pauses then have nothing to do with how many requests there were.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from .harness import COOKIE, OK, Link, Proxy, Upstream, always, proxy, until, variants

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
CLOSE = GET[:-2] + b"Connection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
POST = b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 3\r\n\r\nabc"
UPGRADE = (
    b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
TIMES = 20


@contextmanager
def only_cycles_left() -> Iterator[Counter[str]]:
    """Count, by class, the objects of the proxy that only the garbage collector frees."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        for one in gc.garbage:
            kind = type(one)
            if kind.__module__.startswith("canaryproxy."):
                found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def breaks(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    link.reset()


async def closes(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(OK)
    link.close()


async def switches(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(SWITCH)
    await link.to_end()


async def kept(running: Proxy) -> None:
    client = await running.connect()
    for number in range(TIMES):
        await client.send(GET)
        await client.take(b"HTTP/1.1 ", number + 1)
        await until(lambda: running.context.in_flight == 0)
    client.close()


def each(request: bytes, *, leaves: bool = False) -> Callable[[Proxy], Awaitable[None]]:
    """Send a request over a connection of its own, many times; ``leaves``: without waiting for the end."""

    async def send(running: Proxy) -> None:
        for _ in range(TIMES):
            client = await running.connect()
            await client.send(request)
            await client.take(b"HTTP/1.1 ")
            if leaves:
                client.close()
            else:
                await client.to_end()

    return send


async def leaves_before(running: Proxy) -> None:
    for _ in range(TIMES):
        client = await running.connect()
        await client.send(GET)
        await until(lambda: running.context.in_flight == 1)
        client.reset()
        await until(lambda: running.context.in_flight == 0)


async def silence(link: Link) -> None:
    await link.to_end()


@pytest.mark.parametrize(
    ("answer", "ask"),
    [
        (always(OK), kept),
        (always(OK), each(CLOSE)),
        (closes, kept),
        (always(CHUNKED), each(CLOSE)),
        (always(LONG), each(CLOSE)),
        (always(LONG), each(GET, leaves=True)),
        (always(OK), each(POST, leaves=True)),
        (breaks, each(CLOSE)),
        (breaks, each(POST, leaves=True)),
        (switches, each(UPGRADE, leaves=True)),
        (always(OK), each(b"nonsense\r\n\r\n")),
        (silence, leaves_before),
    ],
    ids=[
        *("kept alive", "a connection each", "the upstream closes", "chunked", "long"),
        *("the client leaves", "an upload", "reset", "an upload that is reset", "a tunnel"),
        *("refused", "the client does not wait"),
    ],
)
async def test_a_request_leaves_no_cycles(
    answer: Callable[[Link], Awaitable[None]], ask: Callable[[Proxy], Awaitable[None]]
) -> None:
    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        await ask(running)  # what is made once may stay
        with only_cycles_left() as found:
            await ask(running)
            await until(lambda: not running.context.connections)
            await asyncio.sleep(0)
        few = {kind: number for kind, number in found.items() if number >= TIMES // 2}
        assert few == {}
