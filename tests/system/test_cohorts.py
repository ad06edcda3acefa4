"""Staff first: forty people are judged among themselves, and then everyone else, apart from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from canaryproxy.measure.exposure import cohort_salt
from canaryproxy.measure.routing import bucket_of

from .worlds import RELEASE, Answer, Ask, Request, Version, World, plain, play, world

pytestmark = pytest.mark.slow

STAFF = [f"s{number}" for number in range(40)]
OTHERS = [f"u{number}" for number in range(400)]
SPLIT = 'split: {cohorts: {staff: {header: {name: X-Staff, equals: "yes"}}}}'
HEADER = "X-Staff: yes\r\n"


def in_cohort(user: str) -> bool:
    """Whether a member's bucket is below 50% by the hash of the cohort."""
    return bucket_of(cohort_salt(RELEASE.encode(), "staff"), user.encode()) < 5000


def in_general(user: str, weight: float) -> bool:
    return bucket_of(RELEASE.encode(), user.encode()) < weight * 100


def everyone(source: Random) -> Ask:
    if source.random() < 0.5:
        return Ask(source.choice(STAFF), fields=HEADER)
    return Ask(source.choice(OTHERS))


def meeting(users: set[str], version: Version = plain) -> Version:
    """Note the users that a version gets."""

    def run(request: Request) -> Answer:
        users.add(request.user)
        return version(request)

    return run


def is_in(step: int) -> Callable[[dict[str, Any]], object]:
    return lambda view: view["step"] == step and view["state"] == "running"


def staff_first(bake: str, min_users: int = 10) -> dict[str, Any]:
    step = f"{{cohort: staff, weight: 50, bake: {bake}, min_users: {min_users}}}"
    return {"first": step, "more": SPLIT, "choose": everyone, "rate": 100.0}


async def compared(seen: World, users: int) -> dict[str, Any]:
    return await seen.until(lambda view: view["users"] >= users, f"{users} users compared")


def test_staff_are_judged_among_themselves_and_then_everyone_else(tmp_path: Path) -> None:
    met: set[str] = set()
    broken = False

    def canary(request: Request) -> Answer:
        met.add(request.user)
        return Answer(500 if broken and request.user in OTHERS else 200)

    async def story() -> None:
        nonlocal broken
        async with world(tmp_path, weight=20, canary=canary, **staff_first("5s")) as seen:
            view = await compared(seen, 10)
            assert (view["step"], view["weight"], view["share"]) == (1, 0.0, "50% of staff")
            assert view["cohorts"] == [{"name": "staff", "weight": 50.0}]
            assert view["compared"] == "the users of staff, with each other; no other user moves"
            assert met <= {user for user in STAFF if in_cohort(user)}
            errors = next(one for one in view["metrics"] if one["metric"] == "errors")
            assert errors["users"]["stable"] + errors["users"]["canary"] <= len(STAFF)

            view = await seen.until(
                lambda view: is_in(2)(view) and view["weight"], "the step of all users"
            )
            assert (view["weight"], view["share"]) == (20.0, "20% of users, 50% of staff")
            met.clear()
            view = await compared(seen, 40)
            expected = {user for user in OTHERS if in_general(user, 20)}
            kept = {user for user in STAFF if in_cohort(user) or in_general(user, 20)}
            assert met <= expected | kept
            assert met & kept - expected
            assert view["users"] <= len(expected), "members of staff were compared"

            broken = True
            cause = await seen.tripped()
            assert "canary" in cause
            met.clear()
            await seen.observe(seen.users.answered + 50)
            met.clear()
            await seen.observe(seen.users.answered + 100)
            assert not met, "the circuit is open for cohorts, too"

    play(story())


def test_a_canary_that_is_broken_for_staff_trips_and_no_one_else_meets_it(tmp_path: Path) -> None:
    met: set[str] = set()

    async def story() -> None:
        broken = meeting(met, lambda _request: Answer(500))
        async with world(tmp_path, weight=20, canary=broken, **staff_first("1h")) as seen:
            cause = await seen.tripped()
            assert "canary" in cause
            assert met <= {user for user in STAFF if in_cohort(user)}
            view = await seen.view()
            assert (view["state"], view["step"], view["cohorts"]) == ("tripped", 1, [])

    play(story())


def test_too_few_members_hold_their_step(tmp_path: Path) -> None:
    few = STAFF[:4]

    def choose(source: Random) -> Ask:
        return Ask(source.choice(few), fields=HEADER)

    async def story() -> None:
        options = staff_first("100ms") | {"choose": choose}
        async with world(tmp_path, weight=20, **options) as seen:
            await seen.held(" of 10 users")
            await seen.observe(seen.users.answered + 200)
            view = await seen.view()
            assert (view["state"], view["step"]) == ("running", 1)
            assert view["users"] <= len(few)

    play(story())


def test_a_user_who_is_a_member_by_half_of_his_requests_moves_by_each_of_them(
    tmp_path: Path,
) -> None:
    """A header that only the app sets: what comes without it is a request of all users."""
    met: set[tuple[str, bool]] = set()

    def canary(request: Request) -> Answer:
        met.add((request.user, HEADER in request.head))
        return Answer()

    def choose(source: Random) -> Ask:
        return Ask(source.choice(STAFF), fields=HEADER if source.random() < 0.5 else "")

    async def story() -> None:
        options = staff_first("1s") | {"choose": choose}
        async with world(tmp_path, weight=20, canary=canary, **options) as seen:
            await compared(seen, 10)
            assert met <= {(user, True) for user in STAFF if in_cohort(user)}
            await seen.until(
                lambda view: is_in(2)(view) and view["weight"], "the step of all users"
            )
            met.clear()
            await seen.passes(100)
            assert {user for user, member in met if not member} <= {
                user for user in STAFF if in_general(user, 20)
            }
            assert {user for user, member in met if member} <= {
                user for user in STAFF if in_cohort(user) or in_general(user, 20)
            }

    play(story())
