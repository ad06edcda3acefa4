"""Starts processes on given cores and ends exactly those, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 5.0
"""How long a process may take to end after SIGTERM before it is killed."""

_PAUSE_SECONDS = 0.02
_LAUNCH = Path(__file__).with_name("launch.py")
_LOG_TAIL_CHARACTERS = 2000


class StartError(Exception):
    """A process ended, or did not get ready in time; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started here, with what it prints in ``log``."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tail(self) -> str:
        """Return the end of what the process printed."""
        return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once ``ready()`` holds; ``StartError`` if the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while not ready():
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self.popen.wait(_PAUSE_SECONDS)
                raise StartError(f"{self.name} ended with status {status}: {self.tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} not ready after {seconds:g} s: {self.tail()}")


def start(
    name: str,
    command: Sequence[str],
    *,
    core: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start ``command`` on one core, in its own session (so that Ctrl-C reaches only us).

    It gets SIGTERM from the kernel if this program dies without stopping it.
    """
    log = folder / f"{name}.log"

    launcher = [sys.executable, "-I", "-S", str(_LAUNCH), str(core)]
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [*launcher, *command],
            cwd=folder,
            env=dict(os.environ, **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(name=name, popen=popen, log=log)


def stop(processes: Sequence[Process]) -> None:
    """End the given processes: SIGTERM to each by its id, SIGKILL to the sessions that stay."""
    for process in processes:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.popen.wait()


@contextlib.contextmanager
def running() -> Iterator[list[Process]]:
    """Give a list to put started processes in; all of them are stopped at the end."""
    processes: list[Process] = []
    try:
        yield processes
    finally:
        # A second Ctrl-C must not leave half of them behind.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            stop(processes)
        finally:
            signal.signal(signal.SIGINT, previous)
