"""Clients of HTTP/2 that account for every stream: it gets its response, or is written down as lost."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.wire.h2client import GET, H2Client
from tests.wire.harness import Client

from .accounts import Account


class Http2Accounts(Account):
    """Connections with streams all the time, replaced when the proxy says GOAWAY.

    ``unanswered`` is a response that did not come, although it was asked for before any GOAWAY came.
    """

    def __init__(self, port: int, connections: int = 3, streams: int = 5) -> None:
        super().__init__()
        self._port = port
        self._connections = connections
        self._streams = streams
        self.farewells = 0
        """Connections that the proxy ended with GOAWAY and a last stream."""

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        while not self._end.is_set():
            streams = await asyncio.open_connection("127.0.0.1", self._port)
            client = H2Client(Client(*streams))
            client.h2.initiate_connection()
            await self._use(client, b"%d" % number)
            streams[1].close()

    async def _use(self, client: H2Client, user: bytes) -> None:
        """Ask over one connection until it ends."""
        open_streams: set[int] = set()
        while True:
            while len(open_streams) < self._streams and not client.last and not self._end.is_set():
                self.sent += 1
                fields = [*GET[:4], (b"cookie", b"canary_id=%b-%d" % (user, self.sent % 50))]
                open_streams.add(await client.ask(fields))
            if not open_streams and self._end.is_set():
                return
            try:
                more = await client.read()
            except OSError:
                more = False
            for number in [one for one in open_streams if client.replies[one].over]:
                open_streams.remove(number)
                reply = client.replies.pop(number)
                whole = reply.ended and reply.status == 200
                self.outcomes["ok" if whole else f"{reply.status} {reply.reset}"] += 1
            if not more:
                self.outcomes["unanswered"] += len(open_streams)
                self.farewells += len(client.last) > 1
                self.outcomes += Counter()  # without those of which there are none
                return
            await asyncio.sleep(0.02)
