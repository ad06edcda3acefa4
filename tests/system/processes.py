"""Real processes: the proxy as its command, upstreams as programs of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.ports import free_port
from tests.zygote import Fork

DEADLINE = 60.0
HERE = Path(__file__).parent
T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "condition") -> T:
    """Wait for a condition, and return what it gave; fails after ``DEADLINE`` seconds.

    The longer it takes, the less often it is asked: the answer costs the process that is waited for.
    """
    end, pause = time.monotonic() + DEADLINE, 0.005
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)
    return found


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether somebody accepts connections on a port."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


class Process:
    """A program in Python that is ended by pid, whatever happens.

    ``fresh`` starts an interpreter, as a test of memory or of what is imported needs it.
    """

    child: subprocess.Popen[bytes] | Fork

    def __init__(self, *arguments: str, folder: Path, fresh: bool = False) -> None:
        self.log = folder / f"{arguments[1].rpartition('/')[2]}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            if fresh:
                command = [sys.executable, *arguments]
                self.child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            else:
                self.child = Fork(arguments, cwd=folder, output=log)

    @property
    def pid(self) -> int:
        return self.child.pid

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        return self.child.wait(DEADLINE)

    def memory(self, field: str = "VmHWM") -> int:
        """Return bytes from /proc: ``VmHWM`` is the most that was ever resident."""
        assert not isinstance(self.child, Fork), "what it shares with others is not all counted"
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise AssertionError(field)

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


@contextlib.contextmanager
def upstream(
    folder: Path, name: str, port: int = 0, host: str = "127.0.0.1"
) -> Iterator[tuple[Process, int]]:
    """Run ``upstream.py`` and yield it with its port."""
    port = port or free_port()
    process = Process(str(HERE / "upstream.py"), name, str(port), host, folder=folder)
    try:
        until(lambda: answers(port, host), "upstream")
        yield process, port
    finally:
        process.end()


class Proxy(Process):
    """``canaryproxy run`` with a configuration. ``admin`` is a port for ``admin.listen``."""

    COMMAND: tuple[str, ...] = ("-m", "canaryproxy", "run")
    OPTIONS: tuple[str, ...] = ()

    def __init__(
        self,
        folder: Path,
        variants: str,
        more: str = "",
        admin: int | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        self.port = free_port()
        self.socket = folder / "admin.sock"
        path = folder / "proxy.yaml"
        listen = "" if admin is None else f", listen: 127.0.0.1:{admin}"
        path.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"admin: {{socket: {self.socket}{listen}}}\n{variants}\n{more}\n"
        )
        command = (*self.COMMAND, "-c", str(path), *self.OPTIONS)
        super().__init__(*command, folder=folder, fresh=fresh)

    def serves(self) -> bool:
        """Tell whether it said so."""
        return "listening on" in self.log.read_text()

    def ask(self, method: str, path: str, body: object = None, *, allow: int = 200) -> str:
        """Ask the admin API over its socket; fails if the answer is an error but ``allow``."""
        connection = http.client.HTTPConnection("admin", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.socket))
            sent = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        assert answer.status in {200, 202, allow}, text
        return text

    def metrics(self) -> dict[str, float]:
        """Scrape; keys are the series as written."""
        text = self.ask("GET", "/metrics")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@contextlib.contextmanager
def proxy(
    folder: Path,
    variants: str,
    more: str = "",
    admin: int | None = None,
    *,
    fresh: bool = False,
) -> Iterator[Proxy]:
    """Run the proxy until the block ends."""
    process = Proxy(folder, variants, more, admin, fresh=fresh)
    try:
        # Its sockets listen before it can be told anything, by a signal for instance.
        until(lambda: process.serves() or process.child.poll() is not None, "proxy")
        assert process.child.poll() is None, process.log.read_text()
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def serving(folder: Path, workers: int, more: str = "") -> Iterator[Proxy]:
    """Run the proxy with both upstreams and a state file until the block ends."""
    with (
        upstream(folder, "stable") as (_, stable),
        upstream(folder, "canary") as (_, canary),
        proxy(
            folder,
            variants([stable], [canary]),
            f"workers: {workers}\nstate: {folder}/state.json\n{more}",
        ) as running,
    ):
        yield running


def variants(stable: list[int], canary: list[int] | None = None) -> str:
    """Return the variants section."""
    sides = {"stable": stable, "canary": canary or []}
    return "variants: " + json.dumps(
        {
            side: {"endpoints": [f"http://127.0.0.1:{port}" for port in ports]}
            for side, ports in sides.items()
            if ports
        }
    )
