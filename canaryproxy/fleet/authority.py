"""The controller of one replica of a fleet: the same tick, over a document that all replicas share.

It judges two things: the sums of all replicas' counts, with half of α, and its own counts, with its share of
the other half (α is shared over the most replicas that it has seen), so that a healthy release is rolled
back with probability α at most, by whichever replica. Either of them opens the circuit of the whole fleet.
Steps are taken by the leader alone, from the sums alone. ``protocol`` says what holds when.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Protocol

from canaryproxy.config import Config
from canaryproxy.control.controller import (
    Ask,
    Controller,
    DataPlane,
    Overtaken,
    Unavailable,
    Unsaved,
    figures,
    first_table,
)
from canaryproxy.fleet import counts, protocol
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.redis_store import Ask as Question
from canaryproxy.fleet.redis_store import Away, Taken, Told
from canaryproxy.fleet.settings import settings as fleet_settings
from canaryproxy.fleet.state import Document
from canaryproxy.judging.judge import Assessment, Judge
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.routing import RouteTable
from canaryproxy.release import circuit, rollout
from canaryproxy.release import transitions as release
from canaryproxy.release.circuit import Circuit, Record
from canaryproxy.release.rollout import Rollout

_log = logging.getLogger(__name__)

_LEADER_FIRST = 0.2
"""Seconds that the leader has to trip on the sums before others do, so that it need not be all at once."""
_TELL_JUDGE_EVERY = 5.0
_WRITES = 4
"""How often a document is merged and written anew before the next look."""
_LAST_WORDS = 2.0
"""Seconds that the store has at the end."""
_SHORTEST = 0.01
"""Seconds between two looks at the store, however often somebody calls."""


class Store(Protocol):
    """What a replica needs of the store (``link.Link``). Everything but ``leave`` and ``close`` raises
    ``Away``."""

    async def exchange(self, ask: Question) -> Told: ...
    async def commit(self, base: str, document: Document, term: int, token: int = 0) -> Taken: ...
    async def keep_judge(self, text: str) -> None: ...
    async def judge(self) -> str | None: ...
    async def listen(self, heard: Callable[[], None]) -> None: ...
    async def leave(self, settings: str) -> None: ...
    async def close(self) -> None: ...


class FleetController(Controller):
    """Drives one release together with others. ``me`` names this process in the fleet.

    ``lease`` and ``interval`` are seconds; ``clock`` never falls and may begin anywhere.
    """

    def __init__(
        self,
        config: Config,
        cells: Totals,
        plane: DataPlane,
        table: RouteTable,
        store: Store,
        me: str,
        *,
        clock: Callable[[], float] = monotonic,
        ask: Ask | None = None,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        assert config.fleet is not None
        self._fleet = config.fleet
        self._store = store
        self._me = me
        self._most = 1
        """The most replicas seen."""
        self._own_alpha = 1.0
        self._before = ""
        super().__init__(config, cells, plane, table, clock, ask, slots)
        self._own = Judge(self._settings)
        self._sums = counts.Sums()
        self._agreed = protocol.unknown(self._mine)
        """The document: what this replica goes by."""
        self._told: Told | None = None
        """What the store said last; ``None`` while it is away."""
        self._away: str | None = "not connected yet"
        self._met_at: float | None = None
        """Since when the store is reached."""
        self._heard_at: float | None = None
        self._offset = 0.0
        """The server's clock less ours."""
        self._term = self._token = 0
        self._leading = False
        """The rollout counts from where this replica's judge was when it took the lead."""
        self._agree_since: float | None = None
        self._breach_since: float | None = None
        self._lag: float | None = None
        self._joined = False
        """Whether the evidence of the fleet was asked for."""
        self._told_judge_at = float("-inf")
        self._nudge = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._patience = _LEADER_FIRST * (1 + zlib.crc32(me.encode()) / 2**32)

    def _configure(self, config: Config) -> None:
        super()._configure(config)
        alpha = self._settings.alpha
        self._settings = replace(self._settings, alpha=alpha / 2)
        self._own_alpha = alpha / 2
        self._mine: Settings = fleet_settings(
            config, self._plan, self._circuit_settings, first_table(config).salt
        )

    # Life

    def _begin_if_idle(self) -> None:
        """Nothing begins before the store was asked."""

    def _refuse_state(self, why: str) -> None:
        """The fleet knows better than a file; without it nobody is on the canary."""
        _log.error("%s", why)
        try:
            why += f"; it is kept as {self._file.set_aside()}"
        except OSError as error:
            why += f"; it could not be set aside: {error.strerror}"
        self._note("release", f"{why}: users are on stable until the fleet is reached", {})

    def _restore(self, document: Mapping[str, Any]) -> None:
        super()._restore(document)
        kept = document.get("fleet")
        if kept is not None:
            self._agreed = Document.from_dict(kept)
        elif (self._circuit, self._rollout.state) != (Circuit(), rollout.State.IDLE):
            # Written by a proxy that was alone; what it had is one opinion among those of the fleet.
            self._agreed = self._agreed.acted(self._name(), self._circuit, self._rollout, ())
        self._circuit, self._rollout = self._agreed.circuit, self._agreed.rollout
        self._judge = Judge(self._settings)
        if document["release"] == self._release and kept is not None:
            self._judge = Judge.from_dict(self._settings, document["judge"])

    def _fall_back(self, here: Rollout, why: Record) -> None:
        self._take(_signed(self._agreed.acted(self._name(), self._circuit, here, (why,)), self._me))

    def _document(self) -> dict[str, Any]:
        return {**super()._document(), "fleet": self._agreed.to_dict()}

    def start(self) -> None:
        """Tick, and talk to the store, until ``stop``."""
        super().start()
        self._tasks = [
            asyncio.ensure_future(self._talk()),
            asyncio.ensure_future(self._store.listen(self._nudge.set)),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Without a talk there is no fleet: nothing may go on as if there were one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a defect in the talk with the fleet", exc_info=error)
            self._lose(Away("a defect in the talk with the fleet: restart this replica"))

    async def stop(self) -> None:
        """Tick no more, leave the fleet, and save."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_WORDS)
        await self._store.leave(self._mine.settings)
        await super().stop()
        await self._store.close()

    # The tick

    def tick(self) -> None:
        """Look at the own counters, and act on what they say."""
        now = self.now
        self._plane.mark_late()
        if self._has_canary:
            self._own.share(self._own_alpha / self._most)
            seen = self._own.observe(now, self._sample())
            if not self._judges_sums:
                self._assessment = seen
            if seen.level == "breach" and self.table.limit > 0:
                self._trip_of(seen, "its own counts")
        self._keep_house(now)
        self._publish()

    def _trip_of(self, seen: Assessment, whose: str) -> None:
        self._trip(seen.cause or "breach", {**figures(seen), "judged_by": whose})

    @property
    def _judges_sums(self) -> bool:
        """Whether the sums of the fleet are there, and about what this replica is to judge."""
        return self._told is not None and self._agreed.settings == self._mine.settings

    def _judge_sums(self, told: Told) -> None:
        """Take the sums, and act on what they say."""
        if not (self._has_canary and self._judges_sums):
            return
        now = self.now
        order = counts.names(self._sample())
        try:
            sums = counts.numbers(told.sums)
        except (ValueError, OverflowError) as error:
            raise Away(f"the fleet's sums are not understood ({error!r})") from None
        self._sums.take(self._sums_key, order, sums)
        seen = self._assessment = self._judge.observe(now, self._sums.sample)
        if seen.level != "breach" or self._rollout.weight <= 0:
            self._breach_since = None
        elif self._breach_since is None:
            self._breach_since = now
        if self._breach_since is not None and (
            told.leads or now - self._breach_since >= self._patience
        ):
            self._trip_of(seen, "the sums of the fleet")

    @property
    def _sums_key(self) -> str:
        return f"{self._mine.settings}:{self._agreed.round}"

    # Talking to the store

    async def _talk(self) -> None:
        while True:
            began = monotonic()
            await self.look()
            left = max(self._fleet.interval - (monotonic() - began), _SHORTEST)
            try:
                async with asyncio.timeout(left):
                    await self._nudge.wait()
            except TimeoutError:
                pass  # nobody called: it is time all the same
            else:
                await asyncio.sleep(_SHORTEST)
            self._nudge.clear()

    async def look(self) -> None:
        """Look at the store once, and do what follows from it."""
        mine = self._agreed
        question = Question(
            settings=self._mine.settings,
            before=self._before,
            known=mine.act,
            marker=self._marker,
            sums=self._sums_key,
            term=self._term,
            progress=self._progress() if self._leading else "",
            row=counts.text(counts.row(self._sample())),
        )
        try:
            told = await self._store.exchange(question)
            await self._hear(mine, told)
        except Away as error:
            self._lose(error)

    @property
    def _marker(self) -> str:
        """What the own requests are counted under."""
        return f"{self._mine.settings}:{self._agreed.round}:{self.table.limit}"

    async def _hear(self, asked_of: Document, told: Told) -> None:
        here = self._clock()
        if self._told is None:
            _log.info("the fleet %s is reached", self._fleet.group)
        self._told, self._away, self._heard_at, self._before = told, None, here, ""
        self._met_at = here if self._met_at is None else self._met_at
        self._offset = told.now - self.now
        self._term = max(self._term, told.term)
        self._token = told.term if told.leads else 0
        self._leading = self._leading and told.leads
        self._most = max(self._most, told.replicas)
        theirs = told.document
        if theirs is None and told.act:
            theirs = asked_of
        await self._see(theirs)
        if told.act == self._agreed.act and told.act:
            await self._join()
            if not told.leads:
                self._show_progress(told.progress)
            self._judge_sums(told)
            if told.leads and told.act == self._agreed.act:
                await self._lead(told)
        self._publish()

    def _lose(self, error: Away) -> None:
        if self._told is not None or self._away != str(error):
            _log.warning("%s: the last table stays, nothing is promoted", error)
        self._told, self._away, self._met_at = None, str(error), None
        self._token, self._leading = 0, False
        self._breach_since = self._agree_since = None

    async def _see(self, theirs: Document | None) -> None:
        """Do what the protocol says about what is in the store. Raises ``Away``."""
        for _ in range(_WRITES):
            if theirs is None and not self._agreed.act:
                if not self._has_waited:
                    return
                begun = _signed(protocol.begin(self._mine, self._name(), self._fleet_now), self._me)
                taken = await self._store.commit("", begun, self._term)
                theirs = begun if taken.yes else taken.acted_on
                continue
            found = protocol.decide(self._agreed, theirs, self._name())
            document = _signed(found.document, self._me) if found.write else found.document
            if document.act != self._agreed.act:
                self._take(document)
            if not found.write:
                return
            base = "" if theirs is None else theirs.act
            taken = await self._store.commit(base, self._agreed, self._term)
            if taken.yes:
                return
            theirs = taken.acted_on

    @property
    def _has_waited(self) -> bool:
        """Whether others that may know of a release have had the time to say so."""
        return self._met_at is not None and self._clock() - self._met_at >= self._fleet.lease

    @property
    def _fleet_now(self) -> float:
        """Seconds since the epoch by the server's clock, as far as it is known."""
        return self.now + self._offset

    @staticmethod
    def _name() -> str:
        return secrets.token_hex(6)

    async def _join(self) -> None:
        """Go on from the evidence that the fleet has, once."""
        if self._joined:
            return
        kept = await self._store.judge()
        self._joined = True
        if kept is None:
            return
        try:
            state = json.loads(kept)
            if state["of"] == self._sums_key:
                self._judge = Judge.from_dict(self._settings, state["judge"])
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(OverflowError, RecursionError),
        ) as error:
            _log.warning("the evidence of the fleet is not understood: %r", error)

    # Leading

    async def _lead(self, told: Told) -> None:
        """Take steps, and tell how far the step is."""
        seen = self._assessment
        if not self._has_canary or seen is None:
            return
        if told.agree < told.replicas:
            self._agree_since = None
            others = told.replicas - told.agree
            self._rollout = replace(
                self._rollout,
                hold=f"{others} of {told.replicas} replicas have another configuration",
            )
            return
        if self._agree_since is None:
            self._agree_since = self._clock()
        if self._agreed.settings != self._mine.settings:
            if self._clock() - self._agree_since >= self._fleet.lease:
                await self._adopt()
            return
        if not self._leading:
            self._leading = True
            self._rollout = replace(
                self._rollout,
                judged_from=seen.judged - self._rollout.judged,
                answered_from=seen.answered - self._rollout.answered,
                judged=seen.judged,
                answered=seen.answered,
                ticked=None,
            )
        self._note_suspicion(self.now, seen)
        for event in (circuit.Tick(seen), rollout.Tick(seen)):
            change = self._change(event)
            here = replace(self._agreed, circuit=self._circuit, rollout=self._rollout)
            made = protocol.changed(here, change, self._name())
            if made is not here:
                await self._step(_signed(made, self._me))
                return
            self._circuit, self._rollout = change.circuit, change.rollout
            if rollout.Action.ASK_GATES in change.actions:
                self._ask_gates()
        if self.now - self._told_judge_at >= _TELL_JUDGE_EVERY:
            self._told_judge_at = self.now
            state = {"of": self._sums_key, "judge": self._judge.to_dict()}
            await self._store.keep_judge(json.dumps(state, allow_nan=False))

    def _change(self, event: release.Event) -> release.Change:
        return release.step(
            self._circuit,
            self._rollout,
            event,
            self._fleet_now,
            self._plan,
            self._circuit_settings,
        )

    async def _step(self, made: Document) -> None:
        taken = await self._store.commit(self._agreed.act, made, self._term, self._token)
        if taken.yes:
            await self._see(made)  # not simply taken: the circuit may have opened meanwhile

    async def _adopt(self) -> None:
        made = protocol.adopt(self._agreed, self._mine, self._fleet_now, self._name())
        if made is not None:
            await self._step(_signed(made, self._me))

    def _progress(self) -> str:
        here = self._rollout
        return json.dumps(
            {
                "act": self._agreed.act,
                "baked": here.baked,
                "judged": max(here.judged - here.judged_from, 0),
                "answered": max(here.answered - here.answered_from, 0),
                "hold": here.hold,
                "ready": here.ready,
            }
        )

    def _show_progress(self, text: str) -> None:
        """Know how far the leader is: to show it, and to go on from there."""
        try:
            told = json.loads(text) if text else {"act": ""}
            if told["act"] == self._agreed.act:
                self._rollout = replace(
                    self._agreed.rollout,
                    baked=float(told["baked"]),
                    judged=int(told["judged"]),
                    answered=int(told["answered"]),
                    hold=told["hold"],
                    ready=bool(told["ready"]),
                )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise Away(f"the leader's progress is not understood ({error!r})") from None

    # The document

    def _take(self, document: Document) -> None:
        """Go by another document."""
        old, self._agreed = self._agreed, document
        if self._told is not None and self._told.act == document.act:
            self._lag = max(self._told.now - self._told.acted_at, 0.0)
        if (document.round, document.judge) != (old.round, old.judge):
            self._judge, self._own = Judge(self._settings), Judge(self._settings)
            self._suspect_at = self._breach_since = None
            self._plane.new_round()
        elif document.limit > old.limit:
            self._judge.expect_change()
            self._own.expect_change()
            self._plane.new_round()
        self._circuit, self._rollout = document.circuit, document.rollout
        self._leading = False
        known = {(record.time, record.what, record.cause) for record in old.records}
        self._write_down(
            tuple(
                record
                for record in document.records
                if (record.time, record.what, record.cause) not in known
            )
        )
        self._version += 1
        self.revision += 1
        self._publish()

    @property
    def _is_kept(self) -> bool:
        """The store had everything that raises the weight before it came here."""
        return True

    def _wanted(self) -> RouteTable:
        document = self._agreed
        fits = self._has_canary and document.release == self._release
        return replace(
            self.table,
            weight=document.rollout.weight if fits else 0.0,
            circuit_open=document.is_open,
            salt=document.salt.encode(),
        )

    # What happens

    def act(self, event: release.Event) -> None:
        """Do at once what may be done without the fleet. Raises ``rollout.Refused`` or ``Unavailable``."""
        made = self._made(event)
        if made is None:
            return
        if not protocol.is_cautious(self._agreed, made):
            raise Unavailable(
                "only what takes users off the canary can be done without asking Redis"
            )
        if isinstance(event, circuit.Trip) and event.figures.get("drill") and self._told is None:
            raise Unavailable(f"no drill: its reset would need Redis ({self._away})")
        self._take(made)
        self._nudge.set()

    def _apply(self, event: release.Event, *, quiet: bool = False) -> None:
        """Let something happen that needs no asking: a trip, or what the gates say."""
        if isinstance(event, rollout.GateAnswer):
            if self._leading:
                super()._apply(event, quiet=quiet)
            return
        made = self._made(event, refuse=False)
        if made is not None:
            self._take(made)
            self._nudge.set()

    def _made(self, event: release.Event, *, refuse: bool = True) -> Document | None:
        """Return the document after an event, ``None`` if nothing happens. Raises ``rollout.Refused``."""
        if refuse:
            self._refuse_if_stopped()
            release.refuse(event, self._circuit, self._rollout)
            if self._agreed.release != self._release and not isinstance(event, circuit.Trip):
                raise rollout.Refused(self._conflict or "another release is in force")
        change = self._change(event)
        here = replace(self._agreed, circuit=self._circuit, rollout=self._rollout)
        made = protocol.changed(here, change, self._name())
        return None if made is here else _signed(made, self._me)

    async def act_and_save(self, event: release.Event) -> None:
        """Do what an operator wants; returns when the fleet's document and the own disk have it.

        Raises ``rollout.Refused``, ``Overtaken`` if another replica was quicker, ``Unavailable`` if it needs
        the store and that is away, ``Unsaved`` if the store or the disk does not take it.
        """
        made = self._made(event)
        if made is None:
            return
        if protocol.is_cautious(self._agreed, made):
            self._take(made)
            try:
                await self._see_after(await self._store.commit(self._base, made, self._term))
            except Away as error:
                self._lose(error)
                raise Unsaved(
                    f"{error}; it holds at this replica, and the others follow when it is back"
                ) from None
        else:
            await self._ask_for(made)
        await self.saved()

    @property
    def _base(self) -> str:
        return self._agreed.trail[-1] if self._agreed.trail else ""

    async def _see_after(self, taken: Taken) -> None:
        if not taken.yes:
            await self._see(taken.acted_on)

    async def _ask_for(self, made: Document) -> None:
        if self._told is None:
            raise Unavailable(f"{self._away}; without it nobody gets the canary")
        try:
            taken = await self._store.commit(self._agreed.act, made, self._term)
            await self._see(made if taken.yes else taken.acted_on)
        except Away as error:
            self._lose(error)
            if error.refused:
                raise Unsaved(f"{error}; nobody gets the canary before it can be written") from None
            raise Unavailable(
                f"{error}; whether it was taken shows when it is back: look again"
            ) from None
        if not taken.yes:
            raise Overtaken

    def reconfigure(self, config: Config, table: RouteTable) -> None:
        """Go on by another configuration. What the fleet goes by changes when all replicas have it."""
        self.check(config)
        rules, quantile = self._rules, self._latency_quantile
        self._before = self._mine.settings
        self._configure(config)
        self._requantile(quantile)
        if self._rules != rules:
            self._judge, self._own = Judge(self._settings), Judge(self._settings)
        self._leading, self._agree_since = False, None
        self.revision += 1
        self.table = replace(
            table,
            weight=min(self.table.weight, self._wanted().weight),
            circuit_open=self.table.circuit_open,
            salt=self.table.salt,
            slow=self.table.slow,
            stall_after=self.table.stall_after,
        )
        self._plane.publish(self.table, self._version)
        self._publish()
        self._nudge.set()

    # To see

    @property
    def tag(self) -> str | None:
        """The name of the act that the release is at, the same at every replica."""
        return f"{self._agreed.act}-{self._mine.settings}" if self._agreed.act else None

    @property
    def _conflict(self) -> str | None:
        document = self._agreed
        if not document.act or document.settings == self._mine.settings:
            return None
        if document.release != self._release:
            return (
                f"the fleet is at {document.release or 'no release'}, this replica's configuration "
                f"names {self._release or 'none'}: its users are on stable"
            )
        return (
            "plan, split or judge of this replica's configuration are not those of the fleet: it follows "
            "the fleet's weight and circuit, its counts are its own, and no step is left"
        )

    def fleet(self) -> dict[str, Any]:
        """Return how the fleet is, as this replica sees it."""
        told = self._told
        return {
            "group": self._fleet.group,
            "replica": self._me,
            "connected": told is not None,
            "error": self._away,
            "leader": None if told is None else told.leader or None,
            "leads": told is not None and told.leads,
            "replicas": 0 if told is None else told.replicas,
            "version": self._agreed.version,
            "judging": "sums" if self._judges_sums else "own",
            "conflict": self._conflict,
            "propagation": self._lag,
            "silent": None if self._heard_at is None else self._clock() - self._heard_at,
        }

    def is_mine(self, record: Mapping[str, Any]) -> bool:
        """Whether a record (as JSON values) is this replica's to tell, not another one's."""
        return bool(record["figures"].get("replica", self._me) == self._me)


def _signed(document: Document, me: str) -> Document:
    """Return the document with its new records signed by who made them."""
    return replace(
        document,
        records=tuple(
            record
            if "replica" in record.figures
            else Record(record.time, record.what, record.cause, {**record.figures, "replica": me})
            for record in document.records
        ),
    )
