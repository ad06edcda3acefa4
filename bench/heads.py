"""Instructions to read a head that has values of its own, as Markdown.

``python -m bench.heads [--tree FOLDER]``. Counted with callgrind in user space, over a thousand heads that
are made before: those of requests are of a hundred users on one connection of a trusted proxy. FOLDER is
where ``canaryproxy`` is imported from: ``build/checked`` after ``make checked`` (default), or ``.`` for plain
Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.gate import callgrind
from bench.gate.callgrind import CallgrindError, Counter
from bench.harness.command_line import say
from bench.services import EXIT_CANNOT_RUN
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache, ResponseHeadCache
from canaryproxy.http1.request import RequestParser
from canaryproxy.http1.response import ResponseParser
from canaryproxy.measure.compiled import COMPILED

HEADS: Final = 1000
_USERS: Final = 100
_FIRST: Final = 100
"""So many are read before, for the caches to know their kind."""
_REQUEST: Final = (
    b"GET /a HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0)\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, br\r\n"
)
_RESPONSE: Final = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 30 Nov 2026 08:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
)
REQUESTS: Final = (
    ("Cookie",),
    ("Cookie", "traceparent"),
    ("Cookie", "traceparent", "X-Request-Id"),
    ("Cookie", "traceparent", "X-Request-Id", "X-Forwarded-For"),
)
RESPONSES: Final = (
    ("X-Request-Id",),
    ("Content-Length", "ETag"),
    ("Content-Length", "ETag", "X-Request-Id", "Set-Cookie"),
)


def head(number: int, names: Sequence[str], start: bytes) -> bytes:
    """Return a head with fields of these names, whose values belong to the user or to the message."""
    user = number % _USERS
    values = {
        "Cookie": f"canary_id={user:032x}",
        "traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01",
        "X-Request-Id": f"{number:032x}",
        "X-Forwarded-For": f"192.0.2.{user}",
        "Content-Length": f"{number + 100}",
        "ETag": f'"{number:016x}"',
        "Set-Cookie": f"session={number:032x}; Path=/; HttpOnly; Secure",
    }
    lines = "".join(f"{name}: {values[name]}\r\n" for name in names)
    return start + lines.encode() + b"\r\n"


class Reader:
    """Reads heads of one kind as a worker does: made before, and the first ones are read."""

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        is_request = kind == "request"
        self._read = _reader_of_requests() if is_request else _reader_of_responses()
        start = _REQUEST if is_request else _RESPONSE
        self._heads = [head(number, names, start) for number in range(_FIRST + HEADS)]
        for data in self._heads[:_FIRST]:
            self._read(data)

    def read(self) -> None:
        """Read all the others."""
        for data in self._heads[_FIRST:]:
            self._read(data)


def _reader_of_requests() -> Callable[[bytes], object]:
    parser = RequestParser(b"Via: 1.1 canaryproxy\r\n\r\n")
    cache = RequestHeadCache(parser, remember_cookies=not COMPILED)
    peer = Peer("10.0.0.1", b"http", True, b"shop.example")
    return lambda data: cache.parse_single(data, peer) or cache.parse(data, peer)


def _reader_of_responses() -> Callable[[bytes], object]:
    cache = ResponseHeadCache(ResponseParser())
    return lambda data: cache.get(data) or cache.parse(data)


def serve() -> None:
    """Make a reader for each line of standard input, and let it read at the line after it."""
    for line in sys.stdin:
        kind, *names = line.split()
        reader = Reader(kind, names)
        print("ready", flush=True)
        sys.stdin.readline()
        reader.read()
        print("read", flush=True)


def counted(tree: Path) -> Iterator[tuple[str, Sequence[str], float]]:
    """Yield each kind of head, the names of its own values and what reading one takes.

    Raises ``CallgrindError``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree.resolve()),
            "PYTHONSAFEPATH": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = callgrind.command([sys.executable, __file__, "--serve"], folder)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as server:
            counter: Counter | None = None
            for kind, rows in (("request", REQUESTS), ("response", RESPONSES)):
                for names in rows:
                    _ask(server, f"{kind} {' '.join(names)}")
                    counter = counter or Counter(server.pid, folder)
                    counter.start()
                    _ask(server, "read")
                    yield kind, names, counter.stop() / HEADS


def _ask(server: subprocess.Popen[bytes], what: str) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(what.encode() + b"\n")
    server.stdin.flush()
    if not server.stdout.readline():
        raise CallgrindError("the process that reads heads has ended")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 2 if instructions cannot be counted here."""
    parser = argparse.ArgumentParser(prog="python -m bench.heads", description=__doc__)
    parser.add_argument("--tree", type=Path, default=Path("build/checked"), metavar="FOLDER")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve()
        return 0
    reason = callgrind.missing()
    if reason:
        say(f"bench.heads: {reason}")
        return EXIT_CANNOT_RUN
    print("| the head has, of its own | instructions |\n|---|---|", flush=True)
    for kind, names, figure in counted(options.tree):
        print(f"| {kind}: {', '.join(names)} | {figure:,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
