"""Rules of others that decide when a canary is rolled back, as their documents describe them.

Each takes a release of ``worlds`` and returns the tick of the rollback, or ``None``. They count requests,
those without a key as well, except ``users_z``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from canaryproxy.judging.evidence import LiveTest
from canaryproxy.measure.routing import FINE, NO_KEY_BUCKET
from tests.simulation.worlds import TICK, Ints, Release

SECOND, MINUTE = 10, 600
"""Ticks."""
ONE_SIDED_5 = 1.6449
"""Standard errors of a one-sided test at 5 percent."""


def _sums(release: Release, every: int) -> tuple[NDArray[np.float64], ...]:
    """Return the sums of trials and events of both sides so far, every ``every`` ticks."""
    stop = np.arange(every - 1, release.ticks, every)
    return tuple(np.cumsum(cell)[stop].astype(float) for cell in release.counts())


def _first(hit: NDArray[np.bool_], every: int) -> int | None:
    return (int(np.argmax(hit)) + 1) * every - 1 if hit.any() else None


def naive(release: Release) -> int | None:
    """Roll back when the canary's rate is a point above stable's, after 100 requests; each second."""
    n_s, e_s, n_c, e_c = _sums(release, SECOND)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _first((n_c >= 100) & (e_c / n_c > e_s / n_s + 0.01), SECOND)


def z_test(release: Release) -> int | None:
    """Roll back by a two-proportion z-test of requests at 5 percent, after 30 requests; each second."""
    n_s, e_s, n_c, e_c = _sums(release, SECOND)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (e_s + e_c) / (n_s + n_c)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n_s + 1 / n_c))
        return _first((n_c >= 30) & ((e_c / n_c - e_s / n_s) / spread > ONE_SIDED_5), SECOND)


def users_z(release: Release) -> int | None:
    """Roll back by a z-test at 5 percent whose errors are by user; each second, from ten users a side on.

    That is what an A/B test does at its fixed horizon (the delta method for ratio metrics: Deng, Knoblich &
    Lu 2018), looked at all the time.
    """
    kept = release.keyed & (release.t >= 0)
    users, row = np.unique(release.user[kept], return_inverse=True)
    canary = np.zeros(len(users), dtype=bool)
    canary[row] = release.canary[kept]
    bad = release.bad[kept]
    ends = np.searchsorted(release.t[kept], np.arange(1, release.ticks // SECOND + 1) * 1.0)
    n, e = np.zeros(len(users)), np.zeros(len(users))
    begin = 0
    for second, end in enumerate(ends):
        np.add.at(n, row[begin:end], 1)
        np.add.at(e, row[begin:end], bad[begin:end])
        begin = end
        worse = variance = 0.0
        for side, sign in ((canary, 1.0), (~canary, -1.0)):
            trials, events = n[side], e[side]
            total = trials.sum()
            if np.count_nonzero(trials) < 10:
                break
            rate = events.sum() / total
            worse += sign * rate
            variance += float(((events - rate * trials) ** 2).sum()) / total**2
        else:
            if worse > ONE_SIDED_5 * np.sqrt(variance) and worse > 0:
                return (second + 1) * SECOND - 1
    return None


def _by_interval(release: Release, length: int) -> tuple[Ints, Ints, Ints, Ints]:
    count = release.ticks // length
    parts = [cell[: count * length].reshape(count, length).sum(axis=1) for cell in release.counts()]
    return parts[0], parts[1], parts[2], parts[3]


def _after_failures(bad: NDArray[np.bool_], allowed: int, length: int) -> int | None:
    return _first(np.cumsum(bad) >= allowed, length) if len(bad) else None


def flagger(release: Release) -> int | None:
    """Flagger's example: success of the canary under 99 percent in a minute; the fifth time rolls back."""
    _, _, n_c, e_c = _by_interval(release, MINUTE)
    return _after_failures(e_c > 0.01 * n_c, 5, MINUTE)


def argo(release: Release) -> int | None:
    """Argo Rollouts' example: success under 95 percent in five minutes; the third time aborts."""
    _, _, n_c, e_c = _by_interval(release, 5 * MINUTE)
    return _after_failures(e_c > 0.05 * n_c, 3, 5 * MINUTE)


def kayenta(release: Release) -> int | None:
    """Kayenta's default judge on error rates by the minute, looked at every ten minutes.

    Mann-Whitney with a confidence of 98 percent: the canary is high if the lower end of the interval for the
    shift is above a quarter of its estimate.
    """
    n_s, e_s, n_c, e_c = _by_interval(release, MINUTE)
    stable, canary = e_s / np.maximum(n_s, 1), e_c / np.maximum(n_c, 1)
    for stop in range(10, len(stable) + 1, 10):
        shifts = np.sort((canary[:stop, None] - stable[None, :stop]).ravel())
        spread = np.sqrt(stop * stop * (2 * stop + 1) / 12)
        low = shifts[max(int(stop * stop / 2 - 2.3263 * spread), 0)]
        if low > 0 and low > 0.25 * float(np.median(shifts)):
            return stop * MINUTE - 1
    return None


@dataclass
class _Reduction:
    """One trial of a bucket in ten seconds; a bucket whose trial failed is out until the round ends."""

    free: dict[int, int] = field(default_factory=dict)
    out: set[int] = field(default_factory=set)

    def claim(self, bucket: int, now: int) -> bool:
        """Tell whether a request routed now (in ticks) is a trial."""
        if bucket in self.out or self.free.get(bucket, 0) > now:
            return False
        self.free[bucket] = now + 100
        return True

    def refresh(self, limit: int) -> None:
        """Begin a new round when half of the buckets seen on a side are out, at least two of three."""
        for side in (range(limit), range(limit, NO_KEY_BUCKET + 1)):
            seen = sum(bucket in side for bucket in self.free)
            if seen >= 3 and sum(b in side for b in self.out) >= max(2, seen / 2):
                self.free.clear()
                self.out.clear()
                return


def _reduced(release: Release) -> tuple[Ints, Ints, Ints, Ints]:
    """Return counts by tick after the reduction to users."""
    users = _Reduction()
    kept = np.zeros(len(release.t), dtype=bool)
    buckets = np.where(release.keyed, release.position // FINE, NO_KEY_BUCKET).tolist()
    bads, bounds = release.bad.tolist(), release.bounds().tolist()
    ticks = (release.asked / TICK).astype(int).tolist()
    for tick in range(release.ticks):
        for at in range(bounds[tick], bounds[tick + 1]):
            if users.claim(buckets[at], ticks[at]):
                kept[at] = True
                if bads[at]:
                    users.out.add(buckets[at])
        if tick % 100 == 99:
            users.refresh(release.limit // FINE)
    return release.counts(kept)


def request_counting(release: Release, margin: float, reduce: bool) -> int | None:
    """Judge by counted requests, as releases of this proxy up to 0.1 did.

    An e-process over requests (``evidence.LiveTest``, α = 0.001 over five metrics), a difference of the
    margin, and for errors at most one trial of a user in ten seconds; one error of a user in a round.
    """
    cells = _reduced(release) if reduce else release.counts()
    test, limit = LiveTest(), float(np.log(5 / 0.001))
    n = [0, 0, 0, 0]
    weight = canary_sum = stable_sum = 0.0
    total = np.zeros(4)
    opened = 0
    recent: list[tuple[int, ...]] = []
    for tick, row in enumerate(zip(*(cell.tolist() for cell in cells), strict=True)):
        n = [old + new for old, new in zip(n, row, strict=True)]
        if tick % MINUTE == MINUTE - 1:
            test.restart()
        if n[0] < 3 and tick - opened < 100:
            continue
        n_s, e_s, n_c, e_c = n
        test.add(*n)
        opened, n = tick, [0, 0, 0, 0]
        if not (n_s and n_c):
            continue
        total += (n_s, e_s, n_c, e_c)
        recent.append((tick, n_s, e_s, n_c, e_c))
        both = n_s + n_c
        weight += n_s * n_c / both
        canary_sum += e_c * n_s / both
        stable_sum += e_s * n_c / both
        if test.log_e < limit:
            continue
        error = np.sqrt(total[1] / total[0] ** 2 + total[3] / total[2] ** 2)
        worse = (canary_sum - stable_sum) / weight
        if worse - 0.5 * error > max(margin - 1e-12, 0.0) or _stands_out(recent, tick, margin):
            return tick
    return None


def _stands_out(recent: list[tuple[int, ...]], tick: int, margin: float) -> bool:
    """Tell whether the last half minute alone is worse by the margin and by five standard errors."""
    n_s, e_s, n_c, e_c = np.sum([row[1:] for row in recent if row[0] > tick - 300], axis=0)
    worse, pooled = e_c / n_c - e_s / n_s, (e_s + e_c) / (n_s + n_c)
    error = np.sqrt(pooled * max(1.0 - pooled, 0.0) * (1.0 / n_s + 1.0 / n_c))
    return bool(worse > 5.0 * error and worse >= margin)
