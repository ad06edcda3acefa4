"""The judge's settings under a configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy import config
from canaryproxy.config import PathMatch
from canaryproxy.control.settings import judge_settings, plan
from canaryproxy.judging.settings import (
    BusinessRule,
    ContentRule,
    ErrorsRule,
    GuardRails,
    JudgeSettings,
    LatencyRule,
    OutcomeRule,
)

_VARIANTS = "variants: {stable: {endpoints: [http://a]}, canary: {endpoints: [http://b, http://c]}}"


def settings(text: str = "", **slots: int) -> JudgeSettings:
    return judge_settings(config.parse(f"{_VARIANTS}\n{text}", file="f"), slots)


def test_defaults_of_the_file_are_those_of_the_judge() -> None:
    assert settings() == JudgeSettings(endpoints=2)


def test_rules_of_the_file_reach_the_judge() -> None:
    found = settings(
        "judge:\n"
        "  metrics:\n"
        "    errors: {margin: 2%}\n"
        "    business: {outcome: paid, direction: increase}\n"
        "    classes: false\n"
        "  outcomes:\n"
        "    paid: {when: {status: 201}}\n"
        "    tiny: {when: {body_under: 1kB}, bad: true, margin: 3%}\n"
        "  routes: false\n"
        "  min_users: 5\n"
        "  warmup: 1m\n"
        "  not_up: 3m\n"
        "release: {id: a, steps: [{weight: 5}, {weight: 50}]}\n",
        paid=0,
        tiny=3,
    )
    assert found.errors == ErrorsRule(0.02)
    assert (found.latency, found.throughput, found.classes) == (None, None, None)
    assert (found.content, found.connections) == (
        JudgeSettings().content,
        JudgeSettings().connections,
    )
    assert found.business == BusinessRule(0.05, "increase", 0, "paid")
    assert found.outcomes == (OutcomeRule("tiny", 0.03, 3),)
    assert (found.routes, found.named) == (False, ())
    assert (found.min_users, found.warmup, found.not_up) == (5, 60.0, 180.0)
    assert found.steps == (5.0, 50.0)


@given(
    st.lists(st.integers(1, 9_999), min_size=1, max_size=6, unique=True),
    st.integers(1, 9_999),
    st.booleans(),
)
def test_a_hold_back_is_the_step_before_the_last_users_move(
    weights: list[int], share: int, ends: bool
) -> None:
    rising = [one / 100 for one in sorted(weights)] + [100.0] * ends
    text = (
        f"{_VARIANTS}\nrelease:\n  id: a\n  steps: [{', '.join(f'{{weight: {one}}}' for one in rising)}]\n"
        f"  hold_back: {{share: {share / 100}%, bake: 24h}}\n"
    )
    if share >= 10_000 - max(weights):
        with pytest.raises(
            config.ConfigError, match=r"release\.hold_back\.share: expected a share"
        ):
            config.parse(text, file="f")
        return
    found = config.parse(text, file="f")
    steps = plan(found).steps
    assert [step.weight for step in steps] == sorted({*rising, round(100 - share / 100, 2)})
    (held,) = (step for step in steps if step.hold_back)
    assert (held.bake, held.control_group) == (86_400.0, f"{share / 100:g}% of users")
    assert judge_settings(found, {}).steps == tuple(step.weight for step in steps)


def test_without_a_hold_back_no_step_is_one() -> None:
    found = config.parse(
        f"{_VARIANTS}\nrelease: {{id: a, steps: [{{weight: 99, bake: 24h}}]}}", file="f"
    )
    assert [step.hold_back for step in plan(found).steps] == [False]


def test_named_routes_and_the_finer_rules_reach_the_judge() -> None:
    found = settings(
        "judge:\n"
        "  metrics: {latency: {p50: 30%, p99: 80%}, content: {type: false}}\n"
        "  routes: {pay: {prefix: /pay}}\n"
    )
    assert (found.routes, found.named) == (True, (("pay", PathMatch(prefix="/pay")),))
    assert found.latency == LatencyRule(p50=0.3, p99=0.8)
    assert found.content == ContentRule(type=False)


def test_posted_events_have_no_slot() -> None:
    business = settings("judge: {metrics: {business: {outcome: events}}}").business
    assert business == BusinessRule(slot=None)


def test_rail_of_errors_is_absolute_only_where_it_is_written() -> None:
    assert settings("judge: {guard_rails: true}").guard_rails == GuardRails()
    assert settings("judge: {guard_rails: {min_requests: 50}}").guard_rails == GuardRails(
        min_requests=50
    )
    assert settings("judge: {guard_rails: {errors: 50%}}").guard_rails == GuardRails(absolute=True)
    assert settings("judge: {guard_rails: false}").guard_rails is None
