"""Asks a proxy before it is measured: does it answer rightly, split and stick?"""

from __future__ import annotations

import http.client

from bench.loads import ANSWER_BYTES, LOADS
from bench.ports import HOST

_TIMEOUT_SECONDS = 5.0
_ASKED_USERS = 500
_SHARE_TOLERANCE = 0.05  # over three standard deviations of 500 users at 10 %


class WrongAnswerError(Exception):
    """A peer does not do what it is measured for."""


def answers(port: int) -> bool:
    """Return whether something on the port answers a GET with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def check(port: int, weight: float | None) -> float:
    """Ask as 500 users, twice each, and return the share, 0..1, of users on the canary.

    Raises ``WrongAnswerError`` for an answer that is not the upstream's, a user seen on both sides,
    or a share that is not ``weight`` percent (None: a peer that does not split).
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT_SECONDS)
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


def _variant(connection: http.client.HTTPConnection, cookie: str) -> str:
    connection.request("GET", "/", headers={"Cookie": cookie})
    response = connection.getresponse()
    body = response.read()
    if response.status != http.HTTPStatus.OK or len(body) != ANSWER_BYTES:
        raise WrongAnswerError(f"answered {response.status} with {len(body)} bytes")
    return body.decode("ascii", "replace").rstrip(".")
