"""Shares of α: all that may ever be spent adds up to α."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging import families
from canaryproxy.judging.metrics import BUSIEST, FALLBACK
from canaryproxy.judging.settings import BusinessRule, JudgeSettings, OutcomeRule

OFF = st.sampled_from(("errors", "latency", "throughput", "classes", "connections"))


@given(
    off=st.sets(OFF, max_size=4),
    routes=st.booleans(),
    outcomes=st.integers(0, 4),
    sold=st.booleans(),
)
def test_metrics_and_routes_of_a_step_share_its_alpha(
    off: set[str], routes: bool, outcomes: int, sold: bool
) -> None:
    settings = JudgeSettings(
        **dict.fromkeys(off),  # type: ignore[arg-type]
        routes=routes,
        outcomes=tuple(OutcomeRule(f"o{n}", slot=n) for n in range(outcomes)),
        business=BusinessRule(slot=9) if sold else None,
    )
    found = families.specs(settings, FALLBACK)
    spent = sum(families.alpha_of(spec, found, settings, 0.5) for spec in found if spec.trips)
    if routes:
        each = [
            families.route_alpha_of(spec, found, settings, 0.5)
            for spec in families.route_specs(settings)
        ]
        spent += (BUSIEST + 1) * sum(each)
    assert spent == pytest.approx(settings.alpha * 0.5)


@given(
    plan=st.lists(st.sampled_from((1.0, 5.0, 10.0, 25.0, 50.0)), max_size=5, unique=True).map(
        sorted
    ),
    unplanned=st.integers(0, 30),
)
def test_all_steps_together_have_at_most_the_whole(plan: list[float], unplanned: int) -> None:
    settings = JudgeSettings(steps=(*plan, 100.0) if plan else ())
    spent = sum(families.step_share(settings, weight, 0) for weight in plan)
    spent += sum(families.step_share(settings, 3.33, number) for number in range(1, unplanned + 1))
    assert spent <= 1.0 + 1e-9


def test_a_name_is_given_once() -> None:
    settings = JudgeSettings(outcomes=(OutcomeRule("errors"),))
    with pytest.raises(ValueError, match="cannot be named 'errors'"):
        families.specs(settings, FALLBACK)


def test_latency_in_and_after_the_warm_up_share_their_alpha() -> None:
    parts = [families.warming(0.001, warm=warm) for warm in (False, True)]
    assert sum(parts) == pytest.approx(0.001)


def test_a_metric_that_is_off_is_off_on_every_route() -> None:
    names = [spec.name for spec in families.route_specs(JudgeSettings(errors=None))]
    assert names == ["answers", "latency"]
    assert families.route_specs(JudgeSettings(errors=None, classes=None, latency=None)) == []
