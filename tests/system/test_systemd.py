"""What systemd passes and is told, with a stand-in for it: sockets at descriptor 3, and a notify socket."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.ports import free_port

from .accounts import Accounts
from .processes import DEADLINE, Proxy, until, upstream, variants
from .test_hot_restart import ask, drained, end, end_all, handed_over
from .test_workers import pids

LAUNCHER = """
import ctypes, fcntl, os, sys
if "REFUSE_WRITABLE_CODE" in os.environ:  # prctl(2): PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
passed = [int(text) for text in sys.argv[1].split(",") if text]
for at, descriptor in enumerate([fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in passed]):
    os.dup2(descriptor, 3 + at, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(passed))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Unit(Proxy):
    """The proxy as systemd starts it."""

    def __init__(
        self,
        folder: Path,
        text: str,
        sockets: Sequence[socket.socket] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.socket = folder / "admin.sock"
        self.log = folder / "unit.log"
        path = folder / "proxy.yaml"
        path.write_text(text if "admin:" in text else f"{text}\nadmin: {{socket: {self.socket}}}\n")
        descriptors = [sock.fileno() for sock in sockets]
        run = ["-m", "canaryproxy", "run", "-c", str(path)]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors)), *run],
                cwd=folder,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                env={**os.environ, **(environment or {})},
            )


@contextlib.contextmanager
def unit(
    folder: Path,
    text: str,
    sockets: Sequence[socket.socket] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Unit]:
    running = Unit(folder, text, sockets, environment)
    try:
        until(lambda: running.socket.exists() or running.child.poll() is not None, "start")
        if running.child.poll() is None:
            until(lambda: ask(running)["pid"], "steering")
        yield running
    finally:
        end_all(folder / "proxy.yaml")
        running.end()


@contextlib.contextmanager
def listening(address: tuple[str, int] | str = ("127.0.0.1", 0)) -> Iterator[socket.socket]:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind(address)
        sock.listen(100)
        yield sock


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request("GET", "/", headers={"Connection": "close"})
    with connection.getresponse() as answer:
        assert answer.status == 200
        found = answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_the_sockets_that_it_is_passed(tmp_path: Path, workers: int) -> None:
    """Connections that came before it ran are answered; after an upgrade, the same socket goes on."""
    web = tmp_path / "web.sock"
    with (
        upstream(tmp_path, "stable") as (_, v1),
        listening() as tcp,
        listening(str(web)) as local,
        listening() as admin,
    ):
        port, more = tcp.getsockname()[1], free_port()
        early = socket.create_connection(("127.0.0.1", port))
        early.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        text = (
            f"listen: [127.0.0.1:{port}, unix:{web}, 127.0.0.1:{more}]\nworkers: {workers}\n"
            f"state: {tmp_path}/state.json\n{variants([v1])}\n"
            f"admin: {{socket: {tmp_path}/admin.sock, listen: 127.0.0.1:{admin.getsockname()[1]}}}\n"
        )
        with unit(tmp_path, text, [tcp, local, admin]) as running:
            early.settimeout(DEADLINE)
            assert early.recv(12) == b"HTTP/1.1 200"
            early.close()
            assert get(more) == b"stable"  # opened by itself
            assert get(port) == b"stable"
            until(lambda: len(pids(running)) == (workers + 1 if workers > 1 else 0), "workers")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(web))
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
            with Accounts(port, 3, 2) as load:
                os.kill(running.pid, signal.SIGUSR2)
                new = handed_over(running, running.pid)
                drained(running, running.pid)
                load.stop()
            load.check()
            os.kill(new, signal.SIGTERM)
            until(lambda: not running.socket.exists(), "the end")
            assert web.exists()  # it is systemd's
        with socket.create_connection(("127.0.0.1", port)):
            pass  # and so is this: whoever comes waits for the next start


def test_a_name_stands_for_an_address(tmp_path: Path) -> None:
    with upstream(tmp_path, "stable") as (_, v1), listening() as tcp, listening() as admin:
        text = (
            f"listen: 127.0.0.1:{free_port()}\nstate: {tmp_path}/state.json\n{variants([v1])}\n"
            f"admin: {{socket: {tmp_path}/admin.sock, listen: 127.0.0.1:{free_port()}}}\n"
        )
        names = {"LISTEN_FDNAMES": "listen:admin.listen"}
        with unit(tmp_path, text, [tcp, admin], names) as running:
            assert get(tcp.getsockname()[1]) == b"stable"
            assert get_ready(admin.getsockname()[1])
            assert f"listening on 127.0.0.1:{tcp.getsockname()[1]}" in running.log.read_text()


def get_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request("GET", "/readyz")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def test_a_socket_that_nothing_names_is_an_error(tmp_path: Path) -> None:
    with listening() as tcp, listening() as other:
        port = other.getsockname()[1]
        text = (
            f"listen: 127.0.0.1:{tcp.getsockname()[1]}\nstate: {tmp_path}/state.json\n"
            f"{variants([free_port()])}\n"
        )
        with unit(tmp_path, text, [tcp, other], {"LISTEN_FDNAMES": "web:web"}) as running:
            assert running.wait() == 1
            said = running.log.read_text()
            assert f"systemd passed a socket on 127.0.0.1:{port} (name web) that nothing" in said
            assert not running.socket.exists()


def test_a_socket_that_does_not_listen_is_an_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with unit(tmp_path, variants([free_port()]), [udp]) as running:
            assert running.wait() == 1
            assert "does not listen for connections" in running.log.read_text()


class Notified:
    """A notify socket. It is read all the time, as systemd does: the kernel keeps ten messages of it."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address.replace("@", "\0"))
        self._sock.settimeout(0.1)
        self.said: list[dict[str, str]] = []
        """Every message until now."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                lines = self._sock.recv(65536).decode().splitlines()
                self.said.append(dict(line.split("=", 1) for line in lines))

    def has(self, name: str, value: str = "", at_least: int = 1) -> bool:
        found = [one for one in self.said if name in one and value in one[name]]
        return len(found) >= at_least

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()


@pytest.mark.parametrize(("workers", "abstract"), [(1, True), (2, False)])
def test_systemd_is_told_how_it_fares(tmp_path: Path, workers: int, abstract: bool) -> None:
    address = f"@canaryproxy-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    notified = Notified(address)
    port = free_port()
    with upstream(tmp_path, "stable") as (_, v1), contextlib.closing(notified):
        text = (
            f"listen: 127.0.0.1:{port}\nworkers: {workers}\nstate: {tmp_path}/state.json\n"
            f"{variants([v1], [v1])}\nsplit: {{weight: 5}}\nlimits: {{drain_timeout: 7s}}\n"
        )
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        with unit(tmp_path, text, environment=environment) as running:
            until(lambda: notified.has("READY", "1"), "READY")
            assert get(port) == b"stable"
            until(lambda: notified.has("STATUS", "5% of users on the canary"), "STATUS")
            until(lambda: notified.has("WATCHDOG", "1", at_least=3), "WATCHDOG")

            ready = sum("READY" in one for one in notified.said)
            os.kill(running.pid, signal.SIGHUP)
            until(lambda: notified.has("RELOADING", "1"), "RELOADING")
            until(lambda: notified.has("READY", "1", at_least=ready + 1), "READY after it")
            reload = next(one for one in notified.said if "RELOADING" in one)
            assert int(reload["MONOTONIC_USEC"]) > 0
            ask(running, "/v1/release/trip", "POST", {"cause": "told so"})
            until(lambda: notified.has("STATUS", "told so"), "STATUS of the trip")

            os.kill(running.pid, signal.SIGUSR2)
            new = handed_over(running, running.pid)
            until(lambda: notified.has("MAINPID", str(new)), "MAINPID")
            drained(running, running.pid)
            assert not notified.has("STOPPING")  # the service does not end
            fed = sum("WATCHDOG" in one for one in notified.said)
            until(lambda: notified.has("WATCHDOG", at_least=fed + 2), "WATCHDOG by the new one")

            os.kill(new, signal.SIGTERM)
            until(lambda: notified.has("STOPPING", "1"), "STOPPING")
            last = next(one for one in notified.said if "STOPPING" in one)
            assert int(last["EXTEND_TIMEOUT_USEC"]) > 7_000_000
            until(lambda: not running.socket.exists(), "the end")


@pytest.mark.parametrize("workers", [1, 2])
def test_several_services_feed_one_watchdog_and_are_reloaded_together(
    tmp_path: Path, workers: int
) -> None:
    address = str(tmp_path / "notify")
    notified = Notified(address)
    port = free_port()
    with upstream(tmp_path, "stable") as (_, v1), contextlib.closing(notified):
        text = (
            f"listen: 127.0.0.1:{port}\nworkers: {workers}\nstate: {tmp_path}/state.json\n"
            f"admin: {{socket: {tmp_path}/admin.sock}}\n{variants([v1])}\n"
            "services:\n  cart: {hosts: cart.test}\n"
        )
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        with unit(tmp_path, text, environment=environment) as running:
            until(lambda: notified.has("READY", "1"), "READY")
            assert status_of(port, "cart.test") == 200
            assert status_of(port, "pay.test") == 421
            until(lambda: notified.has("WATCHDOG", "1", at_least=3), "WATCHDOG")
            file = tmp_path / "proxy.yaml"
            file.write_text(file.read_text() + "  pay: {hosts: pay.test}\n")
            os.kill(running.pid, signal.SIGHUP)
            until(lambda: notified.has("RELOADING", "1"), "RELOADING")
            until(lambda: notified.has("READY", "1", at_least=2), "READY after it")
            until(lambda: notified.has("STATUS", "2 services"), "STATUS")
            assert status_of(port, "pay.test") == 200
            assert status_of(port, "cart.test") == 200
            fed = sum("WATCHDOG" in one for one in notified.said)
            until(lambda: notified.has("WATCHDOG", at_least=fed + 2), "WATCHDOG after the reload")


def status_of(port: int, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request("GET", "/", headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("who", ["worker", "steering"])
def test_the_watchdog_is_not_fed_for_a_child_that_hangs(tmp_path: Path, who: str) -> None:
    address = str(tmp_path / "notify")
    notified = Notified(address)
    text = (
        f"listen: 127.0.0.1:{free_port()}\nworkers: 2\nstate: {tmp_path}/state.json\n"
        f"{variants([free_port()])}\n"
    )
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "800000"}
    with (
        contextlib.closing(notified),
        unit(tmp_path, text, environment=environment) as running,
    ):
        until(lambda: notified.has("WATCHDOG", at_least=2), "WATCHDOG")
        steering = ask(running)["pid"]
        hangs = steering if who == "steering" else next(p for p in pids(running) if p != steering)
        os.kill(hangs, signal.SIGSTOP)
        try:
            until(lambda: _stays(notified), "silence")
        finally:
            os.kill(hangs, signal.SIGCONT)
        fed = sum("WATCHDOG" in one for one in notified.said)
        until(lambda: notified.has("WATCHDOG", at_least=fed + 1), "WATCHDOG again")


def _stays(notified: Notified) -> bool:
    """Tell whether nothing is fed for two seconds: five times as long as it should take."""
    said = len(notified.said)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        if len(notified.said) > said:
            return False
        time.sleep(0.05)
    return True


def test_the_pid_file_names_who_serves(tmp_path: Path) -> None:
    file = tmp_path / "proxy.pid"
    path = tmp_path / "p.yaml"
    sock = tmp_path / "admin.sock"
    path.write_text(
        f"listen: 127.0.0.1:{free_port()}\nadmin: {{socket: {sock}}}\nstate: {tmp_path}/s.json\n"
        f"{variants([free_port()])}\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "canaryproxy", "run", "-c", str(path), "--pid-file", str(file)],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    new = 0
    try:
        until(lambda: file.exists() and file.read_text() == f"{child.pid}\n", "the file")
        os.kill(child.pid, signal.SIGUSR2)
        until(lambda: file.read_text() != f"{child.pid}\n", "the next one")
        new = int(file.read_text())
        assert child.wait(DEADLINE) == 0
        assert file.read_text() == f"{new}\n"
        os.kill(new, signal.SIGTERM)
        until(lambda: not file.exists(), "its end")
    finally:
        if child.poll() is None:
            child.kill()
        if new:
            end(new)
