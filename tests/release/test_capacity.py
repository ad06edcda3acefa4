"""What has been carried, and what is to come: by endpoint, for a week, never more than was seen."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.release.capacity import SPAN, Carried, Demand, Load, Outlook, outlook

NOW = 1_790_000_000.0
HOUR = 3600.0


def load(rate: float, endpoints: int = 2, ago: float = 3 * HOUR) -> Load:
    return Load(NOW - ago, rate, 12, endpoints, 0.04)


def carried(stable: Load | None = None, canary: Load | None = None) -> Carried:
    made = Carried()
    for variant, one in ((STABLE, stable), (CANARY, canary)):
        if one is not None:
            made.take(variant, one)
    return made


def ahead(
    made: Carried, rate: float, weight: float, following: float | None, up: tuple[int, int] = (2, 1)
) -> Outlook:
    return outlook(NOW, made, Demand(rate, 10.0, up, weight, following))


def test_a_trip_that_stable_never_carried_is_said_with_both_figures() -> None:
    found = ahead(carried(load(420.0)), 780.0, 50.0, None)
    assert found.trip == 780.0
    assert found.over == found.said
    assert found.said == (
        "stable has carried at most 420/s with 2 endpoints (3 h ago); a trip now would bring it 780/s",
    )
    assert not ahead(carried(load(420.0)), 430.0, 50.0, None).over, "within a tenth"


def test_endpoints_that_are_gone_carry_nothing() -> None:
    found = ahead(carried(load(420.0)), 400.0, 50.0, None, up=(1, 1))
    assert found.over[0].endswith("a trip now would bring it 400/s, with 1 endpoint up")
    assert not ahead(carried(load(420.0)), 780.0, 50.0, None, up=(4, 1)).over
    assert ahead(carried(load(420.0)), 400.0, 50.0, None, up=(0, 1)).over


def test_a_step_is_measured_by_an_endpoint_of_either_variant() -> None:
    made = carried(load(420.0), load(21.0, endpoints=1))
    assert not ahead(made, 420.0, 5.0, 50.0).over
    found = ahead(made, 420.0, 5.0, 100.0)
    assert found.step == 420.0
    assert found.over == (
        "the step to 100% would bring the canary 420/s with 1 endpoint;"
        " a stable endpoint has carried at most 210/s",
    )
    stronger = carried(load(420.0), load(400.0, endpoints=1))
    assert not ahead(stronger, 420.0, 50.0, 100.0).over


def test_what_is_not_known_is_said_and_is_not_over() -> None:
    found = ahead(Carried(), 780.0, 5.0, 25.0)
    assert found.over == ()
    assert found.said == (
        "what stable has carried is not known yet; a trip now would bring it 780/s",
        "the step to 25% would bring the canary 195/s with 1 endpoint;"
        " nothing is known of what an endpoint carries",
    )


def test_a_few_requests_more_in_ten_seconds_say_nothing() -> None:
    assert not ahead(carried(load(1.0)), 1.7, 50.0, None).over
    assert ahead(carried(load(100.0)), 170.0, 50.0, None).over


def test_failures_are_not_told_apart_by_the_model_but_loads_are_by_endpoint() -> None:
    made = carried(load(420.0))
    made.take(STABLE, load(300.0, endpoints=1, ago=HOUR))
    assert made.most(STABLE) == load(300.0, endpoints=1, ago=HOUR)


def test_a_load_is_remembered_for_a_week() -> None:
    made = carried(load(420.0, ago=SPAN - HOUR))
    made.take(STABLE, load(40.0, ago=0.0))
    assert made.most(STABLE) == load(420.0, ago=SPAN - HOUR)
    made.take(STABLE, Load(NOW + 20 * HOUR, 41.0, 1, 2, None))
    found = made.most(STABLE)
    assert found is not None
    assert found.rate == 41.0


def test_another_release_begins_with_what_its_versions_have_carried() -> None:
    made = carried(load(420.0))
    made.take(CANARY, load(90.0))
    made.begin(promoted=False)
    assert (made.most(STABLE), made.most(CANARY)) == (load(420.0), None)
    made.begin(promoted=True)
    assert made.most(STABLE) == load(420.0), "of the version that was promoted nothing is known"
    made.take(CANARY, load(90.0))
    made.begin(promoted=True)
    assert (made.most(STABLE), made.most(CANARY)) == (load(90.0), None)


loads = st.lists(
    st.builds(
        Load,
        st.floats(NOW - 2 * SPAN, NOW),
        st.floats(0.0, 1e4),
        st.integers(0, 1000),
        st.integers(0, 9),
        st.none() | st.floats(0.0, 60.0),
    ),
    max_size=40,
).map(lambda found: sorted(found, key=lambda one: one.time))


@given(loads)
def test_the_most_is_that_of_the_last_week_and_survives_the_state_file(found: list[Load]) -> None:
    made = Carried()
    for one in found:
        made.take(STABLE, one)
    most = made.most(STABLE)
    if any(one.each > 0 and one.time > found[-1].time - SPAN for one in found):
        assert most is not None
    if most is not None:
        assert most in found
        recent = [one.each for one in found if one.time >= found[-1].time - SPAN + 6 * HOUR]
        assert most.each >= max(recent, default=0.0)
        assert most.time >= found[-1].time - SPAN - 6 * HOUR
    again = Carried.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again.most(STABLE) == most
    assert again.to_dict() == made.to_dict()


@given(st.floats(0.1, 1e4), st.integers(1, 9), st.floats(0.0, 1e5), st.floats(1.0, 2.0))
def test_more_traffic_is_never_less_over(
    rate: float, up: int, brings: float, factor: float
) -> None:
    made = carried(load(rate, endpoints=up))
    less = ahead(made, brings, 50.0, 100.0, up=(up, up))
    more = ahead(made, brings * factor + 10.0, 50.0, 100.0, up=(up, up))
    assert len(less.over) <= len(more.over)


def test_a_damaged_state_is_refused() -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Carried.from_dict({"stable": [{"time": "x"}]})
