"""Trials by unit, limits in microseconds and a history that is full: the same as one by one."""

from __future__ import annotations

import sys
from math import log
from types import FrameType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.batch import EVENTS_SHIFT, TRIALS, unlisted
from canaryproxy.judging.growth import flat_words
from canaryproxy.judging.history import MOST, History
from canaryproxy.judging.lottery import Lottery, LotteryTest, TestSettings
from canaryproxy.judging.sorting import micros_within
from canaryproxy.judging.units import Units
from canaryproxy.measure.records import NO_FIRST_BYTE

_ROWS = 6

trials_of_some = st.lists(st.integers(0, 2 * _ROWS - 1), max_size=60)


@given(trials_of_some)
def test_trials_are_added_up_by_unit_in_order_of_the_first_of_each(listed: list[int]) -> None:
    places = flat_words([0] * _ROWS)
    found = unlisted(listed).by_unit(places)
    rows = list(dict.fromkeys(trial >> 1 for trial in listed))
    assert list(found.rows) == rows
    of_each = [[trial & 1 for trial in listed if trial >> 1 == row] for row in rows]
    assert list(found.first) == [marks[0] for marks in of_each]
    assert [(one & TRIALS, one >> EVENTS_SHIFT) for one in list(found.added)] == [
        (len(marks), sum(marks)) for marks in of_each
    ]
    assert list(found.bad) == [trial >> 1 for trial in listed if trial & 1]
    assert not any(list(places))


@given(st.floats(0.0, 5000.0), st.integers(-2, 2))
def test_a_limit_in_microseconds_is_passed_by_the_same_records(seconds: float, more: int) -> None:
    micros = min(max(int(seconds * 1e6) + more, 0), NO_FIRST_BYTE - 1)
    assert (micros > micros_within(seconds)) is (micros / 1e6 > seconds)


@given(st.lists(trials_of_some, max_size=4), st.lists(st.integers(MOST - 12, MOST), min_size=_ROWS))
def test_a_history_that_is_full_takes_the_first_trials_only(
    batches: list[list[int]], counts: list[int]
) -> None:
    seen = []
    for at_once in (True, False):
        units, history = Units(), History()
        lottery = Lottery(0, 2, _ROWS)
        for position in range(_ROWS):
            units.row(position)
        history.grow(_ROWS)
        for row, count in enumerate(counts[:_ROWS]):
            history.learn(row, count, count // 3)
        settings = TestSettings(log(1000.0), log(20.0))
        test = LotteryTest(lottery, units, settings, 0.0, history)
        for batch in batches:
            for part in [batch] if at_once else [[trial] for trial in batch]:
                if part:
                    test.take(unlisted(part))
        test.tick(0.1)
        of_each = [history.of(row) for row in range(_ROWS)]
        seen.append((of_each, history.trials, history.likeness(0.3), test.to_dict()))
    assert seen[0] == seen[1]


def lines_of_a_take(rows: int, each: int) -> int:
    """Return the lines of Python that take a trial of each unit, whose history has ``each`` trials before.

    Without plain Python there are none.
    """
    units, history, lines = Units(), History(), 0
    for position in range(rows):
        units.row(position)
    history.grow(rows)
    for row in range(rows):
        history.learn(row, each, 0)
    settings = TestSettings(log(1000.0), log(20.0))
    test = LotteryTest(Lottery(0, 2, rows), units, settings, 0.0, history)
    trials = unlisted([2 * row for row in range(rows)])

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        test.take(trials)
    finally:
        sys.settrace(before)
    return lines


def test_units_whose_history_is_full_cost_no_more_than_others() -> None:
    assert lines_of_a_take(200, MOST) <= 1.1 * lines_of_a_take(200, MOST // 2)
