"""Acts: what a preview promises is what the state machines do, and who asks."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.recent_users import SPAN, RecentUsers
from canaryproxy.measure.records import EPOCH_SHIFT, VARIANT_SHIFT
from canaryproxy.measure.routing import POSITIONS
from canaryproxy.release import acts, circuit, rollout, transitions
from canaryproxy.release.acts import Here
from canaryproxy.release.rollout import Plan, Refused, State
from tests.docs.acts_table import SETTINGS, events, previews, states

NAMES = tuple(states())


@pytest.mark.parametrize("name", NAMES)
def test_a_preview_is_what_the_act_does(name: str) -> None:
    here = states()[name]
    can = acts.allowed(here.circuit, here.rollout, here.plan, here.weight)
    for typed, event, said in previews(here):
        assert (said.act in can) == (said.refusal is None), typed
        if event is None:
            continue
        refusal, done = None, None
        try:
            transitions.refuse(event, here.circuit, here.rollout)
            done = transitions.step(
                here.circuit, here.rollout, event, here.now, here.plan, SETTINGS
            )
        except Refused as error:
            refusal = str(error)
        assert said.refusal == refusal, typed
        assert bool(said.says) == (done is not None)
        if done is not None:
            ends = 0.0 if said.becomes is State.ABORTING else done.rollout.weight
            assert (said.after, said.becomes) == (ends, done.rollout.state), typed


@pytest.mark.parametrize("name", NAMES)
def test_what_exposes_users_asks_and_what_protects_them_does_not(name: str) -> None:
    here = states()[name]
    for typed, event, said in previews(here):
        if said.refusal is not None:
            continue
        if said.after > said.before or said.act in (
            "start",
            "resume",
            "promote",
            "accept",
            "drill",
        ):
            assert said.asks, typed
        reversible = here.plan.reversible
        if said.act in ("trip", "abort", "pause") or typed == "weight 2":
            assert said.asks == (not reversible and said.after < said.before), typed
            assert ("release.reversible is false" in said.says[-1]) == said.asks, typed
        if event is not None and (said.asks or said.act != "reset"):
            needs = acts.needs_precondition(event, here.rollout, here.weight, reversible=reversible)
            assert needs == said.asks, typed


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_only_a_weight_that_raises_depends_on_what_was_seen(
    wanted: float, decided: float, published: float
) -> None:
    here = rollout.Rollout(State.RUNNING, weight=decided)
    needs = acts.needs_precondition(rollout.SetWeight(wanted), here, published)
    assert needs == (wanted > decided or wanted > published)


def _says(name: str, typed: str, here: Here | None = None) -> str:
    operation, event = events()[typed]
    found = acts.preview(operation, event, here or states()[name])
    return f"{found.title}: {'. '.join(found.says)}"


def test_a_reset_names_the_users_that_come_back_and_why_it_tripped() -> None:
    assert _says("Tripped at 5%", "reset") == (
        "Reset cart-2.4: 5% of users (about 120 of 2,400 seen in the last minutes) move from stable to the"
        " canary with their next request (0% to 5%). the same users as before; step 1 of 3 starts over with"
        " a new judge. tripped 4 min ago: error rate 2.36% on canary vs 0.15% on stable"
    )


def test_without_users_seen_percentages_stand_alone() -> None:
    here = replace(states()["Tripped at 5%"], users=None)
    assert "Reset cart-2.4: 5% of users move" in _says("", "reset", here)
    assert acts.preview("reset", circuit.Reset(), here).moved is None


def test_a_start_that_learns_first_says_so_and_asks() -> None:
    here = states()["Aborted"]
    here = replace(here, plan=replace(here.plan, baseline=60.0))
    found = acts.preview("start", rollout.Start(), here)
    assert (found.asks, found.after) == (True, 0.0)
    assert found.says[0] == (
        "it learns from stable for 1 min; then it begins with step 1 of 3, 5% of users"
    )


def test_a_start_says_what_is_learnt_already() -> None:
    here = states()["Aborted"]
    here = replace(here, plan=replace(here.plan, baseline=60.0))
    assert here.seen is not None

    def begins(learned: float) -> str:
        assert here.seen is not None
        seen = replace(here, seen=replace(here.seen, learned=learned))
        return acts.preview("start", rollout.Start(), seen).says[0]

    assert begins(45.0).startswith("it learns from stable for 15 s; then it begins with step 1")
    assert begins(90.0) == (
        "it begins with step 1 of 3, 5% of users, at once: stable has been watched for 1 min 30 s"
    )


def test_a_drill_says_how_long_it_takes() -> None:
    here = states()["Running, step 1 of 3"]
    assert "come back some seconds later" in acts.preview("drill", None, here).says[0]
    some = replace(here, long_lived=40, moving=80.0)
    assert (
        acts.preview("drill", None, some)
        .says[0]
        .endswith("come back once 40 tunnels and streams have left the canary (about 1 min 20 s)")
    )


def test_the_last_step_resumed_says_that_it_ends_the_release() -> None:
    here = states()["Ready for the next step (`promote: manual`)"]
    last = replace(here, rollout=replace(here.rollout, step=2, weight=100.0), weight=100.0)
    assert "this was the last step: the release is promoted" in _says("", "resume", last)
    paused = replace(
        last, rollout=replace(last.rollout, state=State.PAUSED, weight=5.0), weight=5.0
    )
    assert "once it is complete, the release is promoted" in _says("", "resume", paused)


def test_after_the_promotion_what_sends_users_back_says_what_must_still_be_true() -> None:
    must = "promoted 4 min ago: stable must still run the version before it"
    for typed in ("trip", "abort", "weight 30"):
        assert must in _says("Promoted", typed), typed
        assert must not in _says("Paused at 5%", typed), typed
    assert "the promotion is taken back" in _says("Promoted", "abort")


def test_a_trip_says_when_it_would_end_by_itself() -> None:
    here = states()["Promoted"]
    assert "unless you abort, a probe with a few users begins by itself in 1 min" in _says(
        "Promoted", "trip"
    )
    for other in (
        replace(here, settings=replace(here.settings, cooldown=None)),
        replace(here, circuit=replace(here.circuit, trips=1)),
    ):
        assert "by itself" not in _says("", "trip", other)
        broken = transitions.step(
            *(other.circuit, other.rollout, circuit.Trip("x"), here.now, here.plan, other.settings)
        ).circuit
        assert broken.left is None


def test_a_promotion_that_skips_a_hold_back_says_so() -> None:
    here = states()["Running, step 1 of 3"]
    held = replace(here.plan.steps[1], weight=99.0, hold_back=True)
    plan = replace(here.plan, steps=(here.plan.steps[0], held, here.plan.steps[2]))
    assert "steps, the hold-back and gates are skipped" in _says(
        "", "promote", replace(here, plan=plan)
    )
    assert "hold-back" not in _says("", "promote", here)


def test_a_promoted_release_cannot_start_again_and_says_what_to_do() -> None:
    here = states()["Promoted"]
    found = acts.preview("start", rollout.Start(), here)
    assert not found.already
    assert "give release.id a new value, then reload" in (found.refusal or "")
    nothing = acts.preview(
        "start", rollout.Start(), replace(here, plan=Plan(()), rollout=rollout.Rollout())
    )
    assert "nothing to start" in (nothing.refusal or "")


# Users


def _word(position: int) -> int:
    return position | 1 << VARIANT_SHIFT | 7 << EPOCH_SHIFT


@pytest.mark.parametrize("users", [1, 100, 5_000, 60_000])
def test_recent_users_are_counted_once_whatever_they_send(users: int) -> None:
    found = RecentUsers()
    draw = Random(0)
    positions = [draw.randrange(POSITIONS) for _ in range(users)]
    words = [word for position in positions for word in (_word(position), 5, 6)]
    for now in range(3):
        found.take(float(now), words)
    assert found.count == pytest.approx(users, rel=0.02)


def test_recent_users_are_forgotten() -> None:
    found = RecentUsers()
    assert found.count is None
    found.take(0.0, [_word(1), 0, 0])
    found.take(SPAN, [_word(4000), 0, 0])
    assert found.count == 2
    found.take(2 * SPAN, [])
    assert found.count == 1
    found.take(5 * SPAN, [])
    assert found.count is None
    found.take(5 * SPAN + 1, [_word(1), 0, 0])
    found.forget()
    assert found.count is None
