"""A load that accounts for every request: each is answered whole, or it is written down how it was not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Self

import uvloop


class Account:
    """What became of each request of a load, which ``_run`` sends in a thread of its own.

    ``sent`` = the sum of ``outcomes``; ``ok`` is a whole answer 200.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End when every request has its outcome."""
        self._end.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def check(self) -> None:
        """Every request was answered."""
        assert self.sent > 0
        assert self.outcomes == {"ok": self.sent}, self.outcomes

    async def _run(self) -> None:
        """Send requests until ``_end``."""
        raise NotImplementedError


class Accounts(Account):
    """Clients with keep-alive connections, and some that connect anew for each request.

    A connection that the proxy closed
    before a byte of the answer to a request is ``broken``, one that it did not accept ``refused``.
    """

    def __init__(
        self, port: int, keeping: int = 6, connecting: int = 2, pause: float = 0.03
    ) -> None:
        super().__init__()
        self._port = port
        self._keeping = keeping
        self._connecting = connecting
        self._pause = pause
        self.closes = 0
        """Answers with Connection: close."""

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._keeping + self._connecting):
                group.create_task(self._client(number, keeps=number < self._keeping))

    async def _client(self, number: int, *, keeps: bool) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        count = 0
        while not self._end.is_set():
            count += 1
            self.sent += 1
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError as error:
                self.outcomes[f"refused: {error}"] += 1
                await asyncio.sleep(0.05)
                continue
            closes = True
            try:
                closes = await self._ask(*streams, b"%d-%d" % (number, count % 50), keeps=keeps)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.outcomes[f"broken: {type(error).__name__}"] += 1
            if closes:
                streams[1].close()
                streams = None
            await asyncio.sleep(self._pause)
        if streams is not None:
            streams[1].close()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        user: bytes,
        *,
        keeps: bool,
    ) -> bool:
        """Send a request, read its answer; return whether the connection ends with it."""
        close = b"" if keeps else b"Connection: close\r\n"
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=%b\r\n%b\r\n" % (user, close))
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
        status = head[9:12].decode()
        self.outcomes["ok" if status == "200" else status] += 1
        closes = b"\r\nconnection: close\r\n" in head.lower()
        self.closes += closes and keeps
        return closes
