"""The judge of this proxy on releases of ``worlds``: one metric's test by lottery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, log

import numpy as np

from canaryproxy.judging.history import History
from canaryproxy.judging.lottery import LotteryTest, TestSettings
from canaryproxy.judging.units import Lottery, Units
from canaryproxy.measure.routing import POSITIONS
from tests.simulation.worlds import TICK, Bools, Release

FAMILIES, STEPS, ALPHA, ALPHA_HOLD = 5, 4, 0.001, 0.05


@dataclass(frozen=True)
class Metric:
    """How the bad answers of a world are judged."""

    name: str = "errors"
    margin: float = 0.01
    by_user: bool = True
    """Whether request counting takes at most one trial of a user in ten seconds."""
    routes: int = 1
    """Routes that are judged one by one, and share α."""
    alone: bool = False
    """Whether only the traffic of one of them is drawn."""
    shares: float = FAMILIES * STEPS
    """Parts that α is divided into before routes."""

    def settings(self) -> TestSettings:
        """Return the limits of one test of one step."""
        parts = self.shares * self.routes
        return TestSettings(
            log_limit=log(parts / ALPHA),
            log_hold=log(FAMILIES * self.routes / ALPHA_HOLD),
            margin=self.margin,
            looks=self.routes == 1,
        )


ERRORS = Metric()
SLOW = Metric("slow", margin=0.03, by_user=False)
ROUTES = Metric("routes", margin=0.1, routes=32)


@dataclass(frozen=True)
class Run:
    """What became of one release."""

    tick: int | None = None
    """The tick of the rollback."""
    requests: float = inf
    """Canary requests since it broke until the rollback; infinite without one."""
    users: float = inf
    """Users of the canary with a bad answer in that time."""
    seconds: float = inf
    """Seconds from the canary's first bad request to the rollback."""
    held: bool = False
    """Whether it was suspect at any time."""
    worse: bool = False
    """Whether at the end the canary looks worse by the margin, so that it is not promoted."""
    placebos: tuple[int, int] = (0, 0)
    """Virtual canaries that would have tripped, and their number."""


def at(release: Release, tick: int | None, **more: bool | tuple[int, int]) -> Run:
    """Return a run that was rolled back at a tick."""
    if tick is None:
        return replace(Run(), **more)  # type: ignore[arg-type]
    requests, users = release.hurt_until(tick)
    bad = release.asked[release.canary & release.bad & (release.t >= release.broken_at)]
    began = float(bad.min()) if len(bad) else release.broken_at
    return replace(Run(tick, requests, users, (tick + 1) * TICK - began), **more)  # type: ignore[arg-type]


def this_judge(release: Release, metric: Metric, placebos: int = 0, *, history: bool = True) -> Run:
    """Judge a release by ``LotteryTest``; the first of the routes to trip rolls it back."""
    if metric.routes == 1 or metric.alone:
        return _test(release, metric, None, placebos, history)
    runs = [
        _test(release, metric, release.route == route, 0, history)
        for route in range(int(release.route.max()) + 1)
    ]
    first = min(runs, key=lambda run: inf if run.tick is None else run.tick)
    return replace(first, held=any(run.held for run in runs), worse=any(run.worse for run in runs))


def course(release: Release, metric: Metric) -> list[float]:
    """Return the logarithm of the evidence after each tick, until the test trips."""
    return [test.log_evidence for test in _play(release, metric)]


def _test(
    release: Release, metric: Metric, only: Bools | None, placebos: int, history: bool
) -> Run:
    held, tick, test = False, None, None
    for at_tick, test in enumerate(_play(release, metric, only, placebos, history=history)):
        held = held or test.suspect
        tick = at_tick if test.breach else None
    assert test is not None
    estimate = test.estimate()
    worse = estimate is not None and estimate.difference >= metric.margin
    placebo = (test.placebo.tripped, test.placebo.of) if placebos else (0, 0)
    return at(release, tick, held=held or tick is not None, worse=worse, placebos=placebo)


def _play(
    release: Release,
    metric: Metric,
    only: Bools | None = None,
    placebos: int = 0,
    *,
    history: bool = True,
) -> Iterator[LotteryTest]:
    """Yield the test after each tick, until it trips. Only requests of the lottery's users are trials."""
    kept = release.keyed & (release.position >= release.first)
    if only is not None:
        kept &= only
    t, bads = release.t[kept], release.bad[kept].tolist()
    units = Units()
    seen, inverse = np.unique(release.position[kept], return_inverse=True)
    numbers = [units.row(position) for position in seen.tolist()]
    rows = [numbers[at] for at in inverse.tolist()]
    bounds = np.searchsorted(t, np.arange(release.ticks + 1) * TICK).tolist()
    past = History() if history else None
    if past is not None:
        for row, bad in zip(rows[: bounds[0]], bads[: bounds[0]], strict=True):
            past.add((row << 1 | bad,))
    lottery = Lottery(release.first, release.limit, POSITIONS)
    test = LotteryTest(lottery, units, metric.settings(), 0.0, past, placebos)
    for tick, (begin, end) in enumerate(pairwise(bounds)):
        for row, bad in zip(rows[begin:end], bads[begin:end], strict=True):
            test.add(row, bad)
        test.tick((tick + 1) * TICK)
        yield test
        if test.breach:
            return
