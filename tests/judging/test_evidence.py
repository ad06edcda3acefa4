"""The e-processes: against brute force, and as bets that must not win when nothing is wrong."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb, exp, inf, isfinite, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.evidence import (
    MULTIPLES,
    Direction,
    EProcess,
    LiveTest,
    NonInferiority,
    RatioInterval,
    as_float,
    log_sum_exp,
)

np = pytest.importorskip("numpy")


def tick(most: int = 40) -> st.SearchStrategy[tuple[int, int, int, int]]:
    def events(trials: tuple[int, int]) -> st.SearchStrategy[tuple[int, int, int, int]]:
        n_s, n_c = trials
        return st.tuples(st.just(n_s), st.integers(0, n_s), st.just(n_c), st.integers(0, n_c))

    return st.tuples(st.integers(0, most), st.integers(0, most)).flatmap(events)


ticks = st.lists(tick(), max_size=12)
directions = st.sampled_from(["increase", "decrease"])


def brute_force(
    rows: list[tuple[int, int, int, int]], direction: Direction, ratio: Fraction
) -> Fraction:
    """The formula of the design as exact products of fractions."""
    total = Fraction(0)
    for k in map(Fraction, MULTIPLES):
        if direction == "decrease":
            k = 1 / k
        product = Fraction(1)
        for n_s, e_s, n_c, e_c in rows:
            if n_s and n_c:
                rho = ratio * n_c / (ratio * n_c + n_s)
                theta = ratio * k * n_c / (ratio * k * n_c + n_s)
                product *= (theta / rho) ** e_c * ((1 - theta) / (1 - rho)) ** e_s
        total += product
    return total / len(MULTIPLES)


def log_fraction(value: Fraction) -> float:
    """ln of a fraction that may be far outside the range of floats."""
    top = value.numerator.bit_length() - value.denominator.bit_length()
    return float(log(value / Fraction(2) ** top)) + top * log(2)


def close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


@given(ticks, directions, st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(1, 4)]))
@settings(max_examples=150, deadline=None)
def test_agrees_with_products_of_fractions(
    rows: list[tuple[int, int, int, int]], direction: Direction, ratio: Fraction
) -> None:
    process = EProcess(direction, float(ratio))
    for row in rows:
        process.add(*row)
    assert close(process.log_e, log_fraction(brute_force(rows, direction, ratio)))


@given(ticks, directions)
@settings(max_examples=100, deadline=None)
def test_a_tick_without_a_trial_on_a_side_adds_nothing(
    rows: list[tuple[int, int, int, int]], direction: Direction
) -> None:
    with_gaps, without = EProcess(direction), EProcess(direction)
    for n_s, e_s, n_c, e_c in rows:
        with_gaps.add(n_s, e_s, n_c, e_c)
        with_gaps.add(0, 0, n_c, e_c)
        with_gaps.add(n_s, e_s, 0, 3)
        without.add(n_s, e_s, n_c, e_c)
    assert with_gaps.log_e == without.log_e


@given(ticks, tick(), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_more_canary_events_are_more_evidence_and_more_stable_events_less(
    rows: list[tuple[int, int, int, int]], last: tuple[int, int, int, int], more: int
) -> None:
    n_s, e_s, n_c, e_c = last
    values = []
    for add_c, add_s in ((0, 0), (more, 0), (0, more)):
        process = EProcess()
        for row in rows:
            process.add(*row)
        process.add(n_s, e_s + add_s, n_c, e_c + add_c)
        values.append(process.log_e)
    same, more_canary, more_stable = values
    assert more_canary >= same - 1e-12
    assert more_stable <= same + 1e-12


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))),
)
@settings(max_examples=100, deadline=None)
def test_merging_ticks_of_equal_shares_changes_nothing(
    n_s: int, n_c: int, events: list[tuple[int, int]]
) -> None:
    apart, merged = EProcess(), EProcess()
    for e_s, e_c in events:
        apart.add(n_s, e_s, n_c, e_c)
    count = len(events)
    merged.add(n_s * count, sum(e for e, _ in events), n_c * count, sum(e for _, e in events))
    assert close(apart.log_e, merged.log_e)


def test_merging_ticks_of_unequal_shares_is_not_neutral() -> None:
    apart, merged = EProcess(), EProcess()
    apart.add(100, 0, 1, 0)
    apart.add(10, 0, 10, 5)
    merged.add(110, 0, 11, 5)
    assert merged.log_e > apart.log_e + 1


@given(ticks)
@settings(max_examples=60, deadline=None)
def test_order_does_not_matter_to_the_last_value(rows: list[tuple[int, int, int, int]]) -> None:
    one, other = EProcess(), EProcess()
    for row in rows:
        one.add(*row)
    for row in reversed(rows):
        other.add(*row)
    assert close(one.log_e, other.log_e)


def test_safe_for_a_billion_trials_and_beyond_the_range_of_floats() -> None:
    process, live, proof = EProcess(), LiveTest(), NonInferiority(0.01)
    interval = RatioInterval()
    for _ in range(3):
        for one in (process, live, proof, interval):
            one.add(10**9, 10**6, 10**9, 10**9)
    assert isfinite(process.log_e)
    assert process.log_e > 1e8
    assert as_float(process.log_e) == inf
    assert isfinite(live.log_e)
    assert isfinite(proof.log_e)
    assert proof.log_e < 0
    low, high = interval.bounds(0.001)
    assert 500 < low < 1000
    assert high == inf  # the grid ends at 1000
    healthy = EProcess()
    healthy.add(10**9, 10**8, 10**9, 10**8)
    assert healthy.log_e < -1e6
    assert as_float(healthy.log_e) == 0.0


def test_a_small_step_is_not_lost_in_a_large_sum() -> None:
    process = EProcess()
    process.add(10**9, 0, 10**9, 10**9)
    before = process.log_e
    for _ in range(10_000):
        process.add(10**9, 0, 1, 1)  # ln k each, to nine digits
    assert close(process.log_e - before, 10_000 * log(100) - 10_000 * 99e-9)


def exact_mean(n_s: int, n_c: int, p_s: float, p_c: float, value: object) -> float:
    """The mean of exp(value(e_s, e_c)) over two binomials, by enumeration."""
    assert callable(value)
    return sum(
        comb(n_s, e_s)
        * p_s**e_s
        * (1 - p_s) ** (n_s - e_s)
        * comb(n_c, e_c)
        * p_c**e_c
        * (1 - p_c) ** (n_c - e_c)
        * exp(value(e_s, e_c))
        for e_s in range(n_s + 1)
        for e_c in range(n_c + 1)
    )


rates = st.floats(0.0, 1.0)


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    rates,
    rates,
    st.sampled_from([0.3, 1.0, 2.5]),
    directions,
    st.lists(tick(6), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_the_mean_step_under_the_null_is_at_most_one(
    n_s: int,
    n_c: int,
    p_s: float,
    share: float,
    ratio: float,
    direction: Direction,
    past: list[tuple[int, int, int, int]],
) -> None:
    if direction == "increase":
        p_c = share * min(ratio * p_s, 1.0)
    else:
        p_c = ratio * p_s + share * (1.0 - ratio * p_s)
        if ratio * p_s > 1.0:
            return

    def ratio_step(e_s: int, e_c: int) -> float:
        process = EProcess(direction, ratio)
        for row in past:
            process.add(*row)
        before = process.log_e
        process.add(n_s, e_s, n_c, e_c)
        return process.log_e - before

    assert exact_mean(n_s, n_c, p_s, p_c, ratio_step) <= 1 + 1e-9


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    rates,
    rates,
    directions,
    st.lists(tick(6), max_size=3),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_mean_step_of_the_live_test_under_the_null_is_at_most_one(
    n_s: int,
    n_c: int,
    p_s: float,
    share: float,
    direction: Direction,
    past: list[tuple[int, int, int, int]],
    restarted: bool,
) -> None:
    p_c = share * p_s if direction == "increase" else p_s + share * (1 - p_s)

    def step(e_s: int, e_c: int) -> float:
        test = LiveTest(direction)
        for row in past:
            test.add(*row)
            if restarted:
                test.restart()
        before = test.log_e
        test.add(n_s, e_s, n_c, e_c)
        return test.log_e - before

    assert exact_mean(n_s, n_c, p_s, p_c, step) <= 1 + 1e-9


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    rates,
    rates,
    st.sampled_from([0.01, 0.1, 0.4]),
    st.lists(tick(6), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_the_mean_step_towards_a_proof_is_at_most_one_if_the_canary_is_worse(
    n_s: int,
    n_c: int,
    p_s: float,
    share: float,
    margin: float,
    past: list[tuple[int, int, int, int]],
) -> None:
    p_s *= 1 - margin
    p_c = p_s + margin + share * (1 - margin - p_s)

    def step(e_s: int, e_c: int) -> float:
        proof = NonInferiority(margin)
        for row in past:
            proof.add(*row)
        before = proof.log_e
        proof.add(n_s, e_s, n_c, e_c)
        return proof.log_e - before

    assert exact_mean(n_s, n_c, p_s, min(p_c, 1.0), step) <= 1 + 1e-9


def test_a_restart_spends_what_was_held_back() -> None:
    test = LiveTest()
    assert close(test.log_e, 0.0)
    for _ in range(200):
        test.restart()
        assert close(test.log_e, 0.0)


def _share_that_ever_reach(
    alpha: float, k_true: float, seed: int, runs: int = 1000, length: int = 150
) -> float:
    rng = np.random.default_rng(seed)
    reached = 0
    n_s, n_c, p = 40, 10, 0.05
    e_s = rng.binomial(n_s, p, (runs, length)).tolist()
    e_c = rng.binomial(n_c, p * k_true, (runs, length)).tolist()
    for stable, canary in zip(e_s, e_c, strict=True):
        test = LiveTest()
        for at, (s, c) in enumerate(zip(stable, canary, strict=True)):
            if at % 50 == 49:
                test.restart()
            test.add(n_s, s, n_c, c)
            if test.log_e >= -log(alpha):
                reached += 1
                break
    return reached / runs


def test_watching_every_tick_a_healthy_canary_reaches_one_over_alpha_rarely() -> None:
    assert _share_that_ever_reach(0.1, 1.0, seed=1) <= 0.1
    assert _share_that_ever_reach(0.1, 1.8, seed=2, runs=200) > 0.5  # the bound can fail


@pytest.mark.parametrize("swing", [0.0, 0.9])
def test_supermartingale_under_the_null_by_simulation(swing: float) -> None:
    """The mean of E stays at 1 or below, in exact form, at a rate that swings for both alike."""
    rng = np.random.default_rng(7)
    values, tilted = [], []
    for _ in range(600):
        process, other = EProcess(), EProcess()
        for at in range(30):
            p = 0.03 * (1 + swing * float(np.sin(at / 5)))
            n_s, n_c = int(rng.integers(0, 30)), int(rng.integers(0, 5))
            e_s, e_c = int(rng.binomial(n_s, p)), int(rng.binomial(n_c, p))
            process.add(n_s, e_s, n_c, e_c)
            other.add(n_s, e_s, n_c, int(rng.binomial(n_c, 3 * p)))
        values.append(min(as_float(process.log_e), 1e3))
        tilted.append(min(as_float(other.log_e), 1e3))
    error = float(np.std(values)) / len(values) ** 0.5
    assert float(np.mean(values)) <= 1 + 3 * error
    assert float(np.mean(tilted)) > 1 + 3 * float(np.std(tilted)) / len(tilted) ** 0.5


def test_interval_covers_at_all_times_and_is_not_endless() -> None:
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(60):
        interval = RatioInterval()
        out = False
        for _ in range(40):
            interval.add(500, int(rng.binomial(500, 0.02)), 100, int(rng.binomial(100, 0.05)))
            low, high = interval.bounds(0.1)
            out = out or not low <= 2.5 <= high
        missed += out
        assert 1.2 < low < 2.5 < high < 5 or out
    assert missed <= 6


@given(ticks)
@settings(max_examples=50, deadline=None)
def test_interval_is_in_order_and_starts_open(rows: list[tuple[int, int, int, int]]) -> None:
    interval = RatioInterval()
    assert interval.bounds(0.05) == (0.0, inf)
    for row in rows:
        interval.add(*row)
    low, high = interval.bounds(0.05)
    assert 0.0 <= low < high
    again = RatioInterval.from_dict(json.loads(json.dumps(interval.to_dict())))
    assert again.bounds(0.05) == (low, high)


def test_a_clean_canary_is_proof_after_some_hundred_requests() -> None:
    proof, worse = NonInferiority(0.01), NonInferiority(0.01)
    needed = 0
    while proof.log_e < log(100):
        proof.add(99, 0, 1, 0)
        worse.add(99, 0, 1, int(needed % 50 == 49))
        needed += 1
    assert 400 < needed < 520
    assert worse.log_e < 0


@given(ticks, directions)
@settings(max_examples=60, deadline=None)
def test_states_round_trip_through_json(
    rows: list[tuple[int, int, int, int]], direction: Direction
) -> None:
    process, live, proof = EProcess(direction), LiveTest(direction), NonInferiority(0.05)
    for at, row in enumerate(rows):
        for one in (process, live, proof):
            one.add(*row)
        if at % 3 == 2:
            live.restart()
    text = json.dumps([process.to_dict(), live.to_dict(), proof.to_dict()], allow_nan=False)
    states = json.loads(text)
    again = (
        EProcess.from_dict(states[0]),
        LiveTest.from_dict(states[1]),
        NonInferiority.from_dict(states[2]),
    )
    before: tuple[EProcess | LiveTest | NonInferiority, ...] = (process, live, proof)
    after: tuple[EProcess | LiveTest | NonInferiority, ...] = again
    for old, new in zip(before, after, strict=True):
        old.add(30, 2, 7, 3)
        new.add(30, 2, 7, 3)
        assert old.log_e == new.log_e


def test_what_is_not_allowed_says_so() -> None:
    with pytest.raises(ValueError, match="ratio must be"):
        EProcess(ratio=0.0)
    with pytest.raises(ValueError, match="direction must be"):
        EProcess("up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="margin must"):
        NonInferiority(0.0)
    with pytest.raises(ValueError, match="expected 7 numbers, found 1"):
        EProcess.from_dict({**EProcess().to_dict(), "logs": [0.0]})


def test_log_sums_and_floats_survive_infinities() -> None:
    assert log_sum_exp(()) == -inf
    assert log_sum_exp((-inf, -inf)) == -inf
    assert close(log_sum_exp((1000.0, 1000.0)), 1000.0 + log(2))
    assert as_float(1000.0) == inf
    assert as_float(-1000.0) == 0.0
