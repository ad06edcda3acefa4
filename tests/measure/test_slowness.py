"""From which bucket on a response is slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.histogram import BUCKETS, bucket_index
from canaryproxy.measure.slowness import FAR, LASTS, NEVER, Usual, limit_of


def times(*seconds: float) -> Sequence[int]:
    found = [0] * BUCKETS
    for one in seconds:
        found[bucket_index(one)] += 1
    return found


def counted(**seconds: Sequence[float]) -> Mapping[str, Sequence[int]]:
    return {url: times(*found) for url, found in seconds.items()}


@given(
    st.integers(1, BUCKETS),
    st.floats(0.0, 100.0),
    st.floats(0.0, 0.010) | st.none(),
    st.floats(1.0, 1.5),
)
def test_half_as_slow_again_or_ten_milliseconds_more_is_not_slow_where_the_same_is_not_for_others(
    slow_from: int, seconds: float, more: float | None, ratio: float
) -> None:
    slower = seconds * ratio if more is None else seconds + more
    if bucket_index(slower) >= FAR[slow_from]:
        assert bucket_index(seconds) >= slow_from


def test_it_is_beyond_the_typical_endpoint_of_which_none_is_the_slow_one() -> None:
    usual = Usual()
    assert not usual.observe(0.0, counted(a=(), b=(), c=()))
    assert usual.slow_from == NEVER
    fast = [0.010] * 18 + [0.050] * 4
    assert usual.observe(1.0, counted(a=[1.0] * 30, b=fast, c=fast))
    assert 0.050 <= limit_of(usual.slow_from) < 0.056
    assert 0.075 <= limit_of(FAR[usual.slow_from]) < 0.092
    two = Usual()
    two.observe(0.0, counted(a=(), b=()))
    assert two.observe(1.0, counted(a=[1.0] * 30, b=fast))
    assert limit_of(two.slow_from) < 0.056


def test_a_few_responses_say_nothing() -> None:
    usual = Usual()
    usual.observe(0.0, counted(a=(), b=()))
    assert not usual.observe(9.0, counted(a=[0.01] * 100, b=[0.01] * 19))
    assert usual.slow_from == NEVER
    assert usual.observe(9.1, counted(a=[0.01] * 100, b=[0.01] * 20))


def test_it_follows_each_minute_and_endpoints_that_are_replaced() -> None:
    usual = Usual()
    usual.observe(0.0, counted(a=(), b=()))
    first, second = [0.01] * 30, [0.01] * 30 + [0.1] * 30
    assert usual.observe(1.0, counted(a=first, b=first))
    before = usual.slow_from
    assert not usual.observe(LASTS, counted(a=second, b=second))
    assert usual.observe(1.0 + LASTS, counted(a=second, b=second))
    assert usual.slow_from > before
    late = 1.0 + 2 * LASTS
    assert not usual.observe(late, counted(c=(), d=()))
    assert usual.observe(late + 1.0, counted(c=first, d=first))
    assert usual.slow_from == before
