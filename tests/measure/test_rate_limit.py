"""A token bucket: how many lines of a kind the log takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.rate_limit import RateLimit

GAPS = st.lists(st.floats(0, 100, allow_nan=False), max_size=60)


@given(st.integers(1, 20), st.floats(0.01, 50), GAPS)
def test_no_more_than_burst_and_rate_pass_and_all_others_are_counted(
    burst: int, per_second: float, gaps: list[float]
) -> None:
    limit = RateLimit(burst, per_second)
    now, passed, reported = 1000.0, 0, 0
    for gap in gaps:
        now += gap
        dropped = limit.admit(now)
        if dropped is not None:
            passed += 1
            reported += dropped
    assert passed <= burst + (now - 1000.0) * per_second + 1e-6
    assert passed + reported + limit.dropped == len(gaps)
    assert passed >= min(burst, len(gaps))


def test_a_quiet_time_refills_the_burst_and_no_more() -> None:
    limit = RateLimit(2, 0.5)
    assert [limit.admit(10.0) for _ in range(4)] == [0, 0, None, None]
    assert limit.admit(11.0) is None
    assert limit.admit(12.0) == 3
    assert [limit.admit(999.0) for _ in range(3)] == [0, 0, None]


@pytest.mark.parametrize("now", [5.0, -3.0])
def test_a_clock_that_goes_back_gives_nothing(now: float) -> None:
    limit = RateLimit(1, 1.0)
    assert limit.admit(10.0) == 0
    assert limit.admit(now) is None
