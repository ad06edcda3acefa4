"""From which first byte on a response is slow: twice, for an endpoint's others and, far later, for itself.

Theory of operation. ``Usual`` remembers how long the typical endpoint of a variant took in the last minute:
of the endpoints' 85th percentiles the lower median, so that it is none of the slow ones' while half of the
endpoints are well. A response of the others is slow beyond it. One of the endpoint that is compared with
them is slow only beyond ``FAR``: half as long again, and 10 ms more. So an endpoint that is ever so often
half as slow again, or 10 ms slower as in another zone, has no larger share of slow responses than the others:
L + 10 ms > T + 10 ms only if L > T. All are bounds of histogram buckets. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from canaryproxy.measure.histogram import BOUNDS, BUCKETS, bucket_index

NEVER: Final = BUCKETS
"""The bucket from which responses are slow where that is not known."""
LASTS: Final = 60.0
"""Seconds that a limit is used."""
_QUANTILE: Final = 0.85
_RATIO: Final = 1.5
_LEAST: Final = 0.010
ENOUGH: Final = 20
"""Responses of an endpoint from which its quantile is known."""


def _far(slow_from: int) -> int:
    limit = BOUNDS[slow_from - 1]
    return bucket_index(max(limit * _RATIO, limit + _LEAST)) + 1


FAR: Final[tuple[int, ...]] = (NEVER, *[_far(at) for at in range(1, BUCKETS)], NEVER)
"""By the bucket from which the others' responses are slow: that from which the endpoint's own are."""


def limit_of(bucket: int) -> float:
    """Return the seconds that all responses from a bucket on exceed."""
    return BOUNDS[bucket - 1]


class Usual:
    """The bucket from which a response is slow."""

    __slots__ = ("_base", "_since", "slow_from")

    def __init__(self) -> None:
        self.slow_from = NEVER
        self._base: Mapping[str, Sequence[int]] = {}
        self._since = float("-inf")

    def observe(self, now: float, endpoints: Mapping[str, Sequence[int]]) -> bool:
        """Take the histograms of the endpoints since the start; return whether the limit is a new one."""
        if self.slow_from != NEVER and now - self._since < LASTS:
            return False
        self._base = {url: self._base.get(url, counts) for url, counts in endpoints.items()}
        limit = slow_from(
            [
                [max(count - was, 0) for count, was in zip(counts, self._base[url], strict=True)]
                for url, counts in endpoints.items()
            ]
        )
        if limit == NEVER:
            return False
        self._base, self._since = endpoints, now
        self.slow_from = limit
        return True


def slow_from(histograms: Iterable[Sequence[int]]) -> int:
    """Return the bucket from which a response of the typical endpoint is slow; ``NEVER``: not known."""
    known = [counts for counts in histograms if sum(counts) >= ENOUGH]
    if len(known) < 2:
        return NEVER
    return sorted([_quantile_bucket(counts) for counts in known])[(len(known) - 1) // 2] + 1


def _quantile_bucket(counts: Sequence[int]) -> int:
    rank, below = _QUANTILE * sum(counts), 0
    for bucket, count in enumerate(counts):
        below += count
        if below >= rank:
            return bucket
    return BUCKETS - 1
