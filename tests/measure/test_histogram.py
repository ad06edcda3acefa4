"""Latency histograms: bounds, quantiles within ten percent."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf, nan, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.histogram import BOUNDS, BUCKETS, bucket_index, quantile

seconds = st.floats(0.0005, 60.0)


def test_bounds_grow_by_less_than_ten_percent() -> None:
    assert BOUNDS[0] <= 0.0005
    assert BOUNDS[-1] >= 60
    assert all(1 < high / low < 1.1 for low, high in pairwise(BOUNDS))


@given(st.floats(0, 1000))
def test_a_bound_is_inclusive(value: float) -> None:
    index = bucket_index(value)
    assert index == len(BOUNDS) or value <= BOUNDS[index]
    assert index == 0 or value > BOUNDS[index - 1]


@pytest.mark.parametrize("at", range(len(BOUNDS)))
def test_a_bound_is_the_last_value_of_its_bucket(at: int) -> None:
    assert bucket_index(BOUNDS[at]) == at
    assert bucket_index(nextafter(BOUNDS[at], inf)) == at + 1
    assert bucket_index(nextafter(BOUNDS[at], 0)) == at


@pytest.mark.parametrize("odd", [-1.0, 0.0, -inf, nan])
def test_what_is_no_duration_is_in_the_first_bucket(odd: float) -> None:
    assert bucket_index(odd) == 0


def test_an_infinite_latency_is_in_the_last_bucket() -> None:
    assert bucket_index(inf) == BUCKETS - 1


@given(st.lists(seconds, min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_quantiles_are_within_ten_percent(values: list[float], q: float) -> None:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket_index(value)] += 1
    rank = max(0, min(len(values) - 1, -int(-q * len(values) // 1) - 1))
    exact = sorted(values)[rank]
    found = quantile(counts, q)
    assert found is not None
    assert abs(found / exact - 1) < 0.1


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99, 0.999])
def test_quantiles_of_a_lognormal_load(q: float) -> None:
    source = random.Random(3)
    values = sorted(source.lognormvariate(-3, 0.8) for _ in range(100_000))
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket_index(value)] += 1
    assert quantile(counts, q) == pytest.approx(values[int(q * len(values)) - 1], rel=0.1)


def test_without_observations_there_is_no_quantile() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None


def test_what_is_longer_than_the_last_bound_counts_as_the_last_bound() -> None:
    counts = [0] * BUCKETS
    counts[bucket_index(1e9)] = 5
    assert quantile(counts, 0.5) == BOUNDS[-1]
