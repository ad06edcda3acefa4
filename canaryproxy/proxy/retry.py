"""Whether a request that failed is tried again, and where."""

from __future__ import annotations

from typing import Final

from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY

GIVE_UP: Final = 0
"""Send the client the proxy's own error."""
NEXT_ENDPOINT: Final = 1
"""Try another endpoint of the same variant, if one is usable."""
RESCUE: Final = 2
"""Let stable answer in the canary's place."""

RESCUED_STATUSES: Final = frozenset((502, 503, 504))
"""Responses of the canary that count as its failure to answer at all."""
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


def after_failure(
    reason: Reason, variant: int, attempts: int, *, repeatable: bool, rescue: bool
) -> int:
    """Return ``GIVE_UP``, ``NEXT_ENDPOINT`` or ``RESCUE``.

    ``attempts``: endpoints of the variant tried so far, the one that failed included. ``repeatable``: the
    request can be sent again without harm. ``rescue``: ``rescue.enabled``; a canary without a usable
    endpoint is rescued in any case.
    """
    if not repeatable:
        return GIVE_UP
    if variant == CANARY and (rescue or reason == Reason.NO_ENDPOINT):
        return RESCUE
    most = MOST_LATE_ATTEMPTS if reason == Reason.FIRST_BYTE_TIMEOUT else MOST_ATTEMPTS
    return NEXT_ENDPOINT if reason in _FAILOVER and attempts < most else GIVE_UP
