"""Several services on one admin address: their paths, their list, and services that a reload removes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.admin import openapi
from canaryproxy.admin.connection import BOUNDS
from canaryproxy.admin.stream import Pace
from canaryproxy.control.service import Unavailable
from tests.admin.fake import (
    RELEASE,
    TOKEN,
    FakeControl,
    FakeProxy,
    FakeService,
    Served,
    serve,
    until,
)
from tests.admin.test_stream import stream

FAST = Pace(poll=0.01, release=0.02)
OF_ONE = sorted(
    (path, method)
    for path, item in openapi.description()["paths"].items()
    for method in item
    if path.startswith(f"{openapi.PREFIX}/")
)
"""The paths of one release, and their methods."""


class Tripped(FakeControl):
    """A service that has been rolled back."""

    def release_view(self) -> Any:
        opened = RELEASE.circuit.model_copy(update={"state": "open", "since": 42.0})
        return super().release_view().model_copy(update={"state": "tripped", "circuit": opened})


def three() -> FakeProxy:
    return FakeProxy(
        cart=FakeService(FakeControl(), ("shop.example.com",), ("/cart",)),
        pay=FakeService(Tripped(), ("pay.example.com", "*.pay.example.com")),
        rest=FakeService(FakeControl()),
    )


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(tmp_path, control=three(), pace=FAST) as running:
        yield running


def problem(answer: Any) -> dict[str, Any]:
    assert answer.status == 404, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json
    assert (found["type"], found["status"]) == ("about:blank", 404)
    return found


async def test_the_list_begins_with_what_needs_a_person(shop: Served) -> None:
    answer = await shop.ask("GET", "/v1/services", over="tcp")
    rows = answer.json["services"]
    assert [(row["name"], row["attention"]) for row in rows] == [
        ("pay", "tripped"),
        ("cart", "waiting"),
        ("rest", "waiting"),
    ]
    pay, cart, rest = rows
    assert (pay["circuit"], pay["state"], pay["since"]) == ("open", "tripped", 42.0)
    assert (cart["hosts"], cart["paths"]) == (["shop.example.com"], ["/cart"])
    assert (rest["hosts"], rest["paths"]) == ([], [])
    assert (cart["release"], cart["step"], cart["steps"], cart["weight"]) == ("r1", 2, 2, 5.0)
    assert (cart["verdict"], cart["said"]) == ("ok", "the judge sees no regression")
    assert (await shop.ask("GET", "/v1/services/cart")).json == cart


async def test_the_list_is_sent_again_only_if_it_has_changed(shop: Served) -> None:
    etag = (await shop.ask("GET", "/v1/services")).headers["etag"]
    assert (await shop.ask("GET", "/v1/services", If_None_Match=etag)).status == 304
    await shop.ask("PUT", "/v1/services/rest/weight", '{"weight": 7}')
    changed = await shop.ask("GET", "/v1/services", If_None_Match=etag)
    assert changed.status == 200
    assert {row["name"]: row["weight"] for row in changed.json["services"]} == {
        "pay": 5.0,
        "cart": 5.0,
        "rest": 7.0,
    }


async def test_an_act_is_done_on_its_service_only(shop: Served) -> None:
    answer = await shop.ask("POST", "/v1/services/pay/release/trip", '{"by": "ann"}')
    assert answer.status == 200
    acts = {name: len(one.control.acts) for name, one in shop.proxy.services.items()}
    assert acts == {"cart": 0, "pay": 1, "rest": 0}
    history = (await shop.ask("GET", "/v1/services/pay/history")).json
    assert [record["what"] for record in history["records"]] == ["trip"]
    assert (await shop.ask("GET", "/v1/services/cart/history")).json["records"] == []


async def test_a_condition_is_that_of_its_service(shop: Served) -> None:
    stale = (await shop.ask("GET", "/v1/services/cart/release")).headers["etag"]
    await shop.ask("POST", "/v1/services/cart/release/resume")
    target = "/v1/services/{}/release/resume"
    assert (await shop.ask("POST", target.format("cart"), If_Match=stale)).status == 412
    fresh = (await shop.ask("GET", "/v1/services/pay/release")).headers["etag"]
    assert (await shop.ask("POST", target.format("pay"), If_Match=fresh)).status == 200


@pytest.mark.parametrize(("path", "method"), OF_ONE)
async def test_with_several_services_a_path_without_one_names_them(
    shop: Served, path: str, method: str
) -> None:
    short = path.replace(openapi.PREFIX, "/v1")
    found = problem(await shop.ask(method.upper(), short, '{"weight": 3, "metric": "errors"}'))
    assert found["services"] == ["cart", "pay", "rest"]
    assert path.replace("{name}", "cart") in found["detail"]
    assert all(one.control.acts == [] for one in shop.proxy.services.values())


@pytest.mark.parametrize(("path", "method"), OF_ONE)
async def test_an_unknown_service_is_not_found(shop: Served, path: str, method: str) -> None:
    found = problem(await shop.ask(method.upper(), path.replace("{name}", "crat"), "{}"))
    assert found["services"] == ["cart", "pay", "rest"]
    assert found["detail"] == "no service 'crat'; there are cart, pay and rest"


async def test_many_services_are_not_all_in_the_sentence(tmp_path: Path) -> None:
    many = FakeProxy()
    many.services = {f"s{number}": FakeService(FakeControl()) for number in range(200)}
    async with serve(tmp_path, control=many) as served:
        found = problem(await served.ask("GET", "/v1/release"))
        unknown = problem(await served.ask("GET", "/v1/services/" + "x" * 5000))
    assert "and 193 more" in found["detail"]
    assert len(found["services"]) == 200
    assert len(unknown["detail"]) < 300


@pytest.mark.parametrize(
    "proxy", [FakeProxy(), FakeProxy(cart=FakeService(FakeControl(), ("a.example",)))]
)
async def test_one_service_answers_at_both_paths(tmp_path: Path, proxy: FakeProxy) -> None:
    (name,) = proxy.services
    async with serve(tmp_path, control=proxy) as served:
        for path in ("release", "acts", "endpoints", "routes", "history", "series"):
            short = await served.ask("GET", f"/v1/{path}")
            long = await served.ask("GET", f"/v1/services/{name}/{path}")
            assert short.status == 200
            assert short.body == long.body
        assert [row["name"] for row in (await served.ask("GET", "/v1/services")).json["services"]]


async def test_a_change_needs_the_token_before_it_learns_anything(shop: Served) -> None:
    for target in ("/v1/services/cart/release/trip", "/v1/services/crat/release/trip"):
        answer = await shop.ask("POST", target, "{}", over="tcp")
        assert answer.status == 401
        assert b"cart" not in answer.body
    bearer = f"Bearer {TOKEN}"
    target = "/v1/services/cart/release/trip"
    answer = await shop.ask("POST", target, "{}", over="tcp", Authorization=bearer)
    assert answer.status == 200


@pytest.mark.parametrize("name", ["a%2Fb", "%2e%2e", "%00", "caf%C3%A9", "ca%20rt", "'", "cart%0a"])
async def test_odd_names_are_unknown_services(shop: Served, name: str) -> None:
    answer = await shop.ask("GET", f"/v1/services/{name}/release")
    assert answer.status in (400, 404)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_stream_ends_when_its_service_is_removed(shop: Served) -> None:
    async with (
        stream(shop, target="/v1/services/pay/stream") as client,
        stream(shop, target="/v1/services/cart/stream") as other,
    ):
        await client.next("release")
        await other.next("release")
        del shop.proxy.services["pay"]
        removed = await client.next("removed")
        assert removed.data == {"service": "pay"}
        with pytest.raises(EOFError):
            await client.next("never")
        shop.proxy.services["cart"].control.record("step")  # the other one goes on
        assert (await other.next("record")).data["what"] == "step"
    problem(await shop.ask("GET", "/v1/services/pay/stream"))
    await until(lambda: shop.server.streams == 0)


async def test_a_service_that_comes_back_is_another_one(shop: Served) -> None:
    async with stream(shop, target="/v1/services/pay/stream") as client:
        await client.next("release")
        shop.proxy.services["pay"] = FakeService(FakeControl())
        await client.next("removed")
    async with stream(shop, target="/v1/services/pay/stream") as client:
        assert (await client.next("release")).data["state"] == "running"


async def test_new_hosts_leave_the_stream_of_a_service_open(shop: Served) -> None:
    before = shop.proxy.services["pay"]
    async with stream(shop, target="/v1/services/pay/stream") as client:
        await client.next("release")
        shop.proxy.services["pay"] = FakeService(before.control, ("new.example.com",))
        before.control.record("step")
        assert (await client.next("record")).data["what"] == "step"


async def test_all_services_share_the_limit_of_streams(tmp_path: Path) -> None:
    async with (
        serve(tmp_path, control=three(), bounds=replace(BOUNDS, streams=2)) as shop,
        stream(shop, target="/v1/services/pay/stream"),
        stream(shop, target="/v1/services/cart/stream"),
    ):
        await until(lambda: shop.server.streams == 2)
        assert (await shop.ask("GET", "/v1/services/rest/stream", over="tcp")).status == 503


class Slow(FakeControl):
    """A service whose acts take until they are let go."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()
        self.error = error

    async def act(self, event: Any, *, if_match: Any = None) -> None:
        self.begun.set()
        await self.let_go.wait()
        if self.error is not None:
            raise self.error
        await super().act(event, if_match=if_match)


@pytest.mark.parametrize("error", [None, Unavailable("this service is stopping; retry")])
async def test_an_act_on_a_service_that_is_removed_meanwhile_gets_404(
    tmp_path: Path, error: Exception | None
) -> None:
    slow = Slow(error)
    proxy = FakeProxy(cart=FakeService(FakeControl()), pay=FakeService(slow))
    async with serve(tmp_path, control=proxy) as served:
        asking = asyncio.create_task(served.ask("POST", "/v1/services/pay/release/resume"))
        async with asyncio.timeout(60):
            await slow.begun.wait()
        del proxy.services["pay"]
        slow.let_go.set()
        found = problem(await asking)
    assert found["detail"] == "a reload has removed the service pay; there is cart"
    assert found["services"] == ["cart"]


@pytest.mark.parametrize("path", ["/", "/services/cart/", "/services/cart.v3/", "/overview"])
async def test_pages_may_load_their_own_scripts(shop: Served, path: str) -> None:
    page = await shop.ask("GET", path)
    assert page.status == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/services/cart", "/v1/services/cart", "/services/a/b/", "/x"])
async def test_what_is_no_page_may_load_nothing(shop: Served, path: str) -> None:
    assert (
        "default-src 'none'; base-uri"
        in (await shop.ask("GET", path)).headers["content-security-policy"]
    )
