"""A tick in parts is one moment: what comes in between finds it done, or not begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy import config
from canaryproxy.control.settings import first_table
from canaryproxy.control.tick_work import TickWork
from canaryproxy.release import circuit, rollout

from .world import World

RELEASE = """
release: {id: r1, steps: [{weight: 10, bake: 1s, min_requests: 5}, {weight: 50, bake: 5s}, {weight: 100}]}
"""


def _reconfigure(made: World) -> None:
    text = made.file.read_text().replace("weight: 50", "weight: 40")
    changed = config.parse(text, file="f")
    made.controller.reconfigure(changed, first_table(changed))


ACTS: dict[str, Callable[[World], object]] = {
    "trip": lambda made: made.controller.act(circuit.Trip("by hand")),
    "pause": lambda made: made.controller.act(rollout.Pause()),
    "note": lambda made: made.controller.note("reload", "something", {}),
    "reload": _reconfigure,
    "save": lambda made: made.controller._saver._document(),
    "saved": lambda made: made.controller._saver._on_saved(),
    "gates": lambda made: made.controller.gates._answered(rollout.GateAnswer(0, True, "yes")),
    "end": lambda made: made.controller.retire(),
}


async def outcome(
    folder: Path, failed: int, act: Callable[[World], object], cut: int | None
) -> tuple[Any, int]:
    """Return what has come of a tick with an act after ``cut`` of its parts (``None``: after all)."""
    made = World(folder, RELEASE, load=False)
    made.controller._work.offset = 0.0
    made.controller.load()
    await made.run(0.5, stable=(90, 0), canary=(10, 0))
    made.traffic((270, 0), (30, failed))
    made.clock += 0.1
    parts = made.controller.parts()
    number = 0
    while (cut is None or number < cut) and next(parts, parts) is None:
        number += 1
        made.clock += 0.01  # time passes: a tick is one moment all the same
    made.clock = 1000.6
    try:
        found = act(made)
    except rollout.Refused as refused:
        found = str(refused)
    for _ in parts:
        pass
    status = made.controller.status()
    await made.controller.stop()
    records = [(one.what, one.cause, one.time, dict(one.figures)) for one in status.history]
    return (records, status.assessment, made.controller.table, status.rollout, found), number


@pytest.mark.parametrize("failed", [0, 25], ids=["healthy", "failing"])
@pytest.mark.parametrize("act", ACTS)
async def test_an_act_between_two_parts_finds_the_whole_tick(
    tmp_path: Path, act: str, failed: int
) -> None:
    folders = [tmp_path / f"cut-{number}" for number in range(100)]
    for folder in folders:
        folder.mkdir()
    expected, number = await outcome(folders[0], failed, ACTS[act], None)
    assert number > 10
    assert ("tripped" in [record[0] for record in expected[0]]) is (failed > 0 or act == "trip")
    for cut in range(1, number, 5):
        found, _ = await outcome(folders[cut], failed, ACTS[act], cut)
        assert found == expected, cut


async def test_views_between_two_parts_show_the_last_whole_tick(tmp_path: Path) -> None:
    made = World(tmp_path, RELEASE)
    await made.run(0.5, stable=(90, 0), canary=(10, 0))
    before = replace(made.controller.status(), losses=None)
    made.traffic((270, 0), (30, 25))
    for _ in made.controller.parts():
        if made.controller._work.is_under_way:
            assert made.controller.status() == before
            assert made.release_view["state"] == "running"
    assert made.controller.status().circuit.state is circuit.State.OPEN
    await made.controller.stop()


def test_work_that_fails_is_over_and_keeps_nobody_from_going_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing() -> Any:
        yield
        raise RuntimeError("a defect")

    work = TickWork(lambda: 0.0)
    parts = work.in_parts(failing())
    next(parts)
    work.finish()
    assert "a defect" in caplog.text
    assert list(parts) == []
    assert not work.is_under_way


def test_work_that_calls_for_its_own_end_goes_on() -> None:
    done: list[int] = []

    def calling() -> Any:
        for part in range(3):
            work.finish()
            done.append(part)
            yield

    work = TickWork(lambda: 0.0)
    for _ in work.in_parts(calling()):
        pass
    assert done == [0, 1, 2]
