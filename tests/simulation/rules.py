"""Rules that decide when a canary is rolled back: ours, and others as their documents describe them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canaryproxy.judging.evidence import EProcess
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import (
    BusinessRule,
    ErrorsRule,
    JudgeSettings,
    LatencyRule,
    OutcomeRule,
    ThroughputRule,
)
from canaryproxy.judging.verdict import Sample
from tests.simulation.world import TICK, Ints, Ticks

FIVE_METRICS = JudgeSettings(
    alpha=0.001,
    alpha_hold=0.05,
    errors=ErrorsRule(margin=0.01),
    latency=LatencyRule(),
    throughput=ThroughputRule(),
    business=BusinessRule(),
    outcomes=(OutcomeRule("bad_answer"),),
)
"""α = 0.001 shared over five metrics."""


@dataclass(frozen=True)
class Run:
    """What became of one release."""

    tick: int | None
    """The tick of the rollback."""
    requests: int | None
    """Canary requests routed up to then."""
    suspect: bool = False
    """Whether it was ever held."""


KEPT = Run(None, None)


def _at(ticks: Ticks, tick: int, suspect: bool = True) -> Run:
    return Run(tick, int(ticks.routed_c[tick]), suspect)


def ours(ticks: Ticks, metric: str = "errors") -> Run:
    """``canaryproxy.judge`` itself, observing every tick."""
    judge = Judge(FIVE_METRICS)
    growing = [_growing(cell) for cell in (ticks.n_s, ticks.e_s, ticks.n_c, ticks.e_c)]
    stalls = [_growing(cell) for cell in ticks.stalls or ()]
    suspect = False
    judge.observe(
        0.0, Sample({metric: (0, 0), "throughput": (0, 0)}, {metric: (0, 0), "throughput": (0, 0)})
    )
    for at in range(len(ticks.n_s)):
        n_s, e_s, n_c, e_c = (cell[at] for cell in growing)
        stable, canary = {metric: (n_s, e_s)}, {metric: (n_c, e_c)}
        if stalls:
            stable["throughput"] = (stalls[0][at], stalls[1][at])
            canary["throughput"] = (stalls[2][at], stalls[3][at])
        level = judge.observe((at + 1) * TICK, Sample(stable, canary)).level
        suspect = suspect or level == "suspect"
        if level == "breach":
            return _at(ticks, at)
    return Run(None, None, suspect)


def _growing(cell: Ints) -> list[int]:
    return [int(value) for value in np.cumsum(cell)]


def formula(ticks: Ticks) -> Run:
    """The plain mixture of ``EProcess`` with the same α and margin, to see what the rest gains."""
    process = EProcess()
    limit = float(np.log(5 / 0.001))
    totals = np.zeros(4)
    for at, row in enumerate(zip(ticks.n_s, ticks.e_s, ticks.n_c, ticks.e_c, strict=True)):
        counts = [int(value) for value in row]
        process.add(*counts)
        totals += counts
        if process.log_e >= limit and totals[3] / totals[2] - totals[1] / totals[0] >= 0.01:
            return _at(ticks, at)
    return KEPT


def _each_second(ticks: Ticks) -> tuple[NDArray[np.float64], ...]:
    stop = np.arange(9, len(ticks.n_s), 10)
    return tuple(
        np.cumsum(cell)[stop].astype(float) for cell in (ticks.n_s, ticks.e_s, ticks.n_c, ticks.e_c)
    )


def _first(ticks: Ticks, hit: NDArray[np.bool_]) -> Run:
    return _at(ticks, int(np.argmax(hit)) * 10 + 9) if hit.any() else KEPT


def naive(ticks: Ticks) -> Run:
    """Canary's rate above stable's by a point, after a hundred requests, looked at every second."""
    n_s, e_s, n_c, e_c = _each_second(ticks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _first(ticks, (n_c >= 100) & (e_c / n_c > e_s / n_s + 0.01))


def z_test(ticks: Ticks) -> Run:
    """A two-proportion z-test at 5 % (one-sided), after 30 requests, looked at every second."""
    n_s, e_s, n_c, e_c = _each_second(ticks)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (e_s + e_c) / (n_s + n_c)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n_s + 1 / n_c))
        return _first(ticks, (n_c >= 30) & ((e_c / n_c - e_s / n_s) / spread > 1.6449))


MINUTE = 600
"""Ticks of a minute."""


def _by_interval(ticks: Ticks, length: int) -> tuple[Ints, Ints, Ints, Ints]:
    count = len(ticks.n_s) // length
    parts = [
        cell[: count * length].reshape(count, length).sum(axis=1)
        for cell in (ticks.n_s, ticks.e_s, ticks.n_c, ticks.e_c)
    ]
    return parts[0], parts[1], parts[2], parts[3]


def _after_failures(ticks: Ticks, bad: NDArray[np.bool_], allowed: int, length: int) -> Run:
    failures = np.cumsum(bad)
    if not len(failures) or failures[-1] < allowed:
        return KEPT
    return _at(ticks, (int(np.argmax(failures >= allowed)) + 1) * length - 1)


def flagger(ticks: Ticks) -> Run:
    """Flagger's example: success rate of the canary under 99 % in a minute; the fifth time rolls back."""
    _, _, n_c, e_c = _by_interval(ticks, MINUTE)
    return _after_failures(ticks, e_c > 0.01 * n_c, 5, MINUTE)


def argo(ticks: Ticks) -> Run:
    """Argo Rollouts' example: success rate under 95 % in five minutes; the third time aborts."""
    _, _, n_c, e_c = _by_interval(ticks, 5 * MINUTE)
    return _after_failures(ticks, e_c > 0.05 * n_c, 3, 5 * MINUTE)


def kayenta(ticks: Ticks) -> Run:
    """Kayenta's default judge on error rates by the minute, looked at every ten minutes.

    Mann-Whitney with a confidence of 98 %: the canary is high if the lower end of the interval for the
    shift is above a quarter of its estimate.
    """
    n_s, e_s, n_c, e_c = _by_interval(ticks, MINUTE)
    stable, canary = e_s / np.maximum(n_s, 1), e_c / np.maximum(n_c, 1)
    for stop in range(10, len(stable) + 1, 10):
        shifts = np.sort((canary[:stop, None] - stable[None, :stop]).ravel())
        spread = np.sqrt(stop * stop * (2 * stop + 1) / 12)
        low = shifts[max(int(stop * stop / 2 - 2.3263 * spread), 0)]
        if low > 0 and low > 0.25 * float(np.median(shifts)):
            return _at(ticks, stop * MINUTE - 1)
    return KEPT
