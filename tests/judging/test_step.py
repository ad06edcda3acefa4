"""A test of a step: when its estimate is worked out anew."""

from __future__ import annotations

from math import log

from canaryproxy.judging import metrics
from canaryproxy.judging.families import Spec
from canaryproxy.judging.lottery import Lottery, LotteryTest, TestSettings
from canaryproxy.judging.step import Trial
from canaryproxy.judging.units import Units

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
