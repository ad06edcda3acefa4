"""Visits: when requests and posted events become trials, and which do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.visits import LENGTH, Visits


def request(row: int) -> int:
    return row << 1


def event(row: int) -> int:
    return row << 1 | 1


def played(ticks: list[list[int]], seconds: float = 10.0) -> list[list[int]]:
    """Return the trials of each tick, the ticks so many seconds apart."""
    visits, found = Visits(), []
    for number, taken in enumerate(ticks):
        for one in taken:
            visits.take(one)
        found.append(visits.close(number * seconds))
    return found


def test_a_visit_is_one_trial_when_half_a_minute_is_over() -> None:
    asks = [request(7)] * 5
    assert played([asks, asks, asks, [], []]) == [[], [], [], [request(7)], []]


def test_an_event_during_a_visit_makes_it_one_event_however_many_there_are() -> None:
    assert played([[request(7)], [event(7)] * 9, [], []])[3] == [event(7)]


def test_an_event_just_before_the_first_request_counts() -> None:
    """A service posts the order while it answers the request that made it."""
    assert played([[event(7), request(7)], [], [], []])[3] == [event(7)]


def test_an_event_long_after_the_request_is_a_visit_of_its_own() -> None:
    late = [[request(7)], [], [], [], [event(7)], [], [], []]
    assert played(late) == [[], [], [], [request(7)], [], [], [], [event(7)]]


def test_events_of_users_without_requests_are_left_out() -> None:
    assert played([[event(7), request(8)], [event(7)], [], []])[3] == [request(8)]


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=6), max_size=40),
    st.sampled_from([1.0, 10.0, 29.0, 45.0]),
)
def test_trials_are_what_each_unit_by_itself_would_give(
    ticks: list[list[int]], seconds: float
) -> None:
    ticks = [*ticks, [], []]
    found = played(ticks, seconds)
    for row in range(4):
        began: float | None = None
        known = has_event = False
        for number, taken in enumerate(ticks):
            mine = [one & 1 for one in taken if one >> 1 == row]
            if mine and began is None:
                began, has_event = number * seconds, False
            has_event = has_event or 1 in mine
            known = known or 0 in mine
            given_ = [one for one in found[number] if one >> 1 == row]
            if began is not None and number * seconds - began >= LENGTH:
                assert given_ == ([row << 1 | has_event] if known else [])
                began = None
            else:
                assert not given_


def test_keys_that_are_nobodys_are_noticed() -> None:
    visits = Visits()
    for row in range(40):
        visits.take(event(row))
    visits.close(0.0)
    visits.close(LENGTH)
    assert visits.strangers is None  # too few to tell
    for row in range(40):
        visits.take(event(row))
    visits.close(LENGTH)
    visits.close(2 * LENGTH)
    assert visits.strangers == (80, 80)


def test_some_events_of_unknown_users_are_no_mistake() -> None:
    visits = Visits()
    for row in range(100):
        if row % 2:
            visits.take(request(row))
        visits.take(event(row))
    visits.close(0.0)
    visits.close(LENGTH)
    assert visits.strangers is None
