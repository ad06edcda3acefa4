"""Canaries that are not there yet, or slow at first, are waited for; those that stay so are left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from .worlds import (
    Answer,
    Ask,
    Request,
    Version,
    hang,
    people,
    plain,
    play,
    reasons,
    slow_by,
    world,
)


def test_a_canary_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(tmp_path, weight=25, late=True) as seen:
            await seen.held("the canary is not up yet: no connection for ")
            await asyncio.sleep(3.0)
            await seen.held("the canary is not up yet: no connection for ")
            assert set(seen.users.statuses) == {200}, "stable answers in its place"
            await seen.canary.listen()
            view = await seen.passes(300)
            assert "not up" not in reasons(view)

    play(story())


def test_a_canary_that_never_listens_is_left(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(tmp_path, weight=25, late=True, judge="not_up: 4s") as seen:
            assert await seen.tripped() == "the canary has not accepted a connection for 4 s"
            assert set(seen.users.statuses) == {200}

    play(story())


def cold(answers: int) -> Version:
    return lambda request: Answer(delay=1.2 if request.number < answers else 0.0)


def test_a_canary_whose_first_answers_are_slow_is_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(tmp_path, weight=10, canary=cold(20), observed=200, warmup="4s") as seen:
            await seen.held("warming up: ")
            await seen.passes(150)
            await seen.until(lambda view: "warming up" not in reasons(view), "warm")
            await seen.passes(50)

    play(story())


def test_a_canary_that_is_slow_for_a_while_is_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(
            tmp_path, weight=10, canary=slow_by(1.2), observed=200, warmup="12s"
        ) as seen:
            await seen.held("warming up: ")
            await asyncio.sleep(6.0)
            await seen.held("warming up: ")
            seen.canary.version = plain
            await seen.until(lambda view: "warming up" not in reasons(view), "warm")
            await seen.passes(100)

    play(story())


def test_a_canary_that_stays_slow_is_tripped(tmp_path: Path) -> None:
    async def story() -> None:
        async with world(
            tmp_path, weight=10, canary=slow_by(1.2), observed=200, warmup="4s"
        ) as seen:
            await seen.held("warming up: ")
            assert "slow responses " in await seen.tripped(60)

    play(story())


def test_a_quiet_canary_that_hangs_is_held_at_once_and_tripped(tmp_path: Path) -> None:
    """Few requests, and their users leave before any time limit of the proxy."""

    def choose(source: Random) -> Ask:
        return Ask(source.choice(USERS), patience=3.0)

    async def story() -> None:
        async with world(
            tmp_path, weight=50, canary=hang, choose=choose, rate=3, bake="10ms"
        ) as seen:
            lost = seen.users.left
            await seen.until(lambda _: lost.total() >= 3, "lost requests")
            await seen.until(lambda view: view["hold"] and view["level"] != "ok", "hold", 20)
            assert "canary" in await seen.tripped(60)
            assert lost.total() <= 25  # twenty, and those in flight

    play(story())


USERS = people(10, 10, 50)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_answers_without_a_body_are_no_trials_of_rules_about_bodies(
    tmp_path: Path, method: str
) -> None:
    """Clients of the canary ask by HEAD or have the page in their cache, and nothing is wrong with that."""

    def cached(_request: Request) -> Answer:
        return Answer(304) if method == "GET" else Answer()

    async def story() -> None:
        async with world(
            tmp_path,
            weight=25,
            stable=cached,
            canary=cached,
            choose=lambda source: Ask(f"u{source.randrange(500)}", method),
            judge="outcomes: {short: {bad: true, when: {body_under: 1KB}}}",
        ) as seen:
            view = await seen.passes(200)
            (short,) = (metric for metric in view["metrics"] if metric["metric"] == "short")
            assert short["canary"]["trials"] == short["stable"]["trials"] == 0

    play(story())
