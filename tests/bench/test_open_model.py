"""The load of the open model charges a stalled server for what was due, and counts what goes wrong."""

from __future__ import annotations

import shutil
import socket
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.loads import open_model, wrk
from bench.loads.open_model import warm_up

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

needs_compiler = pytest.mark.skipif(
    shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None,
    reason="no C compiler",
)


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection in a thread of its own, and yield the URL."""
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
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
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


def sent(url: str, *, rate: float, seconds: float, connections: int) -> wrk.WrkResult:
    return wrk.parse(open_model.send(url, rate, seconds, connections))


@needs_compiler
def test_stalled_server_is_charged_for_all_requests_that_were_due() -> None:
    count = round(200 * (0.5 + warm_up(200, 300)))
    all_sent = threading.Barrier(count)

    def serve(connection: socket.socket) -> None:
        with connection:
            if connection.recv(4096):
                all_sent.wait(60)
                connection.sendall(ANSWER)
                connection.recv(4096)

    with server(serve) as url:
        found = sent(url, rate=200, seconds=0.5, connections=300)
    # The last request was due 0.495 s after the first one that counts.
    assert (found.requests, found.error_count) == (100, 0)
    assert found.max_us >= 495_000
    assert found.p50_us >= 245_000


@needs_compiler
def test_request_that_finds_no_connection_is_charged_for_its_waiting() -> None:
    stalled = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                if not stalled.is_set():
                    time.sleep(warm_up(100, 1) + 0.5)
                    stalled.set()
                connection.sendall(ANSWER)

    with server(serve) as url:
        found = sent(url, rate=100, seconds=0.5, connections=1)
    # The first request came when it was due or later, the first one that counts was due 0.2 s after it.
    assert (found.requests, found.error_count) == (50, 0)
    assert found.max_us >= 495_000


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
def test_answers_are_read_to_their_end(parts: tuple[bytes, ...]) -> None:
    with server(answering(*parts)) as url:
        found = sent(url, rate=200, seconds=0.2, connections=3)
    assert (found.requests, found.error_count) == (40, 0)
    assert found.bytes == 80 * len(b"".join(parts))


@needs_compiler
def test_users_take_turns() -> None:
    seen = set[bytes]()

    def serve(connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(4096):
                seen.add(request)
                connection.sendall(ANSWER)

    with server(serve) as url:
        sent(url, rate=100, seconds=0.2, connections=2)
    assert len(seen) == 40
    assert all(request.startswith(b"GET / HTTP/1.1\r\nHost: ") for request in seen)


@needs_compiler
def test_errors_are_counted_by_kind() -> None:
    with server(answering(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")) as url:
        assert sent(url, rate=100, seconds=0.2, connections=2).errors["status"] == 40
    with server(lambda connection: connection.close()) as url:
        found = sent(url, rate=100, seconds=0.2, connections=2)
    assert found.errors["read"] > 0
    assert found.requests == 0
    # Nobody listens there any more.
    found = sent(url, rate=100, seconds=0.2, connections=2)
    assert found.errors["connect"] == 2
    assert found.requests == 0


def test_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_model, "_PROGRAM", tmp_path / "open_model")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(wrk.WrkError, match="no-such-compiler"):
        open_model.program()
