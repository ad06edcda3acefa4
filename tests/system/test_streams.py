"""Streams through a real process: memory, and what a signal or a death does to them."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

from .load import Load
from .processes import DEADLINE, HERE, Process, Proxy, answers, proxy, until, upstream, variants

MIB = 1 << 20
MOST = 120 * MIB
IN_FLIGHT = 'canaryproxy_inflight_requests{variant="stable"}'


@contextlib.contextmanager
def chunks(folder: Path) -> Iterator[int]:
    """Run ``chunks.py`` and yield its port."""
    port = free_port()
    process = Process(str(HERE / "chunks.py"), str(port), folder=folder)
    try:
        until(lambda: answers(port), "upstream")
        yield port
    finally:
        process.end()


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(DEADLINE)
    return client


def take(client: socket.socket, mark: bytes) -> bytes:
    got = b""
    while mark not in got:
        data = client.recv(65536)
        assert data, got
        got += data
    return got


@pytest.mark.slow
def test_a_gibibyte_in_chunks_up_and_down_in_little_memory(tmp_path: Path) -> None:
    with (
        chunks(tmp_path) as port,
        proxy(tmp_path, variants([port]), fresh=True) as running,
        connect(running.port) as client,
    ):
        chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
        client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1024):
            client.sendall(chunk)
        client.sendall(b"0\r\n\r\n")
        size = int(take(client, b"\r\n\r\n1").rpartition(b"\r\n\r\n")[2])
        assert 1 << 30 < size < (1 << 30) + 64 * MIB  # the body, chunked anew
        client.sendall(b"GET /zeros?%d HTTP/1.1\r\nHost: h\r\n\r\n" % (1 << 30))
        buffer = bytearray(MIB)
        total, tail = 0, b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            count = client.recv_into(buffer)
            assert count
            total += count
            tail = (tail + bytes(buffer[max(0, count - 7) : count]))[-7:]
        assert 1 << 30 < total < (1 << 30) + 64 * MIB
        assert running.memory() < MOST


def grows_not(running: Proxy, seconds: float = 1.0) -> None:
    """All this while more could be read than memory may hold."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert running.memory() < MOST
        time.sleep(0.05)


def test_slow_readers_of_tunnels_and_chunks_do_not_make_memory_grow(tmp_path: Path) -> None:
    with chunks(tmp_path) as port, proxy(tmp_path, variants([port]), fresh=True) as running:
        clients = [connect(running.port) for _ in range(20)]
        for number, client in enumerate(clients):
            if number % 2:
                client.sendall(b"GET /zeros?%d HTTP/1.1\r\nHost: h\r\n\r\n" % (1 << 34))
            else:
                client.sendall(
                    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
                )
        tunnels = 'canaryproxy_open_tunnels{variant="stable"}'
        until(lambda: running.metrics()[tunnels] == 10)
        grows_not(running)
        for client in clients:
            client.close()
        until(lambda: running.metrics()[tunnels] == 0)
        until(lambda: running.metrics()[IN_FLIGHT] == 0)


def test_a_deaf_upstream_does_not_make_memory_grow(tmp_path: Path) -> None:
    with chunks(tmp_path) as port, proxy(tmp_path, variants([port]), fresh=True) as running:
        clients = [connect(running.port) for _ in range(10)]
        stop = threading.Event()

        def push(client: socket.socket) -> None:
            with contextlib.suppress(OSError):
                client.sendall(
                    b"PUT /deaf HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % 2**34
                )
                while not stop.is_set():
                    client.sendall(bytes(MIB))

        threads = [threading.Thread(target=push, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        try:
            until(lambda: running.metrics()[IN_FLIGHT] == 10)
            grows_not(running)
        finally:
            stop.set()
            for client in clients:
                client.shutdown(socket.SHUT_RDWR)
                client.close()
            for thread in threads:
                thread.join()


def test_many_heads_that_are_never_finished_do_not_make_memory_grow(tmp_path: Path) -> None:
    with chunks(tmp_path) as port, proxy(tmp_path, variants([port]), fresh=True) as running:
        clients = [connect(running.port) for _ in range(500)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 30_000)
        opened = "canaryproxy_open_connections"
        until(lambda: running.metrics()[opened] == 500)
        grows_not(running, 0.3)
        for client in clients:
            client.close()
        until(lambda: running.metrics()[opened] == 0)


def killed_after(victim: Process, count: int) -> Callable[[int], None]:
    def kill(answered: int) -> None:
        if answered > count and victim.child.poll() is None:
            victim.kill()
            victim.wait()

    return kill


def test_a_canary_that_is_killed_and_started_again_gets_its_users_back(tmp_path: Path) -> None:
    served = 'canaryproxy_requests_total{code="200",variant="canary"}'
    # No judge: it would open the circuit, and leave it to an operator to close it.
    more = "split: {weight: 50}\nrescue: {budget: false}\n"
    more += "judge: {metrics: {errors: false}, guard_rails: false}"
    port = free_port()
    with (
        upstream(tmp_path, "stable") as (_, stable),
        proxy(tmp_path, variants([stable], [port]), more) as running,
    ):
        with upstream(tmp_path, "canary", port) as (victim, _):
            load = Load(running.port)
            load.run([b"a%d" % n for n in range(10_000)], killed_after(victim, 2000))
            assert victim.child.poll() == -signal.SIGKILL
            assert load.statuses == {200: 10_000}
            before = running.metrics()[served]
        with upstream(tmp_path, "canary", port):

            def back() -> bool:
                again = Load(running.port, connections=1)
                again.run([b"b%d" % n for n in range(50)])
                assert again.statuses == {200: 50}
                return running.metrics()[served] > before

            until(back, "the canary's return")


def test_a_signal_under_load_breaks_no_answer(tmp_path: Path) -> None:
    """Every request that was begun to be answered is answered whole; then the connection is closed."""
    with upstream(tmp_path, "s") as (_, port), proxy(tmp_path, variants([port])) as running:
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nVia: 1.1 canaryproxy\r\n"
        results: list[bytes] = []

        def user() -> None:
            got = b""
            with (
                contextlib.suppress(ConnectionResetError, BrokenPipeError),
                connect(running.port) as client,
            ):
                while True:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=x\r\n\r\n")
                    data = client.recv(65536)
                    if not data:
                        break
                    got += data
            results.append(got)

        threads = [threading.Thread(target=user) for _ in range(8)]
        for thread in threads:
            thread.start()
        name = 'canaryproxy_requests_total{code="200",variant="stable"}'
        until(lambda: running.metrics().get(name, 0) > 500)
        running.kill(signal.SIGTERM)
        for thread in threads:
            thread.join(DEADLINE)
        assert running.wait() == 0
        assert len(results) == 8
        for one in results:
            got = re.sub(rb"Date: [^\r]*\r\n", b"", one)
            rest = got.replace(whole + b"\r\ns", b"").replace(
                whole + b"Connection: close\r\n\r\ns", b""
            )
            assert rest == b""


def get(path: Path, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("admin")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", target)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_a_proxy_that_drains_is_alive_and_not_ready(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "s") as (_, port),
        proxy(tmp_path, variants([port])) as running,
        connect(running.port) as client,
    ):
        assert get(running.socket, "/readyz")[0] == get(running.socket, "/livez")[0] == 200
        client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        until(lambda: running.metrics()[IN_FLIGHT] == 1)
        running.kill(signal.SIGTERM)
        until(lambda: get(running.socket, "/readyz")[0] == 503)
        assert get(running.socket, "/livez")[0] == 200
        assert running.metrics()[IN_FLIGHT] == 1
        client.sendall(b"def")
        take(client, b"\r\n\r\n6")
        assert running.wait() == 0


def test_a_unix_socket_may_be_listened_on_and_is_gone_at_the_end(tmp_path: Path) -> None:
    with upstream(tmp_path, "s") as (_, port), proxy(tmp_path, variants([port])) as first:
        text = (tmp_path / "proxy.yaml").read_text()
        path = tmp_path / "data.sock"
        text = text.replace(f"listen: 127.0.0.1:{first.port}", f"listen: 'unix:{path}'")
        text = text.replace("admin.sock", "other.sock") + "state: other.json\n"
        (tmp_path / "second.yaml").write_text(text)
        second = Process(
            "-m", "canaryproxy", "run", "-c", str(tmp_path / "second.yaml"), folder=tmp_path
        )
        try:
            until(path.exists, "socket")
            assert get(path, "/") == (200, b"s")
            second.kill(signal.SIGTERM)
            assert second.wait() == 0
            assert not path.exists()
        finally:
            second.end()


def test_a_burst_of_connections_waits_and_is_not_dropped(tmp_path: Path) -> None:
    """While the process is busy the kernel queues connections: as many as we ask it to."""
    burst = min(400, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    with upstream(tmp_path, "s") as (_, port), proxy(tmp_path, variants([port])) as running:
        running.kill(signal.SIGSTOP)
        try:
            with contextlib.ExitStack() as opened:
                for number in range(burst):
                    client = opened.enter_context(socket.socket())
                    client.settimeout(DEADLINE)  # loopback answers, or the queue is full
                    assert client.connect_ex(("127.0.0.1", running.port)) == 0, number
        finally:
            running.kill(signal.SIGCONT)
