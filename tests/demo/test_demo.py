"""The demo: its figures add up, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, web
from rich.console import Console

from canaryproxy.demo import measured, screen
from canaryproxy.demo.story import STORY
from canaryproxy.demo.users import Seen, Users

pytestmark = pytest.mark.slow

DEADLINE = 240.0
COMMAND = [sys.executable, "-m", "canaryproxy", "demo", "--speed", "2"]


def children_of(pid: int) -> set[int]:
    """Return the pids of a process's living children."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(entry.parent.name))
    return found


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


WORDS = {"errors": "error rate", "slow": "slow responses", "empty": "empty_search"}


def test_the_demo_tells_what_became_of_a_good_release_and_of_three_bad_ones() -> None:
    done = subprocess.run(
        [*COMMAND, "--json"], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["sent"] == document["answered"] > 0
    releases = {one["name"]: one for one in document["releases"]}
    assert list(releases) == [act.name for act in STORY]
    assert all(one["users"]["back_and_forth"] == 0 for one in releases.values())
    good = releases.pop("healthy")
    # A starved machine does not come to the end in time, or does not serve both versions alike.
    starved = good["users"]["slow"] > 0
    late = good["ended_as"] == "running" and starved
    assert good["ended_as"] == "promoted" or late or "slow responses " in (good["cause"] or "")
    assert good["users"]["errors"] == good["canary"]["failed"] == 0
    for name, bad in releases.items():
        if bad["ended_as"] == "running" and starved:
            continue
        assert bad["ended_as"] == "tripped"
        if bad["rolled_back_after_seconds"] is None:  # before its fault, by such a machine
            assert "slow responses " in bad["cause"]
            continue
        assert 0 < bad["users"][name] < document["sent"] / 4
        assert any(f"{words} " in bad["cause"] for words in (WORDS[name], "slow responses"))


@asynccontextmanager
async def one_user_of(
    answer: Callable[[web.Request], Awaitable[web.Response]],
) -> AsyncIterator[tuple[Users, ClientSession]]:
    """Serve what ``answer`` says; yield users who are one, and a session without cookies of its own."""
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    users = Users(f"http://127.0.0.1:{runner.addresses[0][1]}", count=1, rate=200, seed=1)
    try:
        async with asyncio.timeout(DEADLINE), ClientSession(cookie_jar=DummyCookieJar()) as session:
            yield users, session
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("each", "at_once", "found"), [(30, 1, 1), (1, 3, 0)])
async def test_who_is_sent_back_and_forth_is_told_by_requests_that_follow_each_other(
    each: int, at_once: int, found: int
) -> None:
    """Requests that are under way at once overtake each other, and say nothing of an order."""
    versions = ["canary"] * each + ["stable"] * each + ["canary"] * each
    held: list[asyncio.Future[None]] = []

    async def answer(request: web.Request) -> web.Response:
        if "Cookie" not in request.headers:
            return web.json_response({}, headers={"Set-Cookie": "canary_id=me; Path=/"})
        version = versions.pop(0)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held.append(mine)
        await mine
        return web.json_response({"version": version})

    async with one_user_of(answer) as (users, session):
        await users._send(session, 0, "/")  # a stranger gets its cookie
        for _ in range(3 * each // at_once):
            sent = [asyncio.ensure_future(users._send(session, 0, "/")) for _ in range(at_once)]
            while len(held) < at_once:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            for _ in range(at_once):
                answered = users.seen.answered
                held.pop(0).set_result(None)
                while users.seen.answered == answered:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            await asyncio.gather(*sent)
    assert users.seen.back_and_forth == found


async def test_a_response_of_stable_in_the_canarys_place_sends_nobody_back_and_forth() -> None:
    versions = ["canary", "stable", "canary"]

    async def answer(request: web.Request) -> web.Response:
        if "Cookie" not in request.headers:
            return web.json_response({}, headers={"Set-Cookie": "canary_id=me; Path=/"})
        version = versions.pop(0)
        headers = {"X-Canary-Rescued": "1"} if version == "stable" else {}
        return web.json_response({"version": version}, headers=headers)

    async with one_user_of(answer) as (users, session):
        for _ in range(4):
            await users._send(session, 0, "/")
    assert users.seen.answered == 4
    assert users.seen.back_and_forth == 0


def test_without_a_terminal_it_prints_lines_and_a_summary() -> None:
    figures = measured.between({}, {})
    seen = Seen(sent=40, answered=40, slow=3)
    scenes = [
        screen.Scene(act, figures, seen, 1.0, 1.0, 20, "errors: " + "canary 9 of 20 failed; " * 5)
        for act in STORY
    ]
    assert [screen.plain(scene) for scene in scenes] == [
        f"{act.title}: rolled back 1.0 s after the fault, 20 canary requests;"
        " users saw 3 bad responses"
        for act in STORY
    ]
    printed = io.StringIO()
    screen.summary(Console(file=printed), scenes)
    assert "\x1b" not in printed.getvalue()
    assert "160 of 160 requests got a response" in printed.getvalue()
    assert "0 users were sent back and forth." in printed.getvalue()
    assert all(len(line) <= 80 for line in printed.getvalue().splitlines())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_it_leaves_nothing_behind(tmp_path: Path, number: int, status: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL) as demo:
        until(lambda: len(children_of(demo.pid)) == 3, "three children")
        children = children_of(demo.pid)
        demo.send_signal(number)
        assert demo.wait(DEADLINE) == status
    until(lambda: not any(map(alive, children)), "the end of its children")
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() != str(tmp_path)
