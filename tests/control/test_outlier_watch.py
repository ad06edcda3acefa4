"""An ejection as the controller makes it: workers, history, the step, and a reload."""

from __future__ import annotations

from pathlib import Path

from canaryproxy.measure.endpoint_cells import COUNTS, FAILED, UNTIMED, EndpointCounts
from canaryproxy.measure.routing import CANARY, STABLE

from .world import World, reading

TEXT = """
variants:
  stable: {endpoints: ["http://s:1"]}
  canary: {endpoints: ["http://a:1", "http://b:1", "http://c:1"]}
release: {id: r1, steps: [{weight: 50, bake: 1h}, {weight: 100}]}
"""
URLS = ("http://a:1", "http://b:1", "http://c:1")


def counts(requests: int, failed: int) -> EndpointCounts:
    cells = [0] * COUNTS
    cells[UNTIMED], cells[FAILED] = requests, failed
    return EndpointCounts(cells)


def tick(world: World, seconds: float = 0.1) -> None:
    world.clock += seconds
    world.controller.tick()


def fail(world: World, upto: int = 20) -> None:
    """Let the first canary endpoint fail in all."""
    for at in range(upto + 1):
        world.plane.readings[CANARY] = [
            reading(url, counts(at, at if url == URLS[0] else 0)) for url in URLS
        ]
        tick(world)


def what(world: World) -> list[str]:
    return [one.what for one in world.controller.status().history]


async def test_an_outlier_of_the_canary_is_out_in_the_history_and_holds_the_step(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, TEXT, base="")
    fail(world)
    assert list(world.plane.ejected[CANARY]) == [URLS[0]]
    assert "ejected" in what(world)
    seen = world.controller.status().assessment
    assert seen is not None
    assert any(
        "1 of 3 canary endpoints is ejected: http://a:1 (outlier: " in one for one in seen.holds
    )


async def test_it_is_back_after_its_pause_and_holds_for_another(tmp_path: Path) -> None:
    world = World(tmp_path, TEXT, base="")
    fail(world)
    tick(world, 30.0)
    assert not any(world.plane.ejected.values())
    assert "readmitted" in what(world)
    tick(world)
    seen = world.controller.status().assessment
    assert seen is not None
    assert any("back from an ejection" in one for one in seen.holds)
    tick(world, 30.0)
    tick(world)
    seen = world.controller.status().assessment
    assert seen is not None
    assert not any("ejection" in one for one in seen.holds)


async def test_nothing_is_ejected_where_it_is_off(tmp_path: Path) -> None:
    off = TEXT.replace('"http://c:1"]', '"http://c:1"], outliers: false')
    world = World(tmp_path, off, base="")
    fail(world, 60)
    assert not any(world.plane.ejected.values())


async def test_a_single_endpoint_is_never_ejected(tmp_path: Path) -> None:
    world = World(tmp_path, TEXT, base="")
    for at in range(60):
        world.plane.readings[STABLE] = [reading("http://s:1", counts(at, at))]
        tick(world)
    assert not any(world.plane.ejected.values())


async def test_a_canary_endpoint_that_fails_its_checks_holds_the_step(tmp_path: Path) -> None:
    world = World(tmp_path, TEXT, base="")
    said = "1 of 3 canary endpoints is out of service: http://a:1 (check failed: status 503)"
    world.plane.failing = (said,)
    tick(world)
    seen = world.controller.status().assessment
    assert seen is not None
    assert said in seen.holds
    world.plane.failing = ()
    tick(world)
    seen = world.controller.status().assessment
    assert seen is not None
    assert said not in seen.holds
