"""The state of a release in short, for lists of services and proxies, and whether it needs a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from canaryproxy.control.controller import Status
from canaryproxy.control.release_view import (
    CircuitState,
    CohortShare,
    Count,
    ReleaseState,
    View,
    users_on_canary,
)
from canaryproxy.release.summary import Kind, summary

Attention = Literal[
    "tripped", "breach", "suspect", "held", "unreachable", "configuration", "waiting", "none"
]
ATTENTION: tuple[Attention, ...] = (
    "tripped", "breach", "suspect", "held", "unreachable", "configuration", "waiting", "none",
)  # fmt: skip
"""Why a service or a proxy needs a person, the most urgent first."""


class PlannedStep(View):
    """One step of the plan, in short."""

    weight: float = Field(description="Percent of users on the canary.")
    bake: float = Field(description="Minimum seconds on this step.")


class Replica(View):
    """The place of this replica in its fleet."""

    group: str = Field(description="Name of the fleet.")
    replica: str = Field(description="Name of this replica.")
    replicas: Count = Field(description="Live replicas; 0: not known.")
    leads: bool = Field(description="This replica takes the steps.")


class Brief(View):
    """Where the release of a service is, in short."""

    attention: Attention = Field(
        description="Why it needs a person; services are in the order of these words."
    )
    release: str | None = Field(description="Id of its release; null: none is configured.")
    state: ReleaseState
    since: float | None = Field(
        description="When its state or step began, or its circuit opened, in seconds since the epoch; null:"
        " no release has begun."
    )
    step: Count = Field(description="Number of the step, from 1; 0: none.")
    steps: Count = Field(description="Number of steps.")
    weight: float = Field(description="Percent of its users on the canary.")
    cohorts: list[CohortShare] = Field(
        description="The cohorts with users on the canary besides, as routed now."
    )
    share: str = Field(
        description="The users on the canary, in words.", examples=["1% of users, 50% of staff"]
    )
    ready: bool = Field(description="The next step waits for an operator's resume.")
    circuit: CircuitState
    cause: str | None = Field(None, description="Why the circuit is not closed.")
    verdict: Kind
    said: str = Field(description="The verdict in one sentence.")
    problems: list[str] = Field(description="What else is wrong with it: state file, fleet.")
    fleet: Replica | None = Field(description="null: this proxy belongs to no fleet.")
    plan: list[PlannedStep] = Field(description="The steps.")


def brief(status: Status, fleet: Mapping[str, Any] | None) -> Brief:
    """Return a release in short; ``fleet`` is the part of the release document about it."""
    here, broken, plan = status.rollout, status.circuit, status.plan
    verdict = summary(status.assessment, broken, here.accepted)
    state = here.state.value
    opened = state == "tripped"
    problems = problems_of(status.unsaved, fleet)
    return Brief(
        attention=attention(state, verdict.kind, ready=here.ready, problems=problems),
        release=status.release,
        state=state,
        since=(broken.since if opened else here.since) or None,
        step=here.step + 1 if plan.steps and not here.learning else 0,
        steps=len(plan.steps),
        **users_on_canary(status),
        ready=here.ready,
        circuit=broken.state.value,
        cause=broken.cause,
        verdict=verdict.kind,
        said=verdict.said,
        problems=problems,
        fleet=None if fleet is None else Replica(**{key: fleet[key] for key in _REPLICA}),
        plan=[PlannedStep(weight=one.weight, bake=one.bake) for one in plan.steps],
    )


_REPLICA = tuple(Replica.model_fields)


def attention(
    state: ReleaseState, verdict: Kind, *, ready: bool, problems: Sequence[str]
) -> Attention:
    """Return why a release needs a person."""
    if state in ("tripped", "probing"):
        return "tripped"
    if verdict == "breach" or verdict == "suspect" or verdict == "held":
        return verdict
    if problems:
        return "configuration"
    return "waiting" if state == "paused" or ready else "none"


def problems_of(unsaved: str | None, fleet: Mapping[str, Any] | None) -> list[str]:
    """Return what is wrong with a service apart from its release, in words."""
    found = [] if unsaved is None else [f"state not saved: {unsaved}"]
    if fleet is not None and not fleet["connected"]:
        found.append(f"no connection to Redis: {fleet['error'] or 'unknown cause'}")
    if fleet is not None and fleet["conflict"]:
        found.append(fleet["conflict"])
    return found


def config_problems(error: str | None, restart_needed: Sequence[str]) -> list[str]:
    """Return what is wrong with the configuration of a proxy, in words."""
    found = []
    if error is not None:
        found.append(f"configuration invalid, the previous one stays in force: {error}")
    if restart_needed:
        found.append(f"restart needed to apply {', '.join(restart_needed)}")
    return found
