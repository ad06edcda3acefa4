"""Receivers on real sockets, and a clock that does not wait."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from canaryproxy.notify import Clock

DEADLINE = 30.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - it waits for what others do
            await asyncio.sleep(0.001)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@dataclass
class Got:
    """A request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Hook:
    """A web server that answers by its list, then 204; ``None`` in the list: never."""

    answers: list[web.Response | None] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    got: list[Got] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def __aenter__(self) -> Hook:
        self._over = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.got.append(Got(request.path_qs, dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if self.answers else web.Response(status=204)
        if answer is None:
            await self._over.wait()
            return web.Response(status=500)
        return answer

    @property
    def told(self) -> list[Any]:
        return [got.json["id"] for got in self.got]


@dataclass
class Raw:
    """A server that answers every connection with bytes, then closes it, or does not."""

    answer: bytes = b""
    close: bool = True
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def __aenter__(self) -> Raw:
        self._over = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        if not self.close:
            await self._over.wait()
        writer.close()


class QuickClock(Clock):
    """Pauses move the time and end when ``running`` is set, as it is at first; jitter is all of a pause."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0
        self.pauses: list[float] = []
        self.running = asyncio.Event()
        self.running.set()

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def jitter(self) -> float:
        return 1.0

    async def pause(self, seconds: float, cut: asyncio.Event) -> None:  # noqa: ARG002
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
        await self.running.wait()


def record(ident: int, what: str = "step", **more: Any) -> dict[str, Any]:
    return {"id": ident, "time": 1_790_000_000.25, "what": what, "cause": "by ann"} | more
