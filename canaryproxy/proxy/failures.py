"""Classifies what connecting to an endpoint raised."""

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
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return error.strerror or ""
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no connection within {timeout:g} s"
    if isinstance(error, OSError):
        return errno_text(error.errno)
    return str(error)
