"""Latency histograms in integer cells of a shared buffer.

Bucket bounds grow by the eighth root of two (9.05%), so any point inside a bucket is within 10% of
any other: every quantile read from the counts, by us or by Prometheus' linear interpolation, is within
10% of the true sample quantile between the lowest and the highest bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log, log10
from typing import Final

_PER_OCTAVE: Final = 8
LOWEST: Final = 0.00025
"""The first of ``BOUNDS``."""
_OCTAVES: Final = 18


def _round(value: float) -> float:
    """Round to four significant digits, so that bounds print short."""
    return round(value, 3 - floor(log10(value)))


BOUNDS: Final[tuple[float, ...]] = tuple(
    _round(LOWEST * 2 ** (i / _PER_OCTAVE)) for i in range(_OCTAVES * _PER_OCTAVE + 1)
)
"""Upper bounds of the buckets in seconds, inclusive (``le``), from 0.25 ms to 65.5 s."""

_HIGHEST: Final = BOUNDS[-1]
PER_NEPER: Final = _PER_OCTAVE / log(2)
"""Buckets for each factor of e."""

BUCKETS: Final = len(BOUNDS) + 1
"""Number of count cells: one per bound, then one for everything above the last (``+Inf``)."""

SUM: Final = BUCKETS
"""Offset of the cell that holds the sum of the observations in microseconds."""

CELLS: Final = BUCKETS + 1
"""Number of cells of one histogram."""


def bucket_index(seconds: float) -> int:
    """Return the offset of the count cell for a duration in seconds (``le`` is inclusive)."""
    if not seconds > LOWEST:
        return 0
    if seconds > _HIGHEST:
        return BUCKETS - 1
    # Bounds are rounded, so the logarithm may be one bucket low. Still faster than a search.
    index = int(log(seconds / LOWEST) * PER_NEPER)
    while seconds > BOUNDS[index]:
        index += 1
    return index


def quantile(counts: Sequence[int], q: float) -> float | None:
    """Estimate the ``q`` quantile (fraction 0..1) in seconds from ``BUCKETS`` counts.

    Interpolates geometrically inside the bucket. Returns ``None`` without observations; observations
    above the last bound count as the last bound.
    """
    total = sum(counts[:BUCKETS])
    if not total:
        return None
    rank = q * total
    below = 0
    for index in range(BUCKETS):
        here = counts[index]
        if here and below + here >= rank:
            break
        below += here
    if index >= len(BOUNDS):
        return BOUNDS[-1]
    upper = BOUNDS[index]
    lower = BOUNDS[index - 1] if index else upper / 2 ** (1 / _PER_OCTAVE)
    inside = (rank - below) / here if here else 1.0
    return float(lower * (upper / lower) ** min(max(inside, 0.0), 1.0))
