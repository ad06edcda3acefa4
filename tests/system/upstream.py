"""A small upstream for system tests: ``python upstream.py NAME PORT [HOST]``.

Answers its name; ``/zeros?N`` sends N bytes, ``/head`` what it got, a body is read and counted.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_PIECE = bytes(1 << 18)


class Service(asyncio.Protocol):
    def __init__(self, name: bytes) -> None:
        self._ok = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)
        self._buffer = b""
        self._left = 0
        self._sending = 0
        self._paused = False
        self._total = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not one by class

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if not self._left:
                self._answer(b"%d" % self._total)
            return
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            lower = head.lower()
            if b"\r\ncontent-length: " in lower:
                size = lower.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
                self._total = int(size)
                self._left = self._total - len(self._buffer)
                self._buffer = b""
                if not self._left:
                    self._answer(b"%d" % self._total)
            elif target.startswith(b"/zeros?"):
                self._sending = int(target[7:])
                self._paused = False
                self._transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._sending
                )
                self._send()
            elif target == b"/head":
                self._answer(head)
            else:
                self._transport.write(self._ok)

    def _answer(self, text: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        )

    def _send(self) -> None:
        while self._sending and not self._paused:
            piece = _PIECE[: self._sending]
            self._sending -= len(piece)
            self._transport.write(piece)


async def main(name: str, port: int, host: str = "127.0.0.1") -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Service(name.encode()), host, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
