"""The metrics of a judge: their margins, what they may do, and their shares of α.

α is split over metrics by the union bound. A metric's part is fixed: the metrics that are off leave theirs to
the others in proportion, and nothing depends on what is seen. Metrics that only hold have no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from canaryproxy.judging import metrics
from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.metrics import Limits
from canaryproxy.judging.settings import JudgeSettings

ROUTE_PARTS = ((metrics.ERRORS, 0.5), (metrics.ANSWERS, 0.25), (metrics.LATENCY, 0.25))
"""The metrics of one route, and their parts of its α."""
_ROUTES = metrics.BUSIEST + 1
_WARMING_PART = 0.1
"""Part of the α of latency and of throughput that is spent in the warm-up."""
_FIRST_STEP, _OTHER_STEPS, _UNPLANNED = 0.5, 0.45, 0.05


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric of the judge."""

    name: str
    part: float = 0.0
    """Its part of α before it is shared out, 0: it only holds."""
    margin: float = 0.01
    """Change that matters."""
    gross: float | None = None
    """Change that trips, if it is another."""
    relative: bool = False
    """Whether the margin is relative to stable's rate; else it is absolute."""
    direction: Direction = "increase"
    """Which change is bad."""
    trial: str = "request"
    """What a trial is."""

    @property
    def trips(self) -> bool:
        """Whether it can open the circuit."""
        return self.part > 0

    @property
    def trip_margin(self) -> float:
        """Change from which it opens the circuit."""
        return self.margin if self.gross is None else self.gross


def specs(settings: JudgeSettings, limits: Limits) -> list[Spec]:
    """Return the metrics in the order in which they are shown; their parts of α add up to 1 with routes."""
    found: list[Spec] = []
    if settings.errors is not None:
        found.append(Spec(metrics.ERRORS, 0.25, settings.errors.margin))
    if settings.latency is not None:
        allowed = 1.0 - settings.latency.quantile
        excess = max(allowed - limits.shares.get(metrics.LATENCY, 0.0), allowed / 2)
        found.append(Spec(metrics.LATENCY, 0.2, excess))
        found.append(Spec(metrics.P50, margin=0.1))
        found.append(Spec(metrics.P95, margin=0.03))
        found.append(Spec(metrics.P99, margin=0.005))
    if settings.throughput is not None:
        found.append(Spec(metrics.THROUGHPUT, 0.1, settings.throughput.margin))
    if settings.classes is not None:
        rule = settings.classes
        found += [Spec(name, 0.025, rule.margin, rule.gross) for name in metrics.CLASSES]
    if settings.connections is not None:
        found.append(Spec(metrics.CONNECTIONS, 0.03, settings.connections.margin))
    if settings.content is not None:
        content = settings.content
        if content.size:
            found.append(Spec(metrics.SIZE, margin=content.margin))
        if content.type:
            found.append(Spec(metrics.CONTENT_TYPE, margin=content.margin))
    business = settings.business
    if business is not None:
        found.append(
            Spec(
                metrics.BUSINESS,
                0.06,
                business.margin,
                relative=True,
                direction=business.direction,
                trial="interval",
            )
        )
    for outcome in settings.outcomes:
        found.append(Spec(outcome.name, 0.06 / len(settings.outcomes), outcome.margin))
    names = [spec.name for spec in found]
    for name in names:
        if names.count(name) > 1 or name == "requests":
            raise ValueError(f"an outcome cannot be named {name!r}")
    return found


def route_specs(settings: JudgeSettings) -> list[Spec]:
    """Return the metrics of one route: those that are on for the service."""
    margins = {metrics.ERRORS: 0.1, metrics.ANSWERS: 0.3, metrics.LATENCY: 0.1}
    rules = {
        metrics.ERRORS: settings.errors,
        metrics.ANSWERS: settings.classes,
        metrics.LATENCY: settings.latency,
    }
    return [
        Spec(name, part, margins[name]) for name, part in ROUTE_PARTS if rules[name] is not None
    ]


_ROUTES_PART = 0.2


def _whole(found: list[Spec], settings: JudgeSettings) -> float:
    has_routes = settings.routes and bool(route_specs(settings))
    return sum(spec.part for spec in found) + (_ROUTES_PART if has_routes else 0.0)


def alpha_of(spec: Spec, found: list[Spec], settings: JudgeSettings, step: float) -> float:
    """Return α of one metric in a step that has the share ``step`` of it all."""
    return settings.alpha * step * spec.part / _whole(found, settings)


def route_alpha_of(spec: Spec, found: list[Spec], settings: JudgeSettings, step: float) -> float:
    """Return α of one metric of one route in a step that has the share ``step`` of it all."""
    of_route = sum(one.part for one in route_specs(settings))
    part = _ROUTES_PART * spec.part / of_route / _ROUTES
    return settings.alpha * step * part / _whole(found, settings)


def log_hold(found: list[Spec], settings: JudgeSettings, *, route: bool = False) -> float:
    """Return ln(1/α_hold) of one metric: shared evenly, the routes together are one of them."""
    share = len(found) + settings.routes
    if route:
        share *= _ROUTES * len(ROUTE_PARTS)
    return log(share / settings.alpha_hold)


def step_share(
    settings: JudgeSettings, weight: float, unplanned: int, cohort: str | None = None
) -> float:
    """Return the share of α of a step of all users, or of a cohort.

    The first of the plan has half of it, the others share 0.45 evenly; a weight (percent) that is not in the
    plan is the ``unplanned``-th change (from 1).
    """
    of_cohorts: list[tuple[str | None, float]] = list(settings.cohort_steps)
    judged = of_cohorts + [(None, step) for step in settings.steps if step < 100.0]
    if not is_planned(settings, weight, cohort) or weight >= 100.0:
        return unplanned_share(settings, unplanned)
    if (cohort, weight) == judged[0]:
        return _FIRST_STEP
    return _OTHER_STEPS / max(len(set(judged)) - 1, 1)


def unplanned_share(settings: JudgeSettings, number: int) -> float:
    """Return the share of α of a change that is not in the plan, the j-th (from 1): 0.05 / (j (j + 1)).

    Without a plan the first has the half, and the others share the rest like this.
    """
    if settings.steps or settings.cohort_steps:
        return _UNPLANNED / (number * (number + 1))
    rest = _OTHER_STEPS + _UNPLANNED
    return _FIRST_STEP if number <= 1 else rest / (number * (number - 1))


def is_planned(settings: JudgeSettings, weight: float, cohort: str | None = None) -> bool:
    """Whether a step of all users, or of a cohort, is in the plan."""
    if cohort is None:
        return weight in settings.steps
    return (cohort, weight) in settings.cohort_steps


def warming(alpha: float, *, warm: bool) -> float:
    """Return the part of the α of a metric of time for the warm-up, or for the time after it."""
    return alpha * (1.0 - _WARMING_PART if warm else _WARMING_PART)
