"""A bounded load: connections that send pipelined batches and read every answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

import uvloop

Answer = tuple[bytes, int, bytes]
"""User, status, body."""


class Load:
    """Sends one request for each user and keeps who got what."""

    def __init__(self, port: int, connections: int = 16, batch: int = 8) -> None:
        self._port = port
        self._connections = connections
        self._batch = batch
        self.statuses: Counter[int] = Counter()
        self.bodies: dict[bytes, set[bytes]] = {}
        self.answered = 0

    def run(self, users: Iterable[bytes], on_progress: Callable[[int], None] | None = None) -> None:
        """Send until there are no more users; returns when all answers are read."""
        uvloop.run(self._run(iter(users), on_progress))

    async def _run(self, users: Iterable[bytes], on_progress: Callable[[int], None] | None) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._connection(iter(users), on_progress))

    async def _connection(
        self, users: Iterable[bytes], on_progress: Callable[[int], None] | None
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        source = iter(users)
        while batch := [user for _, user in zip(range(self._batch), source, strict=False)]:
            writer.write(
                b"".join(
                    b"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=%b\r\n\r\n" % u for u in batch
                )
            )
            for user in batch:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(size)
                self.statuses[int(head[9:12])] += 1
                self.bodies.setdefault(user, set()).add(body)
                self.answered += 1
            if on_progress is not None:
                on_progress(self.answered)
        writer.close()
        await writer.wait_closed()
