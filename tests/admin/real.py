"""A whole proxy as its command, in front of small services, with its admin addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tests.admin.fake import TOKEN, Client
from tests.ports import free_port
from tests.system.processes import Process


@dataclass
class Proxy(Client):
    """What runs."""

    url: str = ""
    """Where users come in."""
    process: Process | None = None

    async def release(self) -> dict[str, Any]:
        """Return the release document."""
        document: dict[str, Any] = (await self.ask("GET", "/v1/release")).json
        return document

    async def wait_for(self, **wanted: Any) -> None:
        """Wait until the release document has these values."""
        async with asyncio.timeout(60):
            while not wanted.items() <= (await self.release()).items():  # noqa: ASYNC110
                await asyncio.sleep(0.03)

    async def traffic(self, count: int) -> list[str]:
        """Send requests of as many users; return the variant of each."""
        variants = []
        async with ClientSession() as session:
            for number in range(count):
                async with session.get(self.url, headers={"X-User-Id": str(number)}) as answer:
                    assert answer.status == 200
                    variants.append(await answer.text())
        return variants


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
judge: {{baseline: 0s, metrics: {{business: {{outcome: events}}}}}}
state: {folder}/state.json
"""


def _service(variant: str) -> web.Application:
    """Return a service that says which variant it is."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=variant)

    app = web.Application()
    app.router.add_get("/", answer)
    return app


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[Proxy]:
    """Run a proxy in ``folder``."""

    async with (
        TestServer(_service("stable")) as stable,
        TestServer(_service("canary")) as canary,
    ):
        assert stable.port is not None
        assert canary.port is not None
        (folder / "token").write_text(TOKEN)
        port, admin = free_port(), free_port()
        text = text_of(
            stable=stable.port, canary=canary.port, port=port, admin=admin, folder=folder
        )
        file = folder / "canaryproxy.yaml"
        file.write_text(text)
        process = Process("-m", "canaryproxy", "run", "-c", str(file), folder=folder)
        running = Proxy(
            f"{folder}/admin.sock", admin, url=f"http://127.0.0.1:{port}/", process=process
        )
        try:
            async with asyncio.timeout(60):
                while not await _is_ready(running):
                    assert process.child.poll() is None, process.log.read_text()
                    await asyncio.sleep(0.02)
            yield running
        finally:
            for writer in running.writers:
                writer.transport.abort()
            process.end()


async def _is_ready(running: Proxy) -> bool:
    try:
        return (await running.ask("GET", "/readyz")).status == 200
    except (ConnectionError, FileNotFoundError):
        return False
