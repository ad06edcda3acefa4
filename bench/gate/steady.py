"""A closed-loop client inside this process: a given number of requests over a few connections.

It needs nothing installed, and the same call sends the same bytes (new users' keys apart).
"""

from __future__ import annotations

import secrets
import socket
from types import TracebackType

from bench.harness.ports import HOST
from bench.loads import ANSWER_BYTES, COOKIE, Load

_SECONDS = 20.0
_READ_BYTES = 65536


class Steady:
    """Kept-alive connections to one port. Every answer has to be a 200 with the upstreams' body.

    ``traced``: each request has a trace id of its own; ``unseen``: a user of its own.
    """

    def __init__(
        self,
        port: int,
        *,
        connections: int = 1,
        users: int = 100,
        traced: bool = False,
        unseen: bool = False,
    ) -> None:
        self._start = f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nCookie: "
        self._unseen = unseen
        self._requests = [
            f"{self._start}{cookie}\r\n".encode() for cookie in Load("", "", users=users).cookies()
        ]
        self._traced = traced
        self._sent = 0
        self._sockets = [
            socket.create_connection((HOST, port), timeout=_SECONDS) for _ in range(connections)
        ]

    def __enter__(self) -> Steady:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._sockets:
            connection.close()

    def send(self, count: int) -> int:
        """Send at least ``count`` requests, one at a time on each connection; return how many.

        Raises OSError when an answer is not there in time or not as it should be.
        """
        before = self._sent
        while self._sent - before < count:
            for connection in self._sockets:
                connection.sendall(self._next())
            for connection in self._sockets:
                _read(connection)
        return self._sent - before

    def _next(self) -> bytes:
        self._sent += 1
        request = self._requests[self._sent % len(self._requests)]
        if self._unseen:
            request = f"{self._start}{COOKIE}={secrets.token_hex(16)}\r\n".encode()
        if self._traced:
            trace = f"traceparent: 00-{self._sent:032x}-{self._sent:016x}-01\r\n"
            return request + trace.encode() + b"\r\n"
        return request + b"\r\n"


def _read(connection: socket.socket) -> None:
    answer = b""
    while True:
        more = connection.recv(_READ_BYTES)
        if not more:
            raise ConnectionError("closed before the answer was there")
        answer += more
        head, end, body = answer.partition(b"\r\n\r\n")
        # plain aiohttp may chunk what it passes on: then the body ends with the last chunk.
        if end and (len(body) == ANSWER_BYTES or body.endswith(b"\r\n0\r\n\r\n")):
            break
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"answered {head[:40]!r}")
