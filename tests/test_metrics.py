"""``/metrics`` as Prometheus reads it: strict parsers, naming rules, histograms that add up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from prometheus_client import Metric, openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from canaryproxy import counters
from canaryproxy.admin import metrics
from canaryproxy.circuit import Circuit
from canaryproxy.controller import Status
from canaryproxy.counters import Counters, Reason, observe
from canaryproxy.rollout import Rollout
from canaryproxy.routing import RouteTable

STATUS = Status("r1", Rollout(), Circuit(), None, 5.0, (), None)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT = "text/plain; version=0.0.4"


def filled() -> Counters:
    made = Counters()
    for variant, cells in enumerate(made.variants):
        cells[counters.ROUTED] = 12 + variant
        cells[counters.FINISHED] = 10
        cells[counters.CLIENT_CLOSED] = 1
        cells[counters.CODES + 200] = 7
        cells[counters.CODES + 503] = 2
        cells[counters.ERRORS + Reason.RESET] = 2
        for milliseconds in range(1, 10):
            observe(cells, counters.FIRST_BYTE, milliseconds / 1000)
            observe(cells, counters.DURATION, milliseconds / 500)
    made.canary[counters.RESCUED] = 2
    made.proxy[counters.REFUSED + 400] = 3
    return made


def exposition(accept: str, workers: list[Counters] | None = None) -> tuple[str, str]:
    table = RouteTable(5.0)
    source = metrics.registry(
        metrics.CounterCollector(workers or [filled()], lambda: table, lambda: STATUS)
    )
    body, content_type = metrics.render(source, accept)
    return body.decode(), content_type


def families(accept: str) -> list[Metric]:
    text, _ = exposition(accept)
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if accept == OPENMETRICS
        else text_string_to_metric_families
    )
    return list(parse(text))


def samples(accept: str = TEXT) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in families(accept):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_both_formats_are_accepted_by_their_parsers(accept: str) -> None:
    assert len(families(accept)) > 15
    _, content_type = exposition(accept)
    assert content_type.startswith(accept.partition(";")[0])


def test_openmetrics_ends_with_eof() -> None:
    assert exposition(OPENMETRICS)[0].endswith("# EOF\n")
    assert openmetrics is not None


def ours(accept: str = TEXT) -> Iterable[Metric]:
    return (family for family in families(accept) if family.name.startswith("canaryproxy_"))


def test_names_follow_the_rules() -> None:
    for family in ours():
        assert re.fullmatch(r"canaryproxy_[a-z0-9_]+[a-z0-9]", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        assert not re.search(r"_(ms|milliseconds|percent|kb)\b", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
                assert sample.value >= 0
            if family.type == "gauge":
                assert not sample.name.endswith(("_total", "_count", "_sum", "_bucket"))


def test_histograms_add_up() -> None:
    checked = 0
    for family in ours():
        if family.type != "histogram":
            continue
        for variant in ("stable", "canary"):
            here = [s for s in family.samples if s.labels["variant"] == variant]
            buckets = [(float(s.labels["le"]), s.value) for s in here if s.name.endswith("_bucket")]
            count = next(s.value for s in here if s.name.endswith("_count"))
            assert buckets == sorted(buckets)
            assert all(low <= high for (_, low), (_, high) in pairwise(buckets))
            assert buckets[-1] == (float("inf"), count)
            assert count == 9
            checked += 1
    assert checked == 4


def test_values() -> None:
    found = samples()
    canary = (("variant", "canary"),)
    assert found["canaryproxy_requests_total", (("code", "200"), *canary)] == 7
    assert found["canaryproxy_inflight_requests", canary] == 3
    assert found["canaryproxy_upstream_errors_total", (("reason", "reset"), *canary)] == 2
    assert found["canaryproxy_rescued_total", ()] == 2
    assert found["canaryproxy_refused_total", (("code", "400"),)] == 3
    assert found["canaryproxy_weight_ratio", ()] == 0.05
    assert found["canaryproxy_circuit_state", (("state", "closed"),)] == 1
    assert found["canaryproxy_request_duration_seconds_sum", canary] == pytest.approx(0.09)


def test_workers_are_added() -> None:
    text, _ = exposition(TEXT, [filled(), filled()])
    assert 'canaryproxy_requests_total{code="200",variant="stable"} 14.0' in text
