"""Much data through one tunnel of a real proxy, to a slow reader: nothing is lost, nothing is collected.

``make tunnel`` sends 1 GiB each way; the gate sends less.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from .processes import proxy, until, variants

MIB = 1 << 20
SENT = int(os.environ.get("TUNNEL_MIB", "64"))
MOST = 24 * MIB
"""What the proxy may need for a tunnel over what it needs for a handshake."""


def message(number: int) -> bytes:
    """Return 1 MiB that differs from all others."""
    return number.to_bytes(8, "big") * (MIB // 8)


def digest() -> bytes:
    """Return the hash of all messages."""
    whole = hashlib.blake2b()
    for number in range(SENT):
        whole.update(message(number))
    return whole.digest()


async def read_slowly(messages: object) -> bytes:
    """Read a message, sleep, read on: slower than who sends. Return the hash."""
    got = hashlib.blake2b()
    assert hasattr(messages, "recv")
    for number in range(SENT):
        got.update(await messages.recv(decode=False))
        if number % 4 == 0:
            await asyncio.sleep(0.02)
    return got.digest()


@pytest.mark.parametrize("way", ["down", "up"])
async def test_much_data_to_a_slow_reader(tmp_path: Path, way: str) -> None:
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handle(server: ServerConnection) -> None:
        if await server.recv() == "down":
            for number in range(SENT):
                await server.send(message(number))
        elif await server.recv() == "up":
            done.set_result(await read_slowly(server))
        await server.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None, max_queue=1) as server:
        port = server.sockets[0].getsockname()[1]
        with proxy(tmp_path, variants([port]), fresh=True) as running:
            uri = f"ws://127.0.0.1:{running.port}/"
            async with connect(uri, compression=None, proxy=None, max_queue=1) as client:
                await client.send(way)
                before = running.memory("VmRSS")
                started = time.monotonic()
                if way == "down":
                    assert await read_slowly(client) == digest()
                else:
                    await client.send(way)
                    for number in range(SENT):
                        await client.send(message(number))
                    assert await done == digest()
                took = time.monotonic() - started
                grown = running.memory("VmHWM") - before
                print(f"{way}: {SENT} MiB in {took:.1f} s, {grown / MIB:.1f} MiB more memory")
                assert grown < MOST
            until(lambda: running.metrics()['canaryproxy_inflight_requests{variant="stable"}'] == 0)
