"""Simulated releases: what the data path would have counted, ten times a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canaryproxy.measure import histogram
from canaryproxy.measure.trials import RecentQuantile, thresholds

TICK = 0.1
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ticks:
    """Counts per tick: requests that settled, and the events among them."""

    n_s: Ints
    e_s: Ints
    n_c: Ints
    e_c: Ints
    routed_c: Ints
    """Canary requests routed up to and with the tick."""
    stalls: tuple[Ints, Ints, Ints, Ints] | None = None
    """The same four for throughput."""
    failing_from: float = 0.0
    """Seconds at which the first request was stuck."""


@dataclass(frozen=True)
class Errors:
    """A release in which answers fail at random, at a rate that may swing for both variants."""

    stable: float
    canary: float
    weight: float
    """Percent."""
    swing: float = 0.0
    rate: float = 200.0
    """Requests a second, both variants."""
    breaks_after: float = 0.0
    """Seconds for which the canary is as good as stable."""

    def run(self, rng: np.random.Generator, seconds: float) -> Ticks:
        """Draw one release."""
        ticks = round(seconds / TICK)
        t = np.arange(ticks) * TICK
        period = rng.uniform(20.0, 200.0)
        wave = 1.0 + self.swing * np.sin(2 * np.pi * (t / period + rng.uniform()))
        share = self.weight / 100.0
        n_c = rng.poisson(self.rate * TICK * share, ticks)
        n_s = rng.poisson(self.rate * TICK * (1.0 - share), ticks)
        canary = np.where(t < self.breaks_after, self.stable, self.canary)
        e_c = rng.binomial(n_c, np.clip(canary * wave, 0.0, 1.0))
        e_s = rng.binomial(n_s, np.clip(self.stable * wave, 0.0, 1.0))
        return Ticks(n_s, e_s, n_c, e_c, np.cumsum(n_c))


@dataclass(frozen=True)
class Latency:
    """A release in which times to the first byte are lognormal, with a median of 50 ms."""

    weight: float
    added: float = 0.0
    """Seconds that every answer of the canary takes longer."""
    stuck: bool = False
    """The canary accepts and never answers."""
    wander: float = 0.0
    """A common load: standard deviation of the logarithm of a factor that both variants share."""
    rate: float = 200.0
    sigma: float = 0.6
    margin: float = 0.05

    def run(self, rng: np.random.Generator, seconds: float) -> Ticks:
        """Draw one release, after a minute of stable alone from which τ is known."""
        share = self.weight / 100.0
        ticks = round(seconds / TICK)
        cells = [np.zeros(ticks + 1, dtype=np.int64) for _ in range(8)]
        routed = np.zeros(ticks, dtype=np.int64)
        seen = np.zeros(histogram.BUCKETS, dtype=np.int64)
        recent = RecentQuantile(0.95)
        bounds = np.asarray(histogram.BOUNDS)
        load, first_stuck = 0.0, seconds
        tau = None
        for second in range(-60, int(seconds)):
            load = 0.98 * load + rng.normal(0.0, self.wander * 0.2)
            limits = None if tau is None else thresholds(tau, self.margin)
            for side, part in enumerate((1.0 - share, share)):
                n = rng.poisson(self.rate * part)
                at = second + rng.uniform(0.0, 1.0, n)
                takes = 0.05 * np.exp(load + self.sigma * rng.normal(size=n))
                if side == 0:
                    index = np.searchsorted(bounds, takes)
                    seen += np.bincount(index, minlength=histogram.BUCKETS)
                if second < 0:
                    continue
                if side == 1:
                    takes = np.full(n, np.inf) if self.stuck else takes + self.added
                    routed += np.bincount((at / TICK).astype(int), minlength=ticks)[:ticks]
                    first_stuck = min(first_stuck, float(at.min(initial=seconds)))
                if limits is None:
                    continue
                slow_after = limits.canary if side else limits.stable
                for offset, limit in ((0, slow_after), (4, limits.stall_after)):
                    settled = np.ceil((at + np.minimum(takes, limit)) / TICK).astype(int)
                    kept = settled <= ticks
                    np.add.at(cells[offset + 2 * side], settled[kept], 1)
                    np.add.at(cells[offset + 2 * side + 1], settled[kept & (takes > limit)], 1)
            tau = recent.update(float(second), seen.tolist())
        slow = [cell[1:] for cell in cells]
        return Ticks(
            slow[0],
            slow[1],
            slow[2],
            slow[3],
            np.cumsum(routed),
            (slow[4], slow[5], slow[6], slow[7]),
            first_stuck,
        )
