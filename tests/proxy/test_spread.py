"""How many connections are closed at each moment."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.proxy.spread import due

STEPS = st.lists(st.floats(0.0, 0.2), max_size=60)


@given(st.integers(0, 500), st.floats(0.01, 5.0), STEPS)
def test_as_large_a_part_is_closed_as_of_the_time_has_passed(
    total: int, spread: float, steps: list[float]
) -> None:
    elapsed, closed = 0.0, 0
    for step in steps:
        elapsed += step
        closed += due(total - closed, closed, elapsed, spread)
        assert closed == min(total, ceil(total * min(elapsed / spread, 1.0)))
    assert due(total - closed, closed, spread, spread) == total - closed


@given(st.integers(0, 50), st.integers(0, 50), STEPS, st.floats(0.01, 2.0))
def test_late_ones_are_closed_with_the_others(
    first: int, late: int, steps: list[float], spread: float
) -> None:
    elapsed, closed, waiting = 0.0, 0, first
    for at, step in enumerate([*steps, spread]):
        elapsed += step
        waiting += late if at == len(steps) // 2 else 0
        count = due(waiting, closed, elapsed, spread)
        assert 0 <= count <= waiting
        closed, waiting = closed + count, waiting - count
    assert (waiting, closed) == (0, first + late)


def test_nothing_is_closed_before_the_time_begins_and_all_at_once_without_a_spread() -> None:
    assert due(10, 0, -0.001, 30.0) == 0
    assert due(10, 0, 0.0, 30.0) == 0
    assert due(10, 0, 0.0, 0.0) == 10
