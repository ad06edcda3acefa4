"""The tables of endpoints and routes, as people see them."""

from __future__ import annotations

import json

from canaryproxy.client.tables import endpoint_lines, route_lines
from tests.admin.fake import ENDPOINTS, FakeControl


def test_each_endpoint_is_a_row_and_what_failed_is_said() -> None:
    document = json.loads(ENDPOINTS.model_dump_json())
    document["at_fault"] = ["1 of 2 canary endpoints fails: x\x1b[2J"]
    head, stable, canary, reasons, words = endpoint_lines(document)
    assert head.split() == [
        "last", "1", "min", "endpoint", "state", "requests", "failed", "2xx", "3xx", "4xx", "5xx", "no",
        "response", "P95", "in", "flight",
    ]  # fmt: skip
    assert stable.split()[:5] == ["stable", "http://127.0.0.1:9001", "up", "0", "0"]
    assert canary.split()[:10] == [
        "canary", "http://[::1]:9002", "down", "52", "50", "96.2%", "2", "0", "0", "48",
    ]  # fmt: skip
    assert reasons == "http://[::1]:9002: 2 reset; last: connection closed without a response"
    assert words == "1 of 2 canary endpoints fails: x\ufffd[2J"
    assert len({line.rindex("h") for line in (head,)}) == 1
    total = endpoint_lines(document, total=True)
    assert total[0].startswith("since the start")
    assert "P95" not in total[0]


def test_an_endpoint_that_some_workers_do_not_use_is_said_to_be() -> None:
    document = json.loads(ENDPOINTS.model_dump_json())
    document["endpoints"][1]["workers"] = 4
    assert "down in 1 of 4 workers" in endpoint_lines(document)[2]


def test_each_route_has_both_variants_in_its_row() -> None:
    document = json.loads(FakeControl().routes().model_dump_json())
    head, row = route_lines(document)
    assert head.split()[:5] == ["last", "1", "min", "verdict", "stable"]
    assert row.split() == [
        "GET",
        "/cart/*",
        "ok",
        "4",
        "1",
        "25.0%",
        "1",
        "–",
        "0",
        "0",
        "–",
        "0",
        "–",
    ]
    document["share"] = 0.25
    assert route_lines(document)[-1] == "25.0% of the requests are counted"


def test_nothing_of_a_strange_document_breaks_the_tables() -> None:
    for strange in (
        {},
        {"endpoints": [1, {}], "routes": [None, {}]},
        {"endpoints": 1, "routes": {}},
    ):
        assert endpoint_lines(strange)
        assert route_lines(strange)
