"""Which endpoint is at fault, and since when it is counted."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.control.endpoint_figures import (
    SPAN,
    AtFault,
    EndpointFigures,
    EndpointReading,
    standing_out,
)
from canaryproxy.measure import endpoint_cells as cells
from canaryproxy.measure.endpoint_cells import NONE, EndpointCounts
from canaryproxy.measure.routing import CANARY, STABLE

from .world import reading


def counted(requests: int, failed: int) -> EndpointCounts:
    made = [0] * cells.COUNTS
    made[cells.UNTIMED], made[cells.FAILED] = requests, failed
    made[cells.class_of(500)] = failed
    return EndpointCounts(made)


def named(*endpoints: tuple[int, int]) -> list[str]:
    found = standing_out([(str(at), counted(*one)) for at, one in enumerate(endpoints)])
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


class Plane:
    """Two endpoints of the canary whose counts the test sets."""

    def __init__(self) -> None:
        self.good, self.bad = NONE, NONE
        self.figures = EndpointFigures(self.read)

    def read(self, variant: int) -> list[EndpointReading]:
        if variant == STABLE:
            return [reading("http://s")]
        return [reading("http://good", self.good), reading("http://bad", self.bad)]


def test_recent_figures_are_those_of_a_minute() -> None:
    plane = Plane()
    plane.bad = counted(100, 100)  # before the control plane began
    for second in range(200):
        plane.bad = counted(100 + second, 100)
        plane.figures.take(float(second), 0.0)
        (_, recent) = plane.figures.rows(float(second), CANARY)[1]
        assert recent.seconds == pytest.approx(min(second, SPAN + second % 10))
        assert recent.counts.requests == recent.seconds
        assert recent.counts.failed == 0


def test_the_words_are_of_the_last_minute_or_else_of_the_step() -> None:
    plane = Plane()
    plane.figures.take(0.0, 0.0)
    assert plane.figures.at_fault(0.0, CANARY) is None
    plane.bad, plane.good = counted(50, 48), counted(50, 0)
    words = "1 of 2 canary endpoints fails: http://bad (48 of 50 requests failed in {})"
    at_fault = AtFault(words.format("1 s"), ("http://bad",), 2)
    assert plane.figures.at_fault(1.0, CANARY) == at_fault
    for second in range(200):
        plane.figures.take(float(second), 0.0)
    of_step = plane.figures.at_fault(200.0, CANARY)
    assert of_step is not None
    assert of_step.said == words.format("3 min 20 s")
    plane.figures.take(200.0, 199.0)  # another step
    assert plane.figures.at_fault(200.0, CANARY) is None
    assert plane.figures.at_fault(200.0, STABLE) is None
