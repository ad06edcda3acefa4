"""An upstream without lengths, for system tests: ``python chunks.py PORT``.

``/zeros?N`` sends N bytes in chunks; a chunked body is read to its end and its wire size told; ``/deaf``
never reads a body; ``Upgrade`` becomes a tunnel that sends zeros for ever.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_PIECE = bytes(1 << 16)
_CHUNK = b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE)


class Service(asyncio.Protocol):
    def __init__(self) -> None:
        self._head = b""
        self._uploading = False
        self._total = 0
        self._tail = b""
        self._left = 0
        self._piece = _CHUNK
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()

    def data_received(self, data: bytes) -> None:
        if not self._uploading:
            self._head += data
            head, mark, data = self._head.partition(b"\r\n\r\n")
            if not mark:
                return
            self._head = b""
            if b" /deaf " in head:
                self._transport.pause_reading()
                return
            if b"\r\nUpgrade: " in head:
                self._transport.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
                )
                self._piece, self._left = _PIECE, 1 << 60
                self._send()
                return
            if b" /zeros?" in head:
                size = int(head.partition(b"/zeros?")[2].partition(b" ")[0])
                self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                self._left = size // len(_PIECE)
                self._send()
                return
            self._uploading, self._total = True, 0
        self._total += len(data)
        self._tail = (self._tail + data)[-7:]
        if self._tail == b"\r\n0\r\n\r\n":
            self._uploading = False
            text = b"%d" % self._total
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
            )

    def _send(self) -> None:
        while self._left and not self._paused:
            self._left -= 1
            self._transport.write(self._piece)
            if not self._left:
                self._transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
