"""Whether a request that failed is tried again on another endpoint of its variant."""

from __future__ import annotations

from typing import Final

from canaryproxy.measure.counters import Reason

MOST_ATTEMPTS: Final = 3
"""Endpoints of a variant that are tried for a request."""
MOST_LATE_ATTEMPTS: Final = 2
"""The same after a first byte timeout: if all are slow, more requests make them slower."""

_FAILOVER: Final = frozenset(
    (
        Reason.CONNECT_REFUSED,
        Reason.CONNECT_TIMEOUT,
        Reason.CONNECT_FAILED,
        Reason.DNS,
        Reason.TLS,
        Reason.CERTIFICATE,
        Reason.RESET,
        Reason.FIRST_BYTE_TIMEOUT,
        Reason.BROKEN_ANSWER,
    )
)
"""Failures of one endpoint that say nothing about the others."""


def on_next_endpoint(reason: Reason, attempts: int) -> bool:
    """Tell whether another endpoint may do better.

    ``attempts``: endpoints of the variant tried so far, the one that failed included.
    """
    most = MOST_LATE_ATTEMPTS if reason == Reason.FIRST_BYTE_TIMEOUT else MOST_ATTEMPTS
    return reason in _FAILOVER and attempts < most
