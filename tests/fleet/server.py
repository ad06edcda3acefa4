"""A real redis-server on a port of its own, and a TCP proxy that delays and cuts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

from ..system.processes import answers, until

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed (apt)")


class RedisServer:
    """A server without a disk: what it had is gone when it ends."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert PROGRAM is not None
        self._child = subprocess.Popen(
            [
                *(PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                *("--appendonly", "no", "--dir", str(self._folder), *self._options),
            ],
            stdout=subprocess.DEVNULL,
        )
        until(lambda: answers(self.port), "redis-server")

    def signal(self, number: int) -> None:
        assert self._child is not None
        os.kill(self._child.pid, number)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def cli(self, *words: str) -> str:
        """Run a command with redis-cli, and return what it prints."""
        found = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        return found.stdout.strip()


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            server.signal(signal.SIGCONT)
        server.kill()


class Wire:
    """A TCP proxy in front of a port: it delays every byte, or cuts what goes through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.delay = 0.0
        """Seconds that each piece waits, both ways."""
        self.is_cut = False
        """Nothing goes through and nobody is told: a partition."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        ways = [self._carry(reader, there[1]), self._carry(there[0], writer)]
        for way in ways:
            task = asyncio.ensure_future(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                while self.is_cut:  # noqa: ASYNC110 - the test's way of a line that is dead
                    await asyncio.sleep(0.02)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # one end is gone: so is the other, below
        finally:
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def wire(target: int) -> AsyncIterator[Wire]:
    made = Wire(target)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def now() -> float:
    return time.monotonic()
