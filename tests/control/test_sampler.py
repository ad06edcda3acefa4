"""The judge gets what outcomes saw, and what they could not see."""

from __future__ import annotations

import pytest

from canaryproxy import config
from canaryproxy.config.model.outcomes import TAKEN
from canaryproxy.control.sampler import Sampler
from canaryproxy.control.settings import ControlSettings
from canaryproxy.judging import metrics
from canaryproxy.judging.posted import POSTED
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind, Counters, Totals
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, RouteTable

CONFIG = """
variants: {stable: {endpoints: ["http://127.0.0.1:1"]}}
judge:
  outcomes:
    signup: {when: {status: 2xx}}
    search: {when: {json: {pointer: /results, is: empty}}, bad: true}
"""


def test_sample_says_what_outcomes_could_not_look_into() -> None:
    cells = Counters()
    settings = ControlSettings.of(config.parse(CONFIG, file="f"))
    slot = settings.slots["search"]
    cells.canary[counters.OUTCOMES + 2 * slot] = 30
    cells.canary[counters.OUTCOMES + 2 * slot + 1] = 10
    cells.canary[counters.POINTERS + 2 * slot] = 29
    cells.canary[counters.POINTERS + 2 * slot + 1] = 28
    cells.canary[counters.BLIND + len(Blind) * slot + Blind.TOO_LARGE] = 7
    cells.canary[counters.BLIND + len(Blind) * slot + Blind.NOT_JSON] = 3
    cells.stable[counters.OUTCOMES + 2 * settings.slots["signup"]] = 5
    sample = Sampler(Totals([cells]), settings).sample(RouteTable(), frozenset(), 0.0)
    assert sample.canary["search"] == (30, 10)
    assert sample.canary["search.blind"] == (40, 10)
    assert sample.canary["search.found"] == (29, 28)
    assert sample.canary["search.blind.too_large"] == (10, 7)
    assert sample.canary["search.blind.not_json"] == (10, 3)
    assert sample.canary["search.blind.no_time"] == (10, 0)
    assert sample.stable["signup.blind"] == (5, 0)
    assert sample.stable.keys() == sample.canary.keys()
    assert "signup.found" not in sample.stable  # it follows no pointer


def test_no_outcome_can_have_the_name_of_a_metric() -> None:
    names = [value for name, value in vars(metrics).items() if name.isupper()]
    assert {name for name in names if isinstance(name, str)} <= TAKEN


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_are_the_same_object_until_something_is_counted(workers: int) -> None:
    cells = [Counters() for _ in range(workers)]
    settings = ControlSettings.of(config.parse(CONFIG, file="f"))
    sampler = Sampler(Totals(cells), settings)
    for at in range(counters.FIRST_BYTE):
        for variant in (STABLE, CANARY):
            before = sampler.counts()
            cells[at % workers].variants[variant][at] += 1 + at
            sample = sampler.counts()
            fresh = Sampler(Totals(cells), settings).counts()
            assert sample == fresh, at
            both = (before.stable, before.canary), (sample.stable, sample.canary)
            assert both[0][variant] is not both[1][variant]
            assert both[0][1 - variant] is both[1][1 - variant], VARIANTS[1 - variant]


def test_posted_events_are_counted_although_no_request_is() -> None:
    text = CONFIG + "  metrics: {business: {outcome: events}}\n"
    sampler = Sampler(Totals([Counters()]), ControlSettings.of(config.parse(text, file="f")))
    assert sampler.counts().canary[POSTED] == (0, 0)
    sampler._inbox.counts["canary"] += 3
    assert sampler.counts().canary[POSTED] == (0, 3)
    assert sampler.counts().stable[POSTED] == (0, 0)
