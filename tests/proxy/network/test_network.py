"""Transports of the data path: those of the event loop and those of the extension behave alike."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from weakref import ref

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.proxy import network
from canaryproxy.proxy.network import IS_NATIVE, Network
from tests.notify.harness import until

SECONDS = 20.0
"""Of a socket's time-out."""
RESET = struct.pack("ii", 1, 0)


class Peer(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self, *, stays: bool = False) -> None:
        self.said: list[str] = []
        self.data = bytearray()
        self.error: Exception | None = None
        self.stays = stays
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.said.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data

    def eof_received(self) -> bool:
        self.said.append("eof")
        return self.stays

    def pause_writing(self) -> None:
        self.said.append("full")

    def resume_writing(self) -> None:
        self.said.append("drained")

    def connection_lost(self, exc: Exception | None) -> None:
        self.said.append("lost")
        self.error = exc


def kinds() -> list[Any]:
    native = pytest.param(
        "NativeNetwork", marks=pytest.mark.skipif(not IS_NATIVE, reason="not built")
    )
    return ["Network", native]


@pytest.fixture(params=kinds())
def kind(request: pytest.FixtureRequest) -> type[Network]:
    return cast(type[Network], getattr(network, request.param))


@pytest.fixture
async def pair(kind: type[Network]) -> AsyncIterator[tuple[Peer, socket.socket]]:
    """A protocol and, blocking, the socket at the other end."""
    ours, theirs = connected()
    protocol = Peer()
    await kind(asyncio.get_running_loop()).open(ours, lambda: protocol)
    yield protocol, theirs
    theirs.close()
    protocol.transport.abort()
    await until(lambda: "lost" in protocol.said)


def connected() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection; the first does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    theirs.settimeout(SECONDS)
    return ours, theirs


def receive(sock: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (part := sock.recv(size - len(found))):
        found += part
    return bytes(found)


async def in_thread(call: Callable[[], bytes]) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def test_bytes_come_and_go(pair: tuple[Peer, socket.socket]) -> None:
    protocol, theirs = pair
    theirs.sendall(b"question")
    await until(lambda: protocol.data == b"question")
    for part in (b"an", bytearray(b"sw"), memoryview(b"er"), b""):
        protocol.transport.write(part)
    protocol.transport.writelines([b" to", b" it"])
    assert await in_thread(lambda: receive(theirs, 12)) == b"answer to it"
    assert protocol.said == ["made"]


async def test_more_than_the_kernel_takes_waits_and_tells_of_it(
    pair: tuple[Peer, socket.socket],
) -> None:
    protocol, theirs = pair
    parts = [bytes([number]) * 700_000 for number in range(20)]
    for part in parts:
        protocol.transport.write(part)
    waiting = protocol.transport.get_write_buffer_size()
    assert waiting > 64 * 1024
    assert protocol.said == ["made", "full"]
    sent = b"".join(parts)
    assert await in_thread(lambda: receive(theirs, len(sent))) == sent
    await until(lambda: protocol.said == ["made", "full", "drained"])
    assert protocol.transport.get_write_buffer_size() == 0


async def test_limits_of_what_waits(pair: tuple[Peer, socket.socket]) -> None:
    transport = pair[0].transport
    assert transport.get_write_buffer_limits()[1] == 64 * 1024
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=10)
    assert transport.get_write_buffer_limits() == (10, 40)
    with pytest.raises(ValueError, match="high"):
        transport.set_write_buffer_limits(high=1, low=2)


async def test_who_pauses_gets_nothing_until_it_resumes(pair: tuple[Peer, socket.socket]) -> None:
    protocol, theirs = pair
    protocol.transport.pause_reading()
    theirs.sendall(b"x" * 1000)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert not protocol.data
    protocol.transport.resume_reading()
    await until(lambda: len(protocol.data) == 1000)


async def test_a_paused_one_notices_the_end_after_it_resumes(
    pair: tuple[Peer, socket.socket],
) -> None:
    protocol, theirs = pair
    protocol.transport.pause_reading()
    theirs.sendall(b"last words")
    theirs.close()
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert protocol.said == ["made"]
    protocol.transport.resume_reading()
    await until(lambda: "lost" in protocol.said)
    assert protocol.data == b"last words"
    assert protocol.said == ["made", "eof", "lost"]
    assert protocol.error is None


async def test_a_half_closed_connection_can_still_be_written_to(
    pair: tuple[Peer, socket.socket],
) -> None:
    protocol, theirs = pair
    protocol.stays = True
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in protocol.said)
    protocol.transport.write(b"still here")
    assert await in_thread(lambda: receive(theirs, 10)) == b"still here"
    assert not protocol.transport.is_closing()
    protocol.transport.write_eof()
    assert await in_thread(lambda: theirs.recv(1)) == b""
    with pytest.raises(RuntimeError, match="write_eof"):
        protocol.transport.write(b"more")


async def test_our_end_follows_what_waits(pair: tuple[Peer, socket.socket]) -> None:
    protocol, theirs = pair
    protocol.transport.write(b"y" * 8_000_000)
    assert protocol.transport.can_write_eof()
    protocol.transport.write_eof()
    assert len(await in_thread(lambda: receive(theirs, 9_000_000))) == 8_000_000
    theirs.sendall(b"thanks")
    await until(lambda: protocol.data == b"thanks")


@pytest.mark.parametrize("size", [0, 10, 8_000_000])
async def test_closing_sends_what_waits_first(pair: tuple[Peer, socket.socket], size: int) -> None:
    protocol, theirs = pair
    protocol.transport.write(b"y" * size)
    protocol.transport.close()
    assert protocol.transport.is_closing()
    assert "lost" not in protocol.said
    assert len(await in_thread(lambda: receive(theirs, 9_000_000))) == size
    await until(lambda: "lost" in protocol.said)
    assert protocol.error is None


async def test_aborting_drops_what_waits_and_tells_later(
    pair: tuple[Peer, socket.socket],
) -> None:
    protocol, theirs = pair
    protocol.transport.write(b"y" * 20_000_000)
    protocol.transport.abort()
    protocol.transport.abort()
    assert protocol.said == ["made", "full"]
    await until(lambda: "lost" in protocol.said)
    assert protocol.said.count("lost") == 1
    with contextlib.suppress(ConnectionResetError):
        assert len(await in_thread(lambda: receive(theirs, 20_000_000))) < 20_000_000


async def test_a_reset_is_an_error(pair: tuple[Peer, socket.socket]) -> None:
    protocol, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    await until(lambda: "lost" in protocol.said)
    assert isinstance(protocol.error, ConnectionResetError)
    assert protocol.said == ["made", "lost"]


async def test_a_reset_while_much_waits_is_an_error_too(pair: tuple[Peer, socket.socket]) -> None:
    protocol, theirs = pair
    protocol.transport.pause_reading()
    protocol.transport.write(b"y" * 20_000_000)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    await until(lambda: "lost" in protocol.said)
    assert isinstance(protocol.error, ConnectionError)


@pytest.mark.skipif(not IS_NATIVE, reason="not built")
async def test_a_protocol_that_fails_is_reported_and_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the event loops of asyncio do it; uvloop reports it and goes on."""
    ours, theirs = connected()
    protocol = Peer()
    await network.NativeNetwork(asyncio.get_running_loop()).open(ours, lambda: protocol)
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def fail(data: bytes) -> None:
        raise LookupError(data)

    monkeypatch.setattr(protocol, "data_received", fail)
    theirs.sendall(b"oops")
    await until(lambda: "lost" in protocol.said)
    (context,) = reported
    assert isinstance(context["exception"], LookupError)
    assert context["protocol"] is protocol
    assert isinstance(protocol.error, LookupError)
    theirs.close()


@pytest.mark.skipif(not IS_NATIVE, reason="not built")
async def test_what_came_before_a_reset_is_read_although_sending_fails() -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.NativeNetwork(asyncio.get_running_loop()).open(ours, lambda: protocol)
    protocol.transport.write(b"a body that is not read")
    theirs.sendall(b"413")
    theirs.close()  # with unread input: a reset
    protocol.transport.write(b"the rest of it")
    protocol.transport.write(b"and more")
    await until(lambda: "lost" in protocol.said)
    assert protocol.data == b"413"
    assert isinstance(protocol.error, ConnectionError)


@pytest.mark.skipif(not IS_NATIVE, reason="not built")
async def test_what_waits_is_what_was_written() -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.NativeNetwork(asyncio.get_running_loop()).open(ours, lambda: protocol)
    changing = bytearray(b"z" * 9_000_000)
    protocol.transport.write(changing)
    changing[:] = b"!" * len(changing)
    protocol.transport.close()
    protocol.transport.write(b"too late")
    assert await in_thread(lambda: receive(theirs, 9_000_001)) == b"z" * 9_000_000
    theirs.close()


async def test_another_protocol_takes_over(pair: tuple[Peer, socket.socket]) -> None:
    protocol, theirs = pair
    second = Peer()
    protocol.transport.set_protocol(second)
    assert protocol.transport.get_protocol() is second
    theirs.sendall(b"for the second")
    await until(lambda: second.data == b"for the second")
    theirs.close()
    await until(lambda: second.said == ["eof", "lost"])
    protocol.said.append("lost")
    assert not protocol.data


@pytest.mark.skipif(not IS_NATIVE, reason="not built")
async def test_a_method_that_its_type_has_no_more_is_not_called() -> None:
    """As everywhere in Python; uvloop keeps the one that it found first."""

    class Slotted(asyncio.Protocol):
        __slots__ = ("data", "transport")

        def __init__(self) -> None:
            self.data = b""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self.data += data

    def louder(self: Slotted, data: bytes) -> None:
        self.data += data.upper()

    ours, theirs = connected()
    protocol, second = Slotted(), Peer()
    opened = network.NativeNetwork(asyncio.get_running_loop())
    await opened.open(ours, lambda: protocol)
    for expected in (b"a", b"aa"):
        theirs.sendall(b"a")
        await until(lambda expected=expected: protocol.data == expected)  # type: ignore[misc]
    Slotted.data_received = louder  # type: ignore[method-assign]
    theirs.sendall(b"b")
    await until(lambda: protocol.data == b"aaB")
    protocol.transport.set_protocol(second)
    theirs.sendall(b"c")
    await until(lambda: second.data == b"c")
    theirs.close()
    await until(lambda: "lost" in second.said)


async def test_one_may_close_others_that_have_something_to_read(kind: type[Network]) -> None:
    """All are ready in one turn, and the first that is told closes all of them."""
    opened = kind(asyncio.get_running_loop())
    ends = [connected() for _ in range(30)]
    protocols: list[Peer] = []

    class Closing(Peer):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for one in protocols:
                one.transport.abort()

    for ours, _ in ends:
        protocol = Closing()
        protocols.append(protocol)
        await opened.open(ours, lambda made=protocol: made)  # type: ignore[misc]
    for _, theirs in ends:
        theirs.sendall(b"x")
    await until(lambda: all("lost" in one.said for one in protocols))
    assert sum(bool(one.data) for one in protocols) == 1
    for _, theirs in ends:
        theirs.close()


async def test_nothing_is_kept_of_a_connection_that_is_over(kind: type[Network]) -> None:
    opened = kind(asyncio.get_running_loop())

    async def once() -> ref[Peer]:
        ours, theirs = connected()
        protocol = Peer()
        await opened.open(ours, lambda: protocol)
        protocol.transport.write(b"x" * 5_000_000)
        theirs.close()
        protocol.transport.close()
        await until(lambda: "lost" in protocol.said)
        return ref(protocol)

    found = [await once() for _ in range(5)]
    await asyncio.sleep(0.01)
    gc.collect()
    assert [one() for one in found] == [None] * 5


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
async def test_accepting(
    kind: type[Network], family: socket.AddressFamily, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener = socket.socket(family)
    listener.setblocking(False)
    addresses: dict[int, Any] = {
        socket.AF_INET: ("127.0.0.1", 0),
        socket.AF_INET6: ("::1", 0),
        socket.AF_UNIX: str(tmp_path_factory.mktemp("s") / "s"),
    }
    listener.bind(addresses[family])
    protocols: list[Peer] = []

    def create() -> Peer:
        protocols.append(Peer())
        return protocols[-1]

    serving = await kind(asyncio.get_running_loop()).accept(listener, create, 100)
    clients = []
    for _ in range(50):
        clients.append(socket.socket(family))
        clients[-1].connect(listener.getsockname())
        clients[-1].sendall(b"hello")
    await until(lambda: len(protocols) == 50 and all(one.data == b"hello" for one in protocols))
    names = {one.transport.get_extra_info("peername") for one in protocols}
    if family == socket.AF_UNIX:
        assert not any(isinstance(name, tuple) for name in names)
    else:
        assert names == {client.getsockname() for client in clients}
        local = protocols[0].transport.get_extra_info("sockname")
        assert local == listener.getsockname()
    assert protocols[0].transport.get_extra_info("socket").family == family
    assert protocols[0].transport.get_extra_info("sslcontext") is None
    name = listener.getsockname()
    serving.close()
    serving.close()
    await asyncio.sleep(0.01)
    with pytest.raises(OSError, match="refused"), socket.socket(family) as late:
        late.connect(name)
    for client in clients:
        client.close()
    await until(lambda: all("lost" in one.said for one in protocols))


async def test_a_socket_that_was_closed_is_an_error(kind: type[Network]) -> None:
    ours, theirs = connected()
    theirs.close()
    ours.close()
    protocol = Peer()
    with pytest.raises(OSError, match=r"(?i)bad file|closed"):
        await kind(asyncio.get_running_loop()).open(ours, lambda: protocol)


Step = tuple[str, int]


@pytest.mark.skipif(not IS_NATIVE, reason="not built")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "send", "pause", "resume", "turn"]),
            st.integers(1, 300_000),
        ),
        max_size=25,
    )
)
def test_any_order_of_calls_loses_nothing(steps: list[Step]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(both_ways(steps))


async def both_ways(steps: list[Step]) -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.NativeNetwork(asyncio.get_running_loop()).open(ours, lambda: protocol)
    sent, written = bytearray(), bytearray()
    theirs.setblocking(False)
    for number, (what, size) in enumerate(steps):
        data = bytes([number]) * size
        if what == "write":
            protocol.transport.write(data)
            written += data
        elif what == "send":
            with contextlib.suppress(BlockingIOError):
                sent += data[: theirs.send(data)]
        elif what == "pause":
            protocol.transport.pause_reading()
        elif what == "resume":
            protocol.transport.resume_reading()
        else:
            await asyncio.sleep(0)
    protocol.transport.resume_reading()
    protocol.transport.write_eof()
    theirs.setblocking(True)
    assert await in_thread(lambda: receive(theirs, len(written) + 1)) == bytes(written)
    theirs.close()
    await until(lambda: "lost" in protocol.said)
    assert protocol.data == sent


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.10.99", "127.100.200.255", "127.255.1.0"])
async def test_the_peers_address_is_the_one_that_it_has(kind: type[Network], host: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    protocol = Peer()
    serving = await kind(asyncio.get_running_loop()).accept(listener, lambda: protocol, 1)
    with socket.create_connection(listener.getsockname(), source_address=(host, 0)) as client:
        await until(lambda: "made" in protocol.said)
        assert protocol.transport.get_extra_info("peername") == client.getsockname()
        assert client.getsockname()[0] == host
    await until(lambda: "lost" in protocol.said)
    serving.close()


async def test_a_connection_is_lost_only_after_what_closed_it(kind: type[Network]) -> None:
    """Whoever closes a connection finds it as it was until he is done; those that he closes, too."""
    order: list[str] = []

    class Closing(Peer):
        other: Closing | None = None

        def data_received(self, data: bytes) -> None:
            if self.other is not None:
                self.other.transport.abort()
            self.transport.abort()
            order.append(f"closed by {data.decode()}")

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            order.append("lost")

    protocols = [Closing(), Closing()]
    protocols[0].other = protocols[1]
    clients = []
    for protocol in protocols:
        ours, theirs = connected()
        clients.append(theirs)
        await kind(asyncio.get_running_loop()).open(ours, lambda protocol=protocol: protocol)  # type: ignore[misc]
    clients[0].sendall(b"me")
    await until(lambda: order.count("lost") == 2)
    assert order == ["closed by me", "lost", "lost"]
    for client in clients:
        client.close()
