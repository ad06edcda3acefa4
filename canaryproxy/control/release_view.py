"""The release view: the state of the release as one JSON object for people and programs.

The models are what the admin API returns; its OpenAPI schemas are theirs. Durations are in seconds, times in
seconds since the epoch, weights in percent, rates fractions 0..1 or per second. A value that is not known or
not finite is ``null``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import exp, inf, isfinite
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from canaryproxy.config import text
from canaryproxy.config.model import EventName
from canaryproxy.control import timeseries
from canaryproxy.control.capacity_watch import CapacityWatch
from canaryproxy.control.controller import Status
from canaryproxy.control.endpoint_figures import EndpointReading
from canaryproxy.control.ledger import known
from canaryproxy.control.timeseries import Window
from canaryproxy.judging import verdict as judge
from canaryproxy.judging.verdict import Level, Verdict
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.release import acts, circuit, rollout
from canaryproxy.release.acts import Operation
from canaryproxy.release.summary import Kind, Standing, standing, summary

_MAX_LOG = 700.0
"""Logarithm above which an e-value overflows a float."""

_ROUTES_SHOWN = 10

Count = Annotated[int, Field(ge=0)]
AtFault = Annotated[
    list[str],
    Field(
        description="Endpoints that fail more, or are slower, than the others of their variant, in words.",
        examples=[
            ["1 of 2 canary endpoints fails: http://10.0.0.7:8080 (48 of 50 requests failed)"]
        ],
    ),
]
Unresolved = Annotated[
    list[str],
    Field(
        description="Names of endpoints whose last look-up failed, in words; their last addresses stay.",
        examples=[
            [
                "http://cart:80 has not been resolved for 2 min: SERVFAIL; 3 addresses of its last"
                " answer in use"
            ]
        ],
    ),
]
ReleaseState = Annotated[
    str, Field(json_schema_extra={"enum": [state.value for state in rollout.State]})
]
CircuitState = Annotated[
    str, Field(json_schema_extra={"enum": [state.value for state in circuit.State]})
]


def _open(schema: dict[str, Any]) -> None:
    """Let a later version add members: clients must ignore those that they do not know."""
    schema.pop("additionalProperties", None)


class View(BaseModel):
    """A JSON object of the admin API. Its validator is built when it is first needed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, json_schema_extra=_open
    )


class Step(View):
    """One step of the plan."""

    weight: float = Field(description="Percent of users (of the cohort) on the canary.")
    bake: float = Field(description="Minimum seconds on this step.")
    min_requests: Count = Field(description="Minimum canary requests judged on this step.")
    min_users: Count = Field(description="Minimum canary users compared on this step.")
    hold_back: bool = Field(
        False, description="The users left on stable are a control group (release.hold_back)."
    )
    cohort: str | None = Field(
        None, description="The cohort that it is about (split.cohorts); null: all users."
    )


class CohortShare(View):
    """A cohort with users on the canary."""

    name: str
    weight: float = Field(description="Percent of its users on the canary.")


class Gate(View):
    """The promotion gates of the current step."""

    state: Literal["asked", "refused", "passed"]
    cause: str | None = Field(description="What the gates responded.")


class Circuit(View):
    """The circuit breaker: while it is open, every user is on stable."""

    state: CircuitState
    cause: str | None = Field(description="Why it is not closed.")
    trips: Count = Field(description="Trips since the start or the last reset.")
    since: float = Field(description="When it last changed, in seconds since the epoch.")
    cooldown_left: float | None = Field(
        description="Seconds until it probes; null: it stays open until a reset."
    )
    drill: bool = Field(description="It is open only for a drill, which closes it at its end.")


class Counts(View):
    """The counts of a metric for one variant."""

    trials: Count = Field(description="Requests, users or responses that were compared.")
    events: Count = Field(description="The trials that count against the variant.")


class Users(View):
    """Users that were compared in a metric."""

    stable: Count = Field(description="Users of stable.")
    canary: Count = Field(description="Users of the canary.")
    hurt: Count = Field(description="Canary users with an event on the current step.")


class Percentile(View):
    """A percentile of the seconds to the first byte, with its anytime-valid 95% interval."""

    value: float
    low: float
    high: float


class Timing(View):
    """The response times of both variants on this step: every request, of this proxy."""

    quantile: float = Field(description="Which percentile, as a fraction: 0.95 is P95.")
    seconds: float = Field(description="Over how many seconds of this step.")
    stable: Percentile | None = Field(description="null: no responses.")
    canary: Percentile | None = Field(description="null: no responses.")


class Metric(View):
    """The judge's verdict on one metric."""

    metric: str = Field(description="Name of the metric.")
    route: str | None = Field(description="Route that it is about; null: all of them.")
    level: Level
    evidence: float | None = Field(
        description="E-value that the canary is worse; null: too large for a float."
    )
    log_evidence: float | None = Field(description="Natural logarithm of the evidence.")
    limit: float | None = Field(description="Logarithm that trips; null: the metric never trips.")
    hold_limit: float | None = Field(description="Logarithm that holds the step.")
    log_proof: float | None = Field(
        description="Logarithm of the evidence that the canary is not worse by the margin."
    )
    proven: bool = Field(
        description="Safety is proven: the canary is not worse by the margin, and does not look worse."
    )
    standing: Standing = Field(
        description="Where it stands in one word: breach, suspect, worse (it looks worse, without evidence),"
        " accepted, unknown (nothing is compared), ok, proven."
    )
    watched: float = Field(description="Seconds of this step in which the counts were counted.")
    timing: Timing | None = Field(
        None, description="Percentiles, for a metric on response times; null: of no response times."
    )
    comparable: bool = Field(description="Both variants have recent traffic to compare.")
    stable: Counts
    canary: Counts
    users: Users | None = Field(description="null: the metric is not compared by user.")
    trips: bool = Field(description="It can open the circuit; if not, it only holds the step.")
    worse: bool = Field(
        description="The difference as it is now reaches the margin, so the step is held."
    )
    accepted: bool = Field(description="An operator accepted it: it neither holds nor trips.")
    known: str = Field(
        description="What is known of the canary, by user and by request, in words.",
        examples=["3 of 40 users, 12 of 410 requests"],
    )
    difference: float | None = Field(description="Canary's rate minus stable's.")
    ratio: float | None = Field(description="Canary's rate divided by stable's.")
    interval: tuple[float | None, float | None] = Field(
        description="Anytime-valid interval of the ratio; null: unbounded."
    )
    reason: str = Field(description="The verdict in one sentence.")


class Load(View):
    """The most that a variant has carried, by endpoint, in the last seven days."""

    time: float = Field(description="When, in seconds since the epoch.")
    rate: float = Field(description="Requests per second that did not fail, over 10 s.")
    in_flight: int = Field(description="Requests in flight then.")
    endpoints: Count = Field(description="Endpoints that were up.")
    p95: float | None = Field(description="95% quantile of the seconds to the first byte then.")


class Capacity(View):
    """The most that the variants have carried, and what a trip or a step would bring."""

    stable: Load | None = Field(description="null: not known yet.")
    canary: Load | None = Field(description="null: not known yet.")
    trip: float | None = Field(
        description="Requests per second that stable has after a trip; null: no user is on the canary."
    )
    step: float | None = Field(
        description="Requests per second that the canary has on the next step; null: there is none."
    )
    said: list[str] = Field(
        description="All of it in words.",
        examples=[
            [
                "stable has carried at most 420/s with 2 endpoints (3 h ago);"
                " a trip now would bring it 780/s"
            ]
        ],
    )
    over: list[str] = Field(description="Those of the words that say that it is more.")


class Judgement(View):
    """The verdict on the release; every screen says it in these words."""

    kind: Kind = Field(
        description="breach, suspect, held (something else holds the step), unknown (nothing is compared),"
        " ok, proven."
    )
    said: str = Field(description="The verdict in one sentence.")


class Placebo(View):
    """The judge's test of itself: virtual canaries, randomised from stable's users."""

    tripped: Count = Field(description="Virtual canaries that would have tripped.")
    of: Count = Field(description="Virtual canaries.")
    log_evidence: float | None = Field(
        description="Natural logarithm of the strongest evidence against one of them."
    )
    said: str = Field(description="The result in one sentence.")


class Endpoint(View):
    """One upstream server of a variant."""

    url: str = Field(description="Its address.")
    usable: bool = Field(description="Every worker sends it requests.")
    state: str = Field(
        description="up, starting, standby (endpoints of a better SRV priority are up), down, or panic: down,"
        " and tried all the same.",
        json_schema_extra={"enum": ["up", "starting", "standby", "down", "panic"]},
    )
    out: str | None = Field(description="Why the control plane has taken it out of service.")
    in_flight: int = Field(description="Its requests in flight, tunnels and streams included.")


class LongLived(View):
    """The tunnels and streams of a variant."""

    tunnels: int = Field(description="Open upgraded connections, such as WebSockets.")
    streams: int = Field(description="Open responses without an end, such as event streams.")
    leaving: int = Field(
        description="Those of users who have moved to the other variant; the proxy closes them."
    )
    until: float | None = Field(
        description="When the last of these is closed, in seconds since the epoch; null: none is to leave."
    )


class Variant(View):
    """The traffic of one variant."""

    requests: Count = Field(description="Requests that ended.")
    failed: Count = Field(description="Requests that failed.")
    shed: Count = Field(
        description="Requests that found the variant over its measured limit (limits.shed_after). Those of"
        " the canary failed, unless stable was late, too. The others are not in requests."
    )
    in_flight: int = Field(description="Requests in flight; tunnels and streams are in long_lived.")
    rate: float = Field(description="Requests per second over the last 10 s.")
    error_rate: float | None = Field(description="Fraction of them that failed.")
    p50: float | None = Field(
        description="Median of the seconds to the first byte over the last 10 s."
    )
    p95: float | None = Field(description="95% quantile of the seconds to the first byte.")
    p99: float | None = Field(description="99% quantile of the seconds to the first byte.")
    long_lived: LongLived
    endpoints: list[Endpoint]


class Variants(View):
    """Stable and canary."""

    stable: Variant
    canary: Variant | None = Field(description="null: the configuration names no canary.")


class ConfigStatus(View):
    """The state of the configuration."""

    file: str | None = Field(description="Path of the configuration file.")
    loaded_at: float = Field(description="When it was loaded, in seconds since the epoch.")
    error: str | None = Field(description="Why the file as it is now is not in force.")
    restart_needed: list[str] = Field(description="Changed fields that need a restart.")


class Leaving(View):
    """Tunnels and streams of users who have moved to the other variant, by the one that they are still on."""

    stable: int
    canary: int


class Shed(View):
    """Requests that found a variant over its measured limit."""

    stable: Count
    canary: Count


class Fleet(View):
    """The fleet as this replica sees it."""

    group: str = Field(description="Name of the fleet.")
    replica: str = Field(description="Name of this replica.")
    connected: bool = Field(description="This replica reaches Redis.")
    error: str | None = Field(description="Why it does not.")
    leader: str | None = Field(description="Replica that takes the steps.")
    leads: bool = Field(description="This replica takes the steps.")
    replicas: Count = Field(description="Live replicas; 0: not known.")
    version: Count = Field(description="Version of the shared release state.")
    judging: Literal["sums", "own"] = Field(
        description="sums: the fleet's combined counts; own: this replica's alone."
    )
    conflict: str | None = Field(
        description="How this replica's configuration differs from the fleet's."
    )
    propagation: float | None = Field(
        description="Seconds from another replica's last act to its taking effect here."
    )
    silent: float | None = Field(description="Seconds since Redis last replied.")
    leaving: Leaving = Field(
        description="The tunnels and streams that are to leave, of all replicas."
    )
    shed: Shed = Field(
        description="Requests that found a variant over its measured limit, at all replicas that are there."
    )


class Front(View):
    """The split of the front that this proxy follows (split.follow)."""

    release: str = Field(description="Id of the front's release; empty: it has none.")
    weight: float = Field(description="Percent of users on the front's canary.")


class Progress(View):
    """Where a release is in its plan."""

    release: str | None = Field(description="Id of the release; null: none is configured.")
    state: ReleaseState
    weight: float = Field(description="Percent of all users on the canary, as routed now.")
    cohorts: list[CohortShare] = Field(
        description="The cohorts with users on the canary besides, as routed now."
    )
    share: str = Field(
        description="The users on the canary, in words.", examples=["1% of users, 50% of staff"]
    )
    compared: str | None = Field(
        description="The users that the judge compares, in words; null: all of them.",
        examples=["the users of staff, with each other; no other user moves"],
    )
    step: Count = Field(
        description="Number of the step, from 1; 0 without a plan and before the first step."
    )
    steps: list[Step] = Field(description="The plan.")
    promote: Literal["bake", "proof", "manual"] = Field(description="What completes a step.")
    since: float = Field(description="When the state or step began, in seconds since the epoch.")
    baked: float = Field(description="Seconds of the bake time that have counted.")
    requests: Count = Field(description="Canary requests judged on this step.")
    users: Count = Field(description="Canary users compared on this step.")
    hold: str | None = Field(description="Why the next step does not begin yet.")
    holds: list[str] = Field(
        description="Everything that the judge holds the step for, whatever the evidence."
    )
    accepted: list[str] = Field(
        description="Metrics (or a metric and a route) that operators accepted in this release."
    )
    ready: bool = Field(description="The next step waits only for an operator's resume.")
    gate: Gate | None
    reversible: bool = Field(
        True,
        description="false: a regression moves no user to stable (release.reversible).",
    )
    ramp_down: float | None = Field(
        None,
        description=(
            "Seconds over which an abort takes the users back (release.ramp_down); while aborting those that"
            " are left. null: at once."
        ),
    )
    breach: str | None = Field(
        None,
        description=(
            "The regression for which no user was sent to stable, because the release is irreversible: an"
            " operator must act. null: there is none."
        ),
    )
    allowed: list[Operation] = Field(description="What an operator can do now.")


class Release(Progress):
    """The state of a release, its traffic and the judge's verdicts."""

    circuit: Circuit
    verdict: Judgement
    level: Level
    quiet: str | None = Field(description="Why nothing can be compared.")
    notice: str | None = Field(
        None,
        description="What is odd about the traffic, although nothing fails: few sticky keys, or requests"
        " that are not compared because the control plane was late.",
    )
    at_fault: AtFault = Field(default=[])
    unresolved: Unresolved = Field(default=[])
    capacity: Capacity | None = Field(
        None, description="What the variants have carried; null: the traffic is not known yet."
    )
    judged: Count = Field(description="Canary requests that were compared.")
    answered: Count = Field(description="Canary requests that ended.")
    metrics: list[Metric] = Field(
        description="The verdicts; of single routes only those that are not ok, or worse."
    )
    routes: Count = Field(description="Routes that are compared one by one.")
    placebo: Placebo | None = Field(description="null: no virtual canaries yet.")
    unsaved: str | None = Field(description="Why the state file cannot be written.")
    history_id: Count = Field(description="Number of the newest record.")
    time: float = Field(description="Now, in seconds since the epoch.")
    fleet: Fleet | None = Field(description="null: this proxy belongs to no fleet.")
    front: Front | None = Field(
        None,
        description="The front whose users are compared here; null: none is followed, or no request has.",
    )
    variants: Variants
    config: ConfigStatus
    environment: str | None = Field(description="Name of the environment; null: not configured.")
    host: str = Field(description="Name of the machine.")
    version: str = Field(description="Version of canaryproxy.")
    pid: Count = Field(description="Process id of the control plane.")
    main_pid: Count = Field(description="Process id to send signals to.")


class Act(View):
    """The effect of an act, if it were done now."""

    act: Operation
    refusal: str | None = Field(description="Why it is refused now; null: it is not.")
    already: bool = Field(description="It is refused because what it is for is in force.")
    asks: bool = Field(
        description="Ask the operator before: it gives the canary users, or takes a protection away."
    )
    before: float = Field(description="Percent of users on the canary now.")
    after: float = Field(description="Percent of users on the canary after it.")
    becomes: ReleaseState
    moved: Count | None = Field(
        description="Users that move, by those seen in the last minutes; null: not known."
    )
    sure: str = Field(description="What the judge knows of the canary.")
    title: str = Field(description="What it is.", examples=["Reset cart-2.4"])
    says: list[str] = Field(description="What it does, in sentences without their full stops.")


class Traffic(View):
    """The traffic of one variant over the last 10 s, with anytime-valid 95% bands."""

    rate: float = Field(description="Requests per second.")
    error_rate: float | None = Field(description="Fraction of the requests that failed.")
    error_low: float | None = Field(description="Lower edge of its band.")
    error_high: float | None = Field(description="Upper edge of its band.")
    p50: float | None = Field(description="Median of the seconds to the first byte.")
    p95: float | None = Field(description="95% quantile of the seconds to the first byte.")
    p95_low: float | None = Field(description="Lower edge of its band.")
    p95_high: float | None = Field(description="Upper edge of its band.")
    p99: float | None = Field(description="99% quantile of the seconds to the first byte.")


class Point(View):
    """One second of the time series."""

    t: float = Field(description="When, in seconds since the epoch.")
    weight: float = Field(description="Percent of users on the canary.")
    share: float | None = Field(description="Fraction of the requests that went to the canary.")
    stable: Traffic
    canary: Traffic
    evidence: dict[str, float | None] = Field(
        description="Natural logarithm of the evidence, by metric."
    )


class Record(View):
    """An entry of the history."""

    id: int = Field(ge=1, description="Number, from 1 without gaps.")
    time: float = Field(description="When, in seconds since the epoch.")
    what: str = Field(
        description=f"What happened: {', '.join(sorted(get_args(EventName)))}.",
        examples=["tripped"],
    )
    cause: str = Field(description="Why, in one sentence.")
    figures: dict[str, Any] = Field(description="Numbers and names that belong to it.")


class DrillFigures(View):
    """The figures of a rollback drill."""

    seconds_to_last_request: float | None = Field(
        description="From the trip to the canary's last request; null: requests kept coming."
    )
    requests_after: Count = Field(description="Requests to the canary after the trip.")
    seconds_to_last_connection: float | None = Field(
        description=(
            "From the trip until the last tunnel or stream of a user who moved had left the canary; null:"
            " there was none, or some are left."
        )
    )
    connections: Count = Field(description="Tunnels and streams of users who moved.")
    connections_left: Count = Field(description="Of these, those still there at the end.")
    weight: float = Field(description="Percent of users on the canary before the trip.")
    in_flight: int = Field(
        description="Canary requests that began before the trip and have not ended."
    )


def release(
    status: Status,
    now: float,
    *,
    fleet: Mapping[str, Any] | None,
    variants: Variants,
    config: ConfigStatus,
    environment: str | None,
    host: str,
    at_fault: list[str],
    unresolved: list[str],
    version: str,
    pid: int,
    main_pid: int,
    timings: Mapping[str, Timing],
    capacity: Capacity | None = None,
) -> Release:
    """Return the view of a release; ``now`` is in seconds since the epoch."""
    here, broken, seen = status.rollout, status.circuit, status.assessment
    steps = status.plan.steps
    at_end = bool(steps) and steps[min(here.step, len(steps) - 1)].weight >= 100.0
    requests = here.answered - here.answered_from if at_end else here.judged - here.judged_from
    gate = here.gate
    found = summary(seen, broken, here.accepted)
    return Release(
        release=status.release,
        state=here.state.value,
        **users_on_canary(status),
        compared=status.exposure.compared(),
        step=here.step + 1 if steps and not here.learning else 0,
        steps=[Step(**asdict(step)) for step in steps],
        promote=status.plan.promote,
        since=here.since,
        baked=here.baked,
        requests=max(requests, 0),
        users=here.users,
        hold=here.hold,
        holds=[] if seen is None else list(seen.holds),
        accepted=sorted(here.accepted),
        ready=here.ready,
        reversible=status.plan.reversible,
        ramp_down=(here.left if here.state is rollout.State.ABORTING else status.plan.ramp_down)
        or None,
        breach=here.breach,
        gate=None if gate.state == "idle" else Gate(state=gate.state, cause=gate.cause),
        allowed=list(acts.allowed(broken, here, status.plan, status.weight)),
        circuit=_circuit(status),
        verdict=Judgement(kind=found.kind, said=found.said),
        level="ok" if seen is None else seen.level,
        quiet=None if seen is None else seen.quiet,
        notice=_notice(status),
        at_fault=at_fault,
        unresolved=unresolved,
        capacity=capacity,
        judged=0 if seen is None else seen.judged,
        answered=0 if seen is None else seen.answered,
        metrics=[
            metric(verdict, here.accepted, None if verdict.scope else timings.get(verdict.metric))
            for verdict in _shown(seen)
        ],
        routes=0 if seen is None else seen.routes,
        placebo=None if seen is None or seen.placebo is None else placebo(seen.placebo),
        unsaved=status.unsaved,
        history_id=status.recorded,
        time=now,
        fleet=None if fleet is None else Fleet(**fleet),
        front=_front(status),
        variants=variants,
        config=config,
        environment=environment,
        host=host,
        version=version,
        pid=pid,
        main_pid=main_pid,
    )


def _notice(status: Status) -> str | None:
    found = [] if status.losses is None else [status.losses]
    if status.concentration is not None and status.concentration.notice is not None:
        found.append(status.concentration.notice)
    return "; ".join(found) or None


def _circuit(status: Status) -> Circuit:
    broken = status.circuit
    return Circuit(
        state=broken.state.value,
        cause=broken.cause,
        trips=broken.trips,
        since=broken.since,
        cooldown_left=status.cooldown_left,
        drill=broken.drill,
    )


def _front(status: Status) -> Front | None:
    front = status.front
    return None if front is None else Front(release=front.release, weight=front.weight)


def users_on_canary(status: Status) -> dict[str, Any]:
    """Return the fields that say which users are on the canary."""
    users = status.exposure
    return {
        "weight": status.weight,
        "cohorts": [CohortShare(name=name, weight=weight) for name, weight in users.cohorts],
        "share": users.said(),
    }


def act(found: acts.Preview) -> Act:
    """Return the view of a preview."""
    return Act(
        act=found.act,
        refusal=found.refusal,
        already=found.already,
        asks=found.asks,
        before=found.before,
        after=found.after,
        becomes=found.becomes.value,
        moved=found.moved,
        sure=found.sure,
        title=found.title,
        says=list(found.says),
    )


def capacity(watch: CapacityWatch, now: float) -> Capacity | None:
    """Return the view of what the variants have carried."""
    found = watch.outlook(now)
    if found is None:
        return None
    loads = [watch.carried.most(which) for which in (STABLE, CANARY)]
    stable, canary = (None if load is None else Load(**asdict(load)) for load in loads)
    return Capacity(
        stable=stable,
        canary=canary,
        trip=found.trip,
        step=found.step,
        said=list(found.said),
        over=list(found.over),
    )


def _shown(seen: judge.Assessment | None) -> list[Verdict]:
    """Return the verdicts to show: all but those of routes that are well, and of the others the worst."""
    if seen is None:
        return []
    bad = [v for v in seen.verdicts if v.scope and (v.level != "ok" or v.worse)]
    bad.sort(key=lambda v: (v.level != "breach", v.level == "ok", -v.log_evidence))
    return [*(v for v in seen.verdicts if not v.scope), *bad[:_ROUTES_SHOWN]]


def placebo(found: judge.Placebo) -> Placebo:
    """Return the view of the judge's test of itself."""
    of = text.plural(found.of, "virtual canary", "virtual canaries")
    return Placebo(
        tripped=found.tripped,
        of=found.of,
        log_evidence=finite(found.log_evidence),
        said=f"{text.count(found.tripped)} of {of} would have tripped;"
        f" evidence at most {text.odds(found.log_evidence)}",
    )


def metric(
    verdict: Verdict, accepted: frozenset[str] = frozenset(), timing: Timing | None = None
) -> Metric:
    """Return the view of a verdict; ``accepted`` are the names that operators accepted."""
    low, high = verdict.interval
    stable, canary = verdict.users
    return Metric(
        metric=verdict.metric,
        route=verdict.scope or None,
        level=verdict.level,
        evidence=exp(verdict.log_evidence) if verdict.log_evidence < _MAX_LOG else None,
        log_evidence=finite(verdict.log_evidence),
        limit=finite(verdict.limit),
        hold_limit=finite(verdict.hold_limit),
        log_proof=finite(verdict.log_proof),
        proven=verdict.proven,
        standing=standing(verdict, accepted),
        watched=verdict.watched,
        timing=timing,
        comparable=verdict.comparable,
        stable=Counts(trials=verdict.stable[0], events=verdict.stable[1]),
        canary=Counts(trials=verdict.canary[0], events=verdict.canary[1]),
        users=Users(stable=stable, canary=canary, hurt=verdict.hurt) if stable or canary else None,
        trips=verdict.trips and verdict.limit < inf,
        worse=verdict.worse,
        accepted=standing(verdict, accepted) == "accepted",
        known=known(verdict),
        difference=finite(verdict.difference),
        ratio=finite(verdict.ratio),
        interval=(finite(low), finite(high)),
        reason=verdict.reason,
    )


def timing(quantile: float, seconds: float, both: Sequence[timeseries.Percentile | None]) -> Timing:
    """Return the view of a quantile of stable and canary."""
    stable, canary = (
        None if one is None else Percentile(value=one.value, low=one.low, high=one.high)
        for one in both
    )
    return Timing(quantile=quantile, seconds=seconds, stable=stable, canary=canary)


def variant(
    window: Window,
    requests: int,
    failed: int,
    in_flight: int,
    long_lived: LongLived,
    endpoints: Sequence[EndpointReading],
    shed: int = 0,
) -> Variant:
    """Return the view of a variant: its counts since the start, its rates within ``window``."""
    return Variant(
        requests=requests,
        failed=failed,
        shed=shed,
        in_flight=in_flight,
        rate=window.rate,
        error_rate=window.error_rate,
        p50=window.quantile(0.5),
        p95=window.quantile(0.95),
        p99=window.quantile(0.99),
        long_lived=long_lived,
        endpoints=[
            Endpoint(
                url=one.url,
                usable=one.up,
                state=one.state,
                out=one.out or None,
                in_flight=one.in_flight,
            )
            for one in endpoints
        ],
    )


def record(number: int, entry: circuit.Record) -> dict[str, Any]:
    """Return an entry of the history with its number, as JSON values."""
    return {"id": number, **entry.to_dict()}


def finite(value: float | None) -> float | None:
    """Return ``value``, or ``None`` if JSON has no such number."""
    return value if value is not None and isfinite(value) else None
