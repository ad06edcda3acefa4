"""Versions beside the canary: which service of its own a request goes to."""

from __future__ import annotations

from collections.abc import Sequence

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import Request
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, Routing
from canaryproxy.measure.user_ranges import NO_RANGE, UserRanges
from canaryproxy.proxy.context import ServiceContext, Versions


class OtherVersions(Versions):
    """The services of the versions beside a canary, and the users of each."""

    __slots__ = ("_ranges", "_services")

    def __init__(self, shares: Sequence[float], services: Sequence[ServiceContext | None]) -> None:
        """``shares`` are percent of all users, by service; ``None``: it is not ready, so its users stay."""
        self._ranges = UserRanges(shares)
        self._services = tuple(services)

    def choose(
        self, service: ServiceContext, request: Request, peer: Peer, routing: Routing
    ) -> tuple[ServiceContext, Routing]:
        """Return the service that carries a request, and its routing there; ``service`` has routed it.

        A match rule, or the user's range, says which it is; requests without a user stay.
        """
        key = routing.key
        if routing.forced:
            at = routing.variant - len(VARIANTS)
        else:
            at = NO_RANGE if key is None else self._ranges.of(key)
        if at < 0:
            return service, routing
        chosen = self._services[at]
        if chosen is None:
            return service, routing.forced_to(STABLE) if routing.forced else routing
        if not chosen.is_awake:
            chosen.wake()
        if routing.forced:
            table = chosen.router.current()
            return chosen, Routing(table, key, routing.bucket, CANARY, routing.cookie, forced=True)
        if routing.cookie:  # the key is new, or it is new to the client
            sent = routing.mark >= 0
            table, members = chosen.router.current(), routing.members
            return chosen, table.route(key, routing.cookie, sent=sent, members=members)
        return chosen, chosen.router.route(request, peer)[0]
