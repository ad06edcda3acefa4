"""The rollout: what lets a step be left, what holds it, and that the trip always wins."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.families import Spec
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Level, Sample, Verdict
from canaryproxy.judging.verdicts import untested
from canaryproxy.measure.records import ENDED, pack_first, pack_second, pack_third
from canaryproxy.release import rollout as machine
from canaryproxy.release.rollout import (
    TRANSITIONS,
    Abort,
    Accept,
    Action,
    Breach,
    Event,
    Gate,
    GateAnswer,
    Pause,
    Plan,
    Probe,
    Promote,
    Refused,
    Replan,
    Restore,
    Resume,
    Rollout,
    SetWeight,
    Start,
    State,
    Step,
    Stop,
    Tick,
    release_change,
)

PLAN = Plan((Step(1, 2.0, 5), Step(25, 1.0), Step(100)))


def seen(
    judged: int = 0,
    level: Level = "ok",
    comparable: bool = True,
    proven: bool = False,
    answered: int | None = None,
    quiet: str | None = None,
    users: int = 0,
    holds: tuple[str, ...] = (),
    learned: float = 0.0,
    warming: bool = False,
    verdicts: tuple[Verdict, ...] = (),
) -> Assessment:
    return Assessment(
        level,
        verdicts,
        judged,
        judged if answered is None else answered,
        comparable,
        proven,
        None,
        quiet,
        users,
        holds,
        learned,
        warming=warming,
    )


class Run:
    """A rollout that is driven by hand."""

    def __init__(self, plan: Plan = PLAN, start: bool = True) -> None:
        self.plan = plan
        self.now = 100.0
        self.rollout = Rollout()
        self.actions: tuple[Action, ...] = ()
        self.history: list[str] = []
        if start:
            self.send(Start())

    def send(self, event: Event) -> Rollout:
        self.rollout, self.actions, records = machine.step(self.rollout, event, self.now, self.plan)
        self.history += [record.what for record in records]
        return self.rollout

    def ticks(self, seconds: float, assessment: Assessment) -> Rollout:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.send(Tick(assessment))
        return self.rollout

    @property
    def gate(self) -> str:
        """Where the gates are."""
        return self.rollout.gate.state

    @property
    def asks(self) -> bool:
        """Whether the last event asked the gates."""
        return Action.ASK_GATES in self.actions

    def restart(self) -> None:
        self.rollout = Rollout.from_dict(json.loads(json.dumps(self.rollout.to_dict())))
        self.now += 10_000.0

    def ramp(self) -> Rollout:
        """Give it healthy traffic until it stops moving."""
        judged = self.rollout.judged_from if self.rollout.judged_from > 0 else 0
        for _ in range(600):
            judged += 1
            self.now += 0.1
            self.send(Tick(seen(judged, proven=True)))
        return self.rollout


def test_the_bake_clock_stands_while_the_canary_warms_up() -> None:
    run = Run()
    run.ticks(5.0, seen(judged=5, warming=True, holds=("warming up: 5 s of 30 s",)))
    assert (run.rollout.baked, run.rollout.hold) == (0.0, "warming up: 5 s of 30 s")
    run.ticks(1.0, seen(judged=9))
    assert run.rollout.baked == pytest.approx(1.0)


def test_a_healthy_release_goes_through_its_steps() -> None:
    run = Run()
    assert (run.rollout.weight, run.actions) == (1, (Action.NEW_JUDGE,))
    run.ramp()
    assert run.rollout.state is State.PROMOTED
    assert run.rollout.weight == 100.0
    assert run.history == ["started", "step", "step", "promoted"]


LEARNING = replace(PLAN, baseline=60.0)


def test_no_user_is_on_the_canary_until_stable_was_watched() -> None:
    run = Run(LEARNING)
    assert (run.rollout.state, run.rollout.weight) == (State.RUNNING, 0.0)
    run.ticks(100.0, seen(judged=500, users=50, proven=True, learned=59.9))
    assert (run.rollout.step, run.rollout.weight, run.rollout.baked) == (0, 0.0, 0.0)
    assert run.rollout.hold == "learning from stable: 59 s of 1 min; no user is on the canary yet"
    run.ticks(0.1, seen(learned=60.0))
    begun = run.rollout
    assert (begun.step, begun.weight, begun.hold) == (0, 1, None)
    assert run.history == ["started", "step"]
    run.ramp()
    assert run.rollout.state is State.PROMOTED


def test_what_the_judge_knows_of_stable_already_is_not_waited_for() -> None:
    run = Run(LEARNING)
    run.ticks(0.1, seen(learned=3600.0))
    assert run.rollout.weight == 1


@pytest.mark.parametrize("stop", [(Pause(), Resume()), (Stop("errors"), Restore())])
def test_stable_is_still_watched_after_a_pause_and_after_a_reset(stop: tuple[Event, Event]) -> None:
    run = Run(LEARNING)
    for event in stop:
        run.send(event)
        assert run.rollout.weight == 0.0
    run.restart()
    assert run.rollout.state is State.RUNNING
    run.ticks(1.0, seen(learned=10.0))
    assert run.rollout.weight == 0.0
    run.ticks(0.1, seen(learned=60.0))
    assert run.rollout.weight == 1


def test_weight_that_an_operator_sets_does_not_wait_for_a_baseline() -> None:
    run = Run(LEARNING)
    run.send(SetWeight(7.0))
    assert (run.rollout.state, run.rollout.weight) == (State.PAUSED, 7.0)
    run.send(Resume())
    assert run.rollout.weight == 1
    learning = Run(LEARNING)
    learning.ticks(0.1, seen())
    with pytest.raises(Refused, match="learning from stable"):
        learning.send(Resume())


def test_reload_while_stable_is_watched_gives_nobody_the_canary() -> None:
    run = Run(LEARNING)
    run.plan = replace(LEARNING, steps=(Step(5), Step(100)))
    run.send(Replan(judge=True))
    assert run.rollout.weight == 0.0
    run.ticks(0.1, seen(learned=60.0))
    assert run.rollout.weight == 5


def test_step_that_compares_nothing_needs_no_baseline() -> None:
    assert Run(Plan((Step(100),), baseline=60.0)).rollout.weight == 100


def test_a_step_needs_its_bake_time_and_its_requests() -> None:
    run = Run()
    run.ticks(10.0, seen(judged=4))
    assert run.rollout.step == 0
    assert run.rollout.hold == "4 of 5 requests"
    run.ticks(0.1, seen(judged=5))
    assert run.rollout.step == 1
    quick = Run()
    quick.ticks(1.5, seen(judged=500))
    assert quick.rollout.hold == "bake time 1.4 s of 2 s"
    quick.ticks(0.8, seen(judged=500))
    assert quick.rollout.step == 1


@pytest.mark.parametrize("quiet", ["stable has no traffic", "the canary has no traffic", None])
def test_silence_is_not_success(quiet: str | None) -> None:
    run = Run(Plan((Step(1), Step(50))))
    run.ticks(100.0, seen(comparable=False, quiet=quiet))
    assert (run.rollout.step, run.rollout.baked) == (0, 0.0)
    assert run.rollout.hold == (quiet or "no traffic")
    run.ticks(100.0, seen(judged=0))
    assert run.rollout.step == 0
    assert run.rollout.hold == "0 of 1 requests"


def test_with_the_judge_a_stable_that_is_silent_never_promotes() -> None:
    run, judge = Run(Plan((Step(1), Step(50)))), Judge(JudgeSettings())
    for at in range(300):
        run.now += 0.1
        records = []
        for user in range(4):  # on the canary: one percent is the positions below 12,800
            first = pack_first(user * 3000, 1, 0, 200, 0, ENDED)
            records += [first, pack_second(0, 0, 0), pack_third(0.01, 100)]
        counts = {"requests": (at * 4, 0)}
        sample = Sample({"requests": (0, 0)}, counts, records=records, limit=100)
        run.send(Tick(judge.observe(run.now, sample)))
    assert run.rollout.step == 0
    assert run.rollout.hold == "stable has no traffic"


def test_no_traffic_stops_the_bake_clock_where_it_is() -> None:
    run = Run()
    run.ticks(1.5, seen(judged=50))
    baked = run.rollout.baked
    run.ticks(60.0, seen(judged=50, comparable=False))
    assert run.rollout.baked == baked
    run.ticks(1.0, seen(judged=50))
    assert run.rollout.step == 1


def test_suspicion_holds_and_sets_the_bake_clock_back() -> None:
    run = Run()
    run.ticks(1.9, seen(judged=50))
    run.ticks(30.0, seen(judged=50, level="suspect"))
    assert (run.rollout.step, run.rollout.baked) == (0, 0.0)
    assert (run.rollout.hold or "").startswith("suspect")
    run.ticks(1.9, seen(judged=50))
    assert run.rollout.step == 0
    run.ticks(0.3, seen(judged=50))
    assert run.rollout.step == 1


def test_a_pause_stops_the_clock_and_resume_goes_on() -> None:
    run = Run()
    run.ticks(1.5, seen(judged=50))
    baked = run.rollout.baked
    run.send(Pause("ann"))
    run.ticks(100.0, seen(judged=900))
    assert (run.rollout.state, run.rollout.weight) == (State.PAUSED, 1)
    assert run.rollout.hold == "paused by ann"
    run.send(Resume())
    assert (run.rollout.state, run.rollout.baked) == (State.RUNNING, baked)
    run.ticks(0.9, seen(judged=900))
    assert run.rollout.step == 1


def test_a_restart_in_the_middle_of_a_step_goes_on_and_bakes_nothing() -> None:
    run = Run()
    run.ticks(1.5, seen(judged=50))
    baked = run.rollout.baked
    run.restart()
    run.ticks(0.1, seen(judged=50))
    assert run.rollout.baked == baked
    run.ticks(1.0, seen(judged=50))
    assert run.rollout.step == 1


def test_requests_are_counted_by_step() -> None:
    run = Run(Plan((Step(1, 0.5, 100), Step(5, 0.5, 100), Step(50, 0.5))))
    run.ticks(1.0, seen(judged=100))
    assert run.rollout.step == 1
    run.ticks(5.0, seen(judged=199))
    assert run.rollout.hold == "99 of 100 requests"
    run.ticks(0.1, seen(judged=200))
    assert run.rollout.step == 2


def test_step_waits_for_its_users_however_many_requests_they_send() -> None:
    run = Run(Plan((Step(1, 1.0, 5, min_users=10), Step(100, min_users=10))))
    run.ticks(60.0, seen(judged=5000, users=9))
    assert (run.rollout.step, run.rollout.hold) == (0, "9 of 10 users")
    run.ticks(0.1, seen(judged=5000, users=10))
    assert run.rollout.step == 1
    run.ticks(1.0, seen(judged=5000, answered=5100, users=0))  # nothing left to compare with
    assert run.rollout.state is State.PROMOTED


def test_step_is_held_while_the_judge_names_a_reason() -> None:
    run = Run()
    worse = "looks worse: 50 of 50 canary requests of one user failed"
    run.ticks(60.0, seen(judged=50, holds=(worse,)))
    assert (run.rollout.step, run.rollout.hold) == (0, worse)
    assert run.rollout.baked > 50  # the bake clock runs meanwhile
    run.ticks(0.1, seen(judged=50, holds=("one", "two", "three", "four")))
    assert run.rollout.hold == "one; two; and 2 more"
    run.ticks(0.1, seen(judged=50))
    assert run.rollout.step == 1


WORSE = replace(untested(Spec("errors", 0.25), JudgeSettings(), None), worse=True)


def test_a_step_that_looked_worse_must_look_well_for_as_long() -> None:
    """A rate that is worse by about its margin would pass at the first moment at which it is lower."""
    run = Run(Plan((Step(5, 20.0), Step(50, 10.0), Step(100))))
    run.ticks(15.0, seen(judged=50))
    run.ticks(12.0, seen(judged=80, verdicts=(WORSE,), holds=("looks worse",)))
    assert run.rollout.baked == pytest.approx(3.0, abs=0.2)
    run.ticks(16.5, seen(judged=90))
    assert run.rollout.step == 0
    run.ticks(1.0, seen(judged=90))
    assert run.rollout.step == 1


def test_time_beyond_the_bake_time_is_no_credit_for_a_step_that_looks_worse() -> None:
    run = Run(Plan((Step(5, 2.0, min_requests=100), Step(50))))
    run.ticks(60.0, seen(judged=50))
    run.ticks(1.0, seen(judged=100, verdicts=(WORSE,), holds=("looks worse",)))
    assert run.rollout.baked == pytest.approx(1.0, abs=0.2)


def test_the_last_verdicts_do_not_hold_the_step_that_compares_nothing() -> None:
    run = Run(Plan((Step(100, 2.0),)))
    run.ticks(3.0, seen(judged=1, answered=50, verdicts=(WORSE,)))
    assert run.rollout.state is State.PROMOTED


def test_suspicion_without_a_metric_names_what_the_judge_holds_for() -> None:
    run = Run()
    run.ticks(0.2, seen(level="suspect", holds=("the last 3 canary requests failed",)))
    assert run.rollout.hold == "suspect: the last 3 canary requests failed"


def test_what_holds_keeps_a_manual_step_from_being_ready() -> None:
    run = Run(Plan((Step(1, 1.0), Step(50)), promote="manual"))
    run.ticks(5.0, seen(judged=50))
    assert run.rollout.ready
    run.ticks(0.1, seen(judged=50, holds=("small sees nothing",)))
    with pytest.raises(Refused, match="not complete: small sees nothing"):
        run.send(Resume())


def test_accepted_metrics_are_kept_until_another_release_starts() -> None:
    run = Run()
    run.send(Accept("client_errors", "ann: 401 is wanted"))
    run.send(Accept("errors GET /old"))
    assert run.rollout.accepted == {"client_errors", "errors GET /old"}
    assert run.history[-2:] == ["accepted", "accepted"]
    with pytest.raises(Refused, match="client_errors is accepted already"):
        run.send(Accept("client_errors"))
    for event in (Stop("errors"), Probe(), Restore(), Pause(), Resume(), Replan(judge=True)):
        run.send(event)
        run.restart()
        assert run.rollout.accepted == {"client_errors", "errors GET /old"}
    run.send(Abort())
    with pytest.raises(Refused, match="cannot accept while the release is aborted"):
        run.send(Accept("latency"))
    assert run.send(Start()).accepted == frozenset()


def test_state_saved_before_metrics_could_be_accepted_is_read() -> None:
    state = Rollout().to_dict()
    del state["accepted"]
    assert Rollout.from_dict(state) == Rollout()


def test_proof_is_waited_for() -> None:
    run = Run(Plan((Step(1, 1.0), Step(100)), promote="proof"))
    run.ticks(60.0, seen(judged=1000))
    assert run.rollout.step == 0
    assert (run.rollout.hold or "").startswith("not proven yet")
    run.ticks(0.1, seen(judged=1000, proven=True))
    assert run.rollout.step == 1


def test_by_hand_each_step_waits_for_an_operator() -> None:
    run = Run(Plan((Step(1, 1.0), Step(50, 1.0)), promote="manual"))
    with pytest.raises(Refused, match="step is not complete: it has just begun"):
        run.send(Resume())
    run.ticks(30.0, seen(judged=100))
    assert (run.rollout.step, run.rollout.ready) == (0, True)
    assert run.history == ["started", "ready"]
    run.ticks(0.1, seen(judged=100, level="suspect"))
    assert not run.rollout.ready
    run.ticks(2.0, seen(judged=100))
    run.send(Resume("bob"))
    assert run.rollout.weight == 50
    run.ticks(2.0, seen(judged=200))
    run.send(Resume())
    assert (run.rollout.state, run.rollout.weight) == (State.PROMOTED, 100.0)


def test_at_a_hundred_the_canary_alone_counts() -> None:
    run = Run(Plan((Step(100, 2.0, 10),)))
    run.ticks(20.0, seen(comparable=False, answered=0))
    assert run.rollout.hold == "the canary has no traffic"
    for count in range(1, 40):
        run.ticks(0.1, seen(comparable=False, answered=count, quiet="stable has no traffic"))
    assert run.rollout.state is State.PROMOTED


def test_the_trip_wins_and_only_a_reset_leads_back() -> None:
    run = Run()
    run.ticks(3.0, seen(judged=50))
    assert run.rollout.weight == 25
    run.send(Stop("errors: 4 of 4"))
    assert (run.rollout.state, run.rollout.weight) == (State.TRIPPED, 0.0)
    for event in (Resume(), Promote(), Pause(), SetWeight(5.0), Start()):
        with pytest.raises(Refused, match="while the release is tripped"):
            run.send(event)
    run.ticks(50.0, seen(judged=500))
    run.restart()
    run.send(Stop("again"))
    assert run.rollout.weight == 0.0
    run.send(Restore())
    assert (run.rollout.state, run.rollout.step, run.rollout.weight) == (State.RUNNING, 1, 25)
    assert (run.rollout.baked, run.rollout.judged_from) == (0.0, 0)
    assert run.actions == (Action.NEW_JUDGE,)


def test_users_of_the_step_are_kept_by_a_trip_and_a_restart() -> None:
    run = Run()
    run.ticks(3.0, seen(judged=50, users=12))
    assert run.rollout.step == 1
    run.ticks(0.5, seen(judged=60, users=3))
    run.send(Stop("errors"))
    run.restart()
    assert run.rollout.users == 3
    run.send(Restore())
    assert run.rollout.users == 0


def test_a_probe_has_a_small_weight() -> None:
    run = Run()
    run.ticks(3.0, seen(judged=50))
    run.send(Stop("errors"))
    run.send(Probe())
    assert (run.rollout.state, run.rollout.weight) == (State.PROBING, 1.0)
    assert run.actions == (Action.NEW_JUDGE,)
    run.send(Stop("errors"))
    assert run.rollout.weight == 0.0
    run.send(Probe())
    run.send(Restore("recovered"))
    assert (run.rollout.state, run.rollout.weight) == (State.RUNNING, 25)
    small = Run(Plan((Step(0.1),)))
    small.send(Stop("errors"))
    assert small.send(Probe()).weight == 0.1


def test_what_was_promoted_and_broke_comes_back_to_its_last_step() -> None:
    run = Run(Plan((Step(50),)))
    run.send(Promote("ann"))
    assert run.rollout.weight == 100.0
    run.send(Stop("guard rail"))
    run.send(Restore())
    assert (run.rollout.state, run.rollout.weight) == (State.RUNNING, 50)


def test_what_was_paused_comes_back_paused() -> None:
    run = Run()
    run.send(SetWeight(7.5))
    assert (run.rollout.state, run.rollout.weight) == (State.PAUSED, 7.5)
    run.send(Stop("errors"))
    run.send(Restore())
    assert (run.rollout.state, run.rollout.weight) == (State.PAUSED, 7.5)
    assert run.send(Resume()).weight == 1


def test_without_a_release_the_weight_is_set_by_hand() -> None:
    run = Run(Plan(()), start=False)
    run.send(SetWeight(5.0))
    assert (run.rollout.state, run.rollout.weight) == (State.IDLE, 5.0)
    run.send(Tick(seen()))
    run.send(Stop("errors"))
    assert run.rollout.weight == 0.0
    run.send(Restore())
    assert (run.rollout.state, run.rollout.weight) == (State.IDLE, 5.0)
    with pytest.raises(Refused, match="nothing to start"):
        run.send(Start())
    for weight in (-1.0, 100.5, float("nan")):
        with pytest.raises(Refused, match="weight must be between 0 and 100 percent"):
            run.send(SetWeight(weight))


def test_an_aborted_release_can_start_again() -> None:
    run = Run()
    run.send(Abort())
    assert (run.rollout.state, run.rollout.weight) == (State.ABORTED, 0.0)
    run.send(Stop("late"))
    assert run.rollout.state is State.ABORTED
    assert run.send(Start()).weight == 1


def test_a_breach_pauses_moves_nobody_and_is_told_once() -> None:
    run = Run()
    run.ticks(3, seen(10, users=3))
    weight = run.rollout.weight
    assert run.send(Breach("errors", {"judged": 7})).state is State.PAUSED
    assert (run.rollout.weight, run.rollout.breach) == (weight, "errors")
    assert run.history[-1] == "breached"
    told = run.history.count("breached")
    run.send(Breach("latency"))
    run.ticks(30, seen(50, users=3))
    assert run.history.count("breached") == told
    run.send(Resume())
    assert (run.rollout.state, run.rollout.breach, run.rollout.baked) == (State.RUNNING, None, 0.0)
    assert run.actions == (Action.NEW_JUDGE,)


def test_a_promoted_release_that_breaches_stays_promoted_until_an_operator_ends_it() -> None:
    run = Run()
    run.send(Promote())
    assert run.send(Breach("guard rail")).state is State.PROMOTED
    assert (run.rollout.weight, run.rollout.breach) == (100.0, "guard rail")
    assert run.send(Abort()).breach is None


def test_a_hold_back_keeps_a_control_group_for_its_bake_time_and_then_promotes() -> None:
    run = Run(Plan((Step(50), Step(99, 5.0, hold_back=True), Step(100)), promote="bake"))
    run.ticks(0.2, seen(5, users=3))
    assert (run.rollout.step, run.rollout.weight) == (1, 99)
    run.ticks(3.9, seen(50, users=3))
    assert run.rollout.hold == "hold-back of 1% of users: bake time 4 s of 5 s"
    run.restart()
    run.ticks(0.5, seen(60, users=3))
    assert (run.rollout.state, run.rollout.weight) == (State.RUNNING, 99)
    run.ticks(1.0, seen(60, "suspect"))
    run.ticks(4.5, seen(80, users=3))
    assert run.rollout.weight == 99
    run.ticks(1.0, seen(90, users=3))
    assert (run.rollout.step, run.rollout.weight) == (2, 100)
    run.ticks(0.1, seen(95, users=3))
    assert run.rollout.state is State.PROMOTED


def test_a_hold_back_is_named_in_the_record_trips_like_a_step_and_is_skipped_by_promote() -> None:
    plan = Plan((Step(50), Step(99.5, 86_400.0, hold_back=True), Step(100)))
    here = replace(Rollout(), state=State.RUNNING, weight=50.0)
    held, _, (record,) = machine.step(here, Tick(seen(5)), 1.0, plan)
    assert held.weight == 99.5
    assert record.cause.endswith(
        "; hold-back: 0.5% of users stay on stable for 1 d as a control group"
    )
    assert machine.step(held, Stop("errors"), 2.0, plan)[0].weight == 0.0
    assert machine.step(held, Promote(), 2.0, plan)[0].weight == 100.0


@pytest.mark.parametrize(
    ("bake", "cause"), [(0.0, "the last step has no bake time"), (1.0, "no regression in 5 ")]
)
def test_a_promotion_says_what_it_rests_on(bake: float, cause: str) -> None:
    plan = Plan((Step(50), Step(100, bake)))
    here = replace(Rollout(), state=State.RUNNING, weight=100.0, step=1, ticked=0.5, baked=1.0)
    promoted, _, (record,) = machine.step(here, Tick(seen(5)), 1.0, plan)
    assert (promoted.state, record.what) == (State.PROMOTED, "promoted")
    assert record.cause.startswith(cause)


RAMP = Plan((Step(50, 2.0, 5), Step(100)), ramp_down=10.0)


def test_a_ramp_down_lowers_the_weight_once_a_second_and_ends_at_zero() -> None:
    run = Run(RAMP)
    assert (run.send(Abort("ann")).state, run.rollout.weight) == (State.ABORTING, 50.0)
    run.ticks(0.1, seen())
    weights = [run.ticks(1, seen()).weight for _ in range(9)]
    assert weights == pytest.approx([45.0, 40.0, 35.0, 30.0, 25.0, 20.0, 15.0, 10.0, 5.0])
    assert run.ticks(1, seen()).state is State.ABORTED
    assert run.rollout.weight == 0.0
    assert run.history == ["started", "aborting", "aborted"]


@pytest.mark.parametrize(
    "event", [Abort(), Abort(now=True), Stop("errors"), Tick(seen(level="suspect"))]
)
def test_an_emergency_ends_a_ramp_down_at_once(event: Event) -> None:
    run = Run(RAMP)
    run.send(Abort())
    run.ticks(2, seen())
    assert (run.send(event).state, run.rollout.weight) == (State.ABORTED, 0.0)
    assert run.send(Restore()).weight == 0.0


def test_an_abort_is_at_once_where_nobody_is_on_the_canary_or_it_is_an_emergency() -> None:
    for before in (Promote(), Pause()):
        run = Run(RAMP)
        run.send(before)
        assert run.send(Abort(now=True)).state is State.ABORTED
    emergencies: list[list[Event]] = [
        [Stop("errors")],
        [Stop("errors"), Probe()],
        [SetWeight(0.0)],
    ]
    for sent in emergencies:
        run = Run(RAMP)
        for one in sent:
            run.send(one)
        assert run.send(Abort()).state is State.ABORTED


@given(
    st.floats(0.01, 100.0),
    st.floats(0.01, 600.0),
    st.lists(st.floats(-1e6, 1e6) | st.floats(0.0, 1.0), max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_the_weight_never_rises_during_a_ramp_down_and_ends_at_zero(
    weight: float, over: float, jumps: list[float]
) -> None:
    run = Run(Plan((Step(weight), Step(100)) if weight < 100 else (Step(100),), ramp_down=over))
    run.send(Abort())
    for jump in jumps:
        before = run.rollout
        run.now += jump
        after = run.send(Tick(seen()))
        assert after.weight <= before.weight
        assert after.weight >= min(before.weight - before.falls * 2.0, before.weight) - 1e-6
    for _ in range(int(over) + 3):
        run.now += 1.0
        if run.rollout.state is State.ABORTING:
            run.send(Tick(seen()))
    assert (run.rollout.state, run.rollout.weight) == (State.ABORTED, 0.0)


def test_the_documented_table_is_the_table() -> None:
    allowed = {state.value: sorted(e.__name__ for e in TRANSITIONS[state]) for state in State}
    for row in (machine.__doc__ or "").split("===\n")[2].splitlines():
        if row.strip() and not row.startswith((" ", "=")):
            assert row.split()[0] in allowed
    for state in State:
        assert {Stop, Tick} <= set(TRANSITIONS[state])


numbers = st.integers(0, 200)
ticks = st.builds(
    Tick,
    st.builds(
        seen,
        numbers,
        st.sampled_from(["ok", "ok", "suspect"]),
        st.booleans(),
        st.booleans(),
        users=st.integers(0, 9),
        learned=st.sampled_from([0.0, 59.0, 60.0]),
        holds=st.sampled_from([(), (), ("looks worse",)]),
    ),
)
events: Any = st.one_of(
    ticks,
    ticks,
    ticks,
    st.just(Start()),
    st.just(Pause()),
    st.just(Resume()),
    st.just(Promote()),
    st.builds(Abort, now=st.booleans()),
    st.builds(SetWeight, st.floats(0.0, 100.0)),
    st.builds(Accept, st.sampled_from(["errors", "latency"])),
    st.just(Stop("errors")),
    st.just(Breach("errors")),
    st.just(Probe()),
    st.builds(
        GateAnswer, question=st.integers(0, 3), passed=st.booleans(), cause=st.just("office")
    ),
    st.builds(Replan, judge=st.booleans()),
    st.just(Restore()),
)
PLANS = [
    PLAN,
    replace(PLAN, promote="proof"),
    replace(PLAN, promote="manual"),
    Plan((Step(5, 0.5), Step(60, 0.5, 3))),
    Plan((Step(5, 0.5, min_users=5), Step(60, 0.5, 3), Step(100, min_users=5))),
    replace(PLAN, gated=True),
    Plan((Step(5, 0.5), Step(98, 2.0, hold_back=True), Step(100))),
    replace(PLAN, ramp_down=2.0),
    LEARNING,
]


@given(st.lists(st.tuples(events, st.floats(-0.5, 3.0)), max_size=80), st.sampled_from(PLANS))
@settings(max_examples=300, deadline=None)
def test_promises_for_any_history(history: list[tuple[Event, float]], plan: Plan) -> None:
    rollout, now = Rollout(), 0.0
    stopped = False
    for event, wait in history:
        now += wait
        before = rollout
        try:
            rollout, actions, records = machine.step(before, event, now, plan)
        except Refused:
            assert not isinstance(event, Stop | Tick | Breach)
            continue
        if isinstance(event, Stop):
            stopped = True
        elif isinstance(event, Restore | Probe | Start):
            stopped = False
        if stopped:
            assert rollout.weight == 0.0
        if isinstance(event, Breach):
            assert rollout.weight == before.weight
            assert len(records) == (rollout.breach != before.breach)
        if rollout.breach is not None:
            assert rollout.state in (State.PAUSED, State.PROMOTED)
        assert 0.0 <= rollout.weight <= 100.0
        if rollout.state is State.ABORTED:
            assert rollout.weight == 0.0
        if rollout.learning:
            assert rollout.weight == 0.0
        if isinstance(event, Tick) and before.learning:
            assert rollout.learning or event.assessment.learned >= plan.baseline
        elif isinstance(event, Tick) and before.state is State.ABORTING:
            assert rollout.weight <= before.weight
            assert rollout.state in (State.ABORTING, State.ABORTED)
        elif isinstance(event, Tick) and rollout.weight != before.weight:
            assert before.state is State.RUNNING
            assert event.assessment.level == "ok"
            assert rollout.weight > before.weight
            assert records
            assert not event.assessment.holds
            least = plan.steps[before.step]
            assert event.assessment.users >= least.min_users or least.weight == 100.0
            if before.weight < 100.0:
                assert event.assessment.comparable
                if plan.promote == "proof":
                    assert event.assessment.proven
                assert plan.promote != "manual"
                if plan.gated:
                    assert before.gate.state == "passed"
        if rollout.state is not before.state:
            assert records
        if rollout.accepted - before.accepted:
            assert isinstance(event, Accept)
        if Action.NEW_JUDGE in actions:
            assert (rollout.baked, rollout.judged_from) == (0.0, 0)
        again = Rollout.from_dict(json.loads(json.dumps(rollout.to_dict(), allow_nan=False)))
        assert again == replace(rollout, ticked=None, heard=None, gate=Gate())


GATED = replace(PLAN, gated=True)


def test_gates_are_asked_when_all_else_holds_and_let_the_step_pass() -> None:
    run = Run(GATED)
    run.ticks(10.0, seen(judged=4))
    assert run.gate == "idle"
    run.ticks(0.1, seen(judged=5))
    assert run.asks
    assert (run.rollout.step, run.rollout.hold) == (0, "waiting for the gates")
    run.ticks(5.0, seen(judged=6))
    assert not run.asks
    run.send(GateAnswer(run.rollout.gate.question, passed=True, cause="release-office: yes"))
    assert run.rollout.step == 0
    run.ticks(0.1, seen(judged=6))
    assert run.rollout.step == 1
    assert run.gate == "idle"
    assert run.history == ["started", "gate", "step"]


def test_who_refuses_is_asked_again_and_says_it_once() -> None:
    run = Run(GATED)
    asked = 0
    for _ in range(1300):
        run.ticks(0.1, seen(judged=5))
        if run.asks:
            asked += 1
            run.send(GateAnswer(run.rollout.gate.question, passed=False, cause="office: closed"))
            assert run.rollout.hold == "office: closed"
    assert asked == 5  # within 128 seconds, each half minute
    assert run.rollout.step == 0
    assert run.history == ["started", "gate"]


def test_an_answer_to_an_old_question_opens_nothing() -> None:
    run = Run(GATED)
    run.ticks(10.0, seen(judged=5))
    old = run.rollout.gate.question
    run.ticks(0.1, seen(judged=5, level="suspect"))  # takes back the question
    run.send(GateAnswer(old, passed=True, cause="yes"))
    assert run.gate == "idle"
    run.ticks(3.0, seen(judged=6))
    assert run.rollout.gate.question > old
    run.send(GateAnswer(old, passed=True, cause="yes"))
    assert run.gate == "asked"
    run.send(Pause())
    run.send(GateAnswer(run.rollout.gate.question, passed=True, cause="yes"))
    assert (run.gate, run.rollout.hold) == ("idle", "paused by operator")


def test_a_suspicion_takes_back_what_the_gates_passed() -> None:
    run = Run(GATED)
    run.ticks(10.0, seen(judged=5))
    run.send(GateAnswer(run.rollout.gate.question, passed=True, cause="yes"))
    run.ticks(0.1, seen(judged=5, level="suspect"))
    run.ticks(2.1, seen(judged=6))
    assert (run.rollout.step, run.gate) == (0, "asked")


def test_gates_that_never_answer_are_asked_again_and_never_pass() -> None:
    run = Run(GATED)
    run.ticks(2.2, seen(judged=5))
    first = run.rollout.gate.question
    run.ticks(machine.LOST + 1, seen(judged=5))
    assert run.rollout.gate.question == first + 1
    assert run.rollout.step == 0


def test_another_plan_moves_the_weight_of_a_running_step_only() -> None:
    run = Run()
    run.plan = replace(PLAN, steps=(Step(2.5, 2.0, 5), Step(50)))
    run.send(Replan())
    assert run.rollout.weight == 2.5
    assert run.history == ["started", "weight"]
    run.send(Pause())
    run.plan = PLAN
    run.send(Replan())
    assert run.rollout.weight == 2.5
    run.send(Resume())
    assert run.rollout.weight == 1
    run.send(Stop("breach"))
    run.plan = replace(PLAN, steps=(Step(0.5), Step(50)))
    run.send(Replan())
    assert run.rollout.weight == 0.0
    run.send(Restore())
    assert run.rollout.weight == 0.5


def test_without_a_plan_the_weight_of_the_configuration_is_followed_when_it_changes() -> None:
    run = Run(Plan(()), start=False)
    run.send(SetWeight(7.0))
    run.send(Replan())
    assert run.rollout.weight == 7.0
    run.send(Replan(weight=3.0))
    assert run.rollout.weight == 3.0
    run.send(Stop("errors"))
    run.send(Replan(weight=2.0))
    assert run.rollout.weight == 0.0
    assert run.send(Restore()).weight == 2.0


def test_another_judge_means_a_bake_from_the_beginning() -> None:
    run = Run()
    run.ticks(1.5, seen(judged=100))
    run.send(Replan(judge=True))
    assert (run.rollout.baked, run.rollout.judged_from, run.actions) == (
        0.0,
        0,
        (Action.NEW_JUDGE,),
    )
    run.ticks(1.5, seen(judged=5))
    assert run.rollout.step == 0


def test_a_reset_after_an_abort_gives_nobody_the_canary() -> None:
    run = Run()
    run.send(Stop("breach"))
    run.send(Abort())
    run.send(Probe())  # of a circuit with a cool-down
    run.send(Restore())
    assert (run.rollout.state, run.rollout.weight) == (State.ABORTED, 0.0)


def test_another_release_is_named() -> None:
    assert release_change("cart-2.4", "cart-2.5") == "cart-2.5 replaces cart-2.4"
    assert release_change(None, "cart-2.5") == "cart-2.5 starts"
    assert release_change("cart-2.4", None) == "release cart-2.4 removed from the configuration"
    assert release_change(None, None) == "no release configured"
