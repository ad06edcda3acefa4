"""Units and lotteries: rows, sides and virtual canaries."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.units import BUDGET, FIELD, Lottery, Units


@given(st.lists(st.integers(0, 1_279_999), max_size=200))
def test_rows_are_given_in_order_and_stay(positions: list[int]) -> None:
    units = Units()
    rows = [units.row(position) for position in positions]
    assert rows == [units.row(position) for position in positions]
    assert sorted(set(rows)) == list(range(len(units)))
    assert [units.positions[row] for row in rows] == positions


@given(
    st.lists(st.integers(0, 1_279_999), max_size=50, unique=True),
    st.lists(st.integers(0, 1_279_999), max_size=50, unique=True),
)
def test_a_step_has_rows_of_its_own_for_those_who_came(known: list[int], came: list[int]) -> None:
    units = Units()
    for position in known:
        units.row(position)
    step = Units(units)
    assert [step.row(position) for position in came + came] == 2 * list(range(len(came)))
    assert list(step.positions) == came
    assert list(step.known_rows) == [units.row(position) for position in came]
    assert (len(step), step.known) == (len(came), len({*known, *came}))


def test_steps_share_what_is_spread_over_all_tests() -> None:
    units = Units()
    steps = Units(units), Units(units)
    assert steps[0].phase() != steps[1].phase()
    assert steps[0].spend(1.0, BUDGET)
    assert not steps[1].spend(1.0, 1)
    assert steps[1].spend(1.1, 1)


def test_a_lottery_counts_the_positions_of_its_sides() -> None:
    lottery = Lottery(100, 150, 1000)
    assert (lottery.canary, lottery.stable) == (50, 850)
    for wrong in ((5, 4, 10), (5, 8, 7), (-1, 0, 1)):
        with pytest.raises(ValueError, match="first <= limit <= last"):
            Lottery(*wrong)


def fields_of(packed: int, count: int) -> list[int]:
    return [packed >> FIELD * j & ((1 << FIELD) - 1) for j in range(count)]


@pytest.mark.parametrize(("count", "limit"), [(1, 100), (5, 300), (20, 500), (33, 10)])
def test_virtual_canaries_have_their_share_of_units_each_drawn_alone(
    count: int, limit: int
) -> None:
    units = Units()
    lottery = Lottery(0, limit, 1000)
    who = units.virtual(lottery, count)
    assert who.share == pytest.approx(limit / 1000, abs=1e-6)
    size = 4000
    members = [fields_of(who.of(units.row(limit + at)), count) for at in range(size)]
    assert members[7] == fields_of(who.of(7), count)
    assert {field for one in members for field in one} <= {0, 1}
    share = limit / 1000
    error = (share * (1 - share) / size) ** 0.5
    for j in range(count):
        assert abs(sum(one[j] for one in members) / size - share) < 5 * error
    if count > 1:
        both = sum(one[0] & one[1] for one in members) / size
        assert abs(both - share**2) < 5 * (share**2 / size) ** 0.5 + 1e-9


def test_tests_of_a_lottery_share_their_virtual_canaries() -> None:
    units = Units()
    one = units.virtual(Lottery(0, 1, 10), 20)
    assert units.virtual(Lottery(0, 1, 10), 20) is one
    assert units.virtual(Lottery(1, 2, 10), 20) is not one


def test_phases_of_tests_are_apart() -> None:
    units = Units()
    phases = sorted(units.phase() for _ in range(20))
    assert all(0.0 <= phase < 1.0 for phase in phases)
    assert min(b - a for a, b in pairwise(phases)) > 0.01
