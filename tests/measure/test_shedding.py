"""Load shedding: no refusal while half of the responses come in time, a short queue where they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import BUCKETS, NOT_SHARED, RouteTable, Routing
from canaryproxy.measure.shedding import (
    CALM,
    LEAST,
    PAUSE,
    WINDOWS,
    LoadLimit,
    LoadLimits,
    is_new,
    retry_after,
)
from tests.simulation.overload import Served, World, run, user

PATIENCE = 2.0
FIRST = counters.FIRST_BYTE


class Variant:
    """Counters of a variant, second by second."""

    def __init__(self, limit: LoadLimit, endpoints: int = 1) -> None:
        self.cells = [0] * counters.VARIANT_CELLS
        self.limit = limit
        self.endpoints = endpoints
        self.now = 1000.0
        limit.observe(self.now, self.cells, endpoints)

    @property
    def in_flight(self) -> int:
        return self.cells[counters.ROUTED] - self.cells[counters.FINISHED]

    def second(self, quick: int = 0, late: int = 0, in_flight: int = 0, failed: int = 0) -> None:
        """Let a second pass: responses in time and late ones, and so many in flight at its end."""
        self.now += 1.0
        self.cells[FIRST + histogram.bucket_index(PATIENCE / 10)] += quick
        self.cells[FIRST + histogram.bucket_index(PATIENCE * 3)] += late
        self.cells[counters.FAILED] += failed
        self.cells[counters.FINISHED] += quick + late
        self.cells[counters.ROUTED] = self.cells[counters.FINISHED] + in_flight
        self.limit.observe(self.now, self.cells, self.endpoints)

    def overload(self, in_flight: int = 10_000) -> None:
        for _ in range(WINDOWS):
            self.second(late=50, in_flight=in_flight)


def shedding(rate: int = 100, endpoints: int = 1) -> Variant:
    variant = Variant(LoadLimit(PATIENCE), endpoints)
    variant.second(quick=rate, in_flight=5)
    variant.overload()
    assert variant.limit.sheds
    return variant


def test_another_release_begins_with_what_its_versions_have_answered() -> None:
    limits = LoadLimits()
    limits.configure(PATIENCE)
    stable, canary = (Variant(one) for one in limits.of)
    stable.second(quick=1000)
    canary.second(quick=400)
    limits.begin(promoted=False)  # the one before was aborted
    stable.second(quick=1)
    canary.second(quick=1)
    assert [one.limit for one in limits.of] == [1000 * PATIENCE / 4, LEAST]
    canary.second(quick=600)
    limits.begin(promoted=True)
    stable.second(quick=1)
    canary.second(quick=1)
    assert [one.limit for one in limits.of] == [600 * PATIENCE / 4, LEAST]


def test_another_release_ends_the_shedding_of_its_canary() -> None:
    limits = LoadLimits()
    limits.configure(PATIENCE)
    for one in limits.of:
        variant = Variant(one)
        variant.second(quick=100, in_flight=5)
        variant.overload()
    limits.begin(promoted=False)
    assert [one.sheds for one in limits.of] == [True, False]


# When it begins, and when it ends


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 3000)), max_size=60)
)
def test_nothing_is_shed_while_half_of_the_responses_come_in_time(
    seconds: list[tuple[int, int, int]],
) -> None:
    variant = Variant(LoadLimit(PATIENCE))
    for one, other, in_flight in seconds:
        variant.second(quick=max(one, other, 1), late=min(one, other), in_flight=in_flight)
        assert not variant.limit.refuses(10_000, user(0, new=True))


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 200)), max_size=60)
)
def test_a_request_within_the_limit_is_never_refused(seconds: list[tuple[int, int, int]]) -> None:
    variant = Variant(LoadLimit(PATIENCE))
    for quick, late, in_flight in seconds:
        variant.second(quick=quick, late=late, in_flight=in_flight)
        assert variant.limit.limit >= LEAST
        assert not variant.limit.refuses(variant.limit.limit * 3 // 4, user(5, new=True))
        assert not variant.limit.refuses(variant.limit.limit * 3 // 4, user(5, new=False))


def test_off_it_never_sheds() -> None:
    variant = Variant(LoadLimit(None))
    variant.overload()
    variant.overload()
    assert not variant.limit.sheds
    assert not variant.limit.refuses(10**6, user(1, new=True))


def test_it_begins_in_the_third_overloaded_second() -> None:
    variant = Variant(LoadLimit(PATIENCE))
    variant.second(quick=100, in_flight=5)
    for _ in range(WINDOWS - 1):
        variant.second(late=50, in_flight=500)
        assert not variant.limit.sheds
    variant.second(late=50, in_flight=500)
    assert variant.limit.sheds


def test_late_responses_without_a_queue_are_no_overload() -> None:
    variant = Variant(LoadLimit(PATIENCE))
    variant.second(quick=100, in_flight=5)
    for _ in range(20):
        variant.second(late=50, in_flight=LEAST)
    assert not variant.limit.sheds


def test_a_variant_that_answers_nothing_is_overloaded_after_the_patience() -> None:
    variant = Variant(LoadLimit(PATIENCE))
    variant.second(quick=100, in_flight=5)
    seconds = 0
    while not variant.limit.sheds:
        variant.second(in_flight=500)
        seconds += 1
    assert PATIENCE + WINDOWS <= seconds <= PATIENCE + WINDOWS + 1


def test_an_idle_hour_is_no_silence() -> None:
    variant = Variant(LoadLimit(PATIENCE))
    variant.second(quick=100)
    for _ in range(100):
        variant.second()
    for _ in range(WINDOWS - 1):
        variant.second(in_flight=500)
    assert not variant.limit.sheds


def test_it_ends_when_nothing_was_refused_for_a_while() -> None:
    variant = shedding()
    for second in range(30):
        assert variant.limit.refuses(10_000, user(1, new=True))
        variant.second(quick=90, in_flight=variant.limit.limit)
        assert variant.limit.sheds, second
    for _ in range(int(CALM) + 1):
        variant.second(quick=50, in_flight=3)
    assert not variant.limit.sheds


def test_it_is_given_up_where_it_does_not_help() -> None:
    """A dependency is slow: the time is not the queue's."""
    variant = shedding()
    seconds = 0
    while variant.limit.sheds:
        variant.limit.refuses(10_000, user(1, new=True))
        variant.second(late=5, in_flight=variant.limit.limit)
        seconds += 1
    assert seconds < 10
    began = variant.now
    while not variant.limit.sheds:
        variant.second(late=50, in_flight=10_000)
    assert variant.now - began >= PAUSE


def test_a_queue_that_still_drains_is_no_reason_to_give_up() -> None:
    variant = shedding()
    for _ in range(60):
        variant.limit.refuses(10_000, user(1, new=True))
        variant.second(late=100, in_flight=5000)
    assert variant.limit.sheds


# The limit


def test_the_limit_is_a_quarter_of_the_patience_at_the_measured_rate() -> None:
    assert shedding(rate=100).limit.limit == 100 * PATIENCE / 4


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 40))
def test_the_limit_follows_the_endpoints(rate: int, before: int, after: int) -> None:
    variant = Variant(LoadLimit(PATIENCE), before)
    variant.second(quick=rate)
    variant.endpoints = after
    variant.second()
    expected = max(rate / before * PATIENCE / 4, LEAST) * after
    assert variant.limit.limit == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("apart", [counters.SHED, counters.FAILED], ids=["stable", "canary"])
def test_failures_and_refusals_carry_nothing(apart: int) -> None:
    """Refusals are counted apart for stable, and as failures of the canary."""
    variant = Variant(LoadLimit(PATIENCE))
    variant.cells[counters.ERRORS + Reason.SHED] += 200
    variant.cells[apart] += 200
    variant.second(quick=1000, failed=700)
    assert variant.limit.limit == 100 * PATIENCE / 4


def test_what_was_carried_is_forgotten_after_an_hour() -> None:
    variant = Variant(LoadLimit(PATIENCE))
    variant.second(quick=1000)
    variant.now += 3000
    variant.second()
    assert variant.limit.limit == 500
    variant.now += 4000
    variant.second()
    assert variant.limit.limit == LEAST


def test_event_streams_are_not_in_flight() -> None:
    variant = Variant(LoadLimit(PATIENCE))
    variant.cells[counters.STREAMS_OPENED] += 1000
    variant.second(quick=100, in_flight=1000)
    for _ in range(5):
        variant.second(late=50, in_flight=1005)
    assert not variant.limit.sheds
    variant.overload()
    assert variant.limit.sheds
    assert not variant.limit.refuses(1005, user(1, new=True))


# Whom it refuses


@given(st.integers(1, 20_000), st.integers(0, BUCKETS - 1), st.integers(0, BUCKETS - 1))
def test_no_new_user_is_served_where_one_who_comes_back_is_not(
    in_flight: int, new: int, old: int
) -> None:
    limit = shedding().limit
    if limit.refuses(in_flight, user(old, new=False)):
        assert limit.refuses(in_flight, user(new, new=True))
        assert limit.refuses(in_flight, Routing(RouteTable(), None, BUCKETS - 1, 0))


def test_users_who_come_back_get_all_ranks_and_others_in_the_next_minute() -> None:
    variant = shedding(rate=4000)
    full = variant.limit.limit * 7 // 8

    def refused() -> set[int]:
        return {one for one in range(100) if variant.limit.refuses(full, user(one, new=False))}

    first = refused()
    assert 40 < len(first) < 60, "neighbours, as the users of a canary at 1% are"
    assert refused() == first
    together = set(first)
    for _ in range(10):
        variant.now += 60
        variant.second(late=1, in_flight=10_000)
        together &= refused()
    assert not together


def test_probes_are_never_refused() -> None:
    limit = shedding().limit
    assert not limit.refuses(10**6, RouteTable().without_user(NOT_SHARED))


def test_stable_has_room_below_what_new_users_get() -> None:
    limit = shedding().limit
    assert limit.has_room(limit.limit // 2)
    assert not limit.has_room(limit.limit * 3 // 4)


def test_a_user_is_new_whose_response_sets_his_cookie() -> None:
    table = RouteTable()
    assert is_new(table.route(b"k", b"Set-Cookie: k\r\n", sent=False))
    assert not is_new(table.route(b"k"))
    assert not is_new(table.route(b"k", b"Set-Cookie: renewed\r\n"))


@given(st.integers(0, BUCKETS - 1))
def test_refused_users_come_back_at_different_times(bucket: int) -> None:
    assert 2 <= retry_after(user(bucket, new=False)) <= 9
    assert retry_after(user(bucket, new=False)) != retry_after(user(bucket + 1, new=False))


# Simulated: 100 requests a second are the real limit


def total(served: dict[bool, Served]) -> float:
    return sum(one.in_time for one in served.values()) / sum(one.sent for one in served.values())


@pytest.mark.parametrize(("before", "least"), [(60.0, 0.7), (80.0, 0.5)])
def test_a_trip_at_half_doubles_the_load(before: float, least: float) -> None:
    """Of 120 and 160 requests a second 83% and 63% can be served at most."""
    world = World(rate=lambda now: before if now < 30 else 2 * before)
    without = run(world, LoadLimit(None), PATIENCE, counted_from=30)
    with_ = run(world, LoadLimit(PATIENCE), PATIENCE, counted_from=30)
    assert total(without) < 0.2
    assert total(with_) > least
    assert with_[False].share > 0.7
    assert with_[True].share < with_[False].share


def test_it_recovers_from_a_limit_learnt_at_a_tenth_of_the_load() -> None:
    world = World(rate=lambda now: 10.0 if now < 30 else 150.0)
    assert total(run(world, LoadLimit(PATIENCE), PATIENCE, counted_from=30)) > 0.5


@pytest.mark.parametrize("rate", [20.0, 60.0, 90.0])
def test_healthy_load_is_never_shed(rate: float) -> None:
    world = World(rate=lambda _: rate, seconds=120.0)
    served = run(world, LoadLimit(PATIENCE), PATIENCE, counted_from=0)
    assert not served[True].refused
    assert not served[False].refused


def test_half_of_the_capacity_is_lost_and_comes_back() -> None:
    world = World(
        rate=lambda _: 80.0, service=lambda now: 0.2 if 30 < now < 100 else 0.1, seconds=180.0
    )
    limit = LoadLimit(PATIENCE)
    served = run(world, limit, PATIENCE, counted_from=130)
    assert total(served) > 0.99
    assert not limit.sheds
