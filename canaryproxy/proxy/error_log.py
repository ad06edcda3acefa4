"""Log lines about requests that the proxy answered with an error: the request id leads to the cause.

A client reads only the id and a general reason; variant, endpoint and what exactly went wrong are here. Good
requests never come here, and bad ones only as far as ``RateLimit`` admits: the control plane logs how many
there were (``control.upstream_watch``).
"""

from __future__ import annotations

import logging
from typing import Any, Final

from canaryproxy.config.text import plural
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.failures import describe
from canaryproxy.measure.rate_limit import RateLimit
from canaryproxy.measure.routing import VARIANTS

_log: Final = logging.getLogger(__name__)

FAILED_BURST: Final = 20
FAILED_PER_SECOND: Final = 0.2
"""In an outage, the events of the endpoint say how many requests fail: these lines must not bury them."""
REFUSED_BURST: Final = 10
REFUSED_PER_SECOND: Final = 0.2
"""Scanners cause refusals at will, and an operator seldom needs one."""


class ErrorLog:
    """Logs failed and refused requests of one worker, at bounded rates of their own."""

    __slots__ = ("_failed", "_refused")

    def __init__(self) -> None:
        self._failed = RateLimit(FAILED_BURST, FAILED_PER_SECOND)
        self._refused = RateLimit(REFUSED_BURST, REFUSED_PER_SECOND)

    def failed(
        self,
        now: float,
        request_id: bytes,
        status: int,
        variant: int,
        endpoint: str,
        reason: Reason,
        detail: str,
        *,
        rescue: bool,
        broke_off: bool,
        service: str | None = None,
    ) -> None:
        """Log a request whose upstream failed, and what its client got.

        ``rescue``: stable failed in the canary's place. ``broke_off``: the response had begun with
        ``status``, and ``request_id`` is the client's own, if it sent one. ``service`` is one of several.
        """
        dropped = self._failed.admit(now)
        if dropped is None:
            return
        got = f"saw its response (status {status}) break off" if broke_off else f"got {status}"
        where = f"{VARIANTS[variant]} endpoint {endpoint}" if endpoint else VARIANTS[variant]
        after = " (rescue of a canary request)" if rescue else ""
        _log.warning(
            "%s %s: %s%s: %s%s",
            _request(request_id),
            got,
            where,
            after,
            describe(reason, detail),
            _unlogged(dropped),
            extra=_fields(
                "request_failed",
                request_id,
                dropped,
                status=status,
                variant=VARIANTS[variant],
                endpoint=endpoint or None,
                reason=reason.label,
                detail=detail or None,
                rescue=rescue,
                broke_off=broke_off,
            )
            | {"service": service},
        )

    def refused(self, now: float, request_id: bytes, status: int, why: str, client: str) -> None:
        """Log a request that was refused before it was routed, or for its body."""
        dropped = self._refused.admit(now)
        if dropped is None:
            return
        _log.info(
            "%s from %s refused with %d: %s%s",
            _request(request_id),
            client or "a Unix socket",
            status,
            why,
            _unlogged(dropped),
            extra=_fields(
                "request_refused",
                request_id,
                dropped,
                status=status,
                reason=why,
                client=client or None,
            ),
        )

    def faulted(self, now: float, what: str, code: str, why: str, client: str) -> None:
        """Log an error of a client of HTTP/2; ``what`` says what became of its stream or connection."""
        dropped = self._refused.admit(now)
        if dropped is None:
            return
        _log.info(
            "HTTP/2: %s with %s: %s, from %s%s",
            what,
            code,
            why,
            client or "a Unix socket",
            _unlogged(dropped),
            extra=_fields(
                "http2_error",
                b"",
                dropped,
                what=what,
                code=code,
                reason=why,
                client=client or None,
            ),
        )


def _request(request_id: bytes) -> str:
    return f"request {request_id.decode('latin-1')}" if request_id else "request without id"


def _unlogged(dropped: int) -> str:
    return f"; {plural(dropped, 'more such line')} not written" if dropped else ""


def _fields(event: str, request_id: bytes, dropped: int, **more: Any) -> dict[str, Any]:
    found = {"event": event, "request_id": request_id.decode("latin-1") or None, **more}
    if dropped:
        found["not_logged"] = dropped
    return {"fields": found}
