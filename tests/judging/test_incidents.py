"""Equal versions in bad times of both, by the rules of the data path: nothing is rolled back."""

from __future__ import annotations

import pytest

from tests.simulation.incidents import INCIDENTS, Incident, play

SECONDS = {
    "a stall of 3 s": 100.0,
    "2% of attempts are reset": 60.0,
    "8 times as slow, one queue, shed": 115.0,
}


@pytest.mark.parametrize(
    "incident", [one for one in INCIDENTS if one.name in SECONDS], ids=lambda one: one.name
)
def test_equal_versions_in_a_bad_time_of_both_trip_nothing(incident: Incident) -> None:
    outcome = play(incident, seed=1, seconds=SECONDS[incident.name])
    assert outcome.cause is None
    assert any(outcome.shed) is (incident.shed_after is not None)


def test_a_canary_that_is_slow_in_a_stall_of_both_is_rolled_back() -> None:
    (slow,) = (one for one in INCIDENTS if one.canary > 1.0)
    assert "slow responses" in (play(slow, seed=1).cause or "")
