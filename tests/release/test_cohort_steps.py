"""Steps of cohorts: no step forward takes a user back, and nothing that goes back gives one the canary."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.exposure import Cohorts, Exposure
from canaryproxy.measure.routing import CANARY, RouteTable
from canaryproxy.release import acts, circuit, transitions
from canaryproxy.release import rollout as machine
from canaryproxy.release.circuit import Circuit, CircuitSettings
from canaryproxy.release.rollout import Plan, Rollout, State, Step

NAMES = ("staff", "beta", "press")
GROUPS = tuple(
    frozenset(name for at, name in enumerate(NAMES) if mask >> at & 1) for mask in range(8)
)
USERS = [(b"user-%d" % number, members) for number in range(40) for members in GROUPS]
PLAN = Plan((Step(50, cohort="staff"), Step(10, cohort="beta"), Step(1), Step(25), Step(100)))
SETTINGS = CircuitSettings(cooldown=10.0)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans that a configuration may have."""
    last: dict[str | None, int] = {}
    steps = []
    for cohort in draw(st.lists(st.sampled_from(NAMES), max_size=5)):
        weight = draw(st.integers(last.get(cohort, 0) + 1, 9_999))
        if weight < 9_990:
            last[cohort] = weight
            steps.append(Step(weight / 100, cohort=cohort))
    for weight in sorted(draw(st.sets(st.integers(0, 9_999), min_size=1, max_size=4))):
        steps.append(Step(weight / 100))
    return Plan(tuple(steps), ramp_down=draw(st.sampled_from((0.0, 5.0))))


def on_canary(here: Rollout, *, is_open: bool = False) -> set[tuple[bytes, frozenset[str]]]:
    table = RouteTable(
        weight=here.weight,
        cohorts=here.cohorts.reached,
        cohort=here.cohorts.drawn,
        circuit_open=is_open,
        salt=b"r1",
    )
    return {user for user in USERS if table.variant_of(*user) == CANARY}


@given(plans())
def test_no_step_forward_takes_a_user_back(plan: Plan) -> None:
    here, _, _ = machine.step(Rollout(), machine.Start(), 0.0, plan)
    before = on_canary(here)
    while here.state is State.RUNNING:
        here = replace(here, ready=True)
        here, _, _ = machine.step(here, machine.Resume(), 1.0, plan)
        after = on_canary(here)
        assert before <= after
        before = after
    assert here.exposure == Exposure(100.0)


@given(plans(), st.data())
def test_nothing_that_goes_back_gives_a_user_the_canary(plan: Plan, data: st.DataObject) -> None:
    here, _, _ = machine.step(Rollout(), machine.Start(), 0.0, plan)
    for _ in range(data.draw(st.integers(0, len(plan.steps)))):
        if here.state is State.RUNNING:
            here, _, _ = machine.step(replace(here, ready=True), machine.Resume(), 1.0, plan)
    before, broken, now = on_canary(here), Circuit(), 2.0
    lower = st.floats(0.0, here.weight).map(lambda weight: round(weight, 2))
    backwards: list[Any] = [circuit.Trip("bad"), machine.Abort(), machine.Abort(now=True)]
    event = data.draw(st.one_of(st.sampled_from(backwards), st.builds(machine.SetWeight, lower)))
    change = transitions.step(broken, here, event, now, plan, SETTINGS)
    after = on_canary(change.rollout)
    assert after <= before
    while change.rollout.state is State.ABORTING:
        now += 0.7
        lowered = machine.ramped(change.rollout, now)
        assert not lowered.exposure.raises(change.rollout.exposure)
        here = lowered if lowered.left else Rollout(State.ABORTED)
        assert on_canary(here) <= after
        change, after = replace(change, rollout=here), on_canary(here)
    if change.rollout.state is State.TRIPPED:
        assert not after
        back = machine.step(change.rollout, machine.Restore(), now, plan)[0]
        if back.state is not State.RUNNING or back.before is not State.PROMOTED:
            assert on_canary(back) == before
        probe = machine.step(change.rollout, machine.Probe(), now, plan)[0]
        assert on_canary(probe) <= before


@given(plans())
def test_a_saved_rollout_is_the_same(plan: Plan) -> None:
    here, _, _ = machine.step(Rollout(), machine.Start(), 0.0, plan)
    stopped, _, _ = machine.step(here, machine.Stop("bad"), 1.0, plan)
    for one in (here, stopped):
        assert Rollout.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_state_without_cohorts_says_nothing_of_them() -> None:
    assert "cohorts" not in Rollout(State.RUNNING, weight=5.0).to_dict()


def test_steps_of_a_plan() -> None:
    assert PLAN.exposure(0) == Exposure(0.0, (("staff", 50),), "staff")
    assert PLAN.exposure(1) == Exposure(0.0, (("staff", 50), ("beta", 10)), "beta")
    assert PLAN.exposure(3) == Exposure(25, (("staff", 50), ("beta", 10)))
    assert PLAN.exposure(4) == Exposure(100)


def test_a_weight_by_hand_is_about_all_users_and_0_takes_the_cohorts_back() -> None:
    here = Rollout(State.RUNNING).exposing(PLAN.exposure(1))
    raised, _, (record,) = machine.step(here, machine.SetWeight(5.0, "ann"), 0.0, PLAN)
    assert raised.exposure == Exposure(5.0, (("staff", 50), ("beta", 10)))
    assert record.cause == (
        "50% of staff, 10% of beta to 5% of users, 50% of staff, 10% of beta by ann"
    )
    emptied, _, _ = machine.step(raised, machine.SetWeight(0.0), 0.0, PLAN)
    assert emptied.exposure == Exposure()
    resumed, _, _ = machine.step(replace(emptied, step=1), machine.Resume(), 0.0, PLAN)
    assert resumed.exposure == PLAN.exposure(1)


def test_a_probe_is_of_the_group_that_was_compared() -> None:
    here = Rollout(State.RUNNING, step=1).exposing(PLAN.exposure(1))
    stopped, _, _ = machine.step(here, machine.Stop("bad"), 0.0, PLAN)
    assert not stopped.exposure.has_users
    probing, _, _ = machine.step(stopped, machine.Probe(), 0.0, PLAN)
    assert probing.exposure == Exposure(0.0, (("beta", 1.0),), "beta")


def test_a_ramp_down_lowers_the_group_of_its_step() -> None:
    plan = replace(PLAN, ramp_down=10.0)
    here = Rollout(State.RUNNING, step=1).exposing(plan.exposure(1))
    aborting, _, _ = machine.step(here, machine.Abort(), 0.0, plan)
    half = machine.ramped(aborting, 1.0)
    assert half.exposure == Exposure(0.0, (("staff", 50), ("beta", 9.0)), "beta")
    general = Rollout(State.RUNNING, step=3).exposing(plan.exposure(3))
    aborting, _, _ = machine.step(general, machine.Abort(), 0.0, plan)
    assert machine.ramped(aborting, 1.0).exposure.cohorts == (("staff", 50), ("beta", 10))
    assert machine.ramped(aborting, 1.0).weight == 22.5


def preview(act: acts.Operation, event: acts.Event | None, here: Rollout) -> acts.Preview:
    users = here.exposure
    cohorts = Cohorts(users.cohorts, users.cohort)
    now = acts.Here(
        "r1", Circuit(), here, PLAN, SETTINGS, users.weight, 0.0, users=1000, cohorts=cohorts
    )
    return acts.preview(act, event, now)


def test_previews_name_the_groups_that_move() -> None:
    here = Rollout(State.RUNNING, step=2).exposing(PLAN.exposure(2))
    found = preview("abort", machine.Abort(), here)
    assert (found.moved, found.after) == (None, 0.0)
    assert found.says[0] == (
        "1% of users (about 10 of 1,000 seen in the last minutes) move from the canary to stable with "
        "their next request (1% to 0%) and 50% of staff move from the canary to stable with their next "
        "request (50% to 0%) and 10% of beta move from the canary to stable with their next request "
        "(10% to 0%)"
    )
    assert not found.asks


def test_a_step_of_a_cohort_that_begins_asks() -> None:
    found = preview("start", machine.Start(), Rollout(State.ABORTED))
    assert found.asks
    assert found.says[0] == "it begins with step 1 of 5, 50% of staff"


def test_a_drill_in_a_cohorts_step_is_possible() -> None:
    here = Rollout(State.RUNNING).exposing(PLAN.exposure(0))
    assert acts.drill_refusal(Circuit(), here, 0.0) is None
    assert preview("drill", None, here).says[0].startswith("50% of staff go to stable")


def test_without_a_way_back_what_takes_cohorts_back_depends_on_what_was_seen() -> None:
    here = Rollout(State.RUNNING).exposing(PLAN.exposure(0))
    for event in (machine.SetWeight(0.0), machine.Abort(), circuit.Trip("bad")):
        assert acts.needs_precondition(event, here, 0.0, reversible=False)
        assert not acts.needs_precondition(event, here, 0.0, reversible=True)
