"""Looking into bodies: none takes the loop's time from the users, none has a better chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from canaryproxy import config
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind
from canaryproxy.measure.outcomes import INSPECTED
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy import body_sampler
from canaryproxy.proxy.body_sampler import (
    BODIES_A_TICK,
    MOST_WAITING,
    TIME_A_TICK,
    BodySampler,
)
from canaryproxy.proxy.trial_recorder import TrialRecorder
from canaryproxy.proxy.trial_rules import TrialRules

BODY, HEAD = 0, 1
"""Indexes of the two outcomes, one that looks into bodies and one that does not."""


class Clock:
    """CPU time that passes only when a look takes some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(body_sampler, "thread_time", lambda: self.now)

    def look(
        self, ticks: float, then: Callable[[], object] = lambda: None, slices: int = 1
    ) -> Callable[[], bool]:
        """Return a look that takes all time of so many ticks in each of its slices."""
        left = slices

        def look() -> bool:
            nonlocal left
            self.now += ticks * TIME_A_TICK
            left -= 1
            if not left:
                then()
            return left > 0

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
        made.run(clock.look(0.0, partial(looked.update, (due.pop()[1],))))
    for _ in range(100):
        made.tick()
    assert looked == chosen
    assert sum(looked.values()) < 0.6 * sum(routed.values())  # there was not time for all
    quick, slow = (looked[kind] / routed[kind] for kind in ("quick", "slow"))
    assert quick == pytest.approx(slow, rel=0.05)


def test_a_large_body_is_read_in_slices(clock: Clock) -> None:
    made = BodySampler()
    done: list[int] = []
    assert not made.run(clock.look(0.4, partial(done.append, 1), slices=7))
    assert clock.now == pytest.approx(1.2 * TIME_A_TICK)
    for _ in range(2):
        assert not done
        made.tick()
    assert done == [1]


class Sampled(TrialRecorder):
    """A request that leaves no record, and whose response both outcomes look at."""

    def __init__(self, rules: TrialRules, tally: counters.Tally) -> None:
        self._rules, self._tally = rules, tally
        self._outcomes = rules.choose((BODY, HEAD))
        self.routing = RouteTable().route(None)
        self._flags = self._size = 0
        self._received = 0.0
        self._response = None
        self.request = Request()
        self.request.rule_key = b"GET", b"/"

    def head(self, response: Response, body: bytes) -> None:
        self._response, self._first_byte = response, 0.0
        self._size = len(body)
        self.sample_head()
        self.sample_body(body)

    def add(self, data: bytes) -> None:
        self._size += len(data)
        self.sample_body(data)


class Watched:
    """Rules with two outcomes, and what it has counted."""

    def __init__(self, when: str = "{regex: wrong}") -> None:
        made = config.parse(
            "variants: {stable: {endpoints: ['http://127.0.0.1:1']}}\n"
            "judge: {outcomes: {"
            f"body: {{when: {when}, bad: true}}, head: {{when: {{status: 2xx}}}}}}}}",
            file="f",
        )
        slots = {"body": BODY, "head": HEAD}
        self.sampler = BodySampler()
        cells = ServiceCells()
        self.records = cells.records
        routes = RouteNames(cells.names)
        self.rules = TrialRules(made, slots, self.sampler, cells.records, routes)
        self.cells = cells.counters.stable
        self.tally = counters.Tally(self.cells)

    def routed(self) -> Sampled:
        return Sampled(self.rules, self.tally)

    def answers(self, sample: Sampled, body: bytes) -> list[int]:
        """Take a response, and return the trials and events of the outcomes body and head up to now."""
        sample.head(Response(200), body)
        sample.record_end(200, False, 0.0)
        return self.counted

    @property
    def counted(self) -> list[int]:
        """Trials and events of the outcomes body and head."""
        return list(self.cells[counters.OUTCOMES : counters.OUTCOMES + 4])

    @property
    def seen(self) -> counters.OutcomeCounts:
        """All that is known of the outcome body."""
        return counters.outcome(self.cells, BODY)


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
    assert watched.counted == [3, 3, 3, 3]


def test_time_is_measured() -> None:
    # Each takes some 100 ms: twenty would stop the loop for seconds.
    watched = Watched("{regex: '[ab]*a[ab]{300}c'}")
    text = bytes(Random(1).choices(b"ab", k=INSPECTED))
    routed = [watched.routed() for _ in range(BODIES_A_TICK)]
    for sample in routed:
        trials = watched.answers(sample, text)[0]
    assert 1 <= trials <= 5
    assert not watched.sampler.choose()


POINTER = "{json: {pointer: /results, is: empty}}"


def blind(**reasons: int) -> tuple[int, ...]:
    return tuple(reasons.get(reason.label, 0) for reason in Blind)


def test_what_is_not_seen_is_counted() -> None:
    watched = Watched(POINTER)
    watched.answers(watched.routed(), b'{"results": []}')
    watched.answers(watched.routed(), b'{"results": [1]}')
    watched.answers(watched.routed(), b'{"result": []}')
    assert watched.seen == counters.OutcomeCounts(3, 1, 3, 2, blind())
    watched.answers(watched.routed(), b"<html>")
    cut = watched.routed()
    cut.head(Response(200), b'{"a": ')
    cut.record_end(502, True, 0.0)
    coded = watched.routed()
    coded.head(Response(200, ((b"Content-Encoding", b"exi"),)), b"...")
    coded.record_end(200, False, 0.0)
    seen = watched.seen
    assert seen == counters.OutcomeCounts(
        3, 1, 3, 2, blind(not_json=1, incomplete=1, unknown_coding=1)
    )
    assert seen.matched == 6


def test_no_response_at_all_is_a_trial_that_does_not_hold() -> None:
    watched = Watched(POINTER)
    watched.routed().record_end(502, True, 0.0)
    assert watched.seen == counters.OutcomeCounts(1, 0, 0, 0, blind())


def test_bodies_that_wait_are_bounded_in_bytes(clock: Clock) -> None:
    watched = Watched(POINTER)
    samples = [watched.routed() for _ in range(8)]
    watched.sampler.run(clock.look(1.5))
    piece = b" " * 65536
    for sample in samples:
        sample.head(Response(200), b"")
        for _ in range(60):  # 30 MB in all
            sample.add(piece)
        assert watched.sampler.waiting <= MOST_WAITING
    for sample in samples:
        sample.add(b'{"results": []}')
        sample.record_end(200, False, 0.0)
    watched.sampler.tick()
    watched.sampler.tick()
    seen = watched.seen
    assert seen.matched == 8
    assert seen.blind == blind(no_time=8 - seen.trials)
    assert 3 <= seen.trials == seen.events <= 5
    assert watched.sampler.waiting == 0


def test_a_client_that_leaves_frees_what_waits(clock: Clock) -> None:
    watched = Watched(POINTER)
    sample = watched.routed()
    watched.sampler.run(clock.look(1.5))
    sample.head(Response(200), b" " * 70_000)
    assert watched.sampler.waiting == 70_000
    watched.sampler.tick()
    watched.sampler.tick()
    assert watched.sampler.waiting == 0
    assert watched.sampler.choose()
    assert watched.seen.matched == 0
