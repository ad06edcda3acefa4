"""Forecast of a plan: how soon each step would detect a regression, and how many users it would affect.

The evidence is that of the live judge, along its expected path: for every canary request, stable has its
share of requests, and both have their rates' worth of events. The logarithm of the evidence is linear in
the counts, so the request at which the path reaches the limit is near the median of what happens; one
release in twenty needs about twice as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, log
from typing import Any

from canaryproxy.config.text import count, duration, percent, weight
from canaryproxy.judging.evidence import LiveTest
from canaryproxy.release.rollout import Step

SHORTEST_BAKE = 300.0
"""Seconds under which a bake is warned about."""
LARGEST_FIRST = 5.0
"""Percent above which a first step is warned about."""
LONGEST_WAIT = 3600.0
"""Seconds of waiting for evidence after which a weight is said to have too few users."""

_MOST_REQUESTS = 10_000_000.0


@dataclass(frozen=True, slots=True)
class Catch:
    """The detection of a regression by a step; ``None`` where it would not be detected."""

    canary_rate: float
    """Error rate of the canary, 0..1."""
    requests: int | None
    """Canary requests until the circuit opens, about the median."""
    seconds: float | None
    """The time that they take."""
    hurt: int | None
    """Users who get an error until then."""
    in_time: bool
    """Whether that is before the step is left."""


@dataclass(frozen=True, slots=True)
class StepForecast:
    """The forecast of one step."""

    weight: float
    """Percent of users."""
    bake: float
    """Seconds, as configured."""
    lasts: float | None
    """Seconds until bake time and ``min_requests`` are reached; ``None`` without traffic."""
    requests: float
    """Canary requests until then."""
    catches: tuple[Catch, ...]
    """One for each regression; none at weight 0 or 100, where there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a plan, and warnings about it."""

    steps: tuple[StepForecast, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def requests_until_caught(
    stable_rate: float,
    canary_rate: float,
    weight: float,
    alpha: float = 0.001,
    metrics: int = 3,
    margin: float = 0.01,
) -> int | None:
    """Return the canary requests until a breach along the expected path; ``None`` if there is none.

    Rates are fractions, ``weight`` is percent, ``metrics`` is the number of metrics that share α.
    """
    if not 0.0 < weight < 100.0 or canary_rate <= stable_rate:
        return None
    if canary_rate - stable_rate < margin - 1e-12:
        return None
    limit = log(metrics / alpha)
    test = LiveTest()
    stable_share = (100.0 - weight) / weight
    done, batch = 0.0, 1.0
    while done < _MOST_REQUESTS:
        n_s = batch * stable_share
        test.add(n_s, n_s * stable_rate, batch, batch * canary_rate)
        done += batch
        if test.log_e >= limit:
            return ceil(done)
        batch = max(1.0, done // 50)
    return None


def forecast(
    steps: Sequence[Step],
    rps: float,
    error_rate: float,
    regressions: Sequence[float] | None = None,
    alpha: float = 0.001,
    metrics: int = 3,
    margin: float = 0.01,
) -> Forecast:
    """Return the forecast of each step at ``rps`` requests a second of both variants together.

    ``error_rate`` is stable's. ``regressions`` are error rates of the canary; by default all requests,
    half of them, five margins more and two margins more than stable.
    """
    if not rps >= 0.0:
        raise ValueError(f"rps must be at least 0, found {rps!r}")
    if not 0.0 <= error_rate < 1.0:
        raise ValueError(f"error rate must lie between 0 and 1, found {error_rate!r}")
    if regressions is None:
        usual = (1.0, 0.5, error_rate + 5 * margin, error_rate + 2 * margin)
        regressions = sorted({min(rate, 1.0) for rate in usual if rate > error_rate}, reverse=True)
    forecasts = tuple(
        _step(step, rps, error_rate, regressions, alpha, metrics, margin) for step in steps
    )
    return Forecast(forecasts, tuple(_warnings(steps, forecasts, error_rate, margin)))


def _step(
    step: Step,
    rps: float,
    error_rate: float,
    regressions: Sequence[float],
    alpha: float,
    metrics: int,
    margin: float,
) -> StepForecast:
    pace = rps * step.weight / 100.0
    lasts = max(step.bake, max(step.min_requests, 1) / pace) if pace else None
    catches = []
    for rate in regressions if 0.0 < step.weight < 100.0 else ():
        needed = requests_until_caught(error_rate, rate, step.weight, alpha, metrics, margin)
        if needed is None or lasts is None:
            catches.append(Catch(rate, needed, None, None, in_time=False))
            continue
        seconds = needed / pace
        hurt = max(round(needed * rate), 1)
        catches.append(Catch(rate, needed, seconds, hurt, in_time=seconds <= lasts))
    return StepForecast(step.weight, step.bake, lasts, pace * (lasts or 0.0), tuple(catches))


def _warnings(
    steps: Sequence[Step], forecasts: Sequence[StepForecast], error_rate: float, margin: float
) -> list[str]:
    found = []
    compared = [
        (number, step, seen)
        for number, (step, seen) in enumerate(zip(steps, forecasts, strict=True), 1)
        if step.weight < 100.0
    ]
    if steps and steps[0].weight > LARGEST_FIRST:
        found.append(
            f"step 1: {weight(steps[0].weight)} of users is a lot for a first step; "
            f"with {weight(LARGEST_FIRST)} or less, a broken release affects few users"
        )
    for number, step, seen in compared:
        if step.bake < SHORTEST_BAKE:
            found.append(
                f"step {number}: a bake of {duration(step.bake)} is short; "
                f"a slow regression needs {duration(SHORTEST_BAKE)} or more to show"
            )
        if seen.lasts is None:
            found.append(f"step {number}: no traffic, so the step never ends")
            continue
        missed = [one for one in seen.catches if one.requests is not None and not one.in_time]
        if missed:
            least = missed[0]
            found.append(
                f"step {number}: {count(seen.requests)} canary requests in {duration(seen.lasts)} cannot "
                f"show a rise to {percent(least.canary_rate)}; that takes about {count(least.requests)} "
                f"requests, {duration(least.seconds or 0.0)}"
            )
        if seen.lasts > step.bake > 0.0:
            found.append(
                f"step {number}: {count(step.min_requests)} requests take {duration(seen.lasts)} at this "
                f"traffic, longer than the bake"
            )
    slow = [
        one
        for _, _, seen in compared[:1]
        for one in seen.catches
        if one.canary_rate >= error_rate + 5 * margin
        and one.seconds is not None
        and one.seconds > LONGEST_WAIT
    ]
    if slow:
        found.append(
            f"step 1: too few users at this weight: detecting a rise to {percent(slow[-1].canary_rate)} "
            f"would take {duration(slow[-1].seconds or 0.0)}; "
            "start with a beta group selected by a match rule, or with a larger weight"
        )
    return found
