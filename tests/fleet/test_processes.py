"""Five proxies as processes, with users, over a real Redis that is killed under them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.runtime.workers import is_alive

from ..faults.users import Users
from ..system.accounts import Accounts
from ..system.processes import Proxy, answers, until, variants
from ..system.test_hot_restart import ask, end, end_all, handed_over
from ..system.test_release import service
from .server import needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.slow]

AWAY = float(os.environ.get("REDIS_AWAY", "2"))
"""Seconds for which Redis is gone."""

RELEASE = """
state: {folder}/state.json
release: {{id: r1, steps: [{{weight: 20, bake: 1h}}, {{weight: 100}}]}}
judge: {{baseline: 0s}}
fleet: {{redis: "{url}", group: cart, replica: p{at}, lease: 1s}}
"""


def release(proxy: Proxy) -> dict[str, Any]:
    """Return the release document over the admin socket."""
    connection = http.client.HTTPConnection("admin")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    try:
        connection.sock.connect(str(proxy.socket))
        connection.request("GET", "/v1/release")
        document: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return document


def test_five_proxies_one_release(tmp_path: Path) -> None:
    """Redis dies and comes back empty, the leader is killed, the canary breaks: one release all along."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        stable = stack.enter_context(service(tmp_path, "stable"))
        canary = stack.enter_context(service(tmp_path, "canary"))
        proxies: list[Proxy] = []
        for at in range(5):
            folder = tmp_path / f"p{at}"
            folder.mkdir()
            more = RELEASE.format(folder=folder, url=redis.url, at=at)
            proxies.append(Proxy(folder, variants([stable.port], [canary.port]), more))
            stack.callback(proxies[-1].end)
        for one in proxies:
            until(lambda one=one: answers(one.port), "proxy")  # type: ignore[misc]
        users = {one.pid: Users(one.port, 4, pause=0.02) for one in proxies}

        def every(condition: Callable[[dict[str, Any]], object]) -> bool:
            return all(condition(release(one)) for one in proxies)

        until(lambda: every(lambda found: found["weight"] == 20), "first step")
        until(lambda: every(lambda found: found["fleet"]["replicas"] == 5), "five")
        for crowd in users.values():
            stack.enter_context(crowd)
        # Redis is killed under load: nothing fails, nothing is promoted.
        redis.kill()
        until(lambda: every(lambda found: not found["fleet"]["connected"]), "away")
        time.sleep(AWAY)
        assert every(lambda found: found["weight"] == 20)
        # It is back, empty: one consistent state.
        redis.start()
        back = time.monotonic()
        until(lambda: every(lambda found: found["fleet"]["connected"]), "connected")
        until(lambda: every(lambda found: found["fleet"]["leader"]), "leader")
        until(lambda: len({release(one)["fleet"]["version"] for one in proxies}) == 1, "one")
        took = time.monotonic() - back
        print(f"one state and a leader {took:.2f} s after Redis was back, away for {AWAY:g} s")
        # The leader is killed: another one leads.
        first = until(
            lambda: next((one for one in proxies if release(one)["fleet"]["leads"]), None),
            "a replica that says that it leads",
        )
        assert first is not None
        users[first.pid].stop()
        first.kill(signal.SIGKILL)
        proxies.remove(first)
        until(lambda: any(release(one)["fleet"]["leads"] for one in proxies), "another")
        assert every(lambda found: found["weight"] == 20)
        # The canary breaks: everybody leaves it.
        for crowd in users.values():
            assert crowd.seen.keys() == {200}
        canary.behave("* 500 0")
        until(lambda: every(lambda found: found["circuit"]["state"] == "open"), "trip")
        for crowd in users.values():
            crowd.stop()
        answered = sum(crowd.seen.total() for crowd in users.values())
        assert answered > 500
        assert not any(crowd.cut for crowd in users.values())
        print(f"{answered:,} answers, none lost")


def test_a_fleet_whose_processes_are_replaced(tmp_path: Path) -> None:
    """Each replica hands over to another process, one loses the process that steers: nobody notices."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        stable = stack.enter_context(service(tmp_path, "stable"))
        canary = stack.enter_context(service(tmp_path, "canary"))
        proxies: list[Proxy] = []
        for at, workers in enumerate((1, 2)):
            folder = tmp_path / f"p{at}"
            folder.mkdir()
            more = RELEASE.format(folder=folder, url=redis.url, at=at) + f"workers: {workers}\n"
            proxies.append(Proxy(folder, variants([stable.port], [canary.port]), more))
            stack.callback(end_all, folder / "proxy.yaml")
            stack.callback(proxies[-1].end)
        for one in proxies:
            until(lambda one=one: answers(one.port), "proxy")  # type: ignore[misc]

        def is_one(replicas: int = 2) -> bool:
            found = [ask(one) for one in proxies]
            return (
                all(
                    document["weight"] == 20
                    and document["fleet"]["connected"]
                    and document["fleet"]["replicas"] == replicas
                    for document in found
                )
                and [document["fleet"]["leads"] for document in found].count(True) == 1
            )

        until(is_one, "a fleet")
        with contextlib.ExitStack() as under_load:
            loads = [under_load.enter_context(Accounts(one.port)) for one in proxies]
            for one in proxies:
                old = ask(one)["main_pid"]
                os.kill(old, signal.SIGUSR2)
                handed_over(one, old)
                until(lambda old=old: not is_alive(old), "the end of the old one")  # type: ignore[misc]
                until(is_one, "one release")
            second = proxies[1]
            steering = ask(second)["pid"]
            assert steering != ask(second)["main_pid"]
            end(steering)
            until(lambda: ask(second)["pid"] != steering, "another that steers")
            until(is_one, "one release")
        for load in loads:
            load.check()
        canary.behave("* 500 0")
        with contextlib.ExitStack() as under_load:
            for one in proxies:
                under_load.enter_context(Accounts(one.port))
            until(lambda: all(ask(one)["circuit"]["state"] == "open" for one in proxies), "trip")
