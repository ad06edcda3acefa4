"""``/metrics`` of several services: the label, what is left out, and services that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from canaryproxy.admin.collector import METRICS, CounterCollector
from canaryproxy.admin.exposition import registry, render, scrape
from canaryproxy.admin.readers import Sources
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Counters
from tests.admin.test_collector import (
    OPENMETRICS,
    TEXT,
    exemplars,
    filled,
    keep,
    keep_exemplar,
    process,
    samples,
    sources,
    value,
)


def collected(*services: Sources) -> CounterCollector:
    worker = Counters()
    worker.proxy[counters.REFUSED + 421] = 9
    return CounterCollector(process([worker]), lambda: services)


def stable_only() -> Counters:
    made = filled()
    for at in range(len(made.canary)):
        made.canary[at] = 0
    return made


def series(made: CounterCollector, service: str) -> set[tuple[str, str]]:
    """Return name and variant of the series of a service."""
    found = set()
    for name, labels in samples(TEXT, made):
        of = dict(labels)
        if of.get("service") == service:
            found.add((name, of.get("variant", "")))
    return found


def test_what_belongs_to_a_service_has_its_name_and_what_belongs_to_the_process_has_none() -> None:
    found = samples(TEXT, collected(sources("cart"), sources("pay", [stable_only()])))
    requests = "canaryproxy_requests_total"
    for service, variant, count in (("cart", "canary", 7), ("pay", "stable", 7)):
        assert value(found, requests, service=service, variant=variant, code="200") == count
    assert value(found, "canaryproxy_weight_ratio", service="pay") == 0.05
    assert value(found, "canaryproxy_refused_total", code="421") == 9
    assert value(found, "canaryproxy_tasks") == 6
    of_process = {row.name for row in METRICS if row.of == "process"}
    for name, labels in found:
        if name.startswith("canaryproxy_"):
            assert ("service" in dict(labels)) is (name not in of_process), name


def test_a_service_without_requests_has_its_release_and_no_series_of_traffic_at_zero() -> None:
    found = series(collected(sources("idle", [Counters()])), "idle")
    assert ("canaryproxy_routed_requests_total", "canary") in found
    assert ("canaryproxy_circuit_trips_total", "") in found
    assert ("canaryproxy_notifications_total", "") in found
    left_out = {row.name for row in METRICS if row.traffic}
    # Their values do not come from the counters of requests here.
    elsewhere = ("canaryproxy_endpoint_", "canaryproxy_events_total")
    assert not [name for name, _ in found if name in left_out and not name.startswith(elsewhere)]


def test_the_judge_says_nothing_of_a_canary_without_requests() -> None:
    judged = {row.name for row in METRICS if row.judge}
    found = {name for name, _ in series(collected(sources("cart", [stable_only()])), "cart")}
    assert not found & judged
    found = {name for name, _ in series(collected(sources("cart")), "cart")}
    assert judged <= found


def test_series_begin_with_the_first_request_of_their_variant() -> None:
    one = Counters()
    one.stable[counters.ROUTED] = 1
    found = series(collected(sources("cart", [one])), "cart")
    every = series(collected(sources("cart")), "cart")
    judged = {row.name for row in METRICS if row.judge}
    assert ("canaryproxy_first_byte_seconds_bucket", "stable") in found
    assert ("canaryproxy_upstream_errors_total", "stable") in found
    assert ("canaryproxy_rescued_total", "") in found
    assert {
        each
        for each in every
        if each[1] == "stable" and each[0] != "canaryproxy_requests_total" and each[0] not in judged
    } <= found
    assert ("canaryproxy_upstream_errors_total", "canary") not in found
    assert ("canaryproxy_first_byte_seconds_bucket", "canary") not in found


def test_nothing_that_was_counted_is_left_out() -> None:
    one = Counters()
    one.canary[counters.ERRORS + counters.Reason.RESET] = 3
    found = samples(TEXT, collected(sources("cart", [one])))
    errors = "canaryproxy_upstream_errors_total"
    assert value(found, errors, service="cart", variant="canary", reason="reset") == 3


def test_histograms_of_services_have_every_fourth_bound_and_the_same_counts() -> None:
    alone = samples(TEXT, collected(sources()))
    found = samples(TEXT, collected(sources("cart")))
    bounds = [
        dict(labels)
        for name, labels in found
        if name == "canaryproxy_first_byte_seconds_bucket" and dict(labels)["variant"] == "stable"
    ]
    assert len(bounds) == 38
    assert {"0.256", "+Inf", "0.00025"} <= {each["le"] for each in bounds}
    for each in bounds:
        without = {name: label for name, label in each.items() if name != "service"}
        name = "canaryproxy_first_byte_seconds_bucket"
        assert value(found, name, **each) == value(alone, name, **without)


def test_an_exemplar_of_a_finer_bucket_is_kept() -> None:
    made = Counters()
    made.canary[counters.ROUTED] = 2
    keep(made, counters.DURATION, 0.24, 0xABC, 1790000000.25)
    keep(made, counters.DURATION, 0.2, 0xDEF, 1790000001.25)
    keep_exemplar(made, counters.DURATION, 0.19, b"f" * 32, 1790000002.0)
    ((key, found),) = exemplars(collected(sources("cart", [made]))).items()
    assert key[2] == "0.256"
    assert found.labels["trace_id"].endswith("def"), "the newest of a bucket that has counted one"


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
async def test_a_scrape_in_pieces_says_what_one_at_once_says(accept: str) -> None:
    source = registry(collected(*(sources(f"service-{number}") for number in range(60))))
    body, _ = await scrape(source, accept, "")
    at_once, _ = render(source, accept)

    def ours(text: bytes) -> list[str]:
        return [line for line in text.decode().splitlines() if " process_" not in f" {line}"]

    assert ours(body) == ours(at_once)
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if accept == OPENMETRICS
        else text_string_to_metric_families
    )
    names = [family.name for family in parse(body.decode())]
    assert len(names) == len(set(names))


async def test_others_run_during_a_scrape_of_many_services() -> None:
    source = registry(collected(*(sources(f"service-{number}") for number in range(100))))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(other())
    await asyncio.sleep(0)
    before = turns
    await scrape(source, TEXT, "")
    task.cancel()
    assert turns > before + 3


def test_a_service_that_is_removed_during_a_scrape_is_not_read() -> None:
    services: list[Sources] = []

    def gone() -> Sequence[int]:
        raise AssertionError("its memory is another service's now")

    def removing() -> dict[str, int]:
        services.pop()
        return {}

    services.append(replace(sources("cart"), events=removing))
    services.append(replace(sources("pay"), table=gone))  # type: ignore[arg-type]
    made = CounterCollector(process([Counters()]), lambda: tuple(services))
    found = samples(TEXT, made)
    assert value(found, "canaryproxy_weight_ratio", service="cart") == 0.05
    assert not series(made, "pay")


def test_names_as_long_as_they_may_be_and_with_anything_in_them_stay_one_label() -> None:
    name = 'a"b\\c\nd' + "é" * 60
    for accept in (TEXT, OPENMETRICS):
        found = samples(accept, collected(sources(name)))
        assert value(found, "canaryproxy_weight_ratio", service=name) == 0.05
