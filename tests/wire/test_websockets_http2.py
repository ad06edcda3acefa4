"""WebSockets over HTTP/2 (RFC 8441) to services of HTTP/1.1: handshake, flow control, and every end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

import pytest
from h2.settings import SettingCodes
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side

from canaryproxy.http1.websocket import accept_of
from canaryproxy.http2.errors import CANCEL, NO_ERROR, PROTOCOL_ERROR
from canaryproxy.measure.counters import (
    CODES,
    ERRORS,
    ROUTED,
    TUNNELS_CLOSED,
    TUNNELS_OPENED,
    Reason,
)

from .h2client import GET, Fields, H2Client
from .h2server import Asked, H2Server
from .harness import DEADLINE, OK, Link, Proxy, Upstream, always, proxy, until, variants
from .test_access_log import logged
from .test_http2_upstream import to
from .test_long_lived import moving, ticking
from .test_tunnels import UPGRADE
from .test_websockets import all_closed, echo, service, through

COOKIE = (b"cookie", b"canary_id=0123456789abcdef0123456789abcdef")
OPEN: Fields = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":path", b"/chat?room=1"),
    (b":authority", b"h"),
    (b"sec-websocket-version", b"13"),
    (b"origin", b"https://h"),
    COOKIE,
]
HELLO = Frame(Opcode.TEXT, b"hello")
NOW = "circuit: {close_after: 0s, spread: 20s}\nsplit: {weight: 100}"
KEY = re.compile(rb"\r\nSec-WebSocket-Key: ([A-Za-z0-9+/]{22}==)\r\n")


class WebSocket:
    """A WebSocket on a stream, with the frames of ``websockets``."""

    def __init__(self, client: H2Client, number: int) -> None:
        self.client = client
        self.number = number
        self.reply = client.replies[number]
        self.protocol = Protocol(Side.CLIENT, max_size=None)
        self._fed = 0

    @classmethod
    async def to(cls, running: Proxy, fields: Fields = OPEN, *, takes: bool = True) -> WebSocket:
        client = await H2Client.to(running, takes=takes)
        return await cls.on(client, fields)

    @classmethod
    async def on(cls, client: H2Client, fields: Fields = OPEN) -> WebSocket:
        made = cls(client, await client.ask(fields, end=False))
        await made.until(lambda: made.reply.head or made.reply.over)
        return made

    async def until(self, condition: Callable[[], object]) -> None:
        limit = monotonic() + DEADLINE
        while not condition():
            assert monotonic() < limit, self.reply
            assert await self.client.read() or condition(), self.reply

    async def send(self, data: bytes) -> None:
        await self.client.send(self.number, data)

    async def end(self) -> None:
        self.client.h2.end_stream(self.number)
        await self.client.flush()

    async def say(self, text: str) -> None:
        self.protocol.send_text(text.encode())
        await self.send(b"".join(self.protocol.data_to_send()))

    async def frame(self) -> Frame:
        """Return the next frame that comes."""
        while True:
            self.protocol.receive_data(self.reply.body[self._fed :])
            self._fed = len(self.reply.body)
            if frames := self.protocol.events_received():
                (frame,) = frames
                assert isinstance(frame, Frame)
                return frame
            assert await self.client.read(), self.reply


def switch(link: Link, *, accept: bytes | None = None) -> bytes:
    """Return the response of a server that opens a WebSocket."""
    key = KEY.search(link.got)
    assert key is not None, link.got
    accept = accept_of(key[1]) if accept is None else accept
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"SEC-WebSocket-Accept: %b\r\n\r\n" % accept
    )


def raw(then: Callable[[Link], Awaitable[None]]) -> Callable[[Link], Awaitable[None]]:
    """Return an upstream that opens a WebSocket and goes on like that."""

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(switch(link))
        await then(link)

    return answer


async def silent(link: Link) -> None:
    await link.to_end()


# The handshake


async def test_a_websocket_opens_by_extended_connect_and_messages_come_back() -> None:
    async with service(echo) as port, proxy(variants(port)) as running:
        one = await WebSocket.to(running, [*OPEN[:-1], (b"sec-websocket-key", b"no key at all")])
        assert one.client.h2.remote_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
        assert one.reply.status == 200
        assert b"canary_id=" in one.reply.head[b"set-cookie"]
        assert not {b"sec-websocket-accept", b"upgrade", b"connection"} & set(one.reply.head)
        for text in ("", "é", "a" * 100_000):
            await one.say(text)
            assert (await one.frame()).data == text.encode()
        assert (await one.client.fetch()).status == 426  # a neighbour, which is no WebSocket
        one.protocol.send_close(1000, "bye")
        await one.send(b"".join(one.protocol.data_to_send()))
        assert Close.parse((await one.frame()).data) == Close(1000, "bye")
        await one.client.reply(one.number)
        assert one.reply.ended
        await one.end()
        await until(lambda: running.context.in_flight == 0)
        assert running.counters.stable[CODES + 101] == running.counters.stable[TUNNELS_CLOSED] == 1


async def test_the_service_gets_a_handshake_with_a_new_key_each_time() -> None:
    async with (
        Upstream(raw(silent)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await H2Client.to(running)
        for _ in range(2):
            await WebSocket.on(client)
        first, second = (link.got for link in upstream.links)
        assert first.startswith(b"GET /chat?room=1 HTTP/1.1\r\nHost: h\r\n")
        for line in (b"Upgrade: websocket", b"Connection: upgrade", b"Via: 2.0 canaryproxy"):
            assert b"\r\n" + line + b"\r\n" in first
        assert b"\r\nsec-websocket-version: 13\r\norigin: https://h\r\n" in first
        keys = [KEY.findall(got) for got in (first, second)]
        assert [len(one) for one in keys] == [1, 1]
        assert keys[0] != keys[1]


@pytest.mark.parametrize("early", [False, True])
async def test_frames_sent_before_the_response_reach_the_service(early: bool) -> None:
    go = asyncio.Event()

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await go.wait()
        await link.send(switch(link) + b"first")
        await link.take(b"early" if early else b"late")
        await link.send(b"got it")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await H2Client.to(running)
        number = await client.ask(OPEN, b"early" if early else b"", end=False)
        await until(lambda: upstream.links and upstream.links[0].got)
        go.set()
        one = WebSocket(client, number)
        await one.until(lambda: one.reply.body == b"first" or one.reply.body.endswith(b"got it"))
        if not early:
            await one.send(b"late")
        await one.until(lambda: one.reply.body == b"firstgot it")


async def test_a_refused_handshake_is_a_response_like_any() -> None:
    no = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n"
    async with (
        Upstream(always(no)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        await one.client.reply(one.number)
        assert (one.reply.status, one.reply.body, one.reply.ended) == (403, b"no\n", True)
        assert running.counters.stable[TUNNELS_OPENED] == 0


async def test_a_success_without_101_opens_nothing() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        await one.client.reply(one.number)
        assert (one.reply.status, one.reply.body, one.reply.ended) == (502, b"ok", True)


@pytest.mark.parametrize(
    "accept", [b"", accept_of(b"another key"), b"a\r\nSec-WebSocket-Accept: b"]
)
async def test_a_101_for_another_key_is_a_broken_response(accept: bytes) -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(switch(link, accept=accept))

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        one = await WebSocket.to(running)
        assert one.reply.status == 502
        assert one.reply.head[b"x-canaryproxy-reason"] == b"broken_answer"
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1
        assert running.counters.stable[TUNNELS_OPENED] == 0


@pytest.mark.parametrize("protocol", [b"connect-udp", b"WebSocket"])
async def test_other_protocols_are_not_implemented(protocol: bytes) -> None:
    """RFC 9220 §3."""
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running, [OPEN[0], (b":protocol", protocol), *OPEN[2:]])
        assert one.reply.status == 501
        assert (await one.client.fetch()).body == b"ok"
        assert running.counters.stable[ROUTED] == 1


async def test_a_plain_connect_is_refused_as_in_http_1() -> None:
    async with proxy(variants(1)) as running:
        client = await H2Client.to(running)
        assert (await client.fetch([OPEN[0], OPEN[4]])).status == 405


async def test_the_access_log_has_it_as_its_handshake(tmp_path: Path) -> None:
    async with (
        Upstream(raw(silent)).serving() as upstream,
        logged(tmp_path, upstream.port) as log,
    ):
        one = await WebSocket.to(log.running)
        one.client.h2.reset_stream(one.number, CANCEL)
        await one.client.flush()
        line = await log.line()
        assert (line["method"], line["target"], line["status"]) == ("GET", "/chat?room=1", 101)
        assert (line["protocol"], line["reason"]) == ("HTTP/2.0", None)


# Flow control


async def test_a_client_that_does_not_read_stops_its_service_and_no_neighbour() -> None:
    body = bytes(8 * 1024 * 1024)
    sent = []

    async def flood(link: Link) -> None:
        await link.send(body)
        sent.append(len(body))

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        if b"Upgrade" not in link.got:
            await link.send(OK)
            return
        await raw(flood)(link)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        one = await WebSocket.to(running, takes=False)
        one.client.h2.increment_flow_control_window(2**30)
        await one.until(lambda: len(one.reply.body) == 65_535)
        assert (await one.client.fetch(GET)).body == b"ok"
        assert (len(one.reply.body), sent) == (65_535, [])
        one.client.takes = True
        one.client.h2.acknowledge_received_data(65_535, one.number)
        await one.client.flush()
        await one.until(lambda: len(one.reply.body) > 500_000)


async def test_a_service_that_does_not_read_stops_its_client() -> None:
    go = asyncio.Event()
    body = bytes(8 * 1024 * 1024)

    async def stuck(link: Link) -> None:
        await go.wait()
        while link.got.count(b"\0") < len(body):
            await link.read()
        await link.send(b"all")

    async with (
        Upstream(raw(stuck)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        sending = asyncio.create_task(one.send(body))
        window = one.client.h2.local_flow_control_window
        full = monotonic() + 0.3
        while monotonic() < full:  # as long as the window is not full for a while, it goes on
            full = monotonic() + 0.3 if window(one.number) else full
            await asyncio.sleep(0.01)
        assert not sending.done()
        go.set()
        await sending
        await one.until(lambda: one.reply.body == b"all")


# The end


async def test_the_client_may_end_its_side_first() -> None:
    async def answer(link: Link) -> None:
        await link.to_end()
        assert link.got.endswith(b"question")
        await link.send(b"late answer")
        link.close()

    async with (
        Upstream(raw(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        await one.send(b"question")
        await one.end()
        await one.client.reply(one.number)
        assert (one.reply.body, one.reply.ended) == (b"late answer", True)
        await all_closed(running)


async def test_the_service_may_end_its_side_first() -> None:
    async def answer(link: Link) -> None:
        await link.send(b"first")
        link.send_eof()
        await link.take(b"then")

    async with (
        Upstream(raw(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        await one.until(lambda: one.reply.ended)
        assert (one.reply.body, one.reply.reset) == (b"first", None)
        await one.send(b"then")
        await one.end()
        await until(lambda: upstream.links[0].closed)
        assert upstream.got.endswith(b"then")
        await all_closed(running)


async def test_a_client_that_resets_its_stream_closes_its_service() -> None:
    async with (
        Upstream(raw(silent)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        one.client.h2.reset_stream(one.number, CANCEL)
        await one.client.flush()
        await until(lambda: upstream.links[0].closed)
        await all_closed(running)


async def test_a_service_that_breaks_off_resets_the_stream() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"now")
        link.reset()

    async with (
        Upstream(raw(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        await one.send(b"now")
        await one.client.reply(one.number)
        assert (one.reply.ended, one.reply.reset) == (False, CANCEL)
        await all_closed(running)


async def test_fields_on_an_open_websocket_are_an_error_of_its_stream() -> None:
    """RFC 9113 §8.5."""
    async with (
        Upstream(raw(silent)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        one = await WebSocket.to(running)
        one.client.h2.send_headers(one.number, [(b"a", b"b")], end_stream=True)
        await one.client.flush()
        await one.client.reply(one.number)
        assert one.reply.reset == PROTOCOL_ERROR
        await until(lambda: upstream.links[0].closed)


async def test_half_a_websocket_that_stays_silent_is_reset() -> None:
    limits = "limits: {idle_timeout: 100ms, body_timeout: 100ms}\n"

    async def half(link: Link) -> None:
        link.send_eof()
        await link.to_end()

    async with (
        Upstream(raw(half)).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        one = await WebSocket.to(running)
        await one.until(lambda: one.reply.ended)
        await until(lambda: upstream.links[0].closed)
        await all_closed(running)


async def test_a_trip_closes_a_websocket_with_1012_on_both_sides() -> None:
    seen: list[Close | None] = []

    async def note(server: ServerConnection) -> None:
        try:
            await echo(server)
        except ConnectionClosed:
            pass
        finally:
            await server.wait_closed()
            seen.append(server.protocol.close_rcvd)

    async with (
        Upstream(always(OK)).serving() as stable,
        service(note) as canary,
        proxy(variants(stable.port, canary, NOW)) as running,
        ticking(running),
    ):
        one = await WebSocket.to(running)
        await one.say("here")
        assert (await one.frame()).data == b"here"
        running.weight(0)
        closing = await one.frame()
        assert (closing.opcode, Close.parse(closing.data).code) == (Opcode.CLOSE, 1012)
        await one.send(b"".join(one.protocol.data_to_send()))  # its reply
        await one.client.reply(one.number)
        assert one.reply.ended
        await until(lambda: seen)
        assert seen[0] is not None
        assert seen[0].code == 1012
        await all_closed(running)
        assert (await one.client.fetch()).body == b"ok"  # the connection goes on, to stable


async def test_a_client_that_does_not_answer_the_close_frame_is_ended_with_the_spread() -> None:
    at_once = "circuit: {close_after: 0s, spread: 100ms}\nsplit: {weight: 100}"
    async with moving(raw(silent), at_once) as (running, canary):
        one = await WebSocket.to(running)
        running.weight(0)
        await one.client.reply(one.number)
        assert one.reply.body == b"\x88\x02\x03\xf4"
        assert one.reply.ended
        await until(lambda: canary.links[0].closed)
        await all_closed(running)


# To endpoints of HTTP/2

TAKES_THEM = {SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}


def websockets(then: Callable[[Asked], Awaitable[None]]) -> H2Server:
    """Return a server of HTTP/2 that opens a WebSocket and goes on like that."""

    async def answer(asked: Asked) -> None:
        asked.peer.h2.send_headers(asked.number, [(b":status", b"200"), (b"x-by", b"h2")])
        await asked.peer.flush()
        await then(asked)

    return H2Server(answer, TAKES_THEM)


async def echoes(asked: Asked) -> None:
    """Be the server of a WebSocket, with the frames of ``websockets``."""
    protocol = Protocol(Side.SERVER, max_size=None)
    fed = 0
    while not protocol.close_sent:
        await asked.peer.until(lambda: len(asked.body) > fed)  # noqa: B023
        data, fed = asked.body[fed:], len(asked.body)
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.TEXT:
                protocol.send_text(bytes(frame.data))
        await asked.send(b"".join(protocol.data_to_send()))
    await asked.send(b"", end=True)
    asked.peer.h2.end_stream(asked.number)
    await asked.peer.flush()


async def test_a_websocket_of_http_1_is_carried_to_an_endpoint_of_http_2() -> None:
    async with websockets(echoes).serving() as upstream, proxy(to(upstream.port)) as running:
        async with through(running, cookie="a=b") as client:
            assert client.response is not None
            assert client.response.headers["x-by"] == "h2"
            for text in ("", "é", "a" * 300_000):
                await client.send(text)
                assert await asyncio.wait_for(client.recv(), DEADLINE) == text
        (asked,) = upstream.asked
        assert asked.fields[:5] == [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"http"),
            (b":path", b"/chat"),
            (b":authority", b"127.0.0.1:%d" % running.port),
        ]
        assert asked.head[b"sec-websocket-version"] == b"13"
        assert not {b"sec-websocket-key", b"upgrade", b"connection"} & set(asked.head)
        await asked.end()
        assert (asked.ended, asked.reset) == (True, None)
        await all_closed(running, kept=1)


async def test_a_websocket_goes_from_http_2_to_http_2() -> None:
    async with websockets(echoes).serving() as upstream, proxy(to(upstream.port)) as running:
        one = await WebSocket.to(running)
        assert one.reply.head[b"x-by"] == b"h2"
        await one.say("a" * 300_000)
        assert (await one.frame()).data == b"a" * 300_000
        one.client.h2.reset_stream(one.number, CANCEL)
        await one.client.flush()
        (asked,) = upstream.asked
        await asked.peer.until(lambda: asked.reset == CANCEL)
        await all_closed(running, kept=1)


@pytest.mark.parametrize("code", [CANCEL, NO_ERROR])
async def test_an_endpoint_that_resets_its_stream_ends_the_websocket(code: int) -> None:
    async def breaks(asked: Asked) -> None:
        await asked.peer.until(lambda: asked.body)
        if code == NO_ERROR:
            asked.peer.h2.end_stream(asked.number)
        await asked.refuse(code)

    async with websockets(breaks).serving() as upstream, proxy(to(upstream.port)) as running:
        one = await WebSocket.to(running)
        await one.send(b"now")
        await one.client.reply(one.number)
        assert one.reply.ended == (code == NO_ERROR)
        assert one.reply.reset == code or one.reply.ended
        await all_closed(running, kept=1)


async def test_each_side_of_a_websocket_to_http_2_may_end_first() -> None:
    async def answer(asked: Asked) -> None:
        await asked.end()
        await asked.send(b"late answer", end=True)

    async with websockets(answer).serving() as upstream, proxy(to(upstream.port)) as running:
        one = await WebSocket.to(running)
        await one.send(b"question")
        await one.end()
        await one.client.reply(one.number)
        assert (one.reply.body, one.reply.ended) == (b"late answer", True)
        assert upstream.asked[0].body == b"question"
        await all_closed(running, kept=1)


async def test_an_endpoint_of_http_2_without_websockets_is_an_error_that_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never(asked: Asked) -> None:
        raise AssertionError(asked)

    async with H2Server(never).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        assert b" 502 " in await client.take_head()
        assert "it takes no WebSockets over HTTP/2" in caplog.text
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1
        assert upstream.asked == []


async def test_a_refused_handshake_of_http_2_is_a_response_like_any() -> None:
    async def no(asked: Asked) -> None:
        await asked.reply([(b":status", b"403"), (b"content-length", b"2")], b"no")

    async with H2Server(no, TAKES_THEM).serving() as upstream, proxy(to(upstream.port)) as running:
        client = await running.connect()
        await client.send(UPGRADE)
        assert b" 403 " in await client.take(b"\r\n\r\nno")
        assert running.counters.stable[TUNNELS_OPENED] == 0


async def test_a_trip_ends_a_websocket_to_http_2_with_close_frames_on_both_sides() -> None:
    async def answer(asked: Asked) -> None:
        await asked.end()

    at_once = "circuit: {close_after: 0s, spread: 100ms}\nsplit: {weight: 100}"
    async with (
        Upstream(always(OK)).serving() as stable,
        websockets(answer).serving() as canary,
        proxy(
            variants(stable.port, canary.port, at_once).replace(
                f"http://127.0.0.1:{canary.port}", f"h2c://127.0.0.1:{canary.port}"
            )
        ) as running,
        ticking(running),
    ):
        one = await WebSocket.to(running)
        running.weight(0)
        await one.client.reply(one.number)
        assert (one.reply.body, one.reply.ended) == (b"\x88\x02\x03\xf4", True)
        (asked,) = canary.asked
        await asked.end()
        assert asked.body.startswith(b"\x88\x82")
        assert asked.ended
        await all_closed(running, kept=1)
        await asked.peer.until(lambda: asked.reset == CANCEL)  # it has not ended its side
