"""A load generator for WebSockets: each connection sends a message and waits for it to come back.

A closed model. Example: python -m bench.loads.websocket http://127.0.0.1:8080 --seconds 2 --connections 32
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.loads import Load, frames, wrk
from bench.loads.quantiles import in_microseconds

PAYLOAD = b"0123456789abcdef" * 4
_MASK = b"\x1f\x2e\x3d\x4c"
_END = b"\r\n\r\n"
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of that key, RFC 6455, section 1.3
_CONNECT_SECONDS = 10.0
_LAST_SECONDS = 10.0


class Client(asyncio.Protocol):
    """One connection: the handshake, then one message in flight."""

    def __init__(self, host: str, cookie: str, latencies: list[int]) -> None:
        self._hello = (
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\nCookie: {cookie}\r\n\r\n"
        ).encode()
        self._latencies = latencies
        self._rest = b""
        self._expected = frames.frame(PAYLOAD)
        self._message = frames.frame(PAYLOAD, _MASK)
        self._sent = 0
        self._open = False
        self.stopping = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._open:
            head, end, rest = self._rest.partition(_END)
            if not end:
                return
            if b" 101 " not in head.split(b"\r\n")[0] or _ACCEPT not in head or rest:
                self._fail(f"no handshake: {head[:80]!r}")
                return
            self._open, self._rest = True, b""
            self.opened.set_result(None)
            return
        if len(self._rest) < len(self._expected):
            return
        if self._rest != self._expected:
            self._fail("something else came back")
            return
        self._latencies.append(time.perf_counter_ns() - self._sent)
        self._rest = b""
        if self.stopping:
            self.ended.set_result(None)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"closed: {exc}")

    def send(self) -> None:
        """Send a message; the next one follows when it has come back."""
        self._sent = time.perf_counter_ns()
        self._transport.write(self._message)

    def close(self) -> None:
        self._transport.close()

    def _fail(self, reason: str) -> None:
        for future in (self.opened, self.ended):
            if not future.done():
                future.set_exception(ConnectionError(reason))


async def echo(url: str, seconds: float, connections: int) -> str:
    """Send and return the line with the figures."""
    parts = urlsplit(url)
    latencies: list[int] = []
    loop = asyncio.get_running_loop()
    cookies = Load("", "", users=connections).cookies()
    clients = []
    for cookie in cookies:
        _, client = await loop.create_connection(
            lambda cookie=cookie: Client(parts.netloc, cookie, latencies),  # type: ignore[misc]
            parts.hostname or "",
            parts.port or 80,
        )
        clients.append(client)
    opened = await asyncio.wait_for(
        asyncio.gather(*(client.opened for client in clients), return_exceptions=True),
        _CONNECT_SECONDS,
    )
    ready = [c for c, outcome in zip(clients, opened, strict=True) if outcome is None]
    began = time.perf_counter_ns()
    for client in ready:
        client.send()
    await asyncio.sleep(seconds)
    for client in ready:
        client.stopping = True
    done, late = (
        await asyncio.wait([client.ended for client in ready], timeout=_LAST_SECONDS)
        if (ready)
        else (set(), set())
    )
    took = time.perf_counter_ns() - began
    broken = sum(future.exception() is not None for future in done)
    for client in clients:
        client.close()
    return wrk.result_line(
        {
            "requests": len(latencies),
            "bytes": len(latencies) * len(frames.frame(PAYLOAD)),
            "duration_us": took / 1000,
            "connect": len(clients) - len(ready),
            "read": broken,
            "timeout": len(late),
            **in_microseconds(latencies),
        }
    )


def main() -> None:
    """Read the command line and send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    print(uvloop.run(echo(arguments.url, arguments.seconds, arguments.connections)), flush=True)


if __name__ == "__main__":
    main()
