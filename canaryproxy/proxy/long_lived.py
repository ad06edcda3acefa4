"""Closes tunnels and endless responses whose users have moved to the other variant, a few at a time.

Theory of operation. A change of the split acts on the next request of each user. A tunnel and an event
stream are one request that goes on, so ``look``, called at each tick, compares where their users are now with
where they are connected, and ``close_due`` closes those that have moved: from ``close_after`` on, evenly over
``spread`` (``spread.py``), in the order of their users' buckets, so that all connections of a user follow
one another. Each is told to end at the next boundary; when the time is over, all of them end wherever they
are. A change of the split begins the time anew for those that are not told yet; those whose users are back
stay.

A request that a match rule has forced to its variant stays: the rule holds while the circuit is open, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from canaryproxy.config import Circuit
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Tally
from canaryproxy.measure.routing import CANARY, RouteTable
from canaryproxy.proxy.interfaces import MOVED, STAYS, TOLD, LongLived
from canaryproxy.proxy.propagation import FollowingRouting
from canaryproxy.proxy.spread import due, progress

_NO_SPLIT: Final[tuple[object, ...]] = ()


class LongLivedExchanges:
    """The tunnels and endless responses of one worker. Ordinary requests are never here."""

    __slots__ = (
        "_began",
        "_closed",
        "_leaving",
        "_looked_at",
        "_new",
        "_open",
        "_passed_at",
        "_progress",
        "_settings",
        "_split",
        "_tallies",
        "_waiting",
        "_wanted",
        "close_code",
    )

    def __init__(self, tallies: tuple[Tally, ...]) -> None:
        self._tallies = tallies
        self._open: set[LongLived] = set()
        self._new: list[LongLived] = []
        """Those that came since the last look."""
        self._waiting: list[LongLived] = []
        """Those whose users have moved and whose turn has not come; the first to close is the last here."""
        self._closed = 0
        """How many of them had their turn since the split changed."""
        self._leaving = 0
        """Exchanges that are not ``STAYS``."""
        self._split = _NO_SPLIT
        self._looked_at = -inf
        self._began = -inf
        """The last moment at which the split was surely another one."""
        self._progress = 0.0
        """Seconds of the spread for which exchanges had their turn (``spread.progress``)."""
        self._passed_at = -inf
        """When ``close_due`` was called last, or the split changed."""
        self._settings = Circuit.model_validate({})  # mypyc knows of no defaults
        self.configure(self._settings)

    def configure(self, settings: Circuit) -> None:
        """Close by these settings from the next change of the split on.

        A shorter spread would otherwise close all that is left of the present one at once.
        """
        self._wanted = settings
        self.close_code = settings.close_code

    def count_in(self, tallies: tuple[Tally, ...]) -> None:
        """Count in these from now on."""
        self._tallies = tallies

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self._open

    # The exchanges' side

    def add(self, one: LongLived) -> None:
        """Take an exchange that has become long-lived."""
        one.leaving = STAYS
        self._open.add(one)
        self._new.append(one)

    def ended_by_proxy(self, one: LongLived, *, cleanly: bool) -> None:
        """Count that the proxy ends an exchange, at a boundary or not."""
        at = counters.ENDED_CLEANLY if cleanly else counters.ENDED_ROUGHLY
        self._tallies[one.variant].add(at)

    def remove(self, one: LongLived) -> None:
        """Drop an exchange that has ended, in whatever way."""
        if one in self._open:
            self._open.remove(one)
            if one.leaving != STAYS:
                self._no_longer_leaves(one)

    # The worker's side

    def look(self, table: RouteTable, now: float) -> bool:
        """Find those whose users have moved; return whether there are any that ``close_due`` must end."""
        split = table.split
        if split != self._split:
            self._split, self._settings = split, self._wanted
            self._began = self._looked_at if self._looked_at > -inf else now
            self._closed, self._progress, self._passed_at = 0, 0.0, now
            self._compare(self._open, table)
        elif self._new:
            self._compare([one for one in self._new if one in self._open], table)
        self._new.clear()
        self._looked_at = now
        return self._leaving > 0

    def close_due(self, now: float) -> bool:
        """Close those whose turn has come; return whether there are more to be ended."""
        settings, waiting = self._settings, self._waiting
        elapsed = now - self._began - settings.close_after
        since, self._passed_at = now - self._passed_at, now
        if elapsed < 0.0:
            return self._leaving > 0
        self._progress = progress(self._progress, elapsed, since, settings.spread)
        for _ in range(due(len(waiting), self._closed, self._progress, settings.spread)):
            one = waiting.pop()
            self._closed += 1
            if one in self._open:
                one.leaving = TOLD
                one.leave()
        if elapsed >= settings.spread:
            for one in [one for one in self._open if one.leaving >= TOLD]:
                one.leave_now()
        return self._leaving > 0

    def end_all(self) -> None:
        """End every exchange at once, at a boundary where there is one: the worker shuts down."""
        for one in list(self._open):
            if one.leaving == STAYS:
                self._leaves(one)
            if one.leaving == MOVED:
                one.leaving = TOLD
                one.leave()
            if one in self._open:
                one.leave_now()

    def _leaves(self, one: LongLived) -> None:
        one.leaving = MOVED
        self._leaving += 1
        self._tallies[one.variant].add(counters.LEAVING)

    def _no_longer_leaves(self, one: LongLived) -> None:
        one.leaving = STAYS
        self._leaving -= 1
        self._tallies[one.variant].add(counters.LEFT)

    def _compare(self, exchanges: Iterable[LongLived], table: RouteTable) -> None:
        """Note which of these exchanges wait to be closed."""
        for one in exchanges:
            leaves = self._has_moved(one, table)
            if one.leaving == STAYS and leaves:
                self._leaves(one)
            elif one.leaving == MOVED and not leaves:
                self._no_longer_leaves(one)
        self._waiting = sorted(
            (one for one in self._open if one.leaving == MOVED),
            key=lambda one: (one.routing.bucket, one.routing.key or b""),
            reverse=True,
        )

    def _has_moved(self, one: LongLived, table: RouteTable) -> bool:
        follow = self._settings.follow
        if one.routing.forced or follow == "off" or (follow == "stable" and one.variant != CANARY):
            return False
        routing = one.routing
        if isinstance(routing, FollowingRouting):
            return routing.wanted(table) != one.variant
        return table.variant_of(routing.key, routing.members) != one.variant
