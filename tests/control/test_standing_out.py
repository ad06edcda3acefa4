"""Which endpoint fails more, or is slower, than the others of its variant."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.control.standing_out import failing, slow
from canaryproxy.measure import histogram

from .test_endpoint_figures import counted


def named(*endpoints: tuple[int, int]) -> list[str]:
    found = failing([(str(at), counted(*one)) for at, one in enumerate(endpoints)])
    return [name for name, _ in found]


@pytest.mark.parametrize(
    ("endpoints", "wanted"),
    [
        ([(50, 0), (50, 48)], ["1"]),
        ([(50, 48), (50, 48)], []),
        ([(20, 0), (500, 480)], ["1"]),  # it fails fast, so it gets most of the requests
        ([(50, 1), (50, 4)], []),  # too few
        ([(50, 40)], []),  # there is no other
        ([(50, 40), (0, 0)], []),
        ([(50, 45), (0, 0), (50, 0), (50, 45), (50, 1)], ["0", "3"]),
        ([(1000, 100), (1000, 150)], []),  # worse, but not twice as bad
        ([(1000, 0), (1000, 1000)], ["1"]),
        ([(10**9, 10), (10**9, 10**9)], ["1"]),
    ],
)
def test_the_endpoint_that_fails_more_is_named(
    endpoints: list[tuple[int, int]], wanted: list[str]
) -> None:
    assert named(*endpoints) == wanted


def test_equal_endpoints_are_hardly_ever_named() -> None:
    """The bound is one in a thousand for the worst of two; here it is one of eight."""
    random = Random(7)
    false = 0
    for _ in range(1000):
        endpoints = []
        for _ in range(8):
            requests = random.randrange(5, 60)
            endpoints.append((requests, sum(random.random() < 0.2 for _ in range(requests))))
        false += bool(named(*endpoints))
    assert false <= 15


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), max_size=6))
def test_no_counts_are_too_odd(endpoints: list[tuple[int, float]]) -> None:
    whole = [(requests, int(requests * share)) for requests, share in endpoints]
    found = named(*whole)
    assert len(found) < max(len([one for one in whole if one[0]]), 1), "never all of them"


def slow_ones(*endpoints: list[float]) -> list[str]:
    histograms = []
    for at, times in enumerate(endpoints):
        counts = [0] * histogram.BUCKETS
        for seconds in times:
            counts[histogram.bucket_index(seconds)] += 1
        histograms.append((str(at), counts))
    return [name for name, _ in slow(histograms)]


def test_the_endpoint_that_is_slower_is_named() -> None:
    usual, far = [0.040] * 50, [0.120] * 50
    assert slow_ones(usual, far, usual, usual) == ["1"]
    assert slow_ones(usual, far, usual, far) == ["1", "3"]
    assert slow_ones(far, usual) == ["0"]
    assert slow_ones(far, far) == []
    assert slow_ones(far, usual, far, far) == [], "the variant is slow, and one endpoint is quick"
    assert slow_ones(usual, [0.120] * 19) == [], "too few responses"
    assert slow_ones(usual, [0.055] * 50) == [], "less than half as slow again"
    assert slow_ones(usual, [0.040] * 42 + [0.900] * 8) == [], (
        "a pause of a second is no slow endpoint"
    )
    assert slow_ones(usual, [], far) == ["2"]


def test_equal_endpoints_are_hardly_ever_slow() -> None:
    random = Random(7)
    false = 0
    for _ in range(300):
        endpoints = [
            [random.lognormvariate(-3.2, 1.0) for _ in range(random.randrange(15, 60))]
            for _ in range(4)
        ]
        false += bool(slow_ones(*endpoints))
    assert false <= 3
