"""What is written while several sockets are handled may be sent after all of them: nothing else may differ.

In each test all sockets are ready before the event loop looks, so that they are handled together.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.proxy import network as networks
from canaryproxy.proxy.network import IS_NATIVE, Network, relay
from tests.notify.harness import until
from tests.proxy.network.test_network import (
    RESET,
    SECONDS,
    Peer,
    connected,
    in_thread,
    kind,
    receive,
)

__all__ = ["kind"]

HELD = 16 * 1024
"""The most bytes of a socket that are held."""
MOST = 16
"""The most sockets that hold something."""

needs_native = pytest.mark.skipif(not IS_NATIVE, reason="not built")


class Acting(Peer):
    """Calls ``act`` when something comes."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[], object] = lambda: None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.act()


class Group:
    """Connections: the protocols, and the sockets at their other ends."""

    def __init__(self, opened: Network) -> None:
        self.network = opened
        self.protocols: list[Acting] = []
        self.ends: list[socket.socket] = []

    async def open(self, count: int = 6, *, kernel: int = 0) -> Group:
        """``kernel``: bytes that it buffers, about, of what is sent over Unix domain sockets; 0: TCP."""
        for _ in range(count):
            ours, theirs = socket.socketpair() if kernel else connected()
            if kernel:
                ours.setblocking(False)
                theirs.settimeout(SECONDS)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel)
            protocol = Acting()
            await self.network.open(ours, lambda made=protocol: made)  # type: ignore[misc]
            self.protocols.append(protocol)
            self.ends.append(theirs)
        return self

    def let_all(self, act: Callable[[Acting], object]) -> None:
        """Say what each does when something comes."""
        for one in self.protocols:
            one.act = partial(act, one)

    async def tell_all(self) -> None:
        """Let something come on all of them, in their order, and return once all have it."""
        before = [len(one.data) for one in self.protocols]
        for end in self.ends:
            end.sendall(b"x")
        await until(
            lambda: all(
                len(one.data) > size or "lost" in one.said
                for one, size in zip(self.protocols, before, strict=True)
            )
        )

    async def close(self) -> None:
        for end, one in zip(self.ends, self.protocols, strict=True):
            end.close()
            one.transport.abort()
        await until(lambda: all("lost" in one.said for one in self.protocols))


@pytest.fixture
async def group(kind: type[Network]) -> AsyncIterator[Group]:
    opened = await Group(kind(asyncio.get_running_loop())).open()
    yield opened
    await opened.close()


@pytest.fixture
async def native() -> AsyncIterator[Group]:
    opened = await Group(networks.NativeNetwork(asyncio.get_running_loop())).open()
    yield opened
    await opened.close()


def arrived(end: socket.socket) -> bytes:
    """What has come and was not read."""
    end.setblocking(False)
    try:
        return end.recv(1_000_000, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    finally:
        end.settimeout(SECONDS)


async def read(end: socket.socket, size: int) -> bytes:
    """Read so many bytes, or up to the end."""
    return await in_thread(partial(receive, end, size))


async def read_all(end: socket.socket, size: int) -> bytes:
    """Read up to the end, after so many bytes; a reset is one, as there may be input that nobody read."""
    found = await read(end, size)
    with contextlib.suppress(ConnectionResetError):
        found += await read(end, 1)
    return found


@needs_native
async def test_bytes_are_sent_when_all_that_are_ready_were_told(native: Group) -> None:
    seen: list[bytes] = []

    def answer(one: Acting) -> None:
        one.transport.write(b"one")
        one.transport.write(b", two")
        seen.extend(arrived(end) for end in native.ends)

    native.let_all(answer)
    await native.tell_all()
    assert seen == [b""] * 36
    assert [arrived(end) for end in native.ends] == [b"one, two"] * 6


@needs_native
@pytest.mark.parametrize("ready", [1, 3])
async def test_what_is_written_while_few_are_ready_is_sent_at_once(
    native: Group, ready: int
) -> None:
    first, second = native.protocols[:2]
    seen: list[bytes] = []

    def answer() -> None:
        first.transport.write(b"to itself")
        second.transport.write(b"to another")
        seen.extend(arrived(end) for end in native.ends[:2])

    first.act = answer
    for end in native.ends[:ready]:
        end.sendall(b"x")
    await until(lambda: seen)
    assert seen == [b"to itself", b"to another"]
    second.transport.write(b", and by nobody")
    assert arrived(native.ends[1]) == b"to another, and by nobody"


@needs_native
async def test_more_sockets_than_may_hold_something_get_it_before_all_were_told(
    native: Group,
) -> None:
    await native.open(2 * MOST)
    first, last = native.protocols[0], native.protocols[-1]
    count = len(native.ends)
    seen: list[bytes] = []

    def write_to_all() -> None:
        for one in native.protocols:
            one.transport.write(b"all, ")
        seen.extend(arrived(end) for end in native.ends)

    native.let_all(lambda one: one.transport.write(b"mine"))
    first.act = write_to_all
    last.act = lambda: seen.append(arrived(native.ends[1]))
    await native.tell_all()
    assert seen == [b""] * MOST + [b"all, "] * (count - MOST) + [b"all, mine"]
    assert [arrived(end) for end in native.ends[1:-1]] == [b"all, mine"] * (count - 2)


@needs_native
async def test_many_bytes_are_sent_at_once_and_after_those_that_were_held(native: Group) -> None:
    first, second, third = native.protocols[:3]
    seen: list[int] = []

    def answer() -> None:
        first.transport.write(b"a" * HELD)
        first.transport.write(b"b")
        second.transport.write(b"a" * (HELD + 1))
        third.transport.write(bytearray(b"a" * 100))
        third.transport.write(memoryview(b"b" * HELD))
        seen.extend(len(arrived(end)) for end in native.ends[:3])

    first.act = answer
    await native.tell_all()
    assert seen == [HELD + 1, HELD + 1, HELD + 100]
    assert arrived(native.ends[0]) == b"a" * HELD + b"b"
    assert arrived(native.ends[2]) == b"a" * 100 + b"b" * HELD


@needs_native
async def test_what_is_held_is_what_was_written(native: Group) -> None:
    changing = bytearray(b"before")

    def answer() -> None:
        native.protocols[0].transport.write(changing)
        changing[:] = b"after!"

    native.protocols[0].act = answer
    await native.tell_all()
    assert await read(native.ends[0], 6) == b"before"


async def test_closing_sends_what_is_held_first(group: Group) -> None:
    def answer(one: Acting) -> None:
        one.transport.write(b"last words")
        one.transport.close()

    group.let_all(answer)
    await group.tell_all()
    assert [await read(end, 100) for end in group.ends] == [b"last words"] * 6
    await until(lambda: all("lost" in one.said for one in group.protocols))
    assert [one.error for one in group.protocols] == [None] * 6


async def test_our_end_follows_what_is_held(group: Group) -> None:
    def answer(one: Acting) -> None:
        one.transport.write(b"last words")
        one.transport.write_eof()

    group.let_all(answer)
    await group.tell_all()
    assert [await read(end, 100) for end in group.ends] == [b"last words"] * 6
    group.let_all(lambda _: None)
    await group.tell_all()
    assert [bytes(one.data) for one in group.protocols] == [b"xx"] * 6


@needs_native
async def test_aborting_drops_only_what_the_kernel_has_not_taken(native: Group) -> None:
    """As when one socket is ready: a response that breaks off arrives as far as it came."""

    def answer() -> None:
        for one in native.protocols:
            one.transport.write(b"before")
            one.transport.abort()

    native.protocols[0].act = answer
    await native.tell_all()
    assert [await read_all(end, 6) for end in native.ends] == [b"before"] * 6
    assert [one.said for one in native.protocols] == [["made", "lost"]] * 6


@needs_native
async def test_what_a_protocol_wrote_before_it_failed_is_sent(native: Group) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)

    def fail(one: Acting) -> None:
        one.transport.write(b"before")
        raise LookupError

    native.let_all(fail)
    await native.tell_all()
    assert [await read(end, 100) for end in native.ends] == [b"before"] * 6
    assert all(isinstance(one.error, LookupError) for one in native.protocols)


async def test_a_peer_that_is_gone_is_told_of_as_ever_and_the_others_get_theirs(
    group: Group,
) -> None:
    first = group.protocols[0]

    def answer() -> None:
        first.transport.write(b"nobody hears this")
        group.ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        group.ends[0].close()

    group.let_all(lambda one: one.transport.write(b"but this"))
    first.act = answer
    await group.tell_all()
    await until(lambda: "lost" in first.said)
    assert isinstance(first.error, ConnectionResetError)
    assert first.said == ["made", "lost"]
    assert [await read(end, 8) for end in group.ends[1:]] == [b"but this"] * 5


@needs_native
async def test_a_transport_that_does_not_read_is_lost_when_what_is_held_cannot_be_sent(
    native: Group,
) -> None:
    first = native.protocols[0]

    def answer() -> None:
        first.transport.pause_reading()
        first.transport.write(b"nobody hears this")
        native.ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        native.ends[0].close()

    first.act = answer
    await native.tell_all()
    await until(lambda: "lost" in first.said)
    assert isinstance(first.error, ConnectionResetError)


async def test_a_peer_that_reads_slowly_gets_all_and_the_protocol_is_told(
    kind: type[Network],
) -> None:
    """What is held is sent in part; then the kernel takes nothing, and in the end all."""
    group = await Group(kind(asyncio.get_running_loop())).open(kernel=4096)
    written = {one: bytearray() for one in group.protocols}

    def answer(one: Acting) -> None:
        part = bytes([len(written[one]) % 251]) * 15_001
        written[one] += part
        one.transport.write(part)

    group.let_all(answer)
    while not all("full" in one.said for one in group.protocols):
        await group.tell_all()
    for end, one in zip(group.ends, group.protocols, strict=True):
        assert one.said == ["made", "full"]
        assert one.transport.get_write_buffer_size() > 60_000
        assert await read(end, len(written[one])) == bytes(written[one])
    await until(lambda: all(one.said == ["made", "full", "drained"] for one in group.protocols))
    await group.close()


@needs_native
async def test_how_much_waits_is_what_the_kernel_has_not_taken(native: Group) -> None:
    first = native.protocols[0]
    seen: list[object] = []

    def answer() -> None:
        first.transport.write(b"held")
        seen.append(first.transport.get_write_buffer_size())
        seen.append(arrived(native.ends[0]))

    first.act = answer
    await native.tell_all()
    assert seen == [0, b"held"]


@needs_native
@pytest.mark.parametrize(("kernel", "said"), [(0, ["made"]), (4096, ["made", "full"])])
async def test_a_protocol_is_told_of_being_full_when_the_kernel_takes_no_more(
    kernel: int, said: list[str]
) -> None:
    opened = networks.NativeNetwork(asyncio.get_running_loop())
    group = await Group(opened).open(kernel=kernel)
    first = group.protocols[0]
    first.transport.set_write_buffer_limits(high=1000)
    seen: list[str] = []

    def answer() -> None:
        for _ in range(40):
            first.transport.write(b"x" * 400)
        seen.extend(first.said)

    first.act = answer
    await group.tell_all()
    assert seen == said
    assert len(await read(group.ends[0], 16_000)) == 16_000
    await until(lambda: first.said[:2] == said and first.said[2:] == ["drained"] * (len(said) - 1))
    await group.close()


@needs_native
async def test_one_may_close_others_that_hold_something(native: Group) -> None:
    def answer(_: Acting) -> None:
        for one in native.protocols:
            one.transport.write(b"x")
        for one in native.protocols:
            one.transport.abort()

    native.let_all(answer)
    await native.tell_all()
    assert [one.said for one in native.protocols] == [["made", "lost"]] * 6
    assert [bytes(one.data) for one in native.protocols].count(b"x") == 1


class Source(Peer):
    """Writes a head of its own before the body that it receives, which may be relayed."""

    def __init__(self, to: asyncio.Transport, size: int) -> None:
        super().__init__(stays=True)
        self.to = to
        self.left = size
        self.relayed_size = 0

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.data:
            self.to.write(data)
        else:
            self.to.write(b"the head, ")  # and little enough of the rest for it to be held
            relay(self.transport, self.to, self.left)
        super().data_received(data)

    def relayed(self, count: int, follows: bool) -> None:
        assert not follows
        self.left -= count
        self.relayed_size += count


async def test_a_body_that_is_relayed_follows_what_is_held(kind: type[Network]) -> None:
    """Unix domain sockets are read twice in a row, and have more than one read takes."""
    opened = kind(asyncio.get_running_loop())
    group = await Group(opened).open()
    source, (ours, upstream) = Source(group.protocols[0].transport, 150_000), socket.socketpair()
    ours.setblocking(False)
    upstream.sendall(b"y" * 150_000)
    await opened.open(ours, lambda: source)
    await group.tell_all()
    await until(lambda: source.left == 0)
    found = await read(group.ends[0], 10)
    assert found == b"the head, "
    assert source.relayed_size > 0 or kind is Network
    upstream.close()
    source.transport.abort()
    await until(lambda: "lost" in source.said)
    await group.close()


Step = tuple[str, int, int]
CALLS = ["write", "write", "write", "view", "ask", "eof", "close", "abort", "next"]


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(CALLS),
            st.integers(0, 5),
            st.sampled_from([0, 1, 300, HELD - 300, HELD, HELD + 1, 70_000]),
        ),
        max_size=30,
    )
)
def test_any_order_of_calls_sends_what_was_written(steps: list[Step]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_at_once(steps))


async def all_at_once(steps: list[Step]) -> None:
    """Take the steps up to each "next" in one protocol's turn; what was written arrives, in order."""
    group = await Group(networks.NativeNetwork(asyncio.get_running_loop())).open()
    written = [bytearray() for _ in group.protocols]
    ended: set[int] = set()
    aborted: set[int] = set()
    left = iter(enumerate(steps))

    def act() -> None:
        for number, (what, target, size) in left:
            transport: Any = group.protocols[target].transport
            data = bytes([number]) * size
            if what == "next":
                return
            if what == "ask":
                transport.get_write_buffer_size()
            elif target in ended:
                continue
            elif what in ("write", "view"):
                transport.write(data if what == "write" else memoryview(data))
                written[target] += data
            else:
                ended.add(target)
                if what == "abort":
                    aborted.add(target)
                getattr(transport, "write_eof" if what == "eof" else what)()

    for one in group.protocols:
        one.act = act
    for end in group.ends:
        end.sendall(b"x")
    for _ in range(3):
        await asyncio.sleep(0)
    act()
    for number, (end, expected) in enumerate(zip(group.ends, written, strict=True)):
        if number not in ended:
            group.protocols[number].transport.write_eof()
        found = await read_all(end, len(expected))
        assert found == bytes(expected[: len(found)])
        assert len(found) == len(expected) or (number in aborted and len(expected) > HELD)
    await group.close()
