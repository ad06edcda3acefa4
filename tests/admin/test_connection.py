"""Slow, silent and many clients: none blocks the admin address for the others."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep

import pytest

from canaryproxy.admin.connection import BOUNDS, Share
from canaryproxy.control.release_view import Release
from tests.admin.fake import TOKEN, FakeControl, Served, serve, until

QUICK = replace(BOUNDS, head=0.3, body=0.3, stall=0.3, linger=0.1)
PATIENT = replace(BOUNDS, head=600, body=600, stall=600)
DEADLINE = 60.0
AUTH = f"Authorization: Bearer {TOKEN}\r\n"


async def alive(served: Served) -> None:
    for over in ("tcp", "unix"):
        async with asyncio.timeout(DEADLINE):
            assert (await served.ask("GET", "/v1/release", over=over)).status == 200


@pytest.mark.parametrize("start", ["", "GET /", "GET /livez HTTP/1.1\r\nHost: x\r\nX-"])
async def test_a_slow_head_is_cut_off(tmp_path: Path, start: str) -> None:
    """However regularly its bytes drip."""
    async with serve(tmp_path, bounds=QUICK) as served:
        reader, writer = await served.connect()
        writer.write(start.encode())

        async def drip() -> None:
            while not writer.is_closing():
                writer.write(b"a")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip()) if start else None
        async with asyncio.timeout(10):
            assert await _read(reader) == b""
        if dripping is not None:
            dripping.cancel()
        writer.close()


async def test_an_idle_connection_is_closed_after_a_request(tmp_path: Path) -> None:
    async with serve(tmp_path, bounds=QUICK) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("over", ["tcp", "unix"])
async def test_a_slow_body_is_cut_off(tmp_path: Path, over: str) -> None:
    async with serve(tmp_path, bounds=QUICK) as served:
        reader, writer = await served.connect(over)
        head = (
            f"PUT /v1/weight HTTP/1.1\r\nHost: x\r\n{AUTH}"
            "Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
        )
        writer.write(head.encode())

        async def drip() -> None:
            while not writer.is_closing():
                writer.write(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        async with asyncio.timeout(10):
            line = await reader.readline()
        dripping.cancel()
        assert line.split()[1] == b"408"
        writer.close()
        assert served.control.acts == []


async def test_many_slow_heads_block_nobody(tmp_path: Path) -> None:
    """The newcomer takes the place of the oldest that does nothing."""
    bounds = replace(PATIENT, connections=20)
    async with serve(tmp_path, bounds=bounds) as served:
        held = []
        for _ in range(3):
            for _ in range(25):
                reader, writer = await served.connect()
                writer.write(b"GET /v1/release HTTP/1.1\r\nX-")
                held.append((reader, writer))
            await alive(served)
        async with asyncio.timeout(DEADLINE):
            for reader, _ in held[:50]:
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)
        for _, writer in held:
            writer.close()


async def test_what_is_being_worked_on_is_not_given_up(tmp_path: Path) -> None:
    """Where all are busy the newcomer is refused; the Unix socket has its own room."""
    bounds = replace(PATIENT, connections=3)
    async with serve(tmp_path, bounds=bounds) as served:
        busy = []
        for number in range(3):
            reader, writer = await served.connect()
            writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(DEADLINE):
                await reader.readuntil(b"event: release")
            busy.append((reader, writer))
            assert number < 3
        reader, writer = await served.connect()
        async with asyncio.timeout(DEADLINE):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        assert (await served.ask("GET", "/v1/release", over="unix")).status == 200
        busy.pop()[1].close()

        async def again() -> bool:
            try:
                return (await served.ask("GET", "/livez", over="tcp")).status == 200
            except (ConnectionError, AssertionError):
                return False

        async with asyncio.timeout(DEADLINE):
            while not await again():  # noqa: ASYNC110  # it is the server that changes
                await asyncio.sleep(0.01)
        for _, writer in busy:
            writer.close()


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("size", [100_000, 20_000_000])
async def test_who_does_not_read_is_cut_off(tmp_path: Path, over: str, size: int) -> None:
    """Whether much or little of the answer is left, nothing of it stays in memory."""
    async with serve(tmp_path, bounds=QUICK) as served:
        served.control.padding = "x" * size
        sock = socket.socket(socket.AF_UNIX if over == "unix" else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        address = served.unix if over == "unix" else ("127.0.0.1", served.port)
        await loop.sock_connect(sock, address)
        request = b"GET /v1/release HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await loop.sock_sendall(sock, request * 50)
        await until(lambda: _open(served) == 1)
        await until(lambda: _open(served) == 0)
        sock.close()
        served.control.padding = ""
        await alive(served)


async def test_a_little_that_is_not_read_counts_too(tmp_path: Path) -> None:
    """Answers of many sizes: of some only the last bytes do not fit into the kernel's buffers."""
    async with serve(tmp_path, bounds=QUICK) as served:
        loop = asyncio.get_running_loop()
        clients = []
        for size in range(60_000, 400_000, 20_000):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            await loop.sock_connect(sock, served.unix)
            clients.append(sock)
            served.control.padding = "x" * size
            asked = served.control.asked
            await loop.sock_sendall(sock, b"GET /v1/release HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda asked=asked: served.control.asked > asked)  # type: ignore[misc]
        await until(lambda: _open(served) == 0)
        for sock in clients:
            sock.close()


async def test_who_reads_slowly_but_reads_gets_all(tmp_path: Path) -> None:
    async with serve(tmp_path, bounds=replace(QUICK, stall=5.0)) as served:
        served.control.padding = "x" * 3_000_000
        reader, writer = await served.connect()
        writer.write(b"GET /v1/release HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = 0
        async with asyncio.timeout(20):
            while data := await reader.read(65_536):
                got += len(data)
                await asyncio.sleep(0.001)
        assert got > 3_000_000
        writer.close()


async def test_reads_leave_the_loop_to_others(tmp_path: Path) -> None:
    """However many ask at once, the loop runs other callbacks between two responses."""
    loop = asyncio.get_running_loop()
    rounds = 0
    made: list[int] = []

    def count_round() -> None:
        nonlocal rounds
        rounds += 1
        loop.call_soon(count_round)

    class Slow(FakeControl):
        def release_view(self) -> Release:
            made.append(rounds)
            sleep(0.001)
            return super().release_view()

    count_round()
    async with serve(tmp_path, control=Slow(), bounds=PATIENT) as served:
        request = b"GET /v1/release HTTP/1.1\r\nHost: localhost\r\n\r\n"
        clients = [await served.connect() for _ in range(15)]
        for _, writer in clients:
            writer.write(request * 2)
        await until(lambda: len(made) == 30)
        assert min(after - before for before, after in pairwise(made)) >= 1


async def test_what_must_not_wait_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes, streams and changes come through while others look and look."""

    async def for_ever(_share: Share, *_: object) -> None:
        pass

    monkeypatch.setattr(Share, "__aexit__", for_ever)
    async with serve(tmp_path, bounds=replace(PATIENT, stop=0.1)) as served:
        await alive(served)  # and that was the last look on both
        _, waiting = await served.connect()
        waiting.write(b"GET /v1/release HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await served.ask("GET", "/livez", over="tcp")).status == 200
        assert (await served.ask("GET", "/readyz", over="tcp")).status == 200
        reader, writer = await served.connect()
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"event: release")
        for over in ("tcp", "unix"):
            answer = await served.ask(
                "POST", "/v1/release/abort", over=over, Authorization=f"Bearer {TOKEN}"
            )
            assert answer.status == 200


async def test_stopping_waits_for_no_client(tmp_path: Path) -> None:
    """Idle, half a head, half a body, streams: all end."""
    bounds = replace(PATIENT, stop=0.2)
    clients = []
    async with serve(tmp_path, bounds=bounds) as served:
        for start in (
            b"",
            b"GET /v1/rel",
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PUT /v1/weight HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + AUTH.encode()
            + b"Content-Length: 50\r\n\r\n{",
        ):
            clients.append(await served.connect())
            clients[-1][1].write(start)
        await until(lambda: served.control.asked > 0)
        await alive(served)
        began = monotonic()
    assert monotonic() - began < PATIENT.head
    for reader, writer in clients:
        async with asyncio.timeout(DEADLINE):
            while await _read(reader):
                pass
        writer.close()
    with pytest.raises((ConnectionError, FileNotFoundError)):
        await served.connect()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


def _open(served: Served) -> int:
    return served.server.connections
