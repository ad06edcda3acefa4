"""The whole way: every command against ``canaryproxy run`` in front of the demo's services."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from tests.cli.fake import DEADLINE, command, environment, finished, line, spawn
from tests.cli.terminal import terminal
from tests.ports import free_port

pytestmark = pytest.mark.slow

ME = getpass.getuser()
TOKEN = "0123456789-abcdef"
CONFIG = """\
listen: 127.0.0.1:{port}
admin: {{socket: ./run/admin.sock, listen: "127.0.0.1:{admin}", token_env: ADMIN_TOKEN}}
variants:
  stable: {{endpoints: ["http://127.0.0.1:{stable}"]}}
  canary: {{endpoints: ["http://127.0.0.1:{canary}"]}}
split: {{sticky: {{header: X-User-Id}}}}
release:
  id: cart-2.4
  steps: [{{weight: 20, bake: 1h}}, {{weight: 50, bake: 1h}}, {{weight: 100}}]
judge: {{baseline: 0s}}
state: ./run/state.json
"""


@asynccontextmanager
async def process(*arguments: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=folder, env=environment(ADMIN_TOKEN=f"ci {TOKEN}")
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def until_answered(port: int) -> None:
    async with asyncio.timeout(DEADLINE), ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/") as answer:
                    assert answer.status == 200
                return
            except ClientError:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def users(port: int) -> AsyncIterator[None]:
    """Have some users ask all the time, also while nobody answers."""

    async def ask() -> None:
        async with ClientSession() as session:
            for number in range(10**9):
                try:
                    headers = {"X-User-Id": str(number % 100)}
                    async with session.get(f"http://127.0.0.1:{port}/", headers=headers) as answer:
                        await answer.read()
                    await asyncio.sleep(0.01)
                except ClientError:
                    await asyncio.sleep(0.02)

    asking = [asyncio.create_task(ask()) for _ in range(2)]
    try:
        yield
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_release_from_the_command_line(tmp_path: Path) -> None:
    stable, canary, port, admin = (free_port() for _ in range(4))
    (tmp_path / "c.yaml").write_text(
        CONFIG.format(stable=stable, canary=canary, port=port, admin=admin)
    )

    async def do(*arguments: str, status: int = 0, **variables: str) -> str:
        done = await command(*arguments, folder=tmp_path, **variables)
        assert done.status == status, (arguments, done)
        assert "Traceback" not in done.err
        return done.out + done.err

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        for name, where in (("stable", stable), ("canary", canary)):
            await enter(process("canaryproxy.demo.service", name, str(where), folder=tmp_path))
            await until_answered(where)
        proxy = await enter(process("canaryproxy", "run", "-c", "c.yaml", folder=tmp_path))
        await until_answered(port)
        await enter(users(port))

        shown = await do("status", "-c", "c.yaml")
        assert "cart-2.4   RUNNING   20% of users on the canary" in shown
        assert "▶ 20% ── 50% ── 100%" in shown
        assert "cart-2.4 is paused" in await do("pause", "--reason", "a look")
        assert "Nothing to do: cart-2.4 is paused" in await do("pause")
        assert "a look" in await do("history", "-n", "1")
        said = await do("accept", "latency_p99", "--reason", "slower by design")
        assert "Accept latency_p99: it no longer holds or trips" in said
        assert "latency_p99 by" in await do("history", "-n", "1")
        assert "accepted  latency_p99" in await do("status")
        assert "no metric 'latencies' is compared" in await do(
            "accept", "latencies", "--reason", "x", status=1
        )
        await do("wait", "--for", "paused")
        assert "is paused at 30% (step 1 of 3)" in await do("weight", "30")
        assert "is running" in await do("resume")
        await do("wait", "--for", "promoted", "--timeout", "300ms", status=5)

        waiting = await spawn("wait", "--for", "promoted", folder=tmp_path)
        await line(waiting, "waiting for promoted")
        assert "the canary" in await do("drill", "--yes")
        await line(waiting, "restored")
        assert "is tripped" in await do("trip", "on a hunch")
        assert (await finished(waiting)).status == 4
        shown = await do("status")
        assert "open for" in shown
        assert "on a hunch" in shown
        assert "is running" in await do("reset")

        assert "Nothing to do: cart-2.4" in await do("start", "--id", "cart-2.4")
        said = await do("start", "--id", "cart-2.5", "--reason", "build 5")
        assert "Start cart-2.5: it takes the place of cart-2.4" in said
        assert "Done: cart-2.5 is running" in said
        assert '  id: "cart-2.5"\n' in (tmp_path / "c.yaml").read_text()
        assert "release.id (by" in await do("history", "-n", "1")
        assert "expected 1 to 64 letters" in await do("start", "--id", "a b", status=2)

        over_http = ("--admin", f"127.0.0.1:{admin}")
        assert "RUNNING" in await do("status", *over_http)
        assert "--token-file" in await do("pause", *over_http, status=1)
        assert "--token-file" in await do("start", "--id", "x", *over_http, status=1)
        await do("pause", *over_http, CANARYPROXY_TOKEN=TOKEN)
        assert f"by {ME} (token ci)" in await do("history", "-n", "1")
        await do("resume", "-c", "c.yaml")

        config = (tmp_path / "c.yaml").read_text()
        (tmp_path / "c.yaml").write_text(config.replace("{weight: 50,", "{weight: many,"))
        assert "weight" in await do("reload", status=1)
        assert "the previous one stays in force" in await do("status")
        (tmp_path / "c.yaml").write_text(config.replace("{weight: 50,", "{weight: 60,"))
        assert "changed release.steps" in await do("reload")

        async with terminal("status", "--watch", folder=tmp_path) as seen:
            await seen.shows("▶ 20% ── 60% ── 100%")
            waiting = await spawn("wait", "--for", "promoted", folder=tmp_path)
            await line(waiting, "waiting for promoted")
            proxy.kill()
            await proxy.wait()
            await seen.shows("connection lost, reconnecting")
            await line(waiting, "connection lost, reconnecting")
            assert "Is it running?" in await do("status", status=3)
            proxy = await enter(process("canaryproxy", "run", "-c", "c.yaml", folder=tmp_path))
            await line(waiting, "reconnected")
            await seen.shows(lambda: "connection lost" not in seen.text)
            assert "is promoted, all users on the canary" in await do("promote")
            assert (await finished(waiting)).status == 0
            await seen.shows("PROMOTED")

        assert json.loads(await do("status", "--json"))["weight"] == 100.0
        said = await do("rollback", "checkout looks wrong")
        assert "stable must still run the version before it" in said
        assert "is tripped" in said
        assert json.loads(await do("status", "--json"))["weight"] == 0.0
        assert "is running at 20% (step 1 of 3)" in await do("reset")
        assert "is promoted, all users on the canary" in await do("promote")
        assert "is aborted" in await do("abort")
        assert "is running at 20% (step 1 of 3)" in await do("start")
        proxy.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(proxy.wait(), DEADLINE) == 0
