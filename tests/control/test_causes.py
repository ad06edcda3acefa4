"""The cause of a trip or a suspicion: response times in milliseconds with their window, endpoints by name."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from canaryproxy.control.causes import Causes
from canaryproxy.control.endpoint_figures import EndpointFigures, EndpointReading
from canaryproxy.control.route_figures import RouteFigures
from canaryproxy.control.timeseries import Snapshot
from canaryproxy.judging.settings import JudgeSettings, LatencyRule
from canaryproxy.judging.verdict import Assessment, Level
from canaryproxy.measure import histogram
from canaryproxy.measure.routing import CANARY, STABLE

from .test_endpoint_figures import counted
from .test_release_view import ASSESSMENT, VERDICT
from .test_route_figures import names, record
from .world import reading

SLOW = replace(
    VERDICT,
    metric="latency",
    level="breach",
    reason="slow responses (over 96 ms): 30.0% on canary (12 of 40 requests) vs 0.39% on stable",
)
TRIP = replace(ASSESSMENT, level="breach", verdicts=(VERDICT, SLOW), cause=SLOW.reason)


def snapshot(time: float, number: int, seconds: float) -> Snapshot:
    buckets = [0] * histogram.BUCKETS
    buckets[histogram.bucket_index(seconds)] = number
    return Snapshot(time, number, number, 0, tuple(buckets))


def causes(
    judge: JudgeSettings | None = None, endpoints: tuple[EndpointReading, ...] = ()
) -> Causes:
    figures = EndpointFigures(lambda variant: endpoints if variant == CANARY else ())
    found = Causes(figures, RouteFigures(()), lambda: judge or JudgeSettings())
    found.traffic.take("step 1", (snapshot(0.0, 0, 0.04), snapshot(0.0, 0, 0.2)))
    found.traffic.take("step 1", (snapshot(125.0, 760, 0.04), snapshot(125.0, 40, 0.2)))
    return found


def test_a_trip_for_slow_responses_says_the_percentile_of_both_variants() -> None:
    cause, figures = causes().of_trip(125.0, TRIP)
    assert cause == (
        "P95 214 ms (212 to 215) on canary vs 41 ms (41 to 41) on stable in 2 min 5 s of this step; "
        "slow responses (over 96 ms): 30.0% on canary (12 of 40 requests) vs 0.39% on stable"
    )
    assert figures["metrics"]["latency"]["canary"] == [410, 12]
    assert "endpoints" not in figures


def test_the_percentile_is_that_of_the_configuration() -> None:
    judge = JudgeSettings(latency=LatencyRule(quantile=0.99))
    assert causes(judge).of_trip(125.0, TRIP)[0].startswith("P99 ")
    assert causes(JudgeSettings(latency=None)).of_trip(125.0, TRIP)[0] == SLOW.reason


@pytest.mark.parametrize("slow", [SLOW.metric, "latency_p50", "latency_p95", "latency_p99"])
def test_the_percentile_of_a_route_is_of_its_last_minute(slow: str) -> None:
    made = causes()
    verdict = replace(SLOW, scope="GET /a", metric=slow)
    seen = replace(TRIP, verdicts=(verdict,))
    assert made.of_trip(1.0, seen)[0] == SLOW.reason, "nothing is known of the route"
    for second in range(20):
        words = [*record("GET /a", STABLE, seconds=0.04) * 40, *record("GET /b", CANARY) * 5]
        words += record("GET /a", CANARY, seconds=0.2) * 4
        made._routes.take(float(second), words, names("GET /a", "GET /b"))
    cause, _ = made.of_trip(20.0, seen)
    percentile = {"latency_p50": "P50", "latency_p99": "P99"}.get(slow, "P95")
    assert re.match(rf"{percentile} on GET /a: 2\d\d ms \(2\d\d to 2\d\d\) on canary vs 4", cause)
    assert " on stable in the last 20 s; slow" in cause


@pytest.mark.parametrize("level", ["suspect", "breach"])
def test_the_endpoint_to_blame_is_named_and_is_a_figure(level: Level) -> None:
    one, *others = (reading(f"http://{at}") for at in range(8))
    made = causes(endpoints=(one, *others))
    made._endpoints.take(0.0, 0.0)
    bad = replace(one, counts=counted(50, 48))
    good = [replace(other, counts=counted(50, 0)) for other in others]
    made._endpoints._read = lambda variant: (bad, *good) if variant == CANARY else ()
    seen: Assessment = replace(
        TRIP, level=level, verdicts=(replace(SLOW, level=level, metric="errors"),)
    )
    explain = made.of_trip if level == "breach" else made.of_suspicion
    cause, figures = explain(30.0, seen)
    assert cause == (
        f"{SLOW.reason}; 1 of 8 canary endpoints fails: http://0 (48 of 50 requests failed in 30 s)"
    )
    assert (figures["endpoints"], figures["endpoints_of"]) == (["http://0"], 8)


def test_a_suspicion_says_what_holds_where_no_metric_is_suspect() -> None:
    seen = replace(ASSESSMENT, level="suspect", holds=("no response comes",))
    assert causes().of_suspicion(1.0, seen)[0] == "no response comes"
    slow = replace(ASSESSMENT, level="suspect", verdicts=(replace(SLOW, level="suspect"),))
    assert causes().of_suspicion(1.0, slow)[0].startswith("P95 214 ms (212 to 215) on canary vs")
