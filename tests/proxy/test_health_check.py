"""One health check against real sockets: what it asks, and what each kind of response means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from canaryproxy.config import ClientTls, Health
from canaryproxy.config.addresses import endpoint
from canaryproxy.proxy.health_check import HealthCheck
from canaryproxy.tls.contexts import client_context
from tests.certificates import Authority
from tests.ports import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def serving(
    serve: Serve, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[int]:
    """Serve connections on a port of the loopback, or at a path."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    if path is not None:
        async with await asyncio.start_unix_server(one, path):
            yield 0
        return
    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def answering(response: bytes, asked: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(head)
        writer.write(response)

    return serve


async def ask(
    url: str,
    rules: dict[str, object] | None = None,
    context: ssl.SSLContext | None = None,
    address: str = "",
    server_name: str | None = None,
) -> str:
    found = replace(endpoint(url), address=address)
    wanted = Health.model_validate({"path": "/up", **(rules or {})})
    check = HealthCheck(found, wanted, asyncio.get_running_loop())
    check.secure(context, server_name)
    return await check.ask()


async def said(serve: Serve, rules: dict[str, object] | None = None) -> str:
    async with serving(serve) as port:
        return await ask(f"http://127.0.0.1:{port}", rules)


def status(line: str, more: str = "") -> Serve:
    return answering(f"HTTP/1.1 {line}\r\n{more}Content-Length: 0\r\n\r\n".encode())


async def test_the_status_decides_and_no_redirect_is_followed() -> None:
    assert not await said(status("204 No Content"))
    assert not await said(status("200"))
    assert await said(status("503 No")) == "status 503, wanted 2xx"
    assert not await said(status("404 No"), {"statuses": ("2xx", 404)})
    assert await said(status("404 No"), {"statuses": ("2xx", 301)}) == "status 404, wanted 2xx, 301"
    elsewhere = status("302 Found", "Location: http://127.0.0.1:1/\r\n")
    assert await said(elsewhere) == "status 302, wanted 2xx"
    interim = answering(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 3 + OK)
    assert not await said(interim)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (b"", "connection closed without a response (closed)"),
        (
            b"HTTP/1.1 200",
            "connection closed without a response (closed after 12 bytes of its head)",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "invalid response (not HTTP/1.x)"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "invalid response (malformed status line)"),
        (b"\x00" * 70000, "invalid response ("),
        (b"HTTP/1.1 2OO OK\r\n\r\n", "invalid response (malformed status line)"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "invalid response (head too large)"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "invalid response (",
        ),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 200, "more than 100 interim responses"),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "not asked for",
        ),
    ],
    ids=lambda value: str(value[:20]),
)
async def test_what_is_no_valid_response_fails_with_its_reason(response: bytes, why: str) -> None:
    assert why in await said(answering(response))


async def test_a_closed_port_fails_with_its_reason() -> None:
    refused = await ask(f"http://127.0.0.1:{free_port()}")
    assert refused == "connection refused (ECONNREFUSED, errno 111)"


async def test_a_server_that_hangs_or_drips_has_the_timeout_and_its_connection_ends() -> None:
    ended: list[str] = []

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        while await reader.read(4096):
            pass
        ended.append("hang")

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"X: x\r\n")
                await writer.drain()
                await asyncio.sleep(0.002)
        finally:
            ended.append("drip")

    for serve in (hang, drip):
        assert await said(serve, {"timeout": "200ms"}) == "no response within 200ms"
    async with asyncio.timeout(60):
        while len(ended) < 2:  # noqa: ASYNC110 - of the servers, whose end has no event
            await asyncio.sleep(0.002)


async def test_a_body_without_an_end_is_not_read() -> None:
    sent: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            for _ in range(1000):
                writer.write(bytes(1_000_000))
                sent.append(1_000_000)
                await writer.drain()
        finally:
            sent.append(-1)

    assert not await said(serve)
    async with asyncio.timeout(60):
        while sent[-1:] != [-1]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.002)
    assert sum(sent) < 100_000_000


async def test_it_asks_for_the_path_with_the_configured_name_as_host(tmp_path: Path) -> None:
    asked: list[bytes] = []
    serve = answering(OK, asked)
    async with serving(serve) as port:
        await ask(f"http://127.0.0.1:{port}")
        await ask(f"http://127.0.0.1:{port}", {"path": "/up/%2F?a=1", "host": "shop.example"})
        await ask(f"http://cart.test.:{port}", address="127.0.0.1")
        await ask(f"http://cart.test:{port}", {"host": "other"}, address="127.0.0.1")
    assert asked[0] == (
        b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: canaryproxy-health-check\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n" % port
    )
    assert asked[1].startswith(b"GET /up/%2F?a=1 HTTP/1.1\r\nHost: shop.example\r\n")
    assert asked[2].startswith(b"GET /up HTTP/1.1\r\nHost: cart.test:%d\r\n" % port)
    assert asked[3].startswith(b"GET /up HTTP/1.1\r\nHost: other\r\n")
    async with serving(serve, path=tmp_path / "s"):
        assert not await ask(f"unix:{tmp_path}/s")
    assert asked[4].startswith(b"GET /up HTTP/1.1\r\nHost: localhost\r\n")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://cart.test", b"cart.test"),
        ("https://cart.test:443", b"cart.test"),
        ("https://cart.test:80", b"cart.test:80"),
        ("http://[fd00::7]", b"[fd00::7]"),
        ("http://[fd00::7]:81", b"[fd00::7]:81"),
    ],
)
async def test_the_default_port_is_not_in_host(url: str, host: bytes) -> None:
    check = HealthCheck(
        endpoint(url), Health.model_validate({"path": "/"}), asyncio.get_running_loop()
    )
    assert b"\r\nHost: %b\r\n" % host in check._head


async def test_tls_is_that_of_the_variant_with_the_configured_name(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    names: list[str | None] = []

    def server(pair_name: str, *, clients: bool = False) -> ssl.SSLContext:
        context = ours.server(ours.pair(pair_name, file=pair_name), clients=clients)
        context.sni_callback = lambda _, name, __: names.append(name)
        return context

    def trusting(authority: Authority) -> ssl.SSLContext:
        tls = ClientTls(ca=str(authority.ca))
        return client_context(tls, {str(authority.ca): authority.ca.read_bytes()})

    async with serving(answering(OK), server("cart.test")) as port:
        url, here = f"https://cart.test:{port}", "127.0.0.1"
        assert not await ask(url, None, trusting(ours), here)
        assert names == ["cart.test"]
        assert not await ask(url, {"host": "x.test"}, trusting(ours), here), "Host is not SNI"
        assert not await ask(f"https://a.test:{port}", None, trusting(ours), here, "cart.test")
        assert names == ["cart.test"] * 3
        why = await ask(url, None, trusting(other), here)
        assert why == "certificate not verified (unable to get local issuer certificate)"
        why = await ask(f"https://shop.test:{port}", None, trusting(ours), here)
        assert why.startswith("certificate not verified (Hostname mismatch")
        assert not await ask(url, None, client_context(ClientTls(verify=False), {}), here)
    async with serving(answering(OK), server("cart.test", clients=True)) as port:
        why = await ask(f"https://cart.test:{port}", None, trusting(ours), here)
        assert why, "it wants a certificate of ours"

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with serving(plain) as port:
        why = await ask(f"https://cart.test:{port}", None, trusting(ours), here)
        assert why.startswith("TLS handshake failed (")
