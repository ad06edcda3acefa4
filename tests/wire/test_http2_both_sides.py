"""HTTP/1.1 and HTTP/2 on either side of the proxy: real programs, rescue, copies, health checks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from canaryproxy.config import Health
from canaryproxy.config.addresses import endpoint
from canaryproxy.measure import counters
from canaryproxy.measure.counters import FINISHED, ROUTED
from canaryproxy.proxy.health_check import HealthCheck
from canaryproxy.tls.contexts import client_context
from tests.ports import free_port

from ..certificates import authority, loopback
from .h2client import GET, H2Client
from .h2server import Asked, H2Server, plain
from .harness import COOKIE, OK, Link, Upstream, always, proxy, until
from .test_http2 import needs, run
from .test_http2_upstream import to

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n" + COOKIE + b"\r\n"
FIELDS = [(b":status", b"200"), (b"content-type", b"text/plain")]


@asynccontextmanager
async def nghttpd(root: Path, *, tls: bool) -> AsyncIterator[int]:
    """Serve a folder by nghttpd, which sends back what is uploaded, with a trailer each."""
    port = free_port()
    pair = loopback()
    arguments = [str(pair.key), str(pair.cert)] if tls else ["--no-tls"]
    process = await asyncio.create_subprocess_exec(
        "nghttpd",
        *("-a", "127.0.0.1", "-d", str(root), "--echo-upload", "--trailer=x-sum: 1"),
        *(str(port), *arguments),
    )
    try:
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield port
    finally:
        process.terminate()
        await process.wait()


@needs("nghttpd")
@needs("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("tls", [False, True])
async def test_curl_and_nghttpd_exchange_files_and_uploads(
    tmp_path: Path, version: str, tls: bool
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 8192)
    async with nghttpd(tmp_path, tls=tls) as port, proxy(to(port, tls=tls)) as running:
        url = f"http://127.0.0.1:{running.port}"
        got, sent = tmp_path / "got", tmp_path / "sent"
        code, output = await run("curl", "-sS", version, "-o", str(got), f"{url}/large")
        assert (code, output) == (0, "")
        assert got.read_bytes() == large.read_bytes()
        upload = ("-T", str(large), "-X", "POST", "-H", "Expect: 100-continue")
        code, output = await run("curl", "-sS", version, *upload, "-o", str(sent), f"{url}/echo")
        assert (code, output) == (0, "")
        assert sent.read_bytes() == large.read_bytes()


@needs("nghttpd")
@needs("h2load")
@pytest.mark.parametrize("version", [("--h1",), ("-m", "25")])
async def test_h2load_loses_nothing_at_nghttpd(tmp_path: Path, version: tuple[str, ...]) -> None:
    (tmp_path / "small").write_text("ok")
    async with nghttpd(tmp_path, tls=False) as port, proxy(to(port)) as running:
        url = f"http://127.0.0.1:{running.port}/small"
        code, output = await run("h2load", "-n", "1000", "-c", "4", *version, url)
        assert code == 0
        assert "status codes: 1000 2xx" in output
        assert running.counters.stable[ROUTED] == running.counters.stable[FINISHED] == 1000
        (endpoint,) = running.service.context.pools[0].endpoints
        assert (endpoint.active, endpoint.open) == (0, 1)


async def answers(asked: Asked) -> None:
    await asked.end()
    await asked.reply(FIELDS, b"abc", [(b"x-sum", b"1")])


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
)


@pytest.mark.parametrize("upstream_of", [1, 2])
@pytest.mark.parametrize("client_of", [1, 2])
async def test_every_combination_passes_content_and_trailers(
    client_of: int, upstream_of: int
) -> None:
    made = H2Server(answers) if upstream_of == 2 else Upstream(always(CHUNKED))
    async with made.serving() as upstream:
        scheme = "h2c" if upstream_of == 2 else "http"
        text = f'variants:\n  stable: {{endpoints: ["{scheme}://127.0.0.1:{upstream.port}"]}}\n'
        async with proxy(text) as running:
            if client_of == 1:
                raw = await running.connect()
                await raw.send(REQUEST)
                got = (await raw.take(b"\r\n\r\n", 2)).lower()
                assert got.endswith(b"\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")
                assert b"content-type: text/plain\r\n" in got
            else:
                client = await H2Client.to(running)
                reply = await client.fetch()
                assert (reply.body, reply.trailers) == (b"abc", {b"x-sum": b"1"})
                assert reply.head[b"content-type"] == b"text/plain"


# What the data path does besides


def both(stable: str, canary: str, more: str = "") -> str:
    """Return a configuration with an endpoint of each variant, by URL."""
    return (
        f'variants:\n  stable: {{endpoints: ["{stable}"]}}\n  canary: {{endpoints: ["{canary}"]}}\n'
        f"split: {{weight: 100}}\n{more}"
    )


@pytest.mark.parametrize("canary_of", [1, 2])
async def test_stable_of_the_other_version_rescues_the_canary(canary_of: int) -> None:
    async def fails(asked: Asked) -> None:
        await asked.end()
        await asked.reply([(b":status", b"503")], b"")

    failing = always(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    first = H2Server(fails if canary_of == 2 else plain)
    second = Upstream(always(OK) if canary_of == 2 else failing)
    async with first.serving() as of_2, second.serving() as of_1:
        urls = [f"http://127.0.0.1:{of_1.port}", f"h2c://127.0.0.1:{of_2.port}"]
        stable, canary = urls if canary_of == 2 else urls[::-1]
        async with proxy(both(stable, canary)) as running:
            client = await H2Client.to(running)
            reply = await client.fetch()
            assert (reply.status, reply.body) == (200, b"ok")
            assert running.counters.canary[counters.RESCUED] == 1


async def test_a_copy_goes_to_a_canary_of_http_2() -> None:
    text = "mirror: {percent: 100}\n"
    async with (
        Upstream(always(OK)).serving() as stable,
        H2Server(plain).serving() as canary,
        proxy(
            both(f"http://127.0.0.1:{stable.port}", f"h2c://127.0.0.1:{canary.port}").replace(
                "weight: 100", "weight: 0"
            )
            + text
        ) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(REQUEST)
            await client.take(b"\r\n\r\nok", count)
            done = partial(lambda cell: running.counters.service[cell], counters.MIRRORED + 2)
            await until(lambda done=done, count=count: done() == count)  # type: ignore[misc]
        assert [one.head[b"x-canary-mirror"] for one in canary.asked] == [b"1", b"1"]
        assert len(canary.peers) == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_a_health_check_asks_over_http_2(tls: bool) -> None:
    statuses = iter((b"200", b"500"))

    async def answer(asked: Asked) -> None:
        await asked.reply([(b":status", next(statuses))], b"x" * 100_000)

    async with H2Server(answer).serving(tls=tls) as upstream:
        found = endpoint(f"{'h2' if tls else 'h2c'}://localhost:{upstream.port}")
        check = HealthCheck(
            found, Health.model_validate({"path": "/up"}), asyncio.get_running_loop()
        )
        if tls:
            context = client_context(None, {}, http2=True)
            context.load_verify_locations(authority().ca)
            check.secure(context, None)
        assert await check.ask() == ""
        assert await check.ask() == "status 500, wanted 2xx"
        head = upstream.asked[0].head
        assert head[b":path"] == b"/up"
        assert head[b":authority"] == f"localhost:{upstream.port}".encode()
        await until(lambda: all(one.closed for one in upstream.peers), "close")
        assert len(upstream.peers) == 2


async def test_a_health_check_of_an_endpoint_of_http_1_over_http_2_fails() -> None:
    async def answer(link: Link) -> None:
        await link.read()
        await link.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with Upstream(answer).serving() as upstream:
        found = endpoint(f"h2c://127.0.0.1:{upstream.port}")
        check = HealthCheck(
            found, Health.model_validate({"path": "/up"}), asyncio.get_running_loop()
        )
        assert "does not speak HTTP/2" in await check.ask()


async def test_the_access_log_names_the_endpoint_of_http_2(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with (
        H2Server(plain).serving() as upstream,
        proxy(to(upstream.port, more=f"access_log: {{path: {path}}}\n")) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch(GET)).status == 200
        assert running.log is not None
        await until(lambda: path.exists() and path.read_text().endswith("\n"))
        line = json.loads(path.read_text())
        assert (line["endpoint"], line["status"]) == (f"127.0.0.1:{upstream.port}", 200)


async def test_a_name_stands_for_endpoints_of_http_2() -> None:
    async with H2Server(plain).serving() as upstream:
        name = endpoint(f"h2c://service.test:{upstream.port}")
        text = f'variants:\n  stable: {{endpoints: ["{name}"]}}\n'
        async with proxy(text) as running:
            running.datapath.resolve({str(name): (("127.0.0.1", 0),)})
            client = await H2Client.to(running)
            assert (await client.fetch()).status == 200
            assert upstream.asked[0].head[b":scheme"] == b"http"
