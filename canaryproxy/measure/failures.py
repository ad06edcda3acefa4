"""Upstream failures in the operator's words: the log's, not the client's (``http1.errors``). Pure."""

from __future__ import annotations

from errno import errorcode
from typing import Final

from canaryproxy.measure.counters import Reason

WORDS: Final = {
    Reason.CONNECT_REFUSED: "connection refused",
    Reason.CONNECT_TIMEOUT: "connection timed out",
    Reason.CONNECT_FAILED: "connection failed",
    Reason.DNS: "host name not resolved",
    Reason.TLS: "TLS handshake failed",
    Reason.RESET: "connection closed without a response",
    Reason.FIRST_BYTE_TIMEOUT: "response timed out",
    Reason.BROKEN_ANSWER: "invalid response",
    Reason.INCOMPLETE_ANSWER: "response broke off",
    Reason.BODY_TIMEOUT: "transfer of the body timed out",
    Reason.NO_ENDPOINT: "no endpoint is up",
    Reason.OVERFLOW: "too many requests wait for a connection",
    Reason.CERTIFICATE: "certificate not verified",
    Reason.SHED: "over the measured limit (limits.shed_after)",
}


def describe(reason: Reason, detail: str = "") -> str:
    """Return ``connection refused (ECONNREFUSED, errno 111)``; ``detail`` may be empty."""
    return f"{WORDS[reason]} ({detail})" if detail else WORDS[reason]


def errno_text(number: int | None) -> str:
    """Return ``ECONNREFUSED, errno 111``; nothing for no number or one that is no errno."""
    name = errorcode.get(number or 0)
    return f"{name}, errno {number}" if name else ""
