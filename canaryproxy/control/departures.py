"""When the last long-lived connection of the users who moved has left a variant, for the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from canaryproxy.config import text
from canaryproxy.measure import counters
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, RouteTable

_CELLS = (counters.LEAVING, counters.ENDED_CLEANLY, counters.ENDED_ROUGHLY)


@dataclass(frozen=True, slots=True)
class _Begun:
    """The connections of a variant began to leave."""

    time: float
    counted: tuple[int, ...]
    """``_CELLS`` then."""


@dataclass(frozen=True, slots=True)
class Departure:
    """The connections of a variant have left it."""

    cause: str
    figures: dict[str, Any]


class Departures:
    """Watches the split and the counters of both variants."""

    def __init__(self) -> None:
        self.since = 0.0
        """When the split changed last: from then on workers count the time for those that are to leave."""
        self.leaving = (0, 0)
        """Connections that are to leave stable and the canary."""
        self._split: tuple[object, ...] | None = None
        self._begun: dict[int, _Begun] = {}
        self._counted: dict[int, tuple[int, ...]] = {}

    def observe(
        self, now: float, table: RouteTable, variants: Sequence[Sequence[int]]
    ) -> Iterator[Departure]:
        """Yield each variant that the last of its leaving connections has left; to be called at each tick."""
        split = table.split
        if split != self._split:
            self._split, self.since = split, now
        self.leaving = (counters.leaving(variants[STABLE]), counters.leaving(variants[CANARY]))
        for variant, cells in enumerate(variants):
            counted = tuple(cells[at] for at in _CELLS)
            leaving = counters.leaving(cells)
            before = self._counted.get(variant, (counted[0] - leaving, *counted[1:]))
            self._counted[variant] = counted
            if counted[0] > before[0] and variant not in self._begun:
                self._begun[variant] = _Begun(now, before)
            if variant in self._begun and leaving <= 0:
                begun = self._begun.pop(variant)
                yield _departure(variant, now - begun.time, counted, begun.counted)


def _departure(
    variant: int, seconds: float, counted: Sequence[int], before: Sequence[int]
) -> Departure:
    left, clean, rough = (max(now - then, 0) for now, then in zip(counted, before, strict=True))
    said = f"{text.count(clean)} ended between two messages"
    if rough:
        said += f", {text.count(rough)} within one"
    connections = text.plural(left, *text.LONG_LIVED)
    return Departure(
        f"{connections} left {VARIANTS[variant]} within {text.latency(seconds)}: {said}",
        {
            "variant": VARIANTS[variant],
            "connections": left,
            "seconds": round(seconds, 3),
            "clean": clean,
            "rough": rough,
        },
    )
