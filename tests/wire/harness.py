"""A proxy between raw sockets: what tests send and what upstreams get is compared byte for byte."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from unittest.mock import patch

from canaryproxy import config
from canaryproxy.config import Config, TcpAddress, yaml_reader
from canaryproxy.judging.metrics import Record, unpack
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.client_connection import ClientConnection
from canaryproxy.proxy.datapath import DataPath
from canaryproxy.proxy.handshake import Handshake
from canaryproxy.proxy.listener import listen
from canaryproxy.proxy.service_path import ServicePath
from tests.datapaths import data_path
from tests.ports import free_port

from ..certificates import authority, loopback

DEADLINE = 30.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
COOKIE = b"Cookie: canary_id=0123456789abcdef0123456789abcdef\r\n"
ADDED = (
    b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n"
    b"Forwarded: for=127.0.0.1;host=h;proto=http\r\n"
)
"""What the proxy adds for a client on loopback that asks for host h."""
VIA = b"Via: 1.1 canaryproxy\r\n"


@dataclass
class Secured:
    """Which sides of the proxy speak TLS: tests written for plain TCP are run again with other values."""

    downstream: bool = False
    upstream: bool = False


SECURED = Secured()

Answer = Callable[["Link"], Awaitable[None]]


async def until(condition: Callable[[], object], what: str = "condition") -> None:
    """Wait for a condition; fails after ``DEADLINE`` seconds."""
    end = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < end, f"{what} did not come true"
        await asyncio.sleep(0.005)


class Link:
    """One connection at an upstream: every byte it got, and ways to answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.got = b""
        self.closed = False

    async def take(self, mark: bytes, count: int = 1) -> bytes:
        """Read until ``mark`` came ``count`` times; return all that was got so far."""
        while self.got.count(mark) < count:
            if not await self.read():
                raise EOFError(self.got)
        return self.got

    async def read(self) -> bytes:
        """Read what is there, ``b""`` at the end."""
        try:
            data = await self._reader.read(1 << 18)
        except ConnectionError:
            data = b""
        self.got += data
        self.closed = self.closed or not data
        return data

    async def to_end(self) -> None:
        """Read until the proxy closes."""
        while await self.read():
            pass

    async def send(self, data: bytes) -> None:
        """Answer."""
        await send(self._writer, data)

    def send_eof(self) -> None:
        """Close this half only; over TLS (uvloop's has no halves) the connection."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        else:
            self._writer.close()

    def close(self) -> None:
        """Close the connection in order."""
        self._writer.close()

    def reset(self) -> None:
        """Close it with a reset."""
        _reset(self._writer)


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, and wait until there is room for more."""
    writer.write(data)
    await writer.drain()
    # uvloop's TLS drops what is written after the peer's end and ``drain`` does not wait then: who sends in a
    # loop would never let the event loop know that the connection is over.
    await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset: ``abort`` alone ends a connection in order if nothing is unread."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Upstream:
    """A scripted upstream: ``answer`` is run for each connection; ``links`` are all of them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.links: list[Link] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def got(self) -> bytes:
        """Everything that came, over all connections."""
        return b"".join(link.got for link in self.links)

    async def serve_link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        link = Link(reader, writer)
        self.links.append(link)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(link)
            await link.to_end()
        except (EOFError, ConnectionError, asyncio.CancelledError):
            link.closed = True
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(
        self, port: int = 0, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[Upstream]:
        if SECURED.upstream:
            context = authority().server(loopback())
        server = await asyncio.start_server(self.serve_link, "127.0.0.1", port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def always(answer: bytes) -> Answer:
    """Answer every request (without a body) with the same bytes."""

    async def run(link: Link) -> None:
        answered = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > answered:
                answered += 1
                await link.send(answer)

    return run


class Client:
    """One raw connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.got = b""
        self.eof = False

    async def send(self, data: bytes) -> None:
        await send(self._writer, data)

    async def read(self) -> bytes:
        data = await asyncio.wait_for(self._reader.read(1 << 18), DEADLINE)
        self.got += data
        self.eof = self.eof or not data
        return data

    async def take(self, mark: bytes, count: int = 1) -> bytes:
        """Read until ``mark`` came ``count`` times; return everything so far."""
        end = monotonic() + DEADLINE
        while self.got.count(mark) < count:
            assert monotonic() < end, f"no {mark!r} in {self.got[-1000:]!r}"
            if not await self.read():
                raise AssertionError(f"closed after {self.got!r}")
        return self.got

    async def take_head(self) -> bytes:
        """Read exactly up to the end of a head."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), DEADLINE)
        self.got += head
        return head

    async def to_end(self) -> bytes:
        """Read until the proxy closes; return everything."""
        while not self.eof:
            await self.read_or_end()
        return self.got

    async def read_or_end(self) -> None:
        """Read what is there; a reset is an end too."""
        try:
            await self.read()
        except ConnectionError:
            self.eof = True

    async def read_slowly(self, total: int, piece: int, pause: float) -> int:
        """Read until ``total`` bytes or the end, a piece at a time; return how many came."""
        count = 0
        while count < total:
            data = await asyncio.wait_for(self._reader.read(piece), DEADLINE)
            if not data:
                break
            count += len(data)
            await asyncio.sleep(pause)
        return count

    def stop_reading(self) -> None:
        """Leave what comes in the socket."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        """Read again after ``stop_reading``."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def send_eof(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        _reset(self._writer)


def handshakes(datapath: DataPath) -> list[Handshake]:
    """Return the connections whose PROXY header or TLS handshake is not complete."""
    return [one for one in datapath.context.connections if isinstance(one, Handshake)]


class Proxy:
    """A data path on a free port of 127.0.0.1."""

    def __init__(
        self,
        datapath: DataPath,
        service: ServicePath,
        port: int,
        cells: ServiceCells,
        log: AccessLog | None = None,
    ) -> None:
        self.datapath = datapath
        self.service = service
        self.context = datapath.context
        self.log = log
        self.port = port
        self.cells = cells
        self.counters = cells.counters
        self._clients: list[Client] = []

    def reconfigure(self, made: Config, outcomes: Mapping[str, int] | None = None) -> None:
        """Serve by another configuration."""
        service = replace(self.service.service, config=made, outcomes=outcomes or {})
        self.datapath.reconfigure(made, [service])

    def connection(self) -> ClientConnection:
        """Return the only connection of a client."""
        (connection,) = self.context.connections
        assert isinstance(connection, ClientConnection)
        return connection

    async def connect(self, receive_buffer: int = 0) -> Client:
        """Connect; ``receive_buffer`` is the size of the socket's, 0 for the system's."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(
            sock=sock,
            limit=receive_buffer or 1 << 20,
            ssl=authority().client() if SECURED.downstream else None,
            server_hostname="localhost" if SECURED.downstream else None,
        )
        client = Client(reader, writer)
        self._clients.append(client)
        if SECURED.downstream:
            await until(lambda: not handshakes(self.datapath), "end of the handshake")
        return client

    async def ask(self, data: bytes) -> bytes:
        """Send on a new connection and return all until the proxy closes it."""
        client = await self.connect()
        await client.send(data)
        return await client.to_end()

    def weight(self, percent: float) -> None:
        """Publish another weight."""
        table = self.service.context.router.table
        self.service.publish(RouteTable(percent, table.salt))

    def limits(self, late: float, stalled: float) -> None:
        """Publish the seconds after which a request is late and stalled."""
        table = self.service.context.router.table
        self.service.publish(replace(table, late=late, stall_after=stalled))

    def records(self) -> list[Record]:
        """Begin a tick and return all records so far."""
        self.datapath.tick()
        ring = self.cells.records
        return list(unpack(ring.words(0, ring.written)))

    async def record(self) -> Record:
        """Wait for the record of a request that has ended, and return the last one."""
        await until(lambda: any(one.ended for one in self.records()), "record")
        return [one for one in self.records() if one.ended][-1]

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()


@asynccontextmanager
async def proxy(
    text: str, send_buffer: int = 0, cells: ServiceCells | None = None
) -> AsyncIterator[Proxy]:
    """Run a data path with this configuration (YAML); ``send_buffer`` is that of clients' sockets.

    ``cells`` are those of a worker in shared memory.
    """
    with patch.object(
        yaml_reader, "_LARGE", 0
    ):  # by libyaml, which composes the same in a third of the time
        made = _patient(config.parse(_secured(text), file="test.yaml"))
    sock = listen(TcpAddress("127.0.0.1", free_port()))
    if send_buffer:  # accepted sockets inherit it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    log = None
    if made.access_log is not None:
        log = AccessLog(made.access_log)
        log.start()
    cells = cells or ServiceCells()
    datapath, service = data_path(made, cells, log=log)
    await datapath.serve([sock])
    running = Proxy(datapath, service, sock.getsockname()[1], cells, log)
    try:
        yield running
    finally:
        running.close_clients()
        await datapath.drain(0.2)
        if log is not None:
            await log.stop()


def _patient(made: Config) -> Config:
    """Return the configuration with more time to connect, unless the test sets it.

    A process that a busy machine stops for two seconds would see its timer before its connection.
    """
    if "connect_timeout" in made.limits.model_fields_set:
        return made
    limits = made.limits.model_copy(update={"connect_timeout": DEADLINE})
    return made.model_copy(update={"limits": limits})


def _secured(text: str) -> str:
    """Return a configuration whose listener speaks TLS, if it shall."""
    if not SECURED.downstream:
        return text
    tls = f"{{certificates: [{loopback().yaml()}]}}"
    return f"listen: {{address: 127.0.0.1:8443, tls: {tls}}}\n{text}"


def variants(stable: int, canary: int | None = None, more: str = "") -> str:
    """Return a configuration with one endpoint each."""
    scheme, tls = (
        ("https", f", tls: {{ca: {authority().ca}}}") if SECURED.upstream else ("http", "")
    )
    first, second = (
        f'{{endpoints: ["{scheme}://127.0.0.1:{port}"]{tls}}}' for port in (stable, canary)
    )
    return f"variants:\n  stable: {first}\n" + f"  canary: {second}\n" * bool(canary) + more


def undated(answer: bytes) -> bytes:
    """Return what the proxy sent without Date, which upstreams here leave to it."""
    return re.sub(
        rb"(?<=\r\n)Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [0-9:]{8} GMT\r\n", b"", answer
    )


def status_of(answer: bytes) -> int:
    """Return the status of the first answer."""
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert match, answer
    return int(match[1])
