"""Users' time: when requests and posted events become trials, and which do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.user_time import INTERVAL, UserTime


def request(row: int) -> int:
    return row << 1


def event(row: int) -> int:
    return row << 1 | 1


def played(ticks: list[list[int]], seconds: float = 10.0) -> list[list[int]]:
    """Return the trials of each tick, the ticks so many seconds apart."""
    users, found = UserTime(), []
    for number, taken in enumerate(ticks):
        for one in taken:
            users.take(one)
        found.append(users.close(number * seconds))
    return found


def test_a_user_gives_a_trial_each_half_minute_whether_there_are_requests_or_not() -> None:
    once = played([[request(7)]] + [[]] * 9)
    assert once == [[], [], [], [request(7)]] + [[], [], [request(7)]] * 2
    assert played([[request(7)] * 5] * 10) == once


def test_an_event_makes_its_interval_one_event_however_many_there_are() -> None:
    found = played([[request(7)], [event(7)] * 9, [event(7)], [], [], [], []])
    assert (found[3], found[6]) == ([event(7)], [request(7)])


def test_an_event_just_before_the_first_request_counts() -> None:
    """A service posts the order while it answers the request that made it."""
    assert played([[event(7), request(7)], [], [], []])[3] == [event(7)]
    assert played([[event(7)], [request(7)], [], []])[3] == [event(7)]


def test_an_event_long_after_the_last_request_counts() -> None:
    found = played([[request(7)], [], [], [], [], [event(7)], []])
    assert found[6] == [event(7)]


def test_events_of_users_without_requests_are_left_out() -> None:
    found = played([[event(7), request(8)], [event(7)], [], [], [request(7)], [], [], []])
    assert found[3] == [request(8)]
    assert found[7] == [request(7)]


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=6), max_size=30),
    st.sampled_from([1.0, 10.0, 29.0, 45.0]),
)
def test_trials_are_what_each_unit_by_itself_would_give(
    ticks: list[list[int]], seconds: float
) -> None:
    ticks = [*ticks, [], []]
    together = played(ticks, seconds)
    for row in range(4):
        alone = played([[one for one in taken if one >> 1 == row] for taken in ticks], seconds)
        assert alone == [[one for one in trials if one >> 1 == row] for trials in together]
        asked = [at for at, taken in enumerate(ticks) if request(row) in taken]
        trials = [one for taken in alone for one in taken]
        most = (len(ticks) - asked[0]) * seconds / INTERVAL + 1 if asked else 0
        assert len(trials) <= most
        posted = sum(event(row) in taken for taken in ticks)
        assert sum(one & 1 for one in trials) <= posted


def test_intervals_are_longer_where_there_are_many_users() -> None:
    users = UserTime()
    for row in range(30_000):
        users.take(request(row))
    assert users.close(0.0) == []
    assert users.close(60.0) == []
    assert len(users.close(100.0)) == 30_000


def test_wrong_keys_are_noticed() -> None:
    users = UserTime()
    for row in range(40):
        users.take(event(row))
    users.close(0.0)
    users.close(INTERVAL)
    assert users.strangers is None  # too few to tell
    for row in range(40):
        users.take(event(row))
    users.close(INTERVAL)
    users.close(2 * INTERVAL)
    assert users.strangers == (80, 80)


def test_some_events_of_unknown_users_are_no_mistake() -> None:
    users = UserTime()
    for row in range(100):
        if row % 2:
            users.take(request(row))
        users.take(event(row))
    users.close(0.0)
    users.close(INTERVAL)
    assert users.strangers is None
