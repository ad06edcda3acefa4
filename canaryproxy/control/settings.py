"""The settings that the control plane derives from a configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from canaryproxy.config import Config, Metrics, Split
from canaryproxy.config import Judge as JudgeSection
from canaryproxy.judging import settings as judging
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.measure import counters
from canaryproxy.measure.routing import RouteTable
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan, Step


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The plan of a release and the settings of its judge, under one configuration."""

    release: str | None
    """The release id; ``None`` without a ``release`` section."""
    plan: Plan
    weight: float | None
    """Percent of users without a release; ``None`` with one."""
    salt: bytes
    """Salt of the split (``first_table``)."""
    split: Split
    """The ``split`` section."""
    has_canary: bool
    follows: bool
    """Whether the proxy follows a front, whose split is compared then (``split.follow``)."""
    circuit: CircuitSettings
    judge: JudgeSettings
    evidence_of: JudgeSection
    """The ``judge`` section without cooldown and baseline: evidence starts afresh when this changes."""
    slots: Mapping[str, int]
    """The pair of cells of each outcome (``counters.slots``)."""
    posts_events: bool
    """Whether business events are posted to the admin API."""
    capacity: Literal["off", "warn", "hold"]
    """What follows where a step or a trip would bring more than has been carried."""

    @classmethod
    def of(cls, config: Config, slots: Mapping[str, int] | None = None) -> ControlSettings:
        """Derive the settings; ``slots`` are those in force, whose outcomes keep their cells."""
        release = config.release
        in_force = counters.slots(list(config.judge.outcomes), slots or {})
        business = config.judge.metrics.business
        return cls(
            release=config.release_id,
            plan=plan(config),
            weight=config.split.weight if release is None else None,
            salt=first_table(config).salt,
            split=config.split,
            has_canary=config.variants.canary is not None,
            follows=config.split.follow is not None,
            circuit=CircuitSettings(cooldown=config.judge.cooldown if config.reversible else None),
            judge=judge_settings(config, in_force),
            evidence_of=config.judge.model_copy(update={"cooldown": None, "baseline": 0.0}),
            slots=in_force,
            posts_events=business is not None and business.outcome == "events",
            capacity="off" if release is None else release.capacity,
        )


def plan(config: Config) -> Plan:
    """Return the plan of the release; without one it has no steps."""
    release = config.release
    if release is None:
        return Plan(())
    return Plan(
        tuple(
            Step(
                step.weight,
                step.bake,
                step.min_requests,
                config.judge.min_users if step.min_users is None else step.min_users,
                hold_back=step == release.held,
                cohort=step.cohort,
            )
            for step in release.plan
        ),
        release.promote,
        gated=bool(release.gates),
        baseline=config.judge.baseline,
        reversible=release.reversible,
        ramp_down=0.0 if release.ramp_down is None else release.ramp_down.over,
    )


def first_table(config: Config) -> RouteTable:
    """Return the route table that a configuration starts with.

    With a release the canary gets no users until the controller publishes a step, and the release id is the
    salt; without one ``split.weight`` holds. Without a canary the weight is 0.
    """
    release = config.release
    weight = config.split.weight if release is None else 0.0
    salt = config.split.salt
    if salt is None:
        salt = "" if release is None else release.id
    return RouteTable(
        weight=weight if config.variants.canary is not None else 0.0,
        salt=salt.encode(),
        new_sessions_only=config.split.admit == "new_sessions",
    )


def judge_settings(config: Config, slots: Mapping[str, int]) -> JudgeSettings:
    """Return the settings of the judge under a configuration; ``slots`` are those of the outcomes."""
    judge, metrics, release = config.judge, config.judge.metrics, config.release
    canary, steps = config.variants.canary, () if release is None else release.plan
    return JudgeSettings(
        alpha=judge.alpha,
        alpha_hold=judge.alpha_hold,
        errors=None if metrics.errors is None else judging.ErrorsRule(metrics.errors.margin),
        latency=_latency(metrics),
        throughput=None if metrics.throughput is None else judging.ThroughputRule(),
        classes=None
        if metrics.classes is None
        else judging.ClassesRule(metrics.classes.margin, metrics.classes.gross),
        content=_content(metrics),
        connections=None
        if metrics.connections is None
        else judging.ConnectionsRule(metrics.connections.margin),
        business=_business(metrics, slots),
        outcomes=tuple(
            judging.OutcomeRule(name, outcome.margin, slots[name])
            for name, outcome in judge.outcomes.items()
            if outcome.bad
        ),
        guard_rails=_rails(judge),
        routes=judge.routes != {},
        named=tuple((judge.routes or {}).items()),
        steps=tuple(step.weight for step in steps if step.cohort is None),
        cohort_steps=tuple((one.cohort, one.weight) for one in steps if one.cohort is not None),
        min_users=judge.min_users,
        warmup=judge.warmup,
        endpoints=1 if canary is None else len(canary.endpoints),
        not_up=judge.not_up,
    )


def _latency(metrics: Metrics) -> judging.LatencyRule | None:
    rule = metrics.latency
    return (
        None
        if rule is None
        else judging.LatencyRule(rule.quantile, rule.margin, rule.p50, rule.p99)
    )


def _content(metrics: Metrics) -> judging.ContentRule | None:
    rule = metrics.content
    return None if rule is None else judging.ContentRule(rule.margin, rule.size, rule.type)


def _business(metrics: Metrics, slots: Mapping[str, int]) -> judging.BusinessRule | None:
    rule = metrics.business
    if rule is None:
        return None
    slot = slots.get(rule.outcome)
    return judging.BusinessRule(
        rule.margin, rule.direction, slot, None if slot is None else rule.outcome
    )


def _rails(judge: JudgeSection) -> judging.GuardRails | None:
    rails = judge.guard_rails
    if rails is None:
        return None
    if rails.errors is None:
        return judging.GuardRails(
            client_errors=rails.client_errors, min_requests=rails.min_requests
        )
    return judging.GuardRails(rails.errors, rails.client_errors, rails.min_requests, absolute=True)
