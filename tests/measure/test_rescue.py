"""The rules of rescue, the budget over any traffic, and the wait that stable's times allow."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import Rescue, RetryBudget
from canaryproxy.measure.counters import Counters, Tally
from canaryproxy.measure.rescue import NOT_SERVED, SAFE, Budget, Patience, RescueRules

METHODS = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"POST", b"PATCH"]
IDEMPOTENT = set(METHODS[:5])


def rules(**settings: object) -> RescueRules:
    return RescueRules(Rescue.model_validate(settings))


# Rules


@pytest.mark.parametrize("method", METHODS)
def test_by_default_only_what_was_not_served_is_rescued(method: bytes) -> None:
    found = {status for status in range(100, 600) if rules().is_failure(method, status)}
    assert found == (NOT_SERVED if method in IDEMPOTENT else set())


@given(
    st.sampled_from(METHODS),
    st.integers(100, 599),
    st.sets(st.integers(500, 599), min_size=1),
    st.sets(st.sampled_from(METHODS), min_size=1),
)
def test_nothing_is_rescued_that_the_configuration_does_not_name(
    method: bytes, status: int, statuses: set[int], methods: set[bytes]
) -> None:
    made = rules(
        statuses=tuple(map(str, sorted(statuses))), methods=tuple(m.decode() for m in methods)
    )
    named = status in statuses and method in methods
    # A 500 may come after half of the work was done: not even a PUT is repeated then.
    assert made.is_failure(method, status) == (named and (status in NOT_SERVED or method in SAFE))


def test_without_rescue_nothing_is_a_failure_to_rescue() -> None:
    assert not rules(enabled=False).is_failure(b"GET", 503)


def test_assets_are_found_by_path_for_reads_only() -> None:
    made = rules(
        assets=({"path": {"prefix": "/assets/"}}, {"path": {"regex": r"\.[0-9a-f]{8}\.js$"}})
    )
    assert made.is_asset(b"GET", b"/assets/a.css")
    assert made.is_asset(b"HEAD", b"/x/app.0123abcd.js")
    assert not made.is_asset(b"POST", b"/assets/a.css")
    assert not made.is_asset(b"GET", b"/index.html")
    assert not made.is_asset(b"GET", b"/\xff")
    assert not rules().is_asset(b"GET", b"/assets/a.css")


# The budget

TRAFFIC = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=40)
"""Second by second: requests of stable, attempts to rescue."""


@given(TRAFFIC, st.floats(0, 1), st.floats(0, 5))
def test_no_ten_seconds_exceed_the_budget(
    traffic: list[tuple[int, int]], share: float, least: float
) -> None:
    budget, total, given_ = Budget(RetryBudget(share=share, min_per_second=least)), 0, list[int]()
    for second, (requests, attempts) in enumerate(traffic):
        budget.observe(second, total)
        total += requests
        given_.append(sum(budget.take(second + 0.5, total) for _ in range(attempts)))
        own = sum(one for one, _ in traffic[max(second - 9, 0) : second + 1])
        allowed = share * own + least * Budget.WINDOW
        assert sum(given_[-Budget.WINDOW :]) <= allowed + 1e-6
        if given_[-1] < attempts:  # nothing is withheld that the budget has
            assert sum(given_[-Budget.WINDOW :]) + 1 > allowed - 1e-6


def test_a_budget_is_shared_by_workers_and_false_is_without_bound() -> None:
    one = Budget(RetryBudget(share=0.0, min_per_second=2.0), workers=4)
    assert [one.take(5.0, 0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert one.take(15.0, 0)
    assert all(Budget(None).take(5.0, 0) for _ in range(10_000))


# The wait


def stable_with(*times: tuple[float, int]) -> Tally:
    tally = Tally(Counters().stable)
    for seconds, count in times:
        for _ in range(count):
            tally.finish(200, seconds, seconds)
    return tally


def patience(before: Tally, *times: tuple[float, int]) -> float:
    made = Patience()
    made.observe(0.0, before.values)
    for seconds, count in times:
        for _ in range(count):
            before.finish(200, seconds, seconds)
    made.observe(Patience.EVERY, before.values)
    return made.seconds


def test_the_wait_is_three_times_what_nearly_all_of_stable_needs() -> None:
    assert 3 * 0.9 < patience(stable_with(), (0.1, 990), (1.0, 10)) < 3 * 1.1
    # One answer in ten thousand is not what users wait for.
    assert patience(stable_with(), (0.4, 9_999), (29.0, 1)) < 3 * 0.44


def test_the_wait_has_a_floor_and_none_without_enough_requests() -> None:
    assert patience(stable_with(), (0.002, 600)) == Patience.SHORTEST
    assert patience(stable_with(), (0.002, Patience.LEAST_REQUESTS - 1)) == inf
    assert patience(stable_with((0.002, 600))) == inf  # those came before


def test_the_wait_forgets() -> None:
    tally, made = stable_with(), Patience()
    made.observe(0.0, tally.values)
    for look in range(1, 2 * Patience.LOOKS):
        for _ in range(100):
            seconds = 9.0 if look < 3 else 0.5
            tally.finish(200, seconds, seconds)
        made.observe(look * Patience.EVERY, tally.values)
        if look == 10:
            assert made.seconds > 20
    assert made.seconds < 2


def test_patience_keeps_one_list_for_looks_between_which_nothing_came() -> None:
    made, quiet = Patience(), stable_with((0.002, 5000))
    for look in range(Patience.LOOKS):
        made.observe(look * Patience.EVERY, quiet.values)
    assert len(made._looks) == Patience.LOOKS
    assert len({id(counts) for counts in made._looks}) == 1
