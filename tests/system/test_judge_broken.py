"""Canaries that are plainly broken: tripped within a few requests, and never promoted."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from .worlds import Answer, Ask, Request, Version, always, people, plain, play, world


@pytest.mark.parametrize(
    ("stable", "canary", "weight"),
    [(2, 1, 34), (148, 2, 1), (17, 3, 15)],
    ids=["one service of three", "1% of 150 users", "3 of 20 users"],
)
def test_a_canary_that_fails_for_its_few_users_hits_the_rail(
    tmp_path: Path, stable: int, canary: int, weight: float
) -> None:
    users = people(stable, canary, weight)

    def choose(source: Random) -> Ask:
        # A quarter of the requests is the canary's, so that the test need not wait for rare users.
        return Ask(source.choice(users[:canary] if source.random() < 0.25 else users))

    async def story() -> None:
        async with world(
            tmp_path, weight=weight, canary=always(500), choose=choose, rate=30, bake="10ms"
        ) as seen:
            cause = await seen.tripped()
            assert cause.startswith("guard rail: ")
            assert re.search(r"canary requests failed( in [0-9a-z. ]+)? \(100%, limit 50%, ", cause)
            assert seen.canary.requests <= 30
            view = await seen.view()
            assert (view["state"], view["weight"]) == ("tripped", 0)

    play(story())


@pytest.mark.parametrize("status", [302, 204, 401, 404])
def test_a_canary_with_one_status_for_all_is_tripped_within_twenty_requests(
    tmp_path: Path, status: int
) -> None:
    async def story() -> None:
        async with world(tmp_path, weight=5, canary=always(status), rate=100) as seen:
            cause = await seen.tripped()
            assert "canary" in cause
            assert seen.canary.requests <= 20, cause

    play(story())


def sometimes(share: float, bad: Answer) -> Version:
    luck = Random(2)
    return lambda _request: bad if luck.random() < share else Answer()


def test_a_few_more_401_are_held_and_not_tripped(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(tmp_path, weight=25, canary=sometimes(0.03, Answer(401))) as seen:
            await seen.held("4xx rate")
            await seen.passes(300)

    play(story())


@pytest.mark.parametrize("observed", [0, 600], ids=["at once", "after a while on stable"])
def test_a_dead_route_of_little_traffic_trips_and_is_named(tmp_path: Path, observed: int) -> None:
    """A route that stable was not seen to have before the step is judged with others, and named."""

    def choose(source: Random) -> Ask:
        user = f"u{source.randrange(2000)}"
        if source.random() < 0.008:
            return Ask(user, "POST", "/checkout", fields="Content-Length: 0\r\n")
        return Ask(user, path=f"/items/{source.randrange(100)}")

    def dead(request: Request) -> Answer:
        return Answer(500) if request.path == "/checkout" else plain(request)

    async def story() -> None:
        async with world(
            tmp_path, weight=25, choose=choose, rate=250, canary=dead, observed=observed
        ) as seen:
            cause = await seen.tripped(60)
            assert cause.startswith("error rate on ")
            assert "POST /checkout" in cause
            assert seen.users.statuses[500] <= 25

    play(story())
