"""Every interleaving within a budget of mishaps keeps the protocol's promises; planted bugs are found.

The large run is ``make model``: ``python -m tests.model``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from canaryproxy.fleet import protocol
from canaryproxy.fleet.state import Document
from canaryproxy.release import rollout
from canaryproxy.release.rollout import Rollout

from .model import BUDGET, COHORTS, Broken, Rules, first, search

pytestmark = pytest.mark.slow

SMALL: tuple[tuple[int, dict[str, int], int], ...] = (
    (2, {"trip": 2, "reset": 1, "step": 1, "cut": 1}, 9_000),
    (2, {"trip": 1, "step": 2, "expire": 2}, 3_500),
    (2, {"trip": 1, "step": 1, "expire": 1, "crash": 1}, 1_500),
    (3, {"trip": 1, "step": 1, "cut": 1}, 2_000),
    (3, {"trip": 1, "step": 2, "expire": 1}, 10_000),
    (3, {"trip": 1, "reset": 1, "step": 1}, 4_000),
    (2, {"trip": 1, "reset": 1, "loss": 1, "abort": 1}, 7_000),
    (2, {"trip": 1, "reset": 1, "step": 1, "failover": 1}, 3_500),
    (2, {"trip": 1, "next": 1, "failover": 1, "cut": 1}, 2_500),
    (2, {"trip": 1, "reset": 1, "accept": 1, "cut": 1}, 5_000),
    (2, {"next": 1, "accept": 1, "loss": 1}, 1_500),
    (2, {"next": 1, "step": 1, "trip": 1, "cut": 1}, 2_700),
    (2, {"breach": 1, "step": 1, "trip": 1, "cut": 1}, 2_000),
    (2, {"step": 1, "ramp": 1, "fall": 3, "cut": 1}, 2_500),
    (2, {"ramp": 1, "fall": 2, "trip": 1, "reset": 1}, 5_000),
    (3, {"ramp": 1, "fall": 2, "step": 1}, 3_500),
    (2, {"ramp": 2, "fall": 2, "crash": 1}, 1_500),
    (2, {"ramp": 1, "fall": 2, "failover": 1, "step": 1}, 3_500),
)
"""Replicas, budget, and how many states there are at least."""


def budget(**given: int) -> tuple[tuple[str, int], ...]:
    return tuple((name, given.get(name, 0)) for name, _ in BUDGET)


@pytest.mark.parametrize(("replicas", "given", "least"), SMALL)
def test_no_interleaving_breaks_a_promise(replicas: int, given: dict[str, int], least: int) -> None:
    assert search(first(replicas, budget(**given))) >= least


OF_COHORTS: tuple[tuple[int, dict[str, int], int], ...] = (
    (2, {"trip": 1, "reset": 1, "step": 2, "cut": 1}, 7500),
    (2, {"trip": 1, "step": 3, "expire": 1}, 4200),
    (2, {"step": 2, "ramp": 1, "fall": 3}, 1900),
    (2, {"trip": 1, "reset": 1, "step": 1, "failover": 1}, 3700),
    (2, {"trip": 1, "step": 1, "crash": 1, "expire": 1}, 1800),
    (2, {"next": 1, "step": 1, "loss": 1}, 1100),
    (2, {"breach": 1, "step": 2, "abort": 1}, 2000),
    (3, {"trip": 1, "step": 1, "cut": 1}, 2000),
)
"""The same of a release that begins with two cohorts."""


@pytest.mark.parametrize(("replicas", "given", "least"), OF_COHORTS)
def test_no_interleaving_breaks_a_promise_about_cohorts(
    replicas: int, given: dict[str, int], least: int
) -> None:
    assert search(first(replicas, budget(**given), COHORTS), Rules(COHORTS)) >= least


def _forgets_what_is_ahead(mine: Document, theirs: Document | None, _act: str) -> protocol.Decision:
    return protocol.Decision(mine, write=True) if theirs is None else protocol.Decision(theirs)


def _everything_holds_at_once(_before: Document, _after: Document) -> bool:
    return True


def _higher_wins(mine: Document, theirs: Document | None, act: str) -> protocol.Decision:
    found = protocol.decide(mine, theirs, act)
    if found.write and theirs is not None and theirs.users.limit > found.document.users.limit:
        return protocol.Decision(replace(theirs))
    return found


MUTANTS: dict[str, tuple[int, dict[str, int], Any]] = {
    "the store does not compare": (2, {"step": 2, "expire": 1}, Rules(compared=False)),
    "the store does not fence": (2, {"step": 1, "expire": 1}, Rules(fenced=False)),
    "what is ahead is forgotten": (2, {"trip": 1}, Rules(decide=_forgets_what_is_ahead)),
    "raises do not wait for the store": (
        2,
        {"step": 1, "cut": 1},
        Rules(is_cautious=_everything_holds_at_once),
    ),
    "an answer overrules a trip that came before it": (
        2,
        {"trip": 1, "step": 1},
        Rules(told=lambda _mine, theirs, _act: protocol.Decision(theirs)),  # type: ignore[arg-type]
    ),
    "accepting does not wait for the store": (
        2,
        {"accept": 1, "cut": 1},
        Rules(is_cautious=_everything_holds_at_once),
    ),
    "the higher weight wins": (2, {"trip": 1, "step": 1, "cut": 1}, Rules(decide=_higher_wins)),
}


def test_a_cohort_that_does_not_wait_for_the_store_is_found() -> None:
    """The bug: a step of a cohort, which moves nobody else, counts as one that moves nobody."""
    blind = Rules(COHORTS, is_cautious=lambda old, new: new.users.limit <= old.users.limit)
    with pytest.raises(Broken, match="more than the store ever allowed"):
        search(first(2, budget(step=1, cut=1), COHORTS), blind)


def _by_the_document(_before: Rollout, after: Rollout) -> Rollout:
    return after


def _as_before(before: Rollout, _now: float) -> Rollout:
    return replace(before, left=0.0)


@pytest.mark.parametrize(
    ("module", "name", "bug", "found"),
    [
        (protocol, "going_by", _by_the_document, "the weight rises during a ramp down"),
        (rollout, "ramped", _as_before, "a ramp down has ended with users on the canary"),
    ],
)
def test_a_planted_bug_in_the_ramp_down_is_found(
    module: Any, name: str, bug: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, bug)
    with pytest.raises(Broken, match=found):
        search(first(2, budget(step=1, ramp=1, fall=2, cut=1)))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    replicas, given, rules = MUTANTS[name]
    with pytest.raises(Broken, match="after: "):
        search(first(replicas, budget(**given)), rules)
