"""The bound of a look: against coefficients by brute force, and as an e-value by exact enumeration."""

from __future__ import annotations

from itertools import combinations
from math import comb, exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.look import best_tilt, log_choose, log_mean, log_mean_independent

WITHIN = log(0.4689 * (2 * 3.141592653589793) ** 0.5) + 0.01

scores = st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=30)


def log_mean_by_coefficients(values: list[float], tilt: float, canary: int) -> float:
    """The coefficient of t^canary in Π(1 + t e^{tilt g}), one factor after the other, over C(N, canary)."""
    coefficients = [1.0] + [0.0] * canary
    for value in values:
        for at in range(canary, 0, -1):
            coefficients[at] += coefficients[at - 1] * exp(tilt * value)
    return log(coefficients[canary]) - log_choose(len(values), canary)


@given(scores, st.integers(0, 40), st.floats(-3.0, 3.0), st.data())
@settings(max_examples=300, deadline=None)
def test_bound_is_never_below_the_exact_mean(
    values: list[float], empty: int, tilt: float, data: st.DataObject
) -> None:
    size = len(values) + empty
    canary = data.draw(st.integers(0, size))
    exact = log_mean_by_coefficients(values + [0.0] * empty, tilt, canary)
    bound = log_mean(values, [1] * len(values), tilt, canary, size - canary)
    assert bound >= exact - 1e-9


def test_bound_is_close_where_the_canary_has_many_positions() -> None:
    values = [(-1.0) ** at * (at % 7) / 3.0 for at in range(300)]
    for canary in (30, 75, 150, 270):
        exact = log_mean_by_coefficients(values + [0.0] * 300, 0.8, canary)
        bound = log_mean(values, [1] * 300, 0.8, canary, 600 - canary)
        assert exact <= bound <= exact + WITHIN


def test_units_at_one_level_count_as_that_many() -> None:
    one = log_mean([1.0, -0.5], [3, 2], 0.7, 4, 16)
    assert one == pytest.approx(log_mean([1.0, 1.0, 1.0, -0.5, -0.5], [1] * 5, 0.7, 4, 16))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("tilt", [-1.5, 0.3, 1.0, 4.0])
def test_evidence_has_mean_at_most_one_over_all_draws(share: float, tilt: float) -> None:
    values = [2.0, 1.0, -0.5, -0.5, 0.25, -1.25, 0.0, 0.0]
    canary = round(share * len(values))
    bound = log_mean(values, [1] * len(values), tilt, canary, len(values) - canary)
    draws = [
        exp(tilt * sum(values[at] for at in drawn) - bound)
        for drawn in combinations(range(len(values)), canary)
    ]
    assert len(draws) == comb(len(values), canary)
    assert 0.5 < sum(draws) / len(draws) <= 1.0 + 1e-12


def test_a_side_without_positions_gives_no_evidence() -> None:
    assert log_mean([1.0], [2], 1.0, 0, 5) == 0.0
    assert log_mean([1.0], [2], 1.0, 5, 0) == pytest.approx(2.0)


def test_a_bound_with_more_than_a_million_positions_is_finite_and_above_zero() -> None:
    bound = log_mean([5.0, -0.01], [50, 20_000], 1.0, 12_800, 1_267_200)
    independent = log_mean_independent([5.0, -0.01], [50, 20_000], 1.0, 0.01)[0]
    assert bound == pytest.approx(independent, abs=0.5)


def test_tilt_needs_the_least_sum_for_the_aim() -> None:
    levels, units, share, aim = [4.0, 1.0, -0.1], [5, 40, 500], 0.05, 11.0
    best = best_tilt(levels, units, share, aim)

    def needed(tilt: float) -> float:
        return (aim + log_mean_independent(levels, units, tilt, share)[0]) / tilt

    assert needed(best) <= min(needed(best * f) for f in (0.5, 0.7, 1.4, 2.0)) + 1e-9


def test_tilt_is_zero_without_a_spread_of_scores() -> None:
    assert best_tilt([0.0], [10], 0.1, 9.0) == 0.0
    assert best_tilt([], [], 0.1, 9.0) == 0.0


@pytest.mark.parametrize("size", [3.0, 1e3, 1e6])
def test_one_unit_gives_no_more_evidence_than_the_chance_of_its_draw(size: float) -> None:
    """A client with a tenth of the traffic that always fails is one draw."""
    levels, units = [size, -size / 1e6], [1, 10_000]
    tilt = best_tilt(levels, units, 0.05, 12.0)
    ours = size - 499 * size / 1e6
    best = tilt * ours - log_mean(levels, units, tilt, 500, 9_501)
    assert 0.0 < best <= log(20.0) + 0.02
    best = tilt * ours - log_mean_independent(levels, units, tilt, 0.05)[0]
    assert 0.0 < best <= log(20.0) + 0.02
