"""A hold-back on a real proxy: 1% to 99%, a control group on stable, a regression in it, then everyone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .processes import Proxy, proxy, variants
from .test_release import Traffic, history, service, soon

pytestmark = pytest.mark.slow

RELEASE = """
state: {folder}/state.json
judge: {{baseline: 0s, warmup: 0s, min_users: 1, metrics: {{errors: {{}}}}}}
release:
  id: r1
  steps: [{{weight: 1, bake: 200ms, min_requests: 1}}, {{weight: 50, bake: 200ms}}, {{weight: 100}}]
  hold_back: {{share: 1%, bake: 3s}}
"""


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
            begun = len(traffic.seen)
            await soon(lambda: len(traffic.seen) > begun + 280, "traffic")
            served = Counter(name for _, _, name in traffic.seen[begun + 80 :])
            assert 0 < served["stable"] < served["canary"] / 10
            canary.behave("* 500 0")
            await soon(lambda: state(running)[0] == "tripped", "a trip within the hold-back")
            canary.behave("")
            begun = len(traffic.seen)
            await soon(lambda: len(traffic.seen) > begun + 100, "traffic after the trip")
            assert {name for _, _, name in traffic.seen[begun + 50 :]} == {"stable"}
            act(running, "reset")
            await soon(lambda: state(running) == ("running", 99.0), "the hold-back again")
            await soon(lambda: state(running) == ("promoted", 100.0), "the promotion")
            begun = len(traffic.seen)
            await soon(lambda: len(traffic.seen) > begun + 200, "traffic after the promotion")
            assert {name for _, _, name in traffic.seen[begun + 100 :]} == {"canary"}
            act(running, "trip")
            await soon(lambda: state(running)[0] == "tripped", "a rollback of what was promoted")
            begun = len(traffic.seen)
            await soon(lambda: len(traffic.seen) > begun + 100, "traffic after the rollback")
            assert {name for _, _, name in traffic.seen[begun + 50 :]} == {"stable"}

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
