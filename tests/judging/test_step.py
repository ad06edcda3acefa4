"""A step: when the estimate of a test is worked out anew, and what it takes of those who came."""

from __future__ import annotations

import tracemalloc
from array import array
from math import log

from canaryproxy.judging import metrics
from canaryproxy.judging.families import Spec
from canaryproxy.judging.growth import flat_words
from canaryproxy.judging.lottery import Lottery, LotteryTest, TestSettings
from canaryproxy.judging.metrics import FALLBACK
from canaryproxy.judging.parts import whole
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.step import Step, Trial
from canaryproxy.judging.units import Units
from canaryproxy.measure.records import (
    ENDED,
    WORDS,
    pack_first,
    pack_second,
    pack_third,
    template_of,
)

CANARY, STABLE = 0, 5


def test_an_estimate_follows_each_trial_at_first_and_stands_while_nothing_comes() -> None:
    units, settings = Units(), TestSettings(log(1000.0), log(20.0))
    test = LotteryTest(Lottery(0, 2, 9), units, settings, 0.0)
    trial = Trial(Spec(metrics.ERRORS), "", settings, test)
    assert trial.estimate(0.1) is None
    for position, bad in ((CANARY, True), (STABLE, False)):
        test.add(units.row(position), bad)
    found = trial.estimate(0.2)
    assert found is not None
    assert (found.canary, found.stable) == ((1, 1), (1, 0))
    test.tick(0.3)
    assert trial.estimate(0.3) is found
    test.add(units.row(STABLE), True)
    test.tick(0.4)  # takes the trial before anybody asks
    found = trial.estimate(0.4)
    assert found is not None
    assert found.stable == (2, 1)
    again = trial.estimate(1.5)
    assert again == found
    assert again is not found  # words that name the time are said anew once a second


def test_a_step_takes_memory_for_users_who_came_and_not_for_all_who_are_known() -> None:
    known = Units()
    for position in range(60_000):
        known.row(position)
    lottery = Lottery(0, 30_000, 60_000)
    step = Step(lottery, known, JudgeSettings(), FALLBACK, 1.0, 0.0, {}, warm=True)
    template = template_of(b"GET /")
    tracemalloc.start()
    words = array("Q")
    for position in range(100, 60_000, 3_000):
        words.append(pack_first(position, position < lottery.limit, 0, 200, 0, ENDED))
        words.append(pack_second(template, 0, 0))
        words.append(pack_third(0.01, 1000))
    chosen, at = flat_words(range(0, len(words), WORDS)), 0
    while at < len(chosen):
        at = step.take(flat_words(words), chosen, at)
    whole(step.settle())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 500_000  # a byte for each who is known would be 60,000 in each of the tests
    assert step.trials[metrics.ERRORS].test.users == (10, 10)
