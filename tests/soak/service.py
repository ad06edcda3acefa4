"""The upstream of the soak: ``python service.py NAME PORT``."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import WSMsgType, web

PIECE = bytes(64 * 1024)


class Service:
    """Answers of every kind: short, long, in chunks, late, wrong, endless, of one version, WebSockets."""

    def __init__(self, name: str) -> None:
        self._name = name

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/big", self.big)
        app.router.add_get("/chunks", self.chunks)
        app.router.add_get("/late", self.late)
        app.router.add_get("/error", self.error)
        app.router.add_get("/events", self.events)
        app.router.add_get("/assets/{variant}.js", self.asset)
        app.router.add_get("/socket", self.socket)
        app.router.add_route("*", "/{path:.*}", self.short)
        return app

    async def short(self, request: web.Request) -> web.Response:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.Response(text=f"{self._name} {size}")

    async def big(self, _: web.Request) -> web.Response:
        return web.Response(body=PIECE * 16)

    async def chunks(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(8):
            await response.write(PIECE[:4096])
        await response.write_eof()
        return response

    async def late(self, _: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(text="late")

    async def error(self, _: web.Request) -> web.Response:
        return web.Response(status=500, text="error")

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:  # until the client or the proxy has enough of it
            await response.write(b"data: now\n\n")
            await asyncio.sleep(0.02)

    async def asset(self, request: web.Request) -> web.Response:
        """A file of one version; the other has none of this name."""
        mine = request.match_info["variant"] == self._name
        return web.Response(status=200 if mine else 404, text=self._name)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            if message.type == WSMsgType.BINARY:
                await response.send_bytes(message.data)
        return response


if __name__ == "__main__":
    web.run_app(
        Service(sys.argv[1]).app(),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        print=None,
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
