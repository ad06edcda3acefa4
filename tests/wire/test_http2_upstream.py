"""HTTP/2 to upstreams, over real sockets: the library ``h2`` and nghttpd."""

from __future__ import annotations

import asyncio

import pytest
from h2.settings import SettingCodes

from ..certificates import authority
from .h2client import GET, POST, H2Client
from .h2server import Asked, H2Server, plain
from .harness import COOKIE, proxy, status_of, until

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
