"""The tick: counters to verdict to route table, ten times a second.

A tick is done in parts (``Controller.parts``), between which the event loop serves requests. It is one moment
all the same: ``Controller.now`` stands still in it, and whatever would find it half done (an act, a reload, a
save, the answer of a gate) finishes it first.

The order of a change keeps users safe (``publish``). A change that takes users off the canary is published
first and saved after. A change that puts more users on it is saved first, and published only when the disk
has it: a crash at any moment, or a full disk, leaves fewer users on the canary and never more.

The authority decides (``authority``), the ledger keeps the state and its history (``ledger``), the saver
writes it (``saver``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

from canaryproxy.config import Config
from canaryproxy.control.authority import Authority, AuthorityHost, LocalAuthority, split_of
from canaryproxy.control.capacity_watch import CapacityWatch
from canaryproxy.control.causes import Causes
from canaryproxy.control.departures import Departures
from canaryproxy.control.ended import EndedReleases, canary_of
from canaryproxy.control.endpoint_figures import EndpointFigures, EndpointReading
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.front_watch import Front
from canaryproxy.control.gates import AskGates, GateKeeper
from canaryproxy.control.ledger import Ledger, Listener
from canaryproxy.control.outlier_watch import OutlierWatch
from canaryproxy.control.record_reader import RecordReader
from canaryproxy.control.route_figures import RouteFigures
from canaryproxy.control.sampler import Sampler
from canaryproxy.control.saver import Saver, Split
from canaryproxy.control.settings import ControlSettings
from canaryproxy.control.settings import plan as plan_of
from canaryproxy.control.state_file import StateError, StateFile
from canaryproxy.control.tick_work import TickWork
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure.concentration import Concentration
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.exposure import NONE_REACHED, Cohorts, Exposure
from canaryproxy.measure.recent_users import RecentUsers
from canaryproxy.measure.routing import VARIANTS, RouteTable
from canaryproxy.release import circuit, rollout
from canaryproxy.release.circuit import Circuit, Record
from canaryproxy.release.rollout import Plan, Rollout
from canaryproxy.release.transitions import Event

_log = logging.getLogger(__name__)

Origin = Literal["restored", "refused", "new"]
"""What became of the state file at the start."""

TICK_SECONDS = 0.1
_SAVE_EVERY = 5.0
"""Seconds between saves of evidence that is still growing."""
_THRESHOLDS_EVERY = 1.0

MakeAuthority = Callable[[AuthorityHost, Ledger, ControlSettings], Authority]


class DataPlane(Protocol):
    """The workers, as the controller uses them."""

    def publish(self, table: RouteTable, version: int) -> None:
        """Route by this table from the next request on; ``version`` is that of the ledger."""

    def endpoints(self, variant: int) -> Sequence[EndpointReading]:
        """Return each endpoint of a variant as all workers see it."""

    def eject(self, variant: int, causes: Mapping[str, str]) -> None:
        """Send no requests to these outliers of a variant, and to its others again: causes by URL."""

    def holds(self) -> tuple[str, ...]:
        """Return why the canary's endpoints hold the step: some fail their health checks."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the release, for people and metrics."""

    release: str | None
    rollout: Rollout
    circuit: Circuit
    assessment: Assessment | None
    weight: float
    """Percent of all users on the canary, as published."""
    history: tuple[Record, ...]
    recorded: int
    """Number of the newest record of the history; they are numbered from 1 without gaps."""
    plan: Plan
    cooldown_left: float | None
    """Seconds until an open circuit probes; ``None``: it does not."""
    unsaved: str | None
    """Why the state could not be written, if it could not."""
    concentration: Concentration | None = None
    """How many sticky keys carry the traffic; ``None``: not known yet."""
    losses: str | None = None
    """What was lost of late, in words: requests that the judge has not seen."""
    front: Front | None = None
    """The split of the front that is followed and compared; ``None``: none, or not known yet."""
    cohorts: Cohorts = NONE_REACHED
    """Cohorts with users on the canary, as published."""

    @classmethod
    def of(
        cls,
        settings: ControlSettings,
        ledger: Ledger,
        seen: Assessment | None,
        table: RouteTable,
        sampler: Sampler,
        unsaved: str | None,
        now: float,
    ) -> Status:
        """Put it together at ``now`` (seconds)."""
        broken = ledger.circuit
        return cls(
            settings.release,
            ledger.rollout,
            broken,
            seen,
            table.limit / 100,
            tuple(ledger.history),
            ledger.recorded,
            settings.plan,
            broken.left if broken.state is circuit.State.OPEN else None,
            unsaved,
            sampler.concentration,
            sampler.losses(now),
            sampler.front,
            split_of(table).users.of_cohorts,
        )

    @property
    def exposure(self) -> Exposure:
        """The users on the canary, as published."""
        return Exposure(self.weight, self.cohorts.reached, self.cohorts.drawn)


class Controller:
    """Drives one release: ticks, publishes route tables, takes operators' acts.

    ``cells`` are the counters of all workers, ``table`` is the first route table, ``clock`` gives seconds
    that never fall, ``slots`` are the cells of outcomes that are in use already, ``reader`` reads the records
    of all workers.

    A state file that is refused raises nothing: every user is on stable then, and ``status`` gives the
    reason.
    """

    def __init__(
        self,
        config: Config,
        cells: Totals,
        plane: DataPlane,
        table: RouteTable,
        clock: Callable[[], float] = monotonic,
        *,
        ask: AskGates | None = None,
        slots: Mapping[str, int] | None = None,
        reader: RecordReader | None = None,
        authority: MakeAuthority = LocalAuthority,
    ) -> None:
        self.config = config
        """The configuration in force."""
        self.settings = ControlSettings.of(config, slots)
        self.table = table
        """The route table in force."""
        self._plane = plane
        self._work = TickWork(clock)
        self._cells = cells
        self.sampler = Sampler(cells, self.settings, reader, config.service)
        self.departures = Departures()
        self.users = RecentUsers()
        """Users that the split has seen of late."""
        self.endpoints = EndpointFigures(plane.endpoints)
        self.outliers = OutlierWatch(config, plane.endpoints)
        self.routes = RouteFigures(self.settings.judge.named)
        self.causes = Causes(self.endpoints, self.routes, lambda: self.settings.judge)
        self.ledger = Ledger(Rollout(weight=table.weight), lambda: self.now, config.service)
        self.capacity = CapacityWatch(self.ledger, self.settings)
        self.authority = authority(self, self.ledger, self.settings)
        self._ended = EndedReleases()
        self._canary = canary_of(config)
        self.gates = GateKeeper(ask, self._work.after(self.authority.gates_answered))
        self._file = StateFile(Path(config.state))
        document, saved = self._work.after(self._document), self._work.after(self.publish)
        self._saver = Saver(self._file, self.ledger, document, saved, split_of(table))
        self._thresholds_at = float("-inf")
        self._saved_at = 0.0
        self._stopped = False

    @property
    def now(self) -> float:
        """Seconds since the epoch that never fall or jump while the process runs."""
        return self._work.now

    # Life

    def load(self, last: tuple[RouteTable, int] | None = None) -> Origin:
        """Continue from the state file, or begin the release. Publishes the first table.

        Returns what became of the state file: new means that there is none.
        ``last`` is the table in force with its version, if another controller was here before: a table that
        it published without having saved it holds.
        """
        origin: Origin = "new"
        try:
            document = self._file.load()
            if document is not None:
                self.ledger.restore_history(document)
                self.authority.restore(document)
                origin = "restored"
                self._ended.restore(document.get("ended", {}))
                self.capacity.restore(document)
                self._warn_of_reuse(document["release"])
            self._saver.saved = self.ledger.version
        except StateError as error:
            origin = "refused"
            self._refuse_state(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # The checksum fits and the document does not: another version wrote it.
            origin = "refused"
            self._refuse_state(
                f"the state file {self._file.path} cannot be parsed ({error!r}); "
                "all users go to stable until an operator resets the circuit"
            )
        if last is not None:
            self._take_over(*last)
        self.authority.begin()
        self.publish(first=True)
        for variant in range(len(VARIANTS)):
            self._plane.eject(variant, {})
        self.endpoints.take(self.now, self.ledger.rollout.since)
        return origin

    def _refuse_state(self, why: str) -> None:
        try:
            why += f"; it is kept as {self._file.set_aside()}"
        except OSError as error:
            why += f"; it could not be set aside: {error.strerror}"
        self.authority.distrust(why)

    def _warn_of_reuse(self, before: str | None) -> None:
        """Say so if the configuration names a release that has ended; ``before`` was in force."""
        why = self._ended.refusal(self.settings.release, self._canary, before)
        if why is not None:
            _log.error("%s", why, extra={"service": self.ledger.service})
            self.ledger.note("release", why, {})

    def _take_over(self, table: RouteTable, version: int) -> None:
        """Continue after a controller that was killed, erring towards fewer users on the canary."""
        if table.salt != self.table.salt:
            return
        # The configuration may be a newer one: another program may have taken over with its own.
        self.table = _taken(self.table, table, has_canary=self.settings.has_canary)
        ledger = self.ledger
        if version <= ledger.version:
            return
        ledger.version = version
        if ledger.circuit.state is circuit.State.OPEN:
            return
        if table.circuit_open:
            self.authority.trip("the circuit was open when the control plane was killed", {})
        elif self.authority.wanted.raises(split_of(table)):
            users = split_of(table).meet(self.authority.wanted).users
            self.authority.fall_back(*_lower(ledger.rollout, users, self.now))

    def start(self) -> None:
        """Start what the authority does between ticks. ``tick`` is for the caller to call."""
        self.authority.start()

    async def stop(self) -> None:
        """Refuse acts from now on, and save."""
        self._stopped = True
        self._work.finish()
        self.gates.stop()
        await self.authority.stop()
        await self._saver.stop()

    def retire(self) -> None:
        """Save at once and refuse acts from now on: the service is no longer configured."""
        self._stopped = True
        self._work.finish()
        self.gates.stop()
        self._saver.stop_at_once()

    # The tick

    def tick(self) -> None:
        """Read the counters, and act on the verdict, at once."""
        for _ in self.parts():
            pass

    def parts(self) -> Iterator[None]:
        """Do the same in parts; begin it every ``TICK_SECONDS``. What finishes the tick ends this, too."""
        return self._work.in_parts(self._parts())

    def _parts(self) -> Iterator[None]:
        if self.settings.has_canary:
            now, accepted = self.now, self.ledger.rollout.accepted
            holds = (*self._plane.holds(), *self.outliers.holds(now))
            sample = self.sampler.sample(self.table, accepted, now, holds)
            if sample.records:
                yield
            self.users.take(self.now, () if sample.cohort else sample.records)
            self.routes.take(self.now, sample.records, sample.names)
            if sample.records:
                yield
            yield from self.authority.observe(sample)
        else:
            self.sampler.skip()
        self._watch()

    def idle_tick(self, *, used: bool) -> None:
        """Look after an idle service once a second; ``used``: a worker has counted something of it."""
        if used and not self.settings.has_canary:
            self.sampler.skip()
        elif used:
            drained = self.sampler.drain(self.now)
            self.users.take(self.now, drained.records)
            self.routes.take(self.now, drained.records, drained.names)
        if used:
            self._watch()
        else:
            self._do_periodic_work(self.now)
            self.publish()

    def _watch(self) -> None:
        """Do what follows from the counters without the judge."""
        for one in self.departures.observe(self.now, self.table, self._cells.variants):
            self.ledger.note("moved", one.cause, one.figures)
        _eject_outliers(self.outliers, self._plane, self.ledger, self.now)
        self._do_periodic_work(self.now)
        self.publish()

    def sample(self) -> Sample:
        """Read the counters of both variants."""
        return self.sampler.counts()

    def _do_periodic_work(self, now: float) -> None:
        """Do the periodic work: every second and every five seconds."""
        if now - self._thresholds_at >= _THRESHOLDS_EVERY:
            self._thresholds_at = now
            self.endpoints.take(now, self.ledger.rollout.since)
            self._update_thresholds()
        judged = self.sampler.front or self.ledger.rollout.state is rollout.State.RUNNING
        if judged and now - self._saved_at >= _SAVE_EVERY:
            self._saved_at = now
            self.ledger.version += 1

    def _update_thresholds(self) -> None:
        (late, stalled), slow, table = self.authority.limits, self.outliers.slow, self.table
        if (late, stalled, slow) != (table.late, table.stall_after, table.slow):
            self._put(self._timed(table))

    def _timed(self, table: RouteTable) -> RouteTable:
        """Return a route table with the thresholds of the judge."""
        late, stalled = self.authority.limits
        return replace(table, late=late, stall_after=stalled, slow=self.outliers.slow)

    # Publishing

    def publish(self, *, first: bool = False) -> None:
        """Publish the split that the authority wants as far as it is safe now, and start saving.

        A trip reaches the workers here, before it is saved. A higher weight waits until the disk has it; the
        saver calls again then. ``first``: publish even if nothing changes.
        """
        self._note_end()
        wanted, table = self.authority.wanted, self.table
        self._saver.want(wanted)
        if self.authority.saves_first and not self._saver.has_split:
            wanted = _lowered(wanted, split_of(table))
        if wanted != split_of(table):
            # With the thresholds of the judge that judges it: a new one's canary may be slow at first.
            self._put(self._timed(_routed(table, wanted)))
        elif first:
            self._put(table)
        self._saver.save_soon()

    def _note_end(self) -> None:
        """Take note of a release that has ended, unless it is another one than the configuration's."""
        release, fleet = self.settings.release, self.authority.view()
        if release is not None and (fleet is None or fleet["conflict"] is None):
            self._ended.note(release, self.ledger.rollout, self._canary)

    def _put(self, table: RouteTable) -> None:
        """Route by ``table`` from the next request on."""
        self.table = table
        self._plane.publish(table, self.ledger.version)

    def _document(self) -> dict[str, Any]:
        release = {"release": self.settings.release}
        ended = {"ended": self._ended.to_dict()}
        parts = self.capacity.to_dict() | self.ledger.to_dict() | self.authority.to_dict()
        return release | ended | parts

    # Acts

    def act(self, event: Event) -> None:
        """Perform an operator's act at once. Raises ``rollout.Refused`` or ``Unavailable`` with the
        reason."""
        self._begin_act()
        self.authority.propose(event)
        self.publish()

    async def act_and_save(self, event: Event) -> None:
        """Perform an operator's act, and return when it is in force and on disk.

        Raises ``rollout.Refused``, ``Overtaken``, ``Unavailable``, or ``Unsaved`` if the disk does not take
        it.
        """
        self._begin_act()
        await self.authority.commit(event)
        self.publish()
        await self.saved()

    async def saved(self) -> None:
        """Return when everything up to now is on disk. Raises ``Unsaved`` if a save fails."""
        await self._saver.wait(lambda: not self.authority.wanted.raises(split_of(self.table)))

    def note(self, what: str, cause: str, figures: Mapping[str, Any]) -> None:
        """Write a record into the history."""
        self._work.finish()
        self.ledger.note(what, cause, figures)
        self.publish()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with the number and each new record; return a function that ends it."""
        return self.ledger.subscribe(listener)

    def post_events(self, events: Sequence[PostedEvent]) -> int:
        """Take posted business events, all or none (``EventInbox.post``)."""
        return self.sampler.post_events(events, self.table)

    def _begin_act(self) -> None:
        """Finish the tick; raise ``rollout.Refused`` if the process is shutting down."""
        self._work.finish()
        if self._stopped:
            raise rollout.Refused("this process is shutting down; retry")

    # Configurations

    def check(self, config: Config) -> None:
        """Raise ``rollout.Refused`` if the release cannot continue under this configuration."""
        self._begin_act()
        if config.release_id == self.settings.release:
            _refuse_fewer_steps(config, self.ledger.rollout)
        why = self._ended.refusal(config.release_id, canary_of(config), self.settings.release)
        if why is not None:
            raise rollout.Refused(why)

    def reconfigure(self, config: Config, table: RouteTable) -> None:
        """Continue under another configuration; ``table`` is its first table (``first_table``).

        The same release continues: its step, its weight and its users stay, and its evidence too if the judge
        compares the same things. Another release starts from its first step, with no users on the canary
        until the disk knows of it. Raises ``rollout.Refused``, and changes nothing, if the plan lacks the
        step that the release is on.
        """
        self.check(config)
        settings = ControlSettings.of(config, self.settings.slots)
        split = self.authority.carry_over(settings, self.table)
        known = self.table
        timing = replace(table, late=known.late, stall_after=known.stall_after, slow=known.slow)
        if settings.salt != self.settings.salt:
            self.users.forget()
        self.config, self.settings, self._canary = config, settings, canary_of(config)
        self.sampler.configure(settings)
        self.outliers.configure(config)
        self.routes.configure(settings.judge.named)
        self.capacity.configure(settings)
        self.ledger.revision += 1
        self._put(_routed(timing, split))
        self.authority.configure(settings)
        self.publish()

    # Views

    @property
    def slots(self) -> Mapping[str, int]:
        """The pair of cells of each outcome (``counters.slots``)."""
        return self.settings.slots

    def status(self) -> Status:
        """Return where the release is."""
        seen, sampler, unsaved = self.authority.assessment, self.sampler, self._saver.error
        return Status.of(self.settings, self.ledger, seen, self.table, sampler, unsaved, self.now)


def _refuse_fewer_steps(config: Config, here: Rollout) -> None:
    """Raise ``rollout.Refused`` if the plan lacks the step that the release is on."""
    steps = plan_of(config).steps
    if here.step >= max(len(steps), 1):
        raise rollout.Refused(
            f"release.steps: the release is on step {here.step + 1}, and the new plan has {len(steps)}: "
            "give the release another id, or abort it first"
        )


def _eject_outliers(outliers: OutlierWatch, plane: DataPlane, ledger: Ledger, now: float) -> None:
    """Take out the endpoints that fail far more or are far slower than the others; the judge has seen it."""
    for variant, one in outliers.observe(now):
        of = len(plane.endpoints(variant))
        plane.eject(variant, outliers.causes(variant))
        what = "ejected" if one.ejected else "readmitted"
        where = f"{VARIANTS[variant]} endpoint {one.url}"
        figures = {**one.figures, "endpoints": [one.url], "endpoints_of": of}
        ledger.note(what, f"{where}: {one.cause}", figures)


def _taken(mine: RouteTable, last: RouteTable, *, has_canary: bool) -> RouteTable:
    """Return a configuration's first table with the split and the times of the ``last`` one in force."""
    split = split_of(last)
    if not has_canary:
        split = replace(split, weight=0.0, cohorts=NONE_REACHED)
    return _routed(replace(mine, late=last.late, stall_after=last.stall_after), split)


def _lower(here: Rollout, users: Exposure, now: float) -> tuple[Rollout, Record]:
    """Return the rollout that goes on with these users of a table that was not saved, and its record."""
    cause = "the control plane was killed before a lower weight was saved"
    is_idle = here.state is rollout.State.IDLE
    state = rollout.State.IDLE if is_idle else rollout.State.PAUSED
    share = {"share": users.said()} if users.cohorts else {}
    record = Record(now, "paused", cause, {"weight": users.weight, **share})
    return here.exposing(users, state=state, since=now, hold=cause), record


def _lowered(wanted: Split, in_force: Split) -> Split:
    """Return the part of a split that takes users off the canary and puts none there."""
    if not wanted.raises(in_force):
        return wanted
    if wanted.salt != in_force.salt:
        return in_force
    lower = wanted.meet(in_force)
    return lower if in_force.raises(lower) else in_force


def _routed(table: RouteTable, split: Split) -> RouteTable:
    """Return a route table with another split."""
    return replace(
        table,
        weight=split.weight,
        circuit_open=split.circuit_open,
        salt=split.salt,
        cohorts=split.cohorts.reached,
        cohort=split.cohorts.drawn,
    )
