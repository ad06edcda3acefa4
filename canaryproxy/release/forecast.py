"""Forecast of a plan: how soon each step would detect a regression, and how many users it would affect.

The test is that of the live judge (``judging.lottery.LotteryTest``, with its share of α at that step), along
an expected path: the canary has its share of requests and both sides their rates' worth of failures, evenly
spread, and each request is of a user taken at random. So the request at which the test trips is near the
median of what happens; one release in twenty needs about twice as many. Five paths are walked, which begin
differently, and their median is taken. They have seeds, and a forecast does not change from run to run.

A path of more than 30,000 requests is cut short, and the rest is extrapolated: in the long run the logarithm
of the evidence grows in proportion to requests.

No evidence exceeds the number of ways in which the canary's users could have been drawn. Where these are too
few, only the guard rail can act, which counts requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, inf, log
from random import Random
from typing import Any

from canaryproxy.config.text import count, duration, percent, plural, weight
from canaryproxy.judging import families, metrics
from canaryproxy.judging.history import History
from canaryproxy.judging.look import log_choose
from canaryproxy.judging.lottery import LotteryTest, TestSettings
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.units import Lottery, Units
from canaryproxy.measure.routing import FINE, POSITIONS
from canaryproxy.release.rollout import Step

SHORTEST_BAKE = 300.0
"""Seconds under which a bake is warned about."""
LARGEST_FIRST = 5.0
"""Percent above which a first step is warned about."""
LONGEST_WAIT = 3600.0
"""Seconds of waiting for evidence after which a weight is said to have too few users."""

_USUAL = JudgeSettings()
_TICK = 0.1
_MOST_REQUESTS = 30_000
_PATHS = 5
_BASELINE = 2000
"""Requests of stable before the step, at most; more would tell nothing new."""
_STAKES = 1.5
"""About ln(1/stake) of the part of the test that is quickest: what evidence must reach beyond its limit."""
_RAIL_POINTS = 0.1
"""Canary rates so much above the rail's limit hit it with the first ``min_requests``."""


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
    rail: bool = False
    """Whether the guard rail is quicker than evidence, or there are too few users for evidence."""


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
    users: float | None
    """Users that the step moves to the canary and that are compared; ``None``: not known."""
    catches: tuple[Catch, ...]
    """One for each regression; none at weight 0 or 100, where there is nothing to compare."""
    cohort: str | None = None
    """The cohort that it is about: how many users it has is not known, so nothing is estimated."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a plan, and warnings about it."""

    steps: tuple[StepForecast, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of both variants together, as far as it is known."""

    rps: float
    """Requests per second."""
    error_rate: float
    """Stable's, 0..1."""
    users: int | None = None
    """Users who ask during a step; ``None``: each request is of another user."""

    def __post_init__(self) -> None:
        if not self.rps >= 0.0:
            raise ValueError(f"rps must be at least 0, found {self.rps!r}")
        if not 0.0 <= self.error_rate < 1.0:
            raise ValueError(f"error rate must lie between 0 and 1, found {self.error_rate!r}")
        if self.users is not None and self.users < 1:
            raise ValueError(f"users must be at least 1, found {self.users!r}")


@dataclass(frozen=True, slots=True)
class Detection:
    """When a test trips along the expected path."""

    requests: int
    """Canary requests until then."""
    users: int
    """Users of the canary with a bad answer until then."""


def detection(
    traffic: Traffic, canary_rate: float, before: float, to: float, test: TestSettings
) -> Detection | None:
    """Return when the step from weight ``before`` to weight ``to`` (percent) trips by evidence.

    ``None``: never, because the difference is below the margin or there are too few users.
    """
    lottery = Lottery(round(before * 100) * FINE, round(to * 100) * FINE, POSITIONS)
    if not (lottery.canary and lottery.stable and traffic.rps > 0.0):
        return None
    if canary_rate - traffic.error_rate < max(test.margin - 1e-12, 1e-12):
        return None
    if (
        traffic.users is not None
        and _most_evidence(traffic.users, lottery) < test.log_limit + _STAKES
    ):
        return None
    paths = [
        _Path(traffic, canary_rate, lottery, test, (at + 0.5) / _PATHS) for at in range(_PATHS)
    ]
    found = [path.walk() for path in paths]
    if sum(one is None for one in found) > _PATHS // 2:
        return None
    all_of_canary = to / (to - before)  # users who were moved by earlier steps are hurt as well
    requests, users = (
        sorted(inf if one is None else getattr(one, name) for one in found)[_PATHS // 2]
        for name in ("requests", "users")
    )
    return Detection(round(requests * all_of_canary), round(users * all_of_canary))


def _most_evidence(users: int, lottery: Lottery) -> float:
    """Return the logarithm of the number of ways to draw the canary's users among those of the lottery."""
    canary, stable = (round(users * side / POSITIONS) for side in (lottery.canary, lottery.stable))
    return log_choose(canary + stable, canary)


class _Path:
    """An expected path: what comes when is even, whose it is is random."""

    def __init__(
        self,
        traffic: Traffic,
        canary_rate: float,
        lottery: Lottery,
        settings: TestSettings,
        phase: float,
    ) -> None:
        self._random = Random(phase)  # noqa: S311 - not for secrets
        self._phase = phase
        self._units = Units()
        self._lottery = lottery
        self._rates = (traffic.error_rate, canary_rate)
        self._pace = traffic.rps * (lottery.last - lottery.first) / POSITIONS
        self._share = lottery.canary / (lottery.canary + lottery.stable)
        sides = ((lottery.limit, lottery.last), (lottery.first, lottery.limit))
        self._users: tuple[list[int], list[int]] | None = None
        """Positions of the users of each side; those who ask get rows."""
        if traffic.users is not None:
            draw = self._random.randrange
            stable, canary = (
                [draw(*side) for _ in range(round(traffic.users * (side[1] - side[0]) / POSITIONS))]
                for side in sides
            )
            self._users = (stable, canary)
        self._sides = sides
        self._due = [phase, phase]
        history = History()
        for _ in range(min(round(traffic.rps * 60.0), _BASELINE)):
            history.add((self._row(0) << 1 | self._is_bad(0, traffic.error_rate),))
        self._due = [phase, 1.0 - phase]
        self._test = LotteryTest(lottery, self._units, settings, 0.0, history)
        self._limit = settings.log_limit

    def _row(self, canary: int) -> int:
        if self._users is None:
            return self._units.row(self._random.randrange(*self._sides[canary]))
        return self._units.row(self._random.choice(self._users[canary]))

    def _is_bad(self, canary: int, rate: float) -> bool:
        self._due[canary] += rate
        if self._due[canary] < 1.0:
            return False
        self._due[canary] -= 1.0
        return True

    def walk(self) -> Detection | None:
        """Go until the test trips."""
        asked = done = 0
        hurt: set[int] = set()
        test, turn, ticks = self._test, self._phase, 0
        each = self._pace * _TICK
        while done < _MOST_REQUESTS:
            ticks += 1
            came = (ticks - self._phase) * each
            if came < done + 1:  # on to the tick of the next request
                ticks = ceil((done + 1) / each + self._phase)
                came = (ticks - self._phase) * each
            while done < int(came):
                done += 1
                turn += self._share
                canary = int(turn >= 1.0)
                turn -= canary
                row = self._row(canary)
                bad = self._is_bad(canary, self._rates[canary])
                asked += canary
                if canary and bad:
                    hurt.add(row)
                test.add(row, bad)
            test.tick(ticks * _TICK)
            if test.breach:
                return Detection(asked, len(hurt))
        grown = (self._limit + _STAKES) / max(test.log_evidence + _STAKES, 0.1)
        return Detection(ceil(asked * grown), ceil(len(hurt) * grown)) if grown < 100.0 else None


def settings_at(settings: JudgeSettings, steps: Sequence[Step], number: int) -> TestSettings | None:
    """Return the test of errors at a step of the plan (from 0); ``None`` if errors are not judged."""
    settings = replace(
        settings,
        steps=tuple(step.weight for step in steps if step.cohort is None),
        cohort_steps=tuple((step.cohort, step.weight) for step in steps if step.cohort is not None),
    )
    found = families.specs(settings, metrics.FALLBACK)
    errors = [spec for spec in found if spec.name == metrics.ERRORS]
    if not errors:
        return None
    share = families.step_share(settings, steps[number].weight, 1)
    alpha = families.alpha_of(errors[0], found, settings, share)
    return TestSettings(-log(alpha), families.log_hold(found, settings), errors[0].margin)


def forecast(
    steps: Sequence[Step],
    traffic: Traffic,
    regressions: Sequence[float] | None = None,
    settings: JudgeSettings = _USUAL,
) -> Forecast:
    """Return the forecast of each step.

    ``regressions`` are error rates of the canary; by default all requests, half of them, five margins more
    and two margins more than stable.
    """
    if regressions is None:
        rate, margin = (
            traffic.error_rate,
            0.01 if settings.errors is None else settings.errors.margin,
        )
        usual = (1.0, 0.5, rate + 5 * margin, rate + 2 * margin)
        regressions = sorted({min(one, 1.0) for one in usual if one > rate}, reverse=True)
    forecasts = tuple(
        _step(steps, number, traffic, regressions, settings) for number in range(len(steps))
    )
    return Forecast(forecasts, tuple(_warnings(steps, forecasts, traffic, settings)))


def _step(
    steps: Sequence[Step],
    number: int,
    traffic: Traffic,
    regressions: Sequence[float],
    settings: JudgeSettings,
) -> StepForecast:
    step = steps[number]
    if step.cohort is not None:
        return StepForecast(step.weight, step.bake, None, 0.0, None, (), step.cohort)
    earlier = [one.weight for one in steps[:number] if one.cohort is None]
    before = max((weight for weight in earlier if weight < step.weight), default=0.0)
    pace = traffic.rps * step.weight / 100.0
    lasts = max(step.bake, max(step.min_requests, 1) / pace) if pace else None
    test = settings_at(settings, steps, number) if 0.0 < step.weight < 100.0 else None
    catches = []
    for rate in regressions if test is not None else ():
        assert test is not None
        found = detection(traffic, rate, before, step.weight, test)
        rail = _rail(traffic, rate, step.weight, settings)
        by_rail = rail is not None and (found is None or rail.requests < found.requests)
        found = rail if by_rail else found
        if found is None or lasts is None:
            needed = None if found is None else found.requests
            catches.append(Catch(rate, needed, None, None, in_time=False))
            continue
        seconds = found.requests / pace
        hurt = max(found.users, 1)
        catches.append(Catch(rate, found.requests, seconds, hurt, seconds <= lasts, by_rail))
    moved = None if traffic.users is None else traffic.users * (step.weight - before) / 100.0
    return StepForecast(step.weight, step.bake, lasts, pace * (lasts or 0.0), moved, tuple(catches))


def _rail(
    traffic: Traffic, canary_rate: float, to: float, settings: JudgeSettings
) -> Detection | None:
    """Return when the guard rail on failed requests is hit at weight ``to`` (percent).

    ``None`` where that is left to chance.
    """
    rails = settings.guard_rails
    if rails is None or rails.errors is None or canary_rate < min(rails.errors + _RAIL_POINTS, 1.0):
        return None
    if traffic.error_rate > rails.errors / 2:
        return None
    hurt = ceil(rails.min_requests * canary_rate)
    if traffic.users is not None:
        hurt = min(hurt, max(round(traffic.users * to / 100.0), 1))
    return Detection(rails.min_requests, hurt)


def _warnings(
    steps: Sequence[Step],
    forecasts: Sequence[StepForecast],
    traffic: Traffic,
    settings: JudgeSettings,
) -> list[str]:
    found = []
    error_rate, margin = (
        traffic.error_rate,
        0.01 if settings.errors is None else settings.errors.margin,
    )
    compared = [
        (number, step, seen)
        for number, (step, seen) in enumerate(zip(steps, forecasts, strict=True), 1)
        if step.weight < 100.0 and step.cohort is None
    ]
    first = next((at for at, step in enumerate(steps) if step.cohort is None), None)
    if first is not None and steps[first].weight > LARGEST_FIRST:
        found.append(
            f"step {first + 1}: {weight(steps[first].weight)} of users is a lot for a first step; "
            f"with {weight(LARGEST_FIRST)} or less, a broken release affects few users"
        )
    found += [
        f"step {number}: how many users {step.cohort} has is not known; it is not left before "
        f"{step.min_users or settings.min_users} of them on the canary were compared"
        for number, step in enumerate(steps, 1)
        if step.cohort is not None
    ]
    for number, step, seen in compared:
        if step.bake < SHORTEST_BAKE:
            found.append(
                f"step {number}: a bake of {duration(step.bake)} is short; "
                f"a slow regression needs {duration(SHORTEST_BAKE)} or more to show"
            )
        if seen.lasts is None:
            found.append(f"step {number}: no traffic, so the step never ends")
            continue
        if seen.users is not None and seen.users < settings.min_users:
            found.append(
                f"step {number}: it moves {plural(round(seen.users), 'user')} to the canary, and is not left "
                f"before {settings.min_users} were compared (judge.min_users); take a larger weight or "
                "a beta group selected by a match rule"
            )
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
        rise = f"detecting a rise to {percent(slow[-1].canary_rate)}"
        found.append(
            f"step {compared[0][0]}: too few users at this weight: {rise} "
            f"would take {duration(slow[-1].seconds or 0.0)}; "
            "start with a beta group selected by a match rule, or with a larger weight"
        )
    return found
