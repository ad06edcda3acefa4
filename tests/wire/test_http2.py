"""HTTP/2 by prior knowledge to upstreams of HTTP/1.1, over real sockets: ``h2``, curl, nghttp and h2load."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from h2.settings import SettingCodes

from canaryproxy.http2.connection import Connection
from canaryproxy.http2.errors import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
)
from canaryproxy.http2.events import DataReceived, Event
from canaryproxy.http2.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
)
from canaryproxy.measure.counters import CLIENT_CLOSED, CODES, FINISHED, ROUTED
from tests.http2.test_floods import FLOODS, beginning, flood

from ..certificates import authority, loopback
from .h2client import GET, POST, H2Client, Reply
from .harness import OK, Link, Upstream, always, proxy, until, variants

SHORT = (
    "limits: {header_timeout: 300ms, body_timeout: 300ms, first_byte_timeout: 300ms,"
    " idle_timeout: 300ms}\n"
)


async def run(*command: str) -> tuple[int, str]:
    """Run a program and return its exit status and its output."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode("latin-1")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


@needs("curl")
async def test_curl_gets_a_response_over_http_2() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        url = f"http://127.0.0.1:{running.port}/a?b"
        code, output = await run("curl", "-sSi", "--http2-prior-knowledge", url)
        assert (code, output.splitlines()[0].strip()) == (0, "HTTP/2 200")
        assert output.endswith("\nok")
        assert upstream.got.startswith(b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:")


@needs("nghttp")
async def test_nghttp_gets_several_responses_over_one_connection() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        urls = [f"http://127.0.0.1:{running.port}/{number}" for number in range(5)]
        code, output = await run("nghttp", *urls)
        assert (code, output) == (0, "ok" * 5)


@needs("h2load")
async def test_h2load_sends_many_streams_at_a_time() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        url = f"http://127.0.0.1:{running.port}/"
        code, output = await run("h2load", "-n", "400", "-c", "2", "-m", "20", url)
        assert code == 0
        assert "status codes: 400 2xx" in output
        assert running.counters.stable[ROUTED] == running.counters.stable[FINISHED] == 400
        assert running.context.in_flight == 0


@needs("curl")
async def test_curl_agrees_on_http_2_over_tls() -> None:
    tls = f"listen: {{address: 127.0.0.1:8443, tls: {{certificates: [{loopback().yaml()}]}}}}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(tls + variants(upstream.port)) as running,
    ):
        url = f"https://localhost:{running.port}/"
        code, output = await run("curl", "-sSi", "--cacert", str(authority().ca), "--http2", url)
        assert (code, output.splitlines()[0].strip()) == (0, "HTTP/2 200")
        assert b"X-Forwarded-Proto: https\r\n" in upstream.got


async def test_a_listener_may_take_http_1_only() -> None:
    only = "listen: {address: 127.0.0.1:8080, protocols: http1}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(only + variants(upstream.port)) as running,
    ):
        assert b" 505 " in await running.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b" 200 " in await running.ask(
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        )


async def test_a_listener_may_take_http_2_only() -> None:
    only = "listen: {address: 127.0.0.1:8080, protocols: [http2]}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(only + variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        refused = await client.to_end()
        assert refused.startswith(b"HTTP/1.1 505 ")
        assert b"only HTTP/2 is supported here" in refused
        assert upstream.got == b""
        assert (await (await H2Client.to(running)).fetch()).body == b"ok"


async def test_limits_of_http_2_are_announced_and_hold() -> None:
    limits = "limits: {http2: {max_streams: 1, stream_window: 1MiB}}\n"

    async def silent(link: Link) -> None:
        await link.take(b"\r\n\r\n")

    async with (
        Upstream(silent).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        client = await H2Client.to(running)
        await client.read()
        settings = client.h2.remote_settings
        assert settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 1
        assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 1024**2
        await client.ask()
        client.h2.remote_settings._settings[SettingCodes.MAX_CONCURRENT_STREAMS][0] = 9
        assert (await client.fetch()).reset == REFUSED_STREAM


async def test_the_flood_budget_is_what_it_is_set_to() -> None:
    limits = "limits: {http2: {flood_budget: 200}}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        client = await H2Client.to(running)
        for _ in range(60):
            client.h2.ping(bytes(8))
        await client.flush()
        while await client.read():
            pass
        assert client.goaway == ENHANCE_YOUR_CALM


@pytest.mark.parametrize("cut", [1, 15, 16, 18, 20, 24, 30])
async def test_a_preface_may_come_in_two_pieces(cut: int) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client, near = await running.connect(), Connection(client=True)
        near.open(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"http", ends=True)
        begin = near.take()
        await client.send(begin[:cut])
        await until(lambda: running.context.connections, "connection")
        await asyncio.sleep(0.02)
        await client.send(begin[cut:])
        events: list[Event] = []
        while not any(isinstance(one, DataReceived) for one in events):
            events += near.receive(await client.read())


async def test_http_1_goes_on_at_the_same_port_and_does_not_change_to_2() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.take(b"ok")
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b" 505 " in await client.to_end()


async def test_a_request_with_content_and_trailers_goes_out_chunked() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"x-sum: 9\r\n\r\n")
        await link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await link.send(b"0\r\nGrpc-Status: 0\r\nHost: evil\r\n\r\n")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask([*POST, (b"te", b"trailers")], end=False)
        await client.send(number, b"hello")
        client.h2.send_headers(number, [(b"x-sum", b"9")], end_stream=True)
        await client.flush()
        reply = await client.reply(number)
        assert [one[b":status"] for one in reply.interim] == [b"103"]
        assert (reply.status, reply.body) == (200, b"hi")
        assert reply.trailers == {b"grpc-status": b"0"}
        assert b"transfer-encoding" not in reply.head
        assert b"\r\n5\r\nhello\r\n0\r\nx-sum: 9\r\n\r\n" in upstream.got
        assert b"TE: trailers\r\n" in upstream.got
        assert b"Via: 2.0 canaryproxy\r\n" in upstream.got


async def test_crumbs_of_the_cookie_are_one_user() -> None:
    """RFC 9113 §8.2.3."""
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        reply = await client.fetch([*GET[:4], (b"cookie", b"a=b"), GET[4], (b"cookie", b"c=d")])
        joined = b"\r\ncookie: a=b; canary_id=0123456789abcdef0123456789abcdef; c=d\r\n"
        assert upstream.got.count(joined) == 1
        assert upstream.got.lower().count(b"\r\ncookie:") == 1
        assert b"set-cookie" not in reply.head


async def test_a_client_that_expects_100_gets_it_from_its_upstream() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await link.take(b"the content")
        await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        fields = [*POST, (b"content-length", b"11"), (b"expect", b"100-continue")]
        number = await client.ask(fields, end=False)
        reply = client.replies[number]
        while not reply.interim:
            await client.read()
        assert b"\r\nexpect: 100-continue\r\n" in upstream.got
        assert b"the content" not in upstream.got
        await client.send(number, b"the content", end=True)
        await client.reply(number)
        assert ([one[b":status"] for one in reply.interim], reply.body) == ([b"100"], b"ok")


async def test_priority_is_a_field_that_is_passed_on_and_its_frames_are_ignored() -> None:
    """RFC 9218 §§5, 7, 8."""
    answer = b"HTTP/1.1 200 OK\r\nPriority: u=1\r\nContent-Length: 2\r\n\r\nok"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        await client.client.send(frame(0x10, 0, 0, bytes([0, 0, 0, 1]) + b"u=0"))
        reply = await client.fetch([*GET, (b"priority", b"u=5, i")])
        assert b"\r\npriority: u=5, i\r\n" in upstream.got
        assert (reply.status, reply.head[b"priority"]) == (200, b"u=1")


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_a_response_without_content_ends_with_its_head(method: bytes) -> None:
    answer = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        reply = await client.fetch([(b":method", method), *GET[1:]])
        assert (reply.status, reply.body, reply.ended) == (304, b"", True)


async def test_a_response_that_ends_with_its_connection_is_whole() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        link.close()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        reply = await client.fetch()
        assert (reply.body, reply.ended, reply.reset) == (b"hello", True, None)


async def test_a_response_that_breaks_off_is_reset_and_its_neighbour_is_not() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        if b"/broken" in link.got:
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            link.reset()
        else:
            await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        broken = await client.fetch([*GET[:3], (b":path", b"/broken"), GET[4]])
        assert (broken.status, broken.ended, broken.reset) == (200, False, INTERNAL_ERROR)
        assert (await client.fetch()).body == b"ok"
        assert running.context.in_flight == 0


async def test_an_upstream_that_is_down_is_an_error_response_on_its_stream() -> None:
    async with Upstream(always(OK)).serving() as upstream:
        port = upstream.port
    async with proxy(variants(port)) as running:
        client = await H2Client.to(running)
        reply = await client.fetch()
        assert reply.status == 502
        assert reply.head[b"x-canaryproxy-reason"] == b"connect_refused"
        assert b"connection" not in reply.head
        assert (await client.fetch()).status == 502


async def test_rules_of_http_1_refuse_a_request_and_the_connection_goes_on() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        reply = await client.fetch([(b":method", b"TRACE"), *GET[1:]])
        assert reply.status == 405
        assert (await client.fetch([*POST, (b"expect", b"else")], b"abc")).status == 417
        assert (await client.fetch()).body == b"ok"
        assert running.counters.stable[ROUTED] == 1


@pytest.mark.parametrize(
    "field",
    [
        (b"a", b"b\r\nx: y"),
        (b"a", b"b\r\n\r\nGET /admin HTTP/1.1\r\nhost: h\r\n"),
        (b"a\r\nx", b"y"),
        (b"a: b", b"y"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"0"),
        (b"host", b"other"),
        (b":path", b"/admin"),
    ],
)
async def test_no_request_is_smuggled_into_http_1(field: tuple[bytes, bytes]) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        number = client.h2.get_next_available_stream_id()
        smuggled = [*POST[:4], field, *POST[4:]] if field[0][:1] == b":" else [*POST, field]
        await client.ask(smuggled, b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.reply(number)).reset == PROTOCOL_ERROR
        assert (await client.fetch()).body == b"ok"
        assert upstream.got.count(b" HTTP/1.1\r\n") <= 2
        assert b"/admin HTTP/1.1\r\nHost" not in upstream.got.rpartition(b"GET / ")[2]


async def test_a_large_response_goes_no_faster_than_its_windows_and_neighbours_pass() -> None:
    body = bytes(range(256)) * 16_384  # 4 MiB
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        if b"/large" in link.got:
            await link.send(head + body)
        else:
            await always(OK)(link) if link.got.count(b"\r\n\r\n") > 1 else await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running, takes=False)
        client.h2.increment_flow_control_window(2**30)
        large = await client.ask([*GET[:3], (b":path", b"/large"), GET[4]])
        while len(client.replies[large].body) < 65_535:
            await client.read()
        assert (await client.fetch()).body == b"ok"
        assert len(client.replies[large].body) == 65_535
        client.takes = True
        client.h2.acknowledge_received_data(65_535, large)
        await client.flush()
        assert (await client.reply(large)).body == body


async def test_a_large_request_goes_no_faster_than_its_upstream_reads() -> None:
    go = asyncio.Event()
    body = bytes(3_000_000)

    async def answer(link: Link) -> None:
        await go.wait()
        while link.got.count(b"\0") < len(body):
            await link.read()
        await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask([*POST, (b"content-length", b"3000000")], end=False)
        sending = asyncio.ensure_future(client.send(number, body, end=True))
        await asyncio.sleep(0)
        await until(lambda: upstream.links, "connection")
        go.set()
        await sending
        assert (await client.reply(number)).body == b"ok"


async def test_a_request_that_is_cancelled_closes_its_upstream() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask()
        await until(lambda: upstream.got.endswith(b"\r\n\r\n"), "request")
        client.h2.reset_stream(number, 8)
        await client.flush()
        await until(lambda: upstream.links[0].closed, "close of the upstream")
        assert running.counters.stable[CLIENT_CLOSED] == 1
        assert running.context.in_flight == 0


async def test_rapid_resets_end_the_connection_and_neighbours_are_served() -> None:
    """CVE-2023-44487."""

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        if b"/slow" not in link.got:
            await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        attacker, neighbour = await H2Client.to(running), await H2Client.to(running)
        slow = [*GET[:3], (b":path", b"/slow"), GET[4]]
        for _ in range(1000):
            number = client_number = attacker.h2.get_next_available_stream_id()
            attacker.h2.send_headers(number, slow, end_stream=True)
            attacker.h2.reset_stream(client_number, 8)
        try:
            await attacker.flush()
            while await attacker.read():
                pass
        except ConnectionError:
            pass
        assert attacker.goaway == ENHANCE_YOUR_CALM
        assert (await neighbour.fetch()).body == b"ok"
        assert len(upstream.links) < 250
        assert running.context.in_flight == 0


async def test_an_upstream_that_is_silent_is_a_504_on_its_stream() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")

    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=SHORT)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 504


async def test_a_body_that_does_not_come_is_a_408_on_its_stream() -> None:
    async with (
        Upstream(always(b"")).serving() as upstream,
        proxy(variants(upstream.port, more=SHORT)) as running,
    ):
        client = await H2Client.to(running)
        number = await client.ask([*POST, (b"content-length", b"9")], b"abc", end=False)
        reply = await client.reply(number)
        assert reply.status == 408


async def test_an_idle_connection_ends_with_goaway() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=SHORT)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).body == b"ok"
        while await client.read():
            pass
        assert client.goaway == NO_ERROR


async def test_at_shutdown_streams_in_flight_end_and_new_connections_are_asked_for() -> None:
    go = asyncio.Event()

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await go.wait()
        await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client, near = await running.connect(), Connection(client=True)
        near.open(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"http", ends=True)
        await client.send(near.take())
        await until(lambda: upstream.got, "request")
        draining = asyncio.ensure_future(running.datapath.drain(10))
        events: list[Event] = []
        while not near.going_away:
            events += near.receive(await client.read())
        go.set()
        while data := await client.read():
            events += near.receive(data)
        (content,) = [one for one in events if isinstance(one, DataReceived)]
        assert (content.data, content.ends) == (b"ok", True)
        assert await draining


async def test_each_stream_is_counted_by_its_own_status() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        for _ in range(3):
            assert (await client.fetch()).status == 200
        assert running.counters.stable[CODES + 200] == 3
        assert len(upstream.links) == 1


@pytest.mark.parametrize("format_", ["json", "combined"])
async def test_the_access_log_says_http_2(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "access.log"
    log = f"access_log: {{path: {path}, format: {format_}}}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=log)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        assert (await client.fetch([(b":method", b"TRACE"), *GET[1:]])).status == 405
        assert (await client.fetch([*GET, *[(b"a", b"b" * 4000)] * 10])).status == 431
        await until(lambda: path.exists() and path.read_text().count("\n") == 3, "three lines")
    lines = path.read_text().splitlines()
    if format_ == "json":
        found = [json.loads(line) for line in lines]
        requests = [(one["method"], one["target"], one["protocol"]) for one in found]
        assert requests == [
            ("GET", "/", "HTTP/2.0"),
            ("TRACE", "/", "HTTP/2.0"),
            (None, None, "HTTP/2.0"),
        ]
    else:
        assert [line.split('"')[1] for line in lines] == [
            "GET / HTTP/2.0",
            "TRACE / HTTP/2.0",
            "HTTP/2.0",
        ]


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_its_connection_and_neighbours_are_served(kind: str) -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        if b"/neighbour" in link.got:
            await link.send(OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        attacker, neighbour = await running.connect(), await H2Client.to(running)
        begin = PREFACE + frame(SETTINGS, 0, 0) + beginning(kind)
        await attacker.send(begin + b"".join(flood(kind, number) for number in range(3000)))
        while b"too many" not in attacker.got:
            assert await attacker.read(), attacker.got[-200:]
        assert attacker.got.partition(b"too many")[0].endswith(bytes((0, 0, 0, ENHANCE_YOUR_CALM)))
        reply = await neighbour.fetch([*GET[:3], (b":path", b"/neighbour"), GET[4]])
        assert reply.body == b"ok"
        await until(lambda: running.context.in_flight == 0, "end of the attacker's requests")
        assert len(upstream.links) < 450


async def test_a_field_block_without_end_ends_its_connection() -> None:
    """CVE-2024-27316."""
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        attacker = await running.connect()
        begin = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, b"\x00\x01a\x01b" * 1000)
        more = frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000)
        await attacker.send(begin + more * 50)
        while b"field block too large" not in attacker.got:
            assert await attacker.read()
        assert running.counters.stable[ROUTED] == 0


async def test_a_small_block_that_means_much_is_refused() -> None:
    """HPACK bomb: 60 KiB on the wire, 240 MB of fields."""
    bomb = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 60_000
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        number = await client.ask(end=True)
        await client.reply(number)
        client.replies[3] = Reply()
        parts = [bomb[at : at + 16_000] for at in range(0, len(bomb), 16_000)]
        client.h2.send_headers(3, GET, end_stream=True)
        client.h2.clear_outbound_data_buffer()
        await client.client.send(
            frame(HEADERS, END_STREAM, 3, parts[0])
            + b"".join(frame(CONTINUATION, 0, 3, part) for part in parts[1:-1])
            + frame(CONTINUATION, END_HEADERS, 3, parts[-1])
        )
        assert (await client.reply(3)).status == 431
        assert running.counters.stable[ROUTED] == 1


async def test_a_client_that_takes_nothing_is_reset_and_its_neighbour_is_not() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=SHORT)) as running,
    ):
        client = await H2Client.to(running)
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stuck = await client.ask()
        reply = await client.reply(stuck)
        assert (reply.status, reply.body, reply.reset) == (200, b"", CANCEL)
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        assert (await client.fetch()).body == b"ok"
        assert running.context.in_flight == 0
