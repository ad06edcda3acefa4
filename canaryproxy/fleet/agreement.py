"""The agreed document of a replica: it goes by this one, and reconciles it with the store's."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from canaryproxy.control.authority import AuthorityHost, Suspicion
from canaryproxy.control.ledger import Ledger
from canaryproxy.fleet import protocol
from canaryproxy.fleet.contact import Contact
from canaryproxy.fleet.evidence import FleetEvidence
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.redis_store import CommitResult, ExchangeReply, ExchangeRequest
from canaryproxy.fleet.state import Document
from canaryproxy.measure.exposure import Exposure
from canaryproxy.release.circuit import Record
from canaryproxy.release.rollout import Rollout, State, ramped
from canaryproxy.release.transitions import Change, Event

_WRITES = 4
"""Times that a document is merged and written again before the next exchange."""


class Store(Protocol):
    """The store, as a replica uses it (``redis_store.RedisStore``).

    Every method but ``leave`` and ``close`` raises ``StoreUnavailable``.
    """

    async def exchange(self, request: ExchangeRequest) -> ExchangeReply: ...
    async def commit(
        self, base: str, document: Document, term: int, token: int = 0
    ) -> CommitResult: ...
    async def keep_judge(self, text: str) -> None: ...
    async def judge(self) -> str | None: ...
    async def listen(self, on_news: Callable[[], None]) -> None: ...
    async def leave(self, settings: str) -> None: ...
    async def close(self) -> None: ...


class Agreement:
    """The document that a replica goes by. The ledger shows its circuit and rollout, and adds clocks to them.

    ``lease`` is in seconds, ``me`` signs the records that this replica adds.
    """

    def __init__(
        self,
        host: AuthorityHost,
        ledger: Ledger,
        store: Store,
        contact: Contact,
        evidence: FleetEvidence,
        suspicion: Suspicion,
        mine: Settings,
        lease: float,
        me: str,
    ) -> None:
        self.mine = mine
        """The settings of this replica's configuration."""
        self.document = protocol.unknown(mine)
        self._host = host
        self._ledger = ledger
        self._store = store
        self._contact = contact
        self._evidence = evidence
        self._suspicion = suspicion
        self._lease = lease
        self._me = me

    @property
    def sums_key(self) -> str:
        """The key under which the store adds up the counts of this round."""
        return f"{self.mine.settings}:{self.document.round}"

    @property
    def server_time(self) -> float:
        """Seconds since the epoch by the server's clock, as far as it is known."""
        return self._contact.server_time(self._host.now)

    @property
    def tag(self) -> str | None:
        """The part of an ETag that is the same at every replica with the same settings."""
        return f"{self.document.act}-{self.mine.settings}" if self.document.act else None

    @property
    def conflict(self) -> str | None:
        """How this replica's configuration differs from the one that the fleet goes by."""
        document, mine = self.document, self.mine
        if not document.act or document.settings == mine.settings:
            return None
        if document.release != mine.release:
            return (
                f"the fleet is at {document.release or 'no release'}, this replica's configuration "
                f"names {mine.release or 'none'}: its users are on stable"
            )
        return (
            "plan, split or judge of this replica's configuration are not those of the fleet: it follows "
            "the fleet's weight and circuit, its counts are its own, and no step is left"
        )

    def after(self, event: Event) -> Document | None:
        """Return the document after an event, ``None`` if nothing happens. Raises ``rollout.Refused``."""
        return self.step(event)[0]

    def step(self, event: Event) -> tuple[Document | None, Change]:
        """Return the document after an event, and the change; ``None`` if only clocks have moved in that."""
        here = replace(self.document, circuit=self._ledger.circuit, rollout=self._ledger.rollout)
        made, change = protocol.step(here, event, self.server_time, self.mine, name_act())
        return (None if made is here else self._signed(made)), change

    def fall_back(self, to: Rollout, record: Record) -> None:
        """Go by a rollout with fewer users on the canary that is in force already."""
        self.take(
            self._signed(self.document.acted(name_act(), self._ledger.circuit, to, (record,)))
        )

    def take(self, document: Document) -> None:
        """Go by another document from now on, and publish its split."""
        old, self.document = self.document, document
        self._contact.has_document(document.act)
        if (document.round, document.judge) != (old.round, old.judge):
            salted = (document.release, document.salt) == (old.release, old.salt)
            self._evidence.renew(same_users=salted)
            self._suspicion.forget()
        known = {(record.time, record.what, record.cause) for record in old.records}
        news = tuple(
            record
            for record in document.records
            if (record.time, record.what, record.cause) not in known
        )
        here = protocol.going_by(self._ledger.rollout, document.rollout)
        self._ledger.move(document.circuit, here, news)
        self._ledger.version += 1
        self._ledger.revision += 1
        self._host.publish()

    @property
    def users(self) -> Exposure:
        """The users on the canary, as this replica goes by the document now."""
        return protocol.going_by(self._ledger.rollout, self.document.rollout).exposure

    def follow(self, here: Rollout | None) -> None:
        """Go by the rollout of the document, as far as the leader is, if it says so."""
        if here is not None:
            self._ledger.rollout = protocol.going_by(self._ledger.rollout, here)

    def ramp_down(self) -> None:
        """Let the time of a release that is aborting pass; its end is the leader's act."""
        here = self._ledger.rollout
        if here.state is State.ABORTING:
            self._ledger.rollout = ramped(here, self.server_time)

    async def write(self, base: str, document: Document, token: int = 0) -> CommitResult:
        """Put a document into the store, in the place of the one that the act ``base`` made.

        With a ``token``, only while this replica leads by it. Raises ``StoreUnavailable``.
        """
        return await self._store.commit(base, document, self._contact.term, token)

    async def lead_to(self, document: Document) -> None:
        """Take a step of the leader: it holds once the store has it. Raises ``StoreUnavailable``."""
        document = self._signed(document)
        result = await self.write(self.document.act, document, self._contact.token)
        if result.taken:  # not simply taken over: the circuit may have opened meanwhile
            await self.reconcile(document)

    async def reconcile(self, theirs: Document | None) -> None:
        """Act on the store's document as the protocol decides. Raises ``StoreUnavailable``."""
        for _ in range(_WRITES):
            if theirs is None and not self.document.act:
                if not self._contact.lasts(self._host.now, self._lease):
                    return  # others may know of a release: give them a lease's time to say so
                begun = self._signed(protocol.begin(self.mine, name_act(), self.server_time))
                result = await self.write("", begun)
                theirs = begun if result.taken else result.found
                continue
            found = protocol.decide(self.document, theirs, name_act())
            document = self._signed(found.document) if found.write else found.document
            if document.act != self.document.act:
                self.take(document)
            if not found.write:
                return
            result = await self.write("" if theirs is None else theirs.act, self.document)
            if result.taken:
                return
            theirs = result.found

    def _signed(self, document: Document) -> Document:
        """Return the document with its new records signed by this replica."""
        return replace(document, records=tuple(map(self._sign, document.records)))

    def _sign(self, record: Record) -> Record:
        if "replica" in record.figures:
            return record
        return replace(record, figures={**record.figures, "replica": self._me})


def name_act() -> str:
    """Return a name for a new act; names are unique."""
    return secrets.token_hex(6)
