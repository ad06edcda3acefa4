"""The least a proxy on uvloop can cost: bytes forwarded between two protocols, nothing read.

Upstream connections are pooled; what one downstream read brings goes to the upstream in one
write, what one upstream read brings is taken for the whole answer. Not a proxy: only good for small
requests and answers. Example: python -m bench.peers.floor 8080 9001
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from bench.harness.ports import HOST


class Upstream(asyncio.Protocol):
    """A pooled connection to the service."""

    def __init__(self, pool: list[Upstream]) -> None:
        self._pool = pool
        self.downstream: Downstream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        downstream = self.downstream
        if downstream is not None:
            self.downstream = None
            self._pool.append(self)
            downstream.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self in self._pool:
            self._pool.remove(self)
        if self.downstream is not None:
            self.downstream.transport.close()


class Downstream(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, pool: list[Upstream], port: int) -> None:
        self._pool = pool
        self._port = port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._pool:
            upstream = self._pool.pop()
            upstream.downstream = self
            upstream.transport.write(data)
        else:
            self._connecting = asyncio.ensure_future(self._connect(data))

    async def _connect(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: Upstream(self._pool), HOST, self._port)
        upstream.downstream = self
        upstream.transport.write(data)


async def serve(port: int, upstream: int) -> None:
    """Serve on the loopback until cancelled."""
    pool: list[Upstream] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Downstream(pool, upstream), HOST, port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
