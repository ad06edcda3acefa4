"""Which endpoint is at fault, and since when it is counted."""

from __future__ import annotations

import pytest

from canaryproxy.control.endpoint_figures import (
    SPAN,
    AtFault,
    EndpointFigures,
    EndpointReading,
)
from canaryproxy.measure import endpoint_cells as cells
from canaryproxy.measure import histogram
from canaryproxy.measure.endpoint_cells import NONE, EndpointCounts
from canaryproxy.measure.routing import CANARY, STABLE

from .world import reading


def counted(requests: int, failed: int, *, seconds: float | None = None) -> EndpointCounts:
    """Return counts of responses that take a time, or of such without one."""
    made = [0] * cells.COUNTS
    at = cells.UNTIMED if seconds is None else histogram.bucket_index(seconds)
    made[at], made[cells.FAILED] = requests, failed
    made[cells.class_of(500)] = failed
    return EndpointCounts(made)


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


def test_a_slow_endpoint_is_named_beside_one_that_fails() -> None:
    plane = Plane()
    plane.figures.take(0.0, 0.0)
    plane.good = counted(40, 0, seconds=0.040)
    plane.bad = counted(30, 20, seconds=0.300)
    fault = plane.figures.at_fault(10.0, CANARY)
    assert fault is not None
    failing, slow = fault.said.split("; ")
    assert failing == "1 of 2 canary endpoints fails: http://bad (20 of 30 requests failed in 10 s)"
    assert slow == (
        "1 of 2 canary endpoints is slow: http://bad (100% of 30 responses took over 64 ms in 10 s,"
        " others 0% of 40 over 42 ms)"
    )
    assert fault.urls == ("http://bad",)


def test_an_endpoint_that_is_slow_for_a_few_seconds_is_named_although_the_minute_was_well() -> None:
    plane = Plane()
    for second in range(60):
        plane.figures.take(float(second), 0.0)
        plane.good = plane.bad = counted(20 * second, 0, seconds=0.040)
    well = plane.bad
    assert plane.figures.at_fault(60.0, CANARY) is None
    plane.good = counted(20 * 70, 0, seconds=0.040)
    slow = counted(200, 0, seconds=0.300)
    plane.bad = EndpointCounts([a + b for a, b in zip(well.cells, slow.cells, strict=True)])
    fault = plane.figures.at_fault(70.0, CANARY)
    assert fault is not None
    assert "1 of 2 canary endpoints is slow: http://bad (" in fault.said
