"""Who counts and when: the user reduction, deadlines, and the recent quantile."""

from __future__ import annotations

import timeit

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy import histogram
from canaryproxy.watch import BUCKETS, Deadlines, RecentQuantile, UserReducer, thresholds


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


def test_a_claim_is_cheap() -> None:
    users = UserReducer()
    best = min(timeit.repeat(lambda: users.claim(77, 5), number=20_000, repeat=5)) / 20_000
    assert best < 1e-6  # 0.1 µs where nothing else runs


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.floats(0.01, 3.0)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_every_request_is_counted_once(requests: list[tuple[float, float]]) -> None:
    """Whatever settles first, the first byte or the deadline: one trial, and an event if it was slow."""
    threshold = 1.0
    deadlines = Deadlines()
    arrivals = sorted(at for at, _ in requests)
    happenings: list[tuple[float, int, int]] = []
    for index, (at, (_, takes)) in enumerate(zip(arrivals, requests, strict=True)):
        happenings += [(at, 0, index), (at + takes, 1, index)]
    happenings += [(step / 10, 2, -1) for step in range(70)]
    trials = events = 0
    pending = {}
    for now, kind, index in sorted(happenings):
        if kind == 0:
            pending[index] = deadlines.add(now + threshold)
        elif kind == 1:
            token = pending[index]
            if not token.settled:
                token.settled = True
                trials += 1
                events += now > token.deadline
        else:
            late = deadlines.expire(now)
            trials += late
            events += late
    assert trials == len(requests)
    assert abs(events - sum(takes > threshold for _, takes in requests)) <= sum(
        abs(takes - threshold) < 1e-9 for _, takes in requests
    )
    assert len(deadlines) == 0


def test_the_queue_does_not_outgrow_what_is_in_flight() -> None:
    deadlines = Deadlines()
    for at in range(1000):
        deadlines.add(at + 1e6).settled = True
    assert len(deadlines) == 1


def test_a_client_that_went_away_is_never_late() -> None:
    deadlines = Deadlines()
    gone = deadlines.add(1.0)
    deadlines.add(1.0)
    gone.settled = True
    assert deadlines.expire(1.0) == 0
    assert deadlines.expire(1.1) == 1
    assert deadlines.expire(9.0) == 0


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


def test_thresholds() -> None:
    limits = thresholds(0.1, 0.05)
    assert (limits.stable, limits.stall_after) == (0.1, 1.0)
    assert abs(limits.canary - 0.15) < 1e-12
    assert thresholds(2.0, 0.05).stall_after == 10.0
