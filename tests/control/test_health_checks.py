"""Health checks against real sockets: what each kind of response means, and who is taken out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from canaryproxy import config as configuration
from canaryproxy.config import Config
from canaryproxy.control.health_checks import HealthChecks, check
from canaryproxy.control.outs import Outs
from canaryproxy.measure.shared_memory import CHECK, OutCell
from tests.ports import free_port


class Service:
    """Answers each connection with ``answer`` and remembers what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answer != b"hang":
            writer.write(self.answer)
        else:
            await reader.read()  # until the client has had enough
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def serving(self, path: str | None = None) -> AsyncIterator[Service]:
        server = (
            await asyncio.start_server(self._serve, "127.0.0.1", 0)
            if path is None
            else await asyncio.start_unix_server(self._serve, path)
        )
        if path is None:
            self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


def status(line: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {line}\r\n{more}Content-Length: 0\r\n\r\n".encode()


def config(urls: list[str], health: str = "path: /up", more: str = "") -> Config:
    text = f"variants: {{stable: {{endpoints: {urls}, health: {{{health}}}}}}}\n{more}"
    return configuration.parse(text, file="test")


async def said(answer: bytes, health: str = "path: /up") -> str:
    async with Service(answer).serving() as service:
        return await ask(f"http://127.0.0.1:{service.port}", health)


async def ask(url: str, health: str = "path: /up") -> str:
    stable = config([url], health).variants.stable
    assert stable.health is not None
    return await check(stable.endpoints[0], stable.health, None, None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of the code under test, which has no event for it
            await asyncio.sleep(0.005)


async def test_what_passes_and_what_does_not() -> None:
    assert not await said(status("204 No Content"))
    assert await said(status("503 No")) == "status 503, wanted 2xx"
    assert not await said(status("404 No"), "path: /up, statuses: [2xx, 404]")
    elsewhere = status("302 Found", "Location: http://127.0.0.1:1/\r\n")
    assert await said(elsewhere) == "status 302, wanted 2xx", "no redirect is followed"
    assert await said(b"hang", "path: /up, timeout: 50ms") == "no response within 50ms"
    assert await said(b"") == "the connection was closed without a response"
    assert await said(b"SSH-2.0-x\r\n\r\n") == "no valid response: Bad status line"
    refused = await ask(f"http://127.0.0.1:{free_port()}")
    assert refused == "cannot connect: connection refused"


async def test_what_it_asks(tmp_path: Path) -> None:
    async with Service(status("200 OK")).serving() as service:
        await ask(f"http://127.0.0.1:{service.port}", "path: /up")
        await ask(f"http://127.0.0.1:{service.port}", "path: /up/%2F, host: shop.example")
        first, second = service.asked
    assert first.startswith(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % service.port)
    assert b"User-Agent: canaryproxy-health-check\r\n" in first
    assert second.startswith(b"GET /up/%2F HTTP/1.1\r\nHost: shop.example\r\n")
    path = str(tmp_path / "s")
    async with Service(status("200 OK")).serving(path):
        assert not await ask(f"unix:{path}")


async def test_an_endpoint_that_fails_is_out_until_it_rises_and_a_reload_keeps_or_forgets_it() -> (
    None
):
    outs = Outs(OutCell())
    checks = HealthChecks(outs)
    fast = "path: /up, interval: 20ms, timeout: 1s, rise: 2, fall: 2"
    async with Service(status("200 OK")).serving() as good, Service(status("200")).serving() as bad:
        urls = [f"http://127.0.0.1:{one.port}" for one in (good, bad)]
        checks.configure(config(urls, fast), {})
        try:
            await until(lambda: len(bad.asked) > 2)
            assert not outs.urls(CHECK, 0)
            bad.answer = status("503 No")
            await until(lambda: outs.cause(0, urls[1]) == "check failed: status 503, wanted 2xx")
            assert outs.urls(CHECK, 0) == {urls[1]}
            checks.configure(config([urls[1]], fast), {})
            assert outs.urls(CHECK, 0) == {urls[1]}, "a reload keeps its state"
            bad.answer = status("200 OK")
            await until(lambda: not outs.urls(CHECK, 0))
            bad.answer = status("503 No")
            await until(lambda: bool(outs.urls(CHECK, 0)))
            plain = configuration.parse(f"variants: {{stable: {{endpoints: {urls}}}}}", file="test")
            checks.configure(plain, {})
            assert not outs.urls(CHECK, 0), "without checks nothing is out"
            asked = len(bad.asked)
            await asyncio.sleep(0.06)
            assert len(bad.asked) == asked
        finally:
            checks.stop()


async def test_after_a_restart_it_stays_out_until_it_has_risen() -> None:
    memory = bytearray(OutCell.SIZE)
    async with Service(status("200 OK")).serving() as service:
        url = f"http://127.0.0.1:{service.port}"
        Outs(OutCell(memory)).put(CHECK, 0, {url: "check failed: status 503"})
        outs = Outs(OutCell(memory))
        checks = HealthChecks(outs)
        checks.configure(config([url], "path: /up, interval: 10ms, timeout: 1s, rise: 3"), {})
        try:
            assert outs.urls(CHECK, 0) == {url}
            await until(lambda: not outs.urls(CHECK, 0))
            assert len(service.asked) >= 3
        finally:
            checks.stop()


def test_a_timeout_longer_than_the_interval_is_warned_of() -> None:
    found = config(["http://h:1"], "path: /, interval: 1s, timeout: 3s")
    assert configuration.warnings(found) == (
        "variants.stable.health.timeout (3s) is longer than its interval (1s): an endpoint that hangs is"
        " checked less often",
    )
