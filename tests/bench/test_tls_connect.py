"""The load of TLS with a new connection for each request resumes sessions, and says where it cannot."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from bench.harness import scenarios
from bench.loads import ANSWER_BYTES, Load, tls_connect, wrk
from bench.peers import PEERS
from tests.certificates import authority, loopback

ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * ANSWER_BYTES


@contextmanager
def server(answer: bytes, *, tickets: int = 2) -> Iterator[int]:
    """Serve one connection after the other."""
    context = authority().server(loopback())
    context.num_tickets = tickets
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    raw, _ = listening.accept()
                except OSError:
                    return
                with raw, context.wrap_socket(raw, server_side=True) as connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def sent(port: int, count: int = 3) -> wrk.WrkResult:
    """Return what a client finds that sends so many requests."""
    client = tls_connect.Client("127.0.0.1", port, ["canary_id=x"])
    for _ in range(count):
        client.send()
    return wrk.parse(tls_connect.figures([client.found], 1.0))


def test_all_connections_but_the_first_resume_a_session() -> None:
    with server(ANSWER) as port:
        found = sent(port)
    assert (found.requests, found.bytes, found.error_count) == (3, 3 * len(ANSWER), 0)


def test_a_session_that_is_not_resumed_is_an_error() -> None:
    with server(ANSWER, tickets=0) as port:
        found = sent(port)
    assert (found.requests, found.errors["connect"], found.error_count) == (3, 2, 2)


@pytest.mark.parametrize("answer", [ANSWER[:-1], ANSWER.replace(b"200", b"500")])
def test_another_answer_is_an_error(answer: bytes) -> None:
    with server(answer) as port:
        found = sent(port, 1)
    assert (found.requests, found.errors["status"]) == (1, 1)


def test_nobody_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    found = sent(port)
    assert (found.requests, found.errors["read"]) == (0, 3)


def test_clients_send_side_by_side_until_the_time_is_up() -> None:
    with server(ANSWER) as port:
        found = wrk.parse(tls_connect.send(f"https://127.0.0.1:{port}", 0.01, 3))
    assert found.requests >= 3
    assert found.error_count == 0


def test_it_can_be_asked_for() -> None:
    assert "tls-connect" in scenarios.NAMES
    assert scenarios.TLS_CONNECT.tls
    assert {"ours", "nginx", "haproxy"} <= {
        name for name, peer in PEERS.items() if "tls" in peer.features
    }


def test_each_tool_of_a_load_is_a_program(tmp_path: Path) -> None:
    tools = set(get_args(get_type_hints(Load)["tool"])) - {"wrk", "h2load"}
    for tool in tools:
        load = Load("x", "x", tool=tool)
        command = wrk.command("http://127.0.0.1:1", load, 1.0, tmp_path)
        assert importlib.util.find_spec(command[command.index("-m") + 1]) is not None
