"""Responses that the proxy makes itself, and the texts in them."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Final

from canaryproxy.measure.counters import Reason


class Refusal(Exception):
    """A request that the proxy does not forward: the status and the reason that the client gets.

    All are errors but one: 200 for OPTIONS with Max-Forwards 0.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class InvalidResponse(Exception):
    """An upstream's response that is not valid HTTP/1.x or would be ambiguous to the client."""


STATUS_OF: dict[Reason, int] = {
    Reason.CONNECT_REFUSED: 502,
    Reason.CONNECT_TIMEOUT: 504,
    Reason.CONNECT_FAILED: 502,
    Reason.DNS: 502,
    Reason.TLS: 502,
    Reason.RESET: 502,
    Reason.FIRST_BYTE_TIMEOUT: 504,
    Reason.BROKEN_ANSWER: 502,
    Reason.INCOMPLETE_ANSWER: 502,
    Reason.BODY_TIMEOUT: 504,
    Reason.NO_ENDPOINT: 503,
    Reason.OVERFLOW: 503,
    Reason.CERTIFICATE: 502,
}
"""The status of each upstream failure, for the client and for the counters."""

CLIENT_TEXT: dict[Reason, str] = {
    Reason.CONNECT_REFUSED: "upstream connection refused",
    Reason.CONNECT_TIMEOUT: "upstream connection timed out",
    Reason.CONNECT_FAILED: "upstream unreachable",
    Reason.DNS: "upstream host name not resolved",
    Reason.TLS: "upstream TLS handshake failed",
    Reason.RESET: "upstream closed the connection without a response",
    Reason.FIRST_BYTE_TIMEOUT: "upstream response timed out",
    Reason.BROKEN_ANSWER: "upstream response is not valid HTTP",
    Reason.INCOMPLETE_ANSWER: "upstream response is incomplete",
    Reason.BODY_TIMEOUT: "upstream stopped sending or receiving",
    Reason.NO_ENDPOINT: "no upstream endpoint available",
    Reason.OVERFLOW: "too many requests are waiting for the upstream",
    Reason.CERTIFICATE: "upstream certificate not verified",
}
"""What the client reads about each upstream failure. The access log has the variant and the address."""

_UNAVAILABLE: Final = frozenset((502, 503, 504))
_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def error_response(
    status: int,
    reason: str,
    date: bytes,
    *,
    close: bool,
    head_only: bool = False,
    label: str = "",
    extra: bytes = b"",
) -> bytes:
    """Return a complete HTTP/1.1 response of the proxy itself.

    The body is one line of plain text with the reason and a random request id, which is also sent as
    ``X-Request-Id``. ``label`` is the machine-readable reason (``Reason.label``), sent as
    ``X-Canaryproxy-Reason``; ``date`` is the Date line and ``extra`` more header lines, with their CRLF.
    A 503 carries ``Retry-After: 1``.
    """
    request_id = secrets.token_hex(8)
    phrase = HTTPStatus(status).phrase
    title = "Service unavailable" if status in _UNAVAILABLE else phrase
    body = f"{title} ({reason}). Request ID: {request_id}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        f"X-Request-Id: {request_id}",
    ]
    if label:
        lines.append(f"X-Canaryproxy-Reason: {label}")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        lines.append("Retry-After: 1")
    if status in (HTTPStatus.OK, HTTPStatus.METHOD_NOT_ALLOWED):
        lines.append(f"Allow: {_METHODS}")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n" + date + extra + b"\r\n"
    return head if head_only else head + body
