"""Mirroring: copies of stable's requests for the canary, to try it before it has users.

A copy is sent after its request, and nothing waits for its response. Only safe methods (RFC 9110 §9.2.1)
without a body are copied, for both versions may share what a request changes. Copies are no trials of the
judge, and they give way to users: a copy is dropped if there is no spare connection for it.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import Final

from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import DROPPED, FAILED_COPY, Counters, Reason
from canaryproxy.measure.routing import STABLE, Routing
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.interfaces import ConnectionSource, Receiver, UpstreamLink
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.propagation import Propagator

MOST_COPIES: Final = 256
"""Copies that a worker has in flight at most."""
LINE: Final = b"X-Canary-Mirror: 1\r\n"
"""Marks a copy. Clients may send it, too: a hint, not a proof."""

_COPIED: Final = frozenset((b"GET", b"HEAD"))
_HIGHEST_CLASS: Final = 5


class Mirror:
    """Sends copies, and counts what becomes of them."""

    __slots__ = ("_counters", "_pool", "_share", "_timeout", "copies", "propagator")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._pool = Pool((), by_hash=False)
        self.propagator: Propagator | None = None
        """Tells the canary that it gets a copy, if that is configured."""
        self._share = 0.0
        self._timeout = 0.0
        self.copies: dict[Copy, float] = {}
        """Copies in flight and when they have to be done (monotonic seconds), the earliest first."""

    def configure(self, percent: float, pool: Pool, timeout: float) -> None:
        """Copy ``percent`` (0..100) of the requests to ``pool``; each copy has ``timeout`` seconds."""
        self._share = percent / 100
        self._pool = pool
        self._timeout = timeout

    def offer(self, request: Request, routing: Routing, now: float) -> None:
        """Send a copy of a request without a body, if stable got it and it is drawn."""
        if (
            routing.variant != STABLE
            or routing.forced
            or routing.table.circuit_open
            or random.random() >= self._share  # noqa: S311 - needs no secret
            or request.method not in _COPIED
            or request.fields.upgrade
            or request.fields.binds
        ):
            return
        endpoint = self._pool.choose(routing.key)
        if endpoint is None or len(self.copies) >= MOST_COPIES or not _has_spare(endpoint):
            self.count(DROPPED)
            return
        copy = Copy(self, request, endpoint)
        self.copies[copy] = now + self._timeout
        endpoint.active += 1
        endpoint.acquire(copy)

    def count(self, result: int) -> None:
        """Count what became of a copy."""
        self._counters.service[counters.MIRRORED + result] += 1

    def sweep(self, now: float) -> None:
        """End the copies that take longer than the timeout."""
        for copy in [copy for copy, deadline in self.copies.items() if deadline < now]:
            copy.fail()

    def end(self) -> None:
        """End all copies."""
        self.sweep(float("inf"))


def _has_spare(endpoint: Endpoint) -> bool:
    """Tell whether a copy may take a connection: the second half of those allowed is for users."""
    return bool(endpoint.idle) or endpoint.open < endpoint.limits.max_endpoint_connections // 2


class Copy(Receiver):
    """One copy: reads the response and discards it."""

    __slots__ = ("_endpoint", "_link", "_mirror", "_reusable", "_status")

    def __init__(self, mirror: Mirror, request: Request, endpoint: Endpoint) -> None:
        self._mirror = mirror
        self._endpoint: Endpoint | None = endpoint
        self._link: UpstreamLink | None = None
        self._status = 0
        self._reusable = True
        self.request = request

    def wants(self, source: ConnectionSource) -> bool:
        return source is self._endpoint

    def connected(self, link: UpstreamLink) -> None:
        self._link = link
        propagator, head = self._mirror.propagator, self.request.head
        if propagator is not None:
            head = propagator.head_of_copy(self.request)
        link.send(self, head[:-2] + LINE + b"\r\n")

    def connect_failed(
        self,
        source: ConnectionSource,
        reason: Reason,  # noqa: ARG002
        detail: str = "",  # noqa: ARG002
    ) -> None:
        if self.wants(source):
            self.fail()

    def response_head(
        self,
        response: Response,
        body: bytes,  # noqa: ARG002
        *,
        complete: bool,
        trailers: bytes = b"",  # noqa: ARG002
    ) -> None:
        self._status = response.status
        self._reusable = not response.binds
        if complete:
            self._complete()

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:  # noqa: ARG002
        if complete:
            self._complete()

    def upstream_failed(
        self,
        reason: Reason,  # noqa: ARG002
        detail: str = "",  # noqa: ARG002
        *,
        stale: bool = False,
        unprocessed: bool = False,  # noqa: ARG002
    ) -> None:
        """Try once more on a new connection if the old one was stale, else give up."""
        self._link = None
        endpoint = self._endpoint
        assert endpoint is not None
        if stale:
            endpoint.acquire(self, fresh=True)
            return
        self.fail()

    def fail(self) -> None:
        """End without a complete response."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._done(FAILED_COPY)

    def _complete(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.finish(monotonic(), reusable=self._reusable)
        kind = self._status // 100
        self._done(kind if kind <= _HIGHEST_CLASS else FAILED_COPY)

    def _done(self, result: int) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.active -= 1
        del self._mirror.copies[self]
        self._mirror.count(result)
