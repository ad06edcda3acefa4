"""The load of the open model charges a stalled server for what was due, and counts what goes wrong."""

from __future__ import annotations

import itertools
import shutil
import socket
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.harness import cores, probe, process
from bench.harness.ports import free
from bench.loads import open_model
from bench.loads.open_model import Stream
from bench.loads.wrk import WrkError, WrkResult

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

needs_compiler = pytest.mark.skipif(
    shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None,
    reason="no C compiler",
)


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread of its own, and yield the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=300) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def answering(*parts: bytes) -> Callable[[socket.socket], None]:
    """Answer each request in these parts."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while connection.recv(4096):
                for part in parts:
                    connection.sendall(part)

    return serve


@contextmanager
def sender(folder: Path) -> Iterator[tuple[int, int]]:
    """Run the program that sends, and yield the port for its jobs and the one on which it answers."""
    control, answers = free(2)
    command = open_model.command(control, {answers: "ok"})
    with process.running() as started:
        one = process.start("open_model", command, core=cores.choose().load, folder=folder)
        started.append(one)
        one.wait_until(lambda: probe.listens(control), 30)
        yield control, answers


@pytest.fixture
def control(tmp_path: Path) -> Iterator[int]:
    with sender(tmp_path) as (control, _):
        yield control


def sent(control: int, port: int, *, rate: float, seconds: float, connections: int) -> WrkResult:
    (found,) = open_model.send(
        control, [Stream(port, rate)], seconds=seconds, connections=connections
    )
    return found


@pytest.fixture
def _one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_model, "SLICE_SECONDS", 0.5)


@needs_compiler
@pytest.mark.usefixtures("_one_slice")
def test_stalled_server_is_charged_for_all_requests_that_were_due(control: int) -> None:
    all_sent = threading.Barrier(100)  # those of a slice

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                all_sent.wait(60)
                connection.sendall(ANSWER)

    with server(serve) as port:
        found = sent(control, port, rate=200, seconds=0.5, connections=300)
    # The last request was due 0.495 s after the first one.
    assert (found.requests, found.error_count) == (100, 0)
    assert found.max_us >= 495_000
    assert found.p50_us >= 245_000


@needs_compiler
@pytest.mark.usefixtures("_one_slice")
def test_request_that_finds_no_connection_is_charged_for_its_waiting(control: int) -> None:
    numbers = itertools.count()
    first = 50 * open_model.warm_up(100, 1)

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                if next(numbers) == first:
                    time.sleep(0.5)
                connection.sendall(ANSWER)

    with server(serve) as port:
        found = sent(control, port, rate=100, seconds=0.5, connections=1)
    assert (found.requests, found.error_count) == (50, 0)
    assert found.max_us >= 500_000
    assert found.p50_us >= 240_000


@needs_compiler
@pytest.mark.parametrize(
    "parts",
    [
        (ANSWER,),
        (ANSWER[:10], ANSWER[10:30], ANSWER[30:]),
        (ANSWER[:-2], b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nok\r\n", b"0\r\n\r\n"),
    ],
)
def test_answers_are_read_to_their_end(control: int, parts: tuple[bytes, ...]) -> None:
    with server(answering(*parts)) as port:
        found = sent(control, port, rate=200, seconds=0.2, connections=3)
    assert (found.requests, found.error_count) == (40, 0)
    assert found.bytes == 40 * len(b"".join(parts))


@needs_compiler
def test_users_take_turns(control: int) -> None:
    seen = set[bytes]()

    def serve(connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(4096):
                seen.add(request)
                connection.sendall(ANSWER)

    with server(serve) as port:
        sent(control, port, rate=100, seconds=0.2, connections=2)
    assert len(seen) == 20 + 10 * open_model.warm_up(100, 2)
    assert all(request.startswith(b"GET / HTTP/1.1\r\nHost: ") for request in seen)


@needs_compiler
def test_errors_are_counted_by_kind(control: int) -> None:
    with server(answering(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")) as port:
        found = sent(control, port, rate=100, seconds=0.2, connections=2)
        assert found.errors["status"] == 20 + 10 * open_model.warm_up(100, 2)
    with server(lambda connection: connection.close()) as port:
        found = sent(control, port, rate=100, seconds=0.2, connections=2)
    assert found.errors["read"] > 0
    assert found.requests == 0
    # Nobody listens there any more.
    found = sent(control, port, rate=100, seconds=0.2, connections=2)
    assert found.errors["connect"] == 2
    assert found.errors["timeout"] > 0
    assert found.requests == 0


@needs_compiler
def test_a_request_without_an_answer_is_an_error_and_the_others_go_on(
    control: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_model, "_LAST_SECONDS", 0.5)
    numbers = itertools.count()

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                if next(numbers) != 60:
                    connection.sendall(ANSWER)

    with server(serve) as silent, server(answering(ANSWER)) as other:
        found = open_model.send(
            control, [Stream(silent, 100), Stream(other, 200)], seconds=0.4, connections=2
        )
    assert found[0].errors["timeout"] >= 1
    assert found[0].requests >= 1
    assert (found[1].requests, found[1].error_count) == (80, 0)


@needs_compiler
def test_it_answers_as_an_upstream(tmp_path: Path) -> None:
    with sender(tmp_path) as (control, port):
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r")
            connection.sendall(b"\n\r\nGET")
            got = b""
            while got.count(b"\r\n\r\nok") < 2:
                got += connection.recv(4096)
            assert got.count(b"HTTP/1.1 200 OK\r\nDate: ") == 2
            assert got.count(b"\r\nContent-Length: 2\r\n") == 2
        found = sent(control, port, rate=500, seconds=0.2, connections=10)
    assert (found.requests, found.error_count) == (100, 0)


def test_a_sender_that_ends_is_an_error() -> None:
    def end(connection: socket.socket) -> None:
        with connection:
            while b"GET" not in connection.recv(1 << 20):
                pass

    with server(end) as control, pytest.raises((WrkError, ConnectionError)):
        sent(control, 1, rate=100, seconds=0.1, connections=1)


def test_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_model, "_PROGRAM", tmp_path / "open_model")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(WrkError, match="no-such-compiler"):
        open_model.program()
