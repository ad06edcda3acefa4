"""Attacks over HTTP/2: nothing malformed is forwarded, and what a client can make us hold is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hpack
import pytest

from canaryproxy.http2.errors import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
)
from canaryproxy.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    settings,
)
from canaryproxy.measure.counters import ROUTED
from canaryproxy.proxy.http2_connection import Http2Connection
from tests.fuzz.grammar import PROBE
from tests.fuzz.recorder import Recorded, Recorder
from tests.http2.peer import Fields, data, headers, number_frame

from .h2client import GET, POST, H2Client
from .harness import OK, Client, Link, Proxy, Upstream, always, proxy, until, variants

BEGIN = PREFACE + frame(SETTINGS, 0, 0)
LARGE = 4 * 1024 * 1024
SHORT = "limits: {header_timeout: 300ms, idle_timeout: 20s}\n"


class Attacker:
    """A client that sends frames by hand, and reads which streams were answered and which were reset."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.statuses: dict[int, int] = {}
        self.resets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.goaway: int | None = None
        self._decoder = hpack.Decoder()
        self._at = 0

    @classmethod
    async def to(cls, running: Proxy, receive_buffer: int = 0) -> Attacker:
        made = cls(await running.connect(receive_buffer))
        await made.client.send(BEGIN)
        return made

    async def read(self) -> bool:
        """Read what is there; false at the end of the connection."""
        try:
            more = await self.client.read()
        except ConnectionError:
            more = b""
        got = self.client.got
        while len(got) - self._at >= 9:
            at = self._at
            size = int.from_bytes(got[at : at + 3], "big")
            if len(got) - at < 9 + size:
                break
            kind, flags, number = (
                got[at + 3],
                got[at + 4],
                int.from_bytes(got[at + 5 : at + 9], "big"),
            )
            payload = got[at + 9 : at + 9 + size]
            self._at += 9 + size
            if kind == HEADERS:
                fields = dict(self._decoder.decode(payload, raw=True))
                self.statuses.setdefault(number, int(fields.get(b":status", b"0")))
            elif kind == RST_STREAM and int.from_bytes(payload, "big"):
                self.resets[number] = int.from_bytes(payload, "big")
            elif kind == GOAWAY:
                self.goaway = int.from_bytes(payload[4:8], "big")
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                self.ended.add(number)
        return bool(more)

    async def settle(self, numbers: range) -> None:
        """Read until each of these streams has ended."""
        while not all(number in self.ended or number in self.resets for number in numbers):
            assert await self.read(), (self.goaway, self.client.got[-200:])

    async def to_goaway(self) -> int:
        """Read until the proxy ends the connection, and return why."""
        while self.goaway is None:
            assert await self.read(), self.client.got[-200:]
        return self.goaway


class Recording:
    """An upstream that reads strictly, and answers what came whole."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.faults: list[str] = []
        self.recorders: list[Recorder] = []

    async def answer(self, link: Link) -> None:
        recorder, seen = Recorder(), 0
        self.recorders.append(recorder)
        while part := await link.read():
            try:
                recorder.feed(part)
            except AssertionError as error:
                self.faults.append(str(error))
            while seen < len(recorder.requests):
                one = recorder.requests[seen]
                seen += 1
                self.requests.append(one)
                await link.send(OK[:-2] if one.method == b"HEAD" else OK)


@asynccontextmanager
async def attacked(more: str = "") -> AsyncIterator[tuple[Recording, Proxy]]:
    """Run a proxy whose upstream records; at its end a neighbour must be served, and nothing be left."""
    recording = Recording()
    async with (
        Upstream(recording.answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        neighbour = await H2Client.to(running)
        assert (await neighbour.fetch()).body == b"ok"
        recording.requests.clear()
        yield recording, running
        assert (await neighbour.fetch()).body == b"ok"
        assert recording.faults == []
        await until(lambda: not running.context.in_flight, "end of all requests")


# Request smuggling

TOKEN = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
VISIBLE = {*range(0x21, 0x7F), *range(0x80, 0x100)}
TEXT = {0x09, 0x20, *VISIBLE}

PLACES: list[tuple[str, set[int]]] = [
    ("name, first", TOKEN), ("name, inside", TOKEN), ("name, last", TOKEN), ("value, first", VISIBLE),
    ("value, inside", TEXT), ("value, last", VISIBLE), ("method", TOKEN | set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
    ("path, inside", VISIBLE), ("path, last", VISIBLE), ("scheme", set()), ("authority", VISIBLE - {0x40}),
    ("trailer's name", TOKEN), ("trailer's value", TEXT), ("cookie", TEXT),
]  # fmt: skip


def with_byte(place: str, byte: bytes, stream: int) -> bytes:
    """Return a request with this byte at this place, whose content looks like a request."""
    name, value, trailer = b"x-n", b"v", (b"x-t", b"v")
    line = dict(POST[:4])
    cookie = b"a=b"
    if place == "name, first":
        name = byte + b"n"
    elif place == "name, inside":
        name = b"x" + byte + b"n"
    elif place == "name, last":
        name = b"x" + byte
    elif place == "value, first":
        value = byte + b"v"
    elif place == "value, inside":
        value = b"v" + byte + b"v"
    elif place == "value, last":
        value = b"v" + byte
    elif place == "method":
        line[b":method"] = b"PO" + byte + b"ST"
    elif place == "path, inside":
        line[b":path"] = b"/a" + byte + b"b"
    elif place == "path, last":
        line[b":path"] = b"/a" + byte
    elif place == "scheme":
        line[b":scheme"] = b"ht" + byte + b"tp"
    elif place == "authority":
        line[b":authority"] = b"h" + byte + b"h"
    elif place == "trailer's name":
        trailer = (b"x" + byte + b"t", b"v")
    elif place == "trailer's value":
        trailer = (b"x-t", b"v" + byte + b"v")
    else:
        cookie = b"a=" + byte + b"b"
    return (
        headers(stream, [*line.items(), (name, value), (b"cookie", cookie)])
        + data(stream, PROBE)
        + headers(stream, [trailer], end=True)
    )


@pytest.mark.parametrize(("place", "legal"), [pytest.param(*one, id=one[0]) for one in PLACES])
async def test_8_2_1_each_byte_at_each_place_is_forwarded_as_it_is_or_not_at_all(
    place: str, legal: set[int]
) -> None:
    async with attacked() as (recording, running):
        forwarded: set[int] = set()
        for start in (0, 128):  # a connection may have 200 streams reset
            attacker = await Attacker.to(running)
            numbers = range(1, 257, 2)
            for at in (0, 64):
                part = numbers[at : at + 64]
                await attacker.client.send(
                    b"".join(
                        with_byte(place, bytes((start + number // 2,)), number) for number in part
                    )
                )
                await attacker.settle(part)
            assert set(attacker.resets.values()) <= {PROTOCOL_ERROR}
            assert attacker.goaway is None
            forwarded |= {
                start + number // 2 for number, status in attacker.statuses.items() if status == 200
            }
        assert forwarded <= legal
        assert len(recording.requests) == len(forwarded)
        assert all(one.body == PROBE for one in recording.requests)
        if place.startswith(("name", "value", "trailer")):
            assert forwarded == legal


SMUGGLED: list[tuple[str, Fields]] = [
    ("8.2.2 folded line", [*POST, (b"a", b"b\r\n c")]),
    ("8.2.1 request in a name", [*POST, (b"a: b\r\n\r\nGET /admin HTTP/1.1\r\nhost", b"h")]),
    ("8.2.1 line in a cookie", [*POST, (b"cookie", b"a\r\nx: y")]),
    ("8.1.1 list of lengths", [*POST, (b"content-length", b"0, 35")]),
    ("8.1.1 two lengths", [*POST, (b"content-length", b"0"), (b"content-length", b"35")]),
    ("8.1.1 length of nothing", [*POST, (b"content-length", b"0")]),
    ("8.1.1 length in capitals", [*POST, (b"Content-Length", b"0")]),
    ("8.1.1 length that is empty", [*POST, (b"content-length", b"")]),
    ("8.1.1 length with a blank", [*POST, (b"content-length", b"0 ")]),
    ("8.1.1 length that overflows", [*POST, (b"content-length", b"18446744073709551616")]),
    ("8.2.2 coding", [*POST, (b"transfer-encoding", b"chunked")]),
    ("8.2.2 coding that looks odd", [*POST, (b"transfer-encoding", b"\tchunked")]),
    ("8.2.2 upgrade", [*POST, (b"connection", b"upgrade"), (b"upgrade", b"websocket")]),
    ("8.2.2 upgrade alone", [*POST, (b"upgrade", b"h2c")]),
    ("8.2.2 TE", [*POST, (b"te", b"trailers, chunked")]),
    ("8.3 pseudo-field with a line", [*POST, (b":path\r\nx", b"/")]),
    ("8.3 path twice", [*POST[:4], (b":path", b"/admin")]),
    ("8.3 method twice", [(b":method", b"GET"), *POST]),
    ("8.3.1 version in the path", [*POST[:3], (b":path", b"/ HTTP/1.1\r\nhost: h\r\n\r\nGET /admin")]),
    ("8.3.1 blank in the path", [*POST[:3], (b":path", b"/a HTTP/1.0")]),
    ("8.3.1 absolute path", [*POST[:3], (b":path", b"http://other/")]),
    ("8.3.1 relative path", [*POST[:3], (b":path", b"admin")]),
    ("8.3.1 request in the method", [(b":method", b"GET /admin HTTP/1.1\r\nhost: h\r\n\r\nPOST"), *POST[1:]]),
    ("8.3.1 line in the authority", [*POST[:2], (b":authority", b"h\r\nx: y"), POST[3]]),
    ("8.3.1 user in the authority", [*POST[:2], (b":authority", b"good@evil"), POST[3]]),
    ("8.3.1 Host that differs", [*POST, (b"host", b"other")]),
    ("8.3.1 two Hosts", [*POST, (b"host", b"h"), (b"host", b"h")]),
    ("8.5 CONNECT with a path", [(b":method", b"CONNECT"), *POST[1:]]),
]  # fmt: skip


async def test_8_1_1_what_is_smuggled_is_reset_and_never_forwarded() -> None:
    async with attacked() as (recording, running):
        attacker = await Attacker.to(running)
        sent = [
            headers(number, fields) + data(number, PROBE, end=True)
            for number, (_, fields) in zip(range(1, 99, 2), SMUGGLED, strict=False)
        ]
        numbers = range(1, 2 * len(SMUGGLED), 2)
        await attacker.client.send(b"".join(sent))
        await attacker.settle(numbers)
        assert attacker.resets == dict.fromkeys(numbers, PROTOCOL_ERROR)
        assert recording.requests == []


REFUSED: list[tuple[Fields, int]] = [
    ([*GET[:3], (b":path", b"/" + b"a" * 9000)], 414),
    ([(b":method", b"A" * 9000), *GET[1:]], 414),
    ([*GET, (b"a", b"b" * 33_000)], 431),
    ([*GET, *[(b"a", b"b")] * 200], 431),
    ([*GET, *[(b"cookie", b"b")] * 1000], 431),
    ([*GET, (b"content_length", b"5")], 400),
    ([*GET, (b"transfer_encoding", b"chunked")], 400),
    ([*GET[:2], (b":authority", b""), GET[3]], 400),
    ([*GET[:2], (b":authority", b"a,b"), GET[3]], 400),
    ([*GET[:2], (b":authority", b"a/b"), GET[3]], 400),
    ([*GET[:2], GET[3]], 400),
    ([GET[0], (b":scheme", b"ftp"), *GET[2:]], 400),
    ([(b":method", b"TRACE"), *GET[1:]], 405),
    ([(b":method", b"CONNECT"), (b":authority", b"h:1")], 405),
    ([*GET, (b"expect", b"tea")], 417),
]


async def test_8_what_http_1_refuses_is_answered_and_never_forwarded() -> None:
    async with attacked() as (recording, running):
        attacker = await Attacker.to(running)
        for number, (fields, status) in zip(range(1, 99, 2), REFUSED, strict=False):
            block = hpack.Encoder().encode(fields)
            parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
            sent = frame(
                HEADERS, END_STREAM | (END_HEADERS if len(parts) == 1 else 0), number, parts[0]
            )
            for at, part in enumerate(parts[1:], 2):
                sent += frame(CONTINUATION, END_HEADERS if at == len(parts) else 0, number, part)
            await attacker.client.send(sent)
            await attacker.settle(range(number, number + 1, 2))
            assert attacker.statuses[number] == status, fields
        assert recording.requests == []


async def test_what_is_sent_before_a_websocket_is_open_never_reaches_an_upstream_that_opens_none() -> (
    None
):
    """RFC 8441: the upstream would read it as its next request."""
    async with attacked() as (recording, running):
        attacker = await Attacker.to(running)
        line = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:4]]
        opening = headers(1, [*line, (b"sec-websocket-version", b"13")])
        await attacker.client.send(
            opening + b"".join(data(1, PROBE[at : at + 1]) for at in range(30))
        )
        await until(lambda: recording.requests, "handshake")
        await attacker.client.send(data(1, PROBE, end=True))
        await attacker.settle(range(1, 2))
        assert attacker.statuses[1] == 502
        assert [one.target for one in recording.requests] == [b"/"]
        assert all(one.rest == b"" for one in recording.recorders)


# Exhaustion


async def test_responses_that_nobody_reads_are_bounded() -> None:
    """A hundred streams, 4 MiB each, no window: what was taken from the upstream waits, and no more."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE

    async def answer(link: Link) -> None:
        while part := await link.read():
            await link.send(head + bytes(LARGE) if b"GET /large " in part else OK)

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        attacker = await Attacker.to(running)
        large = [*GET[:3], (b":path", b"/large")]
        numbers = range(1, 201, 2)
        await attacker.client.send(
            settings([(4, 0)]) + b"".join(headers(number, large, end=True) for number in numbers)
        )
        while len(attacker.statuses) < len(numbers):
            assert await attacker.read()
        (connection,) = running.context.connections
        assert isinstance(connection, Http2Connection)
        streams = [one.stream for one in connection._streams.values()]
        await until(lambda: all(one.pending for one in streams), "content of each")
        neighbour = await H2Client.to(running)
        for _ in range(3):
            assert (await neighbour.fetch()).body == b"ok"
        assert max(len(one.pending) for one in streams) <= 512 * 1024
        assert connection.transport.get_write_buffer_size() < 64 * 1024
        attacker.client.reset()
        await until(lambda: not running.context.in_flight, "end of all requests")


async def test_responses_without_content_to_a_client_that_does_not_read_are_bounded() -> None:
    """They need no window, so that only the transport holds them up."""

    async def answer(link: Link) -> None:
        answered = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > answered:
                answered += 1
                many = b"GET " not in link.got
                await link.send(
                    b"HTTP/1.1 204 No Content\r\nX-A: %s\r\n\r\n" % (b"v" * 8000) if many else OK
                )

    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port), send_buffer=4096) as running,
    ):
        attacker = await Attacker.to(running, receive_buffer=4096)
        attacker.client.stop_reading()
        heads = [(b":method", b"HEAD"), *GET[1:]]
        await until(lambda: running.context.connections, "connection")
        (connection,) = running.context.connections
        number, most = 1, 0
        while connection in running.context.connections and number < 4000:
            part = range(number, number + 40, 2)
            await attacker.client.send(b"".join(headers(one, heads, end=True) for one in part))
            number += 40
            for _ in range(5):
                await asyncio.sleep(0)
            await until(lambda: running.context.in_flight < 40, "responses")
            if isinstance(connection, Http2Connection):
                most = max(most, connection.transport.get_write_buffer_size())
            else:
                (connection,) = running.context.connections
        assert number < 4000
        assert most < 1024 * 1024
        neighbour = await H2Client.to(running)
        assert (await neighbour.fetch()).body == b"ok"


UNFINISHED = {
    "the preface": PREFACE[:20],
    "no settings": PREFACE,
    "a frame": BEGIN + headers(1, GET, end=True)[:15],
    "a block": BEGIN + frame(HEADERS, END_STREAM, 1, b"\x82"),
    "a block of a stream": BEGIN + headers(1, POST) + frame(HEADERS, END_STREAM, 3, b"\x82"),
}


@pytest.mark.parametrize("kind", UNFINISHED)
async def test_a_head_that_is_never_finished_ends_its_connection(kind: str) -> None:
    async with attacked(SHORT) as (recording, running):
        client = await running.connect()
        await client.send(UNFINISHED[kind])
        await client.to_end()
        assert recording.requests == []


async def test_a_response_taken_byte_by_byte_ends_its_connection() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE))

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        attacker = await Attacker.to(running)
        await attacker.client.send(settings([(4, 0)]) + headers(1, GET, end=True))
        while 1 not in attacker.statuses:
            assert await attacker.read()
        (connection,) = running.context.connections
        assert isinstance(connection, Http2Connection)
        (stream,) = connection._streams.values()
        await until(lambda: stream.stream.pending, "content")
        await attacker.client.send(number_frame(WINDOW_UPDATE, 1, 1) * 3000)
        assert await attacker.to_goaway() == ENHANCE_YOUR_CALM
        assert len(attacker.client.got) < 50_000


BROKEN: list[tuple[str, bytes, int]] = [
    ("6.9.2 window that overflows", settings([(4, 2**31 - 1), (4, 0)]), FLOW_CONTROL_ERROR),
    ("4.3 index of nothing", frame(HEADERS, END_HEADERS, 3, b"\xff\x20"), COMPRESSION_ERROR),
    ("4.3 integer without end", frame(HEADERS, END_HEADERS, 3, b"\xff" * 50), COMPRESSION_ERROR),
    (
        "6.10 frame inside a block",
        frame(HEADERS, 0, 3, b"\x82") + frame(PING, 0, 0, bytes(8)),
        PROTOCOL_ERROR,
    ),
    (
        "6.10 endless block",
        frame(HEADERS, 0, 3) + frame(CONTINUATION, 0, 3) * 3000,
        ENHANCE_YOUR_CALM,
    ),
    (
        "6.10 large block",
        frame(HEADERS, 0, 3) + frame(CONTINUATION, 0, 3, b"\x00\x01a\x01b" * 3000) * 5,
        ENHANCE_YOUR_CALM,
    ),
]


@pytest.mark.parametrize(("sent", "code"), [pytest.param(*one, id=said) for said, *one in BROKEN])
async def test_a_connection_error_ends_its_connection_and_its_requests(
    sent: bytes, code: int
) -> None:
    async with attacked() as (recording, running):
        attacker = await Attacker.to(running)
        begin = headers(1, POST) + number_frame(WINDOW_UPDATE, 1, 1)
        await attacker.client.send(begin + sent + headers(5, GET, end=True))
        assert await attacker.to_goaway() == code
        assert recording.requests == []


async def test_a_table_that_is_emptied_and_filled_all_the_time_stays_small() -> None:
    churn = b"\x20\x3f\xe1\x1f"
    async with attacked() as (recording, running):
        attacker = await Attacker.to(running)
        block = hpack.Encoder().encode(GET)
        for start in range(1, 401, 100):
            part = range(start, start + 100, 2)
            await attacker.client.send(
                b"".join(
                    frame(
                        HEADERS,
                        END_HEADERS | END_STREAM,
                        number,
                        churn * 100 + block + b"\x40\x03x-a\x01b" * 60,
                    )
                    for number in part
                )
            )
            await attacker.settle(part)
        tables = [
            one.http2._decoder._table
            for one in running.context.connections
            if isinstance(one, Http2Connection)
        ]
        assert all(one.size <= 4096 and len(one) <= 4096 // 32 for one in tables)
        assert len(recording.requests) == 200
        assert running.counters.stable[ROUTED] == 201


async def test_an_error_that_nobody_reads_does_not_keep_its_connection() -> None:
    """With a window of 0 not even the proxy's own error can be written."""
    limits = "limits: {body_timeout: 300ms, idle_timeout: 300ms}\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        attacker = await Attacker.to(running)
        trace = headers(1, [(b":method", b"TRACE"), *GET[1:]], end=True)
        await attacker.client.send(settings([(4, 0)]) + trace)
        await attacker.settle(range(1, 2))
        assert attacker.statuses == {1: 405}
        assert attacker.resets == {1: CANCEL}
        assert await attacker.to_goaway() == NO_ERROR


async def test_requests_of_all_connections_together_are_bounded() -> None:
    """``limits.max_requests`` is what bounds memory: streams beyond it are answered and hold nothing."""
    go = asyncio.Event()

    async def answer(link: Link) -> None:
        while await link.read():
            await go.wait()
            await link.send(OK)

    limits = "limits: {max_requests: 3}\n"
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        attackers = [await Attacker.to(running) for _ in range(4)]
        several = b"".join(headers(one, GET, end=True) for one in range(1, 9, 2))
        await attackers[0].client.send(several)
        await until(lambda: len(upstream.links) == 3, "requests at the upstream")
        assert running.context.in_flight == 3
        for attacker in attackers[1:]:
            await attacker.client.send(several)
            await attacker.settle(range(1, 9, 2))
            assert set(attacker.statuses.values()) == {503}
        assert len(upstream.links) == 3
        go.set()
        await attackers[0].settle(range(1, 9, 2))
        assert sorted(attackers[0].statuses.values()) == [200, 200, 200, 503]
