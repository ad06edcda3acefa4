"""Versions beside the canary on a real proxy: two canaries at once, a hold-out, a tester's rule."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.measure.routing import bucket_of
from canaryproxy.measure.user_ranges import UserRanges

from .processes import Proxy, proxy
from .test_release import Traffic, service, soon

pytestmark = pytest.mark.slow

CONFIG = """
state: {folder}/state.json
judge: {{baseline: 0s, warmup: 0s, min_users: 1, metrics: {{errors: {{}}}}}}
release: {{id: r2, steps: [{{weight: 30, bake: 1h}}, {{weight: 100}}]}}
split:
  match: [{{header: {{name: X-Try, equals: "3"}}, variant: v3}}]
"""
USERS = [f"u{number}" for number in range(2000)]
RANGES = UserRanges([40.0, 10.0])


def versions(stable: int, canary: int, v3: int, old: int) -> str:
    def at(port: int) -> list[str]:
        return [f"http://127.0.0.1:{port}"]

    release = {"id": "r3", "steps": [{"weight": 50, "bake": "1h"}, {"weight": 100}]}
    return "variants: " + json.dumps(
        {
            "stable": {"endpoints": at(stable)},
            "canary": {"endpoints": at(canary)},
            "others": {
                "v3": {"endpoints": at(v3), "share": 40, "release": release},
                "holdout": {"endpoints": at(old), "share": 10, "weight": 50},
            },
        }
    )


def expected(user: str, *, v3: float = 50.0) -> str:
    """Return the version of a user while no circuit is open; ``v3``: percent of its range."""
    key = user.encode()
    at = RANGES.of(key)
    if at == 0:
        return "v3" if bucket_of(b"r3", key) < v3 * 100 else "stable"
    if at == 1:
        return "old" if bucket_of(b"", key) < 5000 else "stable"
    return "canary" if bucket_of(b"r2", key) < 3000 else "stable"


async def served(port: int, users: list[str]) -> list[str]:
    now = Traffic(port)
    for user in users:
        await now.ask(user)
    return [name for _, _, name in now.seen]


def state(running: Proxy, of: str) -> tuple[str, float]:
    document: dict[str, Any] = json.loads(running.ask("GET", f"/v1/services/{of}/release"))
    return document["state"], document["weight"]


async def forced(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nX-Try: 3\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.rpartition(b"\r\n\r\n")[2]


def test_two_canaries_and_a_hold_out_are_released_and_tripped_apart(tmp_path: Path) -> None:
    with (
        service(tmp_path, "stable") as stable,
        service(tmp_path, "canary") as canary,
        service(tmp_path, "v3") as v3,
        service(tmp_path, "old") as old,
        proxy(
            tmp_path,
            versions(stable.port, canary.port, v3.port, old.port),
            CONFIG.format(folder=tmp_path),
        ) as running,
    ):

        async def story(traffic: Traffic) -> None:
            await soon(lambda: state(running, "default") == ("running", 30.0), "the canary's step")
            await soon(lambda: state(running, "default.v3") == ("running", 50.0), "v3's step")
            some = USERS[:60]
            assert await served(running.port, some) == [expected(user) for user in some]
            assert await forced(running.port) == b"v3"
            v3.behave("* 500 0")
            await soon(lambda: state(running, "default.v3")[0] == "tripped", "a trip of v3")
            assert await served(running.port, some) == [expected(user, v3=0.0) for user in some]
            assert state(running, "default") == ("running", 30.0)
            canary.behave("* 500 0")
            await soon(lambda: state(running, "default")[0] == "tripped", "a trip of the canary")
            assert set(await served(running.port, some)) == {"stable", "old"}

        Traffic(running.port, rate=150.0).run(story)
