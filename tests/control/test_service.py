"""What an operator sees and does: acts, the disk, gates, reloads, drills, the document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.config import ConfigError
from canaryproxy.control.drill import drill
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.saver import Unsaved
from canaryproxy.control.service import Stale
from canaryproxy.judging.verdict import Sample
from canaryproxy.measure import counters
from canaryproxy.measure.records import FLAGS_SHIFT, POSITION_MASK, POSTED, WORDS, template_of
from canaryproxy.measure.routing import VARIANTS, RouteTable, position_of
from canaryproxy.release import circuit, rollout

from .world import BASE, World, running

RELEASE = """
release: {id: r1, steps: [{weight: 10, bake: 1s, min_requests: 5}, {weight: 50, bake: 5s}, {weight: 100}]}
"""


def world(
    folder: Path, text: str = RELEASE, answer: tuple[bool, str] = (True, "yes")
) -> AbstractAsyncContextManager[World]:
    return running(folder, text, answer)


# Acts


async def test_accepting_is_recorded_with_who_and_reaches_the_judge(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(1, stable=(9, 0), canary=(1, 0))
        await made.control.act(rollout.Accept("latency_p50", "ann: more work"))
        (record,) = made.control.history(None, 1)
        assert (record["what"], record["cause"]) == (
            "accepted",
            "latency_p50 by ann: more work",
        )
        view = made.release_view
        assert view["accepted"] == ["latency_p50"]
        assert [one["metric"] for one in view["metrics"] if one["accepted"]] == ["latency_p50"]
        saved: Any = json.loads((tmp_path / "state.json").read_text())
        assert saved["state"]["rollout"]["accepted"] == ["latency_p50"]
        samples: list[Sample] = []
        made.controller.authority.observe = taking(samples)  # type: ignore[assignment]
        await made.run(0.1)
        assert samples[0].accepted == {"latency_p50"}


def taking(samples: list[Sample]) -> Callable[[Sample], Iterator[None]]:
    """Return what observes in the place of an authority, and only takes the samples."""

    def observe(sample: Sample) -> Iterator[None]:
        samples.append(sample)
        yield

    return observe


async def test_posted_events_are_refused_unless_they_are_configured(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        with pytest.raises(rollout.Refused, match="outcome: events"):
            made.control.post_events([PostedEvent(key="ann")])


async def test_a_posted_event_reaches_the_judge_with_its_position_and_no_key(
    tmp_path: Path,
) -> None:
    base = BASE.replace("errors: {}, latency: {}", "errors: {}, business: {outcome: events}")
    made = World(tmp_path, RELEASE, base=base)
    samples: list[Sample] = []
    made.controller.authority.observe = taking(samples)  # type: ignore[assignment]
    table = made.controller.table
    side = VARIANTS[table.variant_of(b"ann")]
    other = VARIANTS[1 - table.variant_of(b"ann")]
    assert made.control.post_events([PostedEvent(key="ann"), PostedEvent(3, side, "ann")]) == 4  # type: ignore[arg-type]
    with pytest.raises(rollout.Refused, match=f"on {side} now, not on {other}"):
        made.control.post_events([PostedEvent(1, other, "ann")])  # type: ignore[arg-type]
    await made.run(0.2)
    events = [word for word in samples[0].records[::WORDS] if word >> FLAGS_SHIFT == POSTED]
    assert [word & POSITION_MASK for word in events] == [position_of(table.salt, b"ann")] * 2
    assert not any(word >> FLAGS_SHIFT == POSTED for word in samples[1].records[::WORDS])
    await made.controller.stop()


async def test_only_what_is_compared_can_be_accepted(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        known = r"no metric 'latencies' is compared \(those that are: errors, latency, .*, users\)"
        await made.run(0.1)
        with pytest.raises(rollout.Refused, match=known):
            await made.control.act(rollout.Accept("latencies"))
        for name in ("errors GET /old", "answers GET /old", "users"):
            await made.control.act(rollout.Accept(name))
        assert made.release_view["accepted"] == ["answers GET /old", "errors GET /old", "users"]


async def test_records_of_a_tick_reach_the_judge_once_and_with_their_split(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(0.1)
        samples: list[Sample] = []
        made.controller.authority.observe = taking(samples)  # type: ignore[assignment]
        made.names.write(template_of(b"GET /a"), b"GET /a")
        made.write((1, 2, 3), (4, 5, 6))
        made.controller.sample()  # what else looks at the counters does not take them
        await made.run(0.2)
        assert [list(one.records) for one in samples] == [[1, 2, 3, 4, 5, 6], []]
        assert samples[0].names == {template_of(b"GET /a"): "GET /a"}
        assert (samples[0].limit, samples[0].lost) == (1000, False)
        assert samples[0].epoch == made.controller.table.epoch
        made.cells.canary[counters.FINISHED] += 9
        made.cells.canary[counters.CODES + 404] += 4
        made.cells.canary[counters.ERRORS + counters.Reason.CONNECT_REFUSED] += 2
        await made.run(0.1)
        assert samples[-1].canary["client_errors"] == (9, 4)
        assert samples[-1].canary["unreached"] == (9, 2)


async def test_an_act_is_acknowledged_when_the_disk_has_it(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.control.act(rollout.SetWeight(5.0, by="ann"))
        saved: Any = json.loads((tmp_path / "state.json").read_text())
        assert saved["state"]["rollout"]["weight"] == 5.0
        assert made.weight == 5.0
        assert made.release_view["hold"] == "weight set to 5% by ann"


async def test_more_canary_is_not_given_while_the_disk_refuses(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        made.block_disk()
        with pytest.raises(Unsaved, match="the weight will not rise"):
            await made.control.act(rollout.SetWeight(20.0))
        assert made.weight == 10.0
        with pytest.raises(Unsaved, match="in force, but a restart would forget it"):
            await made.control.act(rollout.Abort())
        assert made.weight == 0.0
        assert made.release_view["unsaved"]
        made.free_disk()


@pytest.mark.parametrize(
    "events",
    [
        (rollout.Abort(), rollout.Start()),
        (circuit.Trip("x"), circuit.Reset()),
        (circuit.Trip("x"), rollout.Abort(), circuit.Reset(), rollout.Start()),
    ],
)
async def test_no_evidence_outlives_a_start_or_a_reset(
    tmp_path: Path, events: tuple[rollout.Event | circuit.Trip | circuit.Reset, ...]
) -> None:
    async with world(tmp_path, RELEASE.replace("bake: 1s", "bake: 1h")) as made:
        await made.run(5, stable=(50, 0), canary=(5, 0))
        before = made.release_view
        assert before["judged"] > 0
        for event in events:
            await made.control.act(event)
        assert (made.release_view["judged"], made.release_view["metrics"]) == (0, [])
        await made.run(0.1)
        after = made.release_view
        assert (after["judged"], after["weight"]) == (0, 10.0)
        trials = [one["canary"]["trials"] for one in after["metrics"]]
        assert (bool(trials), set(trials)) == (True, {0})


async def test_an_act_towards_stable_is_done_although_a_step_has_passed(tmp_path: Path) -> None:
    """The operator saw 10% and answers when the release is at 50%."""
    async with world(tmp_path) as made:
        seen = made.control.etag
        await made.run(3, stable=(50, 0), canary=(5, 0))
        assert (made.weight, made.control.etag == seen) == (50.0, False)
        stale: Any = {"if_match": lambda etag: etag == seen}
        with pytest.raises(Stale):
            await made.control.act(rollout.SetWeight(60.0), **stale)
        await made.control.act(rollout.SetWeight(40.0), **stale)
        assert made.weight == 40.0
        await made.control.act(rollout.Abort(), **stale)
        assert made.weight == 0.0


async def test_a_preview_counts_the_users_seen_and_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, RELEASE.replace("bake: 1s", "bake: 1h")) as made:
        await made.run(30, stable=(50, 0), canary=(5, 0))
        before = made.control.etag
        (found,) = [one for one in made.control.previews(50.0) if one.act == "weight"]
        assert (found.before, found.after, found.asks) == (10.0, 50.0, True)
        seen = made.controller.users.count
        assert seen is not None
        assert seen > 0
        assert found.moved == round(seen * 0.4)
        (unknown,) = [
            one for one in made.control.previews(None, "latencies") if one.act == "accept"
        ]
        assert (unknown.asks, unknown.says) == (False, [])
        assert "no metric 'latencies' is compared" in (unknown.refusal or "")
        assert made.control.etag == before


async def test_of_two_operators_who_saw_the_same_one_is_stale(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        seen = made.control.etag
        await made.control.act(rollout.SetWeight(15.0), if_match=lambda etag: etag == seen)
        with pytest.raises(Stale):
            await made.control.act(rollout.Promote(), if_match=lambda etag: etag == seen)
        with pytest.raises(Stale):
            await made.control.drill("ann", if_match=lambda etag: etag == seen)
        assert made.weight == 15.0


async def test_counts_and_time_do_not_change_the_etag(tmp_path: Path) -> None:
    async with world(tmp_path, "split: {weight: 5}") as made:
        seen = made.control.etag
        await made.run(20, stable=(50, 0), canary=(5, 0))
        assert made.control.etag == seen
        made.controller.act(circuit.Trip("by hand"))
        assert made.control.etag != seen


@pytest.mark.parametrize(
    ("acts", "refused"),
    [
        ([], circuit.Reset()),
        ([circuit.Trip("x")], circuit.Trip("y")),
        ([circuit.Trip("x"), rollout.Abort()], rollout.Start()),
        ([circuit.Trip("x")], rollout.SetWeight(5)),
        ([], rollout.Resume()),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    tmp_path: Path, acts: list[Any], refused: Any
) -> None:
    async with world(tmp_path) as made:
        for act in acts:
            await made.control.act(act)
        seen, before = made.control.etag, made.weight
        with pytest.raises(rollout.Refused):
            await made.control.act(refused)
        assert (made.control.etag, made.weight) == (seen, before)


async def test_an_abort_while_tripped_then_a_reset_leave_everybody_on_stable(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, RELEASE + "\n") as made:
        await made.control.act(circuit.Trip("x"))
        await made.control.act(rollout.Abort())
        await made.control.act(circuit.Reset())
        await made.run(1, stable=(50, 0))
        assert made.weight == 0.0
        assert "start" in made.release_view["allowed"]


async def test_a_cool_down_that_ends_after_an_abort_probes_nothing(tmp_path: Path) -> None:
    text = RELEASE + "\n"
    made = World(tmp_path, text)
    made.file.write_text(made.whole(text).replace("judge:\n", "judge:\n  cooldown: 2s\n"))
    made.reloader.reload()
    await made.control.act(circuit.Trip("x"))
    await made.control.act(rollout.Abort())
    await made.run(100, stable=(50, 0))
    assert made.weight == 0.0
    await made.controller.stop()


async def test_what_is_allowed_can_be_done(tmp_path: Path) -> None:
    events: dict[str, Any] = {
        "start": rollout.Start(),
        "pause": rollout.Pause(),
        "resume": rollout.Resume(),
        "promote": rollout.Promote(),
        "abort": rollout.Abort(),
        "weight": rollout.SetWeight(3.0),
        "reset": circuit.Reset(),
        "trip": circuit.Trip("x"),
    }
    paths: list[tuple[str, ...]] = [
        (), ("pause",), ("trip",), ("trip", "abort"), ("abort",), ("promote",), ("weight",),
        ("pause", "trip"), ("abort", "start"), ("promote", "trip"), ("trip", "reset"),
    ]  # fmt: skip
    for number, path in enumerate(paths):
        for name, event in events.items():
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            async with world(folder) as made:
                for step in path:
                    await made.control.act(events[step])
                can = name in made.release_view["allowed"]
                try:
                    await made.control.act(event)
                except rollout.Refused:
                    assert not can, (path, name)
                else:
                    assert can, (path, name)


# The history


async def test_records_are_numbered_without_gaps_also_over_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        told: list[dict[str, Any]] = []
        unsubscribe = made.control.subscribe(lambda kind, value: told.append({kind: value}))
        await made.control.act(rollout.Pause())
        await made.control.act(rollout.Resume())
        unsubscribe()
        await made.control.act(rollout.Pause())
        assert [entry["record"]["id"] for entry in told] == [2, 3]
    async with world(tmp_path) as again:
        await again.control.act(rollout.Resume())
        records = again.control.history(None, 100)
        assert [record["id"] for record in records] == [1, 2, 3, 4, 5]
        assert again.control.history_id == 5
        assert [record["id"] for record in again.control.history(2, 2)] == [3, 4]
        assert [record["id"] for record in again.control.history(None, 2)] == [4, 5]
        assert again.control.history(5, 10) == []


async def until_suspect(made: World) -> None:
    """Let the canary fail until the judge suspects it."""
    await made.run(2, stable=(20, 0), canary=(20, 0))
    for _ in range(100):
        await made.run(0.1, stable=(20, 0), canary=(20, 1))
        if "suspect" in made.whats:
            break


async def test_a_suspicion_is_written_down_once_and_when_it_has_passed(tmp_path: Path) -> None:
    async with world(tmp_path, "split: {weight: 50}\nrescue: {enabled: false}") as made:
        await until_suspect(made)
        assert made.whats == ["suspect"]
        assert made.weight == 50
        await made.run(120, stable=(20, 2), canary=(20, 0))
        assert made.whats == ["suspect", "cleared"]
        assert made.control.history(None, 1)[0]["cause"] == "no suspect metric for 30 s"


async def test_a_suspicion_does_not_pass_because_of_a_trip(tmp_path: Path) -> None:
    async with world(tmp_path, "split: {weight: 50}\nrescue: {enabled: false}") as made:
        await until_suspect(made)
        await made.control.act(circuit.Trip("manually by ann"))
        await made.run(60, stable=(20, 0), canary=(0, 0))
        assert "cleared" not in made.whats


# Gates


GATED = RELEASE.replace("{id: r1,", "{id: r1, gates: [{webhook: 'http://127.0.0.1:1/'}],")


async def test_a_step_is_left_when_the_gates_let_it_pass(tmp_path: Path) -> None:
    async with world(tmp_path, GATED) as made:
        await made.run(3, stable=(50, 0), canary=(5, 0))
        assert made.weight == 50
        assert made.whats == ["started", "gate", "step"]
        question = made.questions[0]
        assert (question["step"], question["next_weight"], question["release"]) == (1, 50.0, "r1")
        assert question["metrics"]["errors"]["level"] == "ok"


async def test_gates_that_refuse_hold_the_step(tmp_path: Path) -> None:
    async with world(tmp_path, GATED, answer=(False, "office: closed")) as made:
        await made.run(10, stable=(50, 0), canary=(5, 0))
        assert made.weight == 10
        document = made.release_view
        assert document["hold"] == "office: closed"
        assert document["gate"] == {"state": "refused", "cause": "office: closed"}
        assert len(made.questions) == 1


# Reload


async def test_a_release_goes_on_through_a_reload(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(0.8, stable=(50, 0), canary=(5, 0))
        judged = made.release_view["judged"]
        made.file.write_text(made.whole(RELEASE.replace("weight: 10,", "weight: 12,")))
        assert (await made.process.reload())["changed"] == ["release.steps[0].weight"]
        assert made.weight == 12
        assert made.controller.table.salt == b"r1"
        await made.run(0.3, stable=(50, 0), canary=(5, 0))
        assert made.release_view["judged"] > judged
        assert made.whats[:3] == ["started", "weight", "reload"]


async def test_another_release_begins_with_nobody_on_the_canary(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.control.act(circuit.Trip("broken"))
        made.file.write_text(made.whole(RELEASE.replace("id: r1", "id: r2")))
        published = len(made.plane.tables)
        await made.process.reload()
        tables = made.plane.tables[published:]
        assert [(table.salt, table.limit) for table in tables] == [(b"r2", 0), (b"r2", 1000)]
        assert made.release_view["circuit"]["state"] == "closed"
        assert made.whats[-3:] == ["release", "started", "reload"]


async def test_the_history_has_who_wanted_a_reload(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        made.file.write_text(made.whole(f"{RELEASE}\nlimits: {{idle_timeout: 9s}}"))
        await made.process.reload("ann: longer")
        made.file.write_text("split: [")
        with pytest.raises(ConfigError):
            await made.process.reload("bob")
        causes = [one["cause"] for one in made.control.history(None, 2)]
        assert causes[0] == "limits.idle_timeout (by ann: longer)"
        assert causes[1].endswith("(by bob)")
        assert "bob" not in made.release_view["config"]["error"]


async def test_another_judge_means_evidence_from_the_beginning(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(0.9, stable=(50, 0), canary=(5, 0))
        made.file.write_text(made.whole(RELEASE).replace("errors: {", "errors: {margin: 2%, "))
        await made.process.reload()
        assert made.release_view["baked"] == 0.0
        await made.run(0.5, stable=(50, 0), canary=(5, 0))
        assert made.weight == 10


async def test_a_plan_without_the_step_that_it_is_on_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.run(3, stable=(50, 0), canary=(5, 0))
        assert made.weight == 50
        made.file.write_text(made.whole("release: {id: r1, steps: [{weight: 5}]}"))
        with pytest.raises(rollout.Refused, match="another id"):
            await made.process.reload()
        assert made.weight == 50
        assert "another id" in made.release_view["config"]["error"]


async def test_the_weight_of_the_file_counts_only_when_it_changes(tmp_path: Path) -> None:
    async with world(tmp_path, "split: {weight: 5}") as made:
        await made.control.act(rollout.SetWeight(8.0))
        made.file.write_text(made.whole("split: {weight: 5}\nlimits: {idle_timeout: 9s}"))
        await made.process.reload()
        assert made.weight == 8.0
        made.file.write_text(made.whole("split: {weight: 3}"))
        await made.process.reload()
        assert made.weight == 3.0


async def test_the_configuration_shows_no_secret_of_a_webhook(tmp_path: Path) -> None:
    text = "notify: [{webhook: 'https://user:pw@hooks.example/T0/secret?token=x'}]"
    async with world(tmp_path, text) as made:
        effective = json.dumps(made.process.config()["effective"])
        assert "https://hooks.example" in effective
        for secret in ("pw@", "T0", "token=x"):
            assert secret not in effective


# The drill


async def test_a_drill_trips_measures_and_resumes(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        cells = made.cells.canary
        cells[counters.ROUTED] = 40
        tripped = asyncio.Event()
        made.control.subscribe(lambda _kind, _record: tripped.set())
        task = asyncio.create_task(made.control.drill("ann"))
        await asyncio.wait_for(tripped.wait(), 60)
        assert made.controller.table.circuit_open
        cells[counters.ROUTED] += 3  # of a worker that had not heard yet
        figures = await task
        assert figures["requests_after"] == 3
        assert figures["seconds_to_last_request"] > 0.0
        assert figures["weight"] == 10.0
        assert made.weight == 10
        assert made.whats == ["started", "tripped", "stopped", "drill", "reset", "restored"]


async def test_a_drill_after_which_nobody_came_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canaryproxy.control.drill.QUIET", 0.05)
    async with world(tmp_path) as made:
        figures = await made.control.drill("ann")
        assert figures["requests_after"] == 0
        (record,) = [one for one in made.control.history(0, 100) if one["what"] == "drill"]
        assert record["cause"] == "by ann: no request reached the canary after the trip"


async def test_who_trips_in_earnest_meanwhile_is_not_reset_by_the_drill(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        tripped = asyncio.Event()
        made.control.subscribe(lambda _kind, _record: tripped.set())
        task = asyncio.create_task(made.control.drill("ann"))
        await asyncio.wait_for(tripped.wait(), 60)
        assert "trip" in made.release_view["allowed"]
        await made.control.act(circuit.Trip("checkout looks wrong"))
        assert "trip" not in made.release_view["allowed"]
        await task
        assert made.controller.table.circuit_open
        assert made.release_view["circuit"]["cause"] == "checkout looks wrong"
        assert made.whats == ["started", "tripped", "stopped", "tripped", "drill"]


async def test_a_drill_that_shows_a_leak_leaves_the_circuit_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canaryproxy.control.drill.LONGEST", 0.3)
    async with world(tmp_path) as made:
        cells = made.cells.canary

        def leaking() -> memoryview[int]:
            cells[counters.ROUTED] += 1
            return cells

        figures = await drill(made.controller, leaking, "ann")
        assert figures["seconds_to_last_request"] is None
        assert made.controller.table.circuit_open


async def test_a_drill_lasts_until_the_last_tunnel_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canaryproxy.control.drill.QUIET", 0.05)
    async with world(tmp_path) as made:
        cells = made.cells.canary
        tripped = asyncio.Event()
        made.control.subscribe(lambda _kind, _record: tripped.set())
        task = asyncio.create_task(made.control.drill("ann"))
        await asyncio.wait_for(tripped.wait(), 60)
        cells[counters.LEAVING] += 3
        await made.run(0.1)
        cells[counters.LEFT] += 2
        await asyncio.sleep(0.2)  # longer than it waits for requests
        assert not task.done()
        shown = made.release_view
        long_lived = shown["variants"]["canary"]["long_lived"]
        assert long_lived["leaving"] == 1
        assert 30.0 < long_lived["until"] - shown["time"] <= 35.0  # as `circuit` has it by default
        assert shown["variants"]["stable"]["long_lived"]["until"] is None
        cells[counters.ENDED_CLEANLY] += 2
        cells[counters.LEFT] += 1
        figures = await task
        assert (figures["connections"], figures["connections_left"]) == (3, 0)
        assert figures["seconds_to_last_connection"] > 0.2
        assert not made.controller.table.circuit_open
        await made.run(0.1)
        records = {one["what"]: one for one in made.control.history(0, 100)}
        assert "the last of 3 tunnels and streams left after " in records["drill"]["cause"]
        assert records["moved"]["figures"] == {
            "variant": "canary", "connections": 3, "seconds": 0.1, "clean": 2, "rough": 0,
        }  # fmt: skip


async def test_tunnels_that_do_not_leave_keep_the_circuit_open_after_a_drill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUIET", "LONGEST", "_LATE"):
        monkeypatch.setattr(f"canaryproxy.control.drill.{name}", 0.05)
    async with world(tmp_path) as made:
        cells = made.cells.canary

        def stuck() -> memoryview[int]:
            cells[counters.LEAVING] = 2
            return cells

        figures = await drill(made.controller, stuck, "ann", moving=0.1)
        assert figures["seconds_to_last_connection"] is None
        assert figures["connections_left"] == 2
        assert made.controller.table.circuit_open


async def test_there_is_no_drill_without_a_canary_in_use(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.control.act(rollout.Abort())
        with pytest.raises(rollout.Refused, match="no user is on the canary"):
            await made.control.drill("ann")
        assert "drill" not in made.release_view["allowed"]


# The document


async def test_the_document_is_json_in_every_state(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        made.control.sample()
        for act in (None, rollout.Pause(), circuit.Trip("x"), rollout.Abort(), circuit.Reset()):
            if act is not None:
                await made.control.act(act)
            await made.run(0.5, stable=(50, 1), canary=(5, 0))
            document = made.release_view
            assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert document["variants"]["stable"]["requests"] == 50 * 25
        assert document["variants"]["canary"]["endpoints"][0]["usable"] is True
        assert made.control.series(0.0)
        assert made.control.series(made.controller.now + 1) == []


# A controller that takes over from one that died


async def take_over(folder: Path, table: RouteTable, version: int) -> World:
    """Return the world of a second controller; ``table`` is what the workers route by."""
    made = World(folder, RELEASE, load=False)
    made.controller.load((table, version))
    await made.settle()
    return made


@pytest.mark.parametrize(
    ("weight", "is_open", "newer", "expected"),
    [
        (10.0, False, 0, (10.0, False, "running")),  # it saved all that it published
        (10.0, False, 5, (10.0, False, "running")),  # it was about to save the same
        (10.0, True, 5, (10.0, True, "tripped")),  # it had tripped, and no time to save
        (10.0, True, 0, (10.0, False, "running")),  # the file is newer: it was reset
        (0.0, False, 5, (0.0, False, "paused")),  # it had lowered the weight, and no time to save
        (0.0, False, 0, (10.0, False, "running")),  # the file is newer: the weight was to rise
    ],
)
async def test_what_was_published_and_not_saved_holds(
    tmp_path: Path, weight: float, is_open: bool, newer: int, expected: tuple[float, bool, str]
) -> None:
    async with world(tmp_path) as first:
        version = first.controller.ledger.version
    table = RouteTable(weight=weight, salt=b"r1", circuit_open=is_open)
    made = await take_over(tmp_path, table, version + newer)
    try:
        status = made.controller.status()
        assert made.plane.tables[0].salt == b"r1"
        assert made.controller.table.circuit_open is expected[1]
        assert status.rollout.state.value == expected[2]
        assert status.weight == (0.0 if expected[1] else expected[0])
        if expected[2] != "running":
            assert all(published.limit == 0 for published in made.plane.tables)
    finally:
        await made.controller.stop()


async def test_a_table_of_another_release_is_not_followed(tmp_path: Path) -> None:
    table = RouteTable(weight=90.0, salt=b"other")
    made = await take_over(tmp_path, table, 1000)
    assert [published.limit for published in made.plane.tables] == [0, 1000]
    assert made.plane.tables[0].salt == b"r1"
    await made.controller.stop()
