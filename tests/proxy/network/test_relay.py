"""Long bodies go from one transport to another, of both kinds: no byte is lost, and all is told."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canaryproxy.proxy.network import Network, relay
from tests.notify.harness import until
from tests.proxy.network.test_network import Peer, connected, in_thread, kind, receive

__all__ = ["kind"]

MIB = 1024 * 1024
PIPES, FREE = 64, 4
"""Of one poller: the most, and the most that stay when nothing is relayed."""


class Source(Peer):
    """Passes on what it receives, and counts what went by."""

    def __init__(self) -> None:
        super().__init__()
        self.to: asyncio.Transport
        self.left = 0
        """Bytes of the body that are to come."""
        self.relayed_size = 0
        self.followed = False

    def begin(self, to: Peer, size: int) -> None:
        self.to, self.left = to.transport, size
        relay(self.transport, to.transport, size)

    def data_received(self, data: bytes) -> None:
        body = data[: self.left]
        self.left -= len(body)
        if body and not self.to.is_closing():
            self.to.write(body)
        super().data_received(data[len(body) :])

    def relayed(self, count: int, follows: bool) -> None:
        assert 0 < count <= self.left
        assert not self.followed
        self.followed = follows
        self.left -= count
        self.relayed_size += count


class Sink(Peer):
    """Stops its source while its peer does not read."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def pause_writing(self) -> None:
        super().pause_writing()
        self.source.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.source.transport.resume_reading()


class Path:
    """An upstream's socket, the two transports between, and a client's socket."""

    def __init__(self) -> None:
        self.source = Source()
        self.sink = Sink(self.source)
        self.upstream: socket.socket
        self.client: socket.socket

    async def open(self, network: Network, *, kernel: int = 0) -> Path:
        """Connect; ``kernel``: bytes that it buffers of what is sent, if not as many as it likes."""
        ours, self.upstream = connected()
        await network.open(ours, lambda: self.source)
        ours, self.client = connected()
        if kernel:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel)
        await network.open(ours, lambda: self.sink)
        return self

    async def send(self, data: bytes) -> bytes:
        """Send from the upstream, and return nothing once everything is sent."""

        def send() -> bytes:
            self.upstream.sendall(data)
            return b""

        return await in_thread(send)

    async def close(self) -> None:
        self.upstream.close()
        self.client.close()
        for one in (self.source, self.sink):
            one.transport.abort()
            await until(lambda one=one: "lost" in one.said)  # type: ignore[misc]


@pytest.fixture
async def network(kind: type[Network]) -> Network:
    return kind(asyncio.get_running_loop())


@pytest.fixture
async def path(network: Network) -> AsyncIterator[Path]:
    opened = await Path().open(network)
    yield opened
    await opened.close()


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def is_native(network: Network) -> bool:
    return type(network).__name__ == "NativeNetwork"


async def test_a_body_arrives_whole_and_what_follows_is_received(
    network: Network, path: Path
) -> None:
    data = body(5 * MIB)
    path.source.begin(path.sink, len(data))
    got, _ = await asyncio.gather(
        in_thread(lambda: receive(path.client, len(data))), path.send(data + b"next")
    )
    assert got == data
    await until(lambda: path.source.data == b"next")
    assert path.source.left == 0
    assert path.source.relayed_size == (len(data) if is_native(network) else 0)
    for one in (path.source, path.sink):
        assert set(one.said) <= {"made", "full", "drained"}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 100_000), st.integers(1, 300_000), st.integers(0, 100_000), st.booleans()
        ),
        min_size=1,
        max_size=4,
    )
)
async def test_order_is_kept_whatever_is_written_before_and_after(
    network: Network, bodies: list[tuple[int, int, int, bool]]
) -> None:
    """Heads wait before a body, and what follows is written behind what a client has not read yet."""
    path = await Path().open(network)
    expected = bytearray()
    for before, size, after, reads in bodies:
        parts = body(before), body(size), body(after)
        path.sink.transport.write(parts[0])
        path.source.begin(path.sink, size)
        sent = asyncio.ensure_future(path.send(parts[1]))
        if reads:
            head = await in_thread(lambda before=before: receive(path.client, before // 2))  # type: ignore[misc]
            expected += b"".join(parts)
            assert head == expected[: len(head)]
            del expected[: len(head)]
        else:
            expected += b"".join(parts)
        while path.source.left:
            most = min(4096, len(expected))
            found = await in_thread(lambda most=most: path.client.recv(most))  # type: ignore[misc]
            assert found == expected[: len(found)]
            del expected[: len(found)]
        await sent
        path.sink.transport.write(parts[2])
    assert await in_thread(lambda: receive(path.client, len(expected))) == expected
    await path.close()


async def test_a_client_that_does_not_read_stops_the_upstream(path: Path) -> None:
    data = body(64 * MIB)
    path.source.begin(path.sink, len(data))
    sending = asyncio.ensure_future(path.send(data))
    await until(lambda: "full" in path.sink.said)
    assert path.sink.transport.get_write_buffer_size() > 64 * 1024
    while True:  # until nothing moves any more
        left = path.source.left
        await asyncio.sleep(0.05)
        if left == path.source.left:
            break
    assert path.sink.transport.get_write_buffer_size() <= 2 * MIB
    assert path.source.left > 32 * MIB
    assert not sending.done()
    assert await in_thread(lambda: receive(path.client, len(data))) == data
    await sending
    assert path.sink.said[-1] == "drained"
    assert path.sink.transport.get_write_buffer_size() == 0


async def test_what_waits_is_sent_before_the_connection_closes(path: Path) -> None:
    data = body(8 * MIB)
    path.source.begin(path.sink, len(data))
    sending = asyncio.ensure_future(path.send(data))
    await until(lambda: "full" in path.sink.said)
    path.sink.transport.close()
    went = len(data) - path.source.left
    path.source.transport.abort()
    with contextlib.suppress(OSError):  # the kernel may have taken it all
        await sending
    assert await in_thread(lambda: receive(path.client, len(data))) == data[:went]
    assert await in_thread(lambda: path.client.recv(1)) == b""
    await until(lambda: path.sink.said[-1] == "lost")
    assert path.sink.error is None


async def test_an_end_is_sent_behind_a_body(path: Path) -> None:
    data = body(8 * MIB)
    path.source.begin(path.sink, len(data))
    sending = asyncio.ensure_future(path.send(data))
    await until(lambda: "full" in path.sink.said)
    got = asyncio.ensure_future(in_thread(lambda: receive(path.client, len(data) + 1)))
    await until(lambda: path.source.left == 0)
    path.sink.transport.write_eof()
    assert await got == data
    await sending


async def test_a_body_comes_from_a_unix_socket(network: Network, path: Path) -> None:
    ours, upstream = socket.socketpair()
    ours.setblocking(False)
    source = Source()
    await network.open(ours, lambda: source)
    data = body(MIB)
    source.begin(path.sink, len(data))
    path.sink.source = source
    upstream.setblocking(False)
    sending = asyncio.ensure_future(
        asyncio.get_running_loop().sock_sendall(upstream, data + b"next")
    )
    assert await in_thread(lambda: receive(path.client, len(data))) == data
    await sending
    await until(lambda: source.data == b"next")
    assert source.relayed_size == (len(data) if is_native(network) else 0)
    upstream.close()
    await until(lambda: "lost" in source.said)


@pytest.mark.parametrize("rest", [b"", b"more"])
async def test_what_follows_a_body_is_told_with_its_last_byte(
    network: Network, path: Path, rest: bytes
) -> None:
    """A connection whose upstream sends too much must not take another request."""
    data = body(30_000)  # one segment, with the rest
    path.source.begin(path.sink, len(data))
    await path.send(data + rest)
    assert await in_thread(lambda: receive(path.client, len(data))) == data
    await until(lambda: path.source.left == 0)
    assert path.source.followed == (rest != b"" and is_native(network))
    await until(lambda: path.source.data == rest)


async def test_an_upstream_that_ends_too_early_is_told_of(path: Path) -> None:
    data = body(MIB)
    path.source.begin(path.sink, 2 * MIB)
    got, _ = await asyncio.gather(
        in_thread(lambda: receive(path.client, len(data))), path.send(data)
    )
    assert got == data
    path.upstream.close()
    await until(lambda: path.source.said[-1] == "lost")
    assert path.source.said[-2] == "eof"
    assert path.source.left == MIB
    assert path.sink.said[-1] != "lost"


async def test_bytes_for_a_client_that_is_gone_are_received(path: Path) -> None:
    path.source.begin(path.sink, 2 * MIB)
    path.sink.transport.abort()
    await until(lambda: path.sink.said[-1] == "lost")
    await path.send(body(2 * MIB))
    await until(lambda: path.source.left == 0)
    assert path.source.relayed_size == 0


async def test_a_client_that_leaves_within_a_body(path: Path) -> None:
    path.source.begin(path.sink, 8 * MIB)
    sending = asyncio.ensure_future(path.send(body(8 * MIB)))
    await until(lambda: "full" in path.sink.said)
    path.client.close()  # with unread bytes: a reset
    await until(lambda: path.sink.said[-1] == "lost")
    path.source.transport.resume_reading()
    await until(lambda: path.source.left == 0)
    await sending


async def test_small_segments_fill_no_pipe_for_good(path: Path) -> None:
    """A pipe has a place for each segment, however small it is."""
    data = body(30_000)
    path.source.begin(path.sink, 10 * MIB)
    path.upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    filler = asyncio.ensure_future(path.send(body(9 * MIB)))
    await until(lambda: "full" in path.sink.said)
    got = bytearray(await in_thread(lambda: receive(path.client, 9 * MIB)))
    await filler
    for at in range(0, len(data), 10):
        path.upstream.send(data[at : at + 10])
    got += await in_thread(lambda: receive(path.client, len(data)))
    assert got == body(9 * MIB) + data


async def test_more_slow_clients_than_pipes_lose_nothing(network: Network) -> None:
    before = pipes()
    paths = [await Path().open(network, kernel=65536) for _ in range(PIPES + 20)]
    data = body(2 * MIB)
    sending = []
    for path in paths:
        path.source.begin(path.sink, len(data))
        path.upstream.setblocking(False)
        sending.append(
            asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(path.upstream, data))
        )
    await until(lambda: all("full" in path.sink.said for path in paths))
    assert (0 < pipes() - before <= 2 * PIPES) == is_native(network)
    for path, one in zip(paths, sending, strict=True):
        assert await in_thread(lambda path=path: receive(path.client, len(data))) == data  # type: ignore[misc]
        await one
        await path.close()
    assert pipes() - before <= 2 * FREE


def pipes() -> int:
    """Count descriptors of pipes."""
    found = 0
    for one in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(one.readlink()).startswith("pipe:")
    return found


async def test_a_source_and_a_sink_of_different_kinds_relay_nothing() -> None:
    loop = asyncio.get_running_loop()
    source = Source()
    ours, upstream = connected()
    await Network(loop).open(ours, lambda: source)
    sink: Any = Sink(source)
    ours, client = connected()
    await Network(loop).open(ours, lambda: sink)
    source.begin(sink, 5)
    upstream.sendall(b"whole")
    assert await in_thread(lambda: receive(client, 5)) == b"whole"
    upstream.close()
    client.close()
    for one in (source, sink):
        one.transport.abort()
        await until(lambda one=one: "lost" in one.said)  # type: ignore[misc]
