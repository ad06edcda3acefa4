"""The users of versions beside the canary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.routing import BUCKETS, RouteTable
from canaryproxy.measure.user_ranges import NO_RANGE, UserRanges

USERS = [b"user-%d" % at for at in range(20_000)]
SHARES = st.lists(st.integers(1, 2000).map(lambda n: n / 100), max_size=5).filter(
    lambda shares: sum(shares) < 100
)


@given(SHARES, st.binary(max_size=40))
def test_a_user_is_in_one_range_at_most(shares: list[float], key: bytes) -> None:
    found = UserRanges(shares).of(key)
    assert found == NO_RANGE or 0 <= found < len(shares)


def test_ranges_have_their_shares() -> None:
    ranges = UserRanges([20.0, 5.0])
    found = [ranges.of(key) for key in USERS]
    assert 0.19 < found.count(0) / len(USERS) < 0.21
    assert 0.04 < found.count(1) / len(USERS) < 0.06


@given(SHARES.filter(bool), st.integers(1, 500).map(lambda n: n / 100))
def test_a_larger_share_of_the_last_version_takes_no_user_away(
    shares: list[float], more: float
) -> None:
    before = UserRanges(shares)
    after = UserRanges([*shares[:-1], min(shares[-1] + more, 99.99)])
    for key in USERS[:300]:
        if before.of(key) != NO_RANGE:
            assert after.of(key) == before.of(key)


def test_a_range_says_nothing_of_where_a_release_has_its_users() -> None:
    ranges, table = UserRanges([20.0]), RouteTable(weight=50.0, salt=b"2026-11-1")
    inside = [key for key in USERS if ranges.of(key) == 0]
    on_canary = sum(table.variant_of(key) for key in inside)
    assert 0.46 < on_canary / len(inside) < 0.54


def test_the_least_share_is_a_bucket() -> None:
    inside = sum(UserRanges([100.0 / BUCKETS]).of(key) == 0 for key in USERS)
    assert 0 < inside < 15
