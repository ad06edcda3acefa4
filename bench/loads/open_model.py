"""A load generator with an open model: requests are sent when they are due, whatever has come back.

The k-th request is due at start + k / rate, and its latency is counted from then: a proxy that stalls is
charged for all requests that were due meanwhile (no coordinated omission). A request that finds all
connections in use waits, and its waiting counts. Needs Linux and a C compiler: in Python, to send would
fill the core that the upstreams share.
Example: python -m bench.loads.open_model http://127.0.0.1:8080 --rate 5000 --seconds 2 --connections 256
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from array import array
from pathlib import Path
from urllib.parse import urlsplit

from bench.loads import Load, wrk
from bench.loads.quantiles import in_microseconds

_SOURCE = Path(__file__).with_suffix(".c")
_PROGRAM = Path(__file__).parents[2] / "build" / "bench" / "open_model"
_LAST_SECONDS = 10.0  # as long as wrk waits for an answer
_USERS = 1000
_COUNTERS = ("connect", "read", "status", "timeout", "bytes", "nanoseconds")


def warm_up(rate: float, connections: int) -> float:
    """Return the seconds in the beginning whose requests are sent but not counted.

    Each connection is used once if that takes up to a second: to accept many at once is another load.
    """
    return min(1.0, max(0.2, connections / rate))


def program() -> Path:
    """Return the compiled sender, compiled now if it is older than its source.

    Raises ``wrk.WrkError`` without a C compiler.
    """
    if not _PROGRAM.exists() or _PROGRAM.stat().st_mtime < _SOURCE.stat().st_mtime:
        _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        made = _PROGRAM.with_name(f"{_PROGRAM.name}.{os.getpid()}")
        command = [*compiler.split(), "-O2", "-o", str(made), str(_SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise wrk.WrkError(f"the open model needs a C compiler: no {compiler}") from None
        except subprocess.CalledProcessError as error:
            raise wrk.WrkError(f"{_SOURCE} does not compile: {error.stderr.strip()}") from error
        made.replace(_PROGRAM)
    return _PROGRAM


def send(url: str, rate: float, seconds: float, connections: int) -> str:
    """Send to an http:// URL of an IPv4 address, and return the line that ``wrk.parse`` reads.

    Raises ``wrk.WrkError`` if it cannot be sent at all.
    """
    parts = urlsplit(url)
    requests = [
        f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\n\r\n".encode()
        for cookie in Load("", "", users=_USERS).cookies()
    ]
    warm = warm_up(rate, connections)
    count = round(rate * (seconds + warm))
    arguments = (parts.hostname, parts.port or 80, rate, count, connections, len(requests[0]))
    done = subprocess.run(
        [program(), *map(str, arguments), str(_LAST_SECONDS)],
        input=b"".join(requests),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise wrk.WrkError(f"open_model ended with {done.returncode}: {done.stderr.decode()}")
    words = array("q", done.stdout)
    found = dict(zip(_COUNTERS, words, strict=False))
    numbers, latencies = words[len(_COUNTERS) :: 2], words[len(_COUNTERS) + 1 :: 2]
    first = round(rate * warm)
    counted = [took for number, took in zip(numbers, latencies, strict=True) if number >= first]
    return wrk.result_line(
        {
            "requests": len(counted),
            "duration_us": found.pop("nanoseconds") / 1e3 - warm * 1e6,
            **found,
            **in_microseconds(counted),
        }
    )


def main() -> None:
    """Read the command line and send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    try:
        print(
            send(arguments.url, arguments.rate, arguments.seconds, arguments.connections),
            flush=True,
        )
    except wrk.WrkError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
