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
        self.ended = {"stable": 0, "canary": 0}
        self.see()

    def see(
        self,
        variant: str = "stable",
        number: int = 0,
        *,
        lost: Blind | None = None,
        found: bool = True,
        others: int = 0,
        seconds: float = 0.1,
    ) -> str | None:
        """Let a variant send responses, and ``others`` that do not match; return why the outcome is blind."""
        self.now += seconds
        for side, counts in self.sides.items():
            more = number if side == variant else 0
            blind = more if lost is not None else 0
            self.ended[side] += more + (others if side == variant else 0)
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
        return self.sight.blind()

    @property
    def sample(self) -> Sample:
        stable, canary = (
            {key: (pair[0], pair[1]) for key, pair in side.items()} for side in self.sides.values()
        )
        stable["requests"], canary["requests"] = ((self.ended[side], 0) for side in self.sides)
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
    assert outcome.see("stable", others=60) is None
    why = outcome.see("canary", others=60)
    assert why is not None
    assert "no response has matched it" in why
    outcome.see("stable", 1)
    outcome.sight.begin_step()
    assert outcome.see("canary", others=200) is None


def test_a_canary_that_serves_an_outcome_elsewhere_is_told() -> None:
    """Its requests for /search are now for /find: a fifth of stable's responses match, none of its own."""
    outcome = Outcome()
    outcome.see("stable", 100, others=400)
    assert outcome.see("canary", others=90) is None
    why = outcome.see("canary", others=20)
    assert why is not None
    assert "it matches none of 110 canary responses, 100 of 500 of stable" in why
    assert outcome.see("canary", 1) is None


@pytest.mark.parametrize(
    ("canary", "stable", "holds"),
    [
        ((10, 100), (0, 100), True),
        ((10, 100), (0, 5000), True),
        ((4, 40), (0, 4000), True),
        ((10, 100), (4, 100), False),
        ((12, 100), (40, 1000), True),
        ((2, 20), (0, 2000), False),
        ((40, 1000), (0, 1000), False),
        ((190, 1000), (100, 1000), False),
        ((210, 1000), (190, 1000), True),
        ((0, 1000), (210, 1000), True),
    ],
    ids=str,
)
@pytest.mark.parametrize("steady", [False, True], ids=["at once", "bit by bit"])
def test_blindness_has_a_bound_beside_stable_and_one_of_its_own(
    canary: tuple[int, int], stable: tuple[int, int], holds: bool, steady: bool
) -> None:
    """Pairs are responses that could not be read, and all. The bounds are five points more, and a fifth."""
    outcome = Outcome()
    parts = 10 if steady else 1
    why = None
    for at in range(parts):
        for side, (lost, of) in (("stable", stable), ("canary", canary)):
            more = lost * (at + 1) // parts - lost * at // parts
            outcome.see(side, more, lost=Blind.NOT_JSON)
            why = outcome.see(side, of // parts - more, seconds=3.0)
    assert (why is not None) is holds, why


def test_a_canary_that_is_blinder_than_stable_is_told_beside_it() -> None:
    outcome = Outcome()
    outcome.see("stable", 400)
    outcome.see("canary", 10, lost=Blind.NOT_JSON)
    why = outcome.see("canary", 90)
    assert why is not None
    assert "10.0% of 100 canary responses, 0% of 400 of stable could not be looked into" in why
    assert "are not JSON" in why


def test_blindness_that_comes_late_and_is_small_holds_too() -> None:
    """An hour of readable responses does not hide the tenth that is not."""
    outcome = Outcome()
    for _ in range(360):
        outcome.see("stable", 200, seconds=5.0)
        assert outcome.see("canary", 50, seconds=5.0) is None
    for _ in range(4):
        outcome.see("stable", 200, seconds=5.0)
        outcome.see("canary", 5, lost=Blind.NOT_JSON)
        why = outcome.see("canary", 45, seconds=5.0)
    assert why is not None


def test_a_tenth_of_the_canarys_responses_that_lost_the_path_is_told() -> None:
    outcome = Outcome()
    outcome.see("stable", 300)
    outcome.see("canary", 90)
    why = outcome.see("canary", 10, found=False)
    assert why is not None
    assert "its path is in 90 of 100 canary responses, 300 of 300 of stable" in why


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


def test_what_an_outcome_says_does_not_depend_on_how_often_it_is_asked() -> None:
    outcome, seldom = Outcome(), Sight("search")
    seldom.take(outcome.now, outcome.sample)
    told = set()
    for variant, lost, found in (
        ("stable", None, True),
        ("canary", Blind.NOT_JSON, True),
        ("canary", None, False),
        ("stable", None, False),
    ):
        for number in (10, 0, 30, 0):
            said = outcome.see(variant, number, lost=lost, found=found, seconds=11.0)
            seldom.take(outcome.now, outcome.sample)
            told.add(said)
        assert seldom.blind() == said
        for sight in (outcome.sight, seldom):
            sight.begin_step()
        assert outcome.sight.blind() == seldom.blind()
    assert len(told) > 1
