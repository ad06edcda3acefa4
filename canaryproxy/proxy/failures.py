"""Classifies what connecting to an endpoint raised, and says how a connection ended."""

from __future__ import annotations

import socket
import ssl

from canaryproxy.measure.counters import Reason
from canaryproxy.measure.failures import errno_text


def reason_of(error: Exception) -> Reason:
    """Return the ``Reason`` that stands for an error of DNS, TCP or TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Reason.CERTIFICATE
    if isinstance(error, ssl.SSLError):
        return Reason.TLS
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return Reason.DNS
    if isinstance(error, TimeoutError):
        return Reason.CONNECT_TIMEOUT
    if isinstance(error, ConnectionRefusedError):
        return Reason.CONNECT_REFUSED
    return Reason.CONNECT_FAILED


def detail_of(error: Exception, timeout: float) -> str:
    """Return what the log adds to the reason. ``timeout``: seconds that connecting may take."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return _tls_text(error)
    if isinstance(error, socket.gaierror):
        return error.strerror or ""
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no connection within {timeout:g} s"
    if isinstance(error, OSError):
        return errno_text(error.errno)
    return str(error)


def how_closed(error: Exception | None) -> str:
    """Say how an upstream closed a connection."""
    if error is None:
        return "closed"
    if isinstance(error, ssl.SSLError):
        return _tls_text(error)
    if isinstance(error, ConnectionResetError):
        return "reset"
    number = errno_text(error.errno) if isinstance(error, OSError) else ""
    return f"lost: {number or error}"


def _tls_text(error: ssl.SSLError) -> str:
    reason: str | None = getattr(error, "reason", None)  # those of OpenSSL have one
    return reason.replace("_", " ").lower() if reason else str(error)
