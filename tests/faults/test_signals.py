"""Signals again and again."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from ..system.processes import proxy, until, upstream, variants


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_again_and_again_breaks_no_answer(tmp_path: Path, workers: int) -> None:
    size = 30_000_000
    with (
        upstream(tmp_path, "s") as (_, port),
        proxy(tmp_path, variants([port]), f"workers: {workers}\n") as running,
        socket.create_connection(("127.0.0.1", running.port), 20) as client,
    ):
        client.sendall(b"GET /zeros?%d HTTP/1.1\r\nHost: h\r\n\r\n" % size)
        got = client.recv(1000)
        for _ in range(20):
            running.kill(signal.SIGTERM)
            running.kill(signal.SIGHUP)
            time.sleep(0.01)
        while piece := client.recv(1 << 20):
            got += piece
        assert got.endswith(bytes(1000))
        assert len(got.partition(b"\r\n\r\n")[2]) == size
        assert running.wait() == 0, running.log.read_text()
        assert "Traceback" not in running.log.read_text()


def test_sighup_again_and_again_under_a_signal_to_end(tmp_path: Path) -> None:
    with upstream(tmp_path, "s") as (_, port), proxy(tmp_path, variants([port])) as running:
        for _ in range(200):
            running.kill(signal.SIGHUP)
        running.kill(signal.SIGTERM)
        until(lambda: running.child.poll() is not None, "its end")
        assert running.child.returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_once_more_does_not_wait(tmp_path: Path, workers: int) -> None:
    more = f"workers: {workers}\nlimits: {{drain_timeout: 10m, body_timeout: 10m}}\n"
    with (
        upstream(tmp_path, "s") as (_, port),
        proxy(tmp_path, variants([port]), more) as running,
        socket.create_connection(("127.0.0.1", running.port), 20) as client,
    ):
        client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        until(
            lambda: (
                'canaryproxy_inflight_requests{variant="stable"} 1'
                in running.ask("GET", "/metrics")
            )
        )
        running.kill(signal.SIGTERM)
        until(lambda: "shutting down (SIGTERM)" in running.log.read_text(), "a drain")
        assert running.child.poll() is None
        running.kill(signal.SIGINT)
        assert running.wait() == 0
