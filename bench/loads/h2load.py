"""HTTP/2 from h2load (nghttp2): its command line, and what it found."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.loads import GRPC_MESSAGE, Load
from bench.loads.quantiles import in_microseconds

HINT = "h2load is not installed (Debian, Ubuntu: apt-get install nghttp2-client)"
LOG = "h2load.tsv"
_SECONDS = re.compile(r"^finished in ([0-9.]+)(s|ms)", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", re.MULTILINE
)
_BYTES = re.compile(r"^traffic: \S+ \((\d+)\) total", re.MULTILINE)


def find() -> str | None:
    """Return the path of h2load."""
    return shutil.which("h2load")


def version() -> str:
    """Return the version of h2load."""
    command = [find() or "h2load", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip().rpartition("/")[2]


def command(url: str, load: Load, seconds: float, folder: Path) -> list[str]:
    """Return the command line that sends a load to a URL without a path; files go into ``folder``."""
    targets = folder / "h2load.txt"
    numbered = [f"{url}{load.path}?item={number}" for number in range(load.paths)]
    targets.write_text("\n".join(numbered if load.paths > 1 else [url + load.path]) + "\n")
    log = folder / LOG
    log.unlink(missing_ok=True)
    call: list[str] = []
    if load.grpc:
        body = folder / "message"
        body.write_bytes(GRPC_MESSAGE)
        call = ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    return [
        *(find() or "h2load", "-t1", f"-c{load.connections}", f"-m{load.streams}"),
        *(f"-D{seconds * 1000:.0f}ms", f"--log-file={log}", f"--input-file={targets}"),
        *(argument for cookie in load.cookies() for argument in ("-H", f"cookie: {cookie}")),
        *call,
    ]


def parse(output: str, log: str) -> dict[str, Any] | None:
    """Return the figures of ``wrk.WrkResult``; ``None`` if h2load has printed no result.

    ``log``: what it wrote of each request, for the latencies.
    """
    seconds, requests, traffic = (
        expression.search(output) for expression in (_SECONDS, _REQUESTS, _BYTES)
    )
    if seconds is None or requests is None or traffic is None:
        return None
    succeeded, failed, errored, timed_out = (int(one) for one in requests.groups())
    took = [int(line.split("\t")[2]) * 1000 for line in log.splitlines()]
    return {
        "requests": succeeded,
        "bytes": int(traffic[1]),
        "duration_us": float(seconds[1]) * (1e6 if seconds[2] == "s" else 1e3),
        **in_microseconds(took),
        "status": failed - errored,  # h2load counts errors as failed, too, and timeouts as both
        "read": errored - timed_out,
        "timeout": timed_out,
    }
