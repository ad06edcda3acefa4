"""The endpoints of a variant, and which one gets a request."""

from __future__ import annotations

from collections.abc import Sequence
from random import getrandbits
from typing import Final

import mmh3

from canaryproxy.proxy.endpoint import Endpoint

# A linear congruential generator of full period (Hull & Dobell 1962) draws endpoints, for a tenth of what
# ``random`` costs. Its high bits are used, the better ones; all is small enough for compiled integers.
_FACTOR: Final = 22695477
_DRAW_BITS: Final = 30
_DRAWS: Final = 0x3FFFFFFF


class Pool:
    """The endpoints of one variant and how requests are spread over them."""

    __slots__ = ("_by_hash", "_draw", "_turn", "endpoints", "usable")

    def __init__(self, endpoints: Sequence[Endpoint], *, by_hash: bool) -> None:
        self.endpoints = tuple(endpoints)
        self.usable = self.endpoints
        """The endpoints that are not ejected."""
        self._by_hash = by_hash
        self._turn = 0
        self._draw = getrandbits(_DRAW_BITS)

    def refresh(self) -> None:
        """Update ``usable``: an endpoint was ejected or came back."""
        self.usable = tuple(endpoint for endpoint in self.endpoints if not endpoint.ejected)

    def choose(self, key: bytes | None, tried: Sequence[Endpoint] = ()) -> Endpoint | None:
        """Return the endpoint for a request, or ``None`` if none is usable.

        ``hash``: rendezvous hashing of the sticky key (Thaler & Ravishankar 1998), so that a session stays
        on its endpoint and only those of a lost endpoint move. Otherwise, and for requests without a key,
        the one with the fewest requests; above three endpoints the better of two drawn at random
        (Mitzenmacher 2001), which is as even and does not grow with their number.
        """
        usable = self.usable
        if tried:
            usable = tuple([endpoint for endpoint in usable if endpoint not in tried])
        count = len(usable)
        if count < 2:
            return usable[0] if count else None
        if self._by_hash and key is not None:
            return max(
                usable, key=lambda e: mmh3.hash(e.authority.encode() + b"\0" + key, signed=False)
            )
        if count > 3:
            self._draw = draw = (self._draw * _FACTOR + 1) & _DRAWS
            pair = draw * (count * (count - 1)) >> _DRAW_BITS
            one, other = pair // (count - 1), pair % (count - 1)
            first, second = usable[one], usable[other + 1 if other >= one else other]
            return second if second.active < first.active else first
        self._turn = turn = (self._turn + 1) % len(usable)
        best = usable[turn]  # equals take turns
        for endpoint in usable:
            if endpoint.active < best.active:
                best = endpoint
        return best
