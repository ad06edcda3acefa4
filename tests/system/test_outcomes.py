"""Outcomes in a running release: what they cannot see holds it, with the reason in words."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brotli
import pytest
import uvloop
from backports import zstd

from .processes import Proxy, proxy, variants

RELEASE = """
release: {{id: r1, steps: [{{weight: 50, bake: 1h}}, {{weight: 100}}]}}
judge:
  baseline: 0s
  outcomes: {{no_results: {{when: {{json: {{pointer: {pointer}, is: empty}}}}, bad: true}}}}
"""
BODY = json.dumps({"padding": "x" * 70 * 1024, "results": [1]}).encode()
PACKED = {"br": brotli.compress(BODY), "zstd": zstd.compress(BODY), "exi": BODY, "identity": BODY}


@dataclass
class Service:
    """An upstream whose responses are in a coding that the test may change."""

    coding: str
    port: int = 0

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                body = PACKED[self.coding]
                head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {self.coding}\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def ask(port: int, user: str) -> None:
    """Send one request of a user, and read the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = f"Host: h\r\nConnection: close\r\nCookie: canary_id={user}\r\n\r\n"
        writer.write(f"GET /search HTTP/1.1\r\n{lines}".encode())
        assert b" 200 " in await reader.read()
    finally:
        writer.close()


class Release:
    """A release under way, and users who ask."""

    def __init__(self, stable: Service, canary: Service, running: Proxy) -> None:
        self.stable = stable
        self.canary = canary
        self._proxy = running
        self._users = map("user{}".format, itertools.count())

    async def ask_until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Let users ask until a condition holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.gather(*(ask(self._proxy.port, next(self._users)) for _ in range(5)))
                await asyncio.sleep(0.05)

    @property
    def blindness(self) -> list[str]:
        """Why the release is held, as far as outcomes are blind."""
        view: dict[str, Any] = json.loads(self._proxy.ask("GET", "/v1/release"))
        return [text for text in view["holds"] if "blind" in text]

    def count(self, name: str, variant: str) -> float:
        """Return a metric of the outcome, its reasons added up."""
        labels = f'variant="{variant}"'
        return sum(
            value
            for series, value in self._proxy.metrics().items()
            if series.startswith(f"canaryproxy_{name}_total") and labels in series
        )

    def looked_into(self, least: int) -> bool:
        """Tell whether so many bodies of each variant were looked into."""
        return all(
            self.count("outcome_pointers_followed", variant) >= least
            for variant in ("stable", "canary")
        )


def run(folder: Path, coding: str, pointer: str, script: Callable[[Release], Any]) -> None:
    async def scene() -> None:
        stable, canary = Service(coding), Service(coding)
        async with await stable.serve(), await canary.serve():
            config = variants([stable.port], [canary.port])
            running = proxy(folder, config, RELEASE.format(pointer=pointer))
            try:
                await script(Release(stable, canary, await asyncio.to_thread(running.__enter__)))
            finally:
                running.__exit__(None, None, None)

    uvloop.run(scene())


@pytest.mark.parametrize("coding", ["br", "zstd", "identity"])
def test_long_and_packed_bodies_are_seen(tmp_path: Path, coding: str) -> None:
    async def script(release: Release) -> None:
        await release.ask_until(lambda: release.looked_into(60))
        assert release.blindness == []
        assert release.count("outcome_blind", "canary") == 0
        assert release.count("outcome_pointers_found", "stable") >= 60

    run(tmp_path, coding, "/results", script)


def test_a_misspelt_path_holds_with_the_reason(tmp_path: Path) -> None:
    async def script(release: Release) -> None:
        await release.ask_until(lambda: release.blindness)
        (text,) = release.blindness
        assert text.startswith("outcome no_results is blind: its path is in none of ")
        assert release.count("outcome_pointers_found", "stable") == 0

    run(tmp_path, "br", "/result", script)


def test_an_outcome_that_becomes_blind_holds_with_the_reason(tmp_path: Path) -> None:
    async def script(release: Release) -> None:
        await release.ask_until(lambda: release.looked_into(60))
        assert release.blindness == []
        release.canary.coding = "exi"
        await release.ask_until(lambda: release.count("outcome_blind", "canary"), 15)
        await release.ask_until(lambda: release.blindness)
        (text,) = release.blindness
        assert text.startswith("outcome no_results is blind: ")
        assert "canary responses" in text
        assert release.count("outcome_blind", "stable") == 0

    run(tmp_path, "zstd", "/results", script)
