"""A hold-back on a real proxy: 1% to 99%, a control group on stable, a regression in it, then everyone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.measure.routing import bucket_of

from .processes import Proxy, proxy, variants
from .test_release import Traffic, history, service, soon

pytestmark = pytest.mark.slow

RELEASE = """
state: {folder}/state.json
judge: {{baseline: 0s, warmup: 0s, min_users: 1, metrics: {{errors: {{}}}}}}
release:
  id: r1
  steps: [{{weight: 1, bake: 200ms, min_requests: 1}}, {{weight: 50, bake: 200ms}}, {{weight: 100}}]
  hold_back: {{share: 1%, bake: 5s}}
"""


USERS = [f"u{number}" for number in range(2000)]
HELD_BACK = [one for one in USERS if bucket_of(b"r1", one.encode()) >= 9900][:10]
OTHERS = [one for one in USERS if bucket_of(b"r1", one.encode()) < 9900][:10]


async def served(traffic: Traffic, users: list[str]) -> set[str]:
    """Let these users ask now, and return which variants responded."""
    now = Traffic(traffic.port)
    for user in users:
        await now.ask(user)
    return {name for _, _, name in now.seen}


def state(running: Proxy) -> tuple[str, float]:
    document: dict[str, Any] = json.loads(running.ask("GET", "/v1/release"))
    return document["state"], document["weight"]


def act(running: Proxy, name: str) -> None:
    running.ask("POST", f"/v1/release/{name}")


def test_a_hold_back_compares_its_control_group_trips_and_then_promotes(tmp_path: Path) -> None:
    with (
        service(tmp_path, "stable") as stable,
        service(tmp_path, "canary") as canary,
        proxy(
            tmp_path, variants([stable.port], [canary.port]), RELEASE.format(folder=tmp_path)
        ) as running,
    ):

        async def story(traffic: Traffic) -> None:
            await soon(lambda: state(running) == ("running", 99.0), "the hold-back")
            assert await served(traffic, HELD_BACK) == {"stable"}
            assert await served(traffic, OTHERS) == {"canary"}
            canary.behave("* 500 0")
            await soon(lambda: state(running)[0] == "tripped", "a trip within the hold-back")
            canary.behave("")
            assert await served(traffic, HELD_BACK + OTHERS) == {"stable"}
            act(running, "reset")
            await soon(lambda: state(running) == ("running", 99.0), "the hold-back again")
            await soon(lambda: state(running) == ("promoted", 100.0), "the promotion")
            assert await served(traffic, HELD_BACK + OTHERS) == {"canary"}
            act(running, "trip")
            await soon(lambda: state(running)[0] == "tripped", "a rollback of what was promoted")
            assert await served(traffic, HELD_BACK + OTHERS) == {"stable"}

        Traffic(running.port, rate=150.0).run(story)
        steps = [one for one in history(tmp_path) if one["what"] == "step"]
        assert [one["figures"]["weight"] for one in steps] == [50.0, 99.0, 100.0]
        assert "hold-back" in steps[1]["cause"]
        whats = [one["what"] for one in history(tmp_path)]
        assert [one for one in whats if one in ("tripped", "reset", "promoted")] == [
            "tripped",
            "reset",
            "promoted",
            "tripped",
        ]
