"""The forecast of a plan: near to what the judge does, and warnings that say what to change."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.lottery import TestSettings
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.release.forecast import Traffic, detection, forecast
from canaryproxy.release.rollout import Step

np = pytest.importorskip("numpy")
judges = pytest.importorskip("tests.simulation.judges")
worlds = pytest.importorskip("tests.simulation.worlds")

STEPS = (Step(1, 300, 500), Step(5, 300, 1000), Step(25, 600), Step(50, 600), Step(100))
ERRORS = TestSettings(log(20_000), log(100), 0.01)
TRAFFIC = Traffic(200.0, 0.005, 20_000)


@pytest.mark.parametrize(
    ("users", "rps", "canary", "before", "weight", "seconds"),
    [
        (20_000, 200.0, 1.0, 0.0, 1.0, 10.0),
        (20_000, 50.0, 0.5, 0.0, 5.0, 20.0),
        (20_000, 200.0, 0.5, 0.0, 50.0, 5.0),
        (20_000, 200.0, 0.05, 5.0, 25.0, 20.0),
        (2_000, 200.0, 0.05, 0.0, 5.0, 50.0),
        (200, 20.0, 0.2, 0.0, 25.0, 150.0),
    ],
)
def test_forecast_agrees_with_simulated_releases_within_a_fifth(
    users: int, rps: float, canary: float, before: float, weight: float, seconds: float
) -> None:
    """``seconds`` are far beyond the median; a release that takes longer is in the slower half anyway."""
    _, limits = judges.ERRORS.judged(first_step=before == 0.0)
    found = detection(Traffic(rps, 0.005, users), canary, before, weight, limits)
    assert found is not None
    harm = worlds.Harm(canary)
    world = worlds.World(weight, users, 0.005, harm, rate=rps, before=before)
    runs = [
        judges.this_judge(world.run(np.random.default_rng([7, at]), seconds), judges.ERRORS)
        for at in range(61)
    ]
    middle = median(run.requests for run in runs)
    assert abs(found.requests - middle) <= max(0.2 * middle, 1.0 / canary)  # or one failure
    middle = median(run.users for run in runs)
    assert abs(found.users - middle) <= max(0.2 * middle, 1.0)


@given(st.floats(0.0, 0.2), st.floats(0.05, 0.5), st.floats(0.5, 90.0))
@settings(max_examples=5, deadline=None)
def test_larger_regressions_need_fewer_requests(stable: float, more: float, weight: float) -> None:
    traffic = Traffic(100.0, stable)
    small = detection(traffic, stable + more, 0.0, weight, ERRORS)
    large = detection(traffic, min(stable + 1.6 * more, 1.0), 0.0, weight, ERRORS)
    assert small is not None
    assert large is not None
    assert large.requests <= 1.1 * small.requests + 1
    strict = detection(traffic, stable + more, 0.0, weight, replace(ERRORS, log_limit=25.0))
    assert strict is not None
    assert strict.requests >= small.requests


def test_what_is_never_detected() -> None:
    assert detection(TRAFFIC, 0.008, 0.0, 50.0, ERRORS) is None  # below the margin
    assert detection(Traffic(200.0, 0.02), 0.01, 0.0, 50.0, ERRORS) is None
    assert detection(TRAFFIC, 1.0, 0.0, 0.0, ERRORS) is None
    assert detection(TRAFFIC, 1.0, 0.0, 100.0, ERRORS) is None
    assert detection(Traffic(0.0, 0.0), 1.0, 0.0, 50.0, ERRORS) is None


def test_too_few_users_leave_it_to_the_guard_rail() -> None:
    """One canary user of a hundred is evidence of 100:1 at most, however long he fails."""
    few = Traffic(20.0, 0.005, 100)
    assert detection(few, 1.0, 0.0, 1.0, ERRORS) is None
    seen = forecast((Step(1, 300), Step(100)), few)
    (dead, half, *_) = seen.steps[0].catches
    assert (dead.requests, dead.rail, dead.hurt) == (20, True, 1)
    assert half.requests is None
    without = forecast((Step(1, 300), Step(100)), few, settings=JudgeSettings(guard_rails=None))
    assert without.steps[0].catches[0].requests is None
    assert "step 1: it moves 1 user to the canary, and is not left before 10" in seen.warnings[0]


def test_a_small_control_group_still_shows_a_regression() -> None:
    held = Step(99.0, 86_400.0, hold_back=True)
    catch = forecast((Step(50, 600), held, Step(100)), TRAFFIC, [0.02]).steps[1].catches[0]
    assert catch.requests is not None
    assert catch.in_time


def test_a_sound_plan_has_no_warnings() -> None:
    seen = forecast(STEPS, TRAFFIC)
    assert seen.warnings == ()
    assert [step.lasts for step in seen.steps[:2]] == [300, 300]
    assert seen.steps[0].requests == 600
    assert [step.users for step in seen.steps[:3]] == [200, 800, 4000]
    catch = seen.steps[0].catches[0]
    assert (catch.canary_rate, catch.in_time, catch.rail) == (1.0, True, False)
    assert catch.requests is not None
    assert catch.requests <= 5
    assert catch.seconds == catch.requests / 2.0
    assert catch.hurt == catch.requests
    assert seen.steps[-1].catches == ()
    assert json.loads(json.dumps(seen.to_dict()))["warnings"] == []
    assert forecast(STEPS, TRAFFIC, [1.0]).steps[0].catches[0] == catch


def test_warnings_say_what_is_wrong() -> None:
    text = "\n".join(forecast((Step(20, 30, 5000), Step(100)), Traffic(2.0, 0.005)).warnings)
    assert "step 1: 20% of users is a lot for a first step" in text
    assert "step 1: a bake of 30 s is short" in text
    assert "step 1: 5,000 requests take 3 h 28 min at this traffic" in text
    text = "\n".join(forecast((STEPS[0], STEPS[-1]), Traffic(1.0, 0.005)).warnings)
    assert "too few users at this weight" in text
    assert "beta group" in text
    text = "\n".join(forecast((Step(1, 300), Step(100)), Traffic(20.0, 0.005)).warnings)
    assert "step 1: 60 canary requests in 5 min cannot show a rise to" in text
    silent = forecast(STEPS, Traffic(0.0, 0.005))
    assert "step 1: no traffic, so the step never ends" in silent.warnings
    assert silent.steps[0].catches[0].seconds is None


def test_regressions_can_be_named() -> None:
    seen = forecast(STEPS[:1], TRAFFIC, regressions=[0.02])
    assert [catch.canary_rate for catch in seen.steps[0].catches] == [0.02]


def test_errors_that_are_not_judged_are_not_forecast() -> None:
    seen = forecast(STEPS, TRAFFIC, settings=JudgeSettings(errors=None))
    assert all(step.catches == () for step in seen.steps)


@pytest.mark.parametrize(
    "numbers",
    [(-1.0, 0.0), (float("nan"), 0.0), (1.0, 1.0), (1.0, -0.1), (1.0, float("nan")), (1.0, 0.0, 0)],
)
def test_numbers_that_make_no_sense_are_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        Traffic(*numbers)
