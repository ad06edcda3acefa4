"""A load generator with an open model: requests are sent when they are due, whatever has come back.

The k-th request of a slice is due at its start + k / rate, and its latency is counted from then: a proxy that
stalls is charged for all requests that were due meanwhile (no coordinated omission). A request that finds all
connections in use waits, and its waiting counts. All that is measured at once takes turns in slices of
``SLICE_SECONDS`` in an order that chance draws: what disturbs for longer on a machine that is shared disturbs
all of it. A stall that is longer than a slice is charged to what was due in the slice.

One program sends, and answers as the upstreams do: two would take turns on their core, and to wait for it
would be the most of the latency. Needs Linux and a C compiler.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sysconfig
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from bench.harness.ports import HOST
from bench.loads import Load
from bench.loads.quantiles import in_microseconds
from bench.loads.wrk import WrkError, WrkResult

SLICE_SECONDS = 0.1
_SOURCE = Path(__file__).with_suffix(".c")
_PROGRAM = Path(__file__).parents[2] / "build" / "bench" / "open_model"
_LAST_SECONDS = 10.0  # as long as wrk waits for an answer
_LEAST_WARM = 5
"""Slices of each stream that are not counted; more where each connection is not used in these."""
_MOST_WARM_SECONDS = 1.0
_USERS = 1000
_WORD = 8
_ERRORS = ("connect", "read", "status", "timeout")
_COUNTERS = (*_ERRORS, "bytes", "wall", "cpu", "answered")


@dataclass(frozen=True, slots=True)
class Stream:
    """What is sent to one port: ``rate`` requests/s."""

    port: int
    rate: float


def command(control: int, bodies: Mapping[int, str]) -> list[str]:
    """Return the command line of a sender that takes jobs on a port and answers on others with these bodies.

    It is compiled now if it is older than its source. Raises ``WrkError`` without a C compiler.
    """
    answers = []
    for port, body in bodies.items():
        head = (
            f"HTTP/1.1 200 OK\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
        )
        answers += [str(port), head + body]
    return [str(program()), str(control), *answers]


def program() -> Path:
    """Return the compiled sender, compiled now if it is older than its source.

    Raises ``WrkError`` without a C compiler.
    """
    if not _PROGRAM.exists() or _PROGRAM.stat().st_mtime < _SOURCE.stat().st_mtime:
        _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        made = _PROGRAM.with_name(f"{_PROGRAM.name}.{os.getpid()}")
        command = [*compiler.split(), "-O2", "-o", str(made), str(_SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise WrkError(f"the open model needs a C compiler: no {compiler}") from None
        except subprocess.CalledProcessError as error:
            raise WrkError(f"{_SOURCE} does not compile: {error.stderr.strip()}") from error
        made.replace(_PROGRAM)
    return _PROGRAM


def warm_up(rate: float, connections: int) -> int:
    """Return the number of slices that are not counted.

    Each connection is used once if that takes up to a second: to accept many at once is another load.
    """
    most = math.ceil(_MOST_WARM_SECONDS / SLICE_SECONDS)
    return min(most, max(_LEAST_WARM, math.ceil(connections / rate / SLICE_SECONDS)))


def send(
    control: int, streams: Sequence[Stream], *, seconds: float, connections: int
) -> list[WrkResult]:
    """Have so many seconds of each stream sent, and return what was found, in their order.

    ``cpu_seconds`` and ``seconds`` of a result are of its own slices. Raises ``WrkError`` if the sender does
    not do its job.
    """
    requests = [
        f"GET / HTTP/1.1\r\nHost: {HOST}\r\nCookie: {cookie}\r\n\r\n".encode()
        for cookie in Load("", "", users=_USERS).cookies()
    ]
    slice_seconds = max(SLICE_SECONDS, *(1 / stream.rate for stream in streams))
    blocks = max(1, round(seconds / slice_seconds))
    warm = max(warm_up(stream.rate, connections) for stream in streams)
    job = (
        *(len(requests[0]), len(requests), slice_seconds, blocks, warm, connections),
        *(_LAST_SECONDS, len(streams)),
    )
    lines = [job, *((stream.port, stream.rate) for stream in streams)]
    text = "".join(f"{' '.join(map(str, line))}\n" for line in lines).encode()
    found = bytearray()
    with socket.create_connection((HOST, control)) as asked:
        asked.sendall(text + b"".join(requests))
        while data := asked.recv(1 << 20):
            found += data
    words = array("q", bytes(found[: len(found) // _WORD * _WORD]))
    results = []
    for _ in streams:
        if len(words) < len(_COUNTERS):
            raise WrkError("the sender of the open model did not do its job")
        counted = dict(zip(_COUNTERS, words, strict=False))
        end = len(_COUNTERS) + counted["answered"]
        latencies, words = words[len(_COUNTERS) : end], words[end:]
        results.append(
            WrkResult(
                requests=counted["answered"],
                bytes=counted["bytes"],
                seconds=counted["wall"] / 1e9,
                errors={kind: counted[kind] for kind in _ERRORS},
                cpu_seconds=counted["cpu"] / 1e9,
                **in_microseconds(latencies),
            )
        )
    return results
