"""What a judge does in worlds with users: each case is one of its kind, with the right value."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import BusinessRule, GuardRails, JudgeSettings, OutcomeRule
from canaryproxy.judging.verdict import QUIET, Assessment
from canaryproxy.measure import records
from canaryproxy.measure.routing import FINE, POSITIONS
from tests.judging.world import Answer, User, Version, World, plain

PLAN = JudgeSettings(steps=(1.0, 5.0, 25.0, 50.0, 100.0))


def always(status: int, size: int = 1000) -> Version:
    def version(user: User, now: float, luck: Random) -> Answer:
        return Answer(status, size=size)

    return version


def slow_by(seconds: float, share: float = 1.0) -> Version:
    def version(user: User, now: float, luck: Random) -> Answer:
        answer = plain(user, now, luck)
        assert answer.first_byte is not None
        late = seconds if luck.random() < share else 0.0
        return replace(answer, first_byte=answer.first_byte + late)

    return version


def spread(stable: int, canary: int, limit: int) -> list[User]:
    """Users of whom so many are below a limit in buckets."""
    luck = Random(3)
    below = [luck.randrange(limit * FINE) for _ in range(canary)]
    above = [luck.randrange(limit * FINE, POSITIONS) for _ in range(stable)]
    return [User(n, position) for n, position in enumerate(below + above)]


def judge(settings: JudgeSettings = PLAN) -> Judge:
    return Judge(settings)


def cause(seen: Assessment) -> str:
    assert seen.level == "breach", (seen.level, seen.holds)
    assert seen.cause is not None
    return seen.cause


# Healthy releases


@pytest.mark.parametrize("weight", [1.0, 5.0, 50.0])
def test_equal_versions_pass_a_step(weight: float) -> None:
    world = World(judge(), users=2000)
    world.run(60.0)
    seen = world.step(weight, 90.0)
    assert seen.level == "ok"
    assert not seen.holds
    assert seen.judged > 0
    assert seen.placebo is None or seen.placebo.tripped == 0


def whale(user: User, now: float, luck: Random) -> Answer:
    if user.number == 0:
        return Answer(500, size=20)
    return plain(user, now, luck)


@pytest.mark.parametrize("side", ["stable", "canary"])
@pytest.mark.parametrize("baseline", [0.1, 60.0])
def test_one_client_that_always_fails_trips_nothing(side: str, baseline: float) -> None:
    users = spread(400, 40, 500)
    if side == "stable":
        users = [replace(users[0], position=POSITIONS - 5), *users[1:]]
    world = World(
        judge(), users=users, stable=whale, canary=whale,
        weigh=lambda user: 44.0 if user.number == 0 else 1.0,
    )  # fmt: skip
    world.run(baseline)
    assert world.step(5.0, 60.0).level != "breach"


def test_accounts_that_are_always_slow_trip_nothing() -> None:
    def accounts(user: User, now: float, luck: Random) -> Answer:
        answer = plain(user, now, luck)
        return replace(answer, first_byte=0.5) if user.number % 33 == 0 else answer

    for seed in range(2):
        world = World(judge(), users=300, stable=accounts, canary=accounts, seed=seed)
        world.run(30.0)
        for weight in (5.0, 25.0, 50.0):
            assert world.step(weight, 40.0).level != "breach", world.seen


def test_slow_first_requests_of_new_users_on_both_sides_trip_nothing() -> None:
    first: set[int] = set()

    def cold(user: User, now: float, luck: Random) -> Answer:
        if user.number not in first:
            first.add(user.number)
            return Answer(first_byte=1.0)
        return plain(user, now, luck)

    world = World(judge(), users=3000, stable=cold, canary=cold)
    assert world.step(5.0, 60.0).level != "breach"


# Canaries that are plainly broken


@pytest.mark.parametrize(
    ("stable", "canary"), [(2, 1), (149, 1), (17, 3)], ids=["one of three", "1% of 150", "3 of 20"]
)
def test_few_users_for_whom_everything_fails_hit_the_rail(stable: int, canary: int) -> None:
    limit = 100 if stable == 149 else 2500
    world = World(judge(), users=spread(stable, canary, limit), rate=20.0, canary=always(500))
    seen = world.step(limit / 100, 240.0)
    assert "failed" in cause(seen)
    assert world.canary_requests <= 30


@pytest.mark.parametrize(("status", "size"), [(302, 0), (204, 0), (401, 100), (404, 100)])
def test_a_canary_with_one_status_for_all_is_tripped_within_twenty_requests(
    status: int, size: int
) -> None:
    world = World(judge(), users=5000, canary=always(status, size))
    world.run(30.0)
    seen = world.step(5.0, 30.0)
    assert "canary" in cause(seen)
    assert world.canary_requests <= 20


def test_a_few_more_401_are_held_and_not_tripped() -> None:
    def worse(user: User, now: float, luck: Random) -> Answer:
        return Answer(401, size=50) if luck.random() < 0.03 else plain(user, now, luck)

    world = World(judge(), users=2000, rate=400.0, canary=worse)
    world.run(30.0)
    seen = world.step(25.0, 60.0)
    assert seen.level == "suspect"
    assert any("4xx" in v.reason for v in seen.verdicts if v.level == "suspect")


def test_a_dead_route_of_little_traffic_trips_and_is_named() -> None:
    def shop(dead: bool) -> Version:
        def version(user: User, now: float, luck: Random) -> Answer:
            answer = plain(user, now, luck)
            if luck.random() >= 0.008:
                return replace(answer, route=b"GET /items/*")
            return (
                Answer(500, size=9, route=b"POST /checkout")
                if dead
                else replace(answer, route=b"POST /checkout")
            )

        return version

    world = World(judge(), users=5000, rate=400.0, stable=shop(False), canary=shop(True))
    world.run(60.0)
    seen = world.step(25.0, 30.0)
    assert "/checkout" in cause(seen)


def test_a_small_share_of_very_slow_answers_is_held() -> None:
    world = World(judge(), users=3000, rate=400.0, canary=slow_by(0.6, 0.02))
    world.run(60.0)
    world.step(25.0, 35.0)
    seen = world.run(60.0)
    assert seen.level == "suspect"


def test_a_doubled_median_is_held() -> None:
    def doubled(user: User, now: float, luck: Random) -> Answer:
        answer = plain(user, now, luck)
        assert answer.first_byte is not None
        return replace(answer, first_byte=answer.first_byte * 2)

    world = World(judge(), users=3000, rate=400.0, canary=doubled)
    world.run(60.0)
    seen = world.step(25.0, 90.0)
    assert seen.level == "suspect"


def test_a_slower_p95_trips() -> None:
    world = World(judge(), users=3000, canary=slow_by(0.3))
    world.run(60.0)
    assert "slow" in cause(world.step(5.0, 90.0))


# Beginnings


def after(seconds: float, before: Version, then: Version) -> Version:
    began: list[float] = []

    def version(user: User, now: float, luck: Random) -> Answer:
        began.append(now)
        return (before if now - began[0] < seconds else then)(user, now, luck)

    return version


def refused(user: User, now: float, luck: Random) -> Answer:
    flags = records.FAILED | records.UNREACHED | records.RESCUED
    return Answer(502, None, 0, flags=flags)


def test_a_canary_that_listens_late_is_waited_for() -> None:
    world = World(judge(), users=1000, canary=after(8.0, refused, plain))
    seen = world.step(5.0, 5.0)
    assert seen.level != "breach"
    assert any("not up yet" in hold for hold in seen.holds)
    assert world.run(60.0).level == "ok"


@pytest.mark.parametrize("seed", range(3))
def test_a_canary_that_listens_late_is_compared_from_then_on(seed: int) -> None:
    """Stable's users who came while the canary was not up are no evidence against it."""

    def failing(user: User, now: float, luck: Random) -> Answer:
        return Answer(500, size=20) if luck.random() < 0.02 else plain(user, now, luck)

    world = World(
        judge(), users=2000, stable=failing, canary=after(8.0, refused, failing), seed=seed
    )
    world.run(30.0)
    seen = world.step(25.0, 12.0)
    assert seen.level != "breach", seen.cause
    (errors,) = (one for one in seen.verdicts if one.metric == "errors" and not one.scope)
    assert errors.stable[0] < 4 * 150
    assert not any("arrive" in hold for hold in seen.holds)


def test_a_canary_that_never_listens_is_given_up() -> None:
    world = World(judge(), users=1000, canary=refused)
    assert world.step(5.0, 110.0).level != "breach"
    assert "not accepted a connection" in cause(world.run(60.0))


@pytest.mark.parametrize("seconds", [2.0, 20.0])
def test_a_canary_that_is_slow_at_first_is_not_tripped(seconds: float) -> None:
    world = World(judge(), users=1000, canary=after(seconds, slow_by(1.2), plain))
    world.run(60.0)
    seen = world.step(5.0, 10.0)
    assert any("warming up" in hold for hold in seen.holds)
    assert world.run(80.0).level != "breach"


def test_a_canary_that_stays_slow_is_tripped_within_a_minute() -> None:
    world = World(judge(), users=1000, canary=slow_by(1.2))
    world.run(60.0)
    assert "slow" in cause(world.step(5.0, 60.0))


def test_stalls_of_the_warm_up_are_not_counted_by_the_limit_after_it() -> None:
    """In the warm-up a request may take longer. Its test ends with it, and another one begins."""

    def stalling(user: User, now: float, luck: Random) -> Answer:
        answer = plain(user, now, luck)
        flags = records.STALLED if luck.random() < 0.005 else 0
        return replace(answer, flags=flags)

    world = World(judge(replace(PLAN, warmup=5.0)), users=2000, stable=stalling, canary=stalling)
    world.run(30.0)
    seen = world.step(25.0, 1.0)

    def counted() -> int:
        assert world.seen is not None
        (stalls,) = (one for one in world.seen.verdicts if one.metric == "throughput")
        return stalls.stable[0]

    most = 0
    while any("warming up" in hold for hold in seen.holds):
        assert seen.warming
        most, seen = counted(), world.run(0.1)
    assert not seen.warming
    assert most > 200 > counted()


def test_no_step_is_left_on_users_of_the_warm_up() -> None:
    """A bake as long as the warm-up must not end before anything was told about latency."""
    world = World(judge(), users=1000, canary=slow_by(0.3))
    world.run(60.0)
    seen = world.step(5.0, 1.0)
    was = seen.users
    while any("warming up" in hold for hold in seen.holds):
        was, seen = seen.users, world.run(0.1)
    assert was >= 10 > seen.users
    assert "slow" in cause(world.run(5.0))


def test_a_young_step_is_seen_as_it_is_now() -> None:
    """With a short bake it is left within a second: what looks worse must be known by then."""
    world = World(judge(), users=1000)
    world.run(10.0)
    seen = [world.step(50.0, 0.1)] + [world.run(0.1) for _ in range(5)]
    trials = [one.verdicts[0].canary[0] for one in seen]
    assert trials == sorted(set(trials))
    assert trials[0] > 0


# Quiet services


def test_a_quiet_canary_that_hangs_is_held_at_once_and_tripped_in_twenty_requests() -> None:
    def hang(user: User, now: float, luck: Random) -> Answer:
        return Answer(0, None, 0, flags=records.CLIENT_GONE | records.ABANDONED)

    world = World(judge(), users=spread(10, 10, 5000), rate=0.25, canary=hang)
    world.run(60.0)
    world.weight = 50.0
    lost = 0
    seen = None
    while lost < 20 and (seen is None or seen.level != "breach"):
        seen = world.tick()
        lost = len(world.on_canary) and int(world.now * 0.125)
    assert seen is not None
    assert seen.level in ("suspect", "breach")
    assert "breach" in (seen.level, world.run(300.0).level)


def closing(user: User, now: float, luck: Random) -> Answer:
    return Answer(0, None, 0, flags=records.CLIENT_GONE)


def test_a_canary_whose_clients_all_close_early_is_held_and_nothing_is_proven_of_it() -> None:
    world = World(judge(replace(PLAN, warmup=0.0)), users=3000, canary=closing)
    world.run(20.0)
    seen = world.step(25.0, 30.0)
    assert any("only 0 of about" in hold for hold in seen.holds), seen.holds
    assert not any(one.proven for one in seen.verdicts)
    world.accepted = frozenset({"errors"})
    assert not any("only 0 of about" in hold for hold in world.tick().holds)


def test_safety_is_proven_for_a_service_without_tunnels() -> None:
    """A metric of which neither side had a trial is no metric of this service."""
    world = World(judge(replace(PLAN, warmup=0.0, placebos=0)), users=9000, rate=300.0)
    world.run(5.0)
    seen = world.step(50.0, 60.0)
    connections = next(one for one in seen.verdicts if one.metric == "connections")
    assert (connections.users, connections.proven) == ((0, 0), False)
    assert seen.proven, [(one.metric, one.log_proof) for one in seen.verdicts if not one.proven]


# What an operator accepts, what is blind, what has no user


def test_an_accepted_metric_neither_holds_nor_trips() -> None:
    world = World(judge(), users=2000, canary=always(404))
    world.accepted = frozenset({"client_errors", "success", "answers"})
    world.judge = Judge(replace(PLAN, guard_rails=GuardRails(client_errors=None)))
    world.run(30.0)
    assert world.step(5.0, 30.0).level != "breach"


def test_a_shared_outage_trips_nothing_and_holds() -> None:
    def outage(user: User, now: float, luck: Random) -> Answer:
        return Answer(503) if now > 70 and luck.random() < 0.8 else plain(user, now, luck)

    world = World(judge(), users=2000, stable=outage, canary=outage)
    world.run(60.0)
    seen = world.step(25.0, 60.0)
    assert seen.level != "breach"
    assert any("stable itself fails" in hold for hold in seen.holds)


def during(begin: float, end: float, answer: Version) -> Version:
    """Answer so from one second of the world to another, and well at any other time."""
    return lambda user, now, luck: (answer if begin <= now < end else plain)(user, now, luck)


def waits(user: User, now: float, luck: Random) -> Answer:
    """Answer late, to a user who has waited for longer than a canary may take."""
    return Answer(first_byte=8.0, passed=records.OVERDUE)


def rescued(user: User, now: float, luck: Random) -> Answer:
    """Fail as a canary that waits does: stable is asked before it answers."""
    flags = records.FAILED | records.RESCUED
    return Answer(504, None, 0, flags=flags, passed=records.OVERDUE)


@pytest.mark.parametrize(("weight", "seconds"), [(5.0, 30.0), (50.0, 3.0)])
def test_a_stall_of_both_trips_nothing_although_only_the_canarys_requests_are_cut_short(
    weight: float, seconds: float
) -> None:
    stable, canary = (during(70.0, 70.0 + seconds, answer) for answer in (waits, rescued))
    world = World(judge(), users=1000, rate=100.0, stable=stable, canary=canary)
    world.run(30.0)
    assert world.step(weight, 50.0 + seconds).level != "breach", world.seen


def test_a_stall_of_the_canary_alone_trips_as_soon_as_its_requests_are_cut_short() -> None:
    world = World(judge(), users=1000, rate=100.0, canary=during(70.0, 80.0, rescued))
    world.run(30.0)
    assert "error rate" in cause(world.step(5.0, 90.0))
    assert world.now < 73.0


@pytest.mark.parametrize(("seconds", "level"), [(0.2, "breach"), (0.0, "ok")])
def test_a_step_that_begins_in_a_bad_time_of_stable_is_judged_by_the_time_after_it(
    seconds: float, level: str
) -> None:
    stable = during(0.0, 60.0, slow_by(3.0))
    world = World(judge(), users=1000, rate=100.0, stable=stable, canary=slow_by(seconds))
    world.run(45.0)
    world.step(5.0, 30.0)
    assert world.judge.limits.late > 3.0
    seen = world.run(45.0)
    assert world.judge.limits.late < 0.2
    assert seen.level == level


def test_while_stable_sheds_load_the_step_waits_and_says_why() -> None:
    world = World(judge(), users=1000)
    world.run(30.0)
    assert world.step(5.0, 40.0).quiet is None
    world.shed = 3
    seen = world.tick()
    assert not seen.comparable
    assert seen.quiet is not None
    assert "stable sheds load" in seen.quiet
    assert world.run(QUIET + 1.0).quiet is None


def test_an_outcome_trips_by_its_users() -> None:
    rule = OutcomeRule("no_results", slot=2)

    def search(share: float) -> Version:
        def version(user: User, now: float, luck: Random) -> Answer:
            answer = plain(user, now, luck)
            return replace(answer, trials=4, events=4 if luck.random() < share else 0)

        return version

    world = World(
        judge(replace(PLAN, outcomes=(rule,))), users=2000, stable=search(0.02), canary=search(0.3)
    )
    world.run(30.0)
    assert "no_results" in cause(world.step(5.0, 60.0))


# Before the first step


def test_the_judge_counts_for_how_long_it_has_watched_stable_alone() -> None:
    world = World(judge(), users=500)
    world.run(60.0)
    assert world.seen is not None
    assert world.seen.learned == pytest.approx(60.0, abs=0.2)
    world.step(5.0, 20.0)
    world.step(0.0, 10.0)
    assert world.seen.learned == pytest.approx(70.0, abs=0.4)
    again = Judge.from_dict(PLAN, json.loads(json.dumps(world.judge.to_dict())))
    world.judge = again
    assert world.tick().learned == pytest.approx(70.0, abs=0.4)


def test_judge_after_a_reset_goes_on_with_what_was_learnt_of_stable() -> None:
    """Limits and routes are known at once, so that a slow route is named from the first requests on."""

    def routed(first_byte: float) -> Version:
        def version(user: User, now: float, luck: Random) -> Answer:
            is_cart = user.number % 5 == 0
            return Answer(
                first_byte=first_byte if is_cart else luck.uniform(0.005, 0.02),
                route=b"GET /cart" if is_cart else b"GET /",
            )

        return version

    first = judge()
    world = World(first, users=1000, stable=routed(0.01), canary=routed(0.01))
    world.run(60.0)
    world.step(25.0, 40.0)
    world.weight = 0.0
    world.run(5.0)
    world.judge = Judge(PLAN, before=first)
    assert world.judge.limits == first.limits
    assert world.judge.limits.known
    world.canary = routed(0.5)
    world.weight = 25.0
    seen = world.run(60.0)
    assert "/cart" in cause(seen)
    other = replace(PLAN, alpha=0.01)
    assert not Judge(other, before=first).limits.known


# Business


def buys(share: float, *, posted: bool, whale: float = 0.0) -> Version:
    """A shop where this share of requests is an order; of user 0's requests another share."""

    def version(user: User, now: float, luck: Random) -> Answer:
        answer = plain(user, now, luck)
        ordered = luck.random() < (whale if whale and user.number == 0 else share)
        if posted:
            return replace(answer, posted=ordered)
        return replace(answer, trials=2, events=2 if ordered else 0)

    return version


def shop(posted: bool, direction: Direction = "decrease") -> JudgeSettings:
    rule = BusinessRule(slot=None, direction=direction)
    if not posted:
        rule = replace(rule, slot=1, outcome="order")
    return replace(PLAN, business=rule)


def silent(seen: Assessment) -> list[str]:
    return [one for one in seen.holds if one.startswith("business sees nothing: ")]


@pytest.mark.parametrize(
    ("posted", "why"),
    [
        (True, "no event was posted in this step for a user who sent a request; POST /v1/events"),
        (False, "outcome order did not occur in this step; check its match and when"),
    ],
    ids=["posted", "outcome"],
)
def test_a_shop_without_any_order_is_held_in_each_step(posted: bool, why: str) -> None:
    closed = buys(0.0, posted=posted)
    world = World(judge(shop(posted)), rate=100.0, stable=closed, canary=closed)
    world.run(5.0)
    (said,) = silent(world.step(5.0, 10.0))
    assert why in said
    assert silent(world.step(25.0, 5.0))
    world.stable = buys(0.1, posted=posted)
    assert not silent(world.run(5.0))
    world.stable = closed
    assert silent(world.step(50.0, 5.0))
    world.accepted = frozenset({"business"})
    assert not silent(world.tick())


def test_events_of_strangers_do_not_break_the_silence() -> None:
    """Fewer than it takes to say that most keys are unknown."""

    def wrong(user: User, now: float, luck: Random) -> Answer:
        posted = luck.random() < 0.01
        return replace(plain(user, now, luck), posted=posted, posted_for=POSITIONS - 1)

    world = World(judge(shop(True)), users=1000, rate=50.0, stable=wrong, canary=wrong)
    assert silent(world.step(50.0, 5.0))


def test_orders_that_are_posted_as_counts_break_the_silence() -> None:
    world = World(judge(shop(True)), rate=100.0)
    assert silent(world.step(50.0, 5.0))
    world.orders["stable"] = 3
    assert not silent(world.tick())


def test_where_more_events_are_bad_one_in_the_release_is_enough() -> None:
    refunds = buys(0.0, posted=True)
    world = World(judge(shop(True, "increase")), rate=100.0, stable=refunds, canary=refunds)
    (said,) = silent(world.step(5.0, 5.0))
    assert "in this release" in said
    world.stable = buys(0.1, posted=True)
    world.run(5.0)
    world.stable = refunds
    assert not silent(world.step(25.0, 5.0))


@pytest.mark.parametrize("posted", [False, True], ids=["outcome", "posted"])
def test_a_canary_that_loses_orders_of_all_users_trips(posted: bool) -> None:
    world = World(
        judge(shop(posted)), users=3000, rate=300.0, canary=buys(0.06, posted=posted),
        stable=buys(0.1, posted=posted),
    )  # fmt: skip
    world.run(10.0)
    said = cause(world.step(50.0, 240.0))
    assert said.startswith("conversion rate")
    assert " intervals of " in said


@pytest.mark.parametrize("posted", [False, True], ids=["outcome", "posted"])
@pytest.mark.parametrize("side", ["stable", "canary"])
def test_a_customer_with_a_third_of_all_orders_trips_nothing(posted: bool, side: str) -> None:
    users = spread(300, 300, 5000)
    if side == "stable":
        users = [replace(users[0], position=POSITIONS - 5), *users[1:]]
    both = buys(0.05, posted=posted, whale=0.5)
    world = World(
        judge(shop(posted)), users=users, rate=100.0, stable=both, canary=both,
        weigh=lambda user: 26.0 if user.number == 0 else 1.0,
    )  # fmt: skip
    world.run(10.0)
    seen = world.step(50.0, 120.0)
    assert seen.level != "breach", seen.cause
    business = next(one for one in seen.verdicts if one.metric == "business")
    assert business.trips
    assert sum(business.users) > 500


def test_orders_by_another_key_than_that_of_the_split_are_held_and_say_so() -> None:
    def wrong(user: User, now: float, luck: Random) -> Answer:
        return replace(plain(user, now, luck), posted=True, posted_for=luck.randrange(POSITIONS))

    world = World(judge(shop(True)), users=1000, rate=50.0, stable=wrong, canary=wrong)
    seen = world.step(50.0, 60.0)
    assert any("posted business events name users who sent no request" in one for one in seen.holds)
    world.accepted = frozenset({"business"})
    assert not any("posted business events" in one for one in world.tick().holds)


def orders_by_the_clock(user: User, now: float, luck: Random, due: dict[int, float]) -> bool:
    at = due.setdefault(user.number, now + luck.expovariate(1 / 60))
    if now >= at:
        due[user.number] = now + luck.expovariate(1 / 60)
    return now >= at


@pytest.mark.parametrize("posted", [False, True], ids=["outcome", "posted"])
def test_a_page_that_polls_trips_nothing_if_users_order_as_before(posted: bool) -> None:
    """Three times the requests: orders by request fall to a third, orders by user do not."""
    due: dict[int, float] = {}

    def shopping(user: User, now: float, luck: Random) -> Answer:
        ordered = orders_by_the_clock(user, now, luck, due)
        answer = plain(user, now, luck)
        if posted:
            return replace(answer, posted=ordered)
        return replace(answer, trials=2, events=2 if ordered else 0)

    world = World(
        judge(shop(posted)), users=spread(300, 300, 5000), rate=120.0, stable=shopping,
        canary=shopping, weigh=lambda user: 3.0 if user.position < 5000 * FINE else 1.0,
    )  # fmt: skip
    world.run(5.0)
    seen = world.step(50.0, 150.0)
    assert seen.level != "breach", seen.cause
    business = next(one for one in seen.verdicts if one.metric == "business")
    assert business.stable[1] > 200
    assert business.ratio == pytest.approx(1.0, abs=0.25)


def test_users_who_go_away_from_the_canary_trip_it_although_those_who_stay_order() -> None:
    begun: dict[int, float] = {}

    def leaving(user: User, now: float, luck: Random) -> Answer:
        start = begun.setdefault(user.number, now)
        stays = user.number % 5 < 2 or now - start < 2.0
        return replace(plain(user, now, luck), posted=stays and luck.random() < 0.2)

    world = World(
        judge(shop(True)), users=1500, rate=200.0, stable=buys(0.2, posted=True), canary=leaving
    )
    world.run(2.0)
    assert cause(world.step(50.0, 200.0)).startswith("conversion rate")


# State


def test_evidence_survives_a_restart() -> None:
    def worse(user: User, now: float, luck: Random) -> Answer:
        return Answer(500) if luck.random() < 0.05 else plain(user, now, luck)

    world = World(judge(), users=20_000, canary=worse)
    world.run(30.0)
    world.step(5.0, 4.0)
    assert world.seen is not None
    before = {v.metric: v.log_evidence for v in world.seen.verdicts}
    state = world.judge.to_dict()
    again = Judge.from_dict(PLAN, state)
    assert again.to_dict()["steps"].keys() == state["steps"].keys()
    world.judge = again
    seen = world.tick()
    assert seen.judged >= world.seen.judged
    after_ = {v.metric: v.log_evidence for v in seen.verdicts}
    assert after_["errors"] == pytest.approx(before["errors"], abs=0.5)
    assert "error rate" in cause(world.run(120.0))


def test_state_is_json_and_one_of_an_older_version_starts_the_evidence_afresh() -> None:
    world = World(judge(), users=500)
    world.step(5.0, 3.0)
    state = json.loads(json.dumps(world.judge.to_dict(), allow_nan=False))
    assert Judge.from_dict(PLAN, state).to_dict()["judged"] == state["judged"] > 0
    older = {"metrics": {"errors": {}}, "judged": 500, "answered": 520, "restart_in": 3.0}
    again = Judge.from_dict(PLAN, older)
    world.judge = again
    seen = world.tick()
    assert (seen.judged >= 500, seen.answered >= 520, seen.level) == (True, True, "ok")
