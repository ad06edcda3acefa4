"""Server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.admin.connection import BOUNDS
from canaryproxy.admin.stream import PACE, Pace
from tests.admin.fake import Client, FakeControl, Served, serve, until

STILL = Pace(poll=3600, release=3600, heartbeat=3600)


@dataclass
class Event:
    """One event, or a comment."""

    kind: str = ""
    data: Any = None
    id: str = ""
    comment: str = ""


class Stream:
    """A client of the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""
        self._text = b""

    async def next(self, kind: str = "") -> Event:
        """Return the next event (of that kind); raise ``EOFError`` at the end."""
        while True:
            while b"\n\n" not in self._text:
                await self._chunk()
            block, _, self._text = self._text.partition(b"\n\n")
            event = Event()
            for line in block.decode().split("\n"):
                name, _, value = line.partition(": ")
                if name == "data":
                    event.data = json.loads(value)
                elif name == "event":
                    event.kind = value
                elif name == "id":
                    event.id = value
                elif line.startswith(":"):
                    event.comment = line
            if not kind or event.kind == kind:
                return event

    async def _chunk(self) -> None:
        async with asyncio.timeout(60):
            try:
                size = int(await self.reader.readline() or b"0", 16)
                data = await self.reader.readexactly(size + 2)
            except (ConnectionError, asyncio.IncompleteReadError):
                raise EOFError from None
            if size == 0:
                raise EOFError
            self._text += data[:-2]


@asynccontextmanager
async def stream(
    served: Client, over: str = "tcp", *, target: str = "/v1/stream", **headers: str
) -> AsyncIterator[Stream]:
    reader, writer = await served.connect(over)
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    client = Stream(reader, writer)
    try:
        async with asyncio.timeout(60):
            client.head = await reader.readuntil(b"\r\n\r\n")
        yield client
    finally:
        writer.close()


async def test_the_state_comes_at_once(served: Served) -> None:
    for over in ("tcp", "unix"):
        async with stream(served, over) as client:
            assert client.head.startswith(b"HTTP/1.1 200")
            assert b"Content-Type: text/event-stream\r\n" in client.head
            assert b"Cache-Control: no-store\r\n" in client.head
            assert b"X-Content-Type-Options: nosniff\r\n" in client.head
            assert (await client.next("release")).data["weight"] == 5.0


async def test_what_happens_is_told(tmp_path: Path) -> None:
    """A record with its number, and the state that follows from it."""
    async with serve(tmp_path, pace=STILL) as served, stream(served) as client:
        await client.next("release")
        await served.ask("PUT", "/v1/weight", '{"weight": 7}')
        record = await client.next("record")
        assert (record.id, record.data["id"], record.data["what"]) == ("1", 1, "setweight")
        assert (await client.next("release")).data["weight"] == 7.0
        served.control.point(t=1.0, weight=7.0)
        assert (await client.next("point")).data == {"t": 1.0, "weight": 7.0}


async def test_the_state_comes_with_its_etag_and_with_time(tmp_path: Path) -> None:
    async with serve(tmp_path, pace=replace(STILL, poll=0.01)) as served, stream(served) as client:
        await client.next("release")
        await client.next("release")  # the first look
        served.control.weight, served.control.revision = 9.0, 2
        assert (await client.next("release")).data["weight"] == 9.0
    async with (
        serve(tmp_path, pace=Pace(poll=0.01, release=0.05, heartbeat=3600)) as served,
        stream(served) as client,
    ):
        for _ in range(5):
            await client.next("release")


async def test_a_quiet_stream_sends_heartbeats(tmp_path: Path) -> None:
    async with (
        serve(tmp_path, pace=Pace(poll=0.01, release=3600, heartbeat=0.05)) as served,
        stream(served) as client,
    ):
        for _ in range(3):
            while not (await client.next()).comment:
                pass


@pytest.mark.parametrize(
    ("last", "ids"),
    [("0", [1, 2, 3, 4, 5]), ("3", [4, 5]), ("5", []), ("77", [1, 2, 3, 4, 5]), ("", [])],
)
async def test_records_are_resumed(served: Served, last: str, ids: list[int]) -> None:
    """A number beyond the newest is one of another history: then everything is news."""
    for number in range(5):
        served.control.record(f"r{number}")
    async with stream(served, Last_Event_ID=last) as client:
        await client.next()
        got = []
        while (event := await client.next()).kind == "record":
            got.append(int(event.id))
        assert event.kind == "release"
        assert got == ids
        served.control.record("news")
        assert (await client.next("record")).id == "6"


@pytest.mark.parametrize("last", ["x", "-1", "1.0", "9" * 16, "1, 2"])
async def test_a_malformed_number_is_refused(served: Served, last: str) -> None:
    assert (await served.ask("GET", "/v1/stream", Last_Event_ID=last)).status == 400


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """And a place is free again when a client goes."""
    bounds = replace(BOUNDS, streams=3)
    async with serve(tmp_path, bounds=bounds) as served:
        clients = []
        for _ in range(3):
            reader, writer = await served.connect()
            writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"event: release")
            clients.append(writer)
        full = await served.ask("GET", "/v1/stream", over="tcp")
        assert full.status == 503
        assert full.headers["content-type"] == "application/problem+json"
        assert "retry-after" in full.headers
        async with stream(served, "unix") as other:
            await other.next("release")
        clients.pop().close()
        async with asyncio.timeout(60):
            while True:
                async with stream(served) as another:
                    if another.head.startswith(b"HTTP/1.1 200"):
                        break
        for writer in clients:
            writer.close()
        await until(lambda: not served.control.listeners)


async def test_nobody_looks_nothing_is_made(tmp_path: Path) -> None:
    async with serve(tmp_path, pace=Pace(poll=0.01, release=0.01)) as served:
        async with stream(served) as client:
            for _ in range(3):
                await client.next("release")
            assert len(served.control.listeners) == 1
        await until(lambda: not served.control.listeners)
        asked = served.control.asked
        await asyncio.sleep(0.1)
        assert served.control.asked == asked


async def test_the_document_is_made_once_for_all(tmp_path: Path) -> None:
    async with serve(tmp_path, pace=STILL) as served:
        clients = []
        for _ in range(10):
            reader, writer = await served.connect()
            writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"event: release")
            clients.append((reader, writer))
        asked = served.control.asked
        for _ in range(20):
            served.control.record("burst")
        for reader, writer in clients:
            async with asyncio.timeout(60):
                await reader.readuntil(b'"id":20')
                await reader.readuntil(b"event: release")
            writer.close()
        assert served.control.asked == asked + 1


async def test_a_reader_that_falls_behind_is_dropped(tmp_path: Path) -> None:
    """What waits for it is bounded; the others go on."""
    control = FakeControl()
    bounds = replace(BOUNDS, stall=3600)
    async with serve(tmp_path, control=control, bounds=bounds, pace=STILL) as served:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", served.port))
        await loop.sock_sendall(sock, b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: len(control.listeners) == 1)
        async with stream(served, "unix") as other:
            await other.next("release")
            for number in range(100_000):
                control.point(t=number, filling="x" * 20_000)
                assert (await other.next("point")).data["t"] == number
                if served.server.streams == 1:
                    break
            assert number < 5_000
        sock.close()


async def test_a_reader_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    bounds = replace(BOUNDS, stall=0.2)
    async with serve(tmp_path, bounds=bounds, pace=Pace(poll=0.001, release=0.001)) as served:
        served.control.padding = "x" * 100_000
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", served.port))
        await loop.sock_sendall(sock, b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: served.server.streams == 1)
        await until(lambda: served.server.streams == 0)
        sock.close()


async def test_streams_end_at_once_when_the_server_stops(tmp_path: Path) -> None:
    async with serve(tmp_path, bounds=replace(BOUNDS, stop=600), pace=PACE) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"event: release")
        stopping = asyncio.ensure_future(served.server.stop())
        async with asyncio.timeout(60):  # less than it would wait for a request
            rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n")
        await stopping
        writer.close()


async def test_a_document_that_fails_ends_the_streams(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(tmp_path, pace=Pace(poll=0.01, release=0.01)) as served:
        async with stream(served) as client:
            await client.next("release")
            del served.control.padding
            with pytest.raises(EOFError):
                await client.next("never")
        assert "the release view failed" in caplog.text
        served.control.padding = ""
        async with stream(served) as client:
            await client.next("release")
