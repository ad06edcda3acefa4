"""The proxy as people run it: real processes, real signals, real sizes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from canaryproxy.measure.routing import bucket_of
from tests.ports import free_port

from .load import Load
from .processes import DEADLINE, proxy, until, upstream, variants

GIB = 1 << 30
WEIGHT = "split: {weight: 10}"


def request_total(metrics: dict[str, float]) -> float:
    return sum(n for key, n in metrics.items() if key.startswith("canaryproxy_requests_total"))


@pytest.mark.slow
def test_every_user_is_on_the_side_that_the_formula_says(tmp_path: Path) -> None:
    """Requests of ``USERS`` users at weight 10, ``ROUNDS`` from each: ``make split`` is a million."""
    rounds, count = int(os.environ.get("ROUNDS", "2")), int(os.environ.get("USERS", "10000"))
    users = [b"%032x" % (n * 0x9E3779B97F4A7C15) for n in range(count)]
    with (
        upstream(tmp_path, "stable") as (_, stable),
        upstream(tmp_path, "canary") as (_, canary),
        proxy(tmp_path, variants([stable], [canary]), WEIGHT) as running,
    ):
        load = Load(running.port)
        load.run(users * rounds)
        sent = rounds * len(users)
        assert load.statuses == {200: sent}
        for user, sides in load.bodies.items():
            assert sides == {b"canary" if bucket_of(b"", user) < 1000 else b"stable"}
        assert len(load.bodies) == len(users)
        metrics = running.metrics()
        on_canary = metrics['canaryproxy_requests_total{code="200",variant="canary"}']
        assert request_total(metrics) == sent
        assert on_canary / sent == pytest.approx(0.1, abs=3 * (0.1 * 0.9 / count) ** 0.5)


def test_the_canary_is_killed_under_load_and_no_user_sees_it(tmp_path: Path) -> None:
    users = [b"u%d" % n for n in range(6_000)]
    # The budget is a share of ten seconds of traffic, which the load does not have behind it.
    more = "split: {weight: 50}\nrescue: {budget: false}"
    with (
        upstream(tmp_path, "stable") as (_, stable),
        upstream(tmp_path, "canary") as (victim, canary),
        proxy(tmp_path, variants([stable], [canary]), more) as running,
    ):

        def kill(answered: int) -> None:
            if answered > 1000 and victim.child.poll() is None:
                victim.kill()
                victim.wait()

        load = Load(running.port)
        load.run(users, kill)
        assert victim.child.poll() == -signal.SIGKILL
        assert load.statuses == {200: 6_000}
        metrics = running.metrics()
        assert metrics["canaryproxy_rescued_total"] > 0
        # The judge has seen enough by then: who would have been rescued is not even sent there.
        assert metrics['canaryproxy_circuit_state{state="open"}'] == 1
        assert request_total(metrics) == 6_000


def test_one_of_two_stable_endpoints_is_killed_under_load_and_no_user_sees_it(
    tmp_path: Path,
) -> None:
    with (
        upstream(tmp_path, "one") as (victim, one),
        upstream(tmp_path, "two") as (_, two),
        proxy(tmp_path, variants([one, two])) as running,
    ):

        def kill(answered: int) -> None:
            if answered > 1000 and victim.child.poll() is None:
                victim.kill()
                victim.wait()

        load = Load(running.port)
        load.run([b"u%d" % n for n in range(6_000)], kill)
        assert load.statuses == {200: 6_000}
        assert request_total(running.metrics()) == 6_000


@pytest.mark.slow
def test_two_gibibytes_up_and_down_in_little_memory(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "s") as (_, port),
        proxy(tmp_path, variants([port]), fresh=True) as running,
    ):
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (2 * GIB))
            piece = bytes(1 << 20)
            for _ in range(2048):
                client.sendall(piece)
            assert b"\r\n\r\n2147483648" in read_until(client, b"2147483648")
            client.sendall(b"GET /zeros?%d HTTP/1.1\r\nHost: h\r\n\r\n" % (2 * GIB))
            head = read_until(client, b"\r\n\r\n")
            left = 2 * GIB - len(head.partition(b"\r\n\r\n")[2])
            buffer = bytearray(1 << 20)
            while left:
                got = client.recv_into(buffer, min(left, len(buffer)))
                assert got
                left -= got
        assert running.memory() < 120 << 20


def read_until(client: socket.socket, mark: bytes) -> bytes:
    got = b""
    client.settimeout(DEADLINE)
    while mark not in got:
        data = client.recv(65536)
        assert data, got
        got += data
    return got


def test_slow_readers_do_not_make_memory_grow(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "s") as (_, port),
        proxy(tmp_path, variants([port]), fresh=True) as running,
    ):
        clients = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /zeros?%d HTTP/1.1\r\nHost: h\r\n\r\n" % GIB)
        key = 'canaryproxy_inflight_requests{variant="stable"}'
        until(lambda: running.metrics()[key] == 20)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # all this while the upstream could send 20 GiB
            assert running.memory() < 120 << 20
            time.sleep(0.05)
        for client in clients:
            client.close()
        until(lambda: running.metrics()[key] == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(tmp_path: Path, number: int) -> None:
    with upstream(tmp_path, "s") as (_, port), proxy(tmp_path, variants([port])) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
            until(lambda: running.metrics()['canaryproxy_inflight_requests{variant="stable"}'] == 1)
            running.kill(number)
            until(lambda: not accepts(running.port))
            client.sendall(b"def")
            assert b"\r\nConnection: close\r\n\r\n6" in read_until(client, b"\r\n\r\n6")
            assert client.recv(1) == b""
        assert running.wait() == 0
        assert not running.socket.exists()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_draining_ends_after_its_timeout(tmp_path: Path) -> None:
    more = "limits: {drain_timeout: 200ms}"
    with (
        upstream(tmp_path, "s") as (_, port),
        proxy(tmp_path, variants([port]), more) as running,
        socket.create_connection(("127.0.0.1", running.port)) as client,
    ):
        client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        until(lambda: running.metrics()['canaryproxy_inflight_requests{variant="stable"}'] == 1)
        running.kill(signal.SIGTERM)
        assert running.wait() == 0


def test_the_admin_socket_is_private_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    with proxy(tmp_path, variants([port])) as first:
        assert stat.S_IMODE(first.socket.stat().st_mode) == 0o600
        first.kill()
        first.wait()
        assert first.socket.exists()
        with proxy(tmp_path, variants([port])) as second:
            assert second.metrics()


def test_a_socket_that_somebody_serves_is_not_taken(tmp_path: Path) -> None:
    port = free_port()
    with proxy(tmp_path, variants([port])) as first:
        text = (tmp_path / "proxy.yaml").read_text().replace(str(first.port), str(free_port()))
        (tmp_path / "second.yaml").write_text(text)
        done = command("run", "-c", str(tmp_path / "second.yaml"))
        assert done.returncode == 1
        assert "another process listens on it" in done.stderr
        assert "Traceback" not in done.stderr
        assert first.metrics()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with proxy(tmp_path, variants([free_port()])) as first:
        text = (tmp_path / "proxy.yaml").read_text().replace("admin.sock", "other.sock")
        (tmp_path / "second.yaml").write_text(text)
        done = command("run", "-c", str(tmp_path / "second.yaml"))
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{first.port}: port already in use" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "other.sock").exists()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "canaryproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_check_has_exit_status_0_and_2(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(variants([1]))
    bad.write_text(variants([1]) + "\nsplitt: {}\nworkers: x\n")
    assert command("check", "-c", str(good)).returncode == 0
    done = command("check", "-c", str(bad))
    assert done.returncode == 2
    assert done.stdout == ""
    assert [
        line.startswith(f"{bad}:{n}:") for n, line in enumerate(done.stderr.splitlines(), 2)
    ] == [
        True,
        True,
    ]
    missing = command("check", "-c", str(tmp_path / "missing.yaml"))
    assert missing.returncode == 2
    assert "No such file" in missing.stderr


def test_run_refuses_a_broken_configuration(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("variants: {}\n")
    done = command("run", "-c", str(bad))
    assert done.returncode == 2
    assert "required key 'stable' is missing" in done.stderr
