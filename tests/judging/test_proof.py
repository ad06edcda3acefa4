"""The proof by user and the bet on arrivals: exact over all draws of small populations."""

from __future__ import annotations

from itertools import combinations, permutations
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.proof import WINDOW, UserProof
from canaryproxy.judging.sample_ratio import LIMIT, SampleRatio

SHARES = st.lists(st.sampled_from((0.0, 0.5, 1.0)), min_size=2, max_size=6)


def run(shares: tuple[float, ...], canary: frozenset[int], margin: float, worse: float) -> float:
    """Let units come one after the other; on the canary each is worse by ``worse``. Return the e-value."""
    size = len(shares)
    proof = UserProof((size - len(canary), len(canary)), margin)
    ys: list[float] = []
    for unit, share in enumerate(shares):
        ys.append(min(share + worse * (unit in canary), 1.0))
        proof.begin(unit, float(unit), canary=unit in canary)
    settle(proof, size + WINDOW, ys)
    return exp(proof.log_e)


def settle(proof: UserProof, now: float, ys: list[float]) -> int:
    """Settle the units whose time is over, by their share of bad requests; return how many they are."""
    due = proof.due(now)
    for unit, is_canary in due:
        proof.settle(ys[unit], canary=is_canary)
    return len(due)


@given(shares=SHARES, data=st.data())
def test_where_the_canary_is_worse_by_the_margin_the_mean_is_at_most_one(
    shares: list[float], data: st.DataObject
) -> None:
    half = [min(share, 0.5) for share in shares]
    size = len(half)
    canaries = data.draw(st.integers(1, size - 1))
    total = [
        run(tuple(half), frozenset(draw), 0.2, 0.2) for draw in combinations(range(size), canaries)
    ]
    assert sum(total) / len(total) <= 1.0 + 1e-9


def test_a_canary_that_is_as_good_is_proven() -> None:
    proof = UserProof((50_000, 50_000), 0.05)
    for unit in range(2000):
        proof.begin(unit, unit * 0.01, canary=unit % 2 == 0)
        settle(proof, unit * 0.01, [0.0] * 2000)
    assert proof.log_e > log(1000)


def test_the_trial_of_a_unit_is_over_after_ten_seconds() -> None:
    proof = UserProof((50, 50), 0.1)
    for unit in range(20):
        proof.begin(unit, 0.1 * unit, canary=unit % 2 == 0)
    assert settle(proof, WINDOW - 0.01, [0.0] * 20) == 0
    assert proof.log_e == 0.0
    assert settle(proof, WINDOW + 0.45, [0.0] * 20) == 5
    assert settle(proof, WINDOW + 2.0, [0.0] * 20) == 15
    assert proof.due(WINDOW + 9.0) == []


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_a_margin_that_proves_nothing_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin must lie"):
        UserProof((1, 1), margin)


@pytest.mark.parametrize("canaries", [1, 2, 3])
def test_the_bet_on_arrivals_has_mean_one_over_all_draws(canaries: int) -> None:
    size = 5
    found = []
    for draw in combinations(range(size), canaries):
        for order in list(permutations(range(size), 3))[:20]:
            ratio = SampleRatio((size - canaries, canaries))
            for unit in order:
                ratio.add(canary=unit in draw)
            found.append((order, exp(ratio.log_e)))
    for order in {order for order, _ in found}:
        values = [value for one, value in found if one == order]
        assert sum(values) / len(values) == pytest.approx(1.0)


def test_users_that_stay_away_from_the_canary_are_noticed() -> None:
    ratio = SampleRatio((90_000, 10_000))
    for unit in range(3000):
        ratio.add(canary=unit % 20 == 0)
    assert ratio.seen == (2850, 150)
    assert ratio.log_e > LIMIT
