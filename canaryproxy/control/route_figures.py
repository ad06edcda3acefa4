"""Figures of each route over the last minute, of stable and of the canary side by side.

Theory of operation. They are taken from the judge's records, so they are of randomised users only, and cost
the data path nothing. Of each tick at most ``MOST`` records are kept, evenly spread; ``share`` says which
part that is. They are kept by ten seconds in eight buckets, and counted when they are asked for. A bucket has
at most ``_GROUPS`` routes: what comes after those is counted as other routes. Routes are those that the judge
knows: route templates, or the names of ``judge.routes``. Time is an argument.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.config import PathMatch
from canaryproxy.control.endpoint_figures import SPAN
from canaryproxy.control.timeseries import Percentile, percentile
from canaryproxy.judging.metrics import BUSIEST, OTHER
from canaryproxy.judging.named_routes import NamedRoutes
from canaryproxy.judging.step import OTHERS
from canaryproxy.measure import histogram, records
from canaryproxy.measure.records import NO_FIRST_BYTE, WORDS

MOST: Final = 50
"""Records of a tick that are kept."""
_EVERY: Final = 10.0
_GROUPS: Final = 128
_NAMES: Final = 2048
_CLASSES: Final = 5


class RouteCounts:
    """The counts of one route and one variant."""

    __slots__ = ("classes", "failed", "first_byte", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0
        self.classes = [0] * _CLASSES
        """Responses from 1xx to 5xx, those of the proxy in the variant's place included."""
        self.first_byte: dict[int, int] = {}
        """By bucket of the histogram."""

    def add(self, other: RouteCounts) -> None:
        """Add the counts of another stretch of time."""
        self.requests += other.requests
        self.failed += other.failed
        self.classes = [one + more for one, more in zip(self.classes, other.classes, strict=True)]
        for bucket, count in other.first_byte.items():
            self.first_byte[bucket] = self.first_byte.get(bucket, 0) + count

    @property
    def buckets(self) -> list[int]:
        """The histogram of the seconds to the first byte."""
        return [self.first_byte.get(bucket, 0) for bucket in range(histogram.BUCKETS)]

    @property
    def p95(self) -> float | None:
        """The 95% quantile of the seconds to the first byte; ``None`` without a response."""
        return histogram.quantile(self.buckets, 0.95)


@dataclass(slots=True)
class _Bucket:
    began: float
    seen: int = 0
    kept: int = 0
    words: array[int] = field(default_factory=lambda: array("Q"))
    """Records that are not yet counted."""
    routes: dict[int, tuple[RouteCounts, RouteCounts]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routes:
    """The figures of all routes, the busiest first."""

    seconds: float
    share: float
    """The part of the requests that is counted, 0..1."""
    routes: Sequence[tuple[str, RouteCounts, RouteCounts]]
    """Name, stable, canary."""


class RouteFigures:
    """Counts records by route. ``named`` are the routes of the configuration, if it names them."""

    def __init__(self, named: Sequence[tuple[str, PathMatch]]) -> None:
        self._buckets: list[_Bucket] = []
        self._names: dict[int, str] = {}
        self.configure(named)

    def configure(self, named: Sequence[tuple[str, PathMatch]]) -> None:
        """Group by other named routes from now on."""
        self._named = NamedRoutes(named) if named else None

    def take(self, now: float, words: Sequence[int], names: Mapping[int, str]) -> None:
        """Take the records of a tick, three words each, and the names of templates that are new in it."""
        self._learn(names)
        if not self._buckets or now - self._buckets[-1].began >= _EVERY:
            self._buckets.append(_Bucket(now))
            while now - self._buckets[0].began > SPAN + _EVERY:
                del self._buckets[0]
        bucket = self._buckets[-1]
        number = len(words) // WORDS
        bucket.seen += number
        if number <= MOST:
            bucket.kept += number
            bucket.words.extend(words)
            return
        every = -(-number // MOST)
        for at in range(0, len(words), WORDS * every):
            bucket.kept += 1
            bucket.words.extend(words[at : at + WORDS])

    def _learn(self, names: Mapping[int, str]) -> None:
        self._names.update(names if self._named is None else self._named.learn(names))
        if len(self._names) > _NAMES:
            self.rows(self._buckets[-1].began if self._buckets else 0.0)
            known = {template for bucket in self._buckets for template in bucket.routes}
            self._names = {key: name for key, name in self._names.items() if key in known}

    def _count(self, bucket: _Bucket, first: int, second: int, third: int) -> None:
        flags = first >> records.FLAGS_SHIFT
        if not flags & records.ENDED or flags & records.POSTED:
            return
        abandoned = flags & records.ABANDONED
        if flags & records.CLIENT_GONE and not abandoned:
            return
        template = second & records.TEMPLATE_MASK
        if self._named is not None:
            template = self._named.of(template)
        both = bucket.routes.get(template)
        if both is None:
            if len(bucket.routes) >= _GROUPS:
                template = OTHER
            both = bucket.routes.setdefault(template, (RouteCounts(), RouteCounts()))
        counts = both[first >> records.VARIANT_SHIFT & 1]
        counts.requests += 1
        if abandoned or flags & records.FAILED:
            counts.failed += 1
        status = first >> records.STATUS_SHIFT & 0x3FF
        if status >= 100 and not abandoned:
            counts.classes[min(status // 100, _CLASSES) - 1] += 1
        micros = third & NO_FIRST_BYTE
        if micros != NO_FIRST_BYTE:
            place = histogram.bucket_index(micros / 1e6)
            counts.first_byte[place] = counts.first_byte.get(place, 0) + 1

    def rows(self, now: float) -> Routes:
        """Return the figures of the last minute; all but the busiest routes as one."""
        sums: dict[int, tuple[RouteCounts, RouteCounts]] = {}
        for bucket in self._buckets:
            words, bucket.words = bucket.words, array("Q")
            for at in range(0, len(words), WORDS):
                self._count(bucket, words[at], words[at + 1], words[at + 2])
            _add(sums, bucket.routes.items())
        order = sorted(sums, key=lambda key: -sum(one.requests for one in sums[key]))
        shown = [key for key in order if key != OTHER and key in self._names][:BUSIEST]
        rest: dict[int, tuple[RouteCounts, RouteCounts]] = {}
        _add(rest, ((OTHER, sums[key]) for key in order if key not in shown))
        seen = sum(bucket.seen for bucket in self._buckets)
        return Routes(
            seconds=now - self._buckets[0].began if self._buckets else 0.0,
            share=sum(bucket.kept for bucket in self._buckets) / seen if seen else 1.0,
            routes=[
                *((self._names[key], *sums[key]) for key in shown),
                *((OTHERS, *both) for both in rest.values()),
            ],
        )

    def percentiles(
        self, now: float, route: str, q: float
    ) -> tuple[float, tuple[Percentile | None, ...]]:
        """Return how many seconds were watched, and a quantile of each variant on a route."""
        seen = self.rows(now)
        both = next((row[1:] for row in seen.routes if row[0] == route), ())
        found = tuple(percentile(counts.buckets, q) for counts in both)
        return seen.seconds, found or (None, None)


def _add(
    sums: dict[int, tuple[RouteCounts, RouteCounts]],
    routes: Iterable[tuple[int, tuple[RouteCounts, RouteCounts]]],
) -> None:
    for key, both in routes:
        into = sums.setdefault(key, (RouteCounts(), RouteCounts()))
        for one, more in zip(into, both, strict=True):
            one.add(more)
