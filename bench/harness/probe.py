"""Asks a proxy before it is measured: does it answer rightly, split and stick?"""

from __future__ import annotations

import http.client
import ssl

from bench.harness.ports import HOST
from bench.loads import ANSWER_BYTES, LOADS

_TIMEOUT_SECONDS = 5.0
_ASKED_USERS = 500
_SHARE_TOLERANCE = 0.05  # over three standard deviations of 500 users at 10 %


class WrongAnswerError(Exception):
    """A peer does not do what it is measured for."""


def answers(port: int, *, tls: bool = False) -> bool:
    """Return whether something on the port answers a GET with 200."""
    connection = _connection(port, tls=tls)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def has_split(port: int, *, tls: bool = False) -> bool:
    """Return whether any user reaches the canary: a release begins a moment after the start."""
    connection = _connection(port, tls=tls)
    try:
        users = LOADS["users"].cookies()[:_ASKED_USERS]
        return any(_variant(connection, cookie) == "canary" for cookie in users)
    except (OSError, http.client.HTTPException, WrongAnswerError):
        return False
    finally:
        connection.close()


def check(port: int, weight: float | None, *, tls: bool = False) -> float:
    """Ask as 500 users, twice each, and return the share, 0..1, of users on the canary.

    Raises ``WrongAnswerError`` for an answer that is not the upstream's, a user seen on both sides,
    or a share that is not ``weight`` percent (None: a peer that does not split).
    """
    connection = _connection(port, tls=tls)
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


def _connection(port: int, *, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate was made a moment ago, on this machine
    return http.client.HTTPSConnection(HOST, port, timeout=_TIMEOUT_SECONDS, context=context)


def _variant(connection: http.client.HTTPConnection, cookie: str) -> str:
    connection.request("GET", "/", headers={"Cookie": cookie})
    response = connection.getresponse()
    body = response.read()
    if response.status != http.HTTPStatus.OK or len(body) != ANSWER_BYTES:
        raise WrongAnswerError(f"answered {response.status} with {len(body)} bytes")
    return body.decode("ascii", "replace").rstrip(".")
