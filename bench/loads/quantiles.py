"""Quantiles of latencies. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def quantile(ordered: Sequence[int], share: float) -> int:
    """Return the least value that at least ``share`` (0..1) of the ordered values do not exceed."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def in_microseconds(nanoseconds: Iterable[int]) -> dict[str, float]:
    """Return p50_us, p99_us, p999_us and max_us; all 0 for no values."""
    ordered = sorted(nanoseconds)
    if not ordered:
        return dict.fromkeys(("p50_us", "p99_us", "p999_us", "max_us"), 0.0)
    shares = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999, "max_us": 1.0}
    return {name: quantile(ordered, share) / 1000 for name, share in shares.items()}
