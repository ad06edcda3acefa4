"""The endpoints of a variant, and which one gets a request.

An endpoint that is ejected or out of service gets none, with one exception, *panic*: if that leaves none at
all, requests are tried all the same, on those that take connections, else on all. An ejected one is then
tried by one request at a time, so that a dead variant is not stormed and the first success ends it.

An endpoint that returns *starts*: its share of the requests grows linearly over ``slow_start`` seconds.

SRV records rank endpoints and give them weights (RFC 2782): only those of the best rank that has one up get
requests, in proportion to their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from random import getrandbits
from typing import Final

import mmh3

from canaryproxy.measure.slowness import NEVER
from canaryproxy.proxy.endpoint import Endpoint

# A linear congruential generator of full period (Hull & Dobell 1962) draws endpoints, for a tenth of what
# ``random`` costs. Its high bits are used, the better ones; all is small enough for compiled integers.
_FACTOR: Final = 22695477
_DRAW_BITS: Final = 30
_DRAWS: Final = 0x3FFFFFFF
_STEP: Final = 663608941
"""The golden ratio in thirty bits. Turns that follow it (Weyl 1916) are even over any few requests, and over
every second or third of them too, so that no rhythm in the requests finds the same endpoint."""
_START_SEED: Final = 1
"""Of the hash that says from which share on a key returns to an endpoint that starts."""


class Pool:
    """The endpoints of one variant and how requests are spread over them."""

    __slots__ = (
        "_by_hash",
        "_draw",
        "_plain",
        "_slow_start",
        "_turn",
        "_weighted",
        "endpoints",
        "panic",
        "starting",
        "usable",
    )

    def __init__(
        self, endpoints: Sequence[Endpoint], *, by_hash: bool, slow_start: float = 0.0
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.usable = self.endpoints
        """The endpoints that may get requests."""
        self.panic = False
        """None is up, and ``usable`` are tried all the same."""
        self.starting: tuple[Endpoint, ...] = ()
        """Those of ``usable`` that get less than their share."""
        self._by_hash = by_hash
        self._slow_start = slow_start
        self._draw = self._turn = getrandbits(_DRAW_BITS)
        self._plain = True
        """All of ``usable`` are equal."""
        self._weighted = False
        """Some of them have another weight than others."""

    def refresh(self, now: float, *, may_panic: bool) -> None:
        """Look at the endpoints again: one went or came back; ``now`` is in monotonic seconds.

        ``may_panic``: if none is up, requests are tried all the same.
        """
        up = tuple([one for one in self.endpoints if one.up])
        for one in self.endpoints:
            if one.up and not one.standing.was_up and self._slow_start:
                one.standing.returned, one.standing.share = now, 0.0
            elif not one.up:
                one.standing.share = 1.0
            one.standing.was_up = one.up
        self.panic = may_panic and not up and bool(self.endpoints)
        if self.panic:
            up = tuple([one for one in self.endpoints if not one.ejected]) or self.endpoints
        elif up:
            best = min([one.config.rank for one in up])
            up = tuple([one for one in up if one.config.rank == best])
        self.usable = up
        self._weighted = len({one.config.weight for one in up}) > 1
        self.warm(now)

    def warm(self, now: float) -> None:
        """Give the endpoints that start their share as of ``now``."""
        for one in self.endpoints:
            if one.standing.share < 1.0:
                passed = (
                    (now - one.standing.returned) / self._slow_start if self._slow_start else 1.0
                )
                one.standing.share = min(max(passed, 0.0), 1.0)
        self.starting = tuple([one for one in self.usable if one.standing.share < 1.0])
        self._plain = not self.panic and not self.starting and not self._weighted

    def tick(self, now: float, slow_from: int) -> None:
        """Look at endpoints that start, and say from which bucket of the histogram on users are slow.

        Without the hash the control plane tells slow responses from the histogram.
        """
        if self.starting:
            self.warm(now)
        for one in self.endpoints:
            one.slow_from = slow_from if one.standing.by_hash else NEVER

    def choose(self, key: bytes | None, tried: tuple[Endpoint, ...] = ()) -> Endpoint | None:
        """Return the endpoint for a request, or ``None`` if none is usable.

        ``hash``: rendezvous hashing of the sticky key (Thaler & Ravishankar 1998), so that a session stays
        on its endpoint and only those of a lost endpoint move. Otherwise, and for requests without a key,
        the one with the fewest requests; above three endpoints the better of two drawn at random
        (Mitzenmacher 2001), which is as even and does not grow with their number.
        """
        usable = self.usable
        if tried or not self._plain:
            usable = self._candidates(key, tried)
        count = len(usable)
        if count < 2:
            return usable[0] if count else None
        if self._by_hash and key is not None:
            if self._weighted:
                return max(usable, key=lambda e: _weighted_score(key, e))
            return max(
                usable, key=lambda e: mmh3.hash(e.authority.encode() + b"\0" + key, signed=False)
            )
        if count > 3:
            self._draw = draw = (self._draw * _FACTOR + 1) & _DRAWS
            pair = draw * (count * (count - 1)) >> _DRAW_BITS
            one, other = pair // (count - 1), pair % (count - 1)
            first, second = usable[one], usable[other + 1 if other >= one else other]
            return second if second.active < first.active else first
        self._turn = turn = (self._turn + _STEP) & _DRAWS
        best = usable[turn * count >> _DRAW_BITS]  # of equals, each in turn
        for endpoint in usable:
            if endpoint.active < best.active:
                best = endpoint
        return best

    def _candidates(self, key: bytes | None, tried: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """Return the endpoints among which ``choose`` chooses, for a request that is not the plain case."""
        found = [one for one in self.usable if one not in tried]
        if self.panic:
            return tuple([one for one in found if not one.ejected or not one.tries])
        if self._by_hash and key is not None:
            return tuple([one for one in found if _returns(key, one)]) or tuple(found)
        if self._weighted and found:
            first, second = self._drawn(found), self._drawn(found)
            less = second.active * first.config.weight < first.active * second.config.weight
            return (second if less else first,)
        if not self.starting:
            return tuple(found)
        self._draw = draw = (self._draw * _FACTOR + 1) & _DRAWS
        left = len(found) * draw / (_DRAWS + 1)
        for one in found:
            if one.standing.share < 1.0:
                if left < one.standing.share:
                    return (one,)
                left -= one.standing.share
        return tuple([one for one in found if one.standing.share == 1.0]) or tuple(found)

    def _drawn(self, found: Sequence[Endpoint]) -> Endpoint:
        """Return an endpoint that is drawn by its weight, and by its share while it starts."""
        self._draw = draw = (self._draw * _FACTOR + 1) & _DRAWS
        left = sum([one.config.weight * one.standing.share for one in found]) * draw / (_DRAWS + 1)
        for one in found:
            left -= one.config.weight * one.standing.share
            if left < 0.0:
                return one
        return found[-1]


def _weighted_score(key: bytes, endpoint: Endpoint) -> float:
    """Return the score of weighted rendezvous hashing: of equal weights, the highest hash is the highest."""
    drawn = mmh3.hash(endpoint.authority.encode() + b"\0" + key, signed=False)
    return -endpoint.config.weight / log((drawn + 0.5) / 0x1_0000_0000)


def _returns(key: bytes, endpoint: Endpoint) -> bool:
    """Tell whether a key may be the endpoint's: from some share on it is, and stays."""
    if endpoint.standing.share == 1.0:
        return True
    drawn = mmh3.hash(endpoint.authority.encode() + b"\0" + key, _START_SEED, signed=False)
    return drawn < endpoint.standing.share * 0x1_0000_0000
