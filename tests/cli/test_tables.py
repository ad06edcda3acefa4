"""The tables of endpoints, routes and proxies, as people see them."""

from __future__ import annotations

import json
from pathlib import Path

from canaryproxy.client.tables import endpoint_lines, overview_lines, route_lines
from tests.admin.fake import ENDPOINTS, FakeControl, serve
from tests.cli.fake import command


def test_each_endpoint_is_a_row_and_what_failed_is_said() -> None:
    document = json.loads(ENDPOINTS.model_dump_json())
    document["unresolved"] = ["http://cart has not been resolved for 2 min: SERVFAIL"]
    document["at_fault"] = ["1 of 2 canary endpoints fails: x\x1b[2J"]
    head, stable, canary, reasons, words, unresolved = endpoint_lines(document)
    assert head.split() == [
        "last", "1", "min", "endpoint", "state", "requests", "failed", "2xx", "3xx", "4xx", "5xx", "no",
        "response", "P95", "open",
    ]  # fmt: skip
    assert stable.split()[:5] == ["stable", "http://127.0.0.1:9001", "up", "0", "0"]
    assert canary.split()[:10] == [
        "canary", "http://[::1]:9002", "down", "52", "50", "96.2%", "2", "0", "0", "48",
    ]  # fmt: skip
    assert reasons == "http://[::1]:9002: 2 reset; last: connection closed without a response"
    assert words == "1 of 2 canary endpoints fails: x\ufffd[2J"
    assert unresolved == "http://cart has not been resolved for 2 min: SERVFAIL"
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


def test_the_overview_has_a_row_for_each_proxy_and_says_why_it_needs_a_person() -> None:
    proxy = {
        "name": "cart\x1b[2J", "address": None, "attention": "tripped", "error": None, "reached": None,
        "environment": "production", "release": "cart-2.4", "state": "tripped", "since": 1790000000.0,
        "step": 3, "steps": 5, "weight": 0.0, "circuit": "half_open", "verdict": "breach",
        "said": "rolled back: errors", "problems": ["state not saved: disk full"],
    }  # fmt: skip
    lost: dict[str, object] = {
        "name": "search", "address": "unix:/run/x.sock", "attention": "unreachable",
        "error": "connection refused", "reached": None, "problems": [],
    }  # fmt: skip
    waits = {**proxy, "name": "pay", "attention": "waiting", "state": "paused", "problems": []}
    document = {"overview": [proxy, lost, waits], "time": 1790000010.0}
    head, first, second, third, *said = overview_lines(document)
    columns = "proxy environment release state step weight circuit verdict since"
    assert head.split() == columns.split()
    assert first.split()[:10] == [
        "cart\ufffd[2J", "production", "cart-2.4", "tripped", "3", "of", "5", "0%", "half", "open",
    ]  # fmt: skip
    assert second.split() == ["search", "–", "–", "unreachable", "–", "–", "–", "–", "–"]
    assert third.split()[3] == "paused"
    assert said == [
        "cart\ufffd[2J: rolled back: errors",
        "cart\ufffd[2J: state not saved: disk full",
        "search (unix:/run/x.sock): connection refused",
        "pay: waits for an operator's resume",
    ]
    assert "admin.overview" in overview_lines({"overview": [proxy]})[-1]
    assert overview_lines({"overview": [1, {}], "time": "x"})


async def test_the_command_prints_what_a_real_admin_address_returns(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        shown = await command("overview", "--admin", served.unix, folder=tmp_path)
        json_too = await command("overview", "--json", "--admin", served.unix, folder=tmp_path)
    assert shown.status == json_too.status == 0
    assert shown.out.splitlines()[1].split()[:3] == ["vm", "staging", "r1"]
    assert json.loads(json_too.out)["overview"][0]["host"] == "vm"
