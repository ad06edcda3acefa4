"""Asks a proxy before it is measured: does it answer rightly, split and stick?"""

from __future__ import annotations

import http.client
import socket
import ssl

from bench.harness.ports import HOST
from bench.loads import ANSWER_BYTES, LOADS
from canaryproxy.http2.connection import Connection
from canaryproxy.http2.events import DataReceived, HeadReceived

_TIMEOUT_SECONDS = 30.0
_READ_BYTES = 65536
_ASKED_USERS = 500
_SHARE_TOLERANCE = 0.05  # over three standard deviations of 500 users at 10 %


class WrongAnswerError(Exception):
    """A peer does not do what it is measured for."""


class _Http1:
    """A client of HTTP/1.1."""

    def __init__(self, port: int, *, tls: bool) -> None:
        if tls:
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                HOST, port, timeout=_TIMEOUT_SECONDS, context=_tls("http/1.1")
            )
        else:
            self._connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_SECONDS)

    def get(self, cookie: str) -> tuple[int, bytes]:
        """Return status and content."""
        self._connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


class _Http2:
    """A client of HTTP/2."""

    def __init__(self, port: int, *, tls: bool) -> None:
        self._host = f"{HOST}:{port}".encode()
        self._scheme = b"https" if tls else b"http"
        self._http2 = Connection(client=True)
        self._tls = tls
        self._port = port
        self._socket: socket.socket | None = None

    def get(self, cookie: str) -> tuple[int, bytes]:
        """Return status and content."""
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self._port), _TIMEOUT_SECONDS)
            if self._tls:
                self._socket = _tls("h2").wrap_socket(self._socket, server_hostname=HOST)
        head = b"GET / HTTP/1.1\r\nHost: %b\r\n" % self._host
        if cookie:
            head += b"Cookie: %b\r\n" % cookie.encode()
        stream = self._http2.open(head, self._scheme, ends=True)
        if stream is None:
            raise ConnectionError("takes no more streams")
        status, body = 0, b""
        while True:
            self._socket.sendall(self._http2.take())
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("closed")
            for event in self._http2.receive(data):
                if isinstance(event, HeadReceived):
                    status = event.head.status
                elif isinstance(event, DataReceived):
                    body += event.data
                if isinstance(event, HeadReceived | DataReceived) and event.ends:
                    return status, body
            if self._http2.closed:
                raise ConnectionError("broke a rule of HTTP/2")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def answers(port: int, *, tls: bool = False, http2: bool = False) -> bool:
    """Return whether something on the port answers a GET with 200."""
    connection = _connection(port, tls=tls, http2=http2)
    try:
        return connection.get("")[0] == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(port: int) -> bool:
    """Return whether something accepts connections on the port."""
    try:
        socket.create_connection((HOST, port), _TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def has_split(port: int, *, tls: bool = False, http2: bool = False) -> bool:
    """Return whether any user reaches the canary: a release begins a moment after the start."""
    connection = _connection(port, tls=tls, http2=http2)
    try:
        users = LOADS["users"].cookies()[:_ASKED_USERS]
        return any(_variant(connection, cookie) == "canary" for cookie in users)
    except (OSError, http.client.HTTPException, WrongAnswerError):
        return False
    finally:
        connection.close()


def check(port: int, weight: float | None, *, tls: bool = False, http2: bool = False) -> float:
    """Ask as 500 users, twice each, and return the share, 0..1, of users on the canary.

    Raises ``WrongAnswerError`` for an answer that is not the upstream's, a user seen on both sides,
    or a share that is not ``weight`` percent (None: a peer that does not split).
    """
    connection = _connection(port, tls=tls, http2=http2)
    try:
        users = LOADS["users"].cookies()[:_ASKED_USERS]
        first = [_variant(connection, cookie) for cookie in users]
        second = [_variant(connection, cookie) for cookie in users]
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswerError(f"connection broke: {error!r}") from error
    finally:
        connection.close()
    if first != second:
        raise WrongAnswerError("a user was sent to both variants")
    share = first.count("canary") / len(first)
    if weight is not None and abs(share - weight / 100) > _SHARE_TOLERANCE:
        raise WrongAnswerError(f"{share:.1%} of users on the canary, configured are {weight:g} %")
    return share


def _connection(port: int, *, tls: bool, http2: bool) -> _Http1 | _Http2:
    return _Http2(port, tls=tls) if http2 else _Http1(port, tls=tls)


def _tls(protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate was made a moment ago, on this machine
    context.set_alpn_protocols([protocol])
    return context


def _variant(connection: _Http1 | _Http2, cookie: str) -> str:
    status, body = connection.get(cookie)
    if status != http.HTTPStatus.OK or len(body) != ANSWER_BYTES:
        raise WrongAnswerError(f"answered {status} with {len(body)} bytes")
    return body.decode("ascii", "replace").rstrip(".")
