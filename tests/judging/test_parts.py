"""A tick that is cut says the same as one that is not."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from random import Random
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging import judge
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.parts import whole
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure.records import WORDS

from .world import EPOCH, Answer, User, Version, World, plain


def counting(parts: int) -> Generator[None, None, int]:
    for _ in range(parts):
        yield
    return parts


def test_whole_work_has_the_result_of_its_parts() -> None:
    assert whole(counting(0)) == 0
    assert whole(counting(5)) == 5


def failing(part: float) -> Version:
    """Return a version that fails for this part of the requests."""

    def version(user: User, now: float, luck: Random) -> Answer:
        return Answer(500) if luck.random() < part else plain(user, now, luck)

    return version


def seen(at_once: int, weight: float, bad: float) -> list[Assessment]:
    """Return the verdicts of some ticks of a canary that fails, with so many records in a part."""
    world = World(Judge(JudgeSettings(warmup=0.0)), rate=3000, canary=failing(bad))
    world.run(0.5)
    world.weight = weight
    with patch.object(judge, "_AT_ONCE", at_once * WORDS):
        return [world.tick() for _ in range(12)]


@given(st.integers(1, 700), st.sampled_from([0.0, 5.0, 50.0]), st.sampled_from([0.0, 0.02, 0.6]))
@settings(max_examples=12, deadline=None)
def test_verdicts_do_not_depend_on_where_the_records_are_cut(
    at_once: int, weight: float, bad: float
) -> None:
    assert seen(at_once, weight, bad) == seen(10_000, weight, bad)


def test_a_tick_in_which_nothing_happens_has_two_parts_at_most() -> None:
    world = World(Judge(JudgeSettings(warmup=0.0)), rate=3000)
    world.run(0.5)
    world.weight, world.rate = 5.0, 3000
    world.run(2.0)
    sample = Sample(world._raw("stable"), world._raw("canary"), limit=500, epoch=EPOCH)
    parts = [len(list(world.judge.parts(world.now + n / 10, sample))) for n in range(1, 21)]
    assert sorted(parts)[10] <= 2, "but for what is due by the clock"


class Same(World):
    """Gives the judge the counts of the last tick again, the same object, while they are equal."""

    last: Mapping[str, dict[str, tuple[int, int]]] = {}

    def _raw(self, side: str) -> dict[str, tuple[int, int]]:
        raw, last = super()._raw(side), self.last.get(side)
        if last == raw:
            return last
        self.last = {**self.last, side: raw}
        return raw


@given(
    st.lists(st.tuples(st.sampled_from([0, 30, 900]), st.integers(1, 12)), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.1, 0.6]),
)
@settings(max_examples=12, deadline=None)
def test_verdicts_do_not_depend_on_whether_equal_counts_are_the_same_object(
    traffic: list[tuple[int, int]], bad: float
) -> None:
    found = []
    for kind in (World, Same):
        world = kind(Judge(JudgeSettings(warmup=0.0)), rate=900, canary=failing(bad))
        world.run(0.5)
        world.weight, seen = 20.0, []
        for rate, ticks in traffic:
            world.rate = rate
            seen += [world.tick() for _ in range(ticks)]
        found.append(seen)
    assert found[0] == found[1]
