"""What the data path refuses, and what it says then."""

from __future__ import annotations

import secrets
from http import HTTPStatus

from canaryproxy.measure.counters import Reason


class Refusal(Exception):
    """A request that the proxy answers itself: ``status`` and a reason in plain words.

    All are errors but one: 200 for OPTIONS that is to go no further.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class InvalidResponse(Exception):
    """An upstream's answer that is not valid HTTP/1.x or would be ambiguous to the client."""


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
"""The status that stands for each upstream failure, for the client and for the counters."""

CLIENT_TEXT: dict[Reason, str] = {
    Reason.CONNECT_REFUSED: "the upstream refused the connection",
    Reason.CONNECT_TIMEOUT: "the upstream did not accept the connection in time",
    Reason.CONNECT_FAILED: "the upstream cannot be reached",
    Reason.DNS: "the upstream's name cannot be resolved",
    Reason.TLS: "the TLS handshake with the upstream failed",
    Reason.RESET: "the upstream closed the connection before it answered",
    Reason.FIRST_BYTE_TIMEOUT: "the upstream did not begin to answer in time",
    Reason.BROKEN_ANSWER: "the upstream's answer is not valid HTTP",
    Reason.INCOMPLETE_ANSWER: "the upstream ended its answer early",
    Reason.BODY_TIMEOUT: "the upstream stopped in the middle of the exchange",
    Reason.NO_ENDPOINT: "no endpoint of the variant is usable",
    Reason.OVERFLOW: "too many requests wait for the upstream",
    Reason.CERTIFICATE: "the upstream's certificate cannot be verified",
}


def error_response(
    status: int,
    reason: str,
    *,
    close: bool,
    head_only: bool = False,
    label: str = "",
    extra: bytes = b"",
) -> bytes:
    """Return a complete HTTP/1.1 answer that the proxy gives itself.

    The body is plain text: the status, the reason and a random request id that is also sent as
    ``X-Request-Id``. ``label`` is the machine-readable reason (``Reason.label``) and is sent as
    ``X-Canaryproxy-Reason``; ``extra`` is more header lines with their CRLF. A 503 carries
    ``Retry-After: 1``.
    """
    request_id = secrets.token_hex(8)
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}\ncanaryproxy: {reason}\nrequest id: {request_id}\n".encode()
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
        lines.append("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n" + extra + b"\r\n"
    return head if head_only else head + body
