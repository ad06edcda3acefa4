"""What is made of two documents that went different ways."""

from __future__ import annotations

from dataclasses import replace

from canaryproxy.fleet import protocol
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.state import Document
from canaryproxy.release import circuit, rollout
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan, Step

PLAN = Plan((Step(10.0, 60.0), Step(50.0, 60.0), Step(100.0)), probe_weight=1.0)
FIRST = Settings("r1", "s", "j", "r1", PLAN, CircuitSettings(cooldown=1.0))
NEXT = replace(FIRST, release="r2", settings="t", salt="r2")
BEGUN = protocol.begin(FIRST, "a", 0.0)


def after(document: Document, settings: Settings, act: str, *events: object) -> Document:
    for event in events:
        document, _ = protocol.step(document, event, 0.0, settings, act)  # type: ignore[arg-type]
    return document


def test_a_release_that_began_later_is_not_given_up_for_one_that_knows_nothing_of_it() -> None:
    """The store lost its data, and who had been cut off with the old release was the first to be back."""
    later = protocol.adopt(BEGUN, NEXT, 0.0, "n")
    assert later is not None
    tripped = after(later, NEXT, "t2", circuit.Trip("bad"))
    old = after(BEGUN, FIRST, "t1", circuit.Trip("bad"))
    found = protocol.decide(tripped, old, "m")
    assert found == protocol.Decision(tripped, write=True)
    assert protocol.decide(old, tripped, "m") == protocol.Decision(tripped)


def test_accepting_waits_for_the_store_and_diverged_replicas_keep_what_both_accepted() -> None:
    paused = after(BEGUN, FIRST, "p", rollout.Pause())
    one = after(paused, FIRST, "x", rollout.Accept("errors"))
    assert not protocol.is_cautious(paused, one)
    mine = after(one, FIRST, "y", rollout.Accept("latency"))
    theirs = after(one, FIRST, "z", rollout.Accept("client_errors"))
    for here, there in ((mine, theirs), (theirs, mine)):
        merged = protocol.merge(here, there, "m")
        assert merged.rollout.accepted == {"errors"}
        assert Document.from_json(merged.to_json()) == merged


def test_a_start_begins_another_round_as_a_reset_does() -> None:
    """A round has a judge of its own: no evidence outlives either."""
    started = after(BEGUN, FIRST, "a", rollout.Abort(), rollout.Start())
    reset = after(BEGUN, FIRST, "r", circuit.Trip("bad"), circuit.Reset())
    assert (started.round, reset.round) == (BEGUN.round + 1, BEGUN.round + 1)
    assert after(BEGUN, FIRST, "x", rollout.Abort()).round == BEGUN.round


def test_an_act_towards_stable_holds_before_the_store_has_it() -> None:
    for event in (rollout.Abort(), rollout.Pause(), circuit.Trip("x"), rollout.SetWeight(5.0)):
        assert protocol.is_cautious(BEGUN, after(BEGUN, FIRST, "x", event)), event


def test_a_release_of_another_fleet_is_none_of_this_one() -> None:
    mine = replace(protocol.begin(NEXT, "b", 0.0), round=7)
    assert protocol.decide(mine, BEGUN, "m") == protocol.Decision(BEGUN)


def test_a_probe_gives_the_canary_no_more_than_the_lower_weight() -> None:
    lowered = after(BEGUN, FIRST, "w", rollout.SetWeight(0.5))
    tripped = after(BEGUN, FIRST, "t", circuit.Trip("bad"))
    cooled = replace(tripped, circuit=replace(tripped.circuit, left=0.0))
    probing = after(cooled, FIRST, "p", circuit.Tick())
    assert probing.rollout.weight == 1.0
    for mine, theirs in ((lowered, probing), (probing, lowered)):
        merged = protocol.merge(mine, theirs, "m")
        assert merged.circuit.state is circuit.State.HALF_OPEN
        assert merged.rollout.weight == 0.5
        assert merged.rollout.weight_before == 0.5
