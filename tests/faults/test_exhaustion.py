"""Nothing left: no file descriptors, no room on the disk, a disk that takes no writes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..system.processes import Proxy, answers, proxy, until, upstream, variants
from .users import Users

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LIMITS = "limits: {connect_timeout: 2s, first_byte_timeout: 5s, idle_timeout: 10s}\n"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answered(sock: socket.socket) -> bool:
    """Ask on a connection; return whether the whole answer came."""
    sock.sendall(GET)
    got = b""
    while not got.endswith(b"\r\n\r\ns"):
        piece = sock.recv(4096)
        if not piece:
            return False
        got += piece
    return got.startswith(b"HTTP/1.1 200 ")


def test_without_file_descriptors_who_is_connected_is_served_and_it_recovers(
    tmp_path: Path,
) -> None:
    with (
        upstream(tmp_path, "s") as (_, stable),
        proxy(tmp_path, variants([stable]), LIMITS) as running,
        contextlib.ExitStack() as opened,
    ):
        clients = []
        for _ in range(5):
            clients.append(
                opened.enter_context(socket.create_connection(("127.0.0.1", running.port), 10))
            )
            assert answered(clients[-1])
        used = len(os.listdir(f"/proc/{running.pid}/fd"))  # noqa: PTH208
        most = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (used + 2, most[1]))
        flood = []
        for _ in range(200):
            sock = opened.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", running.port))
            flood.append(sock)
        began, used_cpu = time.monotonic(), cpu_seconds(running.pid)
        while time.monotonic() - began < 2:
            for one in clients:
                assert answered(one)
            time.sleep(0.02)
        took = time.monotonic() - began
        assert cpu_seconds(running.pid) - used_cpu < 0.7 * took, "it spins"
        for sock in flood:
            sock.close()
        for one in clients:
            assert answered(one)

        def recovered() -> bool:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", running.port), 10) as sock,
            ):
                return answered(sock)
            return False

        until(recovered, "a new connection")
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, most)
        with Users(running.port) as users:
            until(lambda: users.seen[200] > 200, "answers")
        assert users.seen == {200: users.sent}
        assert running.child.poll() is None


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 128 KiB."""
    mount = folder / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "canaryproxy-test", str(mount)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield mount
    finally:
        while os.path.ismount(mount):
            subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "junk").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def unsaved(running: Proxy) -> bool:
    return running.metrics()["canaryproxy_state_unsaved"] == 1


def write_protect(disk: Path) -> None:
    """Mount it once more, over itself: who looks for a file there finds it read-only."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_takes_nothing_stops_the_canary_from_growing_and_nothing_else(
    tmp_path: Path, how: str
) -> None:
    with (
        small_disk(tmp_path) as disk,
        upstream(tmp_path, "s") as (_, stable),
        upstream(tmp_path, "c") as (_, canary),
    ):
        more = f"{LIMITS}state: {disk}/state.json\nsplit: {{weight: 20}}\n"
        with proxy(tmp_path, variants([stable], [canary]), more) as running:
            running.ask("PUT", "/v1/weight", {"weight": 10})
            if how == "full":
                fill(disk)
            else:
                write_protect(disk)
            with Users(running.port) as users:
                # More users on the canary: refused, and said why.
                said = running.ask("PUT", "/v1/weight", {"weight": 50}, allow=507)
                assert "the weight will not rise until the state file can be written" in said
                until(lambda: unsaved(running), "the metric")
                assert '"weight":10' in running.ask("GET", "/v1/release").replace(" ", "")
                # Fewer, and a trip: at once, on the disk or not.
                running.ask("PUT", "/v1/weight", {"weight": 5}, allow=507)
                running.ask("POST", "/v1/release/trip", {"cause": "no disk"}, allow=507)
                until(lambda: running.metrics()["canaryproxy_weight_ratio"] == 0, "the trip")
                canary_before = users.bodies[b"c"]
                until(lambda: users.bodies[b"s"] > 2000, "answers")
                assert users.bodies[b"c"] - canary_before < 20  # those on their way
            assert users.seen == {200: users.sent}
            users.agree(running)
            if how == "full":
                (disk / "junk").unlink()
            else:
                subprocess.run(["umount", str(disk)], check=True)
            until(lambda: not unsaved(running), "the state on the disk")
        # What could not be written then is there for the next process.
        with proxy(tmp_path, variants([stable], [canary]), more) as running:
            assert running.metrics()["canaryproxy_weight_ratio"] == 0
            assert "no disk" in running.ask("GET", "/v1/release")


def test_a_proxy_that_starts_on_a_full_disk_serves_stable(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path) as disk,
        upstream(tmp_path, "s") as (_, stable),
        upstream(tmp_path, "c") as (_, canary),
    ):
        (disk / ".state.json.lock").touch()
        fill(disk)
        plan = "release: {id: r, steps: [{weight: 20}, {weight: 100}]}\njudge: {baseline: 0s}"
        more = f"{LIMITS}state: {disk}/state.json\n{plan}\n"
        with proxy(tmp_path, variants([stable], [canary]), more) as running:
            with Users(running.port) as users:
                until(lambda: users.bodies[b"s"] > 500, "answers")
                assert unsaved(running)
            assert users.bodies == {
                b"s": users.sent
            }  # nobody on a canary that a restart would forget
            (disk / "junk").unlink()
            with Users(running.port) as users:
                until(lambda: users.bodies[b"c"] > 10, "the first step")
        assert answers(stable)
