"""Who counts and when: the user reduction, deadlines, and the recent quantile."""

from __future__ import annotations

from canaryproxy.measure import histogram
from canaryproxy.measure.routing import BUCKETS
from canaryproxy.measure.trials import RecentQuantile, UserReducer, thresholds


def test_a_user_is_one_trial_in_ten_seconds() -> None:
    users = UserReducer()
    assert [users.claim(7, at) for at in (0, 1, 99, 100, 150, 199, 200)] == [
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert users.claim(8, 1)


def test_who_failed_is_out_until_the_round_ends() -> None:
    users = UserReducer()
    assert users.claim(7, 0)
    users.failed(7)
    assert not any(users.claim(7, at) for at in range(0, 1_000_000, 1000))
    users.new_round()
    assert users.claim(7, 1_000_000)


def test_workers_share_the_cells() -> None:
    buffer = bytearray(UserReducer.SIZE)
    one, other = UserReducer(buffer), UserReducer(memoryview(buffer))
    assert one.claim(3, 5)
    assert not other.claim(3, 6)


def test_a_round_ends_when_half_of_a_side_is_out() -> None:
    users = UserReducer()
    limit = 100
    for bucket in range(20):
        users.claim(bucket, 0)
    for bucket in range(100, 1100):
        users.claim(bucket, 0)
    for bucket in range(9):
        users.failed(bucket)
    assert not users.refresh(limit)
    users.failed(9)
    assert users.refresh(limit)
    assert users.claim(0, 10)


def test_a_lone_client_does_not_end_a_round() -> None:
    users = UserReducer()
    users.claim(1, 0)
    users.failed(1)
    assert not users.refresh(limit=100)
    users.claim(2, 0)
    users.claim(3, 0)
    assert not users.refresh(limit=100)
    assert not UserReducer().refresh(limit=0)
    assert not UserReducer().refresh(limit=BUCKETS)


def test_a_small_group_for_whom_everything_fails_does() -> None:
    users = UserReducer()
    for bucket in range(5):
        users.claim(bucket, 0)
    users.failed(0)
    users.failed(1)
    assert not users.refresh(limit=100)
    users.failed(2)
    assert users.refresh(limit=100)


def _counts(**seconds: int) -> list[int]:
    cells = [0] * histogram.BUCKETS
    for name, count in seconds.items():
        cells[histogram.bucket_index(float(name.removeprefix("ms")) / 1000)] += count
    return cells


def test_the_recent_quantile_forgets() -> None:
    recent = RecentQuantile(0.95)
    assert recent.update(0.0, _counts(ms10=50)) is None
    tau = recent.update(1.0, _counts(ms10=190, ms100=10))
    assert tau is not None
    assert 0.009 < tau < 0.0115
    slow = _counts(ms10=190, ms100=10_000)
    late = None
    for second in range(2, 120):
        late = recent.update(float(second), slow)
        if late is None:
            break
    later = recent.update(200.0, [a + b for a, b in zip(slow, _counts(ms40=500), strict=True)])
    assert later is not None
    assert 0.035 < later < 0.045


def test_the_recent_quantile_looks_back_further_where_traffic_is_low() -> None:
    recent = RecentQuantile(0.95)
    tau = None
    for second in range(400):
        tau = recent.update(float(second), _counts(ms20=1 + second // 2))
    assert tau is not None
    assert 0.018 < tau < 0.022


def test_a_new_worker_begins_at_zero() -> None:
    recent = RecentQuantile(0.5)
    for second in range(20):
        recent.update(float(second), _counts(ms20=1000 * (second + 1)))
    assert recent.update(20.0, _counts(ms20=10)) is None
    assert recent.update(21.0, _counts(ms20=500)) is not None


def test_the_thresholds_of_a_stall_lie_between_one_and_ten_seconds() -> None:
    limits = thresholds(0.1, 0.05)
    assert (limits.stable, limits.stall_after) == (0.1, 1.0)
    assert abs(limits.canary - 0.15) < 1e-12
    assert thresholds(2.0, 0.05).stall_after == 10.0
