"""The rollout: from stable to canary in steps.

Theory of operation
-------------------

A release is *idle* until it starts, *running* through its steps, *paused* by an operator, *tripped* while
the circuit is open, *probing* while it is half open, *aborting* while its users go back to stable over a
time, and ends *promoted* (canary at 100) or *aborted* (canary at 0).

**Before the first step** a running release *learns*: no user is on the canary until the judge has watched
stable for ``Plan.baseline`` seconds, so that it knows what users meet without the canary: latency, routes,
and the accounts that always fail. Without traffic it learns nothing, and the step begins all the same.

**A step is left** only when all of this holds:

* its bake time has passed. The bake clock runs while requests of both variants can be compared and no
  metric is suspect. Without traffic, or while paused, it stops and later continues; a
  suspicion sets it back to zero, so that a step is left after a whole bake time without one. A tick adds
  one second at most, so neither a restart nor a jump of the clock bakes anything. It stands while the canary
  warms up: what is slow is not judged then;
* at least ``min_requests``, and never less than one, canary requests of this step were judged: silence is
  not success;
* at least ``min_users`` canary users of this step were compared with stable's: however many requests they
  send, a few users can hide what a version does to the others;
* the judge finds nothing suspect now and there is traffic to compare;
* the judge names nothing that holds (``Assessment.holds``), such as a rate that looks worse without being
  suspect, an outcome that sees nothing, an outage of both variants. The bake clock runs meanwhile, but back
  while a rate looks worse: a step is not left at the first moment at which the rate is a little lower;
* with ``promote: proof``, every metric has shown that the canary is not worse by its margin;
* with gates, each of them has been asked after all that, and has passed: fail-closed. A gate that refused is
  asked again every half minute; a suspicion voids a pass;
* with ``promote: manual``, an operator resumes: the step is then *ready*.

At a weight of 100 nothing is left to compare with: there the clock runs and requests count while the
canary has traffic, and only guard rails watch. After the last step the release is promoted.

**Cohorts** (``Step.cohort``) come before everyone: a step of a cohort draws among its members, and no other
user moves. What a cohort has reached stays when later steps follow, until everyone is on the canary
(``Plan.exposure``): no step forward takes a user back. ``SetWeight`` is about all users; to 0 it takes the
cohorts back, too. A ramp down lowers the group of its step, and those kept from before go at its end.

**A hold-back** (``Step.hold_back``) is the step before everyone moves: the last users, who never were on the
canary, are its control group for a long bake time, so that a regression that takes a day to show still
trips. It is a step like any other, and ``Promote`` skips it.

**What an operator accepts** (``Accept``: a metric, or a metric at a route) neither holds nor trips any more.
It holds for this release: ``Start`` and another release begin with nothing accepted.

**The trip always wins.** ``Stop`` is taken in every state in which the canary can have traffic, and
nothing but ``Restore`` (an operator's reset, or a probe that passed) leads back: to the same step with
the same users, with a bake clock at zero and a new judge. Promote, resume and set weight are refused
meanwhile.

**An irreversible release** (``Plan.reversible`` is false: stable cannot read what its users have stored)
gets ``Breach`` in place of ``Stop`` when the judge finds a regression: no user moves, the release is paused,
and ``Rollout.breach`` has the cause until a new judge begins. Only an operator sends its users to stable.

**A ramp down** (``Plan.ramp_down``) is for an abort that is no emergency: the weight falls to 0 over that
time, once a second, so that stable does not get every user at once. It never rises: nothing leads back, and
``Start`` is refused until the release is aborted. A suspicion, a second ``Abort``, ``Abort`` with ``now`` and
``Stop`` end it at once.

===========  ============================================================================================
state        events
===========  ============================================================================================
idle         ``Start`` running · ``SetWeight`` idle at that weight · ``Stop`` tripped
running      ``Tick`` next step, promoted, or a clock moves · ``Pause`` · ``Resume`` next step if ready ·
             ``Promote`` · ``Abort`` aborted, or aborting · ``SetWeight`` paused at that weight ·
             ``Breach`` paused · ``Stop`` tripped
paused       ``Resume`` running, at the step's weight · ``Promote`` · ``Abort`` · ``SetWeight`` · ``Breach`` ·
             ``Stop``
tripped      ``Restore`` what it was · ``Probe`` probing · ``Abort``
probing      ``Restore`` what it was · ``Stop`` tripped · ``Abort``
promoted     ``Abort`` · ``SetWeight`` · ``Breach`` · ``Stop`` tripped
aborting     ``Tick`` a lower weight, or aborted · ``Abort`` aborted · ``Stop`` aborted
aborted      ``Start`` running from the first step
===========  ============================================================================================

``Replan`` (the plan or the judge has changed), ``GateAnswer`` and ``Breach`` are taken everywhere, ``Accept``
everywhere but in aborting and aborted. Anything else is ``Refused`` with a reason, and changes nothing;
``Stop``, ``Breach``, ``Restore`` and ``Tick`` are never refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from math import ceil
from typing import Any, Literal

from canaryproxy.config import text
from canaryproxy.judging.verdict import QUIET, Assessment
from canaryproxy.measure.exposure import NONE_REACHED, Cohorts, Exposure
from canaryproxy.release.circuit import Record, elapsed, no_regression


class State(Enum):
    """Where the release is."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    TRIPPED = "tripped"
    PROBING = "probing"
    PROMOTED = "promoted"
    ABORTING = "aborting"
    ABORTED = "aborted"


UNDER_WAY = (State.RUNNING, State.PAUSED, State.TRIPPED, State.PROBING, State.ABORTING)
"""A release that has begun and has not ended."""


class Refused(Exception):
    """An event that the state does not allow; nothing has changed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the plan."""

    weight: float
    """Percent of users, of the cohort if it has one."""
    bake: float = 0.0
    """Seconds that it is watched at least."""
    min_requests: int = 0
    """Canary requests to be judged at least."""
    min_users: int = 0
    """Canary users to be compared at least."""
    hold_back: bool = False
    """Whether it is there for its bake time only: the last users are a control group on stable meanwhile."""
    cohort: str | None = None
    """The group of users that it is about; ``None``: all users."""

    @property
    def share(self) -> str:
        """The users that it gives the canary to: ``5% of users``, ``50% of staff``."""
        return f"{text.weight(self.weight)} of {self.cohort or 'users'}"

    @property
    def control_group(self) -> str:
        """The users who stay on stable in a hold-back: ``1% of users``."""
        return f"{text.weight(100.0 - self.weight)} of users" if self.hold_back else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a release."""

    steps: tuple[Step, ...]
    promote: Literal["bake", "proof", "manual"] = "bake"
    probe_weight: float = 1.0
    """Percent of users while the circuit is half open; at most the step's weight."""
    gated: bool = False
    """Whether gates are asked before a step is left."""
    baseline: float = 0.0
    """Seconds for which the judge watches stable before the first step."""
    reversible: bool = True
    """Whether stable can serve the canary's users; if not, a regression moves no user."""
    ramp_down: float = 0.0
    """Seconds over which an abort takes the users back."""

    def exposure(self, at: int) -> Exposure:
        """Return who is on the canary in a step (from 0): its users, and those of the steps before."""
        reached: dict[str, float] = {}
        weight = 0.0
        for step in self.steps[: at + 1]:
            if step.cohort is None:
                weight = step.weight
            else:
                reached[step.cohort] = step.weight
        if weight >= 100.0:
            return Exposure(weight)
        return Exposure(weight, tuple(reached.items()), self.steps[at].cohort)


@dataclass(frozen=True, slots=True)
class Start:
    """Begin with the first step."""

    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Pause:
    """Stay at this weight."""

    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue; if the step is ready, continue with the next one."""

    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Promote:
    """End the release with every user on the canary."""

    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Abort:
    """End the release with every user on stable."""

    by: str = "operator"
    now: bool = False
    """At once, whatever ``Plan.ramp_down`` says."""


@dataclass(frozen=True, slots=True)
class SetWeight:
    """Set the weight by hand (percent)."""

    weight: float
    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Accept:
    """A difference that is wanted: it neither holds nor trips any more in this release."""

    metric: str
    """A metric, or ``"metric route"``."""
    by: str = "operator"
    """Who accepts it, and why."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The circuit opened."""

    cause: str


@dataclass(frozen=True, slots=True)
class Breach:
    """The judge has found a regression, and no user may be sent to stable for it."""

    cause: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """The circuit is half open."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The circuit closed."""

    cause: str = "reset"


@dataclass(frozen=True, slots=True)
class Tick:
    """A tenth of a second has passed."""

    assessment: Assessment


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """The answer of the gates."""

    question: int
    """``Gate.question`` of the question that it answers."""
    passed: bool
    cause: str
    """The reason, with the gate's name."""


@dataclass(frozen=True, slots=True)
class Replan:
    """The plan changed; it still has the current step."""

    judge: bool = False
    """Whether the judge's settings have changed, too."""
    weight: float | None = None
    """New weight when there is no plan; ``None`` if unchanged."""


Event = (
    Start
    | Pause
    | Resume
    | Promote
    | Abort
    | SetWeight
    | Accept
    | Stop
    | Breach
    | Probe
    | Restore
    | Tick
    | GateAnswer
    | Replan
)


class Action(Enum):
    """An action for the controller, besides publishing ``Rollout.weight``."""

    NEW_JUDGE = "new_judge"
    """Begin a new judge: α starts afresh."""
    ASK_GATES = "ask_gates"
    """Ask the gates whether the step may be left; the answer comes as ``GateAnswer``."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The last question to the gates, and its answer. Not saved: after a restart they are asked again."""

    question: int = 0
    """Grows with every question."""
    state: Literal["idle", "asked", "passed", "refused"] = "idle"
    since: float = 0.0
    cause: str | None = None
    """The reason of the last answer."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state of the release; replaced, never changed."""

    state: State = State.IDLE
    step: int = 0
    """Index of the step in the plan."""
    weight: float = 0.0
    """Percent of all users on the canary now, as in the route table."""
    cohorts: Cohorts = NONE_REACHED
    """Cohorts with users on the canary now, and the one whose users are compared."""
    learning: bool = False
    """The first step has not begun: its users follow once stable has been watched."""
    since: float = 0.0
    """When the state or the step began, as given to ``step``."""
    baked: float = 0.0
    """Seconds of the bake time that have counted."""
    judged_from: int = 0
    """``Assessment.judged`` when the step began."""
    answered_from: int = 0
    """``Assessment.answered`` when the step began."""
    users: int = 0
    """Canary users of the step that were compared."""
    hold: str | None = None
    """Why the step is not left yet, in plain words."""
    ready: bool = False
    """With ``promote: manual``: the step could be left."""
    before: State = State.IDLE
    """Tripped or probing: the state to come back to."""
    weight_before: float = 0.0
    """Tripped or probing: the weight to come back to."""
    cohorts_before: Cohorts = NONE_REACHED
    """Tripped or probing: the ``cohorts`` to come back to."""
    ticked: float | None = None
    """Time of the last tick."""
    judged: int = 0
    """``Assessment.judged`` at the last tick."""
    answered: int = 0
    """``Assessment.answered`` at the last tick."""
    heard: float | None = None
    """When the canary last responded."""
    gate: Gate = Gate()
    accepted: frozenset[str] = frozenset()
    """What operators have accepted (``Accept.metric``)."""
    breach: str | None = None
    """The regression for which no user was sent to stable (``Breach``)."""
    left: float = 0.0
    """Aborting: seconds until no user is on the canary."""
    falls: float = 0.0
    """Aborting: percent of users (of the cohort, in its step) that go back each second."""

    @property
    def exposure(self) -> Exposure:
        """The users on the canary now."""
        return Exposure(self.weight, self.cohorts.reached, self.cohorts.drawn)

    @property
    def exposure_before(self) -> Exposure:
        """Tripped or probing: the users on the canary when the circuit closes."""
        before = self.cohorts_before
        return Exposure(self.weight_before, before.reached, before.drawn)

    def exposing(self, to: Exposure, /, **changes: Any) -> Rollout:
        """Return the rollout with these users on the canary, and with other changes."""
        return replace(self, weight=to.weight, cohorts=to.of_cohorts, **changes)

    def resting(self, to: Exposure, /, **changes: Any) -> Rollout:
        """Return the rollout that comes back to these users, and with other changes."""
        return replace(self, weight_before=to.weight, cohorts_before=to.of_cohorts, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values. Times of ticks are left out: a restart begins with a new one."""
        return {
            "state": self.state.value,
            "step": self.step,
            "weight": self.weight,
            "learning": self.learning,
            "since": self.since,
            "baked": self.baked,
            "judged_from": self.judged_from,
            "answered_from": self.answered_from,
            "users": self.users,
            "hold": self.hold,
            "ready": self.ready,
            "before": self.before.value,
            "weight_before": self.weight_before,
            "judged": self.judged,
            "answered": self.answered,
            "accepted": sorted(self.accepted),
            "breach": self.breach,
            "left": self.left,
            "falls": self.falls,
            **self._cohorts_to_dict(),
        }

    def _cohorts_to_dict(self) -> dict[str, Any]:
        """Return the values of a release with cohorts; none without any."""
        if self.cohorts == self.cohorts_before == NONE_REACHED:
            return {}
        return {
            "cohorts": self.cohorts.to_dict(),
            "cohorts_before": self.cohorts_before.to_dict(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Rollout:
        """Return the rollout whose ``to_dict`` this was."""
        return cls(
            state=State(state["state"]),
            step=int(state["step"]),
            weight=float(state["weight"]),
            learning=bool(state.get("learning", False)),
            since=float(state["since"]),
            baked=float(state["baked"]),
            judged_from=int(state["judged_from"]),
            answered_from=int(state["answered_from"]),
            users=int(state.get("users", 0)),
            hold=state["hold"],
            ready=bool(state["ready"]),
            before=State(state["before"]),
            weight_before=float(state["weight_before"]),
            judged=int(state["judged"]),
            answered=int(state["answered"]),
            accepted=frozenset(map(str, state.get("accepted", ()))),
            breach=state.get("breach"),
            left=float(state.get("left", 0.0)),
            falls=float(state.get("falls", 0.0)),
            cohorts=Cohorts.from_dict(state.get("cohorts")),
            cohorts_before=Cohorts.from_dict(state.get("cohorts_before")),
        )


Outcome = tuple[Rollout, tuple[Action, ...], tuple[Record, ...]]
"""The new state, the actions and the records."""

ASK_AGAIN = 30.0
"""Seconds after which gates that refused are asked again."""
LOST = 300.0
"""Seconds after which gates that did not answer are asked again; their own timeouts are shorter."""

_HOLDS_SHOWN = 2
"""Reasons to hold that ``Rollout.hold`` names; the assessment has them all."""

_NEW_JUDGE_FIELDS: dict[str, Any] = {
    "baked": 0.0,
    "judged_from": 0,
    "answered_from": 0,
    "users": 0,
    "judged": 0,
    "answered": 0,
    "heard": None,
    "hold": None,
    "ready": False,
    "gate": Gate(),
    "breach": None,
}
"""The step's fields when a new judge begins, whose counts start at zero."""


def _figures(rollout: Rollout, plan: Plan) -> dict[str, Any]:
    return {
        "step": 0 if rollout.learning else rollout.step + 1,
        "steps": len(plan.steps),
        "weight": rollout.weight,
        "baked": round(rollout.baked, 3),
        **_cohort_figures(rollout),
    }


def _cohort_figures(rollout: Rollout) -> dict[str, Any]:
    """Return the figures of a record in a release with cohorts; none while no cohort has users."""
    if not rollout.cohorts.reached:
        return {}
    return {"cohorts": dict(rollout.cohorts.reached), "share": rollout.exposure.said()}


def _record(now: float, what: str, cause: str, rollout: Rollout, plan: Plan) -> tuple[Record, ...]:
    return (Record(now, what, cause, _figures(rollout, plan)),)


def _start(rollout: Rollout, event: Start, now: float, plan: Plan) -> Outcome:
    if not plan.steps:
        raise Refused(f"nothing to start: {_NO_RELEASE}")
    learning = plan.baseline > 0.0 and plan.steps[0].weight < 100.0
    started = Rollout(State.RUNNING, learning=learning, since=now, ticked=rollout.ticked)
    started = started.exposing(_users(started, plan))
    return started, (Action.NEW_JUDGE,), _record(now, "started", f"by {event.by}", started, plan)


def _pause(rollout: Rollout, event: Pause, now: float, plan: Plan) -> Outcome:
    cause = f"by {event.by}"
    paused = replace(
        rollout,
        state=State.PAUSED,
        since=now,
        hold=f"paused {cause}",
        ready=False,
        gate=_no_gate(rollout),
    )
    return paused, (), _record(now, "paused", cause, paused, plan)


def _resume(rollout: Rollout, event: Resume, now: float, plan: Plan) -> Outcome:
    actions: tuple[Action, ...] = ()
    running = rollout.exposing(
        _users(rollout, plan), state=State.RUNNING, since=now, hold=None, ticked=None
    )
    if rollout.breach is not None:  # it must prove itself again: what was found stays found
        running = replace(running, **_NEW_JUDGE_FIELDS)
        actions = (Action.NEW_JUDGE,)
    return running, actions, _record(now, "resumed", f"by {event.by}", running, plan)


def _users(rollout: Rollout, plan: Plan) -> Exposure:
    """Return who is on the canary in a rollout that runs."""
    return Exposure() if rollout.learning else plan.exposure(rollout.step)


def _advance_by_hand(rollout: Rollout, event: Resume, now: float, plan: Plan) -> Outcome:
    if not rollout.ready:
        raise Refused(f"the step is not complete: {rollout.hold or 'it has just begun'}")
    return _advance(rollout, f"by {event.by}", now, plan)


def _advance(rollout: Rollout, cause: str, now: float, plan: Plan) -> Outcome:
    """Leave the step: to the next, or to the end of the release."""
    at = rollout.step + 1
    if at >= len(plan.steps):
        return _end(rollout, State.PROMOTED, Exposure(100.0), cause, now, plan)
    step = plan.steps[at]
    if step.hold_back:
        bake = text.duration(step.bake)
        cause += f"; hold-back: {step.control_group} stay on stable for {bake} as a control group"
    moved = rollout.exposing(
        plan.exposure(at),
        step=at,
        since=now,
        baked=0.0,
        judged_from=rollout.judged,
        answered_from=rollout.answered,
        users=0,
        hold=None,
        ready=False,
        gate=_no_gate(rollout),
    )
    return moved, (), _record(now, "step", cause, moved, plan)


def release_change(old: str | None, new: str | None) -> str:
    """Return the cause recorded when the configured release id changes; ``None``: no release."""
    if new is None:
        return f"release {old} removed from the configuration" if old else "no release configured"
    return f"{new} replaces {old}" if old else f"{new} starts"


def _no_gate(rollout: Rollout) -> Gate:
    """Return unasked gates; an answer still under way no longer matches."""
    return Gate(rollout.gate.question)


def _end(
    rollout: Rollout, state: State, users: Exposure, cause: str, now: float, plan: Plan
) -> Outcome:
    ended = rollout.exposing(
        users,
        state=state,
        learning=False,
        since=now,
        hold=None,
        ready=False,
        gate=_no_gate(rollout),
        breach=rollout.breach if state is State.PROMOTED else None,
        left=0.0,
        falls=0.0,
    )
    return ended, (), _record(now, state.value, cause, ended, plan)


def _promote(rollout: Rollout, event: Promote, now: float, plan: Plan) -> Outcome:
    return _end(rollout, State.PROMOTED, Exposure(100.0), f"by {event.by}", now, plan)


def _abort(rollout: Rollout, event: Abort, now: float, plan: Plan) -> Outcome:
    return _end(rollout, State.ABORTED, Exposure(), f"by {event.by}", now, plan)


def _abort_slowly(rollout: Rollout, event: Abort, now: float, plan: Plan) -> Outcome:
    """Take the users back over a time, if the plan says so."""
    if event.now or not plan.ramp_down or not rollout.exposure.has_users:
        return _abort(rollout, event, now, plan)
    aborting = replace(
        rollout,
        state=State.ABORTING,
        since=now,
        hold=f"users go back to stable over {text.duration(plan.ramp_down)}",
        ready=False,
        ticked=now,
        gate=_no_gate(rollout),
        breach=None,
        left=plan.ramp_down,
        falls=_ramped_group(rollout)[1] / plan.ramp_down,
    )
    return aborting, (), _record(now, "aborting", f"by {event.by}", aborting, plan)


def ramped(rollout: Rollout, now: float) -> Rollout:
    """Return a rollout that is aborting as it is at ``now``: its weight only ever falls."""
    left = max(rollout.left - elapsed(rollout.ticked, now), 0.0)
    cohort, share = _ramped_group(rollout)
    lower = min(share, rollout.falls * ceil(left))
    kept, drawn = (rollout.cohorts.reached, rollout.cohorts.drawn) if left else ((), None)
    if cohort is not None:
        kept = tuple((name, lower if name == cohort else percent) for name, percent in kept)
    users = Exposure(lower if cohort is None else 0.0, kept, drawn)
    return rollout.exposing(users, ticked=now, left=left)


def _ramped_group(rollout: Rollout) -> tuple[str | None, float]:
    """Return the group whose share falls in a ramp down, and the share: all users, or the last cohort."""
    reached, drawn = rollout.cohorts.reached, rollout.cohorts.drawn
    if rollout.weight or not reached:
        return None, rollout.weight
    name = reached[-1][0] if drawn is None else drawn
    return name, rollout.exposure.of(name)


def _ramp_down(rollout: Rollout, event: Tick, now: float, plan: Plan) -> Outcome:
    seen, lower = event.assessment, ramped(rollout, now)
    if seen.level != "ok":
        return _end(lower, State.ABORTED, Exposure(), f"at once, {_suspect(seen)}", now, plan)
    if not lower.left:
        return _end(lower, State.ABORTED, Exposure(), "every user is back on stable", now, plan)
    return lower, (), ()


def _stop_abort(rollout: Rollout, event: Stop, now: float, plan: Plan) -> Outcome:
    return _end(rollout, State.ABORTED, Exposure(), event.cause, now, plan)


def _set_weight(rollout: Rollout, event: SetWeight, now: float, plan: Plan) -> Outcome:
    if not 0.0 <= event.weight <= 100.0:
        raise Refused(f"weight must be between 0 and 100 percent, found {event.weight:g}")
    state, hold = rollout.state, rollout.hold
    if state is not State.IDLE:
        state, hold = State.PAUSED, f"weight set to {text.weight(event.weight)} by {event.by}"
    kept = rollout.cohorts.reached if 0.0 < event.weight < 100.0 else ()
    changed = rollout.exposing(
        Exposure(event.weight, kept),
        state=state,
        learning=False,
        since=now,
        hold=hold,
        ready=False,
        gate=_no_gate(rollout),
    )
    cause = f"{_from_to(rollout.exposure, changed.exposure)} by {event.by}"
    return changed, (), _record(now, "weight", cause, changed, plan)


def _from_to(before: Exposure, after: Exposure) -> str:
    """``5% to 10%``; with cohorts ``50% of staff to 1% of users, 50% of staff``."""
    if before.cohorts or after.cohorts:
        return f"{before.said()} to {after.said()}"
    return f"{text.weight(before.weight)} to {text.weight(after.weight)}"


def _accept(rollout: Rollout, event: Accept, now: float, plan: Plan) -> Outcome:
    if event.metric in rollout.accepted:
        raise Refused(f"{event.metric} is accepted already")
    accepted = replace(rollout, accepted=rollout.accepted | {event.metric})
    figures = {**_figures(accepted, plan), "metric": event.metric}
    return accepted, (), (Record(now, "accepted", f"{event.metric} by {event.by}", figures),)


def _stop(rollout: Rollout, event: Stop, now: float, plan: Plan) -> Outcome:
    stopped = rollout.resting(
        rollout.exposure,
        state=State.TRIPPED,
        since=now,
        before=rollout.state,
        hold=event.cause,
        ready=False,
        gate=_no_gate(rollout),
        breach=None,
    ).exposing(Exposure())
    return stopped, (), _record(now, "stopped", event.cause, rollout, plan)


def _breach(rollout: Rollout, event: Breach, now: float, plan: Plan) -> Outcome:
    if rollout.breach is not None:
        return rollout, (), ()
    state = State.PROMOTED if rollout.state is State.PROMOTED else State.PAUSED
    breached = replace(
        rollout,
        state=state,
        since=now if state is not rollout.state else rollout.since,
        hold="a regression, and no user was moved: release.reversible is false",
        ready=False,
        gate=_no_gate(rollout),
        breach=event.cause,
    )
    figures = {**event.figures, **_figures(breached, plan)}
    return breached, (), (Record(now, "breached", event.cause, figures),)


def _stop_probe(rollout: Rollout, event: Stop, now: float, plan: Plan) -> Outcome:
    stopped = rollout.exposing(Exposure(), state=State.TRIPPED, since=now, hold=event.cause)
    return stopped, (), _record(now, "stopped", event.cause, rollout, plan)


def _probe(rollout: Rollout, _event: Probe, now: float, plan: Plan) -> Outcome:
    users = _probed(rollout.exposure_before, plan.probe_weight)
    probing = rollout.exposing(
        users,
        **{**_NEW_JUDGE_FIELDS, "state": State.PROBING, "since": now, "hold": "probing"},
    )
    cause = f"{users.said()} try the canary again"
    return probing, (Action.NEW_JUDGE,), _record(now, "probing", cause, probing, plan)


def _probed(before: Exposure, most: float) -> Exposure:
    """Return who tries the canary: at most this percentage of the group that was compared before the trip."""
    if before.cohort is None:
        return Exposure(min(most, before.weight))
    cohort = before.cohort
    return Exposure(0.0, ((cohort, min(most, before.of(cohort))),), cohort)


def _restore(rollout: Rollout, event: Restore, now: float, plan: Plan) -> Outcome:
    state, users = rollout.before, rollout.exposure_before
    if state is State.PROMOTED:  # a promoted release that broke must prove itself again
        state, users = State.RUNNING, _users(rollout, plan)
    restored = rollout.exposing(
        users, **{**_NEW_JUDGE_FIELDS, "state": state, "since": now, "ticked": None}
    )
    if state is State.PAUSED:
        restored = replace(restored, hold="paused before the circuit opened")
    return restored, (Action.NEW_JUDGE,), _record(now, "restored", event.cause, restored, plan)


def _nothing(rollout: Rollout, _event: Any, _now: float, _plan: Plan) -> Outcome:
    return rollout, (), ()


def _tick(rollout: Rollout, event: Tick, now: float, plan: Plan) -> Outcome:
    seen = event.assessment
    step = plan.steps[rollout.step]
    passed = elapsed(rollout.ticked, now)
    heard = now if seen.answered > rollout.answered else rollout.heard
    counted: dict[str, Any] = {
        "ticked": now,
        "judged": seen.judged,
        "answered": seen.answered,
        "users": seen.users,
        "heard": heard,
    }
    if rollout.learning:
        return _learn(replace(rollout, **counted), seen, now, plan)
    if step.weight >= 100.0:
        flowing = heard is not None and now - heard <= QUIET
        quiet = None if flowing else "the canary has no traffic"
        requests = seen.answered - rollout.answered_from
    else:
        quiet = seen.quiet
        flowing = seen.comparable
        requests = seen.judged - rollout.judged_from
    if seen.level != "ok":
        held = replace(
            rollout,
            **counted,
            baked=0.0,
            hold=_suspect(seen),
            ready=False,
            gate=_no_gate(rollout),
        )
        return held, (), ()
    if not flowing:
        return replace(rollout, **counted, hold=quiet or "no traffic", ready=False), (), ()
    if not seen.warming:
        counted["baked"] = _bake(rollout.baked, passed, step, seen)
    rollout = replace(rollout, **counted)
    hold = _waits_for(rollout, step, requests, seen, plan)
    if hold is not None:
        return replace(rollout, hold=hold, ready=False), (), ()
    if plan.gated and rollout.gate.state != "passed":
        return _ask(rollout, now)
    is_end = step.weight >= 100.0 and not step.bake
    cause = "the last step has no bake time" if is_end else no_regression(requests, rollout.baked)
    if plan.promote != "manual":
        return _advance(rollout, cause, now, plan)
    ready = replace(rollout, hold="ready for the next step: resume or promote", ready=True)
    return ready, (), () if rollout.ready else _record(now, "ready", cause, ready, plan)


def _suspect(seen: Assessment) -> str:
    suspects = ", ".join(text.at_route(v.metric, v.scope) for v in seen.verdicts if v.level != "ok")
    return f"suspect: {suspects or '; '.join(seen.holds[:_HOLDS_SHOWN])}"


def _bake(baked: float, passed: float, step: Step, seen: Assessment) -> float:
    """Return how far the bake clock is: it runs back while a metric looks worse.

    Else a rate that is worse by about its margin would pass at the first moment at which it is a little less.
    """
    if step.weight < 100.0 and any(verdict.worse for verdict in seen.verdicts):
        return max(min(baked, step.bake) - passed, 0.0)
    return baked + passed


def _learn(rollout: Rollout, seen: Assessment, now: float, plan: Plan) -> Outcome:
    """Begin the first step once stable has been watched for long enough."""
    if seen.learned < plan.baseline:
        learned = f"{text.duration(seen.learned)} of {text.duration(plan.baseline)}"
        hold = f"learning from stable: {learned}; no user is on the canary yet"
        return replace(rollout, hold=hold), (), ()
    begun = rollout.exposing(
        plan.exposure(0),
        learning=False,
        since=now,
        judged_from=rollout.judged,
        answered_from=rollout.answered,
        hold=None,
    )
    cause = f"stable was watched for {text.duration(seen.learned)}"
    return begun, (), _record(now, "step", cause, begun, plan)


def _waits_for(
    rollout: Rollout, step: Step, requests: int, seen: Assessment, plan: Plan
) -> str | None:
    """Return why the step cannot be left yet, in plain words."""
    if seen.holds:
        shown = "; ".join(seen.holds[:_HOLDS_SHOWN])
        hidden = len(seen.holds) - _HOLDS_SHOWN
        return f"{shown}; and {hidden} more" if hidden > 0 else shown
    if step.weight < 100.0 and seen.users < step.min_users:
        return f"{text.count(seen.users)} of {text.count(step.min_users)} users"
    needed = max(step.min_requests, 1)
    if requests < needed:
        return f"{text.count(requests)} of {text.count(needed)} requests"
    if rollout.baked < step.bake:
        held = f"hold-back of {step.control_group}: " if step.hold_back else ""
        return f"{held}bake time {text.duration(rollout.baked)} of {text.duration(step.bake)}"
    if plan.promote == "proof" and step.weight < 100.0 and not seen.proven:
        open_ = ", ".join(
            text.at_route(v.metric, v.scope)
            for v in seen.verdicts
            if not v.proven and v.limit < float("inf")
        )
        return f"not proven yet: {open_}"
    return None


def _ask(rollout: Rollout, now: float) -> Outcome:
    """Wait for the gates, and ask them if it is time."""
    gate = rollout.gate
    actions: tuple[Action, ...] = ()
    patience = {"idle": 0.0, "asked": LOST, "refused": ASK_AGAIN}[gate.state]
    if now - gate.since >= patience:
        gate = replace(gate, question=gate.question + 1, state="asked", since=now)
        actions = (Action.ASK_GATES,)
    waiting = replace(rollout, gate=gate, hold=gate.cause or "waiting for the gates", ready=False)
    return waiting, actions, ()


def _gate_answer(rollout: Rollout, event: GateAnswer, now: float, plan: Plan) -> Outcome:
    gate = rollout.gate
    if gate.state != "asked" or event.question != gate.question:
        return rollout, (), ()
    state: Literal["passed", "refused"] = "passed" if event.passed else "refused"
    answered = replace(
        rollout, gate=replace(gate, state=state, since=now, cause=event.cause), hold=event.cause
    )
    if event.cause == gate.cause:  # the same refusal again
        return answered, (), ()
    figures = {**_figures(answered, plan), "passed": event.passed}
    return answered, (), (Record(now, "gate", event.cause, figures),)


def _replan(rollout: Rollout, event: Replan, now: float, plan: Plan) -> Outcome:
    changed = rollout
    actions: tuple[Action, ...] = ()
    records: tuple[Record, ...] = ()
    follows = State.IDLE
    users = None if event.weight is None else Exposure(event.weight)
    if rollout.step < len(plan.steps):
        follows, users = State.RUNNING, _users(rollout, plan)
    if rollout.state is follows and users not in (None, rollout.exposure):
        changed = rollout.exposing(users, since=now, hold=None, ready=False)
        cause = f"{_from_to(rollout.exposure, users)} by the configuration"
        records = _record(now, "weight", cause, changed, plan)
    elif rollout.state in (State.TRIPPED, State.PROBING) and rollout.before is follows:
        changed = rollout.resting(rollout.exposure_before if users is None else users)
    if event.judge:
        changed = replace(changed, **{**_NEW_JUDGE_FIELDS, "hold": changed.hold})
        actions = (Action.NEW_JUDGE,)
    return replace(changed, gate=_no_gate(changed)), actions, records


_Handler = Callable[..., Outcome]

TRANSITIONS: Mapping[State, Mapping[type, _Handler]] = {
    State.IDLE: {
        Start: _start,
        SetWeight: _set_weight,
        Accept: _accept,
        Stop: _stop,
        Tick: _nothing,
    },
    State.RUNNING: {
        Tick: _tick,
        GateAnswer: _gate_answer,
        Pause: _pause,
        Resume: _advance_by_hand,
        Promote: _promote,
        Abort: _abort_slowly,
        SetWeight: _set_weight,
        Accept: _accept,
        Breach: _breach,
        Stop: _stop,
    },
    State.PAUSED: {
        Resume: _resume,
        Promote: _promote,
        Abort: _abort_slowly,
        SetWeight: _set_weight,
        Accept: _accept,
        Breach: _breach,
        Stop: _stop,
        Tick: _nothing,
    },
    State.TRIPPED: {
        Restore: _restore,
        Probe: _probe,
        Abort: _abort,
        Accept: _accept,
        Stop: _nothing,
        Tick: _nothing,
    },
    State.PROBING: {
        Restore: _restore,
        Stop: _stop_probe,
        Abort: _abort,
        Accept: _accept,
        Tick: _nothing,
    },
    State.PROMOTED: {
        Abort: _abort_slowly,
        SetWeight: _set_weight,
        Accept: _accept,
        Breach: _breach,
        Stop: _stop,
        Tick: _nothing,
    },
    State.ABORTING: {
        Tick: _ramp_down,
        Abort: _abort,
        Stop: _stop_abort,
        Probe: _nothing,
        Restore: _nothing,
    },
    State.ABORTED: {
        Start: _start,
        Stop: _nothing,
        Probe: _nothing,
        Restore: _nothing,
        Tick: _nothing,
    },
}
"""The handler of each event in each state; a missing pair is ``Refused``."""

EVERYWHERE: Mapping[type, _Handler] = {GateAnswer: _nothing, Replan: _replan, Breach: _nothing}
"""The handlers of events in states whose table does not name them."""


_NO_RELEASE = "no release is configured; add release.id and release.steps, then reload"
_NO_START: Mapping[State, str] = {
    State.RUNNING: "the release has already begun",
    State.PAUSED: "the release has already begun and is paused: resume continues it",
    State.ABORTING: "the release is being aborted: abort again to end it at once",
    State.PROMOTED: (
        "the release has been promoted and cannot start again: a release id names one build;"
        " give release.id a new value, then reload"
    ),
}
"""Why a release cannot start, and what to do."""


def step(rollout: Rollout, event: Event, now: float, plan: Plan) -> Outcome:
    """Return the state after ``event`` at ``now`` (seconds), the actions and the records."""
    handler = TRANSITIONS[rollout.state].get(type(event)) or EVERYWHERE.get(type(event))
    if handler is None:
        if isinstance(event, Start) and rollout.state in _NO_START:
            raise Refused(_NO_START[rollout.state])
        act = "set the weight" if isinstance(event, SetWeight) else type(event).__name__.lower()
        if rollout.state is State.IDLE:
            raise Refused(f"nothing to {act}: {_NO_RELEASE}")
        raise Refused(f"cannot {act} while the release is {rollout.state.value}")
    return handler(rollout, event, now, plan)
