"""Who the client of a stream is: PROXY headers, trusted proxies, Unix sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from canaryproxy import config
from canaryproxy.config import UnixAddress
from canaryproxy.http2.connection import Connection

from .h2client import GET, H2Client
from .harness import OK, Client, Upstream, always, proxy, until, variants
from .test_handshake import BINARY, LINE, LOCAL, expecting, listening

TRUST = 'forwarded: {trust: ["127.0.0.0/8"]}\n'
FORWARDED = [
    *GET,
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop.example"),
]


@pytest.mark.parametrize("cut", [1, 20, 1000])
@pytest.mark.parametrize(
    ("header", "address", "node"),
    [
        (LINE, b"192.0.2.1", b"192.0.2.1"),
        (BINARY, b"2001:db8::1", b'"[2001:db8::1]"'),
        (LOCAL, b"127.0.0.1", b"127.0.0.1"),
    ],
)
async def test_a_proxy_header_comes_before_the_preface(
    header: bytes, address: bytes, node: bytes, cut: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    text = expecting("true", f"access_log: {{path: {log}, format: json}}")
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(text + variants(upstream.port)) as running,
    ):
        client, near = await running.connect(), Connection(client=True)
        near.open(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"http", ends=True)
        data = header + near.take()
        for at in range(0, len(data), cut):
            await client.send(data[at : at + cut])
            await asyncio.sleep(0)
        await client.take(b"ok")
        assert b"\r\nX-Forwarded-For: %b\r\n" % address in upstream.got
        assert b"\r\nForwarded: for=%b;" % node in upstream.got
        await until(lambda: log.exists() and log.read_text(), "line of the log")
    line = json.loads(log.read_text())
    assert (line["peer"].encode(), line["protocol"]) == (address, "HTTP/2.0")


async def test_what_a_trusted_proxy_says_is_kept_and_what_others_say_is_replaced() -> None:
    async with Upstream(always(OK)).serving() as upstream:
        async with proxy(variants(upstream.port, more=TRUST)) as running:
            assert (await (await H2Client.to(running)).fetch(FORWARDED)).status == 200
        trusted = upstream.got
        assert b"x-forwarded-proto: https\r\n" in trusted.lower()
        assert b"x-forwarded-host: shop.example\r\n" in trusted.lower()
        assert b"x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n" in trusted.lower()
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        assert (await (await H2Client.to(running)).fetch(FORWARDED)).status == 200
        got = upstream.got.lower()
    assert b"x-forwarded-proto: http\r\n" in got
    assert b"x-forwarded-host: h\r\n" in got
    assert b"x-forwarded-for: 127.0.0.1\r\n" in got
    assert b"203.0.113.9" not in got


async def test_a_cookie_is_secure_behind_a_proxy_that_says_https() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=TRUST)) as running,
    ):
        client = await H2Client.to(running)
        new = [*GET[:4], (b"x-forwarded-proto", b"https")]
        assert b"; Secure" in (await client.fetch(new)).head[b"set-cookie"]
        assert b"; Secure" not in (await client.fetch(GET[:4])).head[b"set-cookie"]


async def test_http_2_over_a_unix_socket() -> None:
    with TemporaryDirectory(prefix="cp-") as folder:
        address = UnixAddress(f"{folder}/p.sock")
        async with (
            Upstream(always(OK)).serving() as upstream,
            listening(variants(upstream.port), address),
        ):
            streams = await asyncio.open_unix_connection(address.path)
            client = H2Client(Client(*streams))
            client.h2.initiate_connection()
            assert (await client.fetch(FORWARDED)).body == b"ok"
            assert b"\r\nx-forwarded-for: 203.0.113.9\r\n" in upstream.got.lower()
            streams[1].close()


async def test_a_reload_takes_effect_with_the_next_stream() -> None:
    async with (
        Upstream(always(OK)).serving() as before,
        Upstream(always(OK)).serving() as after,
        proxy(variants(before.port)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch(FORWARDED)).status == 200
        wanted = config.parse(variants(after.port, more=TRUST), file="test.yaml")
        running.reconfigure(wanted)
        assert (await client.fetch(FORWARDED)).status == 200
        assert b"203.0.113.9" not in before.got
        assert b"203.0.113.9" in after.got
        assert not client.last
