"""Nothing that has come is left unread, and nothing that waits unsent, whenever the kernel tells of it.

It tells once of each change (epoll's edge-triggered mode), so each test has something come at a moment at
which nobody reads, or reads less than there is.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import random
import socket
import threading
from pathlib import Path

import pytest

from canaryproxy.proxy.network import Network
from tests.notify.harness import until
from tests.proxy.network.test_network import RESET, Peer, connected, in_thread, kind, receive

__all__ = ["kind"]

READ = 256 * 1024
"""The most that is read at once."""
SOCKETS = 200
PARTS = 12
"""That each end sends."""


class Stopping(Peer):
    """Pauses at each read, and resumes some turns of the loop later."""

    def __init__(self, turns: int = 0) -> None:
        super().__init__()
        self.reads = 0
        self.turns = turns

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.reads += 1
        self.transport.pause_reading()
        self._wait(self.turns)

    def _wait(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._wait, turns - 1)
        else:
            self.transport.resume_reading()


@pytest.fixture
async def network(kind: type[Network]) -> Network:
    return kind(asyncio.get_running_loop())


async def turns(count: int = 30) -> None:
    """Let the event loop see what has come."""
    for _ in range(count):
        await asyncio.sleep(0.001)


def same(one: bytes | bytearray, other: bytes) -> bool:
    """Compare; pytest would look for each difference of two large ones."""
    return one == other


async def done(*protocols: Peer) -> None:
    for one in protocols:
        one.transport.abort()
        await until(lambda one=one: "lost" in one.said)  # type: ignore[misc]


@pytest.mark.parametrize("size", [1, 80 * 1024, 1_000_000])
@pytest.mark.parametrize("ends", [False, True])
async def test_what_came_before_the_socket_was_ours_is_read(
    network: Network, size: int, ends: bool
) -> None:
    ours, theirs = connected()
    for sock, option in ((ours, socket.SO_RCVBUF), (theirs, socket.SO_SNDBUF)):
        sock.setsockopt(socket.SOL_SOCKET, option, 2 * size)
    theirs.setblocking(False)
    sent = theirs.send(b"x" * size)
    if ends:
        theirs.shutdown(socket.SHUT_WR)
    await turns(3)
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    await until(lambda: len(protocol.data) == sent)
    if ends:
        await until(lambda: "lost" in protocol.said)
        assert protocol.said == ["made", "eof", "lost"]
    else:
        assert protocol.said == ["made"]
    theirs.close()
    await done(protocol)


@pytest.mark.parametrize("size", [1, 1000, 80 * 1024, 500_000])
@pytest.mark.parametrize("paused", [False, True])
async def test_the_end_that_came_with_the_data_is_told_after_it(
    network: Network, size: int, paused: bool
) -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    await turns(3)
    if paused:
        protocol.transport.pause_reading()

    def send() -> bytes:
        theirs.sendall(b"x" * size)
        theirs.shutdown(socket.SHUT_WR)
        return b""

    sending = asyncio.ensure_future(in_thread(send))
    await turns()
    assert not (paused and protocol.data)
    protocol.transport.resume_reading()
    await sending
    await until(lambda: "lost" in protocol.said)
    assert len(protocol.data) == size
    assert protocol.said == ["made", "eof", "lost"]
    theirs.close()


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_more_than_a_read_takes_is_read_by_one_who_pauses_after_each(
    network: Network, count: int
) -> None:
    """Nothing comes any more while the last of it is unread."""
    ours, theirs = connected()
    protocol = Stopping(count)
    await network.open(ours, lambda: protocol)
    size = 3_000_000

    def send() -> bytes:
        theirs.sendall(b"x" * size)
        return b""

    await in_thread(send)
    await until(lambda: len(protocol.data) == size)
    assert protocol.reads >= size // READ
    theirs.sendall(b"and one")
    await until(lambda: len(protocol.data) == size + 7)
    theirs.close()
    await until(lambda: "lost" in protocol.said)


async def test_pauses_between_which_nothing_comes_change_nothing(network: Network) -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    transport = protocol.transport
    for _ in range(5):
        transport.pause_reading()
        await turns(2)
        transport.resume_reading()
    theirs.sendall(b"a")
    await until(lambda: protocol.data == b"a")
    transport.pause_reading()
    theirs.sendall(b"b")
    await turns(5)
    theirs.sendall(b"c")
    await turns(5)
    transport.resume_reading()
    transport.pause_reading()
    await turns(5)
    transport.resume_reading()
    await until(lambda: protocol.data == b"abc")
    theirs.close()
    await until(lambda: "lost" in protocol.said)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_reset_after_data_is_told_after_it(network: Network, paused: bool) -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    if paused:
        protocol.transport.pause_reading()
        await turns(3)
    theirs.sendall(b"last words")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    await turns(5)
    protocol.transport.resume_reading()
    await until(lambda: "lost" in protocol.said)
    assert protocol.data == b"last words"
    assert isinstance(protocol.error, ConnectionResetError)


async def test_a_socket_that_was_full_is_told_of_again_and_again(network: Network) -> None:
    ours, theirs = connected()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    for number in range(1, 6):
        part = bytes([number]) * 6_000_000
        protocol.transport.write(part)
        theirs.sendall(b"and this")
        got = await in_thread(lambda: receive(theirs, 6_000_000))
        assert same(got, part)
        await until(lambda number=number: protocol.said.count("drained") == number)  # type: ignore[misc]
        await until(lambda number=number: protocol.data == b"and this" * number)  # type: ignore[misc]
        assert protocol.said == ["made", *["full", "drained"] * number]
    theirs.close()
    await until(lambda: "lost" in protocol.said)


async def test_one_who_pauses_while_it_sends_is_sent_for_and_reads_later(network: Network) -> None:
    ours, theirs = connected()
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    protocol.transport.pause_reading()
    theirs.sendall(b"x" * 1000)
    await turns(3)
    protocol.transport.write(b"y" * 8_000_000)
    theirs.sendall(b"x" * 1000)
    assert len(await in_thread(lambda: receive(theirs, 8_000_000))) == 8_000_000
    await until(lambda: protocol.transport.get_write_buffer_size() == 0)
    assert not protocol.data
    protocol.transport.resume_reading()
    await until(lambda: len(protocol.data) == 2000)
    theirs.close()
    await until(lambda: "lost" in protocol.said)


async def test_a_read_that_urgent_data_cuts_is_not_the_last(network: Network) -> None:
    """``recv`` returns fewer bytes than there are, and urgent data itself is not read."""
    ours, theirs = connected()
    protocol = Peer()
    await network.open(ours, lambda: protocol)
    protocol.transport.pause_reading()
    await turns(3)
    theirs.sendall(b"before")
    theirs.send(b"!", socket.MSG_OOB)
    theirs.sendall(b"behind")
    await turns(5)
    protocol.transport.resume_reading()
    await until(lambda: protocol.data == b"beforebehind")
    theirs.send(b"!", socket.MSG_OOB)
    await turns(3)
    theirs.sendall(b".")
    await until(lambda: protocol.data == b"beforebehind.")
    theirs.close()
    await until(lambda: "lost" in protocol.said)


async def test_a_read_that_passed_descriptors_cut_is_not_the_last(
    network: Network, tmp_path: Path
) -> None:
    """On a Unix socket ``recv`` ends at each message that has descriptors with it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(tmp_path / "s"))
    protocol = Peer()
    serving = await network.accept(listener, lambda: protocol, 1)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.connect(str(tmp_path / "s"))
        await until(lambda: "made" in protocol.said)
        protocol.transport.pause_reading()
        await turns(3)
        passed = os.open(os.devnull, os.O_RDONLY)
        with contextlib.closing(os.fdopen(passed)):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed]))]
            for number in range(6):
                theirs.sendmsg([bytes([number])], rights)
                theirs.sendall(b"-")
        await turns(3)
        protocol.transport.resume_reading()
        await until(lambda: protocol.data == b"\0-\1-\2-\3-\4-\5-")
    await until(lambda: "lost" in protocol.said)
    serving.close()


class Random(Peer):
    """Sends parts of all sizes, and pauses, each when it likes."""

    def __init__(self, choose: random.Random) -> None:
        super().__init__()
        self.choose = choose
        self.parts = [choose.randbytes(size_of(choose)) for _ in range(PARTS)]
        self.whole = b"".join(self.parts)
        self.stays = True

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.choose.random() < 0.3:
            self.transport.pause_reading()
            later = self.choose.choice([0.0, 0.0, 0.001, 0.02])
            asyncio.get_running_loop().call_later(later, self.transport.resume_reading)

    async def send(self) -> None:
        for part in self.parts:
            self.transport.write(part)
            if self.choose.random() < 0.5:
                await asyncio.sleep(self.choose.choice([0, 0.001, 0.01]))
        self.transport.write_eof()


def size_of(choose: random.Random) -> int:
    return round(2 ** choose.uniform(0, choose.choice([8, 14, 19])))


def peer_of_random(sock: socket.socket, seed: int, got: dict[int, bytes], sent: bytes) -> None:
    """Send and receive in turn, in parts of all sizes, without waiting for either."""
    choose = random.Random(seed)
    found = bytearray()
    left = memoryview(sent)
    sock.settimeout(20)

    def read() -> None:
        while part := sock.recv(size_of(choose)):
            found.extend(part)

    reading = threading.Thread(target=read)
    reading.start()
    while left:
        size = size_of(choose)
        sock.sendall(left[:size])
        left = left[size:]
    sock.shutdown(socket.SHUT_WR)
    reading.join()
    got[seed] = bytes(found)


@pytest.mark.parametrize("seed", [1, 2])
async def test_many_sockets_at_once_lose_nothing(network: Network, seed: int) -> None:
    """Both sides send and receive at once, in parts of random sizes with random pauses."""
    choose = random.Random(seed)
    protocols, threads, ends = [], [], []
    got: dict[int, bytes] = {}
    sent = {}
    for number in range(SOCKETS):
        ours, theirs = connected()
        if choose.random() < 0.5:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, choose.choice([4096, 65536]))
        protocol = Random(random.Random(1000 * seed + number))
        await network.open(ours, lambda protocol=protocol: protocol)  # type: ignore[misc]
        protocols.append(protocol)
        ends.append(theirs)
        sent[number] = choose.randbytes(sum(size_of(choose) for _ in range(PARTS)))
        threads.append(
            threading.Thread(target=peer_of_random, args=(theirs, number, got, sent[number]))
        )
    for thread in threads:
        thread.start()
    await asyncio.gather(*(protocol.send() for protocol in protocols))
    await until(lambda: all("eof" in one.said for one in protocols))
    for number, protocol in enumerate(protocols):
        assert same(protocol.data, sent[number])
        await asyncio.to_thread(threads[number].join)
        assert same(got[number], protocol.whole)
    await done(*protocols)
    for end in ends:
        end.close()
