"""The counts that replicas add up: a sample as a row of numbers and back. Pure.

The store adds the growth of each replica's row to a row of sums. A sum that falls or restarts (the store has
lost its data) is a new beginning and not growth.
"""

from __future__ import annotations

from collections.abc import Sequence

from canaryproxy.judging.verdict import Counts, Sample


def names(sample: Sample) -> tuple[str, ...]:
    """Return the metrics of a sample in the order of its row."""
    return tuple(sorted(sample.stable))


def row(sample: Sample) -> list[int]:
    """Return trials and events of every metric, those of stable first."""
    order = names(sample)
    sides = (sample.stable, sample.canary)
    return [number for side in sides for name in order for number in side[name]]


def text(numbers: Sequence[int]) -> str:
    """Return a row as the store keeps it."""
    return " ".join(map(str, numbers))


def numbers(kept: str) -> list[int]:
    """Return the row of a text. Raises ``ValueError``."""
    return [int(float(part)) for part in kept.split()]


class Sums:
    """The sums of the fleet as they grow, for a judge: they never fall, whatever the store shows."""

    __slots__ = ("_key", "_last", "_order", "_total")

    def __init__(self) -> None:
        self._key = ""
        self._order: tuple[str, ...] = ()
        self._last: list[int] | None = None
        self._total: list[int] = []

    def take(self, key: str, order: Sequence[str], shown: Sequence[int]) -> None:
        """Take the row of sums that the store shows under ``key``; another key starts from zero."""
        if key != self._key or tuple(order) != self._order or len(shown) != 4 * len(order):
            self._key, self._order, self._last = key, tuple(order), None
            self._total = [0] * (4 * len(order))
        last = self._last
        if len(shown) != len(self._total):
            return
        self._last = list(shown)
        if last is None or any(new < old for new, old in zip(shown, last, strict=True)):
            return
        self._total = [
            total + new - old for total, new, old in zip(self._total, shown, last, strict=True)
        ]

    @property
    def sample(self) -> Sample:
        """The counts since the first row."""
        half = 2 * len(self._order)
        return Sample(self._side(self._total[:half]), self._side(self._total[half:]))

    def _side(self, cells: Sequence[int]) -> Counts:
        return {name: (cells[2 * at], cells[2 * at + 1]) for at, name in enumerate(self._order)}
