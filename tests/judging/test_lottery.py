"""The test of one metric: exact over all draws of small populations, and what it says of small worlds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from math import exp, log
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.bets import PRIOR_A, PRIOR_C, Bets, Factors
from canaryproxy.judging.cells import bin_of, cell_of, middle_of, stake_of_look, step_of
from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.history import Expectation
from canaryproxy.judging.lottery import (
    Estimate,
    History,
    Lottery,
    LotteryTest,
    TestSettings,
    Units,
)
from canaryproxy.judging.rounds import Kind, Round, Window, stake_of

POSITIONS = 1_280_000
STRICT = TestSettings(log_limit=log(20_000.0), log_hold=log(100.0))

Records = list[tuple[int, bool]]
"""Trials in order of time: which unit, and whether it is bad."""


def arrangements(units: int, canary: int, size: int) -> Iterator[dict[int, int]]:
    """All ways to put units on positions that differ in who is the canary's, of equal probability."""
    for drawn in combinations(range(size), canary):
        places = [at for at in range(size) if at not in drawn]
        where = list(drawn) + places
        position = {unit: at for at, unit in enumerate(where)}
        yield {unit: position[unit] for unit in range(units)}


def run(
    positions: dict[int, int],
    records: Records,
    canary: int,
    size: int,
    per_tick: int,
    direction: Direction = "increase",
    seconds_per_tick: float = 30.0,
    limit: float = 1000.0,
) -> LotteryTest:
    units = Units()
    settings = TestSettings(log(limit), log(20.0), direction=direction)
    test = LotteryTest(Lottery(0, canary, size), units, settings, 0.0)
    for at, (unit, bad) in enumerate(records):
        test.add(units.row(positions[unit]), bad)
        if at % per_tick == per_tick - 1:
            test.tick(seconds_per_tick * (at // per_tick + 1))
    return test


def rounds_of(test: LotteryTest) -> list[Round]:
    return test._rounds


@given(
    st.integers(2, 5).flatmap(
        lambda units: st.lists(
            st.tuples(st.integers(0, units - 1), st.booleans()), min_size=5, max_size=40
        )
    ),
    st.integers(1, 4),
    st.integers(6, 7),
    st.sampled_from(["increase", "decrease"]),
)
@settings(max_examples=60, deadline=None)
def test_bets_have_mean_one_over_all_draws_in_every_round(
    records: Records, canary: int, size: int, direction: Direction
) -> None:
    means: dict[int, list[float]] = {}
    draws = list(arrangements(5, canary, size))
    for positions in draws:
        test = run(positions, records, canary, size, 5, direction)
        for at, one in enumerate(rounds_of(test)):
            sums = means.setdefault(at, [0.0, 0.0])
            sums[0] += exp(one.bets_a.log_e) / len(draws)
            sums[1] += exp(one.bets_c.log_e) / len(draws) if one.bets_c else 1.0 / len(draws)
    assert len(means) == 1 + max(len(records) // 5 - 1, 0) // 2
    for sums in means.values():
        assert sums == pytest.approx([1.0, 1.0], abs=1e-12)


@pytest.mark.parametrize("direction", ["increase", "decrease"])
@pytest.mark.parametrize("canary", [2, 4, 6])
def test_looks_have_mean_at_most_one_over_all_draws(canary: int, direction: Direction) -> None:
    random = np.random.default_rng(canary)
    bad_rates = [0.9, 0.7, 0.3, 0.2, 0.1, 0.1]
    records = [
        (int(unit), bool(random.random() < bad_rates[unit])) for unit in random.integers(0, 6, 120)
    ]
    draws = list(arrangements(6, canary, 9))
    values = []
    for positions in draws:
        looks = rounds_of(run(positions, records, canary, 9, 10, direction, 0.1, 0.1))[0].looks
        assert looks is not None
        assert looks.looks >= 4
        values.append(exp(looks.log_e))
    assert len({round(value, 9) for value in values}) > 5
    assert sum(stake_of_look(n) for n in range(1, 4)) * 0.5 < np.mean(values) <= 1.0


def test_a_surge_opens_a_round_in_the_past_whose_bets_have_mean_one() -> None:
    records: Records = [(at % 4, False) for at in range(300)]
    records += [(4 if at % 2 else at // 2 % 3, at % 2 == 1 or at % 3 == 0) for at in range(30)]
    draws = list(arrangements(5, 2, 6))
    mean = [0.0, 0.0]
    for positions in draws:
        surges = [
            one
            for one in rounds_of(run(positions, records, 2, 6, 10, seconds_per_tick=0.1))
            if one.kind == "surge"
        ]
        assert len(surges) == 1
        assert sum(surges[0].voted) >= 2
        assert surges[0].bets_c is not None
        mean[0] += exp(surges[0].bets_a.log_e) / len(draws)
        mean[1] += exp(surges[0].bets_c.log_e) / len(draws)
    assert mean == pytest.approx([1.0, 1.0], abs=1e-12)


def test_a_bet_pays_by_the_positions_that_are_left() -> None:
    bets = Bets([1.0], 2, 3)
    factors = Factors([5.0])
    paid = 1.0
    for canary, share in ((True, 2 / 5), (False, 1 / 4), (True, 1 / 3), (False, 0.0)):
        bets.look_up(factors, canary)
        paid *= (5.0 if canary else 1.0) / (1.0 - share + share * 5.0)
        assert bets.log_e == pytest.approx(log(paid))


def test_priors_and_stakes_add_up_to_one_at_most() -> None:
    assert sum(PRIOR_A) == pytest.approx(1.0)
    assert sum(PRIOR_C) == pytest.approx(1.0)
    kinds: tuple[Kind, ...] = ("surge", "clock", "resumed")
    total = stake_of("main", 1) + sum(stake_of(kind, n) for kind in kinds for n in range(1, 20_000))
    assert 0.99 < total <= 1.0 + 1e-12
    assert 0.99 < sum(stake_of_look(n) for n in range(1, 2000)) <= 1.0


@given(st.integers(0, 1 << 40))
def test_bins_hold_counts_within_three_percent(count: int) -> None:
    at = bin_of(count)
    assert at < 1024
    assert abs(middle_of(at) - count) <= count / 32
    assert bin_of(count + 1) in (at, at + 1)


def test_a_unit_is_in_the_same_bin_until_a_count_that_is_a_multiple_of_its_step() -> None:
    for n in range(32, 5000):
        if bin_of(n + 1) != bin_of(n):
            assert not n + 1 & step_of(n)


@given(st.integers(0, 10_000), st.integers(100, 3000))
@settings(max_examples=15, deadline=None)
def test_looks_know_the_cell_of_every_unit(seed: int, trials: int) -> None:
    luck = Random(seed)
    units, history = Units(), History()
    rows = [units.row(position) for position in range(12)]
    history.add([row << 1 | (row % 3 == 0) for row in rows for _ in range(20)])
    lottery = Lottery(0, 4, 12)
    test = LotteryTest(lottery, units, STRICT, 0.0, history, placebos=3)
    for at in range(trials):
        row = min(int(luck.expovariate(0.3)), 11)
        test.add(row, luck.random() < (0.5 if row % 3 == 0 else 0.02))
        if at % 30 == 29:
            test.tick(0.1 * at)
    test.settle()
    test._counting.follow()
    looks = test._rounds[0].looks
    assert looks is not None
    wanted: tuple[Counter[int], Counter[int], Counter[int]] = Counter(), Counter(), Counter()
    for row in rows:
        n, e = test.counts(row)
        if n:
            cell = cell_of(test._counting.rows.class_of(row), n, e)
            wanted[0][cell] += 1
            if row < lottery.limit:
                wanted[1][cell] += 1
            elif fields := units.virtual(lottery, 3).of(row):
                wanted[2][cell] += fields
    assert (looks.cells.all, looks.cells.canary, looks.cells.virtual) == wanted


histories = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40)


@given(histories, st.integers(0, 39))
@settings(max_examples=200, deadline=None)
def test_bets_never_fall_when_a_canary_trial_turns_bad(records: Records, at: int) -> None:
    """Units 0 to 3 are the canary's. Theorem 3."""
    at %= len(records)
    worse = [*records[:at], (records[at][0] % 4, True), *records[at + 1 :]]
    records = [*records[:at], (records[at][0] % 4, False), *records[at + 1 :]]
    positions = {unit: unit for unit in range(10)}
    before = rounds_of(run(positions, records, 4, 10, 1000))[0]
    after = rounds_of(run(positions, worse, 4, 10, 1000))[0]
    assert before.bets_c is not None
    assert after.bets_c is not None
    assert after.bets_a.log_e >= before.bets_a.log_e - 1e-12
    assert after.bets_c.log_e >= before.bets_c.log_e - 1e-12


class World:
    """Users of a service, each with a position, an activity and a rate of bad answers."""

    def __init__(self, seed: int, users: int, rate: float = 0.005, always: float = 0.0) -> None:
        self.random = np.random.default_rng(seed)
        self.positions = self.random.integers(0, POSITIONS, users)
        activity = self.random.lognormal(0.0, 1.0, users)
        self.share = np.cumsum(activity / activity.sum())
        self.rates = np.full(users, rate)
        self.rates[self.random.random(users) < always] = 0.97
        self.units = Units()

    def draw(self, records: int) -> tuple[list[int], np.ndarray]:
        users = np.minimum(
            np.searchsorted(self.share, self.random.random(records)), len(self.share) - 1
        )
        return users.tolist(), self.random.random(records)

    def learn(self, history: History, records: int) -> None:
        """Take answers of stable before the step."""
        users, chance = self.draw(records)
        for user, value in zip(users, chance.tolist(), strict=True):
            bad = bool(value < self.rates[user])
            history.add((self.units.row(int(self.positions[user])) << 1 | bad,))

    def feed(
        self,
        test: LotteryTest,
        limit: int,
        start: float,
        seconds: float,
        canary_rate: float = 0.0,
        rps: int = 200,
    ) -> int:
        """Run until a breach; return the canary's requests until then."""
        users, chance = self.draw(round(seconds * rps))
        requests = 0
        for at, (user, value) in enumerate(zip(users, chance.tolist(), strict=True)):
            position = int(self.positions[user])
            rate = self.rates[user]
            if position < limit:
                requests += 1
                rate = max(rate, canary_rate)
            test.add(self.units.row(position), bool(value < rate))
            if at % (rps // 10) == rps // 10 - 1:
                test.tick(start + (at + 1) / rps)
                if test.breach:
                    break
        return requests

    def test(
        self,
        limit: int,
        settings: TestSettings = STRICT,
        history: History | None = None,
        placebos: int = 0,
    ) -> LotteryTest:
        return LotteryTest(
            Lottery(0, limit, POSITIONS), self.units, settings, 0.0, history, placebos
        )


def percent(weight: float) -> int:
    return round(POSITIONS * weight / 100)


@pytest.mark.parametrize(("weight", "requests"), [(1, 6), (5, 7), (25, 14), (50, 21)])
def test_a_dead_canary_is_a_breach_within_a_few_requests(weight: int, requests: int) -> None:
    found = []
    for seed in range(5):
        world = World(seed, 5000)
        test = world.test(percent(weight))
        found.append(world.feed(test, percent(weight), 0.0, 20.0, 1.0))
        assert test.breach
        assert test.suspect
        assert 0 < test.voted[1] <= found[-1]
    assert np.median(found) <= requests


def test_a_canary_that_breaks_late_is_a_breach_as_quickly() -> None:
    world = World(1, 5000)
    test = world.test(percent(50))
    world.feed(test, percent(50), 0.0, 300.0)
    assert not test.breach
    assert world.feed(test, percent(50), 300.0, 20.0, 1.0) <= 60
    assert test.breach


def test_evidence_without_a_material_difference_is_no_breach() -> None:
    world = World(1, 5000, 0.02)
    test = world.test(percent(25), TestSettings(log(20_000.0), log(100.0), margin=0.1))
    world.feed(test, percent(25), 0.0, 100.0, 0.06)
    assert test.log_evidence > log(20_000.0)
    assert not test.breach
    relative = world.test(
        percent(25), TestSettings(log(20_000.0), log(100.0), margin=1.0, relative=True)
    )
    world.feed(relative, percent(25), 0.0, 100.0, 0.06)
    assert relative.breach


def test_users_of_the_canary_who_do_not_ask_are_no_breach_and_hold() -> None:
    """Of forty users a side all of stable's ask and twelve of the canary's, one of whom fails once."""
    units = Units()
    test = LotteryTest(Lottery(0, 40, 80), units, STRICT, 0.0)
    for turn in range(40):
        test.add(units.row(40 + turn), False)
        if turn % 4 == 0:
            test.add(units.row(turn), turn == 36)
        test.tick(0.1 * (turn + 1))
    assert test.log_evidence > STRICT.log_limit
    assert (test.breach, test.suspect) == (False, True)


counts = st.integers(0, 200)


@given(counts, counts, counts, counts, st.sampled_from([0.01, 0.2, 1.0, 3.0]))
def test_absence_never_explains_users_who_came_nor_what_half_of_them_met(
    users_s: int, users: int, hurt_s: int, hurt: int, odds: float
) -> None:
    hurt_s, hurt = min(hurt_s, users_s), min(hurt, users)
    window = Window((), (), (users_s, users), (hurt_s, hurt))
    if users >= odds * users_s or 2 * hurt >= users:
        assert not window.is_absence(odds)
    elif users < 0.8 * odds * users_s and hurt * users_s <= hurt_s * users:
        assert window.is_absence(odds)


def test_absence_does_not_explain_what_a_hundred_draws_would_not_show() -> None:
    assert Window((), (), (323, 80), (1, 2)).is_absence(0.5)
    assert not Window((), (), (323, 80), (3, 9)).is_absence(0.5)


def test_fewer_good_events_are_a_breach_of_a_decrease() -> None:
    world = World(1, 5000, 0.10)
    test = world.test(percent(25), TestSettings(log(1000.0), log(100.0), direction="decrease"))
    world.rates[world.positions < percent(25)] = 0.05
    world.feed(test, percent(25), 0.0, 200.0)
    assert test.breach
    better = World(1, 5000, 0.10)
    test = better.test(percent(25), TestSettings(log(1000.0), log(100.0), direction="decrease"))
    better.feed(test, percent(25), 0.0, 100.0, 0.20)
    assert test.log_evidence < 0.0


def test_equal_versions_reach_the_limit_no_more_often_than_promised() -> None:
    """Accounts that always fail and few users: what misleads tests that count requests."""
    alpha, runs, placebos = 0.2, 150, 10
    reached = tripped = 0
    for seed in range(runs):
        world = World(seed, 40, 0.02, always=0.1)
        test = world.test(
            percent(40), TestSettings(log(1 / alpha), log(1 / alpha)), placebos=placebos
        )
        world.feed(test, percent(40), 0.0, 70.0, rps=20)
        reached += test.log_evidence >= log(1 / alpha) or test.breach
        tripped += test.placebo.tripped
        assert test.placebo.of == placebos
    assert reached <= alpha * runs + 3 * (runs * alpha * (1 - alpha)) ** 0.5
    assert tripped <= alpha * runs * placebos * 1.3


def brute_force(
    positions: np.ndarray, limit: int, n: np.ndarray, e: np.ndarray
) -> tuple[float, float]:
    """Difference of rates and its standard error by units."""
    canary = positions < limit
    rates, variance = [], 0.0
    for side in (~canary, canary):
        rate = e[side].sum() / n[side].sum()
        variance += ((e[side] - rate * n[side]) ** 2).sum() / n[side].sum() ** 2
        rates.append(rate)
    return rates[1] - rates[0], variance**0.5


def test_estimate_agrees_with_brute_force_by_units() -> None:
    world = World(3, 400, 0.05, always=0.05)
    limit = percent(20)
    test = world.test(limit)
    assert test.estimate() is None
    users, chance = world.draw(5000)
    n, e = np.zeros(400), np.zeros(400)
    for user, value in zip(users, chance.tolist(), strict=True):
        bad = bool(value < world.rates[user])
        n[user] += 1
        e[user] += bad
        test.add(world.units.row(int(world.positions[user])), bad)
    found = test.estimate()
    assert isinstance(found, Estimate)
    difference, error = brute_force(world.positions, limit, n, e)
    canary = world.positions < limit
    assert found.difference == pytest.approx(difference)
    assert found.error == pytest.approx(error)
    assert found.canary == (n[canary].sum(), e[canary].sum())
    assert found.stable == (n[~canary].sum(), e[~canary].sum())
    assert found.users == ((n[~canary] > 0).sum(), (n[canary] > 0).sum())
    assert found.rates == pytest.approx(
        (e[~canary].sum() / n[~canary].sum(), e[canary].sum() / n[canary].sum())
    )


def test_without_looks_the_error_is_of_the_same_size() -> None:
    for rate, always in ((0.01, 0.0), (0.3, 0.0), (0.01, 0.1)):
        errors = []
        for looks in (True, False):
            world = World(5, 300, rate, always)
            test = world.test(percent(30), TestSettings(log(1e9), log(1e9), looks=looks))
            world.feed(test, percent(30), 0.0, 20.0)
            found = test.estimate()
            assert found is not None
            errors.append(found.error)
        assert 0.5 < errors[1] / errors[0] < 2.0


def test_history_takes_accounts_that_always_fail_out_of_the_difference() -> None:
    with_history: list[float] = []
    without: list[float] = []
    for seed in range(8):
        for history, errors in ((History(), with_history), (None, without)):
            world = World(seed, 1000, 0.01, always=0.05)
            if history is not None:
                world.learn(history, 20_000)
            test = world.test(percent(5), history=history)
            world.feed(test, percent(5), 0.0, 60.0)
            found = test.estimate()
            assert found is not None
            assert abs(found.difference) < 5 * found.error
            errors.append(found.error)
    assert np.mean(with_history) < 0.5 * np.mean(without)


def test_history_grows_by_the_stable_units_of_a_test() -> None:
    world = World(1, 200)
    history = History()
    test = world.test(percent(50), history=history)
    world.feed(test, percent(50), 0.0, 5.0)
    found = test.estimate()
    assert found is not None
    assert (history.trials, history.events) == found.stable
    known = [row for row in range(len(world.units)) if history.of(row)[0]]
    assert known
    assert all(world.units.positions[row] >= percent(50) for row in known)


def test_history_of_other_steps_is_not_expected_of_units_that_are_new_to_this_one() -> None:
    """A step that goes on later must not learn from the history on which side of it a unit is."""
    world = World(1, 1000, 0.01, always=0.05)
    history = History()
    world.learn(history, 20_000)
    first = world.test(percent(10), history=history)
    again = world.test(percent(10), history=history)
    new, known = next(row for row in range(len(world.units)) if history.of(row)[1] > 10), 0
    assert Expectation(history).class_of(new) > 0
    again.add(known, False)
    again.settle()
    first.add(new, True)
    first.settle()
    assert first._counting.rows.class_of(new) == 0
    assert World(2, 1).test(percent(10), history=history)._counting.expected.class_of(new) > 0


def resumed(test: LotteryTest, world: World, weight: float, now: float) -> LotteryTest:
    state = json.loads(json.dumps(test.to_dict()))
    world.units = Units()
    lottery = Lottery(0, percent(weight), POSITIONS)
    return LotteryTest.from_dict(state, lottery, world.units, STRICT, now)


def test_state_keeps_evidence_and_counts_over_a_restart() -> None:
    world = World(1, 3000)
    test = world.test(percent(5))
    world.feed(test, percent(5), 0.0, 100.0, 0.02)
    before = test.estimate()
    again = resumed(test, world, 5, 7.0)
    assert again.log_evidence == pytest.approx(test.log_evidence)
    assert again.voted == test.voted
    assert again.estimate() == before
    twice = resumed(again, world, 5, 7.0)
    assert twice.log_evidence == pytest.approx(test.log_evidence)
    assert twice.estimate() == before
    assert len(json.dumps(test.to_dict())) < 4000


def test_rounds_from_before_a_restart_take_no_more_bets_and_a_new_one_does() -> None:
    world = World(1, 3000)
    test = world.test(percent(5))
    world.feed(test, percent(5), 0.0, 30.0)
    again = resumed(test, world, 5, 7.0)
    standing = again.log_evidence
    world.feed(again, percent(5), 7.0, 5.0)
    assert again.log_evidence >= standing
    assert not again.breach
    world.feed(again, percent(5), 12.0, 30.0, 1.0)
    assert again.breach


def test_a_breach_stays_over_a_restart() -> None:
    world = World(1, 3000)
    test = world.test(percent(5))
    world.feed(test, percent(5), 0.0, 10.0, 1.0)
    assert test.breach
    assert resumed(test, world, 5, 0.0).breach


def test_a_step_to_everybody_has_nothing_to_compare() -> None:
    world = World(1, 100)
    test = LotteryTest(Lottery(5, POSITIONS, POSITIONS), world.units, STRICT, 0.0, None, 20)
    world.feed(test, POSITIONS, 0.0, 5.0, 1.0)
    assert not test.breach
    assert test.estimate() is None
    assert test.log_evidence < 0.0
