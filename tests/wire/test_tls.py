"""TLS with clients and with endpoints: who is let in, by which certificate, and how connections end."""

from __future__ import annotations

import asyncio
import datetime
import gc
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar, cast

import pytest

from canaryproxy import config
from canaryproxy.measure.counters import (
    CODES,
    CONNECTIONS_OPENED,
    CONNECTIONS_REFUSED,
    ERRORS,
    HANDSHAKES_FAILED,
    TUNNELS_CLOSED,
    HandshakeFailure,
    Reason,
)
from canaryproxy.proxy.client_connection import ClientConnection
from canaryproxy.proxy.handshake import Handshake
from canaryproxy.tls.transport import TlsConnection

from ..certificates import Authority, Pair, authority, loopback
from .harness import (
    COOKIE,
    DEADLINE,
    OK,
    Link,
    Proxy,
    Upstream,
    always,
    handshakes,
    proxy,
    status_of,
    until,
    variants,
)

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
LAST = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: close\r\n\r\n"
T = TypeVar("T")


def listener(*pairs: Pair | str, more: str = "") -> str:
    """Return a listener with these certificates; the harness chooses the port."""
    items = ", ".join(pair if isinstance(pair, str) else pair.yaml() for pair in pairs)
    return f"listen: {{address: 127.0.0.1:8443, tls: {{certificates: [{items}]{more}}}}}\n"


def with_protocols(protocols: str, text: str) -> str:
    """Return a configuration whose listener takes these versions of HTTP."""
    address = "address: 127.0.0.1:8443,"
    return text.replace(address, f"{address} protocols: {protocols},")


def secure(port: int, pair: Pair | None = None, more: str = "") -> str:
    """Return a configuration of a TLS listener before a plain upstream."""
    return listener(pair or loopback()) + variants(port, more=more)


def connect(
    port: int, context: ssl.SSLContext | None = None, name: str = "localhost"
) -> ssl.SSLSocket:
    """Connect and shake hands, with the standard library's TLS; for threads."""
    sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
    return (context or authority().client()).wrap_socket(
        sock, server_hostname=name, suppress_ragged_eofs=False
    )


def ask(port: int, request: bytes = LAST, context: ssl.SSLContext | None = None) -> bytes:
    """Send on a new connection; return all until a close that was announced."""
    with connect(port, context) as sock:
        sock.sendall(request)
        return rest(sock)


def rest(sock: ssl.SSLSocket) -> bytes:
    got = b""
    while data := sock.recv(1 << 16):
        got += data
    return got


async def apart(work: Callable[[], T]) -> T:
    """Run what blocks beside the loop that serves it."""
    return await asyncio.wait_for(asyncio.to_thread(work), 2 * DEADLINE)


def names(sock: ssl.SSLSocket) -> list[str]:
    found = sock.getpeercert()
    assert found is not None
    return [entry[1] for entry in found["subjectAltName"] if entry[0] == "DNS"]  # type: ignore[misc]


def failures(running: Proxy, count: int) -> bool:
    """Tell whether so many handshakes failed."""
    return running.counters.proxy[HANDSHAKES_FAILED + HandshakeFailure.TLS] == count


# Who is let in, and how


async def test_a_request_over_tls_is_forwarded_as_https_and_the_cookie_is_secure() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):
        request = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        got = await apart(lambda: ask(running.port, request))
        assert status_of(got) == 200
        assert b"; Secure\r\n" in got
        assert b"\r\nX-Forwarded-Proto: https\r\n" in upstream.got
        assert b"\r\nForwarded: for=127.0.0.1;host=h;proto=https\r\n" in upstream.got


async def test_the_certificate_is_chosen_by_the_name_that_the_client_asks_for() -> None:
    own = Authority(authority().folder / "sni")
    first = own.pair("first.example", file="first")
    wild = own.pair("*.wild.example", "exact.example", file="wild")
    other = own.pair("other.example", file="other")
    renamed = other.yaml(', names: ["named.example"]')
    async with proxy(listener(first, wild, renamed) + variants(1)) as running:
        context = own.client()
        context.check_hostname = False

        def asked(name: str | None) -> list[str]:
            sock = socket.create_connection(("127.0.0.1", running.port), DEADLINE)
            with context.wrap_socket(sock, server_hostname=name) as tls:
                return names(tls)

        for name, expected in (
            (None, "first.example"),
            ("unknown.example", "first.example"),
            ("first.example", "first.example"),
            ("a.wild.example", "*.wild.example"),
            ("A.Wild.Example", "*.wild.example"),
            ("wild.example", "first.example"),
            ("a.b.wild.example", "first.example"),
            ("exact.example", "*.wild.example"),
            ("named.example", "other.example"),
            ("other.example", "first.example"),
        ):
            found = await apart(lambda name=name: asked(name))  # type: ignore[misc]
            assert found[0] == expected, name


async def test_keys_of_two_kinds_for_one_name_go_together() -> None:
    own = Authority(authority().folder / "kinds")
    pairs = own.pair("localhost", file="ec"), own.pair("localhost", file="rsa", rsa=True)
    async with proxy(listener(*pairs) + variants(1)) as running:
        for ciphers in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
            context = own.client()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            sock = await apart(lambda context=context: connect(running.port, context))  # type: ignore[misc]
            with sock:
                used = sock.cipher()
                assert used is not None
                assert used[0] == ciphers


async def test_alpn_agrees_on_http_2_and_on_1_1() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):
        for offered, agreed in (
            (("h2", "http/1.1"), "h2"),
            (("http/1.1",), "http/1.1"),
            (("h3",), None),
        ):
            context = authority().client(alpn=offered)
            with await apart(lambda: connect(running.port, context)) as sock:  # noqa: B023
                assert sock.selected_alpn_protocol() == agreed
        context = authority().client()
        with await apart(lambda: connect(running.port, context)) as sock:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert status_of(await apart(lambda: rest(sock))) == 505
        assert upstream.got == b""


async def test_without_http_2_alpn_agrees_on_http_1_1_and_h2_alone_is_not_agreed_on() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(with_protocols("http1", secure(upstream.port))) as running,
    ):
        context = authority().client(alpn=("h2", "http/1.1"))
        with await apart(lambda: connect(running.port, context)) as sock:
            assert sock.selected_alpn_protocol() == "http/1.1"
        only = authority().client(alpn=("h2",))
        with await apart(lambda: connect(running.port, only)) as sock:
            assert sock.selected_alpn_protocol() is None
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert status_of(await apart(lambda: rest(sock))) == 505
        assert upstream.got == b""


@pytest.mark.parametrize(
    ("protocols", "offered", "agreed"),
    [
        ("http2", ("h2", "http/1.1"), "h2"),
        ("http2", ("http/1.1",), None),
        ("[http1, http2]", ("h2",), "h2"),
    ],
)
async def test_http_1_is_refused_on_a_listener_or_connection_of_http_2(
    protocols: str, offered: tuple[str, ...], agreed: str | None
) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(with_protocols(protocols, secure(upstream.port))) as running,
    ):
        context = authority().client(alpn=offered)
        with await apart(lambda: connect(running.port, context)) as sock:
            assert sock.selected_alpn_protocol() == agreed
            sock.sendall(GET)
            assert status_of(await apart(lambda: rest(sock))) == 505
        assert upstream.got == b""


@pytest.mark.parametrize(("oldest", "fails"), [("1.2", False), ("1.3", True)])
async def test_versions_older_than_configured_are_refused(oldest: str, fails: bool) -> None:
    text = listener(loopback(), more=f", min_version: {oldest}")
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(text + variants(upstream.port)) as running,
    ):
        context = authority().client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if fails:
            with pytest.raises(ssl.SSLError):
                await apart(lambda: connect(running.port, context))
            await until(
                lambda: running.counters.proxy[HANDSHAKES_FAILED + HandshakeFailure.TLS] == 1
            )
            assert running.counters.proxy[CONNECTIONS_OPENED] == 0
        else:
            assert status_of(await apart(lambda: ask(running.port, LAST, context))) == 200


async def test_sessions_are_resumed() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = authority().client()
            context.minimum_version = context.maximum_version = version

            def twice(context: ssl.SSLContext = context) -> bool:
                with connect(running.port, context) as sock:
                    sock.sendall(LAST)
                    rest(sock)
                    session = sock.session
                raw = socket.create_connection(("127.0.0.1", running.port), DEADLINE)
                with context.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
                    sock.sendall(LAST)
                    assert status_of(rest(sock)) == 200
                    return bool(sock.session_reused)

            assert await apart(twice)


async def test_clients_show_a_certificate_where_one_is_required() -> None:
    stranger = Authority(authority().folder / "stranger").pair("someone", file="client")
    known = authority().pair("someone", file="client")
    for auth, lets_in in (("required", False), ("optional", True)):
        more = f", client_ca: {authority().ca}, client_auth: {auth}"
        async with (
            Upstream(always(OK)).serving() as upstream,
            proxy(listener(loopback(), more=more) + variants(upstream.port)) as running,
        ):
            with_one = partial(ask, running.port, LAST, authority().client(known))
            assert status_of(await apart(with_one)) == 200
            without = partial(ask, running.port)
            if lets_in:
                assert status_of(await apart(without)) == 200
            else:
                with pytest.raises(ssl.SSLError):
                    await apart(without)
            with pytest.raises(ssl.SSLError):
                await apart(partial(ask, running.port, LAST, authority().client(stranger)))
            refused = 1 if lets_in else 2
            await until(partial(failures, running, refused))
            assert upstream.got.count(b"GET / ") == (2 if lets_in else 1)


# Who is not


async def test_plain_http_on_a_tls_port_is_told_so() -> None:
    async with proxy(secure(1)) as running:
        got = await apart(lambda: plain(running.port, GET))
        assert status_of(got) == 400
        assert b"TLS" in got
        assert running.counters.proxy[HANDSHAKES_FAILED + HandshakeFailure.TLS] == 1


def plain(port: int, data: bytes) -> bytes:
    """Send bytes without TLS; return all until the end or a reset."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(data)
        with suppress(ConnectionError):
            while piece := sock.recv(1 << 16):
                got += piece
    return got


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x00\x05hello", b"\x80" * 5000, b"\x00"])
async def test_what_is_not_a_handshake_ends_the_connection(garbage: bytes) -> None:
    text = secure(1, more="limits: {handshake_timeout: 300ms}")
    async with proxy(text) as running:
        got = await apart(lambda: plain(running.port, garbage))
        assert b"HTTP" not in got
        entered = running.counters.proxy[
            HANDSHAKES_FAILED : HANDSHAKES_FAILED + len(HandshakeFailure)
        ]
        assert sum(entered) == 1
        assert running.counters.proxy[CONNECTIONS_OPENED] == 0
        assert not handshakes(running.datapath)


async def test_handshakes_that_drip_end_in_time_and_count_as_connections() -> None:
    text = secure(1, more="limits: {handshake_timeout: 400ms, max_connections: 1}")
    async with proxy(text) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        await until(lambda: handshakes(running.datapath))
        # The one place is taken: who comes now is not even shaken hands with.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await apart(lambda: connect(running.port))
        assert running.counters.proxy[CONNECTIONS_REFUSED] == 1

        async def drip() -> None:
            hello = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(1000)
            for at in range(len(hello)):
                writer.write(hello[at : at + 1])
                await asyncio.sleep(0.005)

        dripping = asyncio.create_task(drip())
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
        dripping.cancel()
        assert running.counters.proxy[HANDSHAKES_FAILED + HandshakeFailure.TIMEOUT] == 1
        assert not handshakes(running.datapath)
        writer.close()


async def test_the_time_for_the_head_begins_after_the_handshake() -> None:
    text = secure(1, more="limits: {handshake_timeout: 10s, header_timeout: 200ms}")
    async with proxy(text) as running:

        def silent() -> bytes:
            with connect(running.port) as sock:
                return sock.recv(1)

        assert await apart(silent) == b""


# How connections end


async def test_a_last_answer_without_length_ends_with_close_notify() -> None:
    body = bytes(300_000)
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    async with (
        Upstream(always(answer % (len(body), body))).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):
        got = await apart(lambda: ask(running.port, b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n"))
        assert got.partition(b"\r\n\r\n")[2] == body


async def test_an_early_answer_reaches_a_client_that_goes_on_sending() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):

        def upload() -> bytes:
            with connect(running.port) as sock:
                sock.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 900000\r\n\r\n")
                sock.sendall(bytes(5000))
                got = rest(sock)
                sock.sendall(bytes(5000))
                return got

        assert (await apart(upload)).endswith(b"\r\n\r\nok")


async def test_a_slow_reader_of_a_last_answer_gets_all_of_it() -> None:
    size, small = 240 << 10, 16 << 10
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(secure(upstream.port), send_buffer=small) as running,
    ):

        def slowly() -> int:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
            sock.settimeout(DEADLINE)
            sock.connect(("127.0.0.1", running.port))
            with (
                authority()
                .client()
                .wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls
            ):
                tls.sendall(LAST)
                count = 0
                while data := tls.recv(4096):
                    count += len(data)
                    time.sleep(0.01)
                return count

        assert await apart(slowly) > size


@contextmanager
def tls_server(answer: bytes, *, announced: bool = True, clients: bool = False) -> Iterator[int]:
    """Serve one answer per connection over TLS, then close: with ``close_notify`` or without.

    ``clients``: they must show a certificate. What the standard library does here is done by no loop.
    """
    context = authority().server(loopback(), clients=clients)

    def serve(sock: ssl.SSLSocket) -> None:
        try:
            sock.do_handshake()
        except ssl.SSLError:
            while socket.socket.recv(sock, 4096):  # so that no reset overtakes the alert
                pass
            return
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(4096)
        sock.sendall(answer)
        if announced:
            sock.unwrap()
        else:
            sock.shutdown(socket.SHUT_WR)  # of the socket: TLS says nothing

    def accept() -> None:
        with suppress(OSError):
            while True:
                raw, _ = server.accept()
                with (
                    suppress(OSError),
                    context.wrap_socket(
                        raw, server_side=True, do_handshake_on_connect=False
                    ) as sock,
                ):
                    serve(sock)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE)


def https(port: int, more: str = "", tls: str | None = None) -> str:
    """Return a configuration with an https endpoint."""
    tls = f"ca: {authority().ca}" if tls is None else tls
    return (
        f'variants: {{stable: {{endpoints: ["https://127.0.0.1:{port}"], tls: {{{tls}}}}}}}\n{more}'
    )


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_that_ends_with_its_connection_is_whole_only_if_the_end_is_announced(
    announced: bool,
) -> None:
    with tls_server(b"HTTP/1.1 200 OK\r\n\r\nall of it", announced=announced) as port:
        async with proxy(https(port)) as running:
            client = await running.connect()
            await client.send(GET)
            got = await client.to_end() if not announced else await client.take(b"0\r\n\r\n")
            cells = running.counters.stable
            assert b"all of it" in got
            assert got.endswith(b"0\r\n\r\n") is announced
            await until(lambda: cells[CODES + (200 if announced else 502)] == 1)
            assert cells[ERRORS + Reason.INCOMPLETE_ANSWER] == (0 if announced else 1)


async def test_tunnels_over_tls_are_half_closed_like_others() -> None:
    """The client's end is ``close_notify``; what the upstream says after it still arrives."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(switch)
        await link.to_end()
        await link.send(b"bye")
        link.close()

    async with (
        Upstream(answer).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):
        reader = asyncio.StreamReader()
        shaken: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        protocol = asyncio.StreamReaderProtocol(reader)
        tls = TlsConnection(
            authority().client(), shaken.set_result, server_side=False, server_hostname="localhost"
        )
        await asyncio.get_running_loop().create_connection(
            lambda: cast(asyncio.Protocol, tls), "127.0.0.1", running.port
        )
        assert await asyncio.wait_for(shaken, DEADLINE) is None
        tls.set_protocol(protocol)
        protocol.connection_made(cast(asyncio.Transport, tls))
        upgrade = (
            b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"
        )
        tls.write(upgrade)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
        tls.write(b"the last")
        tls.write_eof()
        assert await asyncio.wait_for(reader.read(), DEADLINE) == b"bye"
        assert upstream.got.endswith(b"the last")
        await until(lambda: running.counters.stable[TUNNELS_CLOSED] == 1)
        tls.close()
        await until(lambda: not running.context.connections)


@pytest.mark.parametrize("verified", [True, False])
async def test_what_is_over_is_freed_at_once(verified: bool) -> None:
    async with (
        Upstream(always(OK)).serving(context=authority().server(loopback())) as upstream,
        proxy(listener(loopback()) + https(upstream.port, tls=None if verified else "")) as running,
    ):
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await apart(lambda: ask(running.port))
            with suppress(OSError):  # and one that fails
                await apart(lambda: plain(running.port, b"GET / HTTP/1.1\r\n\r\n"))
            running.service.context.pools[0].endpoints[0].close()
            await until(lambda: not running.context.connections)
            kinds = (TlsConnection, Handshake, ClientConnection)
            await until(lambda: not [one for one in gc.get_objects() if isinstance(one, kinds)])
        finally:
            gc.enable()


# Certificates that change


async def test_new_files_are_for_new_connections_and_the_others_go_on(tmp_path: Path) -> None:
    own = Authority(tmp_path)
    pair = own.pair()

    def serial(sock: ssl.SSLSocket) -> str:
        found = sock.getpeercert()
        assert found is not None
        return str(found["serialNumber"])

    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(secure(upstream.port, pair)) as running,
    ):
        made = config.parse(secure(upstream.port, pair), file="test.yaml")
        old = await apart(lambda: connect(running.port, own.client()))
        own.pair()
        running.reconfigure(made)
        new = await apart(lambda: connect(running.port, own.client()))
        assert serial(old) != serial(new)
        for sock in (old, new):
            with sock:
                sock.sendall(LAST)
                assert status_of(await apart(lambda sock=sock: rest(sock))) == 200  # type: ignore[misc]


# Endpoints


async def fails_with(running: Proxy, reason: Reason) -> None:
    client = await running.connect()
    await client.send(GET)
    got = await client.take(b"Request ID")
    assert status_of(got) == 502
    assert b"\r\nX-Canaryproxy-Reason: %b\r\n" % reason.label.encode() in got


@pytest.mark.parametrize("kind", ["authority", "name", "expired"])
async def test_an_endpoint_that_cannot_be_verified_is_a_failure_to_connect(kind: str) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    if kind == "authority":
        pair = Authority(authority().folder / kind).pair()
    elif kind == "name":
        pair = authority().pair("other.example", file="other")
    else:
        pair = authority().pair(file="expired", until=past)
    upstream = Upstream(always(OK))
    async with (
        upstream.serving(context=authority().server(pair)),
        proxy(https(upstream.port)) as running,
    ):
        for _ in range(3):
            await fails_with(running, Reason.CERTIFICATE)
        assert running.counters.stable[ERRORS + Reason.CERTIFICATE] == 3
        (endpoint,) = running.service.context.pools[0].endpoints
        assert endpoint.ejected
        assert endpoint.open == 0
        assert upstream.got == b""


@pytest.mark.parametrize("tls", ["verify: false", "ca: {ca}, server_name: other.example"])
async def test_what_is_verified_can_be_chosen(tls: str) -> None:
    upstream = Upstream(always(OK))
    pair = authority().pair("other.example", file="other")
    text = tls.replace("{ca}", str(authority().ca))
    async with (
        upstream.serving(context=authority().server(pair)),
        proxy(https(upstream.port, tls=text)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"ok", count)
        assert len(upstream.links) == 1


async def test_endpoints_that_ask_for_a_certificate_get_ours_or_refuse_us() -> None:
    pair = authority().pair("canaryproxy", file="ours")
    ca = f"ca: {authority().ca}"
    with tls_server(OK, clients=True) as port:
        async with proxy(https(port, tls=f"{ca}, cert: {pair.cert}, key: {pair.key}")) as running:
            client = await running.connect()
            await client.send(GET)
            await client.take(b"ok")
        async with proxy(https(port, tls=ca)) as running:
            await fails_with(running, Reason.TLS)


async def test_new_authorities_are_for_new_connections_to_endpoints(tmp_path: Path) -> None:
    ca = tmp_path / "trusted.pem"
    ca.write_bytes(Authority(tmp_path / "wrong").ca.read_bytes())
    upstream = Upstream(always(OK))
    async with upstream.serving(context=authority().server(loopback())):
        text = https(upstream.port, tls=f"ca: {ca}")
        async with proxy(text) as running:
            await fails_with(running, Reason.CERTIFICATE)
            ca.write_bytes(authority().ca.read_bytes())
            await fails_with(running, Reason.CERTIFICATE)  # nobody has said so yet
            running.reconfigure(config.parse(text, file="test.yaml"))
            client = await running.connect()
            await client.send(GET)
            await client.take(b"ok")


async def test_an_endpoint_that_never_shakes_hands_is_a_timeout() -> None:
    async def silent(link: Link) -> None:
        await link.to_end()

    async with (
        Upstream(silent).serving() as upstream,
        proxy(https(upstream.port, more="limits: {connect_timeout: 100ms}")) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        got = await client.take(b"Request ID")
        assert status_of(got) == 504
        await until(lambda: upstream.links[0].closed)
        (endpoint,) = running.service.context.pools[0].endpoints
        assert endpoint.open == 0


async def test_a_canary_that_cannot_be_verified_is_rescued() -> None:
    stable, canary = Upstream(always(OK)), Upstream(always(OK))
    strange = Authority(authority().folder / "strange").pair()
    async with (
        stable.serving(),
        canary.serving(context=authority().server(strange)),
        proxy(
            f'variants: {{stable: {{endpoints: ["http://127.0.0.1:{stable.port}"]}},'
            f' canary: {{endpoints: ["https://localhost:{canary.port}"]}}}}\n'
            "split: {weight: 100}"
        ) as running,
    ):
        client = await running.connect()
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 2\r\n\r\nhi")
        await client.take(b"ok")
        assert stable.got.endswith(b"hi")
        assert running.counters.canary[ERRORS + Reason.CERTIFICATE] == 1


# The end of the proxy


async def test_a_proxy_that_goes_away_ends_answers_under_way_in_order_and_handshakes_at_once() -> (
    None
):
    go = asyncio.Event()

    async def late(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await go.wait()
        await link.send(OK)

    async with (
        Upstream(late).serving() as upstream,
        proxy(secure(upstream.port)) as running,
    ):
        asking = asyncio.create_task(apart(lambda: ask(running.port, GET)))
        await until(lambda: upstream.got.endswith(b"\r\n\r\n"))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        await until(lambda: handshakes(running.datapath))
        draining = asyncio.create_task(running.datapath.drain(DEADLINE))
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
        writer.close()
        assert not asking.done()
        go.set()
        got = await asking
        assert b"\r\nConnection: close\r\n" in got
        assert got.endswith(b"ok")
        assert await draining
