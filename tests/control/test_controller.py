"""The controller: what it publishes, in which order it writes, and what a restart goes on from."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.judging.step import HANG
from canaryproxy.measure.records import RECORDS
from canaryproxy.release import circuit, rollout

from .world import BASE, World, running

RELEASE = """
release: {id: r1, steps: [{weight: 1, bake: 1s, min_requests: 5}, {weight: 50, bake: 5s}, {weight: 100}]}
"""


def world(folder: Path, text: str = RELEASE) -> AbstractAsyncContextManager[World]:
    return running(folder, text)


def whats(made: World) -> list[str]:
    return [record.what for record in made.controller.status().history]


async def test_a_healthy_release_goes_through_its_steps_to_promotion(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        assert made.weight == 1
        for _ in range(40):
            if made.weight == 1:
                await made.run(0.1, stable=(50, 0), canary=(5, 0))
        assert made.weight == 50
        await made.run(6, stable=(25, 0), canary=(25, 0))
        assert made.weight == 100
        await made.run(3, canary=(50, 0))
        assert made.controller.status().rollout.state is rollout.State.PROMOTED
        assert whats(made) == ["started", "step", "step", "promoted"]


async def test_step_waits_for_its_users_and_says_so(tmp_path: Path) -> None:
    few = RELEASE.replace("min_requests: 5}", "min_requests: 5, min_users: 11}", 1)
    async with world(tmp_path, few) as made:
        await made.run(10, stable=(50, 0), canary=(5, 0))
        assert made.weight == 1
        status = made.controller.status()
        assert status.rollout.hold == "10 of 11 users"  # one percent of a thousand


async def test_canary_that_fails_for_its_only_user_is_not_promoted(tmp_path: Path) -> None:
    async with world(tmp_path, RELEASE.replace("weight: 1,", "weight: 0.1,")) as made:
        await made.run(6, stable=(50, 0), canary=(1, 1))
        assert made.controller.table.circuit_open
        cause = made.controller.status().circuit.cause
        assert cause is not None
        assert cause.startswith("guard rail: ")
        assert "of 1 user" in cause


async def test_a_breach_opens_the_circuit_within_the_tick(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(1, stable=(50, 0), canary=(1, 0))
        await made.run(1, stable=(50, 0), canary=(2, 2))
        assert made.controller.table.circuit_open
        assert made.weight == 0
        status = made.controller.status()
        assert status.circuit.cause is not None
        assert status.circuit.cause.startswith("error rate ")
        assert status.rollout.state is rollout.State.TRIPPED
        await made.run(5, stable=(50, 0))
        assert made.weight == 0
        record = next(record for record in status.history if record.what == "tripped")
        assert record.figures["metrics"]["errors"]["canary"][1] <= 8


async def test_a_breach_of_an_irreversible_release_moves_nobody_and_says_so(tmp_path: Path) -> None:
    text = RELEASE.replace("id: r1,", "id: r1, reversible: false,")
    async with running(tmp_path, text) as made:
        await made.run(1, stable=(50, 0), canary=(1, 0))
        weight = made.weight
        await made.run(3, stable=(50, 0), canary=(2, 2))
        status = made.controller.status()
        assert (made.weight, status.rollout.state) == (weight, rollout.State.PAUSED)
        assert weight > 0
        assert made.whats.count("breached") == 1
        assert not {"tripped", "cleared"} & set(made.whats)
        view = made.release_view
        assert view["breach"].startswith("error rate ")
        assert (view["reversible"], view["circuit"]["state"]) == (False, "closed")
    async with running(tmp_path, text) as again:
        assert (again.weight, again.release_view["state"]) == (weight, "paused")
        await again.control.act(rollout.Resume())
        assert again.release_view["breach"] is None
        await again.run(2, stable=(50, 0), canary=(2, 2))
        assert (again.weight, again.whats.count("breached")) == (weight, 2)
        again.file.write_text(again.whole(text.replace("reversible: false", "reversible: true")))
        again.reloader.reload("ann")
        await again.run(1, stable=(50, 0), canary=(2, 2))
        assert (again.weight, again.release_view["state"]) == (0, "tripped")


RAMP = "release: {id: r1, steps: [{weight: 50, bake: 1h}, {weight: 100}], ramp_down: {over: 10s}}\n"


async def test_an_abort_ramps_down_and_says_how_far_it_is(tmp_path: Path) -> None:
    async with running(tmp_path, RAMP) as made:
        await made.control.act(rollout.Abort("ann"))
        view = made.release_view
        assert (made.weight, view["state"], view["ramp_down"]) == (50, "aborting", 10.0)
        assert set(view["allowed"]) == {"abort", "trip"}
        weights = []
        for _ in range(11):
            await made.run(1, stable=(9, 0), canary=(1, 0))
            weights.append(made.weight)
        assert weights == sorted(weights, reverse=True)
        assert len(set(weights)) >= 10
        assert made.release_view["state"] == "aborted"
        assert (made.weight, made.whats[-2:]) == (0, ["aborting", "aborted"])


async def test_a_trip_in_the_middle_of_a_ramp_down_is_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, RAMP) as made:
        await made.control.act(rollout.Abort("ann"))
        await made.run(2, stable=(9, 0), canary=(1, 0))
        made.controller.act(circuit.Trip("manually by ann"))
        assert (made.weight, made.release_view["state"]) == (0, "aborted")
        await made.control.act(circuit.Reset())
        assert made.weight == 0


async def test_a_restart_in_the_middle_of_a_ramp_down_ends_it(tmp_path: Path) -> None:
    async with running(tmp_path, RAMP) as made:
        await made.control.act(rollout.Abort("ann"))
        await made.run(2, stable=(9, 0), canary=(1, 0))
        assert 0 < made.weight < 50
    async with running(tmp_path, RAMP) as again:
        assert again.weight == 0
        await again.run(1, stable=(9, 0))
        assert again.release_view["state"] == "aborted"
        assert {table.limit for table in again.plane.tables} == {0}


async def test_silence_is_not_success(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(20)
        assert made.weight == 1
        assert made.controller.status().rollout.hold
        await made.run(20, canary=(5, 0))
        assert made.weight == 1
        await made.run(20)
        await made.run(20, stable=(50, 0))
        assert made.weight == 1


async def test_what_is_acknowledged_is_in_force_whatever_else_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as made:
        controller, save = made.controller, made.controller._file.save

        def slow(document: dict[str, Any]) -> None:
            save(document)
            made_loop.call_soon_threadsafe(controller.note, "gate", "something else happens", {})
            noted.wait(60)

        made_loop, noted = asyncio.get_running_loop(), threading.Event()
        controller.subscribe(lambda _number, record: noted.set() if record.what == "gate" else None)
        monkeypatch.setattr(controller._file, "save", slow)
        try:
            await controller.act_and_save(rollout.SetWeight(30.0))
            assert made.weight == 30
        finally:
            monkeypatch.undo()
        await made.settle()
        assert made.weight == 30


async def test_a_restart_goes_on_in_the_middle_of_a_step(tmp_path: Path) -> None:
    async with world(tmp_path) as first:
        await first.run(4, stable=(50, 0), canary=(5, 0))
        assert first.weight == 50
    async with world(tmp_path) as second:
        assert second.weight == 50
        assert whats(second) == ["started", "step"]
        assert second.controller.status().rollout.step == 1


async def test_a_restart_never_exposes_users_to_a_tripped_canary(tmp_path: Path) -> None:
    async with world(tmp_path) as first:
        assert first.origin == "new"
        await first.run(1, stable=(50, 0), canary=(5, 5))
        assert first.controller.table.circuit_open
    async with world(tmp_path) as second:
        assert second.origin == "restored"
        assert all(table.limit == 0 for table in second.plane.tables)
        await second.run(5, stable=(50, 0))
        assert second.controller.table.circuit_open
        second.controller.act(circuit.Reset())
        await second.settle()
        assert second.weight == 1
        assert second.controller.status().circuit.state is circuit.State.CLOSED


async def test_a_new_release_begins_with_a_closed_circuit(tmp_path: Path) -> None:
    async with world(tmp_path) as first:
        await first.run(1, stable=(50, 0), canary=(5, 5))
    async with world(tmp_path, RELEASE.replace("r1", "r2")) as second:
        assert second.weight == 1
        assert second.controller.table.salt == b"r2"
        assert "tripped" in whats(second)
        assert whats(second)[-2:] == ["release", "started"]


@pytest.mark.parametrize("text", [b"torn {", b"{}"])
async def test_a_refused_state_file_means_stable(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(text)
    async with world(tmp_path) as made:
        assert made.origin == "refused"
        assert made.controller.table.circuit_open
        await made.run(3, stable=(50, 0), canary=(5, 0))
        assert made.weight == 0
        cause = made.controller.status().circuit.cause
        assert cause is not None
        assert str(path) in cause
        assert (tmp_path / "state.json.refused").read_bytes() == text
    async with world(tmp_path) as again:
        assert again.controller.table.circuit_open


async def test_a_file_that_is_signed_and_makes_no_sense_means_stable(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        made.controller._file.save({"release": "r1", "history": []})
        made.controller._saver._document = lambda: {"release": "r1", "history": []}
    async with world(tmp_path) as again:
        assert again.controller.table.circuit_open


async def test_weight_rises_only_when_the_disk_has_it(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        path = tmp_path / "state.json"
        path.unlink()
        path.mkdir()  # what cannot be replaced by a file
        (path / "x").write_text("")
        await made.run(4, stable=(50, 0), canary=(5, 0))
        status = made.controller.status()
        assert status.rollout.weight == 50
        assert status.unsaved is not None
        assert made.weight == 1
        (path / "x").unlink()
        path.rmdir()
        end = monotonic() + 10
        while made.weight != 50:
            assert monotonic() < end
            await asyncio.sleep(0.05)
        document: Any = json.loads(path.read_text())
        assert document["state"]["rollout"]["weight"] == 50


async def test_a_trip_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        path = tmp_path / "state.json"
        path.unlink()
        path.mkdir()
        (path / "x").write_text("")
        made.controller.act(circuit.Trip("by hand"))
        assert made.controller.table.circuit_open
        assert made.plane.tables[-1].circuit_open
        (path / "x").unlink()
        path.rmdir()


async def test_an_operator_is_refused_what_makes_no_sense(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        made.controller.act(rollout.Pause())
        with pytest.raises(rollout.Refused):
            made.controller.act(rollout.Start())
        made.controller.act(rollout.Abort())
        assert made.weight == 0


async def test_without_a_release_the_weight_holds_and_a_breach_trips(tmp_path: Path) -> None:
    async with world(tmp_path, "split: {weight: 5}") as made:
        assert made.weight == 5
        await made.run(5, stable=(50, 0), canary=(5, 0))
        assert made.weight == 5
        await made.run(2, stable=(50, 0), canary=(5, 5))
        assert made.controller.table.circuit_open


async def test_thresholds_are_published_once_the_canary_is_warm(tmp_path: Path) -> None:
    async with world(tmp_path, "split: {weight: 50}") as made:
        await made.run(1)
        assert made.controller.table.late == HANG
        await made.run(3, stable=(50, 0))
        assert made.controller.table.late == HANG
        await made.run(3, stable=(50, 0), canary=(50, 0))
        assert made.controller.table.late == pytest.approx(0.06)
        assert made.controller.table.stall_after >= 1


async def test_posted_events_hold_for_the_business_metric_and_never_trip(tmp_path: Path) -> None:
    base = BASE.replace("errors: {}, latency: {}", "errors: {}, business: {outcome: events}")
    made = World(tmp_path, "split: {weight: 50}", base=base)
    for _ in range(20):
        made.controller.post_events([PostedEvent(60, "stable"), PostedEvent(2, "canary")])
        await made.run(30, stable=(1, 0), canary=(1, 0))
    seen = made.controller.authority.assessment
    assert seen is not None
    levels = {verdict.metric: verdict.level for verdict in seen.verdicts}
    assert (levels["business"], levels["errors"]) == ("suspect", "ok")
    assert not made.controller.table.circuit_open
    await made.controller.stop()


async def test_records_that_are_dropped_are_said_on_the_page_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as made:
        await made.run(1, stable=(50, 0), canary=(5, 0))
        assert made.release_view["notice"] is None
        for number in range(RECORDS + 500):
            made.ring.add(number, 0, 0)
        made.ring.flush()
        await made.run(0.1)
        said = "dropped 500 records of requests because the control plane was late"
        assert said in (made.release_view["notice"] or "")
        assert caplog.text.count(said) == 1
        counts = made.controller.sampler.record_counts
        assert counts.dropped == 500
        assert counts.left_out > RECORDS - 10_000
        await made.run(61, stable=(50, 0), canary=(5, 0))
        assert made.release_view["notice"] is None
