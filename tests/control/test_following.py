"""A proxy that follows a front: whose users are compared, what trips, and what a restart goes on from."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.state_file import StateFile
from canaryproxy.measure import counters
from canaryproxy.measure.followed import epoch_of, name_of, pack
from canaryproxy.measure.records import ENDED, FAILED, pack_first, pack_third, template_of
from canaryproxy.measure.routing import CANARY, FINE
from canaryproxy.release import circuit, rollout

from .world import USERS, World, running

FOLLOW = "split: {weight: 0, follow: {from: [10.0.0.0/8]}}\n"


class Front:
    """Users of a front, as the records of the proxy behind it have them."""

    def __init__(self, made: World, release: str, limit: int) -> None:
        self.made = made
        self.release = release
        self.limit = limit
        made.names.write(template_of(name_of(release)), name_of(release))

    def traffic(self, failed: int = 0) -> None:
        """Every user sends a request; ``failed`` in a hundred of the canary's fail."""
        made = self.made
        made.write(pack(self.release, self.limit))
        epoch = epoch_of(self.release, self.limit)
        for at, position in enumerate(USERS):
            variant = int(position < self.limit * FINE)
            if variant and made.controller.table.circuit_open:
                continue  # stable answers, and nothing is compared
            fails = variant and at % 100 < failed
            flags, status = (ENDED | FAILED, 500) if fails else (ENDED, 200)
            first = pack_first(position, variant, epoch, status, 0, flags)
            made.write((first, 0, pack_third(0.01, 100)))
            cells = made.cells.variants[variant]
            cells[counters.ROUTED] += 1
            cells[counters.FINISHED] += 1
            cells[counters.FAILED] += bool(fails)

    async def run(self, ticks: int, failed: int = 0) -> None:
        for _ in range(ticks):
            self.traffic(failed)
            await self.made.run(0.1)


async def test_users_are_compared_as_the_front_has_randomised_them(tmp_path: Path) -> None:
    async with running(tmp_path, FOLLOW) as made:
        await Front(made, "web-1", 500).run(10)
        status = made.controller.status()
        assert status.front is not None
        assert (status.front.release, status.front.weight) == ("web-1", 5.0)
        assert status.weight == 0  # what goes by the split here
        assert status.assessment is not None
        assert status.assessment.users == 50
        (record,) = status.history
        assert record.cause == "follows release web-1 of the front"


async def test_a_canary_behind_that_fails_opens_the_circuit_here(tmp_path: Path) -> None:
    async with running(tmp_path, FOLLOW) as made:
        front = Front(made, "web-1", 500)
        await front.run(10)
        await front.run(10, failed=100)
        assert made.controller.table.circuit_open
        (tripped,) = [one for one in made.controller.status().history if one.what == "tripped"]
        assert tripped.figures["weight"] == 5.0
        assert tripped.figures["release"] == "web-1"
        await front.run(30)
        assert made.controller.table.circuit_open
        assert made.whats.count("tripped") == 1
        await made.controller.act_and_save(circuit.Reset("operator"))
        assert not made.controller.table.circuit_open
        assert made.controller.status().rollout.state is rollout.State.IDLE
        await front.run(10)
        assert not made.controller.table.circuit_open


async def test_a_canary_without_users_of_the_front_trips_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, FOLLOW) as made:
        front = Front(made, "web-1", 0)
        await front.run(5)
        for _ in range(20):  # direct requests, or match rules: none is randomised
            cells = made.cells.variants[CANARY]
            cells[counters.ROUTED] += 10
            cells[counters.FINISHED] += 10
            cells[counters.FAILED] += 10
            await made.run(0.1)
        assert not made.controller.table.circuit_open


async def test_another_release_of_the_front_is_judged_afresh(tmp_path: Path) -> None:
    async with running(tmp_path, FOLLOW) as made:
        await Front(made, "web-1", 500).run(5)
        judged = made.controller.status().assessment
        assert judged is not None
        assert judged.judged > 0
        await Front(made, "web-2", 100).run(3)
        fresh = made.controller.status().assessment
        assert fresh is not None
        assert fresh.users == 10
        causes = [one.cause for one in made.controller.status().history]
        assert causes == [f"follows release web-{number} of the front" for number in (1, 2)]


async def test_a_restart_goes_on_with_the_evidence(tmp_path: Path) -> None:
    async with running(tmp_path, FOLLOW) as made:
        await Front(made, "web-1", 500).run(10)
    assert StateFile(tmp_path / "state.json").load()["front"] == "web-1"  # type: ignore[index]
    again = World(tmp_path, FOLLOW)
    assert again.origin == "restored"
    front = Front(again, "web-1", 500)
    await front.run(2)
    await asyncio.sleep(0)
    assert again.whats.count("release") == 1
    seen = again.controller.status().assessment
    assert seen is not None
    assert seen.judged > 50 * 10
    await again.controller.stop()


async def test_events_of_users_are_the_fronts_to_take(tmp_path: Path) -> None:
    async with running(tmp_path, FOLLOW) as made:
        with pytest.raises(rollout.Refused, match=r"split\.follow"):
            made.controller.post_events([PostedEvent(key="u")])
        assert made.controller.post_events([PostedEvent(variant="canary")]) == 0
