"""A tiny uvloop upstream: fixed answers, and what comes is sent back on a WebSocket.

A request's X-Request-Id comes back in its answer. The upstream stands behind all proxies for WebSockets, and
for everything else where nginx is not installed.
Example: python -m bench.peers.fixed_answer 9001 stable
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from typing import cast

import uvloop

from bench.harness.ports import HOST
from bench.loads import ANSWER_BYTES, BODIES, frames

_LINE_END = b"\r\n"
_END = _LINE_END * 2
_ID = b"X-Request-Id: "
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def answers(variant: str) -> dict[bytes, bytes]:
    """Return the whole answers of a variant by path; b"/" is for all other paths."""
    short = variant.ljust(ANSWER_BYTES, ".").encode()
    found = {b"/": _head(b"Content-Length: %d" % len(short)) + short}
    for path, length in BODIES.items():
        body = b"x" * length
        found[path.encode()] = (
            _head(b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (length, body)
            if path == "/chunked"
            else _head(b"Content-Length: %d" % length) + body
        )
    return found


def _head(framing: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nServer: fixed\r\nContent-Type: text/plain\r\n%b%b" % (framing, _END)


class FixedAnswer(asyncio.Protocol):
    """One connection; requests may come in pieces or several at once."""

    def __init__(self, replies: dict[bytes, bytes]) -> None:
        self._replies = replies
        self._rest = b""
        self._to_skip = 0  # bytes of a request body
        self._frames: frames.Echo | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._frames is not None:
            self._transport.write(self._frames.feed(data))
            return
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        data = self._rest + data
        while (end := data.find(_END)) >= 0:
            head, data = data[:end], data[end + len(_END) :]
            if b"pgrade: websocket" in head:
                self._upgrade(head)
                return
            path = head.split(b" ", 2)[1]
            length = _length(head)
            skipped = min(length, len(data))
            self._to_skip = length - skipped
            data = data[skipped:]
            reply = self._replies.get(path, self._replies[b"/"])
            if (at := head.find(_ID)) >= 0:
                line = head[at:].partition(_LINE_END)[0]
                reply = reply.replace(_LINE_END, _LINE_END + line + _LINE_END, 1)
            self._transport.write(reply)
        self._rest = data

    def _upgrade(self, head: bytes) -> None:
        key = next(
            line.partition(b":")[2].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        self._frames = frames.Echo()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve(port: int, variant: str) -> None:
    """Serve on the loopback until cancelled."""
    replies = answers(variant)
    server = await asyncio.get_running_loop().create_server(
        lambda: FixedAnswer(replies), HOST, port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
