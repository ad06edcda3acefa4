"""PROXY protocol headers on real connections, Unix sockets and IPv6 on both sides."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from canaryproxy import config
from canaryproxy.config import TcpAddress, UnixAddress
from canaryproxy.measure.counters import (
    CODES,
    CONNECTIONS_OPENED,
    ERRORS,
    HANDSHAKES_FAILED,
    HandshakeFailure,
    Reason,
)
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy.datapath import DataPath
from canaryproxy.proxy.listener import listen
from tests.datapaths import data_path

from ..certificates import authority, loopback
from .harness import (
    COOKIE,
    DEADLINE,
    OK,
    Upstream,
    always,
    handshakes,
    proxy,
    status_of,
    until,
    variants,
)

HOST = b"Host: h\r\n"
LAST = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: close\r\n\r\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 8080\r\n"
BINARY = (
    b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x21, 36 + 8)
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 12345, 8080)
    + b"\x04\x00\x05hello"
)  # fmt: skip
LOCAL = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20, 0x00, 0)


def expecting(what: str, more: str = "") -> str:
    return f"listen: {{address: 127.0.0.1:8080, proxy_protocol: {what}}}\n{more}\n"


@pytest.mark.parametrize("cut", [1, 20, 1000])
@pytest.mark.parametrize(
    ("header", "address", "node"),
    [
        (LINE, b"192.0.2.1", b"192.0.2.1"),
        (BINARY, b"2001:db8::1", b'"[2001:db8::1]"'),
        (LOCAL, b"127.0.0.1", b"127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", b"127.0.0.1", b"127.0.0.1"),
    ],
)
async def test_the_client_is_who_the_header_names(
    header: bytes, address: bytes, node: bytes, cut: int
) -> None:
    text = expecting("true", "split: {sticky: {address: true}, weight: 50}")
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(text + variants(upstream.port)) as running,
    ):
        client = await running.connect()
        data = header + LAST
        for at in range(0, len(data), cut):
            await client.send(data[at : at + cut])
            await asyncio.sleep(0)
        assert status_of(await client.to_end()) == 200
        assert b"\r\nX-Forwarded-For: %b\r\n" % address in upstream.got
        assert b"\r\nForwarded: for=%b;" % node in upstream.got


async def test_the_client_that_is_named_is_what_decides_on_trust() -> None:
    more = 'forwarded: {trust: ["127.0.0.0/8", "192.0.2.0/24"]}'
    request = LAST[:-2] + b"X-Forwarded-For: 203.0.113.9\r\n\r\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(expecting("trusted", more) + variants(upstream.port)) as running,
    ):
        await running.ask(LINE + request)
        await running.ask(LINE.replace(b"192.0.2.1", b"203.0.113.1") + request)
        one, other = upstream.got.split(b"GET / ")[1:]
        assert b"\r\nX-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n" in one
        assert b"\r\nX-Forwarded-For: 203.0.113.1\r\n" in other


async def test_a_host_is_made_of_the_address_that_the_header_names() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(expecting("required") + variants(upstream.port)) as running,
    ):
        await running.ask(LINE + b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n")
        assert b"\r\nHost: 198.51.100.2:8080\r\n" in upstream.got


async def test_who_is_not_trusted_speaks_http_at_once() -> None:
    more = 'forwarded: {trust: ["192.0.2.0/24"]}'
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(expecting("trusted", more) + variants(upstream.port)) as running,
    ):
        assert status_of(await running.ask(LAST)) == 200
        assert status_of(await running.ask(LINE + LAST)) == 400
        assert upstream.got.count(b"GET / ") == 1
        assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in upstream.got


@pytest.mark.parametrize(
    "data",
    [
        LAST,
        LINE[:-2] + b"\n" + LAST,
        BINARY[:12] + b"\x31" + BINARY[13:] + LAST,
        b"\x16\x03\x01" * 9,
    ],
)
async def test_without_a_valid_header_nothing_is_forwarded_or_answered(data: bytes) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(expecting("required") + variants(upstream.port)) as running,
    ):
        assert await running.ask(data) == b""
        assert upstream.got == b""
        assert running.counters.proxy[HANDSHAKES_FAILED + HandshakeFailure.PROXY_PROTOCOL] == 1
        assert running.counters.proxy[CONNECTIONS_OPENED] == 0


async def test_a_header_that_does_not_end_is_a_timeout() -> None:
    text = expecting("required", "limits: {handshake_timeout: 100ms}")
    async with proxy(text + variants(1)) as running:
        assert await running.ask(LINE[:20]) == b""
        assert running.counters.proxy[HANDSHAKES_FAILED + HandshakeFailure.TIMEOUT] == 1
        assert not handshakes(running.datapath)


async def test_who_only_looks_whether_somebody_listens_is_no_failure() -> None:
    async with proxy(expecting("required") + variants(1)) as running:
        client = await running.connect()
        await until(lambda: handshakes(running.datapath))
        client.close()
        await until(lambda: not handshakes(running.datapath))
        assert (
            sum(
                running.counters.proxy[
                    HANDSHAKES_FAILED : HANDSHAKES_FAILED + len(HandshakeFailure)
                ]
            )
            == 0
        )


async def test_the_header_comes_before_tls_even_in_one_segment() -> None:
    text = (
        f"listen: {{address: 127.0.0.1:8443, proxy_protocol: true,"
        f" tls: {{certificates: [{loopback().yaml()}]}}}}\n"
    )
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(text + variants(upstream.port)) as running,
    ):

        def ask() -> bytes:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = authority().client().wrap_bio(incoming, outgoing, server_hostname="localhost")
            with socket.create_connection(("127.0.0.1", running.port), DEADLINE) as sock:
                first = LINE
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        sock.sendall(first + outgoing.read())
                        first = b""
                        incoming.write(sock.recv(1 << 16))
                tls.write(LAST)
                sock.sendall(outgoing.read())
                got = b""
                while not got.endswith(b"ok"):
                    try:
                        got += tls.read()
                    except ssl.SSLWantReadError:
                        incoming.write(sock.recv(1 << 16))
                return got

        assert status_of(await asyncio.to_thread(ask)) == 200
        assert b"\r\nX-Forwarded-For: 192.0.2.1\r\n" in upstream.got
        assert b"\r\nX-Forwarded-Proto: https\r\n" in upstream.got


# Unix sockets and IPv6


@asynccontextmanager
async def listening(text: str, address: TcpAddress | UnixAddress) -> AsyncIterator[DataPath]:
    """Run a data path on an address."""
    made = config.parse(text, file="test.yaml")
    datapath, _ = data_path(made, ServiceCells())
    await datapath.serve([listen(address)])
    try:
        yield datapath
    finally:
        await datapath.drain(0.2)


async def asked(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    reader, writer = connection
    writer.write(LAST)
    got = await asyncio.wait_for(reader.read(), DEADLINE)
    writer.close()
    return got


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name leaves room for the name of a socket."""
    with TemporaryDirectory(prefix="cp-") as name:
        yield Path(name)


@pytest.mark.parametrize("weight", [0, 100])
async def test_endpoints_and_clients_on_unix_sockets(folder: Path, weight: int) -> None:
    upstream = Upstream(always(OK))
    path = folder / "app.sock"
    text = (
        f'variants: {{stable: {{endpoints: ["unix:{path}"]}},'
        f' canary: {{endpoints: ["unix:{folder}/none.sock"]}}}}\nsplit: {{weight: {weight}}}'
    )
    server = await asyncio.start_unix_server(upstream.serve_link, path)
    async with server, listening(text, UnixAddress(str(folder / "p.sock"))) as datapath:
        for _ in range(3):
            got = await asked(await asyncio.open_unix_connection(folder / "p.sock"))
            assert got.endswith(b"ok")
        assert b"X-Forwarded-For" not in upstream.got
        assert b"\r\nForwarded: for=unknown;host=h;proto=http\r\n" in upstream.got
        assert len(upstream.links) == 1  # connections are kept and used again
        cells = datapath.services["default"].context.counters.canary
        assert cells[ERRORS + Reason.CONNECT_FAILED] == (3 if weight else 0)
        datapath.services["default"].context.pools[0].endpoints[0].close()


async def test_a_unix_socket_whose_queue_is_full_is_waited_for(folder: Path) -> None:
    path = str(folder / "full.sock")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(path)
        full.listen(0)
        first.connect(path)  # takes the only place
        text = f'variants: {{stable: {{endpoints: ["unix:{path}"]}}}}\nlimits: {{connect_timeout: 200ms}}'
        async with proxy(text) as running:
            got = await running.ask(LAST)
            assert status_of(got) == 504
            assert running.counters.stable[ERRORS + Reason.CONNECT_TIMEOUT] == 1
            (endpoint,) = running.service.context.pools[0].endpoints
            assert endpoint.open == 0


async def test_ipv6_on_both_sides() -> None:
    upstream = Upstream(always(OK))
    server = await asyncio.start_server(upstream.serve_link, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        mine = probe.getsockname()[1]
    text = f'variants: {{stable: {{endpoints: ["http://[::1]:{port}"]}}}}'
    async with server, listening(text, TcpAddress("::1", mine)) as datapath:
        got = await asked(await asyncio.open_connection("::1", mine))
        assert got.endswith(b"ok")
        assert b'\r\nForwarded: for="[::1]";host=h;proto=http\r\n' in upstream.got
        with pytest.raises(OSError, match=r"refused|Multiple"):
            await asyncio.open_connection("127.0.0.1", mine)  # IPv6 only
        assert datapath.services["default"].context.counters.stable[CODES + 200] == 1
        datapath.services["default"].context.pools[0].endpoints[0].close()


async def test_a_client_of_a_balancer_that_is_on_a_unix_socket_is_not_trusted_for_it(
    folder: Path,
) -> None:
    header = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x31, 216) + bytes(216)
    request = LAST[:-2] + b"X-Forwarded-For: 203.0.113.9\r\n\r\n"
    path = folder / "p.sock"
    async with Upstream(always(OK)).serving() as upstream:
        text = f'listen: {{address: "unix:{path}", proxy_protocol: trusted}}\n'
        async with listening(text + variants(upstream.port), UnixAddress(str(path))):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(header + request)
            assert status_of(await asyncio.wait_for(reader.read(), DEADLINE)) == 200
            writer.close()
            assert b"203.0.113.9" not in upstream.got
            assert b"X-Forwarded-For" not in upstream.got
