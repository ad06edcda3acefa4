"""What a person sees: ``status --watch`` and questions, in a real terminal of 80 by 24."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake import Fake, command, document, finished, line, spawn, until_followed
from tests.cli.terminal import CTRL_C, terminal


async def test_a_live_screen(fake: Fake, tmp_path: Path) -> None:
    fake.record("started", "by ann")
    async with terminal("status", "--watch", folder=tmp_path) as seen:
        await seen.shows("by ann")
        assert "cart-2.4   RUNNING   5% of users on the canary" in seen.text
        assert "▶ 5%" in seen.text
        assert len(seen.screen.display) == 24
        await until_followed(fake)
        fake.record("step", "the third step")
        fake.change(step=3, weight=25.0)
        await seen.shows("the third step")
        await seen.shows("✓ 5% ── ▶ 25%")
        state = seen.screen.buffer[0][12]
        assert (state.bg, state.data) == ("green", "R")
        cells = [cell for row in seen.screen.buffer.values() for cell in row.values()]
        colours = [cell.fg for cell in cells if cell.data == "▶"]
        assert colours == ["green"]
        fake.change(state="tripped", weight=0.0)
        await seen.shows("TRIPPED")
        assert seen.screen.buffer[0][12].bg == "red"
        seen.type(CTRL_C)
        assert await seen.ends() == 0
        await seen.shows("TRIPPED")  # it is left behind
        assert "Traceback" not in seen.text
        assert b"\x1b[?1049l" in seen.raw
        assert b"\x1b[?25h" in seen.raw  # the cursor is back


async def test_a_lost_connection_keeps_the_figures_until_it_is_back(
    fake: Fake, tmp_path: Path
) -> None:
    async with terminal("status", "--watch", folder=tmp_path) as seen:
        await seen.shows("RUNNING")
        await until_followed(fake)
        await fake.stop()
        await seen.shows("connection lost, reconnecting")
        assert "RUNNING" in seen.text
        assert "195" in seen.text
        await fake.start()
        await seen.shows(lambda: "connection lost" not in seen.text)
        await until_followed(fake)
        fake.change(state="promoted", weight=100.0)
        await seen.shows("PROMOTED")
        seen.type(CTRL_C)
        assert await seen.ends() == 0


async def test_watch_follows_the_size_of_the_terminal(fake: Fake, tmp_path: Path) -> None:
    async with terminal("status", "--watch", folder=tmp_path) as seen:
        await seen.shows("RUNNING")
        await until_followed(fake)
        seen.resize(120, 30)
        fake.change(weight=6.0)
        await seen.shows("canary errors 0.6× to 1.4× stable's rate")


async def test_watch_without_color_uses_ascii_and_default_colors(
    fake: Fake, tmp_path: Path
) -> None:
    async with terminal("status", "--watch", folder=tmp_path, NO_COLOR="1", LANG="C") as seen:
        await seen.shows("> 5%")
        cells = [cell for row in seen.screen.buffer.values() for cell in row.values()]
        assert {cell.fg for cell in cells} == {"default"}
        assert {cell.bg for cell in cells} == {"default"}
        assert seen.text.isascii()


TRIPPED = {**document()["circuit"], "state": "open", "cause": "errors"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("promote", {}),
        ("drill", {}),
        ("resume", {"state": "paused"}),
        ("start", {"state": "aborted", "weight": 0.0}),
        ("reset", {"state": "tripped", "weight": 0.0, "circuit": TRIPPED}),
    ],
)
async def test_it_asks_where_it_is_dangerous(
    fake: Fake, tmp_path: Path, name: str, changed: dict[str, Any]
) -> None:
    fake.document = document(**changed)
    async with terminal(name, folder=tmp_path) as seen:
        await seen.shows("Continue? [y/N]:")
        seen.type("n\r")
        assert await seen.ends() == 1
        await seen.shows("Cancelled; nothing changed.")
    async with terminal(name, folder=tmp_path) as seen:
        await seen.shows("Continue? [y/N]:")
        assert await seen.interrupted() == 130
        assert "Aborted" not in seen.text
    assert fake.changes == []
    async with terminal(name, folder=tmp_path) as seen:
        await seen.shows("Continue? [y/N]:")
        seen.type("y\r")
        assert await seen.ends() == 0
    fake.document = document(**changed)
    async with terminal(name, "--yes", folder=tmp_path) as seen:
        assert await seen.ends() == 0
        assert "Continue?" not in seen.text
    assert len(fake.changes) == 2


async def test_what_takes_users_off_the_canary_does_not_ask(fake: Fake, tmp_path: Path) -> None:
    async with terminal("weight", "6", folder=tmp_path) as seen:
        await seen.shows("Continue? [y/N]:")
    for arguments in (["weight", "4"], ["trip"], ["pause"], ["abort"]):
        fake.document = document()
        async with terminal(*arguments, folder=tmp_path) as seen:
            assert await seen.ends() == 0


async def test_lines_where_there_is_no_terminal(fake: Fake, tmp_path: Path) -> None:
    process = await spawn("status", "--watch", folder=tmp_path)
    await line(process, "cart-2.4 is running at 5% (step 2 of 5); circuit closed; judge: ok")
    await until_followed(fake)
    fake.change(requests=131, hold="131 of 1000 requests")  # figures are no change
    fake.record("suspect", "errors \x1b[31m look odd")
    fake.change(level="suspect")
    await line(process, "errors \ufffd[31m look odd")
    await line(process, "judge: suspect")
    await fake.stop()
    await line(process, "connection lost, reconnecting")
    await fake.start()
    await line(process, "reconnected")
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert (done.status, done.out, done.err) == (0, "", "")


async def test_watch_prints_a_json_line_for_each_change(fake: Fake, tmp_path: Path) -> None:
    process = await spawn("status", "--watch", "--json", folder=tmp_path)
    assert json.loads(await line(process, "{")) == fake.document
    await until_followed(fake)
    fake.change(weight=7.0)
    assert json.loads(await line(process, "{"))["weight"] == 7.0
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).status == 0


async def test_status_as_json(fake: Fake, tmp_path: Path) -> None:
    done = await command("status", "--json", folder=tmp_path)
    assert done.status == 0
    assert json.loads(done.out) == fake.document
