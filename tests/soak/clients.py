"""Clients of every temper, and the ledger in which each writes what became of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

PATIENCE = 30.0
"""Seconds for one answer; the timeouts of the proxy under test are far shorter."""
REPLAYED = 64 * 1024
"""Bytes of a request that the proxy keeps to send it again."""
EXCUSES = frozenset((502, 503, 504))
"""What the proxy says if it has no answer; no service of a soak says so."""


@dataclass
class Ledger:
    """What became of every request whose head was sent whole."""

    sent: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    """Whole answers, by status."""
    refused: Counter[int] = field(default_factory=Counter)
    """Answers to what is no valid request."""
    cut: int = 0
    """The proxy broke the answer off, or closed the connection without one."""
    left: int = 0
    """The client went away first."""
    lost: int = 0
    """Of those answered: requests that may be repeated, and got the proxy's excuse."""

    @property
    def ended(self) -> int:
        return self.answered.total() + self.refused.total() + self.cut + self.left


class Connection:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.usable = True

    @classmethod
    async def to(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, pause: float = 0.0) -> int:
        """Read a whole answer, with pauses, and return its status.

        Raises ``ConnectionError`` or ``IncompleteReadError`` if it is broken off.
        """
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        if b"\r\nconnection: close\r\n" in head:
            self.usable = False
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                await self.reader.readexactly(size + 2)
            await self.reader.readexactly(2)
        else:
            left = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            while left:
                piece = await self.reader.readexactly(min(left, 65536))
                left -= len(piece)
                if pause:
                    await asyncio.sleep(pause)
        return int(head[9:12])


class Crowd:
    """All clients of a soak: begun with ``run``, ended when ``over`` is set."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self.ledger = Ledger()
        self.over = asyncio.Event()
        self.told = 0
        """WebSockets and event streams that were ended cleanly by the proxy."""

    async def run(self) -> None:
        """Send until ``over``; what was begun is ended. Raises what no client should meet."""
        tempers: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = (
            (12, self.kept),
            (3, self.new),
            (3, self.uploads),
            (2, self.slow_reader),
            (2, self.leaves),
            (1, self.malformed),
            (2, self.socket),
            (2, self.stream),
        )
        async with asyncio.TaskGroup() as group:
            for count, temper in tempers:
                for _ in range(count):
                    group.create_task(self._again(temper))

    async def _again(self, temper: Callable[[], Awaitable[None]]) -> None:
        while not self.over.is_set():
            await temper()

    def _head(self, target: str, method: str = "GET", lines: str = "") -> bytes:
        user = self._random.randrange(2000)
        return (
            f"{method} {target} HTTP/1.1\r\nHost: soak\r\nCookie: canary_id=user{user}\r\n{lines}\r\n"
        ).encode()

    async def _ask(self, connection: Connection, request: bytes, pause: float = 0.0) -> None:
        ledger = self.ledger
        ledger.sent += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await connection.send(request)
                status = await connection.answer(pause)
            ledger.answered[status] += 1
            repeatable = request.startswith((b"GET ", b"PUT ")) and len(request) < REPLAYED
            if status in EXCUSES and repeatable:
                ledger.lost += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            ledger.cut += 1
            connection.usable = False

    async def kept(self) -> None:
        """Many requests on one connection."""
        async with await Connection.to(self._port) as connection:
            for _ in range(self._random.randrange(1, 200)):
                path = self._random.choices(
                    (
                        "/",
                        "/chunks",
                        "/big",
                        "/error",
                        "/late",
                        "/assets/stable.js",
                        "/assets/canary.js",
                    ),
                    (60, 10, 2, 1, 1, 2, 2),
                )[0]
                await self._ask(connection, self._head(path))
                if not connection.usable or self.over.is_set():
                    break

    async def new(self) -> None:
        """A connection for one request."""
        async with await Connection.to(self._port) as connection:
            await self._ask(connection, self._head("/", lines="Connection: close\r\n"))

    async def uploads(self) -> None:
        """Bodies by length and in chunks, with methods that may and may not be repeated."""
        async with await Connection.to(self._port) as connection:
            for _ in range(20):
                method = self._random.choice(("POST", "PUT"))
                body = bytes(self._random.choice((10, 5_000, 100_000)))
                if self._random.random() < 0.5:
                    head = self._head("/", method, f"Content-Length: {len(body)}\r\n")
                    request = head + body
                else:
                    head = self._head("/", method, "Transfer-Encoding: chunked\r\n")
                    request = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                await self._ask(connection, request)
                if not connection.usable or self.over.is_set():
                    break

    async def slow_reader(self) -> None:
        """A long answer, read with pauses."""
        async with await Connection.to(self._port) as connection:
            await self._ask(connection, self._head("/big"), pause=0.02)

    async def leaves(self) -> None:
        """Goes away: in the middle of a head, of an upload, of an answer, or while it waits."""
        kind = self._random.randrange(4)
        async with await Connection.to(self._port) as connection:
            if kind == 0:
                await connection.send(b"GET / HTTP/1.1\r\nHost: so")  # no request yet
                await asyncio.sleep(0.05)
                return
            self.ledger.sent += 1
            self.ledger.left += 1
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                if kind == 1:
                    head = self._head("/", "POST", "Content-Length: 100000\r\n")
                    await connection.send(head + bytes(50_000))
                elif kind == 2:
                    await connection.send(self._head("/big"))
                    await connection.reader.readexactly(1000)
                else:
                    await connection.send(self._head("/late"))
                await asyncio.sleep(0.05)

    async def malformed(self) -> None:
        """What is no request: refused, and the connection closed."""
        async with await Connection.to(self._port) as connection:
            self.ledger.sent += 1
            async with asyncio.timeout(PATIENCE):
                await connection.send(b"GET / HTTP/1.1\r\nHost : soak\r\n\r\n")
                self.ledger.refused[await connection.answer()] += 1
                assert not await connection.reader.read()
        await asyncio.sleep(0.05)

    async def socket(self) -> None:
        """A WebSocket with some messages, there and back, that may be open when its user moves."""
        self.ledger.sent += 1
        user = self._random.randrange(2000)
        cookie = {"Cookie": f"canary_id=user{user}"}
        try:
            async with (
                asyncio.timeout(PATIENCE),
                aiohttp.ClientSession() as session,
                session.ws_connect(f"http://127.0.0.1:{self._port}/socket", headers=cookie) as ws,
            ):
                self.ledger.answered[101] += 1
                for size in (1, 1000, 100_000):
                    await ws.send_bytes(bytes(size))
                    if len(await ws.receive_bytes()) != size:
                        raise AssertionError("another message came back")
                with contextlib.suppress(TimeoutError):
                    await ws.receive(timeout=self._random.uniform(0.0, 1.0))
                    self.told += ws.close_code == 1012
        except aiohttp.WSServerHandshakeError as error:
            self.ledger.answered[error.status] += 1
        except (TypeError, aiohttp.WSMessageTypeError):
            pass  # closed under us: an endpoint was killed
        except (aiohttp.ClientError, ConnectionError):
            self.ledger.cut += 1

    async def stream(self) -> None:
        """Events, until the client has enough of them or its user moves."""
        ledger = self.ledger
        ledger.sent += 1
        async with await Connection.to(self._port) as connection:
            try:
                async with asyncio.timeout(self._random.uniform(0.1, 1.0)):
                    await connection.send(self._head("/events"))
                    status = await connection.answer()
                ledger.answered[status] += 1
                self.told += status == 200
            except TimeoutError:
                ledger.left += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                ledger.cut += 1
