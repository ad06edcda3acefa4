"""The cause of a trip as an operator reads it at night: what, where, whom, how many, beside stable's."""

from __future__ import annotations

import re
from dataclasses import replace
from math import log
from random import Random

import pytest

from canaryproxy.judging import metrics
from canaryproxy.judging.families import Spec
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import GuardRails, JudgeSettings
from canaryproxy.judging.tally import Seen, Side
from canaryproxy.judging.units import Lottery
from canaryproxy.judging.words import Place, arrivals, reason, worse
from tests.judging.test_scenarios import after, always, slow_by
from tests.judging.world import Answer, User, Version, World, plain

PLAN = JudgeSettings(steps=(1.0, 5.0, 25.0, 50.0, 100.0))
ERRORS = Spec(metrics.ERRORS, 0.25)
LIMITS = (log(23_500), log(280))


def test_a_cause_names_requests_and_users_of_both_sides() -> None:
    seen = Seen(Side(31, 0, 24, 0), Side(6, 6, 5, 5))
    place = Place("POST /checkout", None, "mostly 502")
    assert reason(ERRORS, place, seen, "breach", log(2.4e6), LIMITS, None) == (
        "error rate on POST /checkout: 100% on canary (6 of 6 requests, 5 of 5 users, mostly 502) "
        "vs 0% on stable (0 of 31 requests, 0 of 24 users); evidence 2.4 million:1 (limit 23,500:1)"
    )


def test_a_cause_says_that_the_canary_responds_to_few_of_its_users() -> None:
    """One bad response is little to go by; that twenty users of stable had theirs says the rest."""
    seen = Seen(Side(20, 0, 20, 0), Side(1, 1, 1, 1))
    said = reason(ERRORS, Place(), seen, "breach", log(568_000), LIMITS, None, 1.0)
    assert "; only 1 of about 20 canary users got a response so far; evidence 568,000:1" in said
    seen = Seen(Side(20, 0, 20, 0), Side(15, 15, 15, 15))
    assert "only" not in reason(ERRORS, Place(), seen, "breach", 20.0, LIMITS, None, 1.0)


@pytest.mark.parametrize(
    ("spec", "log_e", "said"),
    [
        (ERRORS, log(400), "evidence 400:1 (holds at 280:1, trips at 23,500:1)"),
        (
            ERRORS,
            log(90_000),
            "evidence 90,000:1 (holds at 280:1, trips only at a difference of 1 point)",
        ),
        (
            Spec(metrics.CLIENT_ERRORS, 0.025, 0.01, 0.2),
            log(400),
            "evidence 400:1 (holds at 280:1, trips at 23,500:1 and a difference of 20 points)",
        ),
        (Spec(metrics.P50, margin=0.1), log(400), "evidence 400:1 (holds at 280:1, never trips)"),
    ],
)
def test_a_suspicion_says_what_is_missing_for_a_trip(spec: Spec, log_e: float, said: str) -> None:
    seen = Seen(Side(1000, 5, 400, 5), Side(100, 5, 40, 5))
    assert reason(spec, Place(), seen, "suspect", log_e, LIMITS, None).endswith(said)


def test_what_looks_worse_says_why_it_may_not_pass_as_chance() -> None:
    few = Seen(Side(45, 0, 2, 0), Side(21, 21, 1, 1))
    assert "too few users to call it chance, 10 on each side are needed" in worse(
        ERRORS, Place(), few, 10
    )
    many = Seen(Side(900, 1, 200, 1), Side(300, 9, 100, 9))
    assert worse(ERRORS, Place(), many, 10).endswith("more than the spread among users explains")


def test_users_who_do_not_arrive_are_told_with_what_was_expected() -> None:
    said = arrivals((1890, 2), Lottery(0, 5000, 100_000))
    assert (
        "in this step 2 came to the canary, and 1,890 to stable (about 95 of all were expected"
        in said
    )


def dead(status: int, route: bytes) -> Version:
    def version(user: User, now: float, luck: Random) -> Answer:
        answer = shop(user, now, luck)
        return replace(answer, status=status, size=9) if answer.route == route else answer

    return version


def shop(user: User, now: float, luck: Random) -> Answer:
    route = b"POST /checkout" if luck.random() < 0.05 else b"GET /items/*"
    return Answer(first_byte=luck.expovariate(100.0), route=route)


def cause(world: World, weight: float, seconds: float = 60.0) -> str:
    seen = world.step(weight, seconds)
    assert seen.cause is not None, (seen.level, seen.holds)
    return seen.cause


@pytest.mark.parametrize(
    ("status", "said"), [(404, "mostly 404"), (302, "mostly 302"), (503, "mostly 503")]
)
def test_the_cause_of_a_dead_route_names_it_and_its_status(status: int, said: str) -> None:
    world = World(
        Judge(PLAN), users=3000, rate=300.0, stable=shop, canary=dead(status, b"POST /checkout")
    )
    world.run(20.0)
    found = cause(world, 25.0)
    assert "POST /checkout" in found
    assert said in found


def test_the_cause_of_a_late_breakage_shows_the_rates_since_then() -> None:
    """Not those of the step: an hour of health would hide what happens now."""
    world = World(Judge(PLAN), users=2000, canary=after(100.0, plain, always(500)))
    world.run(20.0)
    found = cause(world, 50.0, 130.0)
    assert "100% on canary (" in found
    assert " since the rate rose; " in found or " over the last " in found


def test_the_cause_of_slow_responses_names_the_limit() -> None:
    world = World(Judge(replace(PLAN, warmup=1.0)), users=2000, canary=slow_by(0.3))
    world.run(20.0)
    found = cause(world, 5.0)
    assert found.startswith("slow responses (over ")
    assert " ms) 100% on canary (" in found


def test_the_cause_of_a_rail_names_users_and_stable() -> None:
    rails = replace(PLAN, errors=None, classes=None, routes=False, guard_rails=GuardRails())
    world = World(Judge(rails), users=2000, canary=always(500))
    world.run(20.0)
    found = cause(world, 5.0)
    assert found.startswith("guard rail: ")
    assert re.search(r"canary requests failed in [0-9.]+ s \(100%, limit 50%, ", found)
    assert " users) vs 0" in found
    assert " on stable (" in found
