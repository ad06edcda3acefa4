"""Python programs as forks of a process that has imported what they need: a start takes ten milliseconds.

Each process of pytest has such a process, the zygote. A fork of it becomes what ``python PROGRAM`` is: it has
a process id, arguments, an environment, a working directory, files, signals and an exit status of its own,
and shares no secret and no random numbers with another one. Tests of the memory that a process takes, and of
programs that change what others import, start an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).parents[1]
_ROOM: Final = 4096
"""Characters for the arguments of a fork."""
_LARGEST: Final = 1 << 17
"""Bytes of a request."""


class Fork:
    """A program, with as much of ``subprocess.Popen`` as tests use."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, output: IO[bytes]) -> None:
        self._zygote = _zygote()
        self.args = [sys.executable, *arguments]
        self.pid = self._zygote.fork(arguments, cwd, output.fileno())
        self.returncode: int | None = None
        self._ended = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal's number; ``None`` as long as the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises ``subprocess.TimeoutExpired``."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            if not poll.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = self._zygote.reap(self.pid)
            os.close(self._ended)
        return self.returncode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Zygote:
    """The process that forks, from the side of those who ask it to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(theirs.fileno()), "-" * _ROOM],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._end)

    def fork(self, arguments: Sequence[str], folder: Path, output: int) -> int:
        """Start a program in a folder; return its process id."""
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": {**os.environ},
        }
        return self._ask(request, [output])

    def reap(self, pid: int) -> int:
        """Return the exit status of a program that has ended."""
        return self._ask({"reap": pid}, [])

    def _ask(self, request: dict[str, Any], descriptors: list[int]) -> int:
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            return int(self._channel.recv(100))

    def _end(self) -> None:
        self._channel.close()
        self._process.wait()


@cache
def _zygote() -> _Zygote:
    return _Zygote()


def _prepare() -> None:
    """Import what the proxy does when it starts."""
    from canaryproxy.runtime import imports

    gc.disable()
    imports.prepare()
    import canaryproxy.cli.run
    import canaryproxy.cli.serve  # noqa: F401

    gc.enable()
    gc.freeze()


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork at each request, until nobody can ask any more. Returns in the forks alone, with the request."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, _LARGEST, 1)
        if not data:
            os._exit(0)
        request: dict[str, Any] = json.loads(data)
        if "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                channel.close()
                for output in (1, 2):
                    os.dup2(descriptors[0], output)
            os.close(descriptors[0])
            if not answer:
                return request
        channel.send(b"%d" % answer)


def _become(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Make this process what a fresh interpreter is that gets these arguments."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.orig_argv[:] = [sys.executable, *arguments]
    _show(sys.orig_argv)
    _forget()


def _show(arguments: list[str]) -> None:
    """Write the arguments where the kernel reads them for ``/proc/PID/cmdline``: over those of the zygote."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: proc(5)
    text = "\0".join(arguments).encode() + b"\0"
    assert len(text) <= end - start
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _forget() -> None:
    """Replace what was drawn at random when the zygote imported it."""
    from canaryproxy.runtime import health_checks
    from canaryproxy.tls import tickets

    health_checks._DRAW.seed()
    fresh = tickets.Secret(os.urandom(32), time.time())
    tickets.SECRET.take_over(fresh.write())


def _run(arguments: list[str]) -> None:
    """Run ``-m MODULE`` or a file, with its arguments."""
    if arguments[0] == "-m":
        sys.path[0] = str(Path.cwd())
        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).parent)
        sys.argv[:] = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who ask
    _prepare()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(request["arguments"], request["folder"], request["environment"])
    _run(request["arguments"])
