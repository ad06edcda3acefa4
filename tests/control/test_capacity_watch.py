"""A step that would bring more than was ever carried: said once, held if configured, accepted by people."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from canaryproxy.control.timeseries import Window
from canaryproxy.measure import histogram
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.release import circuit, rollout
from canaryproxy.release.capacity import Load

from .world import World, running

BUSY = {"stable": (9, 0), "canary": (1, 0)}


def release(mode: str, name: str = "r1") -> str:
    steps = "[{weight: 10, bake: 1s}, {weight: 50, bake: 1s}, {weight: 100}]"
    return f"release: {{id: {name}, steps: {steps}, capacity: {mode}}}\n"


def window(rate: float, failed: int = 0, seconds: float = 10.0) -> Window:
    requests = round(rate * seconds)
    return Window(seconds, rate, requests, requests, failed, (0,) * histogram.BUCKETS)


def carry(world: World, stable: float, canary: float = 0.0, up: tuple[int, int] = (1, 1)) -> None:
    """Let ten seconds of traffic be known."""
    windows = window(stable), window(canary)
    world.controller.capacity.take(world.controller.now, windows, (3, 1), up)


def reload(world: World, text: str) -> None:
    world.file.write_text(world.whole(text))
    world.reloader.reload()


def most(world: World) -> list[Load | None]:
    return [world.controller.capacity.carried.most(which) for which in (STABLE, CANARY)]


async def test_a_step_that_is_too_large_for_the_canary_is_held(tmp_path: Path) -> None:
    async with running(tmp_path, release("hold")) as world:
        carry(world, 100.0)
        carry(world, 300.0, 60.0, up=(4, 1))
        await world.run(3, **BUSY)
        assert (world.weight, world.whats.count("capacity")) == (10.0, 1)
        view = world.release_view
        assert (view["capacity"]["stable"]["rate"], view["capacity"]["step"]) == (100.0, 180.0)
        (hold,) = view["holds"]
        assert hold == view["hold"] == view["capacity"]["over"][0]
        assert hold == (
            "the step to 50% would bring the canary 180/s with 1 endpoint;"
            " a stable endpoint has carried at most 100/s"
        )
        assert view["verdict"]["kind"] == "held"


async def test_traffic_that_fits_again_lets_the_step_begin(tmp_path: Path) -> None:
    async with running(tmp_path, release("hold")) as world:
        carry(world, 100.0)
        carry(world, 90.0, 70.0)
        await world.run(2, **BUSY)
        assert world.weight == 10.0
        assert world.release_view["holds"] == [
            "stable has carried at most 100/s with 1 endpoint (2 s ago); a trip now would bring it 160/s"
        ]
        carry(world, 90.0, 10.0)
        await world.run(1.5, **BUSY)
        assert world.weight == 50.0


async def test_what_is_not_known_holds_and_a_person_may_accept_it(tmp_path: Path) -> None:
    async with running(tmp_path, release("hold")) as world:
        await world.run(2, **BUSY)
        assert world.weight == 10.0
        assert world.release_view["capacity"] is None
        carry(world, 100.0)
        carry(world, 90.0, 70.0)
        await world.control.act(rollout.Accept("capacity", "ann: stable was scaled up"))
        await world.run(1.5, **BUSY)
        assert world.weight == 50.0
        assert "capacity" not in world.whats


async def test_a_trip_is_never_held(tmp_path: Path) -> None:
    async with running(tmp_path, release("hold")) as world:
        carry(world, 1.0, 500.0)
        await world.run(1, **BUSY)
        await world.control.act(circuit.Trip("by ann"))
        assert world.weight == 0.0


@pytest.mark.parametrize("mode", ["warn", "off"])
async def test_without_hold_the_step_begins_and_warn_logs_once(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, release(mode)) as world:
        carry(world, 100.0)
        carry(world, 90.0, 70.0)
        with caplog.at_level(logging.WARNING):
            await world.run(1, **BUSY)
        logged = [one for one in caplog.messages if one.startswith("capacity:")]
        assert len(logged) == (mode == "warn")
        await world.run(1, **BUSY)
        assert world.weight == 50.0
        assert world.release_view["capacity"]["over"], "is said in either case"
        with pytest.raises(rollout.Refused, match="no metric 'capacity'"):
            await world.control.act(rollout.Accept("capacity", "ann"))


async def test_failures_are_not_carried_and_short_windows_say_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, release("warn")) as world:
        watch, now = world.controller.capacity, world.controller.now
        watch.take(now, (window(1000.0, seconds=2.0), window(0.0)), (0, 0), (1, 1))
        assert watch.outlook(now) is None
        watch.take(now, (window(100.0, failed=400), window(0.0)), (0, 0), (1, 1))
        found = watch.carried.most(STABLE)
        assert found is not None
        assert found.rate == 60.0


async def test_what_was_carried_survives_a_restart_and_another_release(tmp_path: Path) -> None:
    async with running(tmp_path, release("warn")) as world:
        carry(world, 100.0, 50.0)
        await world.run(0.2)
        saved = json.loads((tmp_path / "state.json").read_text())["state"]["capacity"]
        assert [one["rate"] for one in saved["stable"]] == [100.0]
    async with running(tmp_path, release("warn")) as world:
        assert [load and load.rate for load in most(world)] == [100.0, 50.0]
    async with running(tmp_path, release("warn", "r2")) as world:
        carried = world.controller.capacity.carried
        assert carried.most(STABLE) is not None
        assert carried.most(CANARY) is None, "it is another version"


async def test_after_a_promotion_stable_has_carried_what_the_canary_had(tmp_path: Path) -> None:
    async with running(tmp_path, release("warn")) as world:
        carry(world, 900.0, 50.0)
        await world.control.act(rollout.Promote(by="ann"))
        carry(world, 0.0, 400.0)
        await world.run(0.2)
        reload(world, release("warn", "r2"))
        assert [load and load.rate for load in most(world)] == [400.0, None]
        assert world.controller.capacity.follows_promotion
        carry(world, 380.0, 20.0)
        await world.control.act(rollout.Abort(by="ann"))
        reload(world, release("warn", "r3"))
        assert [load and load.rate for load in most(world)] == [400.0, None], "the version stays"
        assert not world.controller.capacity.follows_promotion


async def test_after_a_promotion_a_restart_with_the_next_release_knows_it_too(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, release("warn")) as world:
        carry(world, 900.0, 50.0)
        await world.control.act(rollout.Promote(by="ann"))
        carry(world, 0.0, 400.0)
        await world.run(0.2)
    async with running(tmp_path, release("warn", "r2")) as world:
        assert [load and load.rate for load in most(world)] == [400.0, None]


async def test_the_traffic_is_the_one_that_people_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, release("warn")) as world:
        monkeypatch.setattr("canaryproxy.control.service.monotonic", lambda: world.clock)
        for _ in range(12):
            world.control._take()
            world.traffic((90, 9), (10, 0))
            world.clock += 1.0
        world.control._take()
        found = world.release_view
        assert found["variants"]["stable"]["rate"] == 90.0
        assert found["capacity"]["stable"]["rate"] == 81.0, "what failed was not carried"
        assert found["capacity"]["trip"] == 100.0
        assert found["capacity"]["over"] == found["capacity"]["said"][:1]
