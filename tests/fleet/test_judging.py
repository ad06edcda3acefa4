"""Three proxies as processes judge as one: users whose requests reach several of them vote once each."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.measure.routing import BUCKETS, bucket_of

from ..system.processes import Proxy, answers, until, variants
from ..system.test_release import Canary, service
from .server import needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.slow]

QUICK = str(Path(__file__).with_name("quick.py"))
MORE = """
state: {folder}/state.json
release: {{id: r1, steps: [{{weight: 50, bake: 1h}}, {{weight: 100}}]}}
judge:
  {{baseline: 0s, warmup: 0s, guard_rails: false, routes: false, metrics: {{
    {metrics}, classes: false, content: false, connections: false}}}}
fleet: {{redis: "{url}", group: cart, replica: p{at}, lease: 1s}}
"""


class Quick(Proxy):
    """A proxy with short intervals."""

    COMMAND = (QUICK, "run")


class Fleet:
    """The replicas, and users who ask them."""

    def __init__(self, proxies: list[Proxy], canary: Canary) -> None:
        self.proxies = proxies
        self.canary = canary
        self._lines = [http.client.HTTPConnection("127.0.0.1", one.port) for one in proxies]

    def close(self) -> None:
        for line in self._lines:
            line.close()

    def request(self, user: str, replica: int) -> int:
        line = self._lines[replica % len(self._lines)]
        line.request("GET", "/", headers={"Cookie": f"canary_id={user}"})
        response = line.getresponse()
        response.read()
        return response.status

    def views(self) -> list[dict[str, Any]]:
        return [json.loads(one.ask("GET", "/v1/release")) for one in self.proxies]

    def users(self, metric: str) -> list[dict[str, int] | None]:
        """Return the users that each replica says to have compared."""
        return [
            one["users"]
            for view in self.views()
            for one in view["metrics"]
            if one["metric"] == metric
        ]

    def is_open(self) -> bool:
        return all(view["circuit"]["state"] == "open" for view in self.views())

    def trip(self) -> dict[str, Any]:
        """Return the record of the trip, which is the first one's."""
        found: list[dict[str, Any]] = json.loads(self.proxies[0].ask("GET", "/v1/history"))[
            "records"
        ]
        return next(one for one in found if one["what"] == "tripped")


@contextlib.contextmanager
def fleet(tmp_path: Path, metrics: str) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        stable = stack.enter_context(service(tmp_path, "stable"))
        canary = stack.enter_context(service(tmp_path, "canary"))
        proxies: list[Proxy] = []
        for at in range(3):
            folder = tmp_path / f"p{at}"
            folder.mkdir()
            more = MORE.format(folder=folder, url=redis.url, at=at, metrics=metrics)
            proxies.append(Quick(folder, variants([stable.port], [canary.port]), more))
            stack.callback(proxies[-1].end)
        for one in proxies:
            until(lambda one=one: answers(one.port), "proxy")  # type: ignore[misc]
        made = Fleet(proxies, canary)
        stack.callback(made.close)
        until(
            lambda: all(
                view["weight"] == 50 and view["fleet"]["replicas"] == 3 for view in made.views()
            ),
            "first step of three",
        )
        yield made


def people(name: str, number: int, *, canary: bool) -> list[str]:
    """Return keys of users on one side at weight 50."""
    keys = (f"{name}-{at}" for at in range(1000))
    found = [key for key in keys if (bucket_of(b"r1", key.encode()) < BUCKETS // 2) is canary]
    return found[:number]


def test_users_who_fail_at_several_replicas_vote_once_each(tmp_path: Path) -> None:
    """One of them fails at all replicas sixty times and is one vote, which trips nothing."""
    with fleet(tmp_path, "errors: {}") as made:
        made.canary.behave("500 0")  # for users whose name begins with bad
        healthy = people("good", 20, canary=True) + people("good", 20, canary=False)
        whale, *failing = people("bad", 22, canary=True)
        for at, user in enumerate(healthy):
            assert made.request(user, at) == 200
        for at in range(60):
            assert made.request(whale, at) == 500
        voted = {"stable": 20, "canary": 21, "hurt": 1}
        until(lambda: made.users("errors") == [voted] * 3, "all requests at all replicas")
        assert not any(view["circuit"]["state"] == "open" for view in made.views())
        for at, user in enumerate(failing):  # no replica has seen more than a third of them
            made.request(user, at)
        until(made.is_open, "trip")
        trip = made.trip()
        assert trip["figures"]["judged_by"] == "the records of the fleet"
        votes = re.search(r"(\d+) of \d+ users, mostly 500", trip["cause"])
        assert votes is not None, trip["cause"]
        assert 10 <= int(votes[1]) <= 22


def test_orders_that_are_posted_to_other_replicas_trip_the_fleet(tmp_path: Path) -> None:
    """An order is posted where the user's requests do not go: no replica knows both."""
    with fleet(tmp_path, "business: {outcome: events}") as made:
        buyers = people("buyer", 30, canary=False)
        users = buyers + people("buyer", 30, canary=True)
        for at, user in enumerate(users):
            made.request(user, 0 if at % 2 else 1)
        orders = [{"key": user} for user in buyers]
        deadline = time.monotonic() + 60
        while not made.is_open():
            assert time.monotonic() < deadline, made.views()[0]["metrics"]
            posted = json.loads(made.proxies[2].ask("POST", "/v1/events", orders))
            assert posted == {"accepted": 30, "by_user": 30}
            time.sleep(0.1)
        trip = made.trip()
        assert trip["figures"]["judged_by"] == "the records of the fleet"
        assert trip["cause"].startswith("conversion rate 0% on canary")
