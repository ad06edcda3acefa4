"""How many connections are closed at each moment."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.proxy.spread import due, progress

SPREADS = st.floats(0.01, 60.0)
STEPS = st.lists(st.floats(0.0, 0.2), max_size=60)
STALLED = st.lists(st.one_of(st.just(0.02), st.floats(0.0, 20.0)), min_size=1, max_size=100)
"""Seconds from each pass to the next, some of them after a stall."""


def run(total: int, spread: float, steps: list[float]) -> list[tuple[float, int]]:
    """Return when each pass was, and how many it closed."""
    passes, closed, at, elapsed = [], 0, 0.0, 0.0
    for step in steps:
        elapsed += step
        at = progress(at, elapsed, step, spread)
        count = due(total - closed, closed, at, spread)
        assert 0 <= count <= total - closed
        closed += count
        passes.append((elapsed, count))
    return passes


@given(st.integers(0, 500), SPREADS, STEPS)
def test_as_large_a_part_is_closed_as_of_the_time_has_passed(
    total: int, spread: float, steps: list[float]
) -> None:
    closed = 0
    for elapsed, count in run(total, spread, steps):
        closed += count
        assert closed == min(total, ceil(total * min(elapsed / spread, 1.0)))


@given(st.integers(0, 5000), SPREADS, STALLED)
def test_after_a_stall_nothing_is_closed_too_early_and_all_at_the_end(
    total: int, spread: float, steps: list[float]
) -> None:
    passes = run(total, spread, [*steps, spread])
    closed = 0
    for elapsed, count in passes:
        closed += count
        assert closed <= ceil(total * min(elapsed / spread, 1.0))
    assert closed == total


@given(st.integers(0, 5000), st.floats(10.0, 60.0), st.floats(0.5, 60.0), st.floats(0.0, 60.0))
def test_a_stall_closes_no_second_more_than_two_and_a_half_times_its_share(
    total: int, spread: float, stall: float, begins: float
) -> None:
    """Where the end is not at stake: what was missed can be made up at twice the pace."""
    before = [0.02] * int(begins / 0.02)
    after = [0.02] * int(1.5 * stall / 0.02)
    passes = run(total, spread, [*before, stall, *after])
    if begins + 2.5 * stall > spread:
        return
    rush = max(
        sum(count for other, count in passes[at:] if other <= moment + 1.0)
        for at, (moment, _) in enumerate(passes)
    )
    assert rush <= ceil(2.5 * total / spread) + 1
    closed = sum(count for _, count in passes)
    assert closed == ceil(total * passes[-1][0] / spread - 1e-6)  # made up


@pytest.mark.parametrize("stall", [20.0, 29.0])
def test_the_end_wins_and_what_is_left_is_closed_evenly_until_then(stall: float) -> None:
    passes = run(3000, 30.0, [0.02, stall] + [0.02] * int((30.0 - stall) / 0.02))
    closed = sum(count for _, count in passes)
    assert closed >= 3000 - max(count for _, count in passes)
    left = 30.0 - stall
    assert max(count for _, count in passes[2:]) <= ceil(3000 * 0.02 / left * 1.3) + 1


@given(st.integers(0, 50), st.integers(0, 50), STEPS, st.floats(0.01, 2.0))
def test_late_ones_are_closed_with_the_others(
    first: int, late: int, steps: list[float], spread: float
) -> None:
    at, closed, waiting = 0.0, 0, first
    for number, step in enumerate([*steps, spread]):
        at = min(at + step, spread)
        waiting += late if number == len(steps) // 2 else 0
        count = due(waiting, closed, at, spread)
        assert 0 <= count <= waiting
        closed, waiting = closed + count, waiting - count
    assert (waiting, closed) == (0, first + late)


def test_without_a_spread_all_are_closed_at_once() -> None:
    assert due(10, 0, progress(0.0, 0.0, 0.0, 30.0), 30.0) == 0
    assert due(10, 0, progress(0.0, 0.0, 0.0, 0.0), 0.0) == 10
