"""A release id names one build: what has ended does not come again with another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from canaryproxy import config
from canaryproxy.control.ended import EndedReleases, canary_of, refusal_of
from canaryproxy.release import rollout
from canaryproxy.release.rollout import Refused, Rollout, State

from .world import BASE, World, running

RELEASE = "release: {id: r1, steps: [{weight: 10, bake: 1h}, {weight: 100}]}"
OTHER = "release: {id: r2, steps: [{weight: 10, bake: 1h}, {weight: 100}]}"
NEW_BUILD = "127.0.0.1:9"


def rewrite(made: World, release: str, canary: str = "127.0.0.1:2") -> None:
    made.file.write_text(made.whole(release).replace("127.0.0.1:2", canary))


@pytest.mark.parametrize("act", [rollout.Promote(), rollout.Abort()])
async def test_another_build_under_the_id_of_a_release_that_has_ended_is_refused(
    tmp_path: Path, act: rollout.Event
) -> None:
    async with running(tmp_path, RELEASE) as made:
        await made.control.act(act)
        weight = made.weight
        rewrite(made, RELEASE, NEW_BUILD)
        with pytest.raises(
            Refused, match=r"r1 was .* other endpoints .* give release.id a new value"
        ):
            await made.process.reload()
        assert made.weight == weight
        assert "give release.id a new value" in (made.reloader.error or "")
        rewrite(made, OTHER, NEW_BUILD)
        await made.process.reload()
        assert made.weight == 10.0


async def test_an_id_that_has_ended_does_not_come_back_after_another(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as made:
        await made.control.act(rollout.Promote())
        rewrite(made, OTHER)
        await made.process.reload()
        rewrite(made, RELEASE)
        with pytest.raises(
            Refused, match=r"r1 was promoted on .* another release has been in force"
        ):
            await made.process.reload()
        assert made.release_view["release"] == "r2"


async def test_the_same_build_stays_and_may_be_scaled_while_a_running_one_may_be_mended(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, RELEASE) as made:
        rewrite(made, RELEASE, NEW_BUILD)  # under way: evidence decides
        await made.process.reload()
        await made.control.act(rollout.Promote())
        rewrite(made, RELEASE, f'{NEW_BUILD}", "http://127.0.0.1:10')
        assert "variants.canary.endpoints" in (await made.process.reload())["changed"]
        assert (made.weight, made.release_view["state"]) == (100.0, "promoted")


async def test_what_has_begun_again_has_not_ended(tmp_path: Path) -> None:
    async with running(tmp_path, RELEASE) as made:
        await made.control.act(rollout.Abort())
        await made.control.act(rollout.Start())
        rewrite(made, RELEASE, NEW_BUILD)
        await made.process.reload()


async def test_it_is_remembered_across_a_restart_which_says_so_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, RELEASE) as made:
        await made.control.act(rollout.Promote())
    saved: Any = json.loads((tmp_path / "state.json").read_text())["state"]
    assert saved["ended"]["r1"]["state"] == "promoted"
    again = World(tmp_path, RELEASE, base=BASE.replace("127.0.0.1:2", NEW_BUILD))
    try:
        assert "An id names one build" in caplog.text
        assert again.control.history(None, 1)[0]["cause"].startswith(
            "release.id: r1 was promoted on"
        )
    finally:
        await again.controller.stop()
    parsed = config.parse(again.whole(RELEASE), file="c.yaml")
    assert "give release.id a new value" in (refusal_of(saved, parsed) or "")
    assert refusal_of({"release": "r1"}, parsed) is None  # a state file of before


def test_only_the_latest_are_remembered() -> None:
    found = EndedReleases()
    for number in range(300):
        found.note(f"r{number}", Rollout(State.PROMOTED, since=float(number)), ("a",))
    assert len(found.to_dict()) == 200
    assert found.refusal("r299", ("b",), None) is not None
    assert found.refusal("r0", ("b",), None) is None
    copy = EndedReleases()
    copy.restore(json.loads(json.dumps(found.to_dict())))
    assert copy.to_dict() == found.to_dict()


def test_a_release_that_tripped_after_its_end_is_still_one_that_has_ended() -> None:
    found = EndedReleases()
    found.note("r", Rollout(State.PROMOTED, since=1.0), ("a",))
    found.note("r", Rollout(State.TRIPPED, since=2.0), ("a",))
    assert found.refusal("r", ("b",), "r") is not None
    found.note("r", Rollout(State.RUNNING, since=3.0), ("a",))
    assert found.refusal("r", ("b",), "r") is None


def test_without_a_canary_there_are_no_endpoints() -> None:
    text = "variants: {stable: {endpoints: [http://a]}}"
    assert canary_of(config.parse(text, file="c")) == ()
