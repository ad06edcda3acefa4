"""Runs wrk and reads what it found."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import process
from bench.loads import Load

HINT = "wrk is not installed (Debian, Ubuntu: apt-get install wrk)"
_SCRIPT = Path(__file__).with_name("wrk.lua")
_MARK = "RESULT "
_GRACE_SECONDS = 15.0
_ERRORS = ("connect", "read", "write", "status", "timeout")


class WrkError(Exception):
    """wrk is missing, failed or printed something else than expected."""


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What wrk counted in one run.

    requests: answers received.
    bytes: bytes of all answers, headers included.
    seconds: how long it sent.
    p50_us, p99_us, p999_us, max_us: latency in microseconds; the load is a closed model, so a
        stalled proxy also stalls the measuring (coordinated omission).
    errors: failed connects, reads, writes, timeouts and answers of status 400 and up, by kind.
    """

    requests: int
    bytes: int
    seconds: float
    p50_us: int
    p99_us: int
    p999_us: int
    max_us: int
    errors: dict[str, int]

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())


def find() -> str:
    """Return the path of wrk, or raise ``WrkError`` with a hint to install it."""
    found = shutil.which("wrk")
    if found is None:
        raise WrkError(HINT)
    return found


def version() -> str:
    """Return the version of wrk."""
    # It exits with status 1 after printing "wrk 4.1.0 [epoll] Copyright …".
    done = subprocess.run([find(), "-v"], capture_output=True, text=True, timeout=5, check=False)
    return (done.stdout + done.stderr).partition("[")[0].removeprefix("wrk").strip()


def parse(output: str) -> WrkResult:
    """Read wrk's output (with our script's RESULT line in it)."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            fields = json.loads(line.removeprefix(_MARK))
            return WrkResult(
                requests=fields["requests"],
                bytes=fields["bytes"],
                seconds=fields["duration_us"] / 1e6,
                p50_us=fields["p50_us"],
                p99_us=fields["p99_us"],
                p999_us=fields["p999_us"],
                max_us=fields["max_us"],
                errors={kind: fields[kind] for kind in _ERRORS},
            )
    raise WrkError(f"wrk printed no result: {output.strip()[-500:]}")


def command(url: str, load: Load, seconds: int, cookies: Path) -> list[str]:
    """Return the command line of wrk for a load."""
    return [
        *(find(), "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "10s"),
        *("--latency", "-s", str(_SCRIPT), url, "--", str(cookies)),
        *(("traced",) if load.traced else ()),
    ]


def run(url: str, load: Load, *, seconds: int, core: int, folder: Path) -> WrkResult:
    """Send ``load`` to ``url`` for whole ``seconds`` from one core; files go into ``folder``."""
    cookies = folder / "cookies.txt"
    cookies.write_text("".join(f"{line}\n" for line in load.cookies()))
    with process.running() as started:
        wrk = process.start("wrk", command(url, load, seconds, cookies), core=core, folder=folder)
        started.append(wrk)
        try:
            status = wrk.popen.wait(seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise WrkError(f"wrk did not end by itself: {wrk.tail()}") from None
        if status != 0:
            raise WrkError(f"wrk ended with status {status}: {wrk.tail()}")
        return parse(wrk.tail())
