"""Looking into bodies: none takes the loop's time from the users, none has a better chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from canaryproxy import config
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.outcomes import INSPECTED
from canaryproxy.measure.routing import STABLE, RouteTable, Routing
from canaryproxy.measure.trials import UserReducer
from canaryproxy.proxy import body_sampler
from canaryproxy.proxy.body_sampler import BODIES_A_TICK, TIME_A_TICK, BodySampler
from canaryproxy.proxy.trial_recorder import SampledResponse, TrialRules

BODY, HEAD = 0, 1
"""Indexes of the two outcomes, one that looks into bodies and one that does not."""


class Clock:
    """CPU time that passes only when a look takes some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(body_sampler, "thread_time", lambda: self.now)

    def look(self, ticks: float, then: Callable[[], object] = lambda: None) -> Callable[[], None]:
        """Return a look that takes all time of so many ticks."""

        def look() -> None:
            self.now += ticks * TIME_A_TICK
            then()

        return look


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_so_many_bodies_are_chosen_in_a_tick() -> None:
    made = BodySampler()
    for _ in range(3):
        assert [made.choose() for _ in range(30)] == [True] * BODIES_A_TICK + [False] * 10
        made.tick()


def test_what_was_chosen_is_looked_into_when_there_is_time(clock: Clock) -> None:
    made = BodySampler()
    done: list[int] = []
    for number in range(5):
        made.run(clock.look(0.75, partial(done.append, number)))
    assert done == [0, 1]  # the second one began in time
    for expected in ([0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
        made.tick()
        assert done == expected


def test_while_time_is_owed_none_is_chosen(clock: Clock) -> None:
    made = BodySampler()
    assert made.choose()
    made.run(clock.look(40.5))
    for _ in range(39):
        made.tick()
        assert not made.choose()
    made.tick()
    assert made.choose()


def test_whatever_bodies_cost_a_quarter_of_the_time_is_not_exceeded(clock: Clock) -> None:
    source = Random(1)
    for longest in (0.1, 1.0, 6.0):
        made, began = BodySampler(), clock.now
        for tick in range(1, 500):
            for _ in range(30):
                if made.choose():
                    made.run(clock.look(source.uniform(0.0, longest)))
            spent = clock.now - began
            assert spent <= (tick + longest) * TIME_A_TICK
            made.tick()


def test_slow_answers_are_looked_into_as_often_as_quick_ones(clock: Clock) -> None:
    """What a body costs, and when it comes, says nothing about whether it is looked into."""
    source = Random(1)
    made = BodySampler()
    routed = {"quick": 0, "slow": 0}
    looked: Counter[str] = Counter()
    chosen = {"quick": 0, "slow": 0}
    due: list[tuple[int, str]] = []
    for tick in range(4000):
        for _ in range(source.randrange(30)):
            kind = source.choice(("quick", "slow"))
            routed[kind] += 1
            if made.choose():
                chosen[kind] += 1
                due.append((tick + (0 if kind == "quick" else 3), kind))
        for one in [one for one in due if one[0] <= tick]:
            due.remove(one)
            made.run(clock.look(source.uniform(0.0, 0.4), partial(looked.update, one[1:])))
        made.tick()
    while due:
        made.run(partial(looked.update, (due.pop()[1],)))
    for _ in range(100):
        made.tick()
    assert looked == chosen
    assert sum(looked.values()) < 0.6 * sum(routed.values())  # there was not time for all
    quick, slow = (looked[kind] / routed[kind] for kind in ("quick", "slow"))
    assert quick == pytest.approx(slow, rel=0.05)


class Watched:
    """Rules with two outcomes, and what it has counted."""

    def __init__(self, regex: str = "wrong") -> None:
        made = config.parse(
            "variants: {stable: {endpoints: ['http://127.0.0.1:1']}}\n"
            "judge: {outcomes: {"
            f"body: {{when: {{regex: '{regex}'}}, bad: true}}, head: {{when: {{status: 2xx}}}}}}}}",
            file="f",
        )
        slots = {"body": BODY, "head": HEAD}
        users = [UserReducer() for _ in range(3)]
        self.sampler = BodySampler()
        self.rules = TrialRules(made, slots, users, self.sampler)
        self.cells = counters.Counters().variants[0]
        self.tally = counters.Tally(self.cells)

    def routed(self) -> SampledResponse:
        routing = Routing(RouteTable(), b"key", bucket=0, variant=STABLE)
        sample = self.rules.enroll(routing, (BODY, HEAD), self.tally, 0.0)
        assert isinstance(sample, SampledResponse)
        return sample

    def answers(self, sample: SampledResponse, body: bytes) -> list[int]:
        """Take a response, and return the trials and events of the outcomes body and head up to now."""
        sample.response_head(Response(200), body, 0.0)
        sample.end(200, False, 0.0, 0.0)
        return list(self.cells[counters.OUTCOMES : counters.OUTCOMES + 4])


def test_a_body_that_was_not_chosen_is_judged_by_its_head() -> None:
    watched = Watched()
    for _ in range(BODIES_A_TICK):
        watched.answers(watched.routed(), b"something is wrong")
    assert watched.answers(watched.routed(), b"something is wrong") == [20, 20, 21, 21]


def test_what_waits_is_counted_in_a_later_tick(clock: Clock) -> None:
    watched = Watched()
    routed = [watched.routed() for _ in range(3)]
    watched.sampler.run(clock.look(2.5))
    for sample in routed:
        assert watched.answers(sample, b"something is wrong") == [0, 0, 0, 0]
    watched.sampler.tick()
    watched.sampler.tick()
    assert list(watched.cells[counters.OUTCOMES : counters.OUTCOMES + 4]) == [3, 3, 3, 3]


def test_time_is_measured() -> None:
    # Each takes some 100 ms: twenty would stop the loop for seconds.
    watched = Watched("[ab]*a[ab]{300}c")
    text = bytes(Random(1).choices(b"ab", k=INSPECTED))
    routed = [watched.routed() for _ in range(BODIES_A_TICK)]
    for sample in routed:
        trials = watched.answers(sample, text)[0]
    assert 1 <= trials <= 5
    assert not watched.sampler.choose()
