"""The overview: neighbours on real sockets, and the order of what needs a person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from canaryproxy import API_HEADER, API_VERSION, config
from canaryproxy.admin.neighbours import MOST
from canaryproxy.admin.overview import Overviewer
from canaryproxy.admin.services import listing
from canaryproxy.client.tables import overview_lines
from canaryproxy.config.model.admin import Neighbour
from canaryproxy.control.brief_view import config_problems
from canaryproxy.control.release_view import Fleet, Leaving, Shed
from tests.admin.fake import RELEASE, FakeControl, FakeProxy, FakeService, Served, serve


class Calm(FakeControl):
    """A proxy with nothing to say."""

    def __init__(self, **changed: Any) -> None:
        super().__init__()
        self.changed = changed

    def release_view(self) -> Any:
        quiet = RELEASE.config.model_copy(update={"error": None, "restart_needed": []})
        calm = {"config": quiet, "ready": False, "unsaved": None}
        return RELEASE.model_copy(update=calm | self.changed)


def of(calm: Calm) -> FakeProxy:
    """Return a proxy of which that is the only service."""
    found = FakeProxy(calm)
    view = calm.release_view()
    found.host, found.environment = view.host, view.environment
    found.problems = config_problems(view.config.error, view.config.restart_needed)
    return found


SERVICES = listing(of(Calm())).model_dump_json()
"""What a proxy with nothing to say answers."""


def neighbour(address: str, name: str | None = None) -> Neighbour:
    return Neighbour.model_validate({"address": address, "name": name})


@asynccontextmanager
async def answering(answer: bytes, seen: list[bytes] | None = None) -> AsyncIterator[str]:
    """Serve one answer to whatever is asked; nothing at all if it is empty."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(answer)
        await reader.read()  # the client closes
        writer.close()
        await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        async with asyncio.timeout(60):
            await ended.wait()


def told(body: str, version: str | None = API_VERSION) -> bytes:
    signed = "" if version is None else f"{API_HEADER}: {version}\r\n"
    head = f"HTTP/1.1 200 OK\r\n{signed}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def test_what_needs_a_person_comes_first_over_both_kinds_of_address(tmp_path: Path) -> None:
    opened = RELEASE.circuit.model_copy(update={"state": "open", "since": 42.0, "cause": "x"})
    tripped = Calm(state="tripped", circuit=opened, host="far", environment=None)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        serve(tmp_path / "a", control=of(tripped)) as one,
        serve(tmp_path / "b", control=of(Calm(host="near"))) as other,
    ):
        gone = tmp_path / "gone.sock"
        peers = (
            neighbour(f"unix:{other.unix}", "search"),
            neighbour(f"unix:{gone}"),
            neighbour(f"http://127.0.0.1:{one.port}"),
        )
        found = await Overviewer(of(Calm()), peers).look()
    rows = [(row.name, row.attention) for row in found.overview]
    assert rows == [
        ("far", "tripped"),
        (f"unix:{gone}", "unreachable"),
        ("vm", "none"),
        ("search", "none"),
    ]
    far, lost, here, search = found.overview
    assert (far.since, far.circuit, far.release) == (42.0, "open", RELEASE.release)
    assert far.dashboard == f"http://127.0.0.1:{one.port}/"
    assert (lost.error, lost.reached, lost.state) == ("no such file or directory", None, None)
    assert (here.dashboard, here.address) == ("./", None)
    assert (search.dashboard, search.host) == (None, "near")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (told("{}"), "not understood"),
        (told("{}", None), "not an admin address"),
        (told("{}", "99"), "another version of the admin API: 99"),
        (told(json.dumps("x" * MOST)), "too large"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"", "no response within 0.2 s"),
        (
            told("").replace(b"200 OK", b"421 Misdirected Request"),
            "add the name to admin.hosts there",
        ),
        (told("").replace(b"200 OK", b"500 Oh"), "it responds with 500"),
    ],
)
async def test_what_cannot_be_read_is_named_and_gets_no_token(answer: bytes, says: str) -> None:
    seen: list[bytes] = []
    async with answering(answer, seen) as url:
        look = Overviewer(of(Calm()), (neighbour(url, "cart"),), deadline=0.2 if not answer else 10)
        row = (await look.look()).overview[0]
    assert (row.name, row.attention) == ("cart", "unreachable")
    assert says in str(row.error)
    assert len(seen) == 1
    assert b"authorization" not in seen[0].lower()


async def test_one_look_serves_all_who_ask_at_once() -> None:
    seen: list[bytes] = []
    async with answering(told(SERVICES), seen) as url:
        look = Overviewer(of(Calm()), (neighbour(url),))
        await asyncio.gather(*(look.look() for _ in range(20)))
    assert len(seen) == 1


async def test_unreachable_says_when_it_was_last_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("canaryproxy.admin.overview._FRESH", 0.0)
    now = [1000.0]
    async with answering(told(SERVICES)) as url:
        look = Overviewer(of(Calm()), (neighbour(url, "cart"),), clock=lambda: now[0])
        assert {row.reached for row in (await look.look()).overview} == {1000.0}
    now[0] = 1060.0
    (row,) = [row for row in (await look.look()).overview if row.name == "cart"]
    assert (row.error, row.reached) == ("connection refused", 1000.0)


@pytest.mark.parametrize(
    ("changed", "attention", "problem"),
    [
        ({}, "none", None),
        ({"verdict": RELEASE.verdict.model_copy(update={"kind": "suspect"})}, "suspect", None),
        ({"verdict": RELEASE.verdict.model_copy(update={"kind": "held"})}, "held", None),
        ({"unsaved": "disk full"}, "configuration", "state not saved: disk full"),
        ({"config": RELEASE.config}, "configuration", "restart needed to apply listen, workers"),
        ({"state": "paused"}, "waiting", None),
        ({"ready": True}, "waiting", None),
    ],
)
async def test_why_a_proxy_needs_a_person(
    changed: dict[str, Any], attention: str, problem: str | None
) -> None:
    (row,) = (await Overviewer(of(Calm(**changed))).look()).overview
    assert row.attention == attention
    assert problem is None or problem in row.problems


async def test_proxies_of_one_release_with_other_steps_are_named(tmp_path: Path) -> None:
    other = [RELEASE.steps[0].model_copy(update={"weight": 77.0})]
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    a, b, c = folders
    async with (
        serve(a, control=of(Calm(host="a"))) as first,
        serve(b, control=of(Calm(host="b", steps=other))) as second,
        serve(c, control=of(Calm(host="c", steps=other, environment="test"))) as third,
    ):
        peers = [neighbour(f"unix:{each.unix}") for each in (first, second, third)]
        found = (await Overviewer(of(Calm()), peers).look()).overview
    assert {row.name: row.attention for row in found} == {
        "vm": "none",
        "a": "none",
        "b": "configuration",
        "c": "none",
    }
    assert found[0].problems == [f"other proxies of {RELEASE.release} have other steps"]


def replica(name: str, of: int = 3, group: str = "shop") -> dict[str, Any]:
    place = Fleet(
        group=group, replica=name, connected=True, error=None, leader="a", leads=name == "a",
        replicas=of, version=1, judging="sums", conflict=None, propagation=None, silent=0.1,
        leaving=Leaving(stable=0, canary=0), shed=Shed(stable=0, canary=0),
    )  # fmt: skip
    return {"fleet": place, "host": name}


async def test_a_fleet_of_which_replicas_are_missing_is_named(tmp_path: Path) -> None:
    async with serve(tmp_path, control=of(Calm(**replica("b")))) as other:
        peers = [neighbour(f"unix:{other.unix}")]
        found = await Overviewer(of(Calm(**replica("a"))), peers).look()
        whole = await Overviewer(of(Calm(**replica("a", of=2))), peers).look()
    assert [row.fleet for row in found.overview] == [
        "replica a of 3 in shop, leads",
        "replica b of 3 in shop",
    ]
    assert found.missing == ["2 of 3 replicas of shop: name the others in admin.overview"]
    lines = overview_lines(found.model_dump(mode="json"))
    assert lines[-1] == found.missing[0]
    assert "a: replica a of 3 in shop, leads" in lines
    assert len(whole.missing) == 1, "the other one says that there are three"
    async with serve(tmp_path, control=of(Calm(**replica("b", of=2)))) as other:
        peers = [neighbour(f"unix:{other.unix}")]
        assert (await Overviewer(of(Calm(**replica("a", of=2))), peers).look()).missing == []


async def test_the_route_and_the_page(served: Served) -> None:
    answer = await served.ask("GET", "/v1/overview")
    assert [row["name"] for row in answer.json["overview"]] == ["vm"]
    page = await served.ask("GET", "/overview")
    assert page.status == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_a_name_of_srv_records_is_no_admin_address() -> None:
    text = """variants: {stable: {endpoints: ["http://127.0.0.1:9001"]}}
admin: {overview: [{address: "dns+srv://_http._tcp.x.example"}]}
"""
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, file="a.yaml")
    (problem,) = caught.value.problems
    assert "admin.overview[0].address: expected http://host:port" in str(problem)


def shop(**services: Calm) -> FakeProxy:
    """Return a proxy of several services."""
    found = FakeProxy()
    found.services = {name: FakeService(calm) for name, calm in services.items()}
    return found


async def test_each_service_of_each_proxy_is_a_row(tmp_path: Path) -> None:
    """Those of all proxies are in one order, so that what is tripped anywhere is on top."""
    held = RELEASE.verdict.model_copy(update={"kind": "held"})
    far = shop(cart=Calm(), pay=Calm(state="tripped"))
    far.host = "far"
    async with serve(tmp_path, control=far) as other:
        look = Overviewer(
            shop(cart=Calm(verdict=held), web=Calm()), (neighbour(f"unix:{other.unix}"),)
        )
        found = await look.look()
    assert [(row.name, row.service, row.attention) for row in found.overview] == [
        ("far", "pay", "tripped"),
        ("vm", "cart", "held"),
        ("vm", "web", "none"),
        ("far", "cart", "none"),
    ]
    assert found.model_dump()["overview"][0]["service"] == "pay"


async def test_what_is_wrong_with_a_proxy_of_several_services_is_one_row() -> None:
    proxy = shop(cart=Calm(), pay=Calm(unsaved="disk full"))
    proxy.problems = ["restart needed to apply listen"]
    rows = (await Overviewer(proxy).look()).overview
    assert [(row.service, row.attention, row.problems) for row in rows] == [
        (None, "configuration", ["restart needed to apply listen"]),
        ("pay", "configuration", ["state not saved: disk full"]),
        ("cart", "none", []),
    ]


async def test_the_only_service_has_the_row_of_its_proxy() -> None:
    proxy = shop(cart=Calm())
    proxy.problems = ["restart needed to apply listen"]
    (named,) = (await Overviewer(proxy).look()).overview
    assert (named.service, named.attention) == ("cart", "configuration")
    (row,) = (await Overviewer(of(Calm())).look()).model_dump()["overview"]
    assert "service" not in row


async def test_a_neighbour_without_services_is_asked_for_its_release() -> None:
    asked: list[str] = []

    async def older(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        signed = {API_HEADER: API_VERSION}
        if request.path != "/v1/release":
            return web.json_response({"status": 404}, status=404, headers=signed)
        opened = RELEASE.circuit.model_copy(update={"state": "open", "since": 42.0})
        release = RELEASE.model_copy(update={"state": "tripped", "circuit": opened, "host": "old"})
        return web.Response(text=release.model_dump_json(), headers=signed)

    async with RawTestServer(older) as server:
        look = Overviewer(of(Calm()), (neighbour(f"http://127.0.0.1:{server.port}"),))
        old, _here = (await look.look()).overview
    assert asked == ["/v1/services", "/v1/release"]
    assert (old.name, old.service, old.attention, old.since) == ("old", None, "tripped", 42.0)
    assert (old.release, old.step, old.steps, old.circuit) == ("r1", 2, 2, "open")
    assert old.problems[1] == "restart needed to apply listen, workers"


async def test_services_in_one_fleet_are_missed_once() -> None:
    cart, pay = (Calm(**replica("a", group=group)) for group in ("shop/cart", "shop/pay"))
    proxy = shop(cart=cart, pay=pay)
    found = await Overviewer(proxy).look()
    assert found.missing == ["1 of 3 replicas of shop: name the others in admin.overview"]
