"""``strict``: the same requests refused, or mended, forwarded and counted."""

from __future__ import annotations

import pytest

from canaryproxy.measure.counters import REFUSED, TOLERATED

from .harness import OK, Upstream, always, proxy, variants

HEADS = [
    "GET /größe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode(),
    b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
]


async def test_report_forwards_what_enforce_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more="strict: report")) as running,
    ):
        for head in HEADS:
            assert (await running.ask(head)).endswith(b"ok")
        assert b"GET /gr%C3%B6%C3%9Fe HTTP/1.1\r\n" in upstream.got
        assert upstream.got.count(b"\r\nHost: 127.0.0.1:%d\r\n" % running.port) == 2
        assert list(running.counters.proxy[TOLERATED : TOLERATED + 2]) == [1, 2]
    assert len([line for line in caplog.messages if "strict: enforce would refuse" in line]) == 2


async def test_enforce_refuses_them() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        for head in HEADS:
            assert (await running.ask(head)).startswith(b"HTTP/1.1 400 ")
        assert upstream.got == b""
        assert running.counters.proxy[REFUSED + 400] == 3
        assert list(running.counters.proxy[TOLERATED : TOLERATED + 2]) == [0, 0]
