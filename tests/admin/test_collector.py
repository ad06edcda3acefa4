"""``/metrics`` as Prometheus reads it: strict parsers, naming rules, histograms that add up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, log
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from canaryproxy.admin.collector import METRICS, CounterCollector, EventCounts
from canaryproxy.admin.exposition import registry, render
from canaryproxy.admin.readers import ProcessSources, Sources
from canaryproxy.config.model import EventName
from canaryproxy.control.controller import Status
from canaryproxy.control.release_view import Variants
from canaryproxy.judging.verdict import Assessment, Placebo, Verdict
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import Blind, Counters, ExemplarWriter, Reason, Tally
from canaryproxy.measure.resolved import NameState
from canaryproxy.measure.routing import CANARY, RouteTable
from canaryproxy.release.circuit import Circuit
from canaryproxy.release.rollout import Plan, Rollout, State
from tests.admin.fake import ENDPOINTS, RELEASE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "metrics.md"
RUNBOOK = ROOT / "docs" / "runbook.md"
RUNBOOK_URL = "https://wiki.example.com/canaryproxy/runbook"
"""Where the example of config/ says that it is published."""
CONFIG = ROOT / "config"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT = "text/plain; version=0.0.4"


def verdict(metric: str, level: Any, log_evidence: float, limit: float, **more: Any) -> Verdict:
    return Verdict(
        metric=metric,
        level=level,
        log_evidence=log_evidence,
        limit=limit,
        hold_limit=log(80.0),
        log_proof=0.0,
        proven=False,
        stable=(100, 1),
        canary=(10, 1),
        difference=None,
        ratio=None,
        interval=(0.0, inf),
        comparable=True,
        reason="",
        **more,
    )


ASSESSMENT = Assessment(
    level="suspect",
    verdicts=(
        verdict("errors", "suspect", log(90.0), log(4000.0), users=(40, 7), hurt=3, worse=True),
        verdict("latency", "ok", -800.0, log(4000.0)),
        verdict("client_errors", "ok", 900.0, inf),
        verdict("errors", "breach", log(9000.0), log(4000.0), scope="GET /checkout"),
        verdict("errors", "ok", 0.0, log(4000.0), scope="other"),
    ),
    judged=130,
    answered=131,
    comparable=True,
    proven=False,
    cause=None,
    quiet=None,
    users=7,
    routes=31,
    holds=("looks worse", "stable fails too"),
    placebo=Placebo(0, 20, log(12.0)),
)
STATUS = Status(
    "r1",
    Rollout(State.RUNNING, 1, 5.0, since=1790000000.0, baked=12.5, ready=True),
    Circuit(),
    ASSESSMENT,
    5.0,
    (),
    0,
    Plan(()),
    None,
    None,
)


@dataclass
class Told:
    sent: tuple[int, ...] = (5, 1)
    failed: tuple[int, ...] = (0, 2)
    dropped: tuple[int, ...] = (0, 3)


def filled() -> Counters:
    made = Counters()
    for variant, cells in enumerate(made.variants):
        tally = Tally(cells)
        for milliseconds in range(1, 10):
            tally.finish(200, milliseconds / 1000, milliseconds / 500)
        cells[counters.ROUTED] = 12 + variant
        cells[counters.FORCED] = 4
        cells[counters.FINISHED] = 10
        cells[counters.CLIENT_CLOSED] = 1
        cells[counters.CODES + 200] = 7
        cells[counters.CODES + 503] = 2
        cells[counters.ERRORS + Reason.RESET] = 2
        cells[counters.OUTCOMES + 6] = 8
        cells[counters.OUTCOMES + 7] = 6
        cells[counters.BLIND + 3 * len(Blind) + Blind.TOO_LARGE] = 5
        cells[counters.POINTERS + 6] = 8
        cells[counters.POINTERS + 7] = 4
    made.canary[counters.RESCUED] = 2
    made.canary[counters.OVER_BUDGET] = 5
    made.stable[counters.ASSETS_FOUND] = 6
    made.canary[counters.ASSETS_MISSING] = 1
    made.proxy[counters.REFUSED + 400] = 3
    return made


def process(workers: Sequence[Counters]) -> ProcessSources:
    return ProcessSources(
        proxy=[worker.proxy for worker in workers],
        names=lambda: [NameState("http://cart:80", 3, 7, 12.5, "SERVFAIL")],
        tasks=lambda: 6,
        log_lines_dropped=lambda: 17,
    )


def sources(service: str | None = None, workers: Sequence[Counters] | None = None) -> Sources:
    counted = workers or [filled()]
    return Sources(
        service=service,
        workers=lambda: counted,
        table=lambda: RouteTable(5.0),
        status=lambda: STATUS,
        view=lambda: RELEASE,
        endpoints=lambda: ENDPOINTS.endpoints,
        events=lambda: {"tripped": 2, "step": 4},
        outcomes=lambda: {"signup": 3},
        notified=Told,
    )


def collector(
    workers: list[Counters] | None = None, more: Sources | None = None
) -> CounterCollector:
    one = more or sources(workers=workers)
    return CounterCollector(process(one.workers()), lambda: [one])


def exposition(accept: str, made: CounterCollector | None = None) -> tuple[str, str]:
    body, content_type = render(registry(made or collector()), accept)
    return body.decode(), content_type


def families(accept: str, made: CounterCollector | None = None) -> list[Metric]:
    text, _ = exposition(accept, made)
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if accept == OPENMETRICS
        else text_string_to_metric_families
    )
    return list(parse(text))


Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(accept: str = TEXT, made: CounterCollector | None = None) -> Found:
    found: Found = {}
    for family in families(accept, made):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def value(found: Found, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_both_formats_are_accepted_by_their_parsers(accept: str) -> None:
    assert len(families(accept)) > 40
    _, content_type = exposition(accept)
    assert content_type == f"{accept}; charset=utf-8"


def test_both_formats_say_the_same() -> None:
    def ours(found: Found) -> Found:
        return {key: value for key, value in found.items() if key[0].startswith("canaryproxy_")}

    assert ours(samples(TEXT)) == ours(samples(OPENMETRICS))


def test_openmetrics_ends_with_eof() -> None:
    assert exposition(OPENMETRICS)[0].endswith("# EOF\n")


def our_families(accept: str = TEXT) -> Iterable[Metric]:
    return (family for family in families(accept) if family.name.startswith("canaryproxy_"))


def test_every_row_of_the_table_is_exposed_once() -> None:
    exposed = [family.name + "_total" * (family.type == "counter") for family in our_families()]
    assert exposed == [row.name for row in METRICS]


def test_names_follow_the_rules() -> None:
    for family in our_families():
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
    for family in our_families():
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


def test_bounds_are_written_as_openmetrics_wants_them() -> None:
    for family in our_families(OPENMETRICS):
        for sample in family.samples:
            if "le" in sample.labels:
                assert sample.labels["le"] in ("+Inf", str(float(sample.labels["le"])))


def test_metrics_have_the_values_of_the_counters() -> None:
    found = samples()
    assert value(found, "canaryproxy_requests_total", code="200", variant="canary") == 7
    assert value(found, "canaryproxy_routed_requests_total", variant="canary") == 13
    assert value(found, "canaryproxy_forced_requests_total", variant="canary") == 4
    assert value(found, "canaryproxy_inflight_requests", variant="canary") == 3
    assert value(found, "canaryproxy_upstream_errors_total", reason="reset", variant="canary") == 2
    assert value(found, "canaryproxy_rescued_total") == 2
    assert value(found, "canaryproxy_rescues_over_budget_total") == 5
    lookups = "canaryproxy_asset_lookups_total"
    assert value(found, lookups, variant="stable", result="found") == 6
    assert value(found, lookups, variant="canary", result="missing") == 1
    assert value(found, "canaryproxy_refused_total", code="400") == 3
    assert value(found, "canaryproxy_weight_ratio") == 0.05
    duration = value(found, "canaryproxy_request_duration_seconds_sum", variant="canary")
    assert duration == pytest.approx(0.09)


def test_what_the_judge_compares() -> None:
    found = samples()
    for variant, trials, events in (("stable", 100, 1), ("canary", 10, 1)):
        labels = {"variant": variant, "metric": "errors"}
        assert value(found, "canaryproxy_judge_trials_total", **labels) == trials
        assert value(found, "canaryproxy_judge_events_total", **labels) == events
    labels = {"variant": "canary", "outcome": "signup"}
    assert value(found, "canaryproxy_outcome_trials_total", **labels) == 8
    assert value(found, "canaryproxy_outcome_events_total", **labels) == 6
    assert value(found, "canaryproxy_outcome_blind_total", reason="too_large", **labels) == 5
    assert value(found, "canaryproxy_outcome_blind_total", reason="not_json", **labels) == 0
    assert value(found, "canaryproxy_outcome_pointers_followed_total", **labels) == 8
    assert value(found, "canaryproxy_outcome_pointers_found_total", **labels) == 4


def test_release_and_circuit() -> None:
    found = samples()
    assert value(found, "canaryproxy_circuit_state", state="closed") == 1
    assert value(found, "canaryproxy_circuit_state", state="open") == 0
    assert value(found, "canaryproxy_circuit_trips_total") == 2
    assert value(found, "canaryproxy_release_state", state="running") == 1
    assert (
        value(
            found,
            "canaryproxy_release_info",
            release="r1",
            promote="manual",
            environment="staging",
        )
        == 1
    )
    assert value(found, "canaryproxy_release_step") == 2
    assert value(found, "canaryproxy_release_steps") == 2
    assert value(found, "canaryproxy_release_bake_seconds") == 600
    assert value(found, "canaryproxy_release_baked_seconds") == 12.5
    assert value(found, "canaryproxy_release_min_requests") == 1000
    assert value(found, "canaryproxy_release_requests") == 130
    assert value(found, "canaryproxy_release_ready") == 1
    assert value(found, "canaryproxy_release_comparable") == 1
    assert value(found, "canaryproxy_release_state_timestamp_seconds") == 1790000000


def test_users_holds_and_placebos_with_bounded_labels() -> None:
    found = samples()
    assert value(found, "canaryproxy_release_min_users") == 10
    assert value(found, "canaryproxy_release_users") == 12
    assert value(found, "canaryproxy_release_holds") == 0
    assert value(found, "canaryproxy_release_accepted") == 0
    assert value(found, "canaryproxy_judge_users", variant="stable", metric="errors") == 40
    assert value(found, "canaryproxy_judge_users", variant="canary", metric="errors") == 7
    assert value(found, "canaryproxy_judge_users_hurt", metric="errors") == 3
    assert value(found, "canaryproxy_metric_worse", metric="errors") == 1
    levels = [
        value(found, "canaryproxy_route_levels", level=level)
        for level in ("ok", "suspect", "breach")
    ]
    assert levels == [30, 0, 1]
    assert value(found, "canaryproxy_placebos") == 20
    assert value(found, "canaryproxy_placebos_tripped") == 0
    assert value(found, "canaryproxy_placebo_evidence") == pytest.approx(12)


def test_evidence_also_beyond_floats() -> None:
    found = samples()
    assert value(found, "canaryproxy_evidence", metric="errors") == pytest.approx(90)
    assert value(found, "canaryproxy_evidence", metric="latency") == 0
    assert value(found, "canaryproxy_evidence", metric="client_errors") == inf
    assert value(found, "canaryproxy_evidence_limit", metric="errors") == pytest.approx(4000)
    assert value(found, "canaryproxy_evidence_limit", metric="client_errors") == inf
    assert value(found, "canaryproxy_evidence_hold_limit", metric="errors") == pytest.approx(80)
    levels = [
        value(found, "canaryproxy_metric_level", metric="errors", level=level)
        for level in ("ok", "suspect", "breach")
    ]
    assert levels == [0, 1, 0]


def test_endpoints_configuration_and_what_is_told() -> None:
    found = samples()
    up = "canaryproxy_endpoint_up"
    assert value(found, up, variant="stable", endpoint="http://127.0.0.1:9001") == 1
    assert value(found, up, variant="canary", endpoint="http://[::1]:9002") == 0
    of = {"variant": "canary", "endpoint": "http://[::1]:9002"}
    responses = "canaryproxy_endpoint_responses_total"
    assert value(found, responses, **of, **{"class": "5xx"}) == 48
    assert value(found, responses, **of, **{"class": "2xx"}) == 2
    assert value(found, responses, **of, **{"class": "4xx"}) == 0
    errors = "canaryproxy_endpoint_errors_total"
    assert value(found, errors, **of, reason="reset") == 2
    assert value(found, errors, **of, reason="connect_timeout") == 0
    assert value(found, "canaryproxy_endpoint_failed_total", **of) == 50
    p95 = [key for key in found if key[0] == "canaryproxy_endpoint_first_byte_p95_seconds"]
    assert not p95, "no response has a time"
    assert value(found, "canaryproxy_config_last_reload_successful") == 0
    when = value(found, "canaryproxy_config_last_reload_success_timestamp_seconds")
    assert when == 1790000001.5
    assert value(found, "canaryproxy_config_restart_needed") == 2
    assert value(found, "canaryproxy_events_total", event="step") == 4
    assert value(found, "canaryproxy_notifications_total", webhook="1", result="failed") == 2
    assert value(found, "canaryproxy_notifications_total", webhook="0", result="sent") == 5
    assert value(found, "canaryproxy_access_log_dropped_total") == 17
    assert value(found, "canaryproxy_state_unsaved") == 0


def test_every_event_has_a_series_from_the_start() -> None:
    names = {
        dict(labels)["event"]
        for name, labels in samples(made=collector(more=replace(sources(), events=dict)))
        if name == "canaryproxy_events_total"
    }
    assert names == set(get_args(EventName))


def test_without_release_canary_and_judge() -> None:
    nothing = RELEASE.model_copy(
        update={
            "release": None,
            "step": 0,
            "steps": [],
            "requests": 0,
            "variants": Variants(stable=RELEASE.variants.stable, canary=None),
        }
    )
    status = replace(STATUS, release=None, rollout=Rollout(), assessment=None)
    more = Sources(
        workers=lambda: [filled()],
        table=lambda: RouteTable(0.0),
        status=lambda: status,
        view=lambda: nothing,
    )
    made = collector(more=more)
    found = samples(OPENMETRICS, made)
    assert (
        value(
            found, "canaryproxy_release_info", release="", promote="manual", environment="staging"
        )
        == 1
    )
    assert value(found, "canaryproxy_release_step") == 0
    assert value(found, "canaryproxy_release_bake_seconds") == 0
    assert value(found, "canaryproxy_release_comparable") == 0
    assert not [key for key in found if key[0] == "canaryproxy_evidence"]


def test_events_are_counted() -> None:
    counts = EventCounts()
    for what in ("step", "tripped", "step"):
        counts("record", {"id": 1, "time": 1.0, "what": what, "cause": "", "figures": {}})
    counts("point", {"t": 1.0})
    assert dict(counts.counts()) == {"step": 2, "tripped": 1}


def test_workers_are_added() -> None:
    text, _ = exposition(TEXT, collector([filled(), filled()]))
    assert 'canaryproxy_requests_total{code="200",variant="stable"} 14.0' in text


def exemplars(made: CounterCollector) -> dict[tuple[str, str, str], Exemplar]:
    return {
        (family.name, sample.labels["variant"], sample.labels["le"]): sample.exemplar
        for family in families(OPENMETRICS, made)
        for sample in family.samples
        if sample.exemplar is not None
    }


def keep(made: Counters, offset: int, seconds: float, low: int, time: float) -> None:
    made.canary[offset + histogram.bucket_index(seconds)] += 1
    keep_exemplar(made, offset, seconds, b"%016x%016x" % (1 << 60, low), time)


def keep_exemplar(made: Counters, offset: int, seconds: float, trace: bytes, time: float) -> None:
    """Keep an exemplar of the canary without the request that is counted."""
    bucket = histogram.bucket_index(seconds)
    ExemplarWriter(made.exemplars[CANARY]).keep(offset, bucket, seconds, trace, 0.0, lambda: time)


def test_exemplars_name_traces_in_openmetrics_only() -> None:
    made = Counters()
    keep(made, counters.DURATION, 0.25, 0xABC, 1790000000.25)
    keep(made, counters.FIRST_BYTE, 100.0, 0xDEF, 1790000001.5)
    found = exemplars(collector([made]))
    assert found.keys() == {
        ("canaryproxy_request_duration_seconds", "canary", "0.256"),
        ("canaryproxy_first_byte_seconds", "canary", "+Inf"),
    }
    first = found["canaryproxy_request_duration_seconds", "canary", "0.256"]
    assert first.labels == {"trace_id": "1000000000000000" + "0" * 13 + "abc"}
    assert first.value == pytest.approx(0.25, abs=1e-6)
    assert float(first.timestamp or 0.0) == 1790000000.25
    assert "trace_id" not in exposition(TEXT, collector([made]))[0]


def test_the_newest_exemplar_of_all_workers_is_shown() -> None:
    workers = [Counters(), Counters(), Counters()]
    for worker, low, time in zip(workers, (1, 2, 3), (100.0, 300.0, 200.0), strict=True):
        keep(worker, counters.DURATION, 0.25, low, time)
    (found,) = exemplars(collector(workers)).values()
    assert found.labels["trace_id"].endswith("2")


@given(st.lists(st.floats(0.0, 200.0), min_size=1, max_size=20))
def test_an_exemplar_lies_in_its_bucket(observed: list[float]) -> None:
    made = Counters()
    for seconds in observed:
        keep(made, counters.DURATION, seconds, 7, 1790000000.0)
    text, _ = exposition(OPENMETRICS, collector([made]))
    found = re.findall(r'_bucket\{le="([^"]+)",.*# \{[^}]*\} (\S+)', text)
    assert len(found) == len({histogram.bucket_index(seconds) for seconds in observed})
    bounds = [0.0, *histogram.BOUNDS, inf]
    for upper, seconds in found:
        at = bounds.index(float(upper))
        assert bounds[at - 1] <= float(seconds) <= bounds[at]


def documented() -> set[str]:
    """Return the metrics of the tables of docs/metrics.md."""
    return set(re.findall(r"^\| `(canaryproxy_\w+)`", DOCS.read_text(), re.MULTILINE))


def test_every_metric_is_documented_and_no_other() -> None:
    exposed = {
        family.name + "_total" * (family.type == "counter") for family in our_families(OPENMETRICS)
    }
    assert exposed == documented()


def test_documented_labels_are_those_exposed() -> None:
    labels = {
        name: set(re.findall(r"\w+", cell))
        for name, cell in re.findall(
            r"^\| `(canaryproxy_\w+)` \|([^|]*)\|", DOCS.read_text(), re.MULTILINE
        )
    }
    for family in our_families(OPENMETRICS):
        for sample in family.samples:
            name = family.name + "_total" * (family.type == "counter")
            assert sample.labels.keys() - {"le"} == labels[name], name


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_alert_says_what_it_is_and_where_help_is() -> None:
    sections = re.findall(r"^### (Canaryproxy\w+)\n\n(\w+)\.", RUNBOOK.read_text(), re.MULTILINE)
    assert [(rule["alert"], rule["labels"]["severity"]) for rule in alerts()] == sections
    for rule in alerts():
        told = rule["annotations"]
        base, _, anchor = told["runbook_url"].partition("#")
        assert (base, anchor) == (RUNBOOK_URL, rule["alert"].lower())
        assert "$labels.job" in told["description"] or rule["alert"] == "CanaryproxyMissing"
        page = "{{ with $labels.service }}services/{{ . }}/{{ end }}"
        linked = f"http://{{{{ $labels.instance }}}}/{page}" * ("job" in str(told))
        assert told.get("dashboard", "") == linked
        seen = rule["alert"] in ("CanaryproxyDown", "CanaryproxyMissing")
        assert seen or "group_left (" in rule["expr"], "the environment is a label"
        assert told["summary"]
        assert not told["summary"].endswith(".")
        assert re.sub(r"\{\{.*?\}\}", "", told["description"]).rstrip().endswith(".")
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_dashboard_can_be_imported_anywhere() -> None:
    board = json.loads((CONFIG / "grafana.json").read_text())
    assert board["id"] is None
    assert board["schemaVersion"] >= 41
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) > 20
    variables = {one["name"]: one for one in board["templating"]["list"]}
    of_service = {row.name for row in METRICS if row.of == "service"}
    assert variables["datasource"]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    asking = [variable for variable in variables.values() if variable["type"] == "query"]
    asking += [one for one in board["annotations"]["list"] if not one.get("builtIn")]
    for panel in board["panels"]:
        if panel["type"] != "row":
            asking += [panel, *panel["targets"]]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            for target in panel["targets"]:
                assert 'job="$job",instance=~"$instance"' in target["expr"]
                for metric, more in re.findall(
                    r'(canaryproxy_\w+){job="\$job",instance=~"\$instance"(,service=~"\$service")?',
                    target["expr"],
                ):
                    name = re.sub("_(bucket|sum|count)$", "", metric)
                    assert (name in of_service) is bool(more), metric
    assert all(one["datasource"] == source for one in asking)


def test_dashboard_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads((CONFIG / "grafana.json").read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{other} and {panel['title']}"


def test_prometheus_scrapes_the_example() -> None:
    example = yaml.safe_load((CONFIG / "example.yaml").read_text())
    scraping = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    (job,) = scraping["scrape_configs"]
    assert job["job_name"] == "canaryproxy"
    assert job["static_configs"] == [{"targets": [example["admin"]["listen"]]}]
    assert [(CONFIG / name).is_file() for name in scraping["rule_files"]] == [True]
