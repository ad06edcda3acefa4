"""A tick that is cut says the same as one that is not."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging import judge
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.parts import whole
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment
from canaryproxy.measure.records import WORDS

from .world import Answer, User, Version, World, plain


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
