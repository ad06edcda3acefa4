"""What people look at: windows over growing counts, and bands that hold while one watches."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.control import timeseries as traffic
from canaryproxy.control.timeseries import (
    Snapshot,
    StepTraffic,
    TrafficHistory,
    Window,
    quantile_band,
    rate_band,
)
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import Counters


def test_a_band_holds_at_every_moment_of_a_long_look() -> None:
    draw = random.Random(3)
    missed = 0
    for _ in range(200):
        events = 0
        for trials in range(1, 400):
            events += draw.random() < 0.05
            low, high = rate_band(events, trials) if trials % 10 == 0 else (0.0, 1.0)
            if not low <= 0.05 <= high:
                missed += 1
                break
    assert missed <= 20  # α is 5 %, so 10 of 200 are expected at most


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_a_band_lies_around_its_rate(events: int, others: int) -> None:
    trials = events + others
    low, high = rate_band(events, trials)
    assert 0.0 <= low <= high <= 1.0
    if trials:
        assert low <= events / trials <= high
        assert rate_band(events * 10, trials * 10)[1] <= high + 1e-9


def test_bands_of_nothing_and_of_extremes() -> None:
    assert rate_band(0, 0) == (0.0, 1.0)
    assert rate_band(0, 1000)[0] == 0.0
    assert rate_band(0, 1000)[1] < 0.01
    assert rate_band(1000, 1000)[1] == 1.0
    assert quantile_band([0] * histogram.BUCKETS, 0.95) is None


def test_a_band_of_a_quantile_covers_it_and_narrows() -> None:
    draw = random.Random(5)
    widths = []
    for number in (50, 500, 5000):
        counts = [0] * histogram.BUCKETS
        for _ in range(number):
            counts[histogram.bucket_index(draw.lognormvariate(-3.0, 0.5))] += 1
        band = quantile_band(counts, 0.95)
        assert band is not None
        true = 2.718281828 ** (-3.0 + 1.6449 * 0.5)
        assert band[0] * 0.95 <= true <= band[1] * 1.05
        widths.append(band[1] - band[0])
    assert widths == sorted(widths, reverse=True)


@given(st.lists(st.integers(0, 50), min_size=histogram.BUCKETS, max_size=histogram.BUCKETS))
def test_a_band_of_a_quantile_lies_around_the_estimate(counts: list[int]) -> None:
    band = quantile_band(counts, 0.95)
    estimate = histogram.quantile(counts, 0.95)
    if band is None:
        assert estimate is None
    else:
        assert estimate is not None
        assert band[0] <= estimate * 1.0001
        assert band[1] >= estimate * 0.9999


class World:
    """Two variants whose counts the test makes grow."""

    def __init__(self) -> None:
        self.cells = Counters()
        self.course = TrafficHistory()
        self.now = 0.0

    def second(self, stable: int, canary: int, failed: int = 0) -> dict[str, object]:
        for cells, routed in ((self.cells.stable, stable), (self.cells.canary, canary)):
            cells[counters.ROUTED] += routed
            cells[counters.FINISHED] += routed
            cells[counters.FIRST_BYTE + histogram.bucket_index(0.02)] += routed
        self.cells.canary[counters.FAILED] += failed
        self.now += 1.0
        return self.course.take(
            self.now, 1e9 + self.now, self.cells.variants, 10.0, {"errors": 0.5}
        )


def test_now_is_the_last_ten_seconds() -> None:
    world = World()
    for _ in range(20):
        world.second(90, 10)
    for _ in range(20):
        world.second(0, 0)
    stable, canary = world.course.now()
    assert (stable.rate, canary.rate) == (0.0, 0.0)
    for _ in range(5):
        world.second(90, 10, failed=2)
    stable, canary = world.course.now()
    assert stable.rate == pytest.approx(45.0)
    assert canary.error_rate == pytest.approx(0.2)
    assert canary.quantile(0.5) == pytest.approx(0.02, rel=0.1)


def test_a_point_looks_back_half_a_minute_and_is_json() -> None:
    world = World()
    for _ in range(40):
        point = world.second(90, 10, failed=1)
    assert point["share"] == pytest.approx(0.1)
    canary = point["canary"]
    assert isinstance(canary, dict)
    assert canary["error_rate"] == pytest.approx(0.1)
    assert canary["error_low"] < 0.1 < canary["error_high"]
    assert canary["p95_low"] <= canary["p95"] <= canary["p95_high"]
    assert json.loads(json.dumps(point, allow_nan=False)) == point
    quiet = World().second(0, 0)
    assert quiet["share"] is None
    assert json.dumps(quiet, allow_nan=False)


def test_the_course_stays_bounded_and_keeps_its_whole_length() -> None:
    world = World()
    for _ in range(5 * traffic.POINTS):
        world.second(1, 1)
    times = [point["t"] for point in world.course.points]
    assert len(times) <= traffic.POINTS
    assert times == sorted(times)
    assert times[0] < 1e9 + 20
    assert times[-1] > 1e9 + 5 * traffic.POINTS - 10


def test_counts_that_begin_anew_are_not_negative() -> None:
    many = Snapshot(0.0, 100, 100, 50, (100,) + (0,) * (histogram.BUCKETS - 1))
    few = Snapshot(1.0, 3, 3, 1, (3,) + (0,) * (histogram.BUCKETS - 1))
    window = Window.between(many, few)
    assert (window.routed, window.ended, window.failed, window.first_byte[0]) == (3, 3, 1, 3)


def test_before_the_first_reading_nothing_happened() -> None:
    stable, canary = TrafficHistory().now()
    assert (stable.rate, canary.error_rate, canary.quantile(0.95)) == (0.0, None, None)


def test_percentiles_of_a_step_begin_with_it() -> None:
    def snapshots(now: float, fast: int, slow: int) -> tuple[Snapshot, ...]:
        buckets = [0] * histogram.BUCKETS
        buckets[histogram.bucket_index(0.01)] = fast
        buckets[histogram.bucket_index(0.4)] = slow
        return (Snapshot(now, 0, 0, 0, tuple(buckets)),) * 2

    step = StepTraffic()
    assert step.percentiles(0.95) == (0.0, (None, None))
    step.take("step 1", snapshots(0.0, 0, 1000))
    assert step.percentiles(0.95) == (0.0, (None, None)), "nothing since it began"
    step.take("step 1", snapshots(60.0, 5000, 1000))
    seconds, (stable, canary) = step.percentiles(0.95)
    assert seconds == 60.0
    assert stable is not None
    assert stable == canary
    assert stable.low <= stable.value <= stable.high < 0.02, "what came before does not count"
    step.take("step 2", snapshots(70.0, 5000, 1000))
    step.take("step 2", snapshots(90.0, 5000, 1300))
    seconds, (stable, _) = step.percentiles(0.95)
    assert seconds == 20.0
    assert stable is not None
    assert stable.value > 0.3
