"""Equal versions are not rolled back, whatever their users are like; slower ones are held or tripped."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from random import Random

import pytest

from .worlds import Answer, Ask, Request, Version, people, play, slow_by, world

SEARCH = """
outcomes: {no_results: {bad: true, when: {json: {pointer: /results, is: empty}}}}
"""


@pytest.mark.parametrize("side", ["canary", "stable"])
def test_a_client_that_is_always_slow_and_accounts_without_results_trip_nothing(
    tmp_path: Path, side: str
) -> None:
    """One client sends a tenth of the requests; the searches of three accounts in a hundred find nothing."""
    users = people(225, 75, 25)
    whale = users[0] if side == "canary" else users[-1]
    empty = frozenset(Random(4).sample(users, 9))

    def version(request: Request) -> Answer:
        found = b"[]" if request.user in empty else b"[1]"
        delay = 0.3 if request.user == whale else 0.0
        return Answer(delay=delay, body=b'{"results": %b}' % found)

    def choose(source: Random) -> Ask:
        user = whale if source.random() < 0.1 else source.choice(users)
        return Ask(user, path="/search")

    async def story() -> None:
        async with world(
            tmp_path, weight=25, stable=version, canary=version, choose=choose, judge=SEARCH.strip()
        ) as seen:
            view = await seen.passes(500)
            assert view["users"] >= 60
            assert view["placebo"]["tripped"] == 0

    play(story())


@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["equal", "P95 +300 ms"])
def test_only_requests_with_the_sticky_header_are_compared(tmp_path: Path, seconds: float) -> None:
    """96% of the requests have none: they stay on stable, and are slower than the others."""

    def choose(source: Random) -> Ask:
        return Ask(None if source.random() < 0.96 else f"u{source.randrange(300)}")

    def version(delay: float) -> Version:
        return lambda request: Answer(delay=delay if request.user else 0.15)

    async def story() -> None:
        async with world(
            tmp_path,
            weight=50,
            stable=version(0.0),
            canary=version(seconds),
            choose=choose,
            rate=300,
            observed=3500,
            header="X-User",
            more="split: {sticky: {header: X-User}}",
        ) as seen:
            if seconds:
                assert "slow responses " in await seen.tripped(60)
            else:
                await seen.passes(50)

    play(story())


def test_slow_first_requests_of_new_sessions_trip_nothing(tmp_path: Path) -> None:
    numbers = count()

    def choose(source: Random) -> Ask:
        if source.random() < 0.2:
            return Ask(f"n{next(numbers)}", path="/first")
        return Ask(f"n{source.randrange(max(next(numbers) - 1, 1))}", path="/again")

    def version(request: Request) -> Answer:
        return Answer(delay=1.0 if request.path == "/first" else 0.0)

    async def story() -> None:
        async with world(
            tmp_path,
            weight=30,
            stable=version,
            canary=version,
            choose=choose,
            rate=100,
            mint=True,
            more="split: {admit: new_sessions}",
        ) as seen:
            view = await seen.passes(300)
            assert view["judged"] > 0

    play(story())


def some(share: float, seconds: float) -> Version:
    luck = Random(3)
    return lambda _request: Answer(delay=0.05 + (seconds if luck.random() < share else 0.0))


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        (some(0.02, 1.5), "far beyond stable's P99"),
        (some(0.15, 0.25), "slower than twice stable's P95"),
        (slow_by(0.13), "far slower than stable's median"),
    ],
    ids=["2% far slower", "P95 doubled", "P50 doubled"],
)
def test_answers_that_are_slower_below_the_margin_are_held(
    tmp_path: Path, canary: Version, words: str
) -> None:
    async def story() -> None:
        async with world(
            tmp_path,
            weight=25,
            stable=slow_by(0.05),
            canary=canary,
            observed=300,
            judge="metrics: {latency: {margin: 500ms}}",
        ) as seen:
            await seen.held(words, 60)
            await seen.passes(100)

    play(story())
