"""The authority of a replica: it shares one release with the other replicas of a fleet, through a store.

A replica judges the records of the whole fleet and its own (``evidence``); either verdict opens the circuit
of the whole fleet. Only the leader takes steps (``leader``). ``protocol`` says which document holds when.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any

from canaryproxy.config import Fleet
from canaryproxy.control.authority import (
    AuthorityHost,
    Overtaken,
    Suspicion,
    Unavailable,
    event_of,
    saved_rollout,
    split_of,
    with_capacity,
)
from canaryproxy.control.gates import question
from canaryproxy.control.ledger import Ledger
from canaryproxy.control.saver import Split, Unsaved
from canaryproxy.control.settings import ControlSettings
from canaryproxy.fleet import counts, protocol
from canaryproxy.fleet.agreement import Agreement, Store, name_act
from canaryproxy.fleet.behind import ServicesBehind
from canaryproxy.fleet.contact import Contact
from canaryproxy.fleet.evidence import FleetEvidence
from canaryproxy.fleet.leader import Leader, followed, progress
from canaryproxy.fleet.redis_store import (
    ExchangeReply,
    ExchangeRequest,
    StoreUnavailable,
)
from canaryproxy.fleet.report import Report, with_reports
from canaryproxy.fleet.settings import settings as fleet_settings
from canaryproxy.fleet.state import Document
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure.exposure import Exposure
from canaryproxy.measure.routing import RouteTable
from canaryproxy.release import circuit, rollout, transitions
from canaryproxy.release.circuit import Circuit, Record
from canaryproxy.release.rollout import Rollout
from canaryproxy.release.transitions import Event

_log = logging.getLogger(__name__)

_LEADER_FIRST = 0.2
"""Seconds that the leader has to trip on the fleet's records before others do, so that not all do at once."""
_KEEP_JUDGE_EVERY = 5.0
_LEAVE_WITHIN = 2.0
"""Seconds that the store has to reply when the replica leaves."""
_SHORTEST_PAUSE = 0.01
"""Seconds between two exchanges, however often the store announces acts."""


class FleetAuthority:
    """One release, shared with others. ``me`` names this process in the fleet.

    The agreed document is the state that this replica goes by; the ledger shows its circuit and rollout.
    """

    def __init__(
        self,
        host: AuthorityHost,
        ledger: Ledger,
        settings: ControlSettings,
        *,
        fleet: Fleet,
        store: Store,
        me: str,
    ) -> None:
        self.settings = settings
        self.assessment: Assessment | None = None
        self._host, self._ledger, self._fleet, self._store = host, ledger, fleet, store
        self._me, self._settings_before = me, ""
        """The mark of the settings before a reload, for one exchange."""
        self._contact = Contact()
        self.leaving_elsewhere = self._contact.leaving_elsewhere
        patience = _LEADER_FIRST * (1 + zlib.crc32(me.encode()) / 2**32)
        self._evidence = FleetEvidence(settings.judge, patience)
        self._suspicion = Suspicion(ledger, host)
        self._agreement = Agreement(
            *(host, ledger, store, self._contact, self._evidence, self._suspicion),
            mine=fleet_settings(settings),
            lease=fleet.lease,
            me=me,
        )
        self._leader = Leader(ledger, self._suspicion, fleet.lease, self._ask_gates)
        self._behind = ServicesBehind(ledger, self._take_event)
        self._nudge, self._judge_kept_at = asyncio.Event(), float("-inf")
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def _agreed(self) -> Document:
        return self._agreement.document

    @property
    def wanted(self) -> Split:
        document, users = self._agreed, self._users(self.settings)
        return Split(users.weight, document.is_open, document.salt.encode(), users.of_cohorts)

    def _users(self, settings: ControlSettings) -> Exposure:
        """Return the agreed users on the canary, as far as it is that of ``settings``."""
        fits = settings.has_canary and self._agreed.release == settings.release
        return self._agreement.users if fits else Exposure()

    @property
    def limits(self) -> tuple[float, float]:
        return self._evidence.limits

    @property
    def saves_first(self) -> bool:
        return False

    # Acts

    def propose(self, event: Event) -> None:
        document = self._acted(event)
        if document is None:
            return
        if not protocol.is_cautious(self._agreed, document):
            raise Unavailable("without asking Redis, users can only be taken off the canary")
        is_drill = isinstance(event, circuit.Trip) and event.figures.get("drill")
        if is_drill and not self._contact.connected:
            raise Unavailable(f"no drill: its reset would need Redis ({self._contact.error})")
        self._agreement.take(document)
        self._nudge.set()

    async def commit(self, event: Event) -> None:
        document = self._acted(event)
        if document is None:
            return
        if not protocol.is_cautious(self._agreed, document):
            await self._ask_for(document)
            return
        self._agreement.take(document)
        base = document.trail[-1] if document.trail else ""
        try:
            result = await self._agreement.write(base, document)
            if not result.taken:
                await self._agreement.reconcile(result.found)
        except StoreUnavailable as error:
            self._on_lost(error)
            raise Unsaved(
                f"{error}; it holds at this replica, and the others follow when Redis is back"
            ) from None

    async def _ask_for(self, document: Document) -> None:
        """Put a document into the store that gives the canary more users; it holds once it is there."""
        if not self._contact.connected:
            raise Unavailable(f"{self._contact.error}; the weight will not rise without Redis")
        try:
            result = await self._agreement.write(self._agreed.act, document)
            await self._agreement.reconcile(document if result.taken else result.found)
        except StoreUnavailable as error:
            self._on_lost(error)
            if error.refused:
                raise Unsaved(
                    f"{error}; the weight will not rise until it can be written"
                ) from None
            raise Unavailable(
                f"{error}; it may have been taken: look again when Redis is back"
            ) from None
        if not result.taken:
            raise Overtaken

    def _acted(self, event: Event) -> Document | None:
        """Return the document after an operator's act, ``None`` if nothing happens. Raises ``Refused``."""
        transitions.refuse(event, self._ledger.circuit, self._ledger.rollout)
        if self._agreed.release != self.settings.release and not isinstance(event, circuit.Trip):
            raise rollout.Refused(self._agreement.conflict or "another release is in force")
        return self._agreement.after(event)

    def trip(self, cause: str, figures: Mapping[str, Any]) -> None:
        self._take_event(circuit.Trip(cause, figures))

    def _take_event(self, event: Event) -> None:
        """Go by the document after an event that needs no consent."""
        document = self._agreement.after(event)
        if document is not None:
            self._agreement.take(document)
            self._nudge.set()

    def fall_back(self, to: Rollout, record: Record) -> None:
        self._agreement.fall_back(to, record)

    def gates_answered(self, answer: rollout.GateAnswer) -> None:
        if self._leader.leads(self._agreed):
            self._leader.gates_answered(self._agreement, answer)

    def _ask_gates(self) -> None:
        here, settings = self._ledger.rollout, self.settings
        asked = question(settings.release, here, settings.plan, self.assessment)
        self._host.gates.ask(here.gate.question, asked)

    # The verdicts

    def observe(self, sample: Sample) -> Iterator[None]:
        seen = yield from self._evidence.observe_own(self._host.now, sample)
        if seen is not None and not self._judges_combined:  # None: another round has begun
            self.assessment = seen
        if seen is not None and seen.level == "breach" and self._host.table.has_users:
            self._trip_on(seen, "its own records")
        self._agreement.ramp_down()

    def _trip_on(self, seen: Assessment, judged_by: str) -> None:
        event = event_of(seen, self._host, self._ledger, self.settings.plan, judged_by=judged_by)
        if event is not None:
            self._take_event(event)

    @property
    def _judges_combined(self) -> bool:
        """Whether the fleet's records are there, are read, and are of this replica's settings."""
        fits = self._agreed.settings == self._agreement.mine.settings
        return self.settings.has_canary and fits and self._contact.entries(self._me) > 0

    def _observe_combined(self, reply: ExchangeReply, key: str) -> None:
        """Judge the fleet's records, and act on the verdict. Raises ``StoreUnavailable``."""
        evidence, now = self._evidence, self._host.now
        try:
            evidence.observe_combined(reply.now, key, reply.sums, reply.entries)
        except (ValueError, OverflowError) as error:
            raise StoreUnavailable(f"the fleet's sums cannot be parsed ({error!r})") from None
        seen = self.assessment = evidence.seen
        exposed = self._ledger.rollout.exposure.has_users
        if evidence.must_trip(now, exposed=exposed, leads=reply.leads) and seen is not None:
            self._trip_on(seen, "the records of the fleet")

    # Exchanges with the store

    async def _talk(self) -> None:
        while True:
            began = monotonic()
            await self.exchange()
            left = max(self._fleet.interval - (monotonic() - began), _SHORTEST_PAUSE)
            try:
                async with asyncio.timeout(left):
                    await self._nudge.wait()
            except TimeoutError:
                pass  # no news: the next exchange is due all the same
            else:
                await asyncio.sleep(_SHORTEST_PAUSE)
            self._nudge.clear()

    async def exchange(self) -> None:
        """Exchange counts and news with the store once, and act on the reply."""
        agreed, evidence, contact = self._agreed, self._evidence, self._contact
        table, key = self._host.table, self._agreement.sums_key
        request = ExchangeRequest(
            settings=self._agreement.mine.settings,
            settings_before=self._settings_before,
            known=agreed.act,
            marker=f"{key}:{split_of(table).users.mark}",
            sums=key,
            term=contact.term,
            progress=progress(agreed, self._ledger.rollout) if self._leader.leads(agreed) else "",
            row=counts.text(counts.row(evidence.sample)),
            entry=evidence.to_write(self._host.now, table, contact.replicas),
            cursor=evidence.cursor,
            most=contact.entries(self._me) if self._judges_combined else 0,
            leaving=contact.tells(self._host.departures.leaving),
            report=Report.of(evidence.sample),
        )
        try:
            reply = await self._store.exchange(request)
            await self._on_reply(agreed, request, reply)
        except StoreUnavailable as error:
            self._on_lost(error)

    async def _on_reply(
        self, asked_of: Document, request: ExchangeRequest, reply: ExchangeReply
    ) -> None:
        if not self._contact.connected:
            _log.info("fleet %s: connected to Redis", self._fleet.group)
        self._contact.replied(reply, self._host.now)
        self._settings_before = ""
        self._evidence.seen_replicas(reply.replicas)
        if not reply.leads:
            self._leader.step_down()
        await self._agreement.reconcile(reply.document or (asked_of if reply.act else None))
        if reply.act == self._agreed.act and reply.act:
            if not reply.leads:
                self._agreement.follow(followed(self._agreed, reply.progress))
            await self._judge(request, reply)
            self._behind.hear(reply.behind, self.settings)
            is_behind = 0 < request.most <= len(reply.entries)
            if reply.leads and reply.act == self._agreed.act and not is_behind:
                await self._lead(reply)
        self._host.publish()

    def _on_lost(self, error: StoreUnavailable) -> None:
        if self._contact.lost(error):
            _log.warning("%s; the weight stays, and no step is taken", error)
        self._evidence.lost()
        self._leader.lost()

    async def _judge(self, request: ExchangeRequest, reply: ExchangeReply) -> None:
        """Judge the fleet's records, or catch up with them first. Raises ``StoreUnavailable``."""
        if not self._judges_combined:
            self._evidence.wants_past = True  # what is not read now
        elif self._evidence.wants_past:
            kept = await self._store.judge()
            try:
                self._evidence.join(self._agreement.sums_key, kept)
            except ValueError as error:
                _log.warning("the evidence of the fleet cannot be parsed (%s)", error)
        elif request.most and request.sums == self._agreement.sums_key:
            self._observe_combined(reply, request.sums)

    async def _lead(self, reply: ExchangeReply) -> None:
        """Take the next step if it is time, else keep the evidence for replicas that start."""
        seen = self._evidence.seen if self._judges_combined else self.assessment
        if not self.settings.has_canary or seen is None:
            return
        now = self._host.now
        seen = with_reports(self._behind.held(seen), reply.reports, self._me)
        seen = with_capacity(seen, self._host)
        if self._judges_combined:
            self.assessment = seen
        if (made := self._leader.lead(self._agreement, reply, seen, now)) is not None:
            await self._agreement.lead_to(made)
        elif self._leader.leads(self._agreed) and now - self._judge_kept_at >= _KEEP_JUDGE_EVERY:
            self._judge_kept_at = now
            await self._store.keep_judge(self._evidence.keep(self._agreement.sums_key))

    # Configurations

    def carry_over(self, settings: ControlSettings, table: RouteTable) -> Split:
        users = table.exposure.meet(self._users(settings))
        return Split(users.weight, table.circuit_open, table.salt, users.of_cohorts)

    def configure(self, settings: ControlSettings) -> None:
        old, self.settings = self.settings, settings
        self._settings_before = self._agreement.mine.settings
        self._agreement.mine = fleet_settings(settings)
        self._evidence.configure(settings.judge, renew=settings.evidence_of != old.evidence_of)
        self._leader.lost()
        self._nudge.set()

    # Life

    def restore(self, document: Mapping[str, Any]) -> None:
        restored = saved_rollout(document, self.settings, self._ledger)
        kept, agreement = document.get("fleet"), self._agreement
        if kept is not None:
            agreement.document = Document.from_dict(kept)
        elif restored is not None:
            broken = Circuit.from_dict(document["circuit"])
            if (broken, restored.state) != (Circuit(), rollout.State.IDLE):
                # A proxy alone wrote it: its state is one opinion among those of the fleet.
                agreement.document = self._agreed.acted(name_act(), broken, restored, ())
        self._agreement.follow(self._agreed.rollout)
        self._ledger.circuit = self._agreed.circuit
        if document["release"] == self.settings.release and kept is not None and "log" in document:
            self._evidence.restore(document)

    def distrust(self, why: str) -> None:
        self._ledger.note("release", f"{why}: users are on stable until Redis can be reached", {})

    def begin(self) -> None:
        """Do nothing: no release starts before the store was asked."""

    def to_dict(self) -> dict[str, Any]:
        return {**self._evidence.to_dict(), "fleet": self._agreed.to_dict()}

    def start(self) -> None:
        self._tasks = [
            asyncio.ensure_future(self._talk()),
            asyncio.ensure_future(self._store.listen(self._nudge.set)),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Treat a dead task as a lost store: without exchanges no step may be taken."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("fleet: internal error; restart this replica", exc_info=error)
            self._on_lost(StoreUnavailable("internal error of the fleet: restart this replica"))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE_WITHIN)
        await self._store.leave(self._agreement.mine.settings)
        await self._store.close()

    # Views

    @property
    def tag(self) -> str | None:
        return self._agreement.tag

    def view(self) -> dict[str, Any]:
        return {
            "group": self._fleet.group,
            "replica": self._me,
            **self._contact.view(self._host.now),
            "version": self._agreed.version,
            "judging": "sums" if self._judges_combined else "own",
            "conflict": self._agreement.conflict,
        }

    def is_mine(self, record: Mapping[str, Any]) -> bool:
        return bool(record["figures"].get("replica", self._me) == self._me)
