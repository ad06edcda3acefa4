"""An upstream of HTTP/2 by the library ``h2``: scripted, and every event of every stream is kept."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings

from canaryproxy.http2.frames import goaway

from ..certificates import authority, loopback
from .harness import send

Fields = list[tuple[bytes, bytes]]
OK: Fields = [(b":status", b"200"), (b"content-length", b"2")]


@dataclass(eq=False)
class Asked:
    """A request, as far as it came, and ways to answer it."""

    peer: Peer
    number: int
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    received: list[Any] = field(default_factory=list)
    """The fields as hpack has them."""
    sent: int = 0
    """Bytes of content that the windows have let out."""

    @property
    def server(self) -> H2Server:
        return self.peer.server

    @property
    def head(self) -> dict[bytes, bytes]:
        return dict(self.fields)

    async def end(self) -> None:
        """Wait until the request has come whole, or is reset."""
        await self.peer.until(lambda: self.ended or self.reset is not None)

    async def reply(
        self,
        fields: Fields = OK,
        body: bytes = b"ok",
        trailers: Fields | None = None,
        *,
        end: bool = True,
    ) -> None:
        """Answer as fast as the windows open."""
        last = end and trailers is None
        self.peer.h2.send_headers(self.number, fields, end_stream=last and not body)
        await self.send(body, end=last)
        if trailers is not None:
            self.peer.h2.send_headers(self.number, trailers, end_stream=True)
        await self.peer.flush()

    async def send(self, body: bytes, *, end: bool = False) -> None:
        h2 = self.peer.h2
        await self.peer.flush()
        while body:
            try:
                room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size)
            except StreamClosedError:
                return
            if room <= 0:
                await self.peer.flush()
                await self.peer.changed()
                continue
            part, body = body[:room], body[room:]
            h2.send_data(self.number, part, end_stream=end and not body)
            self.sent += len(part)
        await self.peer.flush()

    async def refuse(self, code: int) -> None:
        """Reset the stream."""
        self.peer.h2.reset_stream(self.number, code)
        await self.peer.flush()


class Peer:
    """One connection. ``takes``: what comes is given back to the windows."""

    def __init__(
        self, server: H2Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self._reader, self.writer = reader, writer
        self._changes = asyncio.Condition()
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.asked: dict[int, Asked] = {}
        self.pings = 0
        self.goaway: int | None = None
        self.closed = False

    async def until(self, condition: Callable[[], object]) -> None:
        async with self._changes:
            await asyncio.wait_for(self._changes.wait_for(lambda: bool(condition())), 30)

    async def changed(self) -> None:
        async with self._changes:
            await asyncio.wait_for(self._changes.wait(), 30)

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.closed:
            await send(self.writer, data)

    async def go_away(self, last: int | None = None, code: int = 0) -> None:
        """Announce the end, and go on; streams above ``last`` are not looked at."""
        await self.flush()
        self.writer.write(goaway(max(self.asked) if last is None else last, code, ""))

    async def run(self) -> None:
        server = self.server
        first = {SettingCodes(code): value for code, value in self.h2.local_settings.items()}
        first |= server.settings
        self.h2.local_settings = Settings(client=False, initial_values=first)
        self.h2.initiate_connection()
        await self.flush()
        while data := await self._reader.read(1 << 16):
            for event in self.h2.receive_data(data):
                self._take(event)
            await self.flush()
            async with self._changes:
                self._changes.notify_all()
        self.closed = True
        async with self._changes:
            self._changes.notify_all()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.PingReceived):
            self.pings += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        elif isinstance(event, h2.events.RequestReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
            asked = Asked(self, event.stream_id or 0, fields)
            asked.received = list(event.headers or ())
            self.asked[asked.number] = asked
            self.server.begin(asked)
        asked = self.asked.get(getattr(event, "stream_id", None) or 0)  # type: ignore[assignment]
        if asked is None:
            return
        if isinstance(event, h2.events.DataReceived):
            asked.body += event.data or b""
            if self.server.takes and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, asked.number)
        elif isinstance(event, h2.events.TrailersReceived):
            asked.trailers = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
        elif isinstance(event, h2.events.StreamEnded):
            asked.ended = True
        elif isinstance(event, h2.events.StreamReset):
            asked.reset = int(event.error_code or 0)


class H2Server:
    """A server whose ``answer`` is run for each request."""

    def __init__(
        self,
        answer: Callable[[Asked], Awaitable[None]],
        settings: dict[SettingCodes, int] | None = None,
        *,
        takes: bool = True,
    ) -> None:
        self._answer = answer
        self.settings = settings or {}
        self.takes = takes
        self.peers: list[Peer] = []
        self.asked: list[Asked] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, asked: Asked) -> None:
        self.asked.append(asked)
        self._start(self._run(asked))

    async def _run(self, asked: Asked) -> None:
        await self._answer(asked)

    def _start(self, what: Awaitable[None]) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await peer.run()
        except (ConnectionError, asyncio.CancelledError):
            peer.closed = True
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(self, *, tls: bool = False, port: int = 0) -> AsyncIterator[H2Server]:
        context: ssl.SSLContext | None = None
        if tls:
            context = authority().server(loopback())
            context.set_alpn_protocols(["h2"])
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def plain(asked: Asked) -> None:
    """Answer a whole request with ``ok``."""
    await asked.end()
    if asked.reset is None:
        await asked.reply()
