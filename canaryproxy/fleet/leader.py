"""The leader takes the steps of the fleet, from the combined counts alone. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from canaryproxy.control.authority import Suspicion
from canaryproxy.control.ledger import Ledger
from canaryproxy.fleet import protocol
from canaryproxy.fleet.agreement import Agreement, name_act
from canaryproxy.fleet.redis_store import ExchangeReply, StoreUnavailable
from canaryproxy.fleet.state import Document
from canaryproxy.judging.verdict import Assessment
from canaryproxy.release import circuit, rollout
from canaryproxy.release.rollout import Rollout


class Leader:
    """The part of a replica that leads while it holds the lease.

    ``lease`` is in seconds, ``ask_gates`` asks the gates about the ledger's step.
    """

    def __init__(
        self,
        ledger: Ledger,
        suspicion: Suspicion,
        lease: float,
        ask_gates: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._suspicion = suspicion
        self._lease = lease
        self._ask_gates = ask_gates
        self._act: str | None = None
        """The act whose step is led: the rollout counts by this replica's judge since then."""
        self._agree_since: float | None = None

    def leads(self, document: Document) -> bool:
        """Whether this replica has taken the lead in the step of a document."""
        return self._act == document.act

    def step_down(self) -> None:
        """Give up the lead of the step."""
        self._act = None

    def lost(self) -> None:
        """Lose the lease, or its meaning: the store is away, or the settings are others now."""
        self._act = self._agree_since = None

    def lead(
        self, agreement: Agreement, reply: ExchangeReply, seen: Assessment, now: float
    ) -> Document | None:
        """Move the clocks of the step; return the document of the next act, if it is time for one.

        ``now`` is this replica's clock. The act holds only once the store has taken it.
        """
        agreed, mine = agreement.document, agreement.mine
        if reply.agree < reply.replicas:
            self._agree_since = None
            if agreed.settings == mine.settings and not self.leads(agreed):
                self._take_the_lead(agreed, seen)  # so that the others are told what it waits for
            others = reply.replicas - reply.agree
            have = "has" if others == 1 else "have"
            hold = f"{others} of {reply.replicas} replicas {have} a different configuration"
            self._ledger.rollout = replace(self._ledger.rollout, hold=hold)
            return None
        if self._agree_since is None:
            self._agree_since = now
        if agreed.settings != mine.settings:
            if now - self._agree_since < self._lease:
                return None
            return protocol.adopt(agreed, mine, agreement.server_time, name_act())
        if not self.leads(agreed):
            self._take_the_lead(agreed, seen)
        self._suspicion.observe(now, seen)
        for event in (circuit.Tick(seen), rollout.Tick(seen)):
            made, change = agreement.step(event)
            if made is not None:
                return made
            self._ledger.move(change.circuit, change.rollout)
            if rollout.Action.ASK_GATES in change.actions:
                self._ask_gates()
        return None

    def _take_the_lead(self, agreed: Document, seen: Assessment) -> None:
        """Continue the step where it is, counting by this replica's judge."""
        self._act = agreed.act
        here = self._ledger.rollout
        self._ledger.rollout = replace(
            here,
            judged_from=seen.judged - here.judged,
            answered_from=seen.answered - here.answered,
            judged=seen.judged,
            answered=seen.answered,
            ticked=None,
        )

    def gates_answered(self, agreement: Agreement, answer: rollout.GateAnswer) -> None:
        """Take the gates' answer about the step that is led; the answer is no act of its own."""
        _, change = agreement.step(answer)
        self._ledger.move(change.circuit, change.rollout, change.records)


def progress(agreed: Document, here: Rollout) -> str:
    """Return how far the leader is in its step, for the other replicas."""
    return json.dumps(
        {
            "act": agreed.act,
            "baked": here.baked,
            "judged": max(here.judged - here.judged_from, 0),
            "answered": max(here.answered - here.answered_from, 0),
            "users": here.users,
            "hold": here.hold,
            "ready": here.ready,
        }
    )


def followed(agreed: Document, text: str) -> Rollout | None:
    """Return the rollout as far as the leader is, from ``progress``; ``None`` if it is of another act.

    A replica shows it, and continues from there when it takes the lead. Raises ``StoreUnavailable``.
    """
    try:
        fields = json.loads(text) if text else {"act": ""}
        if fields["act"] != agreed.act:
            return None
        return replace(
            agreed.rollout,
            baked=float(fields["baked"]),
            judged=int(fields["judged"]),
            answered=int(fields["answered"]),
            users=int(fields.get("users", 0)),
            hold=fields["hold"],
            ready=bool(fields["ready"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StoreUnavailable(f"the leader's progress cannot be parsed ({error!r})") from None
