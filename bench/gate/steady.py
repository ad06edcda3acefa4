"""A closed-loop client inside this process: a given number of requests over a few connections.

It needs nothing installed, and the same call sends the same bytes (new users' keys apart).
"""

from __future__ import annotations

import secrets
import socket
import ssl

from bench.harness.ports import HOST
from bench.loads import ANSWER_BYTES, COOKIE, Load

_SECONDS = 20.0
_READ_BYTES = 65536


class Steady:
    """Connections to one port. Every answer has to be a 200 with the upstreams' body.

    ``traced``: each request has a trace id of its own; ``identified``: an X-Request-Id of its own;
    ``unseen``: a user of its own; ``fresh``: a connection of its own, which the server has to close. With
    ``tls`` every connection but the first resumes a session.
    """

    def __init__(
        self,
        port: int,
        *,
        connections: int = 1,
        users: int = 100,
        traced: bool = False,
        identified: bool = False,
        unseen: bool = False,
        fresh: bool = False,
        tls: bool = False,
    ) -> None:
        self._port = port
        self._start = f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\nCookie: "
        self._unseen = unseen
        self._requests = [
            f"{self._start}{cookie}\r\n".encode() for cookie in Load("", "", users=users).cookies()
        ]
        self._traced = traced
        self._identified = identified
        self._fresh = fresh
        self._sent = 0
        self._tls = _context() if tls else None
        self._session: ssl.SSLSession | None = None
        self._sockets = [] if fresh else [self._connect() for _ in range(connections)]

    def close(self) -> None:
        """Close what it has opened."""
        for connection in self._sockets:
            connection.close()

    def send(self, count: int) -> int:
        """Send at least ``count`` requests, one at a time on each connection; return how many.

        Raises OSError when an answer is not there in time or not as it should be.
        """
        before = self._sent
        while self._sent - before < count:
            if self._fresh:
                self._send_alone()
                continue
            for connection in self._sockets:
                connection.sendall(self._next())
            for connection in self._sockets:
                _read(connection)
        return self._sent - before

    def _connect(self) -> socket.socket:
        raw = socket.create_connection((HOST, self._port), timeout=_SECONDS)
        if self._tls is None:
            return raw
        connection = self._tls.wrap_socket(raw, session=self._session)
        if self._session is not None and not connection.session_reused:
            raise ConnectionError("the session was not resumed")
        return connection

    def _send_alone(self) -> None:
        with self._connect() as connection:
            connection.sendall(self._next())
            _read(connection)
            if connection.recv(1):
                raise ConnectionError("more than an answer")
            if isinstance(connection, ssl.SSLSocket):
                self._session = connection.session

    def _next(self) -> bytes:
        self._sent += 1
        request = self._requests[self._sent % len(self._requests)]
        if self._unseen:
            request = f"{self._start}{COOKIE}={secrets.token_hex(16)}\r\n".encode()
        if self._traced:
            request += f"traceparent: 00-{self._sent:032x}-{self._sent:016x}-01\r\n".encode()
        if self._identified:
            request += b"X-Request-Id: %032x\r\n" % self._sent
        if self._fresh:
            request += b"Connection: close\r\n"
        return request + b"\r\n"


def _context() -> ssl.SSLContext:
    """Return the context of a client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


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
