"""A WebSocket in Chromium, which opens it on the connection of HTTP/2 that it has (RFC 8441)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as service
from websockets.http11 import Request, Response

from tests.browser.conftest import launch
from tests.certificates import loopback
from tests.wire.harness import proxy, variants
from tests.wire.test_long_lived import ticking

TLS = f"listen: {{address: 127.0.0.1:8443, tls: {{certificates: [{loopback().yaml()}]}}}}\n"
NOW = "circuit: {close_after: 0s, spread: 20s}\nsplit: {weight: 100}"
TALK = """
const done = arguments[0];
const socket = window.socket = new WebSocket(`wss://${location.host}/chat`);
window.ended = new Promise((resolve) => socket.onclose = (event) => resolve(event.code));
socket.onmessage = (event) => done(event.data.length);
socket.onerror = () => done("error");
socket.onopen = () => socket.send("a".repeat(200000));
"""


async def test_a_browser_opens_a_websocket_over_http_2_and_leaves_at_a_trip(tmp_path: Path) -> None:
    came_by: list[str] = []

    def page(server: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            came_by.append(request.headers["Via"])
            return None
        response = server.respond(200, "<p>shop</p>")
        response.headers["Content-Type"] = "text/html"
        return response

    async def echo(server: ServerConnection) -> None:
        async for message in server:
            await server.send(message)

    async with (
        service(echo, "127.0.0.1", 0, process_request=page, max_size=None) as server,
        proxy(TLS + variants(1, server.sockets[0].getsockname()[1], NOW)) as running,
        ticking(running),
    ):
        driver = await asyncio.to_thread(launch, tmp_path, "--ignore-certificate-errors")
        try:
            await asyncio.to_thread(driver.get, f"https://localhost:{running.port}/")
            assert await asyncio.to_thread(driver.execute_async_script, TALK) == 200_000
            assert came_by == ["2.0 canaryproxy"]
            running.weight(0)
            wait = "ended.then(arguments[0])"
            assert await asyncio.to_thread(driver.execute_async_script, wait) == 1012
        finally:
            await asyncio.to_thread(driver.quit)
