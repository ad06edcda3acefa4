"""Medians, spreads and ratios of samples. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from bench.harness.measure import Sample

UNSTEADY = 0.25
"""Width of a ratio's interval, as a share of its median, above which it is not published."""
CONFIDENCE = 0.9375
"""That of an interval. Five rounds give this much, from the least to the greatest."""
SATURATED = 0.95
"""A core busier than this share is taken for fully used."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest value over the rounds, and the interval that tells how sure the median is.

    The true median is in it with ``CONFIDENCE`` whatever the values are distributed like (by the sign test:
    Conover, Practical Nonparametric Statistics, 3.2). More rounds make it narrower, where the least and the
    greatest of them would only be further apart.
    """

    median: float
    low: float
    high: float
    surely_from: float
    surely_to: float

    @property
    def is_steady(self) -> bool:
        """Whether the rounds agree well enough to quote the median."""
        return self.surely_to - self.surely_from <= UNSTEADY * self.median


@dataclass(frozen=True, slots=True)
class Row:
    """One peer over all rounds; the units are those of ``Sample``, latencies in microseconds."""

    name: str
    requests_per_second: Spread
    cpu_us: Spread | None
    requests_per_core_second: Spread | None
    p50_us: Spread
    p99_us: Spread
    p999_us: Spread
    requests: int
    errors: int
    proxy_core_busy: Spread
    load_core_busy: Spread
    others_on_proxy_core: Spread | None
    generator_share: Spread
    upstream_share: Spread
    bytes_per_second: Spread

    @property
    def limited_by(self) -> str:
        """What its requests/s stop at: a core that was full, both, or neither."""
        proxy_full = self.cpu_us is not None and self.proxy_core_busy.median >= SATURATED
        load_full = self.load_core_busy.median >= SATURATED
        if proxy_full:
            return "proxy and load core" if load_full else "proxy core"
        return "load core" if load_full else "neither core"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours divided by a peer, each round on its own; above 1: ours has the greater figure."""

    peer: str
    requests_per_core_second: Spread
    requests_per_second: Spread
    p99: Spread


def row(samples: Sequence[Sample]) -> Row:
    """Sum up the rounds of one peer."""

    def over(value: Callable[[Sample], float]) -> Spread:
        return spread(value(sample) for sample in samples)

    return Row(
        name=samples[0].name,
        requests_per_second=over(lambda s: s.requests_per_second),
        cpu_us=_known(s.cpu_us for s in samples),
        requests_per_core_second=_known(s.requests_per_core_second for s in samples),
        p50_us=over(lambda s: s.wrk.p50_us),
        p99_us=over(lambda s: s.wrk.p99_us),
        p999_us=over(lambda s: s.wrk.p999_us),
        requests=sum(s.wrk.requests for s in samples),
        errors=sum(s.wrk.error_count for s in samples),
        proxy_core_busy=over(lambda s: s.proxy_core_busy),
        load_core_busy=over(lambda s: s.load_core_busy),
        others_on_proxy_core=_known(s.others_on_proxy_core for s in samples),
        generator_share=over(lambda s: s.generator_share),
        upstream_share=over(lambda s: s.upstream_share),
        bytes_per_second=over(lambda s: s.wrk.bytes / s.wrk.seconds),
    )


def ratio(ours: Sequence[Sample], peer: Sequence[Sample]) -> Ratio | None:
    """Compare in each round that both have; None if one answered nothing or is not a proxy."""
    other = {sample.round: sample for sample in peer}
    pairs = [(mine, other[mine.round]) for mine in ours if mine.round in other]
    per_core: list[float] = []
    for a, b in pairs:
        if a.requests_per_core_second is None or b.requests_per_core_second is None:
            return None
        per_core.append(a.requests_per_core_second / b.requests_per_core_second)
    return Ratio(
        peer=peer[0].name,
        requests_per_core_second=spread(per_core),
        requests_per_second=spread(a.requests_per_second / b.requests_per_second for a, b in pairs),
        p99=spread(a.wrk.p99_us / max(1, b.wrk.p99_us) for a, b in pairs),
    )


def spread(values: Iterable[float]) -> Spread:
    """Return median, minimum and maximum of at least one value, and the interval of the median."""
    known = sorted(values)
    left_out = _left_out(len(known))
    return Spread(
        median=statistics.median(known),
        low=known[0],
        high=known[-1],
        surely_from=known[left_out],
        surely_to=known[-1 - left_out],
    )


def _left_out(count: int) -> int:
    """Return how many of the least and of the greatest of ``count`` values are not in the interval."""
    outside, left_out = Fraction(2, 2**count), 0  # that all values are on one side of the median
    while outside + 2 * Fraction(comb(count, left_out + 1), 2**count) <= 1 - CONFIDENCE:
        left_out += 1
        outside += 2 * Fraction(comb(count, left_out), 2**count)
    return left_out


def _known(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if known else None
