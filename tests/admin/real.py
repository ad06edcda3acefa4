"""A whole proxy in this process, between small services, with its admin addresses."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from canaryproxy import config
from canaryproxy.supervisor import Supervisor
from tests.admin.fake import TOKEN, FakeControl, Served


@dataclass
class Proxy:
    """What runs."""

    supervisor: Supervisor
    admin: Served
    """Asks its admin addresses; ``control`` and ``server`` are not of this proxy."""
    url: str
    file: Path

    async def traffic(self, count: int) -> None:
        """Send requests of as many users."""
        async with ClientSession() as session:
            for number in range(count):
                async with session.get(self.url, headers={"X-User-Id": str(number)}) as answer:
                    assert answer.status == 200


def text_of(*, stable: int, canary: int, port: int, admin: int, folder: Path) -> str:
    """Return a configuration."""
    return f"""\
listen: 127.0.0.1:{port}
admin:
  socket: {folder}/admin.sock
  listen: 127.0.0.1:{admin}
  token_file: {folder}/token
variants:
  stable: {{endpoints: ["http://127.0.0.1:{stable}"]}}
  canary: {{endpoints: ["http://127.0.0.1:{canary}"]}}
split: {{sticky: {{header: X-User-Id}}}}
release:
  id: cart-2.4
  steps: [{{weight: 5, bake: 5m, min_requests: 500}}, {{weight: 50, bake: 5m}}, {{weight: 100}}]
judge: {{metrics: {{business: {{outcome: events}}}}}}
state: {folder}/state.json
"""


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[Proxy]:
    """Run a proxy in ``folder``."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as stable, TestServer(app) as canary:
        assert stable.port is not None
        assert canary.port is not None
        (folder / "token").write_text(TOKEN)
        port, admin = free_port(), free_port()
        text = text_of(
            stable=stable.port, canary=canary.port, port=port, admin=admin, folder=folder
        )
        file = folder / "canaryproxy.yaml"
        file.write_text(text)
        supervisor = Supervisor(config.parse(text, file=str(file)), file)
        await supervisor.start()
        served = Served(
            FakeControl(),
            supervisor._admin,
            f"{folder}/admin.sock",
            admin,
            CollectorRegistry(),
        )
        try:
            yield Proxy(supervisor, served, f"http://127.0.0.1:{port}/", file)
        finally:
            for writer in served.writers:
                writer.transport.abort()
            await supervisor.shut_down()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
