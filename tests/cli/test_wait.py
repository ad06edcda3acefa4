"""``wait``: what it waits for, its exit statuses, and a proxy that goes away meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.client.goal import Goal
from tests.cli.fake import Fake, command, document, finished, line, spawn, until_followed

DRILL = {"state": "open", "cause": "a drill by ann", "trips": 1, "since": 1.0, "drill": True}


@pytest.mark.parametrize(
    ("goal", "changed", "verdict"),
    [
        ("promoted", {"state": "promoted"}, "reached"),
        ("promoted", {"state": "tripped"}, "opposite"),
        ("promoted", {"state": "tripped", "circuit": DRILL}, "not yet"),
        ("promoted", {"state": "aborted"}, "opposite"),
        ("promoted", {"state": "paused"}, "not yet"),
        ("promoted", {"state": "idle", "release": None}, "not yet"),
        ("tripped", {"state": "tripped"}, "reached"),
        ("tripped", {"state": "promoted"}, "opposite"),
        ("aborted", {"state": "tripped"}, "not yet"),
        ("aborted", {"state": "promoted"}, "opposite"),
        ("paused", {"state": "paused"}, "reached"),
        ("paused", {"state": "promoted"}, "opposite"),
        ("ready", {"ready": True}, "reached"),
        ("ready", {"ready": False}, "not yet"),
        ("ready", {"state": "promoted"}, "opposite"),
        ("step=2", {}, "reached"),
        ("step=3", {}, "not yet"),
        ("step=3", {"state": "promoted"}, "reached"),
        ("step=2", {"state": "tripped"}, "opposite"),
        ("ended", {"state": "aborted"}, "reached"),
        ("ended", {"state": "tripped"}, "reached"),
        ("ended", {"state": "running"}, "not yet"),
        ("promoted", {"state": 7, "step": "x", "circuit": None}, "not yet"),
    ],
)
def test_what_a_document_means(goal: str, changed: dict[str, Any], verdict: str) -> None:
    assert Goal.of(goal).of_document(document(**changed)) == verdict


@pytest.mark.parametrize(
    ("goal", "record", "verdict"),
    [
        ("paused", {"what": "paused"}, "reached"),
        ("tripped", {"what": "tripped", "cause": "errors"}, "reached"),
        ("tripped", {"what": "tripped", "figures": {"drill": True}}, "not yet"),
        ("promoted", {"what": "tripped"}, "not yet"),
        ("step=2", {"what": "step", "figures": {"step": 3}}, "reached"),
        ("step=2", {"what": "step", "figures": {"step": 1}}, "not yet"),
        ("step=2", {"what": "step"}, "not yet"),
        ("ended", {"what": "aborted"}, "reached"),
    ],
)
def test_what_a_record_means(goal: str, record: dict[str, Any], verdict: str) -> None:
    assert Goal.of(goal).of_record(record) == verdict


async def waiting(fake: Fake, folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Begin to wait, and return when the stream is open."""
    process = await spawn("wait", *arguments, folder=folder)
    await line(process, "waiting for")
    await until_followed(fake)
    return process


async def test_wait_ends_when_the_goal_is_reached(fake: Fake, tmp_path: Path) -> None:
    process = await waiting(fake, tmp_path, "--for", "promoted")
    fake.record("step", "step 3 of 5")
    fake.change(step=3)
    await line(process, "step 3 of 5")
    fake.record("promoted", "all steps done")
    fake.change(state="promoted", weight=100.0)
    done = await finished(process)
    assert (done.status, done.err) == (0, "")
    assert "all steps done" in done.out
    assert done.out.splitlines()[-1].endswith("cart-2.4 is promoted, all users on the canary")


async def test_it_is_there_already(fake: Fake, tmp_path: Path) -> None:
    done = await command("wait", "--for", "step=2", folder=tmp_path)
    assert done.status == 0


async def test_a_release_that_was_promoted_long_ago_is_named_with_its_age(
    fake: Fake, tmp_path: Path
) -> None:
    fake.document = document(state="promoted", weight=100.0)
    fake.document["since"] = fake.document["time"] - 3 * 86400.0
    done = await command("wait", "--for", "promoted", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "cart-2.4 is promoted, all users on the canary already, 3 d ago: nothing" in done.out
    assert "name it with --release ID" in done.out
    named = await command("wait", "--for", "promoted", "--release", "cart-2.4", folder=tmp_path)
    assert (named.status, "--release" in named.out) == (0, False)
    said = json.loads((await command("wait", "--for", "promoted", "--json", folder=tmp_path)).out)
    assert (said["result"], said["already"], said["release"]["release"]) == (
        "reached", True, "cart-2.4",
    )  # fmt: skip


async def test_another_release_than_the_named_one_is_no_success(fake: Fake, tmp_path: Path) -> None:
    fake.document = document(state="promoted", weight=100.0)
    done = await command("wait", "--for", "promoted", "--release", "cart-2.5", folder=tmp_path)
    assert (done.status, done.out) == (4, "")
    assert done.err == (
        "canaryproxy: cart-2.4 is promoted, all users on the canary; cart-2.5 is not in force\n"
    )


async def test_a_wait_as_json_prints_only_the_result(fake: Fake, tmp_path: Path) -> None:
    done = await command(
        "wait", "--for", "promoted", "--timeout", "200ms", "--json", folder=tmp_path
    )
    assert done.status == 5
    said = json.loads(done.out)
    assert (said["goal"], said["result"], said["already"]) == ("promoted", "timed out", False)


async def test_it_came_for_a_moment(fake: Fake, tmp_path: Path) -> None:
    """The state is gone when the next document is made; the record tells."""
    process = await waiting(fake, tmp_path, "--for", "paused")
    fake.record("paused", "by ann")
    fake.record("resumed", "by ann")
    fake.change()
    assert (await finished(process)).status == 0


async def test_the_opposite_comes(fake: Fake, tmp_path: Path) -> None:
    process = await waiting(fake, tmp_path, "--for", "promoted")
    fake.record("tripped", "errors: canary 12 of 40")
    fake.change(state="tripped", weight=0.0)
    done = await finished(process)
    assert done.status == 4
    assert "errors: canary 12 of 40" in done.out
    assert done.err == "canaryproxy: cart-2.4 is tripped (step 2 of 5), all users on stable\n"


async def test_another_release_follows(fake: Fake, tmp_path: Path) -> None:
    process = await waiting(fake, tmp_path, "--for", "promoted")
    fake.change(release="cart-2.5", state="promoted")
    assert (await finished(process)).status == 4


async def test_a_drill_is_no_end(fake: Fake, tmp_path: Path) -> None:
    process = await waiting(fake, tmp_path, "--for", "promoted")
    fake.record("tripped", "a drill by ann", drill=True)
    fake.change(state="tripped", circuit=DRILL)
    fake.record("reset", "by ann (end of the drill)")
    fake.change(**document())
    await line(process, "by ann (end of the drill)")
    fake.change(state="promoted")
    assert (await finished(process)).status == 0


async def test_the_timeout_passes(fake: Fake, tmp_path: Path) -> None:
    done = await command("wait", "--for", "promoted", "--timeout", "200ms", folder=tmp_path)
    assert done.status == 5
    assert done.err == (
        'canaryproxy: timed out after 200ms waiting for "promoted"; cart-2.4 is running at 5% (step 2 of 5)\n'
    )


async def test_a_step_that_the_plan_does_not_have(fake: Fake, tmp_path: Path) -> None:
    done = await command("wait", "--for", "step=6", folder=tmp_path)
    assert done.status == 2
    assert "5 steps" in done.err


async def test_a_restart_of_the_proxy(fake: Fake, tmp_path: Path) -> None:
    """What happened while nobody was connected is told afterwards."""
    process = await waiting(fake, tmp_path, "--for", "promoted")
    fake.record("step", "the third")
    await line(process, "the third")
    await fake.stop()
    await line(process, "connection lost, reconnecting")
    fake.record("step", "the fourth")
    await fake.start()
    await line(process, "the fourth")
    await line(process, "reconnected")
    await until_followed(fake)
    fake.change(state="promoted")
    done = await finished(process)
    assert (done.status, done.err) == (0, "")
    assert "the third" not in done.out  # once


async def test_without_a_stream_it_asks(fake: Fake, tmp_path: Path) -> None:
    fake.streams = False
    process = await spawn("wait", "--for", "promoted", folder=tmp_path)
    await line(process, "waiting for")
    fake.record("step", "the third")
    await line(process, "the third")
    fake.change(state="promoted")
    done = await finished(process)
    assert (done.status, done.err) == (0, "")


async def test_ctrl_c_is_quiet(fake: Fake, tmp_path: Path) -> None:
    process = await waiting(fake, tmp_path, "--for", "promoted")
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert (done.status, done.out, done.err) == (130, "", "")


async def test_a_record_is_told_once_if_the_connection_breaks_after_it(
    fake: Fake, tmp_path: Path
) -> None:
    """The document that would know of it never comes."""
    process = await waiting(fake, tmp_path, "--for", "promoted")
    fake.record("step", "the third")
    await line(process, "the third")
    await fake.stop()
    await fake.start()
    await until_followed(fake)
    assert fake.requests[-1].headers["Last-Event-ID"] == "1"
    fake.change(state="promoted")
    assert (await finished(process)).status == 0
