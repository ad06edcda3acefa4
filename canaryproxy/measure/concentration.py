"""How many sticky keys carry the traffic: whether what is taken for a user is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from canaryproxy.measure.records import POSITION_MASK, WORDS

WINDOW: Final = 2_000
"""Requests that are counted before a figure is given."""
FEW: Final = 20.0
"""Equal keys; with fewer the split is a matter of chance, and each move takes a large part of the traffic."""
MOST: Final = 0.5
"""Part of the requests with which one key carries most of the traffic."""
_AT_ONCE: Final = 200
"""Records that are taken of one tick."""


@dataclass(frozen=True, slots=True)
class Concentration:
    """The keys of the requests of one window."""

    equal_keys: float
    """How many keys with equally many requests would coincide in as many pairs (inverse Simpson index)."""
    busiest: float
    """Part of the requests that the busiest key made."""

    @property
    def notice(self) -> str | None:
        """A sentence for operators if few keys carry the traffic, else ``None``."""
        if self.equal_keys >= FEW:
            return None
        if self.busiest >= MOST:
            found = f"one sticky key makes {self.busiest:.0%} of the requests"
        else:
            found = (
                f"the requests come from few sticky keys, as if from {self.equal_keys:.0f} users"
            )
        return (
            f"{found}: if many users share a key (a load balancer's address, an API client), the split"
            " moves all of them at once; see split.sticky and forwarded.trust"
        )


class KeyCounter:
    """Counts the requests of each key, as the records of randomised requests show them."""

    __slots__ = ("_counts", "_seen", "last")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._seen = 0
        self.last: Concentration | None = None
        """That of the last full window."""

    def add(self, records: Sequence[int]) -> bool:
        """Count the records of a tick, or a part of them. Returns whether they have filled a window."""
        every = max(len(records) // WORDS // _AT_ONCE, 1) * WORDS
        positions = [word & POSITION_MASK for word in records[::every]]
        self._counts.update(positions)
        self._seen += len(positions)
        if self._seen < WINDOW:
            return False
        pairs = sum(count * (count - 1) for count in self._counts.values())
        equal = self._seen * (self._seen - 1) / max(pairs, 1)
        self.last = Concentration(equal, max(self._counts.values()) / self._seen)
        self._counts.clear()
        self._seen = 0
        return True
