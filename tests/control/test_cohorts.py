"""Cohorts and the disk: what takes users off the canary is in force at once, what puts them there waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from canaryproxy.control.controller import _lowered
from canaryproxy.control.saver import Split
from canaryproxy.measure.exposure import Cohorts
from canaryproxy.release import circuit, rollout

from .world import World, running

RELEASE = """
split: {cohorts: {staff: {header: {name: X-Staff, equals: "yes"}}}}
release:
  id: r1
  steps:
    - {cohort: staff, weight: 50, bake: 1h}
    - {weight: 1, bake: 1h}
    - {weight: 100}
"""


def split(weight: float, staff: float, *, is_open: bool = False, drawn: bool = True) -> Split:
    cohorts = Cohorts((("staff", staff),) if staff else (), "staff" if drawn and staff else None)
    return Split(weight, is_open, b"r1", cohorts)


@pytest.mark.parametrize(
    ("wanted", "in_force", "meanwhile"),
    [
        (split(0, 50), split(0, 0), split(0, 0)),
        (split(1, 50, drawn=False), split(0, 50), split(0, 50)),
        (split(0, 20), split(5, 50, drawn=False), split(0, 20)),
        (split(5, 20, drawn=False), split(1, 50, drawn=False), split(1, 20, drawn=False)),
        (split(5, 50, is_open=True), split(5, 50), split(5, 50, is_open=True)),
        (split(5, 50), split(5, 50, is_open=True), split(5, 50, is_open=True)),
    ],
)
def test_until_the_disk_has_it_each_group_is_only_lowered(
    wanted: Split, in_force: Split, meanwhile: Split
) -> None:
    assert _lowered(wanted, in_force) == meanwhile


async def test_a_cohort_gets_the_canary_back_when_the_disk_has_it(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as world:
        await world.run(0.5)
        world.block_disk()
        world.controller.act(circuit.Trip("bad"))
        assert not world.controller.table.has_users
        world.controller.act(circuit.Reset())
        await world.run(0.5)
        assert not world.controller.table.has_users
        world.free_disk()
        async with asyncio.timeout(60):
            while not world.controller.table.has_users:  # noqa: ASYNC110 - the saver's retry
                await asyncio.sleep(0.05)
        assert world.release_view["share"] == "50% of staff"


async def test_a_restart_continues_in_the_cohorts_step(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as world:
        await world.run(0.5)
        assert world.release_view["share"] == "50% of staff"
        assert world.release_view["cohorts"] == [{"name": "staff", "weight": 50.0}]
    async with running(tmp_path, RELEASE) as world:
        assert world.origin == "restored"
        await world.run(0.3)
        assert world.controller.table.cohorts == (("staff", 50.0),)
        assert world.controller.table.cohort == "staff"


async def test_a_trip_empties_cohorts_and_a_reset_brings_them_back(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as world:
        await world.run(0.5)
        world.controller.act(circuit.Trip("bad"))
        assert not world.controller.table.has_users
        assert world.release_view["cohorts"] == []
        record = world.control.history(None, 1000)[-2]
        assert (record["what"], record["figures"]["share"]) == ("tripped", "50% of staff")
        await world.settle()
        world.controller.act(circuit.Reset())
        await world.run(0.5)
        assert world.release_view["share"] == "50% of staff"


async def test_the_table_of_a_killed_control_plane_lowers_each_group(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as world:
        await world.run(0.5)
        table, version = world.controller.table, world.controller.ledger.version
    lower = World(tmp_path, RELEASE, load=False)

    lower.controller.load((replace(table, cohorts=(("staff", 20.0),)), version + 5))
    here = lower.controller.ledger.rollout
    assert here.state is rollout.State.PAUSED
    assert here.cohorts.reached == (("staff", 20.0),)
    assert lower.controller.table.cohorts == (("staff", 20.0),)
    await lower.settle()
    await lower.controller.stop()


async def test_another_weight_of_the_step_moves_only_its_cohort(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as world:
        await world.run(0.5)
        world.file.write_text(world.whole(RELEASE.replace("weight: 50", "weight: 30")))
        world.reloader.reload("test")
        await world.run(0.5)
        assert world.controller.table.cohorts == (("staff", 30.0),)
        assert world.controller.table.weight == 0.0
