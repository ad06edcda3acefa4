"""Two proxies of two services over a real Redis: a trip reaches the same service of the other proxy only."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from ..system.processes import Proxy, answers, until
from ..system.test_hot_restart import end_all
from ..system.test_release import service
from .server import needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.slow]

RELEASE = {"id": "r1", "steps": [{"weight": 20, "bake": "1h"}, {"weight": 100}]}
MORE = """
state: {folder}/state.json
judge: {{baseline: 0s}}
fleet: {{redis: "{url}", group: shops, replica: p{at}, lease: 1s}}
"""


def view(proxy: Proxy, name: str) -> Any:
    return json.loads(proxy.ask("GET", f"/v1/services/{name}/release"))


def test_a_trip_reaches_the_same_service_of_the_other_proxy_only(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        stable = stack.enter_context(service(tmp_path, "stable"))
        canary = stack.enter_context(service(tmp_path, "canary"))
        variants = {
            "stable": {"endpoints": [f"http://127.0.0.1:{stable.port}"]},
            "canary": {"endpoints": [f"http://127.0.0.1:{canary.port}"]},
        }
        section = "services: " + json.dumps(
            {
                name: {"hosts": [f"{name}.test"], "variants": variants, "release": RELEASE}
                for name in ("cart", "shop")
            }
        )
        proxies: list[Proxy] = []
        for at in range(2):
            folder = tmp_path / f"p{at}"
            folder.mkdir()
            more = MORE.format(folder=folder, url=redis.url, at=at)
            proxies.append(Proxy(folder, section, more))
            stack.callback(end_all, folder / "proxy.yaml")
            stack.callback(proxies[-1].end)
        for one in proxies:
            until(lambda one=one: answers(one.port) and one.serves(), "proxy")  # type: ignore[misc]

        def all_at(name: str, circuit: str, weight: float) -> bool:
            found = [view(one, name) for one in proxies]
            return all(
                (document["circuit"]["state"], document["weight"]) == (circuit, weight)
                and document["fleet"]["connected"]
                and document["fleet"]["replicas"] == len(proxies)
                for document in found
            )

        for name in ("cart", "shop"):
            until(lambda name=name: all_at(name, "closed", 20.0), f"{name} on its first step")  # type: ignore[misc]
        proxies[0].ask("POST", "/v1/services/cart/release/trip", {"cause": "a test"})
        until(lambda: all_at("cart", "open", 0.0), "the trip everywhere")
        assert {view(one, "shop")["circuit"]["state"] for one in proxies} == {"closed"}
        until(lambda: all_at("shop", "closed", 20.0), "the other service as before")
