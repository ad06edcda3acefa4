"""Classifies what connecting to an endpoint raised."""

from __future__ import annotations

import socket
import ssl

from canaryproxy.measure.counters import Reason


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
