"""The judge of this proxy on releases of ``worlds``: one metric's test by lottery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, log

import numpy as np

from canaryproxy.judging import families, metrics
from canaryproxy.judging.families import Spec
from canaryproxy.judging.history import History
from canaryproxy.judging.lottery import LotteryTest, TestSettings
from canaryproxy.judging.metrics import FALLBACK
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.units import Lottery, Units
from canaryproxy.judging.verdicts import looks_worse, reaches
from canaryproxy.measure.routing import POSITIONS
from tests.simulation.worlds import TICK, Bools, Release

PLAN = (1.0, 5.0, 25.0, 50.0, 100.0)
SETTINGS = JudgeSettings(steps=PLAN)
"""The defaults, and a plan of five steps of which four are judged."""


@dataclass(frozen=True)
class Metric:
    """Which of the product's metrics judges the bad answers of a world."""

    name: str = metrics.ERRORS
    margin: float | None = None
    """Difference that trips; ``None``: the product's."""
    by_user: bool = True
    """Whether request counting takes at most one trial of a user in ten seconds."""
    routes: bool = False
    """Whether 32 routes are judged one by one, by what each of them has of α."""
    alone: bool = False
    """Whether only the traffic of one of them is drawn."""

    def judged(self, *, first_step: bool = True, late: float = 0.0) -> tuple[Spec, TestSettings]:
        """Return the metric and the limits of its test: the product's shares of α with its defaults.

        A lottery that begins at position 0 is that of a plan's first step, whatever its weight, and the
        others are alike. ``late``: share of stable's answers that are late before the step.
        """
        limits = replace(FALLBACK, shares={metrics.LATENCY: late})
        found = families.specs(SETTINGS, limits)
        share = families.step_share(SETTINGS, PLAN[0 if first_step else 1], 0)
        specs = families.route_specs(SETTINGS) if self.routes else found
        spec = next(spec for spec in specs if spec.name == self.name)
        if self.routes:
            alpha = families.route_alpha_of(spec, found, SETTINGS, share)
        else:
            alpha = families.alpha_of(spec, found, SETTINGS, share)
            if spec.name == metrics.LATENCY:
                alpha = families.warming(alpha, warm=True)
        if self.margin is not None:
            spec = replace(spec, margin=self.margin)
        return spec, TestSettings(
            log_limit=-log(alpha),
            log_hold=families.log_hold(found, SETTINGS, route=self.routes),
            margin=spec.trip_margin,
            looks=not self.routes,
        )


ERRORS = Metric()
SLOW = Metric(metrics.LATENCY, by_user=False)
ROUTES = Metric(routes=True)


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
    """Whether at the end the canary looks worse by the margin and by two standard errors, so that it is not
    promoted."""
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
    if not metric.routes or metric.alone:
        return _test(release, metric, None, placebos, history)
    runs = [
        _test(release, metric, release.route == route, 0, history)
        for route in range(int(release.route.max()) + 1)
    ]
    first = min(runs, key=lambda run: inf if run.tick is None else run.tick)
    return replace(first, held=any(run.held for run in runs), worse=any(run.worse for run in runs))


def course(release: Release, metric: Metric) -> list[float]:
    """Return the logarithm of the evidence after each tick, until the test trips."""
    return [test.log_evidence for test in _play(release, judged_on(release, metric)[1])]


def judged_on(release: Release, metric: Metric) -> tuple[Spec, TestSettings]:
    """Return the metric and the limits of its test in the step of a release."""
    before = release.bad[release.keyed & (release.t < 0)]
    late = float(before.mean()) if len(before) else 0.0
    return metric.judged(first_step=release.first == 0, late=late)


def _test(
    release: Release, metric: Metric, only: Bools | None, placebos: int, history: bool
) -> Run:
    spec, settings = judged_on(release, metric)
    held, tick, test = False, None, None
    for at_tick, test in enumerate(_play(release, settings, only, placebos, history=history)):
        held = held or (test.suspect and reaches(spec, test.estimate()))
        tick = at_tick if test.breach else None
    assert test is not None
    worse = looks_worse(spec, test.estimate(), SETTINGS.min_users)
    placebo = (test.placebo.tripped, test.placebo.of) if placebos else (0, 0)
    return at(release, tick, held=held or tick is not None, worse=worse, placebos=placebo)


def _play(
    release: Release,
    settings: TestSettings,
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
    test = LotteryTest(lottery, units, settings, 0.0, past, placebos)
    for tick, (begin, end) in enumerate(pairwise(bounds)):
        for row, bad in zip(rows[begin:end], bads[begin:end], strict=True):
            test.add(row, bad)
        test.tick((tick + 1) * TICK)
        yield test
        if test.breach:
            return
