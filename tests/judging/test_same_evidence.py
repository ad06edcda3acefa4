"""The same records give the same evidence: in whatever parts they come, compiled or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.history import History
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.lottery import Lottery, LotteryTest, TestSettings
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.units import Units
from canaryproxy.measure import records
from tests.judging.world import Answer, User, Version, World

Trials = list[tuple[int, bool]]


def result(
    trials: Trials,
    cuts: frozenset[int],
    direction: Direction,
    looks: bool,
    known: Sequence[int] | None = None,
) -> tuple[dict[str, Any], Any, Any]:
    """Judge trials of positions, twenty a tick; after those at ``cuts`` the test settles, too.

    ``known``: positions that a judge knows, of whose units the test is given those that come.
    """
    units, history = Units(), History()
    past = [(units.row(position), position) for position in known or range(40)]
    history.add([row << 1 | (at % 5 == 0) for row, at in past if at < 40 for _ in range(8)])
    if known is not None:
        units = Units(units)
    wanted = TestSettings(log(1000), log(20), direction=direction, looks=looks)
    before = history if looks else None
    test = LotteryTest(Lottery(0, 12, 40), units, wanted, 0.0, before, placebos=20 * looks)
    for at, (position, bad) in enumerate(trials):
        test.add(units.row(position), bad)
        if at in cuts:
            test.settle()
        if at % 20 == 19:
            test.tick(12.0 * (at // 20 + 1))
    estimate = test.estimate()
    return test.to_dict(), estimate, (history.trials, history.events, history.likeness(0.2))


@given(st.data(), st.sampled_from(["increase", "decrease"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_trials_mean_the_same_in_whatever_parts_they_are_taken(
    data: st.DataObject, direction: Direction, looks: bool
) -> None:
    luck = Random(data.draw(st.integers(0, 10_000)))
    rates = [luck.choice((0.0, 0.05, 0.5, 1.0)) for _ in range(40)]
    trials: Trials = []
    for _ in range(data.draw(st.integers(20, 900))):
        position = min(int(luck.expovariate(0.1)), 39)
        trials.append((position, luck.random() < rates[position]))
    cuts = frozenset(luck.sample(range(len(trials)), len(trials) // 7))
    assert result(trials, cuts, direction, looks) == result(trials, frozenset(), direction, looks)


@given(st.integers(0, 10_000), st.booleans(), st.integers(40, 3000))
@settings(max_examples=25, deadline=None)
def test_trials_mean_the_same_whoever_else_is_known(seed: int, looks: bool, known: int) -> None:
    luck = Random(seed)
    trials = [(min(int(luck.expovariate(0.1)), 39), luck.random() < 0.1) for _ in range(400)]
    alone = result(trials, frozenset(), "increase", looks)
    among = luck.sample(range(known), known)
    assert result(trials, frozenset(), "increase", looks, among) == alone


def mixed(bad: float) -> Version:
    """Make a version with all kinds of answers, ``bad`` of which are errors beside those of some accounts."""

    def answer(user: User, now: float, luck: Random) -> Answer:
        what = luck.random()
        if what < bad or (user.number % 23 == 0 and what < 0.7) or (12.0 < now < 14.0 < 80 * what):
            return Answer(500, 0.01, size=20)
        kinds = {
            0: Answer(404, 0.01, size=30),
            1: Answer(304, 0.01, size=0, flags=records.BODILESS),
            2: Answer(0, None, size=0, flags=records.CLIENT_GONE),
            3: Answer(101, 0.01, flags=records.TUNNEL),
            4: Answer(200, 0.01, flags=records.LATE),
            5: Answer(200, 0.01, size=0),
            6: Answer(200, 0.01, content_type=records.type_code(b"text/css")),
        }
        found = kinds.get(int(what * 100) - 80)
        if found is not None:
            return found
        route = b"GET /" if user.number % 3 else b"GET /cart"
        return Answer(first_byte=round(luck.expovariate(100.0), 4), size=1000, route=route)

    return answer


RECORDED = """
errors: -2.3642092 1341 230 91 18 -0.1915009
errors: 0.23914687 734 29 163 13 -0.1915009
errors: 0.23914687 1080 43 249 21 -0.1915009
latency: -1.3093333 926 0 64 0 0
latency: -1.3093333 719 0 162 0 0
latency: -1.3093333 1066 0 244 0 0
latency_p50: -2.423394 931 108 64 8 0
latency_p50: -3.100538 729 104 163 28 0
latency_p50: -3.100538 1072 168 248 46 0
latency_p95: -1.8499608 931 2 64 0 0
latency_p95: -1.2408774 729 1 163 1 0
latency_p95: -1.2408774 1072 1 248 2 0
latency_p99: -1.3093333 931 0 64 0 0
latency_p99: -1.3093333 729 0 163 0 0
latency_p99: -1.3093333 1072 0 248 0 0
throughput: -1.3093333 931 0 64 0 0
throughput: -1.3093333 729 0 163 0 0
throughput: -1.3093333 1072 0 248 0 0
client_errors: -1.8989741 1111 11 73 1 -0.15132629
client_errors: -2.5545887 705 6 150 1 -0.15132629
client_errors: -2.5545887 1037 7 228 1 -0.15132629
redirects: -1.3093333 1111 0 73 0 0.063724817
redirects: -1.3093333 705 0 150 0 0.063724817
redirects: -1.3093333 1037 0 228 0 0.063724817
empty: -2.4930566 1111 9 73 0 0.088943081
empty: -2.7443023 705 11 150 3 0.088943081
empty: -2.7443023 1037 13 228 3 0.088943081
success: -1.89712 1111 1078 73 70 0.097762294
success: -1.89712 705 683 150 146 0.097762294
success: -1.89712 1037 1009 228 223 0.097762294
connections: -1.3093333 13 0 2 0 -0.00097783819
connections: -1.1429049 0 0 0 0 -0.00097783819
connections: -1.1429049 10 0 1 0 -0.00097783819
size: -2.4930566 1078 9 69 0 0
size: -2.7443023 688 11 147 3 0
size: -2.7443023 947 13 201 3 0
content_type: -1.3093333 1069 0 69 0 0
content_type: -1.3093333 677 0 144 0 0
content_type: -1.3093333 943 0 200 0 0
"""
"""By metric, at the end of each part: log evidence, counts of stable and of the canary, log proof."""


def recorded() -> dict[str, list[float]]:
    """Return the figures of ``RECORDED`` by metric."""
    found: dict[str, list[float]] = {}
    for line in RECORDED.strip().splitlines():
        name, _, figures = line.rpartition(": ")
        found.setdefault(name, []).extend(map(float, figures.split()))
    return found


def test_evidence_is_as_it_was_recorded() -> None:
    """With a second step, users who always fail, surges, all kinds of answers, and a restart."""
    wanted = JudgeSettings(steps=(5.0, 25.0), warmup=3.0)
    world = World(Judge(wanted), users=400, rate=120.0, stable=mixed(0.01), canary=mixed(0.04))
    found: dict[str, list[float]] = {}
    for seconds, weight in ((8, 0.0), (12, 5.0), (8, 25.0), (4, 25.0)):
        world.weight = weight
        for _ in range(seconds * 10):
            seen = world.tick()
        for verdict in seen.verdicts:
            if verdict.log_evidence > -1e6 and verdict.users != (0, 0):
                name = f"{verdict.metric} {verdict.scope}".strip()
                found.setdefault(name, []).append(verdict.log_evidence)
                found[name] += [*verdict.stable, *verdict.canary, verdict.log_proof]
        state = json.loads(json.dumps(world.judge.to_dict()))
        if weight == 25.0:
            world.judge = Judge.from_dict(wanted, state, world.judge)
    wanted_figures = recorded()
    assert found.keys() == wanted_figures.keys()
    for name, figures in wanted_figures.items():
        assert found[name] == pytest.approx(figures, rel=1e-6, abs=1e-6), name
