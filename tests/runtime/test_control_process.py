"""The control plane of several services: slots, state files, and reloads that touch only what they change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from canaryproxy import config as configuration
from canaryproxy.config import Config
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.measure import counters
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.routing import CANARY, STABLE, RouteTable
from canaryproxy.measure.shared_memory import Block
from canaryproxy.release import circuit, rollout
from canaryproxy.release.rollout import Refused
from canaryproxy.runtime.control_process import ControlPlane
from canaryproxy.runtime.service_control import ServiceControl
from canaryproxy.runtime.ticker import IDLE_TICKS, QUIET_TICKS

DEADLINE = 30.0
JUDGE = {"baseline": "0s"}
"""Without time to learn, a release begins with its first step."""
RELEASE = {"id": "r1", "steps": [{"weight": 10, "bake": "1h"}, {"weight": 100}]}


def service(name: str, **sections: Any) -> dict[str, Any]:
    """Return a service with two endpoints of its own."""
    variants = {
        "stable": {"endpoints": ["http://127.0.0.1:9001"]},
        "canary": {"endpoints": ["http://127.0.0.1:9002"]},
    }
    return {"hosts": [f"{name}.example.com"], "variants": variants, **sections}


class Proxy:
    """A configuration file, and the block that control planes of it share."""

    def __init__(self, folder: Path, **services: dict[str, Any]) -> None:
        self.file = folder / "c.yaml"
        self.state = folder / "run" / "state.json"
        self.block = Block(1)
        self.write(services)

    def write(self, services: dict[str, Any], **top: Any) -> None:
        """Replace the file."""
        whole = {"state": str(self.state), "admin": {"socket": None}, "judge": JUDGE, **top}
        self.file.write_text(json.dumps({**whole, **({"services": services} if services else {})}))

    @property
    def config(self) -> Config:
        """Read the file."""
        return configuration.parse(self.file.read_text(), file=str(self.file))

    @contextlib.asynccontextmanager
    async def control(self, *, kill: bool = False) -> AsyncIterator[ControlPlane]:
        """Run a control plane; with ``kill`` it saves nothing at its end."""
        control = ControlPlane(self.config, self.file, self.block)
        control.load()
        await control.start([], [])
        try:
            yield control
        finally:
            if kill:
                for one in control.services.values():
                    one.plane.detach()
                    one.controller._saver._write = lambda *_: None  # type: ignore[method-assign]
            await control.stop()

    def table(self, slot: int) -> RouteTable:
        """Return the table in a slot."""
        found = self.block.service(slot).table.read()
        assert found is not None
        return found[1]

    def saved(self, name: str) -> dict[str, Any]:
        """Return what the state file of a service holds."""
        text = (self.state.parent / "services" / f"{name}.json").read_text()
        found: dict[str, Any] = json.loads(text)["state"]
        return found

    def slots(self) -> dict[str, int]:
        """Return the slots as they are published."""
        found = self.block.config.read()
        assert found is not None
        return {name: place.slot for name, place in found.services.items()}

    def serve(self, *slots: int) -> None:
        """Have the worker serve by the published configuration, with these slots held."""
        (worker,) = self.block.workers
        worker.status[shared.PID] = os.getpid()
        worker.status[shared.CONFIGURED] = self.block.config.sequence[0]
        for slot in range(shared.MOST_SERVICES):
            worker.slots[slot] = (
                shared.HELD | shared.USED if slot in slots else worker.slots[slot] & ~1
            )


async def soon(condition: Callable[[], object], what: str) -> None:
    began = monotonic()
    while not condition():
        assert monotonic() - began < DEADLINE, f"{what} did not come true"
        await asyncio.sleep(0.005)


def causes(one: ServiceControl, what: str) -> list[str]:
    return [record.cause for record in one.controller.ledger.history if record.what == what]


async def test_each_service_has_its_slot_its_state_file_and_its_release(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, cart=service("cart", release=RELEASE), shop=service("shop"))
    async with proxy.control() as control:
        assert proxy.slots() == {"cart": 0, "shop": 1}
        await soon(lambda: proxy.table(0).limit == 1000, "the first step of cart")
        assert proxy.table(1).limit == 0
        await control.services["shop"].controller.act_and_save(rollout.SetWeight(3))
        assert (proxy.table(0).limit, proxy.table(1).limit) == (1000, 300)
    assert proxy.saved("cart")["rollout"]["weight"] == 10
    assert proxy.saved("shop")["rollout"]["weight"] == 3
    assert not proxy.state.exists()


async def test_a_trip_of_one_service_changes_no_other_table(tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path, cart=service("cart", release=RELEASE), shop=service("shop", release=RELEASE)
    )
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == proxy.table(1).limit == 1000, "both releases")
        shop = control.services["shop"].controller
        before = proxy.table(1), shop.ledger.recorded, shop.authority.assessment
        control.services["cart"].controller.act(circuit.Trip("errors"))
        assert proxy.table(0).circuit_open
        assert (proxy.table(1), shop.ledger.recorded) == before[:2]
        assert not proxy.table(1).circuit_open


async def test_a_reload_reconfigures_only_the_service_that_it_changes(tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path, cart=service("cart", split={"weight": 5}), shop=service("shop", release=RELEASE)
    )
    async with proxy.control() as control:
        await soon(lambda: proxy.table(1).limit == 1000, "the release")
        shop = control.services["shop"]
        kept = shop, shop.controller.settings, shop.controller.ledger.recorded
        proxy.write(
            {"cart": service("cart", split={"weight": 7}), "shop": service("shop", release=RELEASE)}
        )
        change = control.reloader.reload("ann")
        assert change.changed == ("services.cart.split.weight",)
        await soon(lambda: proxy.table(0).limit == 700, "the new weight")
        shop = control.services["shop"]
        assert (shop, shop.controller.settings, shop.controller.ledger.recorded) == kept
        assert causes(control.services["cart"], "reload") == ["services.cart.split.weight (by ann)"]


async def test_a_section_that_becomes_null_is_a_change(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    proxy.write({"cart": service("cart"), "shop": service("shop")}, release=RELEASE)
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 1000, "the release")
        proxy.write(
            {"cart": service("cart", release=None), "shop": service("shop")}, release=RELEASE
        )
        assert control.reloader.reload().changed == ("services.cart.release",)
        await soon(lambda: proxy.table(0).limit == 0, "the end of the release")
        await soon(lambda: proxy.table(1).limit == 1000, "the release of the other, as before")


async def test_services_come_and_go_by_reload_and_continue_where_they_were(tmp_path: Path) -> None:
    cart = service("cart", release=RELEASE)
    proxy = Proxy(tmp_path, cart=cart, shop=service("shop"))
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 1000, "the release")
        gone = control.services["cart"]
        proxy.write({"shop": service("shop")})
        assert control.reloader.reload().changed == ("services.cart",)
        assert list(control.services) == ["shop"]
        assert proxy.slots() == {"shop": 1}
        (cause,) = causes(gone, "reload")
        assert cause.startswith("the service has been removed from the configuration (10% of users")
        assert proxy.saved("cart")["history"][-1]["cause"] == cause
        with pytest.raises(Refused):
            gone.controller.act(rollout.Pause())

        proxy.write({"shop": service("shop"), "cart": cart})
        control.reloader.reload()
        assert proxy.slots() == {"shop": 1, "cart": 0}, "no worker has held it"
        await soon(lambda: proxy.table(0).limit == 1000, "the release again")
        assert causes(control.services["cart"], "reload")[0] == cause


async def test_a_removed_service_writes_no_more_into_its_slot(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, cart=service("cart", release=RELEASE), shop=service("shop"))
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 1000, "the release")
        gone = control.services["cart"]
        proxy.write({"shop": service("shop"), "blog": service("blog")})
        control.reloader.reload()
        assert proxy.slots() == {"shop": 1, "blog": 2}, "its slot is not known to be left yet"
        proxy.serve(1, 2)
        proxy.write({"shop": service("shop"), "blog": service("blog"), "news": service("news")})
        control.reloader.reload()
        assert proxy.slots()["news"] == 0
        gone.controller.tick()
        gone.controller.publish(first=True)
        await soon(lambda: not control._leaving, "its end")
        assert proxy.table(0).limit == 0


async def test_a_slot_waits_for_the_worker_that_holds_it(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, cart=service("cart"), shop=service("shop"))
    async with proxy.control() as control:
        proxy.serve(0, 1)
        proxy.write({"shop": service("shop")})
        control.reloader.reload()
        (worker,) = proxy.block.workers
        worker.status[shared.CONFIGURED] = proxy.block.config.sequence[0]  # with requests in flight
        proxy.write({"shop": service("shop"), "blog": service("blog")})
        control.reloader.reload()
        assert proxy.slots() == {"shop": 1, "blog": 2}
        proxy.serve(1, 2)
        proxy.write({"shop": service("shop"), "blog": service("blog"), "news": service("news")})
        control.reloader.reload()
        assert proxy.slots() == {"shop": 1, "blog": 2, "news": 0}
        assert worker.slots[0] == 0, "it has been cleared"


async def test_slots_and_releases_outlive_the_control_process(tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path, cart=service("cart", release=RELEASE), shop=service("shop", release=RELEASE)
    )
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == proxy.table(1).limit == 1000, "both releases")
        proxy.write({"shop": service("shop", release=RELEASE)})
        control.reloader.reload()
    async with proxy.control(kill=True) as control:
        assert proxy.slots() == {"shop": 1}
        assert proxy.table(1).limit == 1000
        await control.services["shop"].controller.saved()
        control.services["shop"].controller.act(circuit.Trip("errors"))
    async with proxy.control():
        assert proxy.table(1).circuit_open, "the table knows of the trip that was not saved"


async def test_a_refusal_names_the_service_and_changes_nothing(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, cart=service("cart", release=RELEASE), shop=service("shop"))
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 1000, "the release")
        await control.services["cart"].controller.act_and_save(rollout.Promote())
        another = service("cart", release={**RELEASE, "id": "r2"})
        proxy.write({"cart": another, "shop": service("shop")})
        control.reloader.reload()
        proxy.write(
            {
                "cart": service("cart", release=RELEASE),
                "shop": service("shop", mirror={"percent": 5}),
            }
        )
        with pytest.raises(Refused, match=r"^services\.cart: release\.id: r1 was promoted on"):
            control.reloader.reload()
        assert control.services["shop"].config.mirror.percent == 0


async def test_an_ended_release_does_not_start_again_when_its_service_comes_back(
    tmp_path: Path,
) -> None:
    proxy = Proxy(tmp_path, cart=service("cart", release=RELEASE), shop=service("shop"))
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 1000, "the release")
        await control.services["cart"].controller.act_and_save(rollout.Abort())
        proxy.write({"shop": service("shop")})
        control.reloader.reload()
        proxy.write({"cart": service("cart", release=RELEASE), "shop": service("shop")})
        control.reloader.reload()
        cart = control.services["cart"].controller
        assert cart.ledger.rollout.state is rollout.State.ABORTED
        assert proxy.table(proxy.slots()["cart"]).limit == 0

        proxy.write({"shop": service("shop")})
        control.reloader.reload()
        other = service("cart", release=RELEASE)
        other["variants"]["canary"]["endpoints"] = ["http://127.0.0.1:9009"]
        proxy.write({"cart": other, "shop": service("shop")})
        with pytest.raises(Refused, match=r"services\.cart: release\.id: r1 was aborted on"):
            control.reloader.reload()


async def test_from_one_service_to_several_needs_a_restart(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    variants = service("cart")["variants"]
    proxy.write({}, variants=variants, split={"weight": 5})
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 500, "the weight")
        proxy.write({"cart": service("cart")}, split={"weight": 7})
        change = control.reloader.reload()
        assert change.changed == ()
        assert "services.cart" in change.restart_needed
        assert "split.weight" in change.restart_needed
        assert list(control.services) == ["default"]
        assert proxy.table(0).limit == 500


async def test_more_services_than_free_slots_are_refused(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, cart=service("cart"), shop=service("shop"))
    async with proxy.control() as control:
        proxy.serve(*range(shared.MOST_SERVICES))
        control._slots._left.update(
            dict.fromkeys(range(2, shared.MOST_SERVICES), proxy.block.config.sequence[0])
        )
        proxy.write({"cart": service("cart"), "shop": service("shop"), "blog": service("blog")})
        with pytest.raises(Refused, match=r"^services\.blog: there is room for 1,024 services"):
            control.reloader.reload()
        assert list(control.services) == ["cart", "shop"]


async def test_an_error_in_one_service_keeps_no_other_from_its_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy(
        tmp_path, cart=service("cart", release=RELEASE), shop=service("shop", release=RELEASE)
    )

    def fail() -> None:
        raise RuntimeError("a defect")

    async with proxy.control() as control:
        monkeypatch.setattr(control.services["cart"].controller, "parts", fail)
        shop = control.services["shop"].controller
        seen = shop.authority.assessment
        await soon(lambda: shop.authority.assessment not in (None, seen), "a tick of the other")
    assert "a defect" in caplog.text


async def test_an_act_or_a_reload_makes_an_idle_service_due_at_once(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, cart=service("cart"), shop=service("shop"))
    async with proxy.control() as control:
        control._ticker.stop()
        for _ in range(11):
            control._ticker.tick()
        cart, shop = control.services["cart"], control.services["shop"]
        assert cart.period == shop.period == IDLE_TICKS
        await cart.controller.act_and_save(rollout.SetWeight(5))
        assert cart.period == 1, "users are on the canary"
        proxy.write({"cart": service("cart"), "shop": service("shop", split={"salt": "x"})})
        control.reloader.reload()
        assert shop.period == 1
        control._ticker.tick()
        assert (cart.period, shop.period) == (QUIET_TICKS, IDLE_TICKS)
        shop.controller.act(circuit.Trip("by hand"))
        assert shop.period == 1, "its circuit is open"


async def test_a_release_without_requests_is_due_at_once_when_there_is_something_to_judge(
    tmp_path: Path,
) -> None:
    judge = {**JUDGE, "metrics": {"business": {"outcome": "events"}}}
    proxy = Proxy(tmp_path, cart=service("cart", release=RELEASE, judge=judge))
    async with proxy.control() as control:
        control._ticker.stop()
        cart = control.services["cart"]
        control._ticker.tick()
        assert cart.period == QUIET_TICKS
        proxy.block.service(0).worker(0).records.write(0, 0, 0)
        assert cart.period == 1, "a worker has written a record"
        control._ticker.tick()
        assert cart.period == QUIET_TICKS
        cart.control.post_events([PostedEvent(key="ann")])
        assert cart.period == 1, "an event was posted"


async def test_a_breach_reaches_the_table_within_a_tick(tmp_path: Path) -> None:
    proxy = Proxy(
        tmp_path, cart=service("cart", release=RELEASE), shop=service("shop", release=RELEASE)
    )
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == proxy.table(1).limit == 1000, "both releases")
        control._ticker.stop()
        control._ticker.tick()
        cells = proxy.block.service(0).worker(0)
        cells.mark_used()
        for variant, failed in ((STABLE, 0), (CANARY, 50)):  # beyond the guard rail
            counted = cells.counters.variants[variant]
            for cell, count in (
                (counters.ROUTED, 50),
                (counters.FINISHED, 50),
                (counters.CODES + (500 if failed else 200), 50),
                (counters.FAILED, failed),
            ):
                counted[cell] += count
        control._ticker.tick()
        assert proxy.table(0).circuit_open
        assert not proxy.table(1).circuit_open


async def test_the_line_for_systemd_names_the_services_of_which_something_is_to_be_said(
    tmp_path: Path,
) -> None:
    proxy = Proxy(tmp_path, cart=service("cart", release=RELEASE), shop=service("shop"))
    async with proxy.control() as control:
        await soon(lambda: proxy.table(0).limit == 1000, "the first step of cart")
        line = "2 services; 1 release under way; cart: r1 is running on step 1 of 2, 10%"
        assert control._line() == line
        control.services["shop"].controller.act(circuit.Trip("by hand"))
        assert control._line().startswith("2 services; 2 releases under way; shop: circuit open; ")
