"""Which endpoint is an outlier, for how long it is out, and who never is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.outliers import Change, Observed, OutlierRules, Outliers
from canaryproxy.measure.endpoint_cells import KEYS

RULES = OutlierRules(False, margin=0.2, max_ejected=0.34, pause=30.0, longest_pause=300.0)
BY_HASH = replace(RULES, by_hash=True)


class World:
    """Endpoints named a, b, c …; ``ask`` sends requests, ``tick`` looks."""

    def __init__(self, endpoints: int, rules: OutlierRules = RULES) -> None:
        self.names = [chr(ord("a") + at) for at in range(endpoints)]
        self.outliers = Outliers(rules)
        self.now = 1000.0
        self.down: set[str] = set()
        self._requests = dict.fromkeys(self.names, 0)
        self._failed = dict.fromkeys(self.names, 0)
        self._keys = {name: [0] * KEYS for name in self.names}
        self.tick()

    def ask(self, name: str, bad: int = 0, good: int = 0, users: Sequence[int] = ()) -> None:
        self._requests[name] += bad + good
        self._failed[name] += bad
        for user in users:
            self._keys[name][user % KEYS] += 1

    def tick(self, seconds: float = 0.1) -> list[Change]:
        self.now += seconds
        return self.outliers.observe(
            self.now,
            [
                Observed(
                    name,
                    name not in self.down,
                    self._requests[name],
                    self._failed[name],
                    tuple(self._keys[name]),
                )
                for name in self.names
            ],
        )

    def out(self) -> list[str]:
        return list(self.outliers.ejected)

    def eject(self, bad: str = "a") -> Change:
        """Let ``bad`` fail until it is ejected."""
        for at in range(100):
            for name in self.names:
                fails = name == bad
                self.ask(name, bad=fails, good=not fails, users=[at] if fails else [])
            for change in self.tick():
                assert (change.url, change.ejected) == (bad, True)
                return change
        raise AssertionError("it is never ejected")


@pytest.mark.parametrize(
    ("endpoints", "rules"), [(2, RULES), (4, RULES), (3, BY_HASH), (4, BY_HASH)]
)
def test_an_endpoint_that_fails_in_all_is_out_within_twenty_requests(
    endpoints: int, rules: OutlierRules
) -> None:
    world = World(endpoints, rules)
    change = world.eject()
    assert change.figures["failed"] <= 20
    figures = change.figures
    assert re.fullmatch(
        rf"outlier: {figures['failed']} of {figures['requests']} requests failed in [0-9.]+ s, "
        rf"others 0 of {figures['others_requests']}",
        change.cause,
    )


def test_a_long_healthy_time_need_not_be_undone() -> None:
    world = World(4)
    for _ in range(10):
        for name in world.names:
            world.ask(name, bad=10, good=990)
        assert not world.tick(60.0)
    assert world.eject().figures["failed"] <= 20


def test_all_that_fail_alike_stay() -> None:
    world = World(4)
    for _ in range(200):
        for name in world.names:
            world.ask(name, bad=5)
        assert not world.tick()


def test_a_client_with_a_thousand_failures_on_its_endpoint_is_no_evidence() -> None:
    world = World(4, BY_HASH)
    for _ in range(100):
        world.ask("a", bad=10, users=[7])
        for name in world.names:
            world.ask(name, good=10)
        assert not world.tick()


def test_a_single_endpoint_and_the_last_one_that_is_up_stay() -> None:
    for others_down in ({"b", "c"}, set[str]()):
        world = World(3 if others_down else 1)
        world.down = others_down
        for _ in range(100):
            world.ask("a", bad=5)
            assert not world.tick()


def test_all_come_back_when_the_others_go_down() -> None:
    world = World(3)
    world.eject()
    world.down = {"b", "c"}
    (change,) = world.tick()
    assert (change.url, change.ejected) == ("a", False)
    assert change.cause.endswith("because no other endpoint is up")


def test_a_second_outlier_waits_for_its_place() -> None:
    world = World(4)
    world.eject("a")
    for _ in range(100):
        world.ask("b", bad=1)
        for name in "cd":
            world.ask(name, good=1)
        assert not world.tick()
    assert world.out() == ["a"]


def test_pauses_grow_and_a_good_time_forgets_them() -> None:
    world = World(4)
    for pause in (30.0, 60.0, 120.0, 240.0, 300.0, 300.0):
        assert world.eject().figures["pause"] == pause
        assert not world.tick(pause - 0.2)
        (change,) = world.tick(0.3)
        assert not change.ejected
    world.tick(300.0)
    assert world.eject().figures["pause"] == 30.0


def test_it_is_remembered_for_a_pause_that_an_endpoint_was_out() -> None:
    world = World(4)
    world.eject()
    world.tick(30.1)
    assert not world.out()
    assert world.outliers.recent(world.now) == ["a"]
    assert world.outliers.recent(world.now + 30.0) == []


def test_one_that_fails_by_less_than_the_margin_stays() -> None:
    world = World(4)
    for _ in range(500):
        world.ask("a", bad=1, good=9)
        for name in "bcd":
            world.ask(name, good=10)
        assert not world.tick()


@given(
    seed=st.integers(0, 10**6),
    endpoints=st.integers(1, 8),
    by_hash=st.booleans(),
    share=st.floats(0.0, 1.0),
)
def test_never_more_than_the_share_and_never_the_last(
    seed: int, endpoints: int, by_hash: bool, share: float
) -> None:
    random = Random(seed)
    world = World(endpoints, replace(RULES, by_hash=by_hash, max_ejected=share))
    rates = {name: random.choice((0.0, 0.5, 1.0)) for name in world.names}
    for _ in range(40):
        for name in world.names:
            if name not in world.down and name not in world.out():
                bad = sum(random.random() < rates[name] for _ in range(5))
                world.ask(name, bad, 5 - bad, [random.randrange(KEYS) for _ in range(bad)])
        if random.random() < 0.1:
            world.down ^= {random.choice(world.names)}
        world.tick(random.choice((0.1, 0.1, 5.0)))
        out = set(world.out())
        assert len(out) <= max(1, int(endpoints * share + 1e-9))
        up = set(world.names) - world.down
        assert not up or up - out
