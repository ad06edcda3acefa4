"""The arrays of a test by unit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.rows import MET, Rows


@given(st.lists(st.integers(1, 500), min_size=1, max_size=6), st.integers(0, 255))
def test_rows_grow_by_zeros_and_keep_what_they_hold(sizes: list[int], value: int) -> None:
    rows = Rows(sums=True)
    wanted: list[int] = []
    for size in sizes:
        units = len(wanted) + size
        rows.grow(units)
        found = [list(one)[:units] for one in (rows.tried, rows.voted, rows.notes, rows.sums)]
        assert found == [wanted + [0] * size] * 4
        rows.tried[units - 1] = rows.voted[units - 1] = rows.notes[units - 1] = value
        rows.sums[units - 1] = value
        wanted += [0] * (size - 1) + [value]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=300), st.integers(0, 7))
def test_a_round_that_begins_has_looked_nobody_up(values: list[int], place: int) -> None:
    rows = Rows(sums=True)
    rows.grow(len(values))
    for row, value in enumerate(values):
        rows.tried[row] = rows.voted[row] = rows.notes[row] = value
    rows.open(1 << place)
    looked_up = [value & ~(1 << place) for value in values]
    assert list(rows.tried)[: len(values)] == looked_up
    assert list(rows.voted)[: len(values)] == looked_up
    assert list(rows.notes)[: len(values)] == [value & ~MET for value in values]


def test_a_test_without_looks_keeps_two_bytes_a_unit() -> None:
    rows = Rows(sums=False)
    rows.grow(9)
    rows.open(1)
    assert (len(rows.sums), len(rows.notes)) == (0, 0)
    assert len(rows.tried) == len(rows.voted) >= 9
