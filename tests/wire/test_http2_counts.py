"""What is counted and logged of connections and streams of HTTP/2."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from canaryproxy.http2.errors import PROTOCOL_ERROR
from canaryproxy.http2.frames import PING, PREFACE, SETTINGS, frame
from canaryproxy.measure.counters import (
    CONNECTIONS_CLOSED,
    CONNECTIONS_OPENED,
    HTTP2,
    HTTP2_CLOSED,
    HTTP2_FAILED,
    HTTP2_OPENED,
    HTTP2_RESETS,
    ROUTED,
    Http2Failure,
)

from .h2client import GET, POST, H2Client
from .harness import OK, Link, Proxy, Upstream, always, proxy, until, variants


def proxys(running: Proxy, first: int, count: int = 1) -> list[int]:
    return running.counters.proxy[first : first + count].tolist()


async def test_connections_and_requests_are_counted_by_protocol() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        for _ in range(3):
            await client.fetch()
        await running.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert running.counters.stable[ROUTED] == 4
        assert running.counters.stable[HTTP2] == 3
        assert proxys(running, CONNECTIONS_OPENED) == [2]
        assert proxys(running, HTTP2_OPENED) == [1]
        client.client.close()
        await until(lambda: proxys(running, CONNECTIONS_CLOSED) == [2], "both ends")
        assert proxys(running, HTTP2_CLOSED) == [1]


async def test_a_reset_of_the_client_is_counted_as_his() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask()
        client.h2.reset_stream(number, 8)
        await client.flush()
        await until(lambda: proxys(running, HTTP2_RESETS, 2) == [1, 0], "the reset")


async def test_a_malformed_request_is_counted_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch([*GET, (b"a", b"b\0c")])).reset == PROTOCOL_ERROR
        short = await client.ask([*POST, (b"content-length", b"9")], b"abc")
        assert (await client.reply(short)).reset == PROTOCOL_ERROR
        client.client.close()
        await until(lambda: proxys(running, HTTP2_RESETS, 2) == [0, 2], "the resets")
    assert [one.getMessage() for one in caplog.records if "HTTP/2: " in one.getMessage()] == [
        "HTTP/2: stream reset with PROTOCOL_ERROR: malformed message: field value, from 127.0.0.1",
        "HTTP/2: stream reset with PROTOCOL_ERROR: less data than Content-Length, from 127.0.0.1",
    ]


async def test_a_flood_is_counted_and_the_log_names_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        attacker = await running.connect()
        pings = frame(PING, 0, 0, bytes(8)) * 3000
        await attacker.send(PREFACE + frame(SETTINGS, 0, 0) + pings)
        calm = HTTP2_FAILED + Http2Failure.ENHANCE_YOUR_CALM
        await until(lambda: proxys(running, calm) == [1], "the end")
        assert proxys(running, HTTP2_CLOSED) == [1]
    assert "HTTP/2: connection closed with ENHANCE_YOUR_CALM: too many pings, from 127.0.0.1" in [
        one.getMessage() for one in caplog.records
    ]


async def test_a_trace_goes_on_or_begins_and_the_access_log_has_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    more = f"trace: {{create: true}}\naccess_log: {{path: {log}, format: json}}\n"
    trace = b"0af7651916cd43dd8448eb211c80319c"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await H2Client.to(running)
        await client.fetch([*GET, (b"traceparent", b"00-%b-b7ad6b7169203331-01" % trace)])
        await client.fetch()
        await until(lambda: log.exists() and log.read_text().count("\n") == 2, "two lines")
        first, second = (json.loads(line)["trace_id"] for line in log.read_text().splitlines())
        assert first.encode() == trace
        assert b"traceparent: 00-%b-b7ad6b7169203331-01\r\n" % trace in upstream.got
        assert b"traceparent: 00-%b-" % second.encode() in upstream.got
        assert len(second) == 32
