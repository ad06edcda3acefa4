"""What outcomes cannot see holds the release, with the reason and what to do, however little traffic."""

from __future__ import annotations

import pytest

from canaryproxy.judging.settings import BusinessRule, JudgeSettings, OutcomeRule
from canaryproxy.judging.sight import _WHY, Sight
from canaryproxy.judging.verdict import Sample
from canaryproxy.judging.watch import Watch
from canaryproxy.measure.counters import Blind

Side = dict[str, list[int]]


class Outcome:
    """Counts of the outcome ``search`` as the sampler reads them."""

    def __init__(self) -> None:
        self.sight = Sight("search")
        self.now = 0.0
        self.sides: dict[str, Side] = {"stable": {}, "canary": {}}
        self.see()

    def see(
        self,
        variant: str = "stable",
        number: int = 0,
        *,
        lost: Blind | None = None,
        found: bool = True,
        seconds: float = 0.1,
    ) -> str | None:
        """Let a variant send responses; return why the outcome is blind."""
        self.now += seconds
        for side, counts in self.sides.items():
            more = number if side == variant else 0
            blind = more if lost is not None else 0
            read = more - blind
            for key, of, part in (
                ("search.blind", more, blind),
                ("search.found", read, read if found else 0),
                *(
                    (f"search.blind.{reason.label}", blind, blind if reason is lost else 0)
                    for reason in Blind
                ),
            ):
                pair = counts.setdefault(key, [0, 0])
                pair[0] += of
                pair[1] += part
        self.sight.take(self.now, self.sample)
        return self.sight.blind(1000)

    @property
    def sample(self) -> Sample:
        stable, canary = (
            {key: (pair[0], pair[1]) for key, pair in side.items()} for side in self.sides.values()
        )
        return Sample(stable, canary)


@pytest.mark.parametrize("reason", list(Blind))
@pytest.mark.parametrize("variant", ["stable", "canary"])
def test_blindness_is_told_with_its_reason_and_what_to_do(reason: Blind, variant: str) -> None:
    outcome = Outcome()
    why = outcome.see(variant, 25, lost=reason)
    what, todo = _WHY[reason]
    assert why == (
        f"outcome search is blind: 100% of 25 {variant} responses could not be looked into: "
        f"they {what} ({todo})"
    )


def test_the_reason_of_most_is_told() -> None:
    outcome = Outcome()
    outcome.see("canary", 8, lost=Blind.TOO_LARGE)
    why = outcome.see("canary", 30, lost=Blind.NOT_JSON)
    assert why is not None
    assert "30 of them are not JSON" in why


def test_a_quiet_outcome_is_known_to_be_blind_after_few_responses_and_to_see_again() -> None:
    """Four responses a minute, after many that were read."""
    outcome = Outcome()
    for _ in range(300):
        assert outcome.see("canary", 1, seconds=15.0) is None
    lost = 0
    while outcome.see("canary", 1, lost=Blind.NOT_JSON, seconds=15.0) is None:
        lost += 1
    assert lost <= 40
    read = 0
    while outcome.see("canary", 1, seconds=15.0) is not None:
        read += 1
    assert read <= 40


def test_a_busy_outcome_is_known_to_be_blind_within_seconds() -> None:
    outcome = Outcome()
    for _ in range(600):
        outcome.see("canary", 100)
    began = outcome.now
    while outcome.see("canary", 100, lost=Blind.UNDECODABLE) is None:
        assert outcome.now < began + 21.0


def test_a_pointer_that_is_nowhere_on_stable_is_told() -> None:
    outcome = Outcome()
    why = outcome.see("stable", 60, found=False)
    assert why is not None
    assert "its path is in none of 60 responses of stable: check the JSON pointer" in why
    assert outcome.see("stable", 1) is None


def test_a_canary_whose_responses_have_lost_the_path_is_told() -> None:
    """Renamed from /results to /items: the rule would hold for none of the canary's responses."""
    outcome = Outcome()
    outcome.see("stable", 100)
    why = outcome.see("canary", 30, found=False)
    assert why is not None
    assert "its path is in 0 of 30 canary responses, 100 of 100 of stable" in why


def test_an_outcome_that_matches_nothing_is_told_until_it_does() -> None:
    outcome = Outcome()
    why = outcome.sight.blind(100)
    assert why is not None
    assert "no response has matched it" in why
    outcome.see("stable", 1)
    outcome.sight.begin_step()
    assert outcome.sight.blind(100) is None


def test_the_outcome_of_the_business_metric_is_watched_too() -> None:
    rule = BusinessRule(slot=0, outcome="search")
    watch = Watch(JudgeSettings(business=rule, outcomes=(OutcomeRule("other", slot=1),)))
    outcome = Outcome()
    watch.tick(0.0, outcome.sample)
    outcome.see("canary", 25, lost=Blind.NOT_JSON)
    watch.tick(0.1, outcome.sample)
    (held,) = watch.holds(0.1, frozenset())
    assert held.startswith("outcome search is blind: ")
    assert watch.holds(0.1, frozenset({"business"})) == []
