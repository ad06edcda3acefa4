"""A tiny uvloop server with one fixed answer: the upstream where nginx is not installed.

It counts blank lines instead of parsing, so it serves only requests without a body.
Example: python -m bench.fixed_answer 9001 stable
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from bench.loads import ANSWER_BYTES
from bench.ports import HOST

_END = b"\r\n\r\n"


def answer(variant: str) -> bytes:
    """Return the whole answer of a variant."""
    body = variant.ljust(ANSWER_BYTES, ".")
    return (
        f"HTTP/1.1 200 OK\r\nServer: fixed\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class FixedAnswer(asyncio.Protocol):
    """One connection; requests may come in pieces or several at once."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        count = data.count(_END)
        self._rest = data[data.rfind(_END) + len(_END) :] if count else data
        if count:
            self._transport.write(self._reply * count)


async def serve(port: int, variant: str) -> None:
    """Serve on the loopback until cancelled."""
    reply = answer(variant)
    server = await asyncio.get_running_loop().create_server(
        lambda: FixedAnswer(reply), HOST, port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
