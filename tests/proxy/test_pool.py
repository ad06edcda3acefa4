"""Which endpoint gets a request: one that is out gets none, one that returns comes to its share slowly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import Limits
from canaryproxy.config.addresses import Endpoint as EndpointConfig
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.pool import Pool

KEYS = [b"user-%d" % number for number in range(2000)]


@pytest.fixture(autouse=True, scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield made
    asyncio.set_event_loop(None)
    made.close()


def endpoints(number: int) -> list[Endpoint]:
    loop = asyncio.get_event_loop_policy().get_event_loop()

    def never(_: Endpoint) -> None:
        raise AssertionError

    return [
        Endpoint(EndpointConfig("http", "h", 1000 + at, ""), Limits(), loop, never)  # type: ignore[arg-type]
        for at in range(number)
    ]


def weighted(*weights: float, ranks: tuple[int, ...] = (), by_hash: bool = False) -> Pool:
    found = endpoints(len(weights))
    for one, weight, rank in zip(found, weights, ranks or (0,) * len(weights), strict=True):
        one.config = replace(one.config, weight=weight, rank=rank)
    pool = Pool(found, by_hash=by_hash)
    pool.refresh(1.0, may_panic=True)
    return pool


def shares(pool: Pool, requests: int = 30_000) -> Counter[int]:
    found = [pool.choose(None) for _ in range(requests)]
    return Counter(pool.endpoints.index(one) for one in found if one is not None)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=6), st.booleans())
def test_usable_are_those_that_are_up_or_in_panic_those_that_take_connections(
    states: list[tuple[bool, int]], may_panic: bool
) -> None:
    pool = Pool(endpoints(len(states)), by_hash=False)
    for one, (ejected, out) in zip(pool.endpoints, states, strict=True):
        one.ejected, one.standing.out = ejected, out
    pool.refresh(1.0, may_panic=may_panic)
    up = [one for one in pool.endpoints if not one.ejected and not one.standing.out]
    chosen = pool.choose(None)
    if up:
        assert chosen in up
        assert not pool.panic
    elif not states or not may_panic:
        assert chosen is None
    else:
        assert pool.panic
        takes = [one for one in pool.endpoints if not one.ejected]
        assert chosen in (takes or pool.endpoints)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("rhythm", [1, 2, 3, 4, 5, 7])
def test_equals_take_turns_whatever_the_rhythm_of_the_requests(number: int, rhythm: int) -> None:
    """Of any 40 requests of a kind that comes with each ``rhythm``-th request, each gets about its share."""
    pool = Pool(endpoints(number), by_hash=False)
    turns = [pool.choose(None) for _ in range(1000 * rhythm)][::rhythm]
    for begin in range(len(turns) - 40):
        found = Counter(turns[begin : begin + 40])
        assert all(found[one] >= 40 / number * 0.6 for one in pool.endpoints)


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("passed", [2.5, 5.0, 9.0])
def test_the_share_of_one_that_returns_grows_linearly(number: int, passed: float) -> None:
    pool = Pool(endpoints(number), by_hash=False, slow_start=10.0)
    back = pool.endpoints[0]
    back.standing.out = 1
    pool.refresh(100.0, may_panic=True)
    assert 0 not in shares(pool)
    back.standing.out = 0
    pool.refresh(200.0, may_panic=True)
    assert 0 not in shares(pool, 50), "it begins at 0"
    pool.warm(200.0 + passed)
    # Its requests in flight are few: it must not be chosen for that.
    for one in pool.endpoints[1:]:
        one.active = 5
    wanted = 30_000 / number * passed / 10.0
    assert shares(pool)[0] == pytest.approx(wanted, rel=0.2)
    pool.warm(210.0)
    assert not pool.starting


def test_keys_return_one_by_one_and_no_other_key_moves() -> None:
    pool = Pool(endpoints(4), by_hash=True, slow_start=10.0)
    before = {key: pool.choose(key) for key in KEYS}
    back = pool.endpoints[2]
    back.standing.out = 1
    pool.refresh(0.0, may_panic=True)
    without = {key: pool.choose(key) for key in KEYS}
    back.standing.out = 0
    pool.refresh(100.0, may_panic=True)
    returned: set[bytes] = set()
    for tenth in range(11):
        pool.warm(100.0 + tenth)
        now = {key: pool.choose(key) for key in KEYS}
        mine = {key for key in KEYS if now[key] is back}
        assert returned <= mine, "a key that has returned stays"
        assert all(now[key] in (before[key], without[key]) for key in KEYS)
        assert len(mine) == pytest.approx(500 * tenth / 10, abs=60)
        returned = mine
    assert now == before


def test_where_all_start_all_get_requests() -> None:
    for by_hash in (False, True):
        pool = Pool(endpoints(2), by_hash=by_hash, slow_start=10.0)
        for one in pool.endpoints:
            one.standing.out = 1
        pool.refresh(0.0, may_panic=True)
        for one in pool.endpoints:
            one.standing.out = 0
        pool.refresh(50.0, may_panic=True)
        assert {pool.choose(key) for key in KEYS} == set(pool.endpoints)
        assert len(shares(pool)) == 2


def test_without_a_slow_start_it_is_back_at_once() -> None:
    pool = Pool(endpoints(2), by_hash=False)
    pool.endpoints[0].standing.out = 1
    pool.refresh(0.0, may_panic=True)
    pool.endpoints[0].standing.out = 0
    pool.refresh(1.0, may_panic=True)
    assert not pool.starting
    assert len(shares(pool, 10)) == 2


# SRV records: ranks and weights


def test_a_lower_rank_is_used_only_while_all_of_the_better_are_out() -> None:
    pool = weighted(1.0, 1.0, 1.0, 1.0, ranks=(0, 0, 1, 2))
    assert set(shares(pool)) == {0, 1}
    pool.endpoints[0].standing.out = 1
    pool.refresh(1.0, may_panic=True)
    assert set(shares(pool)) == {1}
    pool.endpoints[1].ejected = True
    pool.refresh(1.0, may_panic=True)
    assert set(shares(pool)) == {2}
    pool.endpoints[2].ejected = True
    pool.refresh(1.0, may_panic=True)
    assert set(shares(pool)) == {3}
    pool.endpoints[0].standing.out = 0
    pool.refresh(1.0, may_panic=True)
    assert set(shares(pool)) == {0}


@pytest.mark.parametrize("number", [2, 3, 6])
def test_idle_endpoints_get_requests_in_proportion_to_their_weights(number: int) -> None:
    weights = [float(1 + at % 3) for at in range(number)]
    found = shares(weighted(*weights))
    for at, weight in enumerate(weights):
        assert found[at] / 30_000 == pytest.approx(weight / sum(weights), rel=0.1)


def test_a_heavy_endpoint_that_is_busy_gets_less() -> None:
    pool = weighted(3.0, 1.0)
    pool.endpoints[0].active = 30
    assert shares(pool)[0] < 30_000 * 0.6, "of two that are drawn the other one is taken"
    pool.endpoints[1].active = 10
    assert shares(pool)[0] / 30_000 == pytest.approx(0.75, rel=0.1), "for its weight it is as busy"


def test_a_weight_of_next_to_none_gets_next_to_no_requests() -> None:
    assert shares(weighted(0.001, 1.0))[0] < 100


def test_users_are_shared_by_weight_and_move_only_to_what_became_heavier() -> None:
    before, after = weighted(1.0, 1.0, 1.0, by_hash=True), weighted(1.0, 1.0, 2.0, by_hash=True)
    heavier = after.endpoints[2]
    there = Counter(after.choose(key) for key in KEYS)
    assert there[heavier] / len(KEYS) == pytest.approx(0.5, rel=0.1)
    for key in KEYS:
        one, other = before.choose(key), after.choose(key)
        assert one is not None
        assert other is not None
        assert other is heavier or one.authority == other.authority


def test_a_weighted_endpoint_that_returns_comes_to_its_share_slowly() -> None:
    found = weighted(3.0, 1.0).endpoints
    pool = Pool(found, by_hash=False, slow_start=10.0)
    found[0].standing.out = 1
    pool.refresh(1.0, may_panic=True)
    found[0].standing.out = 0
    pool.refresh(100.0, may_panic=True)
    assert 0 not in shares(pool, 50)
    pool.warm(105.0)
    assert shares(pool)[0] / 30_000 == pytest.approx(1.5 / 2.5, rel=0.1)
