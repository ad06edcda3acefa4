"""``--service``: a proxy with several services, seen and operated from the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from canaryproxy.client.screen import View, screen
from canaryproxy.client.tables import overview_lines, service_lines
from tests.admin.fake import FakeControl, FakeProxy, FakeService, Served, serve
from tests.admin.test_services import three
from tests.cli.fake import command, finished, line, spawn


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(tmp_path, control=three()) as running:
        yield running


async def test_status_shows_a_table_what_needs_a_person_first(shop: Served, tmp_path: Path) -> None:
    done = await command("status", "--admin", shop.unix, folder=tmp_path)
    assert done.status == 0
    head, *rows = [one.split() for one in done.out.splitlines()]
    assert head == ["service", "release", "state", "step", "weight", "circuit", "verdict", "since"]
    assert [row[:3] for row in rows[:3]] == [
        ["pay", "r1", "tripped"],
        ["cart", "r1", "running"],
        ["rest", "r1", "running"],
    ]
    assert "pay: the judge sees no regression" in done.out
    assert done.out.splitlines()[-1].startswith("3 services: canaryproxy status --service NAME")
    listed = await command("status", "--json", "--admin", shop.unix, folder=tmp_path)
    assert [one["name"] for one in json.loads(listed.out)["services"]] == ["pay", "cart", "rest"]


async def test_status_of_one_service(shop: Served, tmp_path: Path) -> None:
    done = await command("status", "--admin", shop.unix, "--service", "pay", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out.split()[:3] == ["pay", "r1", "TRIPPED"]
    env = await command(
        "status", "--json", "--admin", shop.unix, folder=tmp_path, CANARYPROXY_SERVICE="pay"
    )
    assert json.loads(env.out)["state"] == "tripped"


async def test_an_act_names_its_service_and_is_done_there_only(
    shop: Served, tmp_path: Path
) -> None:
    done = await command("weight", "3", "--service", "cart", "--admin", shop.unix, folder=tmp_path)
    assert done.status == 0, done.err
    first, *_, last = done.out.splitlines()
    assert first.startswith("cart: ")
    assert last.startswith("Done: cart: ")
    acts = {name: len(one.control.acts) for name, one in shop.proxy.services.items()}
    assert acts == {"cart": 1, "pay": 0, "rest": 0}
    said = await command(
        *("weight", "2", "--json", "--service", "cart", "--admin", shop.unix), folder=tmp_path
    )
    assert json.loads(said.out)["service"] == "cart"


@pytest.mark.parametrize(
    "words",
    [
        *(["pause"], ["resume"], ["promote", "--yes"], ["abort", "--yes"], ["start"], ["reset"]),
        *(["trip"], ["drill", "--yes"], ["weight", "3"], ["accept", "errors", "--reason", "x"]),
        *(["start", "--id", "r2"], ["history"], ["endpoints"], ["routes"], ["aa"]),
        ["wait", "--for", "promoted"],
    ],
    ids=" ".join,
)
async def test_without_a_name_a_command_says_which_there_are(
    shop: Served, tmp_path: Path, words: list[str]
) -> None:
    done = await command(*words, "--admin", shop.unix, folder=tmp_path)
    assert (done.status, done.out) == (2, "")
    rest = shlex.join([*words[1:], "--admin", shop.unix])
    assert done.err == (
        f"canaryproxy: the proxy on {shop.unix} has several services: name one, as in canaryproxy"
        f" {words[0]} --service cart {rest}; there are cart, pay and rest\n"
    )
    assert all(one.control.acts == [] for one in shop.proxy.services.values())


@pytest.mark.parametrize("words", [["status"], ["pause"], ["history", "-f"], ["status", "--watch"]])
async def test_an_unknown_name_says_which_there_are(
    shop: Served, tmp_path: Path, words: list[str]
) -> None:
    done = await command(*words, "--service", "crat", "--admin", shop.unix, folder=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"canaryproxy: no service 'crat' on {shop.unix}; there are cart, pay and rest\n"
    )


async def test_an_odd_name_stays_in_its_place(shop: Served, tmp_path: Path) -> None:
    """It is one segment of the path, whatever is in it."""
    for name in ("../../config", "pay/release?x=", "", "%2e%2e", "caf\u00e9"):
        done = await command("pause", "--service", name, "--admin", shop.unix, folder=tmp_path)
        assert done.status in (1, 2), done
        assert done.out == ""
    assert all(one.control.acts == [] for one in shop.proxy.services.values())


async def test_one_service_needs_no_name(tmp_path: Path) -> None:
    proxy = FakeProxy(cart=FakeService(FakeControl()))
    async with serve(tmp_path, control=proxy) as served:
        short = await command("status", "--json", "--admin", served.unix, folder=tmp_path)
        named = await command(
            *("status", "--json", "--service", "cart", "--admin", served.unix), folder=tmp_path
        )
    assert short.status == named.status == 0
    assert json.loads(short.out)["release"] == json.loads(named.out)["release"] == "r1"


async def test_a_watch_ends_when_its_service_is_removed(shop: Served, tmp_path: Path) -> None:
    options = ("--service", "cart", "--admin", shop.unix)
    watching = await spawn("status", "--watch", *options, folder=tmp_path)
    waiting = await spawn("wait", "--for", "promoted", *options, folder=tmp_path)
    await line(watching, "r1")
    await line(waiting, "waiting for")
    await _streams(shop, 2)
    del shop.proxy.services["cart"]
    done, waited = await finished(watching), await finished(waiting)
    assert done.status == 1
    assert done.err == "canaryproxy: a reload has removed the service cart\n"
    assert waited.status == 4


async def test_a_reload_is_of_the_whole_proxy(shop: Served, tmp_path: Path) -> None:
    done = await command("reload", "--admin", shop.unix, folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "Done: nothing changed."
    as_json = await command("reload", "--json", "--admin", shop.unix, folder=tmp_path)
    assert [one["name"] for one in json.loads(as_json.out)["services"]] == ["pay", "cart", "rest"]


def test_the_next_action_names_the_service() -> None:
    said = {"state": "tripped", "release": "r1", "weight": 0.0}
    to = Console(width=120, record=True, file=StringIO())
    to.print(screen(View(said, service="pay"), 120))
    assert (
        "then canaryproxy reset --service pay or canaryproxy abort --service pay"
        in to.export_text()
    )


def test_the_table_says_why_a_service_was_rolled_back() -> None:
    row = {"name": "pay", "attention": "tripped", "state": "tripped", "said": "nothing is compared"}
    assert "pay: tripped: errors" in service_lines({"services": [{**row, "cause": "errors"}]}, 0.0)
    assert "pay: nothing is compared" in service_lines({"services": [row]}, 0.0)


def test_the_table_shows_cohorts_with_users_on_the_canary() -> None:
    row = {"name": "pay", "state": "running", "weight": 0.0, "share": "50% of staff"}
    head, staff, *_ = service_lines(
        {"services": [{**row, "cohorts": [{"name": "staff", "weight": 50.0}]}]}, 0.0
    )
    assert "50% of staff" in staff
    assert staff.index("50%") == head.index("weight")
    _, everyone, *_ = service_lines({"services": [{**row, "weight": 5.0, "cohorts": []}]}, 0.0)
    assert " 5% " in everyone


async def _streams(shop: Served, number: int) -> None:
    from tests.admin.fake import until

    await until(lambda: shop.server.streams == number)


def test_a_table_of_what_is_not_understood_does_not_fail() -> None:
    assert service_lines({"services": [{}, 1, {"name": "a\x1b[2J", "step": "x"}]}, 0.0)
    rows = [{"name": "vm", "service": "cart"}, {"name": "far", "address": "http://x"}]
    head, first, second, *_ = overview_lines({"overview": rows})
    assert head.split()[:3] == ["proxy", "service", "environment"]
    assert first.split()[:2] == ["vm", "cart"]
    assert second.split()[:2] == ["far", "\u2013"]
