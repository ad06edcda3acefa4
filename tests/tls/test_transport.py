"""TLS between two protocols, over transports that split and delay bytes at will."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.tls.errors import Truncated
from canaryproxy.tls.transport import TlsConnection

from ..certificates import authority, loopback


class Wire(asyncio.Transport):
    """A transport that holds written bytes until the test moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.ended = False
        self.closing = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.ended
        if not self.closing:
            self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.sent)


class Recorder(asyncio.Protocol):
    """Records received data; with ``keeps_open`` it stays open after the peer's end."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.got = b""
        self.eof = False
        self.lost: list[Exception | None] = []
        self.on_data: Callable[[], None] = lambda: None
        self._keeps_open = keeps_open

    def data_received(self, data: bytes) -> None:
        assert not self.eof
        self.got += data
        self.on_data()

    def eof_received(self) -> bool:
        assert not self.eof
        self.eof = True
        return self._keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Side:
    """One end of the connection: TLS, wire and protocol."""

    def __init__(self, context: ssl.SSLContext, *, server: bool, keeps_open: bool = False) -> None:
        self.wire = Wire()
        self.protocol = Recorder(keeps_open=keeps_open)
        self.results: list[Exception | None] = []
        self.tls = TlsConnection(
            context,
            self.results.append,
            server_side=server,
            server_hostname=None if server else "localhost",
        )
        self.tls.set_protocol(self.protocol)


class Pair:
    """A client and a server; ``carry`` moves bytes between them."""

    def __init__(self, *, keeps_open: bool = False, version: ssl.TLSVersion | None = None) -> None:
        context = authority().client()
        if version is not None:
            context.maximum_version = version
        self.client = Side(context, server=False, keeps_open=keeps_open)
        self.server = Side(authority().server(loopback()), server=True, keeps_open=keeps_open)
        self.server.tls.connection_made(self.server.wire)
        self.client.tls.connection_made(self.client.wire)

    def carry(self, most: int = 1 << 20) -> bool:
        """Move at most so many bytes each way; returns whether there were any."""
        moved = False
        for one, other in ((self.client, self.server), (self.server, self.client)):
            if not other.wire.reading or other.wire.closing:
                continue
            data = bytes(one.wire.sent[:most])
            if data:
                moved = True
                del one.wire.sent[: len(data)]
                other.tls.data_received(data)
        return moved

    def carry_all(self, most: int = 1 << 20) -> None:
        while self.carry(most):
            pass

    def shake(self, most: int = 1 << 20) -> None:
        self.carry_all(most)
        assert self.client.results == self.server.results == [None]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


Moves = st.lists(
    st.tuples(
        st.sampled_from(["send", "answer", "carry", "pause", "resume"]), st.integers(1, 70_000)
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(moves=Moves, cut=st.integers(1, 2000))
async def test_data_arrives_once_and_in_order(moves: list[tuple[str, int]], cut: int) -> None:
    pair = Pair()
    pair.shake(cut)
    sent = {True: b"", False: b""}
    for count, (move, size) in enumerate(moves):
        if move in ("send", "answer"):
            data = bytes([count % 251]) * size
            side = pair.client if move == "send" else pair.server
            side.tls.write(data)
            sent[move == "send"] += data
        elif move == "carry":
            pair.carry(size)
        elif move == "pause":
            pair.server.tls.pause_reading()
            before = pair.server.protocol.got
            pair.carry(size)
            await asyncio.sleep(0)
            assert pair.server.protocol.got == before
        else:
            pair.server.tls.resume_reading()
    pair.server.tls.resume_reading()
    await asyncio.sleep(0)
    pair.carry_all()
    assert pair.server.protocol.got == sent[True]
    assert pair.client.protocol.got == sent[False]
    pair.client.tls.close()
    pair.carry_all()
    assert pair.server.protocol.eof
    assert pair.server.wire.closing


async def test_pause_reading_in_the_middle_of_data_stops_delivery(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version=version)
    pair.shake()
    server = pair.server
    server.protocol.on_data = server.tls.pause_reading
    data = bytes(range(256)) * 4096
    pair.client.tls.write(data)
    pair.carry()
    first = len(server.protocol.got)
    assert 0 < first < len(data)
    rounds = 0
    while len(server.protocol.got) < len(data):
        server.tls.resume_reading()
        await asyncio.sleep(0)
        pair.carry()
        rounds += 1
        assert rounds < 100
    assert server.protocol.got == data


async def test_write_eof_is_announced_and_the_peer_may_still_send(version: ssl.TLSVersion) -> None:
    pair = Pair(keeps_open=True, version=version)
    pair.shake()
    client, server = pair.client, pair.server
    server.tls.write(b"on its way")  # unread by the client when it ends its side
    client.tls.write(b"last words")
    client.tls.write_eof()
    pair.carry_all()
    assert server.protocol.got == b"last words"
    assert server.protocol.eof
    server.tls.eof_received()
    assert not server.wire.closing
    server.tls.write(b"; an answer")
    pair.carry_all()
    assert client.protocol.got == b"on its way; an answer"
    server.tls.close()
    pair.carry_all()
    assert client.protocol.eof
    for side in (client, server):
        side.tls.close()
        side.tls.connection_lost(None)
        assert side.protocol.lost == [None]


async def test_undelivered_data_survives_our_own_eof(version: ssl.TLSVersion) -> None:
    """OpenSSL reads on when it sends close_notify; data for a paused protocol must not be lost."""
    pair = Pair(keeps_open=True, version=version)
    pair.shake()
    client, server = pair.client, pair.server
    pieces = 0

    def pause_once() -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 1:
            client.tls.pause_reading()

    client.protocol.on_data = pause_once
    data = bytes(range(256)) * 2048
    server.tls.write(data)
    pair.carry()  # more than is handed on together: the rest waits inside
    assert len(client.protocol.got) < len(data)
    client.tls.write_eof()
    server.tls.write(b"and more")
    client.tls.resume_reading()
    await asyncio.sleep(0)
    pair.carry_all()
    assert client.protocol.got == data + b"and more"
    assert server.protocol.eof


async def test_truncated_connection_is_not_an_eof(version: ssl.TLSVersion) -> None:
    pair = Pair(version=version)
    pair.shake()
    server = pair.server
    pair.client.tls.write(b"half of ")
    pair.carry_all()
    assert server.tls.eof_received()
    assert server.wire.closing
    server.tls.connection_lost(None)
    (error,) = server.protocol.lost
    assert isinstance(error, Truncated)
    assert not server.protocol.eof
    assert server.protocol.got == b"half of "


async def test_truncation_is_reported_after_the_data_before_it() -> None:
    pair = Pair()
    pair.shake()
    server = pair.server
    server.tls.pause_reading()
    server.wire.reading = True  # what was on its way already
    pair.client.tls.write(b"data")
    pair.carry_all()
    server.tls.eof_received()
    assert server.protocol.got == b""
    assert not server.wire.closing
    server.tls.resume_reading()
    await asyncio.sleep(0)
    assert server.protocol.got == b"data"
    assert server.wire.closing
    server.tls.connection_lost(None)
    assert isinstance(server.protocol.lost[0], Truncated)


@pytest.mark.parametrize("at", [0, 5, 40, -1])
async def test_tampered_records_end_the_connection(at: int) -> None:
    pair = Pair()
    pair.shake()
    pair.client.tls.write(b"x" * 100)
    pair.client.wire.sent[at] ^= 0xFF
    pair.carry()
    if not pair.server.wire.closing:  # its length is another one now: it waits for more
        pair.client.wire.sent += bytes(70_000)
        pair.carry()
    assert pair.server.wire.closing
    pair.server.tls.connection_lost(None)
    (error,) = pair.server.protocol.lost
    assert isinstance(error, ssl.SSLError)
    assert pair.server.protocol.got == b""


async def test_tls_control_messages_are_bounded() -> None:
    """As after many attempts to renegotiate: OpenSSL refuses each with an alert."""
    pair = Pair()
    pair.shake()
    server = pair.server
    server.tls._outgoing.write(bytes(4000))
    pair.client.tls.write(b"x")
    pair.carry()
    assert not server.wire.closing
    server.tls._outgoing.write(bytes(200))
    pair.client.tls.write(b"x")
    pair.carry()
    assert server.wire.closing
    server.tls.connection_lost(None)
    assert isinstance(server.protocol.lost[0], ConnectionAbortedError)


async def test_write_after_close_sends_nothing() -> None:
    pair = Pair()
    pair.shake()
    pair.client.tls.write_eof()
    before = bytes(pair.client.wire.sent)
    pair.client.tls.write(b"too late")
    pair.client.tls.write_eof()
    assert bytes(pair.client.wire.sent) == before
    pair.client.tls.close()
    pair.client.tls.write(b"too late")
    assert bytes(pair.client.wire.sent) == before


@given(data=st.binary(min_size=1, max_size=400))
async def test_handshake_with_any_bytes_fails_or_waits(data: bytes) -> None:
    side = Side(authority().server(loopback()), server=True)
    side.tls.connection_made(side.wire)
    side.tls.data_received(data)
    assert len(side.results) <= 1
    assert side.wire.closing is bool(side.results)
    if not side.results:
        assert not side.tls.eof_received()
    assert isinstance(side.results[0], OSError)
    side.tls.connection_lost(None)
    assert side.protocol.lost == []
