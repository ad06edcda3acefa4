"""The leader without a store: when it steps, when it waits, and what the others see of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from canaryproxy.control.authority import Suspicion
from canaryproxy.control.ledger import Ledger
from canaryproxy.fleet import protocol
from canaryproxy.fleet.agreement import Agreement
from canaryproxy.fleet.contact import Contact
from canaryproxy.fleet.evidence import FleetEvidence
from canaryproxy.fleet.leader import Leader, followed, progress
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.redis_store import ExchangeReply, StoreUnavailable
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan, Rollout, Step

PLAN = Plan((Step(10.0, 1.0, 5), Step(50.0, 1.0, 5)))
MINE = Settings("r1", "s", "j", "r1", PLAN, CircuitSettings())
LEASE = 1.0


class Host:
    """A controller that only knows the time."""

    now = 100.0
    gates: Any = None
    table: Any = None
    capacity: Any = None
    sampler: Any = None
    departures: Any = None
    sample: Any = None
    causes: Any = None

    def publish(self) -> None:
        pass

    def new_round(self) -> None:
        pass


def reply(*, replicas: int = 2, agree: int = 2) -> ExchangeReply:
    return ExchangeReply(100.0, "a", 1, True, "me", 100.0, "", "", None, replicas, agree)


def seen(judged: int, *, level: str = "ok") -> Assessment:
    return Assessment(level, (), judged, judged, True, True, None, None)  # type: ignore[arg-type]


def build(ask_gates: Callable[[], None] = lambda: None) -> tuple[Leader, Agreement, Ledger]:
    host = Host()
    ledger = Ledger(Rollout(), lambda: host.now)
    suspicion = Suspicion(ledger, host)
    store: Any = None
    evidence = FleetEvidence(JudgeSettings(), 0.2)
    agreement = Agreement(
        host, ledger, store, Contact(), evidence, suspicion, MINE, lease=LEASE, me="me"
    )
    agreement.take(protocol.begin(MINE, "a", 100.0))
    return Leader(ledger, suspicion, LEASE, ask_gates), agreement, ledger


def test_leader_steps_after_bake_time_and_requests() -> None:
    leader, agreement, ledger = build()
    for tick in range(12):
        agreement._host.now += 0.1  # type: ignore[misc]
        made = leader.lead(agreement, reply(), seen(tick), 100.0 + tick / 10)
        if made is not None:
            break
    assert made is not None
    assert tick >= 10  # a second of bake time
    assert (made.rollout.step, made.rollout.weight) == (1, 50.0)
    assert ledger.rollout.step == 0  # the act holds only once the store has taken it
    assert made.records[-1].figures["replica"] == "me"


def test_leader_holds_while_a_replica_has_another_configuration() -> None:
    leader, agreement, ledger = build()
    assert leader.lead(agreement, reply(replicas=3, agree=2), seen(9), 100.0) is None
    assert ledger.rollout.hold == "1 of 3 replicas has a different configuration"
    assert leader.leads(agreement.document)  # so that the others are told why


def test_leader_adopts_a_configuration_that_all_replicas_have_for_a_lease() -> None:
    leader, agreement, _ = build()
    agreement.mine = replace(MINE, settings="t")
    assert leader.lead(agreement, reply(), seen(0), 100.0) is None
    made = leader.lead(agreement, reply(), seen(0), 100.0 + LEASE)
    assert made is not None
    assert made.settings == "t"


def test_leader_counts_afresh_after_another_act() -> None:
    leader, agreement, _ = build()
    leader.lead(agreement, reply(), seen(7), 100.0)
    assert leader.leads(agreement.document)
    agreement.take(replace(agreement.document, act="b"))
    assert not leader.leads(agreement.document)


def test_followers_show_the_progress_of_the_leader() -> None:
    _, agreement, ledger = build()
    ledger.rollout = replace(ledger.rollout, baked=0.5, judged=9, judged_from=4, hold="4 of 5")
    found = followed(agreement.document, progress(agreement.document, ledger.rollout))
    assert found is not None
    assert (found.baked, found.judged, found.hold) == (0.5, 5, "4 of 5")
    assert (
        followed(replace(agreement.document, act="b"), progress(agreement.document, found)) is None
    )
    with pytest.raises(StoreUnavailable, match="progress"):
        followed(agreement.document, '{"act": ["a"')


def test_contact_lasts_only_without_a_gap() -> None:
    contact = Contact()
    assert not contact.lasts(100.0, 0.0)
    contact.replied(reply(), 100.0)
    assert contact.lasts(101.0, 1.0)
    assert contact.lost(StoreUnavailable("gone"))
    assert not contact.lost(StoreUnavailable("gone"))
    assert (contact.token, contact.error) == (0, "gone")
    contact.replied(reply(), 102.0)
    assert not contact.lasts(102.5, 1.0)
