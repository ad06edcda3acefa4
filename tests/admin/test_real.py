"""The API of a whole proxy: what is acknowledged is so, and nobody at the admin address disturbs users."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.admin.fake import TOKEN
from tests.admin.real import Proxy, proxy
from tests.admin.test_stream import stream

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(tmp_path) as running:
        await running.wait_for(weight=5.0)
        yield running


async def test_of_operators_who_saw_the_same_one_wins(real: Proxy) -> None:
    """Ten at once on both addresses, each sure of what it saw."""
    etag = (await real.ask("GET", "/v1/release")).headers["etag"]
    answers = await asyncio.gather(
        *(
            real.ask(
                "POST",
                "/v1/release/promote",
                f'{{"by": "op{number}"}}',
                over="unix" if number % 2 else "tcp",
                If_Match=etag,
                Authorization=f"Bearer {TOKEN}",
            )
            for number in range(10, 20)
        )
    )
    (winner,) = [answer for answer in answers if answer.status == 200]
    losers = [answer for answer in answers if answer.status == 412]
    assert len(losers) == 9
    now = await real.ask("GET", "/v1/release")
    assert now.json["weight"] == winner.json["weight"]
    assert now.headers["etag"] == winner.headers["etag"]
    records = (await real.ask("GET", "/v1/history")).json["records"]
    assert [record["what"] for record in records].count("promoted") == 1


async def test_what_is_acknowledged_survives(tmp_path: Path) -> None:
    """A kill right after the answer; and no ETag of the run before fits the one after."""
    async with proxy(tmp_path) as real:
        await real.wait_for(weight=5.0)
        answer = await real.ask("PUT", "/v1/weight", '{"weight": 33}')
        assert answer.status == 200
        assert real.process is not None
        real.process.kill()
        await asyncio.to_thread(real.process.wait)
    async with proxy(tmp_path) as again:
        await again.wait_for(weight=33.0, state="paused")
        records = (await again.ask("GET", "/v1/history")).json["records"]
        assert [record["what"] for record in records].count("restart") == 1
        assert "runs again as process" in records[-1]["cause"]
        stale = await again.ask("POST", "/v1/release/promote", If_Match=answer.headers["etag"])
        assert stale.status == 412


async def test_refusals_of_the_state(real: Proxy) -> None:
    async def refused(method: str, target: str, body: str | None = None) -> str:
        before = (await real.ask("GET", "/v1/release")).headers["etag"]
        answer = await real.ask(method, target, body)
        assert answer.status == 409, answer.body
        assert (await real.ask("GET", "/v1/release")).headers["etag"] == before
        detail: str = answer.json["detail"]
        return detail

    assert "has already begun" in await refused("POST", "/v1/release/start")
    assert "nothing to reset" in await refused("POST", "/v1/release/reset")
    assert (await real.ask("POST", "/v1/release/trip", '{"cause": "no"}')).status == 200
    assert f"manually by {ME}: no" in await refused("POST", "/v1/release/trip")
    assert "tripped" in await refused("PUT", "/v1/weight", '{"weight": 50}')
    assert "tripped" in await refused("POST", "/v1/release/promote")
    assert (await real.release())["weight"] == 0.0


async def test_the_configuration_over_the_api(real: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "canaryproxy.yaml"
    text = file.read_text()
    yaml = {"Content_Type": "application/yaml"}
    broken = await real.ask("PUT", "/v1/config", text + "limts: {}\n", **yaml)
    assert broken.status == 422
    assert broken.json["errors"][0]["path"] == "limts"
    assert file.read_text() == text
    wanted = text + "limits: {idle_timeout: 33s}\n"
    tried = await real.ask("PUT", "/v1/config?dry_run=true", wanted, **yaml)
    assert tried.json == {"changed": ["limits.idle_timeout"], "restart_needed": []}
    assert file.read_text() == text
    done = await real.ask("PUT", "/v1/config?by=ann", wanted, **yaml)
    assert done.json == tried.json
    told = await real.ask("GET", "/v1/history?limit=1")
    assert told.json["records"][0]["cause"] == f"limits.idle_timeout (by ann (user {ME}))"
    assert file.read_text() == wanted
    shown = await real.ask("GET", "/v1/config")
    assert shown.json["effective"]["limits"]["idle_timeout"] == 33.0
    assert shown.headers["etag"] == done.headers["etag"]
    file.write_text(wanted + "workers: 7\n")
    read = await real.ask("POST", "/v1/reload", If_Match=done.headers["etag"])
    assert read.json == {"changed": [], "restart_needed": ["workers"]}
    file.unlink()
    gone = await real.ask("POST", "/v1/reload")
    assert gone.status == 409
    file.write_text(wanted)
    assert (await real.ask("POST", "/v1/reload")).status == 200


async def test_hostile_clients_of_the_admin_address_disturb_nobody(real: Proxy) -> None:
    """Hundreds of them: silent, slow, streaming, noisy."""
    for number in range(400):
        _, writer = await real.connect()
        writer.write(
            (
                b"",
                b"GET /v1/release HTTP/1.1\r\nX-",
                b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n[",
            )[number % 4]
        )
    await real.traffic(200)
    async with asyncio.timeout(60):
        assert (await real.ask("GET", "/v1/release", over="tcp")).status == 200
        assert (await real.ask("POST", "/v1/release/pause", over="unix")).status == 200
        async with stream(real, "unix") as client:
            assert (await client.next("release")).data["state"] == "paused"


async def test_in_a_ramp_down_users_move_to_stable_only_and_in_the_end_all(real: Proxy) -> None:
    text = (await real.ask("GET", "/v1/config")).json["text"]
    plan = "steps: [{weight: 50, bake: 5m}, {weight: 100}]\n  ramp_down: {over: 2s}\njudge:"
    changed = text[: text.index("steps:")] + plan + text.partition("judge:")[2]
    put = await real.ask("PUT", "/v1/config", changed, Content_Type="application/yaml")
    assert put.status == 200, put.body
    await real.wait_for(weight=50.0)
    before = await real.traffic(40)
    assert set(before) == {"stable", "canary"}
    assert (await real.ask("POST", "/v1/release/abort")).json["state"] == "aborting"
    async with asyncio.timeout(60):
        while (await real.release())["state"] == "aborting":
            now = await real.traffic(40)
            back = [user for user in range(40) if (before[user], now[user]) == ("stable", "canary")]
            assert not back
            before = now
    assert set(await real.traffic(40)) == {"stable"}
    records = (await real.ask("GET", "/v1/history")).json["records"]
    assert [record["what"] for record in records][-2:] == ["aborting", "aborted"]


async def test_it_ends_with_streams_open(real: Proxy) -> None:
    assert real.process is not None
    async with stream(real, "unix") as one, stream(real, "tcp") as other:
        await one.next("release")
        await other.next("release")
        real.process.kill(signal.SIGTERM)
        assert await asyncio.to_thread(real.process.wait) == 0
        for client in (one, other):
            with pytest.raises(EOFError):
                await client.next("never")


async def test_a_short_token_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short")
    file = tmp_path / "canaryproxy.yaml"
    file.write_text(
        "variants: {stable: {endpoints: ['http://127.0.0.1:9']}}\nlisten: unix:./users.sock\n"
        "admin: {socket: ./admin.sock, token_file: ./token}\nstate: ./state.json\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "canaryproxy", "run", "-c", str(file),
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode not in (0, None)
    assert b"too short" in output
    assert b"Traceback" not in output
