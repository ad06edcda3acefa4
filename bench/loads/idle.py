"""Holds many idle connections: each has made one request and then says nothing.

Prints "READY {json}" when all are open, and on SIGTERM "CLOSED n", how many the proxy has closed.
Example: python -m bench.loads.idle 8080 10000
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
from dataclasses import dataclass

from bench.harness.ports import HOST
from bench.loads import Load

READY = "READY "
CLOSED = "CLOSED "
_SECONDS = 10.0
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Counted:
    """Connections that were opened, that could not be, and that the proxy closed."""

    opened: int
    failed: int
    closed: int


def command(port: int, count: int) -> list[str]:
    """Return the command that holds ``count`` connections to a port."""
    return [sys.executable, "-m", "bench.loads.idle", str(port), str(count)]


def parse(output: str) -> Counted:
    """Read what this program printed until its end; ``ValueError`` if it did not come to it."""
    lines = output.splitlines()
    ready = [json.loads(line.removeprefix(READY)) for line in lines if line.startswith(READY)]
    gone = [int(line.removeprefix(CLOSED)) for line in lines if line.startswith(CLOSED)]
    if not ready or not gone:
        raise ValueError(f"idle connections were not held to the end: {output[-200:]}")
    return Counted(opened=ready[0]["open"], failed=ready[0]["failed"], closed=gone[0])


def open_one(port: int, cookie: str) -> socket.socket:
    """Connect, make a request and read its answer; OSError if that does not go well."""
    connection = socket.create_connection((HOST, port), timeout=_SECONDS)
    request = f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nCookie: {cookie}\r\n\r\n"
    connection.sendall(request.encode())
    answer = b""
    while not answer.endswith(b"..."):  # the upstreams fill their answer up with dots
        more = connection.recv(_READ_BYTES)
        if not more:
            connection.close()
            raise ConnectionError("closed before the answer")
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        connection.close()
        raise ConnectionError("not answered with 200")
    return connection


def closed(connections: list[socket.socket]) -> int:
    """Return how many connections the other side has closed."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


def main() -> None:
    """Open the connections and hold them until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    port, count = int(sys.argv[1]), int(sys.argv[2])
    cookies = Load("", "", users=1000).cookies()
    connections: list[socket.socket] = []
    failed = 0
    for number in range(count):
        try:
            connections.append(open_one(port, cookies[number % len(cookies)]))
        except OSError as error:
            failed += 1
            if failed == 1:
                print(f"first failure: {error}", flush=True)
    print(READY + json.dumps({"open": len(connections), "failed": failed}), flush=True)
    signal.sigwait({signal.SIGTERM})
    print(f"{CLOSED}{closed(connections)}", flush=True)


if __name__ == "__main__":
    main()
