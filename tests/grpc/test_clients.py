"""Real clients through a real proxy process: ``grpcio`` and ``grpclib``."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpclib.client import (
    Channel,
    StreamStreamMethod,
    StreamUnaryMethod,
    UnaryStreamMethod,
    UnaryUnaryMethod,
)
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from tests.ports import free_port
from tests.system.processes import DEADLINE, Process, Proxy, answers, until

SERVICE = Path(__file__).parent / "service.py"
MIB = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.max_metadata_size", 64 * 1024), ("grpc.enable_retries", 0)]  # fmt: skip


@contextlib.contextmanager
def service(folder: Path, name: str) -> Iterator[int]:
    port = free_port()
    process = Process(str(SERVICE), name, str(port), folder=folder)
    try:
        until(lambda: answers(port), name)
        yield port
    finally:
        process.end()


class Services(Proxy):
    """A proxy and the ports of the services behind it."""

    ports: Sequence[int]


@contextlib.contextmanager
def proxied(folder: Path, more: str = "", canary: bool = False) -> Iterator[Services]:
    """Run a proxy of one or two services."""
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(service(folder, name))
            for name in ("stable", "canary")[: 1 + canary]
        ]
        lines = [
            f'  {name}: {{endpoints: ["h2c://127.0.0.1:{port}"]}}'
            for name, port in zip(("stable", "canary"), ports, strict=False)
        ]
        running = Services(folder, "\n".join(("variants:", *lines)), more, fresh=True)
        running.ports = ports
        stack.callback(running.end)
        until(running.serves, "proxy")
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxied(tmp_path_factory.mktemp("grpc")) as made:
        yield made


@pytest.fixture(scope="module")
def channel(running: Proxy) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{running.port}", options=OPTIONS) as made:
        yield made


# grpcio


def test_grpcio_unary(channel: grpc.Channel) -> None:
    reply, call = channel.unary_unary("/test.Echo/Unary").with_call(b"hello", timeout=DEADLINE)
    assert reply == b"hello"
    assert dict(call.initial_metadata())["x-variant"] == "stable"
    assert 0 < float(dict(call.trailing_metadata())["x-left"]) < DEADLINE


def test_grpcio_streams_of_three_kinds(channel: grpc.Channel) -> None:
    parts = [b"a", b"bc", b"", bytes(100_000)]
    assert (
        channel.stream_unary("/test.Echo/ClientStream")(iter(parts), timeout=DEADLINE) == b"100003"
    )
    got = list(channel.unary_stream("/test.Echo/ServerStream")(b"300", timeout=DEADLINE))
    assert got == [b"%d" % number for number in range(300)]
    assert list(channel.stream_stream("/test.Echo/Bidi")(iter(parts), timeout=DEADLINE)) == parts


def test_grpcio_talks_in_turns(channel: grpc.Channel) -> None:
    said = threading.Semaphore(0)

    def turns() -> Iterator[bytes]:
        for number in range(20):
            yield b"%d" % number
            assert said.acquire(timeout=DEADLINE)  # the next one waits for the reply

    got = []
    for one in channel.stream_stream("/test.Echo/Bidi")(turns(), timeout=DEADLINE):
        got.append(one)
        said.release()
    assert got == [b"%d" % number for number in range(20)]


def test_grpcio_cancellation_reaches_the_service(channel: grpc.Channel) -> None:
    count = channel.unary_unary("/test.Echo/Cancelled")
    hung = channel.unary_unary("/test.Echo/Hung")
    before, hung_before = int(count(b"", timeout=DEADLINE)), int(hung(b"", timeout=DEADLINE))
    call = channel.unary_unary("/test.Echo/Hang").future(b"")
    until(lambda: int(hung(b"", timeout=DEADLINE)) > hung_before, "the call")
    call.cancel()
    until(lambda: int(count(b"", timeout=DEADLINE)) > before, "cancellation")


def test_grpcio_deadline(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/test.Echo/Hang")(b"", timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_grpcio_metadata_of_8_kib(channel: grpc.Channel) -> None:
    value = "m" * 8192
    _, call = channel.unary_unary("/test.Echo/Unary").with_call(
        b"", timeout=DEADLINE, metadata=[("x-echo", value), ("x-echo-bin", bytes(range(256)))]
    )
    metadata = dict(call.initial_metadata())
    assert (metadata["x-echo"], metadata["x-echo-bin"]) == (value, bytes(range(256)))


def test_grpcio_unknown_services_pass(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/nobody.Knows/It")(b"", timeout=DEADLINE)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_grpcio_statuses_are_counted(running: Proxy, channel: grpc.Channel) -> None:
    name = 'canaryproxy_grpc_requests_total{grpc_status="UNIMPLEMENTED",variant="stable"}'

    def seen() -> float:
        lines = dict(line.rsplit(" ", 1) for line in running.ask("GET", "/metrics").splitlines())
        return float(lines.get(name, 0))

    before = seen()
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/test.Echo/Nothing")(b"", timeout=DEADLINE)
    until(lambda: seen() == before + 1, "count")


def many(port: int, count: int, at_once: int = 80) -> None:
    """Make so many calls over one connection; each must end, and well."""
    options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call, room = channel.unary_unary("/test.Echo/Unary"), threading.Semaphore(at_once)
        failed: list[Any] = []

        def done(future: Any) -> None:
            room.release()
            if future.code() is not grpc.StatusCode.OK:
                failed.append(future.code())

        for _ in range(count):
            assert room.acquire(timeout=DEADLINE)
            call.future(b"x").add_done_callback(done)
        for _ in range(at_once):
            assert room.acquire(timeout=DEADLINE)
        assert not failed


def test_grpcio_1000_streams_on_one_connection(running: Proxy) -> None:
    many(running.port, 1000)


@pytest.mark.slow
def test_grpcio_10000_streams_on_one_connection(running: Proxy) -> None:
    many(running.port, 10_000)


@pytest.mark.slow
def test_grpcio_a_message_of_100_mib(running: Proxy, channel: grpc.Channel) -> None:
    message = bytes(100 * MIB)
    assert channel.unary_unary("/test.Echo/Unary")(message, timeout=DEADLINE) == message
    assert running.memory() < 200 * MIB


# grpclib


class Raw(CodecBase):
    """Messages are bytes as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:  # noqa: ARG002
        return data


@contextlib.asynccontextmanager
async def grpclib_channel(running: Proxy) -> AsyncIterator[Channel]:
    channel = Channel("127.0.0.1", running.port, codec=Raw())
    try:
        yield channel
    finally:
        channel.close()


async def test_grpclib_unary(running: Proxy) -> None:
    async with grpclib_channel(running) as channel:
        method = UnaryUnaryMethod(channel, "/test.Echo/Unary", bytes, bytes)
        assert await method(b"hello", timeout=DEADLINE) == b"hello"
        async with method.open(metadata={"x-echo": "m" * 8192}) as stream:
            await stream.send_message(b"", end=True)
            assert await stream.recv_message() == b""
            assert stream.initial_metadata is not None
            assert stream.initial_metadata["x-echo"] == "m" * 8192


async def test_grpclib_streams_of_three_kinds(running: Proxy) -> None:
    parts = [b"a", b"bc", b"", bytes(100_000)]
    async with grpclib_channel(running) as channel:
        collect = StreamUnaryMethod(channel, "/test.Echo/ClientStream", bytes, bytes)
        assert await collect(parts, timeout=DEADLINE) == b"100003"
        tell = UnaryStreamMethod(channel, "/test.Echo/ServerStream", bytes, bytes)
        assert await tell(b"100", timeout=DEADLINE) == [b"%d" % number for number in range(100)]
        talk = StreamStreamMethod(channel, "/test.Echo/Bidi", bytes, bytes)
        assert await talk(parts, timeout=DEADLINE) == parts


async def grows(count: UnaryUnaryMethod[bytes, bytes], before: int) -> None:
    while int(await count(b"")) == before:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_grpclib_cancellation_deadline_and_statuses(running: Proxy) -> None:
    async with grpclib_channel(running) as channel:
        count = UnaryUnaryMethod(channel, "/test.Echo/Cancelled", bytes, bytes)
        hung = UnaryUnaryMethod(channel, "/test.Echo/Hung", bytes, bytes)
        hang = UnaryUnaryMethod(channel, "/test.Echo/Hang", bytes, bytes)
        before, hung_before = int(await count(b"")), int(await hung(b""))
        async with asyncio.timeout(DEADLINE), hang.open() as stream:
            await stream.send_message(b"", end=True)
            await grows(hung, hung_before)
            await stream.cancel()
            await grows(count, before)
        with pytest.raises((asyncio.TimeoutError, GRPCError)):
            await hang(b"", timeout=0.2)
        nothing = UnaryUnaryMethod(channel, "/test.Echo/Nothing", bytes, bytes)
        with pytest.raises(GRPCError) as raised:
            await nothing(b"")
        assert raised.value.status is Status.UNIMPLEMENTED


async def test_grpclib_1000_streams_on_one_connection(running: Proxy) -> None:
    async with grpclib_channel(running) as channel:
        method, room = (
            UnaryUnaryMethod(channel, "/test.Echo/Unary", bytes, bytes),
            asyncio.Semaphore(50),
        )

        async def one() -> None:
            async with room:
                assert await method(b"x") == b"x"

        await asyncio.gather(*(one() for _ in range(1000)))


# Errors of the proxy


def test_clients_read_errors_of_the_proxy(tmp_path: Path) -> None:
    running = Proxy(
        tmp_path, f'variants: {{stable: {{endpoints: ["h2c://127.0.0.1:{free_port()}"]}}}}'
    )
    try:
        until(running.serves, "proxy")
        with (
            grpc.insecure_channel(f"127.0.0.1:{running.port}", options=OPTIONS) as channel,
            pytest.raises(grpc.RpcError) as raised,
        ):
            channel.unary_unary("/test.Echo/Unary")(b"", timeout=DEADLINE)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert raised.value.details().startswith("upstream connection refused (request ID ")
        metadata = {
            **dict(raised.value.initial_metadata() or ()),
            **dict(raised.value.trailing_metadata() or ()),
        }
        assert metadata["x-canaryproxy-reason"] == "connect_refused"
    finally:
        running.end()
