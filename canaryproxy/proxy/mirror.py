"""Copies of stable's requests for the canary, whose answers nobody gets: it is tried out before it has users.

A copy is sent after its request and nothing waits for it. Only safe methods (RFC 9110 §9.2.1) without a body
are copied, for both versions may share what a request changes. Copies are no trials of the judge, and they
give way: what finds no room is dropped.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import TYPE_CHECKING, Final

from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import DROPPED, FAILED_COPY, Reason
from canaryproxy.measure.routing import CANARY, RouteTable
from canaryproxy.proxy.upstream_connection import Receiver, UpstreamConnection

if TYPE_CHECKING:
    from canaryproxy.proxy.datapath import DataPath
    from canaryproxy.proxy.pool import Endpoint

MOST_COPIES: Final = 256
"""Copies that a worker has in flight at the most."""
LINE: Final = b"X-Canary-Mirror: 1\r\n"
"""What tells a copy from a request. Clients may send it, too: a hint, not a proof."""

_COPIED: Final = frozenset((b"GET", b"HEAD"))
_HIGHEST_CLASS: Final = 5


class Mirror:
    """Sends copies, ``percent`` (0..100) of what could be copied."""

    __slots__ = ("_datapath", "_share", "copies")

    def __init__(self, datapath: DataPath) -> None:
        self._datapath = datapath
        self._share = 0.0
        self.copies: dict[Copy, float] = {}
        """Copies in flight and when they have to be over (monotonic seconds), the earliest first."""

    def set_percent(self, percent: float) -> None:
        """Copy this much from now on."""
        self._share = percent / 100

    def offer(self, request: Request, key: bytes | None, table: RouteTable, now: float) -> None:
        """Send a copy of a request (without a body) that stable was chosen for, if the lot falls on it."""
        if (
            table.circuit_open
            or random.random() >= self._share  # noqa: S311 - nothing is secret about it
            or request.method not in _COPIED
            or request.fields.upgrade
        ):
            return
        datapath = self._datapath
        endpoint = datapath.pools[CANARY].choose(key)
        if endpoint is None or len(self.copies) >= MOST_COPIES or not _has_room(endpoint):
            self.count(DROPPED)
            return
        copy = Copy(self, request, endpoint)
        self.copies[copy] = now + datapath.limits.first_byte_timeout
        endpoint.active += 1
        endpoint.acquire(copy)

    def count(self, result: int) -> None:
        """Count what became of a copy."""
        self._datapath.counters.proxy[counters.MIRRORED + result] += 1

    def sweep(self, now: float) -> None:
        """End the copies that take too long: each has ``limits.first_byte_timeout`` for all of it."""
        for copy in [copy for copy, deadline in self.copies.items() if deadline < now]:
            copy.fail()

    def end(self) -> None:
        """End all copies."""
        self.sweep(float("inf"))


def _has_room(endpoint: Endpoint) -> bool:
    """Tell whether a copy may take a connection: the second half of those allowed is for users."""
    return bool(endpoint.idle) or endpoint.open < endpoint.limits.max_endpoint_connections // 2


class Copy(Receiver):
    """One copy: takes the answer and lets it go."""

    __slots__ = ("_endpoint", "_mirror", "_status", "_upstream")

    def __init__(self, mirror: Mirror, request: Request, endpoint: Endpoint) -> None:
        self._mirror = mirror
        self._endpoint: Endpoint | None = endpoint
        self._upstream: UpstreamConnection | None = None
        self._status = 0
        self.request = request

    def wants(self, endpoint: Endpoint) -> bool:
        """Tell whether a connection is still wanted."""
        return endpoint is self._endpoint

    def connected(self, upstream: UpstreamConnection) -> None:
        """Send the copy."""
        self._upstream = upstream
        upstream.send(self, self.request.head[:-2] + LINE + b"\r\n")

    def connect_failed(self, endpoint: Endpoint, reason: Reason) -> None:  # noqa: ARG002
        """Learn that there is no connection."""
        if self.wants(endpoint):
            self.fail()

    def answer(
        self,
        response: Response,
        body: bytes,  # noqa: ARG002
        *,
        complete: bool,
        trailers: bytes = b"",  # noqa: ARG002
    ) -> None:
        """Take the head of the answer."""
        self._status = response.status
        if complete:
            self._complete()

    def body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:  # noqa: ARG002
        """Take more of the answer."""
        if complete:
            self._complete()

    def upstream_failed(self, reason: Reason, *, stale: bool = False) -> None:
        """The connection is gone: once more on a new one if it was an old one."""
        self._upstream = None
        endpoint = self._endpoint
        assert endpoint is not None
        if stale:
            endpoint.acquire(self, fresh=True)
            return
        if reason in (Reason.RESET, Reason.TLS):
            endpoint.failed()
        self.fail()

    def fail(self) -> None:
        """End without an answer."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        self._over(FAILED_COPY)

    def _complete(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.finish(monotonic(), reusable=True)
        kind = self._status // 100
        self._over(kind if kind <= _HIGHEST_CLASS else FAILED_COPY)

    def _over(self, result: int) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.active -= 1
        del self._mirror.copies[self]
        self._mirror.count(result)
