"""An upstream whose answers a file decides: ``python service.py NAME PORT FILE``.

The file holds ``status delay`` (seconds) for users whose cookie begins with ``bad``, or for all: ``* status
delay``. It is read for each request, so a test changes it while requests flow. It takes no bodies.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import cast

import uvloop

_BAD = re.compile(rb"\r\ncookie: (?:[^\r]*; )?canary_id=bad", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: close\r\n", re.IGNORECASE)


class Service(asyncio.Protocol):
    def __init__(self, name: bytes, file: Path) -> None:
        self._name = name
        self._file = file
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not one by class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            status, delay = self._decide(head)
            if delay:
                loop = asyncio.get_running_loop()
                loop.call_later(delay, self._answer, status, head)
            else:
                self._answer(status, head)

    def _decide(self, head: bytes) -> tuple[int, float]:
        words = self._file.read_text().split()
        if words and (words[0] == "*" or _BAD.search(head)):
            return int(words[-2]), float(words[-1])
        return 200, 0.0

    def _answer(self, status: int, head: bytes) -> None:
        if self._transport.is_closing():
            return
        body = b"" if head.startswith(b"HEAD ") else self._name
        self._transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(self._name), body)
        )
        if _CLOSES.search(head + b"\r\n"):
            self._transport.close()


async def main(name: str, port: int, file: Path) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Service(name.encode(), file), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
