"""The forecast of a plan: near to what the judge does, and warnings that say what to change."""

from __future__ import annotations

import json
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.release.forecast import forecast, requests_until_caught
from canaryproxy.release.rollout import Step

np = pytest.importorskip("numpy")
rules = pytest.importorskip("tests.simulation.rules")
world = pytest.importorskip("tests.simulation.world")

STEPS = (Step(1, 300, 500), Step(5, 300, 1000), Step(25, 600), Step(50, 600), Step(100))


@pytest.mark.parametrize(
    ("canary", "weight", "rate"),
    [(1.0, 1.0, 200.0), (0.5, 5.0, 50.0), (0.05, 1.0, 200.0), (1.0, 50.0, 20.0)],
)
def test_the_expected_path_is_near_to_what_happens(
    canary: float, weight: float, rate: float
) -> None:
    needed = requests_until_caught(0.005, canary, weight, metrics=5)
    assert needed is not None
    rng = np.random.default_rng(1)
    release = world.Errors(0.005, canary, weight, rate=rate)
    found = [rules.ours(release.run(rng, 400.0)).requests for _ in range(31)]
    assert 0.6 * needed - 1 <= median(found) <= 1.6 * needed + 2


@given(st.floats(0.0, 0.2), st.floats(0.05, 0.7), st.floats(0.1, 90.0))
@settings(max_examples=30, deadline=None)
def test_larger_regressions_need_fewer_requests(stable: float, more: float, weight: float) -> None:
    small = requests_until_caught(stable, stable + more, weight)
    large = requests_until_caught(stable, min(stable + 1.4 * more, 1.0), weight)
    assert small is not None
    assert large is not None
    assert large <= small
    stricter = requests_until_caught(stable, stable + more, weight, alpha=1e-6)
    assert stricter is not None
    assert stricter >= small


def test_what_is_never_caught() -> None:
    assert requests_until_caught(0.005, 0.008, 50.0) is None  # below the margin
    assert requests_until_caught(0.02, 0.01, 50.0) is None
    assert requests_until_caught(0.005, 1.0, 0.0) is None
    assert requests_until_caught(0.005, 1.0, 100.0) is None


def test_a_sound_plan_has_no_warnings() -> None:
    seen = forecast(STEPS, rps=200.0, error_rate=0.005)
    assert seen.warnings == ()
    assert [step.lasts for step in seen.steps[:2]] == [300, 300]
    assert seen.steps[0].requests == 600
    catch = seen.steps[0].catches[0]
    assert (catch.canary_rate, catch.in_time) == (1.0, True)
    assert catch.requests is not None
    assert catch.requests <= 5
    assert catch.seconds == catch.requests / 2.0
    assert catch.hurt == catch.requests
    assert seen.steps[-1].catches == ()
    assert json.loads(json.dumps(seen.to_dict()))["warnings"] == []


def test_warnings_say_what_is_wrong() -> None:
    text = "\n".join(forecast((Step(20, 30, 5000), Step(100)), 2.0, 0.005).warnings)
    assert "step 1: 20% of users is a lot for a first step" in text
    assert "step 1: a bake of 30 s is short" in text
    assert "step 1: 5,000 requests take 3 h 28 min at this traffic" in text
    text = "\n".join(forecast(STEPS, 1.0, 0.005).warnings)
    assert "too few users at this weight" in text
    assert "beta group" in text
    text = "\n".join(forecast((Step(1, 300), Step(100)), 20.0, 0.005).warnings)
    assert "step 1: 60 canary requests in 5 min cannot show a rise to" in text
    silent = forecast(STEPS, 0.0, 0.005)
    assert "step 1: no traffic, so the step never ends" in silent.warnings
    assert silent.steps[0].catches[0].seconds is None


def test_regressions_can_be_named() -> None:
    seen = forecast(STEPS, 200.0, 0.005, regressions=[0.02])
    assert [catch.canary_rate for catch in seen.steps[0].catches] == [0.02]


def test_numbers_that_make_no_sense_are_refused() -> None:
    for rps, rate in (
        (-1.0, 0.0),
        (float("nan"), 0.0),
        (1.0, 1.0),
        (1.0, -0.1),
        (1.0, float("nan")),
    ):
        with pytest.raises(ValueError, match="found"):
            forecast(STEPS, rps, rate)
