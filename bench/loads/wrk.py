"""Runs what sends the load, wrk or a program of this package, and reads what it found."""

from __future__ import annotations

import json
import math
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import process
from bench.loads import COOKIE, Load, h2load
from bench.peers.base import PYTHONPATH

HINT = "wrk is not installed (Debian, Ubuntu: apt-get install wrk)"
MARK = "RESULT "
"""Begins the line with the figures as JSON, of our script for wrk and of our own programs."""

_SCRIPT = Path(__file__).with_name("wrk.lua")
_GRACE_SECONDS = 60.0
_START_SECONDS = 0.2
_ERRORS = ("connect", "read", "write", "status", "timeout")


class WrkError(Exception):
    """wrk is missing, failed or printed something else than expected."""


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What the load generator counted in one run.

    requests: answers received.
    bytes: bytes of all answers, headers included.
    seconds: how long it sent.
    p50_us, p99_us, p999_us, max_us: latency in microseconds; wrk's load is a closed model, so a
        stalled proxy also stalls the measuring (coordinated omission). Those of the open model
        are counted from the time at which the request was due.
    errors: failed connects, reads, writes, timeouts and answers of status 400 and up, by kind.
    cpu_seconds: CPU time of the load generator itself.
    """

    requests: int
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    errors: dict[str, int]
    cpu_seconds: float = 0.0

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())


def result_line(figures: Mapping[str, Any]) -> str:
    """Return the line that ``parse`` reads; kinds of errors that are not given are 0."""
    return MARK + json.dumps(dict.fromkeys(_ERRORS, 0) | dict(figures))


def find() -> str:
    """Return the path of wrk, or raise ``WrkError`` with a hint to install it."""
    found = shutil.which("wrk")
    if found is None:
        raise WrkError(HINT)
    return found


def version() -> str:
    """Return the version of wrk."""
    # It exits with status 1 after printing "wrk 4.1.0 [epoll] Copyright …".
    done = subprocess.run([find(), "-v"], capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).partition("[")[0].removeprefix("wrk").strip()


def parse(output: str, cpu_seconds: float = 0.0) -> WrkResult:
    """Read the output of a load generator (with a RESULT line in it)."""
    for line in output.splitlines():
        if line.startswith(MARK):
            fields = json.loads(line.removeprefix(MARK))
            return WrkResult(
                requests=fields["requests"],
                bytes=fields["bytes"],
                seconds=fields["duration_us"] / 1e6,
                p50_us=fields["p50_us"],
                p99_us=fields["p99_us"],
                p999_us=fields["p999_us"],
                max_us=fields["max_us"],
                errors={kind: fields[kind] for kind in _ERRORS},
                cpu_seconds=cpu_seconds,
            )
    raise WrkError(f"the load generator printed no result: {output.strip()[-500:]}")


def command(url: str, load: Load, seconds: float, cookies: Path) -> list[str]:
    """Return the command line that sends a load to an http:// or https:// URL without a path."""
    if load.tool == "h2load":
        return h2load.command(url, load, seconds, cookies.parent)
    if load.tool != "wrk":
        return [
            *(sys.executable, "-m", f"bench.loads.{load.tool}", url, f"--seconds={seconds:g}"),
            f"--connections={load.connections}",
        ]
    options = [f"cookies={cookies}"]
    if load.traced:
        options.append("traced=1")
    if load.made:
        options += [f"made={load.users}", f"name={COOKIE}"]
    if load.method != "GET":
        options.append(f"method={load.method}")
    if load.upload_bytes:
        options.append(f"upload={load.upload_bytes}")
    return [
        # wrk takes whole seconds; a part of one is sent by ending it earlier.
        *(find(), "-t1", f"-c{load.connections}", f"-d{math.ceil(seconds)}s", "--timeout", "10s"),
        *(("-H", "Connection: close") if load.close else ()),
        *("--latency", "-s", str(_SCRIPT), url + load.path, "--", *options),
    ]


def run(url: str, load: Load, *, seconds: float, core: int, folder: Path) -> WrkResult:
    """Send ``load`` to ``url`` for so many seconds from one core; files go into ``folder``."""
    cookies = folder / "cookies.txt"
    if load.tool == "wrk":
        made = [] if load.made else load.cookies()
        cookies.write_text("".join(f"{line}\n" for line in made))
    with process.running() as started:
        before = _children_seconds()
        sender = process.start(
            load.tool,
            command(url, load, seconds, cookies),
            core=core,
            folder=folder,
            env=PYTHONPATH,
        )
        started.append(sender)
        status = _wait(sender, load, seconds)
        if status != 0:
            raise WrkError(f"{load.tool} ended with status {status}: {sender.tail()}")
        output = sender.tail()
        if load.tool == "h2load":
            figures = h2load.parse(output, (folder / h2load.LOG).read_text())
            output = output if figures is None else result_line(figures)
        return parse(output, _children_seconds() - before)


def _wait(sender: process.Process, load: Load, seconds: float) -> int:
    if load.tool == "wrk" and seconds < math.ceil(seconds):
        try:
            return sender.popen.wait(seconds + _START_SECONDS)
        except subprocess.TimeoutExpired:
            sender.popen.send_signal(signal.SIGINT)  # wrk then prints what it has
    try:
        return sender.popen.wait(seconds + _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        raise WrkError(f"{load.tool} did not end by itself: {sender.tail()}") from None


def _children_seconds() -> float:
    """CPU seconds of all children that have ended; here these are load generators only."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
