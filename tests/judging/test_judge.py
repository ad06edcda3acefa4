"""The judge: levels, reasons, what cannot be judged, and the promises on simulated releases."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from math import nan
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.judge import (
    Assessment,
    BusinessRule,
    ErrorsRule,
    GuardRails,
    Judge,
    JudgeSettings,
    OutcomeRule,
    Sample,
    Verdict,
)
from canaryproxy.measure.trials import TICKS_PER_SECOND, UserReducer

np = pytest.importorskip("numpy")
rules = pytest.importorskip("tests.simulation.rules")
world = pytest.importorskip("tests.simulation.world")

FIVE = JudgeSettings(business=BusinessRule(), outcomes=(OutcomeRule("empty_search"),))


class Feed:
    """Grows the counters of a judge and lets it observe."""

    def __init__(self, rule: JudgeSettings, judge: Judge | None = None) -> None:
        self.judge = judge or Judge(rule)
        self.now = 1000.0
        self.stable: dict[str, tuple[int, int]] = {}
        self.canary: dict[str, tuple[int, int]] = {}
        for name in ("errors", "client_errors", "latency", "throughput", "business", "requests"):
            self.stable[name] = self.canary[name] = (5, 1)
        self.stable["empty_search"] = self.canary["empty_search"] = (0, 0)
        self.seen = self.judge.observe(self.now, Sample(dict(self.stable), dict(self.canary)))

    @property
    def level(self) -> str:
        return self.seen.level

    def tick(self, *grow: tuple[str, int, int, int, int], seconds: float = 0.1) -> Assessment:
        """Add (metric, n_s, e_s, n_c, e_c) and observe."""
        for name, n_s, e_s, n_c, e_c in grow:
            for side, n, e in ((self.stable, n_s, e_s), (self.canary, n_c, e_c)):
                trials, events = side[name]
                side[name] = (trials + n, events + e)
        self.now += seconds
        self.seen = self.judge.observe(self.now, Sample(dict(self.stable), dict(self.canary)))
        return self.seen

    def of(self, metric: str) -> Verdict:
        return next(verdict for verdict in self.seen.verdicts if verdict.metric == metric)


def test_what_was_counted_before_is_not_judged() -> None:
    feed = Feed(JudgeSettings())
    assert feed.tick().judged == 0
    assert feed.of("errors").canary == (0, 0)
    assert feed.of("errors").difference is None


def test_breach_needs_evidence_and_the_margin() -> None:
    feed = Feed(JudgeSettings(errors=ErrorsRule(margin=0.3)))
    for _ in range(40):
        feed.tick(("errors", 20, 0, 10, 2))
    verdict = feed.of("errors")
    assert verdict.log_evidence > verdict.limit
    assert {verdict.level, feed.level} == {"suspect"}
    assert "difference within the 30% margin so far" in verdict.reason
    for _ in range(40):
        feed.tick(("errors", 20, 0, 10, 10))
    assert feed.level == "breach"
    assert feed.seen.cause is not None
    assert feed.seen.cause.startswith(
        "error rate 60.0% on canary (480 of 800) vs 0% on stable (0 of 1,600); evidence >1,000,000:1 (limit "
    )


def test_suspicion_passes_when_the_canary_does_well() -> None:
    feed = Feed(JudgeSettings())
    for _ in range(2):
        feed.tick(("errors", 99, 0, 1, 1))
    assert feed.level == "suspect"
    for _ in range(300):
        feed.tick(("errors", 100, 1, 10, 0))
    assert feed.level == "ok"


def test_alpha_is_shared_over_the_metrics_that_can_trip() -> None:
    few, many = Feed(JudgeSettings(throughput=None)), Feed(FIVE)
    for feed, metrics in ((few, 2), (many, 5)):
        feed.tick()
        verdict = feed.of("errors")
        assert abs(verdict.limit - float(np.log(metrics / 0.001))) < 1e-12
        assert abs(verdict.hold_limit - float(np.log((metrics + 1) / 0.05))) < 1e-12


def test_a_drop_of_conversions_trips_and_a_rise_does_not() -> None:
    for lost, level in ((True, "breach"), (False, "ok")):
        feed = Feed(FIVE)
        for _ in range(400):
            few, much = (10, 100) if lost else (100, 20)
            feed.tick(("business", 2000, much * 2, 1000, few), seconds=10.0)
        assert feed.level == level


def test_a_small_drop_of_a_common_outcome_is_seen() -> None:
    feed = Feed(FIVE)
    for _ in range(400):
        feed.tick(("business", 1000, 200, 1000, 180), seconds=30.0)
    assert feed.level == "breach"
    assert feed.of("business").interval[1] <= 1.0


def test_business_can_be_proven() -> None:
    feed = Feed(JudgeSettings(errors=None, latency=None, throughput=None, business=BusinessRule()))
    for _ in range(400):
        feed.tick(("business", 1000, 300, 1000, 300), seconds=30.0)
    assert feed.seen.proven


def test_business_where_more_is_bad() -> None:
    rule = JudgeSettings(business=BusinessRule(direction="increase", margin=0.1))
    feed = Feed(rule)
    for _ in range(40):
        feed.tick(("business", 1000, 50, 1000, 100), seconds=30.0)
    assert feed.level == "breach"


def test_an_outcome_trips() -> None:
    feed = Feed(FIVE)
    for _ in range(20):
        feed.tick(("empty_search", 10, 0, 2, 2))
    assert feed.level == "breach"
    assert "empty_search " in (feed.seen.cause or "")


def test_answers_4xx_are_suspect_and_never_trip() -> None:
    feed = Feed(JudgeSettings())
    for _ in range(200):
        feed.tick(("errors", 20, 0, 10, 0), ("client_errors", 20, 0, 10, 10))
    assert feed.level == "suspect"
    assert feed.of("client_errors").limit == float("inf")
    off = Feed(JudgeSettings(client_errors=False))
    off.tick(("client_errors", 20, 0, 10, 10))
    assert [verdict.metric for verdict in off.seen.verdicts] == ["errors", "latency", "throughput"]


def test_stable_without_traffic_is_never_judged_and_says_so() -> None:
    feed = Feed(JudgeSettings())
    for _ in range(600):
        feed.tick(("errors", 0, 0, 5, 5), ("requests", 0, 0, 5, 5))
    assert feed.level == "ok"
    assert not feed.seen.comparable
    assert feed.seen.judged == 0
    assert feed.seen.answered == 3000
    assert feed.seen.quiet == "stable has no traffic"
    assert feed.of("errors").reason == "error rate cannot be judged: stable has no traffic"
    assert not feed.seen.proven


def test_a_canary_without_traffic_says_so() -> None:
    feed = Feed(JudgeSettings())
    for _ in range(200):
        feed.tick(("errors", 9, 1, 0, 0), ("requests", 9, 1, 0, 0))
    assert feed.seen.quiet == "the canary has no traffic"
    assert feed.level == "ok"


@pytest.mark.parametrize("bad", [nan, -1, float("inf"), "7"])
def test_numbers_that_are_none_are_never_judged_and_say_so(bad: object) -> None:
    judge = Judge(JudgeSettings())
    seen = None
    for at in range(200):
        stable = dict.fromkeys(("errors", "latency", "throughput", "requests"), (bad, 0))
        canary = dict.fromkeys(("errors", "latency", "throughput"), (at * 5, at * 5))
        seen = judge.observe(at / 10, Sample(stable, canary))  # type: ignore[arg-type]
    assert seen is not None
    assert seen.level == "ok"
    assert not seen.comparable
    assert seen.quiet == "stable's counts are not numbers"
    assert all("stable's counts are not numbers" in v.reason for v in seen.verdicts[:1])
    judge = Judge(JudgeSettings())
    seen = judge.observe(0.0, Sample({"errors": (1, 0)}, {"errors": (bad, 0)}))  # type: ignore[dict-item]
    assert "the canary's counts are not numbers" in seen.verdicts[0].reason


def test_guard_rails_hold_whatever_stable_does() -> None:
    rule = JudgeSettings(errors=None, guard_rails=GuardRails(errors=0.5, min_requests=20))
    feed = Feed(rule)
    feed.tick(("requests", 0, 0, 19, 19))
    assert feed.level == "ok"
    feed.tick(("requests", 0, 0, 1, 0))
    assert feed.level == "breach"
    assert (feed.seen.cause or "").startswith(
        "guard rail: 95.0% of the last 20 canary requests failed (19), limit 50%"
    )
    late = Feed(rule)
    for _ in range(600):
        late.tick(("requests", 20, 0, 20, 1))
    assert late.level == "ok"
    ticks = 0
    while late.level == "ok":
        late.tick(("requests", 20, 0, 20, 20))
        ticks += 1
    assert ticks < 250  # the last twenty seconds count, not the whole release


def test_guard_rails_count_what_the_errors_count() -> None:
    feed = Feed(JudgeSettings(guard_rails=GuardRails(errors=0.5, min_requests=20)))
    for _ in range(100):
        feed.tick(("requests", 20, 0, 10, 10))
    assert feed.level == "ok"
    feed.tick(("errors", 0, 0, 20, 10))
    assert feed.level == "breach"


def test_little_traffic_is_judged_in_longer_ticks() -> None:
    feed = Feed(JudgeSettings())
    generator = random.Random(5)
    ticks = 0
    while feed.level != "breach":
        ticks += 1
        failing = generator.random() < 0.02
        feed.tick(("errors", int(generator.random() < 0.08), 0, int(failing), int(failing)))
        assert ticks < 2000
    assert feed.of("errors").canary[1] < 15


def test_events_that_outrun_their_trials_are_kept_for_the_next_tick() -> None:
    feed = Feed(JudgeSettings())
    feed.tick(("errors", 10, 0, 1, 2))
    assert feed.of("errors").canary == (1, 1)
    feed.tick(("errors", 10, 0, 1, 0))
    assert feed.of("errors").canary == (2, 2)


def test_a_worker_that_begins_at_zero_is_counted_from_zero() -> None:
    feed = Feed(JudgeSettings())
    feed.tick(("errors", 100, 0, 100, 0))
    feed.stable["errors"], feed.canary["errors"] = (7, 0), (3, 1)
    feed.tick()
    assert feed.of("errors").canary == (103, 1)


def test_proof_of_no_harm() -> None:
    feed = Feed(JudgeSettings(latency=None, throughput=None))
    for _ in range(900):
        feed.tick(("errors", 19, 0, 1, 0), ("requests", 19, 0, 1, 0))
    assert feed.seen.proven
    assert feed.of("errors").reason.endswith("proven not worse by 1% or more")
    assert feed.seen.judged == 900


def test_an_outcome_cannot_have_the_name_of_a_metric() -> None:
    for name in ("errors", "requests"):
        with pytest.raises(ValueError, match=name):
            Judge(JudgeSettings(outcomes=(OutcomeRule(name),)))


steps = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 10), st.integers(0, 10)),
    min_size=1,
    max_size=25,
)


@given(steps, st.integers(0, 24))
@settings(max_examples=40, deadline=None)
def test_a_restart_goes_on_exactly(rows: list[tuple[int, int, int, int]], restart_at: int) -> None:
    names = (
        "errors",
        "latency",
        "throughput",
        "business",
        "empty_search",
        "client_errors",
        "requests",
    )
    straight, restarted = Feed(FIVE), Feed(FIVE)
    for at, (n_s, e_s, n_c, e_c) in enumerate(rows):
        grow = [(name, n_s + 3, min(e_s, n_s), n_c, min(e_c, n_c)) for name in names]
        seconds = 301.0  # every metric closes its tick: nothing is being collected
        straight.tick(*grow, seconds=seconds)
        restarted.tick(*grow, seconds=seconds)
        if at == restart_at:
            text = json.dumps(restarted.judge.to_dict(), allow_nan=False)
            again = Judge.from_dict(FIVE, json.loads(text))
            now = restarted.now
            restarted = Feed(FIVE, again)
            straight_again = Judge.from_dict(FIVE, json.loads(json.dumps(straight.judge.to_dict())))
            straight = Feed(FIVE, straight_again)
            straight.now = restarted.now = now
            again.observe(now, Sample(restarted.stable, restarted.canary))
            straight_again.observe(now, Sample(straight.stable, straight.canary))
    for name in names[:-1]:
        one, other = straight.of(name), restarted.of(name)
        assert one == other
    assert straight.seen == restarted.seen


def test_a_changed_metric_begins_afresh_and_the_others_go_on() -> None:
    feed = Feed(JudgeSettings())
    for _ in range(30):
        feed.tick(("errors", 20, 1, 10, 1), ("throughput", 20, 0, 10, 0))
    state = feed.judge.to_dict()
    changed = Judge.from_dict(JudgeSettings(errors=ErrorsRule(margin=0.05)), state)
    seen = changed.observe(0.0, Sample({}, {}))
    assert [v.canary[0] for v in seen.verdicts if v.metric in ("errors", "throughput")] == [0, 300]


# Promises on simulated releases, with the judge itself; bench/simulation runs them at length.


def _requests(
    release: object, runs: int, seconds: float, seed: int = 1, metric: str = "errors"
) -> list[int]:
    rng = np.random.default_rng(seed)
    found = [rules.ours(release.run(rng, seconds), metric) for _ in range(runs)]  # type: ignore[attr-defined]
    assert all(run.requests is not None for run in found)
    return [run.requests for run in found]


@pytest.mark.parametrize(
    ("canary", "weight", "most"), [(1.0, 1.0, 5), (1.0, 50.0, 25), (0.05, 1.0, 200), (0.5, 1.0, 12)]
)
def test_a_bad_canary_is_caught_early(canary: float, weight: float, most: int) -> None:
    release = world.Errors(0.005, canary, weight)
    assert median(_requests(release, 41, 400.0)) <= most


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("swing", [0.0, 0.9])
def test_a_healthy_canary_is_left_alone(rate: float, swing: float) -> None:
    rng = np.random.default_rng(2)
    for weight in (1.0, 50.0):
        release = world.Errors(rate, rate, weight, swing=swing)
        assert all(rules.ours(release.run(rng, 100.0)).tick is None for _ in range(6))


def test_a_healthy_canary_with_a_common_wandering_load_is_left_alone() -> None:
    rng = np.random.default_rng(3)
    release = world.Latency(5.0, wander=0.5)
    assert all(rules.ours(release.run(rng, 100.0), "latency").tick is None for _ in range(6))


def test_below_the_margin_nothing_is_rolled_back() -> None:
    rng = np.random.default_rng(4)
    runs = [rules.ours(world.Errors(0.005, 0.008, 50.0).run(rng, 200.0)) for _ in range(6)]
    assert all(run.tick is None for run in runs)
    assert any(run.suspect for run in runs)


def test_slow_answers_are_caught_early() -> None:
    assert median(_requests(world.Latency(5.0, added=0.1), 21, 60.0, metric="latency")) <= 120
    assert median(_requests(world.Latency(5.0, added=0.2), 21, 60.0, metric="latency")) <= 20


@pytest.mark.parametrize("weight", [5.0, 50.0])
def test_a_deadlock_is_caught_within_three_seconds(weight: float) -> None:
    rng = np.random.default_rng(6)
    for _ in range(10):
        ticks = world.Latency(weight, stuck=True).run(rng, 10.0)
        run = rules.ours(ticks, "latency")
        assert run.tick is not None
        assert (run.tick + 1) * world.TICK - ticks.failing_from <= 3.0


def test_a_canary_that_breaks_late_is_caught_early() -> None:
    """An hour of health is not a licence: the evidence starts afresh each minute with what was held back."""
    release = world.Errors(0.005, 1.0, 50.0, rate=20.0, breaks_after=3600.0)
    rng = np.random.default_rng(8)
    ticks = release.run(rng, 3700.0)
    ours, plain = rules.ours(ticks), rules.formula(ticks)
    assert ours.tick is not None
    assert plain.tick is not None
    assert (ours.tick - 36_000) * world.TICK < 5.0
    assert ours.tick < plain.tick


def _with_users(
    fails: Callable[[int, float], bool],
    extra: list[tuple[float, int]],
    seed: int = 9,
    reduced: bool = True,
) -> bool:
    """Run 120 s of 200 requests a second at weight 1 through the user reduction; return if it tripped."""
    generator = random.Random(seed)
    users = UserReducer()
    judge = Judge(replace(FIVE, guard_rails=GuardRails(errors=0.5, min_requests=20)))
    counts = [[0, 0], [0, 0]]
    judge.observe(0.0, Sample({"errors": (0, 0)}, {"errors": (0, 0)}))
    traffic = sorted(
        [(generator.uniform(0, 120), generator.randrange(10_000)) for _ in range(24_000)] + extra
    )
    at = 0
    for tick in range(1, 1201):
        now = tick / 10
        while at < len(traffic) and traffic[at][0] <= now:
            when, bucket = traffic[at]
            at += 1
            if users.claim(bucket, int(when * TICKS_PER_SECOND)) or not reduced:
                side = counts[bucket < 100]
                side[0] += 1
                if fails(bucket, when) or generator.random() < 0.005:
                    side[1] += 1
                    users.failed(bucket)
        if tick % 100 == 0:
            users.refresh(100)
        stable, canary = ((n, e) for n, e in counts)
        if judge.observe(now, Sample({"errors": stable}, {"errors": canary})).level == "breach":
            return True
    return False


def test_users_for_whom_nothing_ever_works_are_counted_once() -> None:
    """Five of them are on the canary by chance: no regression, and without the reduction a trip."""

    def broken(bucket: int, _when: float) -> bool:
        return bucket in (3, 14, 15, 59, 92) or bucket % 100 == 0

    assert not any(_with_users(broken, [], seed) for seed in range(5))
    assert any(_with_users(broken, [], seed, reduced=False) for seed in range(5))


def test_one_client_that_fails_a_thousand_times_does_not_trip() -> None:
    assert not _with_users(lambda bucket, _: bucket == 7, [(10 + i * 0.1, 7) for i in range(1000)])


def test_twenty_users_who_fail_do() -> None:
    assert _with_users(
        lambda bucket, when: bucket < 20 and when > 60, [(60.1 + i, i) for i in range(20)]
    )


def test_a_beta_group_of_five_for_whom_everything_fails_trips() -> None:
    group = [(20 + at * 0.2, at % 5) for at in range(400)]
    assert _with_users(lambda bucket, when: bucket < 100 and when > 20, group)
