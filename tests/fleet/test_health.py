"""Health checks in a fleet: each replica checks for itself, and what is out at any of them holds the step."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest

from ..faults.users import Users
from ..system.processes import Proxy, answers, until
from ..system.test_health import servers, states
from .server import needs_redis, redis_server
from .test_processes import release

pytestmark = [needs_redis, pytest.mark.slow]


def test_an_endpoint_that_fails_the_checks_of_one_replica_holds_the_step_of_all(
    tmp_path: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        stable, *canary = stack.enter_context(servers(3))
        own, *urls = [f"http://127.0.0.1:{one.server_port}" for one in (stable, *canary)]
        canary[0].healthy = False

        def replica(name: str, path: str) -> Proxy:
            folder = tmp_path / name
            folder.mkdir()
            health = f"{{path: '{path}', interval: 50ms, timeout: 5s, rise: 2, fall: 2}}"
            variants = (
                f"variants: {{stable: {{endpoints: ['{own}']}},"
                f" canary: {{endpoints: {urls}, health: {health}}}}}"
            )
            more = (
                f"state: {folder}/s.json\njudge: {{baseline: 0s, warmup: 0s, min_users: 1}}\n"
                "release: {id: r1, steps: [{weight: 50, bake: 200ms, min_requests: 5},"
                " {weight: 60, bake: 1h}, {weight: 100}]}\n"
                f"fleet: {{redis: '{redis.url}', group: g, replica: {name}, lease: 1s}}\n"
            )
            made = Proxy(folder, variants, more)
            stack.callback(made.end)
            until(lambda: answers(made.port), "a proxy")
            return made

        sees_it = replica("sees", "/healthz")
        down = "down check failed: status 503, wanted 2xx"
        until(lambda: states(sees_it) == ["up", down, "up"], "the check")
        said = f"1 of 2 canary endpoints is out of service: {urls[0]} (check failed: status 503, wanted 2xx)"
        until(lambda: release(sees_it)["weight"] == 50, "the first step")
        # The other's check is another one and passes; it leads once the first is gone for a while.
        other = replica("other", "/healthz?of=other")
        until(lambda: release(other)["fleet"]["replicas"] == 2, "both")
        sees_it.kill(signal.SIGSTOP)
        until(lambda: release(other)["fleet"]["leads"], "another leader")
        sees_it.kill(signal.SIGCONT)
        until(
            lambda: (release(sees_it)["fleet"]["leader"] or "").startswith("other"),
            "that it follows",
        )
        with Users(sees_it.port, 2), Users(other.port, 2):
            until(
                lambda: str(release(other)["hold"]).startswith(f"{said} (at replica sees:"), "hold"
            )
            until(lambda: release(other)["judged"] >= 40, "requests that would be enough")
            assert release(other)["weight"] == 50
            assert states(other) == ["up", "up", "up"], "its own checks pass"
            before = canary[0].requests
            until(lambda: canary[0].requests >= before + 5, "requests from the other replica")
            assert json.loads(other.ask("GET", "/v1/release"))["verdict"]["kind"] == "held"
            canary[0].healthy = True
            until(lambda: release(sees_it)["weight"] == 60, "the next step")
