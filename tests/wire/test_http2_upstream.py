"""HTTP/2 to upstreams, over real sockets: the library ``h2`` and nghttpd."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest
from h2.settings import SettingCodes
from hpack import NeverIndexedHeaderTuple

from canaryproxy import config
from canaryproxy.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM
from canaryproxy.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PUSH_PROMISE,
    SETTINGS,
    frame,
)
from canaryproxy.measure.counters import ERRORS, FAILED, FINISHED, Reason
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.http2_upstream import PING_AFTER, PONG_WITHIN
from tests.ports import free_port

from ..certificates import authority, loopback
from .h2client import GET, POST, H2Client
from .h2server import Asked, H2Server, plain
from .harness import COOKIE, Link, Proxy, Upstream, always, proxy, status_of, until
from .harness import OK as OK_1

REQUEST = b"GET /a?b HTTP/1.1\r\nHost: h\r\n" + COOKIE + b"\r\n"


def to(port: int, *, tls: bool = False, more: str = "") -> str:
    """Return a configuration with one endpoint of HTTP/2."""
    scheme, ca = ("h2", f", tls: {{ca: {authority().ca}}}") if tls else ("h2c", "")
    return f'variants:\n  stable: {{endpoints: ["{scheme}://127.0.0.1:{port}"]{ca}}}\n{more}'


@pytest.mark.parametrize("tls", [False, True])
async def test_a_request_of_http_1_is_answered_over_http_2(tls: bool) -> None:
    async with (
        H2Server(plain).serving(tls=tls) as upstream,
        proxy(to(upstream.port, tls=tls)) as running,
    ):
        client = await running.connect()
        await client.send(REQUEST)
        got = await client.take(b"ok")
        assert status_of(got) == 200
        assert b"Content-Length: 2\r\n".lower() in got.lower()
        (asked,) = upstream.asked
        assert asked.fields[:4] == [
            (b":method", b"GET"),
            (b":scheme", b"https" if tls else b"http"),
            (b":path", b"/a?b"),
            (b":authority", b"h"),
        ]
        assert b"connection" not in asked.head
        assert asked.head[b"x-forwarded-for"] == b"127.0.0.1"


async def echo(asked: Asked) -> None:
    """Answer with the content of the request."""
    await asked.end()
    await asked.reply([(b":status", b"200")], asked.body, asked.trailers or None)


async def test_content_and_trailers_pass_from_http_1_and_back() -> None:
    async with H2Server(echo).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await running.connect()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n"
            b"Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n" + COOKIE + b"\r\n"
            b"3\r\nabc\r\n"
        )
        await until(lambda: upstream.asked and upstream.asked[0].body == b"abc")
        await client.send(b"2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n")
        got = await client.take(b"0\r\nx-sum: 1\r\n\r\n")
        assert b"Transfer-Encoding: chunked\r\n" in got
        assert b"\r\n\r\n5\r\nabcde\r\n" in got
        (asked,) = upstream.asked
        assert asked.head[b"te"] == b"trailers"
        assert not {b"transfer-encoding", b"connection"} & asked.head.keys()
        assert asked.trailers == [(b"x-sum", b"1")]


async def test_content_of_a_known_length_ends_its_stream() -> None:
    async with H2Server(echo).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await running.connect()
        body = b"x" * 300_000
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % len(body) + COOKIE + b"\r\n"
        )
        await client.send(body)
        await client.take(b"\r\n0\r\n\r\n")
        (asked,) = upstream.asked
        assert asked.ended
        assert asked.body == body
        assert asked.head[b"content-length"] == b"300000"


async def test_content_and_trailers_pass_from_http_2_to_http_2() -> None:
    async with H2Server(echo).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask([*POST, (b"te", b"trailers")], end=False)
        await client.send(number, b"abc" * 50_000)
        client.h2.send_headers(number, [(b"x-sum", b"1")], end_stream=True)
        await client.flush()
        reply = await client.reply(number)
        assert (reply.status, len(reply.body), reply.trailers) == (200, 150_000, {b"x-sum": b"1"})
        assert upstream.asked[0].trailers == [(b"x-sum", b"1")]


async def test_requests_share_a_connection() -> None:
    held = asyncio.Event()

    async def answer(asked: Asked) -> None:
        await asked.end()
        await held.wait()
        await asked.reply(body=asked.head[b":path"][-2:])

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        numbers = [
            await client.ask([*GET[:3], (b":path", b"/%02d" % at), GET[4]]) for at in range(50)
        ]
        await until(lambda: len(upstream.asked) == 50)
        held.set()
        replies = [await client.reply(number) for number in numbers]
        assert [one.body for one in replies] == [b"%02d" % at for at in range(50)]
        assert len(upstream.peers) == 1


async def test_more_requests_than_streams_open_another_connection() -> None:
    held = asyncio.Event()

    async def answer(asked: Asked) -> None:
        await held.wait()
        await asked.reply()

    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
    async with (
        H2Server(answer, settings).serving() as upstream,
        proxy(to(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        numbers = [await client.ask() for _ in range(7)]
        await until(lambda: len(upstream.asked) == 7)
        assert [len(one.asked) for one in upstream.peers] == [3, 3, 1]
        held.set()
        assert [(await client.reply(number)).status for number in numbers] == [200] * 7


async def test_a_request_waits_for_a_stream_where_no_connection_may_be_opened() -> None:
    held = asyncio.Event()

    async def answer(asked: Asked) -> None:
        await held.wait()
        await asked.reply()

    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    limits = "limits: {max_endpoint_connections: 1}\n"
    async with (
        H2Server(answer, settings).serving() as upstream,
        proxy(to(upstream.port, more=limits)) as running,
    ):
        client = await H2Client.to(running)
        numbers = [await client.ask() for _ in range(5)]
        await until(lambda: len(upstream.asked) == 2)
        held.set()
        assert [(await client.reply(number)).status for number in numbers] == [200] * 5
        assert len(upstream.peers) == 1


@pytest.mark.parametrize("client_of", [1, 2])
async def test_interim_responses_and_continue_pass(client_of: int) -> None:
    async def answer(asked: Asked) -> None:
        asked.peer.h2.send_headers(asked.number, [(b":status", b"103"), (b"link", b"</a>")])
        asked.peer.h2.send_headers(asked.number, [(b":status", b"100")])
        await asked.peer.flush()
        await echo(asked)

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        if client_of == 1:
            raw = await running.connect()
            await raw.send(
                b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            got = await raw.take(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            await raw.send(b"hi")
            assert (await raw.take(b"0\r\n\r\n")).endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        else:
            client = await H2Client.to(running)
            fields = [*POST, (b"content-length", b"2"), (b"expect", b"100-continue")]
            number = await client.ask(fields, end=False)
            while len(client.replies[number].interim) < 2:
                assert await client.read()
            await client.send(number, b"hi", end=True)
            assert (await client.reply(number)).body == b"hi"
        assert upstream.asked[0].head[b"expect"] == b"100-continue"


# What goes wrong


async def test_a_reset_before_the_head_is_502_and_its_neighbours_go_on() -> None:
    held = asyncio.Event()

    async def answer(asked: Asked) -> None:
        if asked.head[b":path"] == b"/reset":
            await asked.refuse(INTERNAL_ERROR)
        else:
            await held.wait()
            await asked.reply()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        good = await client.ask()
        bad = await client.fetch([*GET[:3], (b":path", b"/reset"), GET[4]])
        assert bad.status == 502
        held.set()
        assert (await client.reply(good)).status == 200
        assert len(upstream.peers) == 1
        endpoint = running.service.context.pools[0].endpoints[0]
        assert (endpoint.failures, endpoint.active) == (0, 0)


@pytest.mark.parametrize("of", [1, 2])
async def test_a_reset_inside_the_content_breaks_the_response_off(of: int) -> None:
    async def answer(asked: Asked) -> None:
        await asked.reply([(b":status", b"200")], b"part", end=False)
        await asked.refuse(INTERNAL_ERROR)

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        if of == 1:
            got = await running.ask(REQUEST)
            assert got.endswith(b"4\r\npart\r\n")  # no last chunk
        else:
            client = await H2Client.to(running)
            reply = await client.fetch()
            assert (reply.ended, reply.reset) == (False, INTERNAL_ERROR)
        assert running.counters.stable[ERRORS + Reason.INCOMPLETE_ANSWER] == 1


async def refuses(asked: Asked) -> None:
    await asked.end()
    await asked.refuse(REFUSED_STREAM)


def two(first: int, second: int) -> str:
    """Return a configuration with an endpoint of HTTP/2 and one of HTTP/1.1."""
    urls = f'"h2c://127.0.0.1:{first}", "http://127.0.0.1:{second}"'
    return f"variants:\n  stable: {{endpoints: [{urls}], balance: hash}}\n"


def keys_of(running: Proxy, at: int) -> bytes:
    """Return a cookie whose requests the hash gives to this endpoint."""
    pool = running.service.context.pools[0]
    for number in range(100):
        key = b"%032x" % number
        if pool.choose(key) is pool.endpoints[at]:
            return b"Cookie: canary_id=" + key + b"\r\n"
    raise AssertionError


async def test_a_post_that_was_refused_is_sent_to_an_endpoint_of_http_1() -> None:
    async with (
        H2Server(refuses).serving() as first,
        Upstream(always(OK_1)).serving() as second,
        proxy(two(first.port, second.port)) as running,
    ):
        cookie = keys_of(running, 0)
        client = await running.connect()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
            + cookie
            + b"\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-Sum: 1\r\n\r\n"
        )
        assert status_of(await client.take(b"ok")) == 200
        assert [one.body for one in first.asked] == [b"abc", b"abc"]
        assert second.got.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_a_request_that_http_1_failed_is_sent_to_an_endpoint_of_http_2() -> None:
    async def closes(link: Link) -> None:
        await link.take(b"0\r\n\r\n")
        link.close()

    async with (
        H2Server(echo).serving() as first,
        Upstream(closes).serving() as second,
        proxy(two(first.port, second.port)) as running,
    ):
        cookie = keys_of(running, 1)
        client = await running.connect()
        await client.send(
            b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
            + cookie
            + b"\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        assert (await client.take(b"0\r\n\r\n")).endswith(b"\r\n3\r\nabc\r\n0\r\n\r\n")
        assert (first.asked[0].body, second.got.count(b"abc")) == (b"abc", 1)


async def test_a_post_that_the_only_endpoint_refuses_twice_is_502() -> None:
    async with H2Server(refuses).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch(POST, b"abc")).status == 502
        assert len(upstream.asked) == 2
        assert running.counters.stable[ERRORS + Reason.RESET] == 1


async def test_a_post_that_is_refused_once_is_no_error() -> None:
    async def answer(asked: Asked) -> None:
        await (refuses if asked.number == 1 else echo)(asked)

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch(POST, b"abc")).body == b"abc"
        assert running.counters.stable[FAILED] == 0


async def test_a_request_that_crashes_its_server_is_not_sent_for_ever() -> None:
    async def answer(asked: Asked) -> None:
        if asked.head[b":path"] == b"/":
            await asked.reply()
        else:
            await asked.peer.until(lambda: len(asked.peer.asked) > 1)
            asked.peer.writer.transport.abort()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        poison = await client.ask([*GET[:3], (b":path", b"/poison"), GET[4]])
        assert (await client.fetch()).status == 200
        assert (await client.reply(poison)).status == 502
        assert [one.head[b":path"] for one in upstream.asked].count(b"/poison") == 1


async def test_an_idle_connection_that_is_lost_as_a_request_is_sent_is_no_error() -> None:
    async def answer(asked: Asked) -> None:
        if asked.number == 3:
            asked.peer.writer.transport.abort()
        else:
            await asked.reply()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert [(await client.fetch()).status for _ in range(2)] == [200, 200]
        assert (len(upstream.peers), running.counters.stable[FAILED]) == (2, 0)


async def test_after_goaway_streams_end_and_a_new_connection_takes_the_next() -> None:
    held = asyncio.Event()

    async def answer(asked: Asked) -> None:
        if asked.head[b":path"] == b"/slow":
            await held.wait()
        await asked.reply()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        slow = await client.ask([*GET[:3], (b":path", b"/slow"), GET[4]])
        await until(lambda: upstream.asked)
        old = upstream.peers[0]
        await old.go_away()
        endpoint = running.service.context.pools[0].endpoints[0]
        await until(lambda: not endpoint.shared, "retired")
        assert (await client.fetch()).status == 200
        assert [len(one.asked) for one in upstream.peers] == [1, 1]
        assert not old.closed
        held.set()
        assert (await client.reply(slow)).status == 200
        await until(lambda: old.closed, "close with the last stream")
        assert endpoint.open == 1


async def test_a_post_that_goaway_leaves_out_is_sent_again_on_a_new_connection() -> None:
    async def answer(asked: Asked) -> None:
        await asked.end()
        if asked.head[b":path"] == b"/late" and asked.peer is asked.server.peers[0]:
            await asked.peer.go_away(last=asked.number - 2)
        else:
            await echo(asked)

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        reply = await client.fetch([*POST[:3], (b":path", b"/late"), POST[4]], b"abc")
        assert (reply.status, reply.body) == (200, b"abc")
        assert [len(one.asked) for one in upstream.peers] == [2, 1]
        assert running.counters.stable[FAILED] == 0


async def test_an_idle_connection_that_was_closed_is_no_error() -> None:
    async with H2Server(plain).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        upstream.peers[0].writer.close()
        endpoint = running.service.context.pools[0].endpoints[0]
        await until(lambda: not endpoint.open, "loss")
        assert (await client.fetch(POST, b"abc")).status == 200


async def test_a_lost_connection_fails_all_that_is_under_way() -> None:
    async def answer(asked: Asked) -> None:
        await asked.end()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        numbers = [await client.ask(POST, b"abc") for _ in range(3)]
        await until(lambda: sum(one.ended for one in upstream.asked) == 3)
        upstream.peers[0].writer.transport.abort()
        assert [(await client.reply(number)).status for number in numbers] == [502] * 3
        assert running.counters.stable[ERRORS + Reason.RESET] == 3
        assert running.service.context.pools[0].endpoints[0].active == 0


@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"X-Big", b"1")],
        [(b":status", b"200"), (b"x", b"a\rb")],
        [(b":status", b"101")],
        [(b"x", b"1")],
        [(b":status", b"200"), (b"content-length", b"5"), (b"content-length", b"6")],
    ],
)
async def test_a_malformed_response_is_502_and_its_neighbours_go_on(
    fields: list[tuple[bytes, bytes]],
) -> None:
    async def answer(asked: Asked) -> None:
        await asked.end()
        if asked.head[b":path"] == b"/":
            await asked.reply()
            return
        block = asked.peer.h2.encoder.encode(fields)
        asked.peer.writer.write(frame(HEADERS, END_HEADERS | END_STREAM, asked.number, block))

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        bad = await client.fetch([*GET[:3], (b":path", b"/bad"), GET[4]])
        assert (bad.status, (await client.fetch()).status) == (502, 200)
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1
        assert len(upstream.peers) == 1


async def test_an_upstream_of_http_1_is_a_connection_that_failed() -> None:
    async with (
        Upstream(always(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")).serving() as one,
        proxy(to(one.port)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 502
        assert running.counters.stable[ERRORS + Reason.CONNECT_FAILED] == 1
        assert running.service.context.pools[0].endpoints[0].open == 0


async def test_a_tls_upstream_without_h2_is_a_failed_handshake() -> None:
    context = authority().server(loopback())
    context.set_alpn_protocols(["http/1.1"])
    async with (
        Upstream(always(OK_1)).serving(context=context) as upstream,
        proxy(to(upstream.port, tls=True)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 502
        assert running.counters.stable[ERRORS + Reason.TLS] == 1


async def test_callers_that_wait_for_a_connection_fail_with_it() -> None:
    port = free_port()
    async with proxy(to(port)) as running:
        client = await H2Client.to(running)
        numbers = [await client.ask() for _ in range(5)]
        assert [(await client.reply(number)).status for number in numbers] == [502] * 5
        endpoint = running.service.context.pools[0].endpoints[0]
        assert (endpoint.open, endpoint.active) == (0, 0)


async def test_a_client_that_leaves_resets_its_stream_only() -> None:
    async def answer(asked: Asked) -> None:
        await asked.end()
        if asked.reset is None and asked.head[b":path"] == b"/":
            await asked.reply()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        gone = await client.ask([*GET[:3], (b":path", b"/held"), GET[4]])
        await until(lambda: upstream.asked)
        client.h2.reset_stream(gone, CANCEL)
        await client.flush()
        await until(lambda: upstream.asked[0].reset is not None)
        assert upstream.asked[0].reset == CANCEL
        assert (await client.fetch()).status == 200
        assert len(upstream.peers) == 1


# Flow control


async def test_a_client_that_reads_slowly_stops_its_stream_and_not_its_neighbours() -> None:
    total = 8 << 20

    async def answer(asked: Asked) -> None:
        if asked.head[b":path"] == b"/large":
            await asked.reply([(b":status", b"200")], b"x" * total)
        else:
            await asked.reply()

    async with (
        H2Server(answer).serving() as upstream,
        proxy(to(upstream.port), send_buffer=4096) as running,
    ):
        slow = await running.connect(receive_buffer=4096)
        await slow.send(REQUEST.replace(b"/a?b", b"/large"))
        slow.stop_reading()
        await until(lambda: upstream.asked)
        h2, number = upstream.peers[0].h2, upstream.asked[0].number
        await until(lambda: h2.local_flow_control_window(number) == 0, "full window")
        client = await H2Client.to(running)
        for _ in range(20):
            assert (await client.fetch()).body == b"ok"
        assert len(upstream.peers) == 1
        assert upstream.asked[0].sent < 1 << 20
        slow.read_on()
        while len(slow.got) < total:
            assert await slow.read()
        await slow.take(b"\r\n0\r\n\r\n")


async def test_an_upstream_that_reads_slowly_stops_its_client_and_not_its_neighbours() -> None:
    async with (
        H2Server(plain, takes=False).serving() as upstream,
        proxy(to(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n" + COOKIE + b"\r\n"
        )
        sending = asyncio.create_task(client.send(b"x" * 8_000_000))
        await until(lambda: upstream.asked and len(upstream.asked[0].body) == 65_535)
        connection = running.connection()
        await until(lambda: not connection.transport.is_reading(), "pause")
        upstream.peers[0].h2.increment_flow_control_window(1 << 20)
        await upstream.peers[0].flush()
        other = await H2Client.to(running)
        assert (await other.fetch()).body == b"ok"
        assert not sending.done()
        upstream.takes = True
        number = upstream.asked[0].number
        upstream.peers[0].h2.acknowledge_received_data(65_535, number)
        await upstream.peers[0].flush()
        await client.take(b"\r\n\r\nok")
        await sending
        assert len(upstream.asked[0].body) == 8_000_000


# What connections are for, and when they end


def endpoint_of(running: Proxy) -> Endpoint:
    (endpoint,) = running.service.context.pools[0].endpoints
    return endpoint


async def test_a_silent_connection_is_pinged_and_kept_while_it_answers() -> None:
    async with H2Server(plain).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        (connection,) = endpoint_of(running).shared
        now = monotonic()
        connection.sweep(now + PING_AFTER - 1, now - 60)
        connection.sweep(now + PING_AFTER + 1, now - 60)
        connection.sweep(now + PING_AFTER + 2, now - 60)
        await until(lambda: upstream.peers[0].pings, "ping")
        assert (await client.fetch()).status == 200
        assert (upstream.peers[0].pings, len(upstream.peers)) == (1, 1)


async def test_a_connection_that_answers_no_ping_is_lost() -> None:
    async def answer(asked: Asked) -> None:
        if asked.peer is asked.server.peers[0]:
            asked.peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        else:
            await asked.reply()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask()
        await until(lambda: upstream.asked)
        (connection,) = endpoint_of(running).shared
        now = monotonic() + PING_AFTER + 1
        for passed in range(int(PONG_WITHIN) + 3):
            connection.sweep(now + passed, now - 600)
        assert (await client.reply(number)).status == 502
        assert (await client.fetch()).status == 200


async def test_a_connection_is_not_lost_for_a_ping_if_it_was_the_proxy_that_stood_still() -> None:
    async with H2Server(plain).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        (connection,) = endpoint_of(running).shared
        now = monotonic() + PING_AFTER + 1
        connection.sweep(now, now - 600)
        connection.sweep(now + 60, now - 600)
        assert endpoint_of(running).shared == [connection]


async def test_an_idle_connection_is_closed_with_goaway() -> None:
    idle = "limits: {endpoint_idle_timeout: 200ms}\n"
    async with (
        H2Server(plain).serving() as upstream,
        proxy(to(upstream.port, more=idle)) as running,
    ):
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        await until(lambda: upstream.peers[0].closed)
        assert upstream.peers[0].goaway == NO_ERROR
        assert endpoint_of(running).open == 0


async def test_an_endpoint_that_leaves_the_configuration_ends_its_requests_first() -> None:
    held = asyncio.Event()

    async def answer(asked: Asked) -> None:
        await held.wait()
        await asked.reply()

    async with (
        H2Server(answer).serving() as upstream,
        H2Server(plain).serving() as other,
        proxy(to(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        number = await client.ask()
        await until(lambda: upstream.asked)
        running.reconfigure(config.parse(to(other.port), file="test.yaml"), {})
        assert (await client.fetch()).status == 200
        assert (len(other.asked), upstream.peers[0].closed) == (1, False)
        held.set()
        assert (await client.reply(number)).status == 200
        await until(lambda: upstream.peers[0].closed)


# Fields


async def test_no_field_is_put_into_the_table_of_a_connection() -> None:
    async with H2Server(plain).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        for _ in range(4):
            assert (await client.fetch([*GET, (b"x-secret", b"value")])).status == 200
        table = upstream.peers[0].h2.decoder.header_table
        assert len(table.dynamic_entries) == 0


async def test_a_field_that_is_never_to_be_indexed_stays_so() -> None:
    async with H2Server(plain).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask(
            [*GET, NeverIndexedHeaderTuple(b"x-token", b"1"), (b"x-plain", b"1")]
        )
        assert (await client.reply(number)).status == 200
        kinds = {bytes(one[0]): type(one) for one in upstream.asked[0].received}
        assert kinds[b"x-token"] is NeverIndexedHeaderTuple
        assert kinds[b"x-plain"] is not NeverIndexedHeaderTuple


# An upstream that is after the proxy

FLOODS = {
    "pings": frame(PING, 0, 0, b"12345678") * 3000,
    "settings": frame(SETTINGS, 0, 0) * 3000,
    "empty data": frame(DATA, 0, 1) * 3000,
    "interim responses": frame(HEADERS, END_HEADERS, 1, b"\x08\x03103") * 3000,
    "field block without end": frame(HEADERS, 0, 1, b"\x00" * 16000)
    + frame(CONTINUATION, 0, 1, b"\x00" * 16000) * 10,
    "pushed": frame(PUSH_PROMISE, END_HEADERS, 1, b"\x00\x00\x00\x02\x88"),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_an_upstream_ends_its_connection_and_the_next_request_is_served(
    flood: str,
) -> None:
    async def answer(asked: Asked) -> None:
        if asked.peer is asked.server.peers[0]:
            asked.peer.writer.write(FLOODS[flood])
        else:
            await asked.reply()

    async with H2Server(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        attacked = await running.connect()
        await attacked.send(REQUEST)
        await until(lambda: running.counters.stable[FINISHED] == 1, "end")
        client = await H2Client.to(running)
        assert (await client.fetch()).status == 200
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1
        assert endpoint_of(running).active == 0
