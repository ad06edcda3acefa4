"""What the access log says of requests on real sockets, and that it never holds one up."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import pytest

from canaryproxy.measure.counters import CLIENT_CLOSED, FINISHED
from tests.ports import free_port

from .harness import (
    COOKIE,
    OK,
    Link,
    Proxy,
    Upstream,
    always,
    proxy,
    until,
    variants,
)

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
TRACE = b"0af7651916cd43dd8448eb211c80319c"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
Line = dict[str, Any]


class Logged:
    """A proxy and its log."""

    def __init__(self, running: Proxy, path: Path) -> None:
        self.running = running
        self._path = path

    async def lines(self, count: int) -> list[Line]:
        """Wait until there are this many lines; there must never be more."""
        log = self.running.log
        assert log is not None
        await until(lambda: log.written >= count, f"{count} lines")
        lines = [json.loads(line) for line in self._path.read_bytes().splitlines()]
        assert len(lines) == count
        return lines

    async def line(self) -> Line:
        (line,) = await self.lines(1)
        return line


@asynccontextmanager
async def logged(
    tmp_path: Path, stable: int, canary: int | None = None, more: str = ""
) -> AsyncIterator[Logged]:
    path = tmp_path / "access.log"
    text = f"access_log: {{path: {path}}}\n"
    async with proxy(variants(stable, canary, text + more)) as running:
        yield Logged(running, path)
    log = running.log
    assert log is not None
    assert log.dropped == 0
    assert b"0123456789abcdef" not in path.read_bytes()  # the sticky cookie


async def ask(running: Proxy, request: bytes, mark: bytes = b"\r\n\r\n", count: int = 1) -> bytes:
    client = await running.connect()
    await client.send(request)
    return await client.take(mark, count)


async def test_a_plain_request(tmp_path: Path) -> None:
    async with (
        Upstream(
            always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        ).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        await ask(
            log.running,
            b"GET /a%20b?c=d HTTP/1.1\r\n" + HOST + COOKIE
            + b'User-Agent: "me"\xe9\r\nReferer: http://u:p@x/\r\nX-Request-Id: r-1\r\n'
            + b"traceparent: 00-" + TRACE + b"-b7ad6b7169203331-00\r\n\r\n",
            b"hello",
        )  # fmt: skip
        line = await log.line()
        assert abs(datetime.fromisoformat(line.pop("time")).timestamp() - time()) < 60
        assert 0 <= line.pop("first_byte") <= line.pop("duration") < 60
        assert 0 <= line.pop("bucket") < 10_000
        assert line == {
            "client": "127.0.0.1",
            "peer": "127.0.0.1",
            "method": "GET",
            "target": "/a%20b?c=d",
            "protocol": "HTTP/1.1",
            "status": 200,
            "bytes": 5,
            "variant": "stable",
            "answered_by": "stable",
            "rescued": False,
            "forced": False,
            "endpoint": f"127.0.0.1:{upstream.port}",
            "reason": None,
            "request_id": "r-1",
            "trace_id": TRACE.decode(),
            "grpc_status": None,
            "user_agent": '"me"\xe9',
            "referer": "http://x/",
        }


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000


@pytest.mark.parametrize(
    ("answer", "request_", "mark", "size"),
    [
        (CHUNKED, GET, b"0\r\n\r\n", 5),
        (CHUNKED, b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n", b"abcde", 5),
        (OK.replace(b"ok", b""), GET.replace(b"GET", b"HEAD"), b"\r\n\r\n", 0),
        (LONG, GET, b"x" * 299_990, 300_000),
        (b"HTTP/1.1 204 X\r\n\r\n", GET, b"\r\n\r\n", 0),
        (b"HTTP/1.1 103 X\r\n\r\n" + OK, GET, b"ok", 2),
    ],
    ids=["chunked", "chunked to HTTP/1.0", "HEAD", "long", "204", "103"],
)
async def test_bytes_are_those_of_the_body(
    tmp_path: Path, answer: bytes, request_: bytes, mark: bytes, size: int
) -> None:
    async with (
        Upstream(always(answer)).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        await ask(log.running, request_, mark)
        line = await log.line()
        assert line["bytes"] == size
        assert line["method"] == request_.partition(b" ")[0].decode()
        assert line["protocol"] == ("HTTP/1.0" if b"HTTP/1.0" in request_ else "HTTP/1.1")


async def test_a_body_ended_by_closing(tmp_path: Path) -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        link.close()

    async with (
        Upstream(answer).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        await ask(log.running, GET, b"0\r\n\r\n")
        line = await log.line()
        assert (line["status"], line["bytes"], line["reason"]) == (200, 3, None)


async def test_pipelined_requests_are_told_in_order(tmp_path: Path) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        requests = [GET.replace(b" / ", b" /%d " % number) for number in range(5)]
        await ask(log.running, b"".join(requests) + b"BAD\r\n\r\n", b"HTTP/1.1 ", 6)
        lines = await log.lines(6)
        assert [line["target"] for line in lines] == ["/0", "/1", "/2", "/3", "/4", "BAD"]
        assert [line["status"] for line in lines] == [200] * 5 + [400]


async def test_a_rescued_request_names_both(tmp_path: Path) -> None:
    broken = always(b"HTTP/1.1 503 X\r\nContent-Length: 9\r\n\r\nsorry you")
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(broken).serving() as canary,
        logged(tmp_path, stable.port, canary.port, "split: {weight: 100}") as log,
    ):
        await ask(log.running, GET, b"ok")
        line = await log.line()
        assert (line["variant"], line["answered_by"], line["rescued"]) == ("canary", "stable", True)
        assert (line["status"], line["bytes"], line["reason"]) == (200, 2, "status_503")
        assert line["endpoint"] == f"127.0.0.1:{stable.port}"


async def test_a_rescue_that_fails_is_one_line(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    async with logged(tmp_path, *ports, "split: {weight: 100}") as log:
        got = await ask(log.running, GET, b"Request ID: ")
        line = await log.line()
        assert (line["variant"], line["answered_by"], line["rescued"]) == ("canary", "proxy", True)
        assert (line["status"], line["reason"]) == (502, "connect_refused")
        assert line["endpoint"] == f"127.0.0.1:{ports[0]}"
        assert f"X-Request-Id: {line['request_id']}\r\n".encode() in got
        assert line["bytes"] == len(got.partition(b"\r\n\r\n")[2])
        assert line["first_byte"] is None


async def test_a_request_forced_by_a_rule(tmp_path: Path) -> None:
    rule = 'split: {match: [{variant: canary, path: {prefix: "/beta"}}]}'
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(OK)).serving() as canary,
        logged(tmp_path, stable.port, canary.port, rule) as log,
    ):
        await ask(log.running, GET.replace(b" / ", b" /beta ") + GET, b"ok", 2)
        forced, drawn = await log.lines(2)
        assert (forced["variant"], forced["forced"]) == ("canary", True)
        assert (drawn["variant"], drawn["forced"]) == ("stable", False)
        assert forced["bucket"] == drawn["bucket"] is not None


async def test_a_user_without_a_key_has_no_bucket(tmp_path: Path) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port, more="split: {sticky: {header: X-User}}") as log,
    ):
        await ask(log.running, GET, b"ok")
        assert (await log.line())["bucket"] is None


async def test_a_fresh_cookie_is_not_told(tmp_path: Path) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        got = await ask(log.running, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", b"ok")
        minted = got.partition(b"canary_id=")[2].partition(b";")[0].decode()
        assert minted
        assert minted not in json.dumps(await log.line())


@pytest.mark.parametrize(
    ("request_", "status", "target"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "/"),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400, "/x"),
        (b"CONNECT u:p@h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 405, "h:1"),
        (b"GET http://u:p@h/x HTTP/1.1\r\nHost: h\r\n\r\n", 400, "http://h/x"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, None),
        (b"GET /y HTTP/1.1\r\nHost: h\n\n", 400, "/y"),
        (b'GET /" HTTP/1.1\r\nHost: h\r\n\r\n', 400, '/"'),
        (b"GET / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417, "/"),
        (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505, "/"),
    ],
)
@pytest.mark.parametrize("behind", [b"", b"POST / HTTP/1.1\r\n"], ids=["alone", "more behind"])
async def test_a_refused_request(
    tmp_path: Path, request_: bytes, status: int, target: str | None, behind: bytes
) -> None:
    async with logged(tmp_path, free_port()) as log:
        got = await log.running.ask(request_ + behind)
        line = await log.line()
        assert line["status"] == status
        assert (line["variant"], line["answered_by"]) == (None, "proxy")
        assert line["reason"].encode() in got
        assert f"X-Request-Id: {line['request_id']}\r\n".encode() in got
        if target is not None:
            assert line["target"] == target


async def test_a_head_that_does_not_arrive(tmp_path: Path) -> None:
    async with logged(tmp_path, free_port(), more="limits: {header_timeout: 50ms}") as log:
        await log.running.ask(b"GET /slow HTTP/1.1\r\nHost:")
        line = await log.line()
        assert (line["status"], line["target"]) == (408, "/slow")


async def test_too_many_connections(tmp_path: Path) -> None:
    async with logged(tmp_path, free_port(), more="limits: {max_connections: 1}") as log:
        await log.running.connect()
        await until(lambda: log.running.context.connections)
        await log.running.ask(b"")
        line = await log.line()
        assert (line["status"], line["method"]) == (503, None)
        assert line["reason"] == "too many connections"


POST = b"POST / HTTP/1.1\r\n" + HOST + COOKIE


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (POST + b"Content-Length: 9\r\n\r\nabc", 408),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
    ids=["body that does not arrive", "malformed chunk"],
)
async def test_a_request_spoilt_after_its_head_is_one_line(
    tmp_path: Path, request_: bytes, status: int
) -> None:
    async def wait(link: Link) -> None:
        await link.to_end()

    async with (
        Upstream(wait).serving() as upstream,
        logged(tmp_path, upstream.port, more="limits: {body_timeout: 50ms}") as log,
    ):
        got = await log.running.ask(request_)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        line = await log.line()
        assert (line["status"], line["answered_by"]) == (status, "proxy")
        assert line["variant"] == "stable"
        assert line["reason"].encode() in got


async def test_a_client_that_goes_away(tmp_path: Path) -> None:
    async def wait(link: Link) -> None:
        await link.to_end()

    async with (
        Upstream(wait).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        client = await log.running.connect()
        await client.send(GET)
        await until(lambda: upstream.got)
        client.close()
        line = await log.line()
        assert (line["status"], line["reason"]) == (499, "client_closed")
        assert (line["variant"], line["answered_by"]) == ("stable", None)
        assert line["endpoint"] == f"127.0.0.1:{upstream.port}"
        assert log.running.counters.stable[CLIENT_CLOSED] == 1


async def test_a_client_that_goes_away_in_the_middle(tmp_path: Path) -> None:
    async def begin(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 206 X\r\nContent-Length: 9\r\n\r\nabc")
        await link.to_end()

    async with (
        Upstream(begin).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        client = await log.running.connect()
        await client.send(GET)
        await client.take(b"abc")
        client.close()
        line = await log.line()
        assert (line["status"], line["bytes"]) == (206, 3)
        assert (line["answered_by"], line["reason"]) == ("stable", "client_closed")


async def test_an_answer_that_breaks_off(tmp_path: Path) -> None:
    async def begin(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nabc")
        link.close()

    async with (
        Upstream(begin).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        await log.running.ask(GET)
        line = await log.line()
        assert (line["status"], line["bytes"]) == (200, 3)
        assert (line["answered_by"], line["reason"]) == ("stable", "incomplete_answer")


async def test_an_answer_of_another_endpoint_has_no_reason(tmp_path: Path) -> None:
    async with Upstream(always(OK)).serving() as upstream:
        dead = free_port()
        text = (
            f'variants: {{stable: {{endpoints: ["http://127.0.0.1:{dead}", '
            f'"http://127.0.0.1:{upstream.port}"]}}}}\naccess_log: {{path: {tmp_path}/log}}\n'
        )
        async with proxy(text) as running:
            await ask(running, GET, b"ok")
            await ask(running, GET, b"ok")
            for line in await Logged(running, tmp_path / "log").lines(2):
                assert (line["status"], line["reason"]) == (200, None)
                assert line["endpoint"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("ends", ["client", "upstream"])
async def test_a_tunnel_is_one_line_at_its_end(tmp_path: Path, ends: str) -> None:
    async def tunnel(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        await link.take(b"ping")
        await link.send(b"pong")
        if ends == "upstream":
            await link.take(b"enough")
            link.close()

    async with (
        Upstream(tunnel).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        client = await log.running.connect()
        await client.send(UPGRADE)
        await client.send(b"ping")
        await client.take(b"pong")
        log_ = log.running.log
        assert log_ is not None
        assert log_.written == 0
        if ends == "upstream":
            await client.send(b"enough")
            await client.to_end()
        client.close()
        line = await log.line()
        assert (line["status"], line["target"], line["bytes"]) == (101, "/ws", 9)
        assert (line["answered_by"], line["reason"]) == ("stable", None)


async def test_a_made_trace_is_told(tmp_path: Path) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port, more="trace: {create: true}") as log,
    ):
        await ask(log.running, GET, b"ok")
        trace = upstream.got.partition(b"traceparent: 00-")[2].partition(b"-")[0]
        assert (await log.line())["trace_id"] == trace.decode()


@pytest.mark.parametrize(
    ("lines", "trusted", "client"),
    [
        (b"X-Forwarded-For: 203.0.113.7\r\n", True, "203.0.113.7"),
        (b"X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n", True, "203.0.113.7"),
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n", True, "203.0.113.7"),
        (b"X-Forwarded-For: 203.0.113.7\r\n", False, "127.0.0.1"),
        (b"Forwarded: for=6.6.6.6\r\nForwarded: for=203.0.113.7\r\n", True, "203.0.113.7"),
        (b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=203.0.113.7\r\n", True, "203.0.113.7"),
        (b"", True, "127.0.0.1"),
    ],
)
async def test_the_client_behind_a_trusted_proxy(
    tmp_path: Path, lines: bytes, trusted: bool, client: str
) -> None:
    by = ", client_from: forwarded" if b"Forwarded: for" in lines else ""
    more = f'forwarded: {{trust: ["127.0.0.0/8"]{by}}}' if trusted else ""
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port, more=more) as log,
    ):
        await ask(log.running, GET[:-2] + lines + b"\r\n", b"ok")
        line = await log.line()
        assert (line["client"], line["peer"]) == (client, "127.0.0.1")


async def test_equal_heads_of_different_clients_are_told_apart(tmp_path: Path) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        for number in range(3):
            agent = b"User-Agent: a%d\r\n\r\n" % (number % 2)
            await ask(log.running, GET.replace(b" / ", b" /%d " % number)[:-2] + agent, b"ok")
        lines = await log.lines(3)
        assert [(line["target"], line["user_agent"]) for line in lines] == [
            ("/0", "a0"),
            ("/1", "a1"),
            ("/2", "a0"),
        ]


async def test_a_long_field_is_cut(tmp_path: Path) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        await ask(log.running, GET[:-2] + b"User-Agent: " + b"a" * 5000 + b"\r\n\r\n", b"ok")
        assert (await log.line())["user_agent"] == "a" * 1024


# What the log must not do


async def test_a_blocked_pipe_stops_no_request(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    text = f"access_log: {{path: {path}, queue: 50}}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=text)) as running,
    ):
        log = running.log
        assert log is not None
        client = await running.connect()
        asked = 0
        while not log.dropped:  # the pipe takes 64 KiB, the queue 50 lines, then nobody takes any
            for _ in range(20):
                await client.send(GET)
                asked += 1
            await client.take(b"ok", asked)
            assert asked < 5000
        for _ in range(20):
            await client.send(GET)
            asked += 1
        await client.take(b"ok", asked)
        await until(lambda: running.counters.stable[FINISHED] == asked)
        got = b""
        while log.written + log.dropped < asked:  # who reads again gets whole lines again
            try:
                got += os.read(reader, 1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0.001)
    for _ in range(2):
        got += os.read(reader, 1 << 16)
    os.close(reader)
    assert got.count(b"\n") == log.written
    assert all(json.loads(line)["status"] == 200 for line in got.splitlines())


async def test_a_full_disk_stops_no_request() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more="access_log: {path: /dev/full}\n")) as running,
    ):
        log = running.log
        assert log is not None
        for count in range(1, 4):
            await ask(running, GET, b"ok")
            await until(lambda count=count: log.dropped == count)  # type: ignore[misc]
        assert log.written == 0


async def test_without_a_log_nothing_is_noted() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        await ask(running, GET, b"ok")
        assert running.log is None
        assert all(
            user.fields.logged is None for user in running.context.request_parser._blocks.values()
        )
