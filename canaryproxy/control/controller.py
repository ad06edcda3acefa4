"""The tick: counters to judge to circuit and rollout to route table, ten times a second.

The order of a change is what keeps users safe. What takes users off the canary is published first and
written to the disk after. What puts more users on it is written first, and published only when the disk
has it: a crash at any moment, or a full disk, leaves fewer users on the canary and never more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, time
from typing import Any, Protocol

from canaryproxy.config import Config
from canaryproxy.control.state_file import StateError, StateFile
from canaryproxy.judging.judge import (
    Assessment,
    BusinessRule,
    Counts,
    ErrorsRule,
    GuardRails,
    Judge,
    JudgeSettings,
    LatencyRule,
    OutcomeRule,
    Sample,
    ThroughputRule,
)
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.trials import RecentQuantile, thresholds
from canaryproxy.release import circuit, rollout
from canaryproxy.release import transitions as release
from canaryproxy.release.circuit import Circuit, CircuitSettings, Record
from canaryproxy.release.rollout import Plan, Rollout, Step

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
HISTORY = 1000
"""Records that are kept."""
_SAVE_EVERY = 5.0
"""Seconds between saves of evidence that is still growing."""
_RETRY_SECONDS = 1.0
_CLEARED_AFTER = 30.0
"""Seconds without a suspicion after which the history says that it has passed."""
_THRESHOLDS_EVERY = 1.0
_REFRESH_EVERY = 10.0


class DataPlane(Protocol):
    """What the controller needs of the data path."""

    def publish(self, table: RouteTable, version: int) -> None:
        """Route by this table from the next request on; ``version`` is that of the controller's state."""

    def mark_late(self) -> None:
        """Count the requests in flight that are past a threshold."""

    def new_round(self) -> None:
        """Let every user count again."""

    def refresh(self, limit: int) -> None:
        """Every ten seconds; buckets below ``limit`` are on the canary."""


Ask = Callable[[Mapping[str, Any]], Awaitable[tuple[bool, str]]]
"""Asks the gates whether a step may be left; returns whether it may, and who said what. Never raises."""


class Unavailable(Exception):
    """What was asked for needs something that cannot be reached now; nothing has changed."""


class Overtaken(Exception):
    """Somebody else has changed the release meanwhile; nothing has been done."""


class Unsaved(Exception):
    """What was asked for is not on the disk; the text says what holds meanwhile."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where the release is, for people and metrics."""

    release: str | None
    rollout: Rollout
    circuit: Circuit
    assessment: Assessment | None
    weight: float
    """Percent of users on the canary, as published."""
    history: tuple[Record, ...]
    recorded: int
    """Number of the newest record of the history; they are numbered from 1 without gaps."""
    plan: Plan
    cooldown_left: float | None
    """Seconds until an open circuit probes; ``None``: it does not."""
    unsaved: str | None
    """Why the state could not be written, if it could not."""


class Controller:
    """Drives one release. ``table`` is what the data path routes by.

    Raises nothing for a state file that it refuses: then every user is on stable, and ``status`` says why.
    """

    def __init__(
        self,
        config: Config,
        cells: Totals,
        plane: DataPlane,
        table: RouteTable,
        clock: Callable[[], float] = monotonic,
        ask: Ask | None = None,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        self._cells = cells
        self._plane = plane
        self._clock = clock
        self._epoch_offset = time() - clock()
        self._ask = ask
        self._asking: set[asyncio.Task[None]] = set()
        self.slots: Mapping[str, int] = slots or {}
        """``counters.slots`` of the outcomes."""
        self._configure(config)
        self._quantile = RecentQuantile(self._latency_quantile)
        self._posted = {"stable": 0, "canary": 0}
        self._file = StateFile(Path(config.state))
        self._judge = Judge(self._settings)
        self._circuit = Circuit()
        self._rollout = Rollout(weight=table.weight)
        self._history: list[Record] = []
        self._recorded = 0
        self.revision = 0
        """Grows with everything that an operator decides upon."""
        self._listeners: list[Callable[[int, Record], None]] = []
        self._suspect_at: float | None = None
        self._assessment: Assessment | None = None
        self.table = table
        self._version = 0
        """Grows with every change that must be on the disk."""
        self._saved = 0
        self._split = _split(table)
        """What is wanted of the route table, and the version since which it is."""
        self._split_version = 0
        self._saved_at = 0.0
        self._unsaved: str | None = None
        self._saving: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, asyncio.Future[str | None]]] = []
        """Versions that somebody waits for to be on the disk, and where to tell."""
        self._thresholds_at = self._refreshed_at = float("-inf")
        self._ticker: asyncio.TimerHandle | None = None
        self._stopped = False

    def _configure(self, config: Config) -> None:
        release = config.release
        steps = () if release is None else release.steps
        self._plan = Plan(
            tuple(Step(step.weight, step.bake, step.min_requests) for step in steps),
            "bake" if release is None else release.promote,
            gated=release is not None and bool(release.gates),
        )
        self._release = config.release_id
        self._has_canary = config.variants.canary is not None
        self._weight = config.split.weight if release is None else None
        self._settings = judge_settings(config)
        self._rules = config.judge.model_copy(update={"cooldown": None})
        """What evidence is about: if it changes, evidence begins anew."""
        self._circuit_settings = CircuitSettings(cooldown=config.judge.cooldown)
        latency = config.judge.metrics.latency
        self._margin = 0.0 if latency is None else latency.margin
        self._latency_quantile = 0.95 if latency is None else latency.quantile
        self.slots = counters.slots(list(config.judge.outcomes), self.slots)
        business = config.judge.metrics.business
        self._posts_count = business is not None and business.outcome == "events"

    @property
    def tag(self) -> str | None:
        """What an ETag is made of, if it is the same for several proxies; ``None``: it is not."""
        return None

    def fleet(self) -> dict[str, Any] | None:
        """Return how the fleet is, if this is a replica of one."""
        return None

    def is_mine(self, record: Mapping[str, Any]) -> bool:  # noqa: ARG002 - a fleet's looks at it
        """Whether a record (as JSON values) is this proxy's to tell."""
        return True

    @property
    def now(self) -> float:
        """Seconds since the epoch that never fall or jump while the process runs."""
        return self._clock() + self._epoch_offset

    # Life

    def load(self, last: tuple[RouteTable, int] | None = None) -> None:
        """Go on from the state file, or begin the release. Publishes the first table.

        ``last`` is the table that is in force with its version, if another controller was here before: what
        it published and had no time to save holds.
        """
        try:
            document = self._file.load()
            if document is not None:
                self._restore(document)
            self._saved = self._version
        except StateError as error:
            self._refuse_state(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # A checksum that fits and a document that does not: written by another version.
            self._refuse_state(f"the state file {self._file.path} is not understood ({error!r})")
        if last is not None:
            self._follow(*last)
        self._begin_if_idle()
        self._publish(first=True)

    def _begin_if_idle(self) -> None:
        if self._release is not None and self._rollout.state is rollout.State.IDLE:
            self._apply(rollout.Start(by="configuration"))

    def _follow(self, table: RouteTable, version: int) -> None:
        """Take over from a controller that ended without a word, on the side of caution."""
        if table.salt != self.table.salt:
            return
        # What the configuration says may be new: another program may have gone on with its own.
        self.table = replace(
            self.table,
            weight=table.weight if self._has_canary else 0.0,
            circuit_open=table.circuit_open,
            slow=table.slow,
            stall_after=table.stall_after,
        )
        if version <= self._version:
            return
        self._version = version
        is_open = self._circuit.state is circuit.State.OPEN
        if table.circuit_open and not is_open:
            self._trip("the circuit was open when the controller ended", {})
        elif table.limit < self._wanted().limit and not is_open:
            cause = "the controller ended before a lower weight was on the disk"
            is_idle = self._rollout.state is rollout.State.IDLE
            here = replace(
                self._rollout,
                state=rollout.State.IDLE if is_idle else rollout.State.PAUSED,
                weight=table.weight,
                since=self.now,
                hold=cause,
            )
            self._fall_back(here, Record(self.now, "paused", cause, {"weight": table.weight}))

    def _fall_back(self, here: Rollout, why: Record) -> None:
        """Take a rollout with fewer users on the canary, which was in force already."""
        self._rollout = here
        self._write_down((why,))

    def _restore(self, document: Mapping[str, Any]) -> None:
        self._version = int(document.get("version", 0))
        self._history = [Record.from_dict(entry) for entry in document["history"]]
        self._recorded = int(document.get("recorded", len(self._history)))
        if document["release"] != self._release:
            old = document["release"]
            self._note("release", f"{self._release or 'none'} follows {old or 'none'}", {})
            return
        restored = Rollout.from_dict(document["rollout"])
        if restored.step >= max(len(self._plan.steps), 1):
            self._note("release", "the plan has fewer steps now: the release begins anew", {})
            return
        self._circuit = Circuit.from_dict(document["circuit"])
        self._rollout = restored
        if self._release is None and restored.state is rollout.State.IDLE:
            self._rollout = replace(restored, weight=self.table.weight)
        self._judge = Judge.from_dict(self._settings, document["judge"])

    def _refuse_state(self, why: str) -> None:
        _log.error("%s", why)
        try:
            aside = self._file.set_aside()
            why += f"; it is kept as {aside}"
        except OSError as error:
            why += f"; it could not be set aside: {error.strerror}"
        self._trip(why, {})

    def start(self) -> None:
        """Tick until ``stop``."""
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)

    def _ticked(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)
        self.tick()

    async def stop(self) -> None:
        """Tick no more, and save."""
        self._stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        for task in self._asking:
            task.cancel()
        if self._saving is not None:
            await self._saving
        self._tell_waiting("the proxy stops")
        try:
            await asyncio.to_thread(self._file.save, self._document())
        except StateError as error:
            _log.error("%s", error)

    # The tick

    def tick(self) -> None:
        """Look at the counters, and act on what they say."""
        now = self.now
        self._plane.mark_late()
        if self._has_canary:
            seen = self._assessment = self._judge.observe(now, self._sample())
            if seen.level == "breach" and self._rollout.weight > 0:
                self._trip(seen.cause or "breach", figures(seen))
            else:
                self._note_suspicion(now, seen)
            self._apply(circuit.Tick(seen), quiet=True)
            if self._wanted().limit <= self.table.limit:  # else the step has not really begun
                self._apply(rollout.Tick(seen), quiet=True)
        self._keep_house(now)
        self._publish()

    def _keep_house(self, now: float) -> None:
        """Do what is due now and then."""
        if now - self._thresholds_at >= _THRESHOLDS_EVERY:
            self._thresholds_at = now
            self._update_thresholds(now)
        if now - self._refreshed_at >= _REFRESH_EVERY:
            self._refreshed_at = now
            self._plane.refresh(self.table.limit)
        if now - self._saved_at >= _SAVE_EVERY and self._rollout.state is rollout.State.RUNNING:
            self._saved_at = now
            self._version += 1

    def _note_suspicion(self, now: float, seen: Assessment) -> None:
        """Write down when a suspicion begins and when it has passed."""
        if seen.level == "suspect":
            if self._suspect_at is None:
                suspects = [one.reason for one in seen.verdicts if one.level != "ok"]
                self._note("suspect", "; ".join(suspects), figures(seen))
            self._suspect_at = now
        elif self._suspect_at is not None and now - self._suspect_at >= _CLEARED_AFTER:
            self._suspect_at = None
            self._note("cleared", f"nothing suspect for {_CLEARED_AFTER:g} s", figures(seen))

    def _sample(self) -> Sample:
        return Sample(self._counts("stable"), self._counts("canary"))

    def _counts(self, variant: str) -> Counts:
        cells = self._cells.stable if variant == "stable" else self._cells.canary

        def pair(trials: int, events: int) -> tuple[int, int]:
            counted = cells[events]  # events first: a trial is written before its event
            return cells[trials], counted

        counts = {
            "errors": pair(counters.ERROR_TRIALS, counters.ERROR_EVENTS),
            "client_errors": pair(counters.ERROR_TRIALS, counters.CLIENT_ERROR_EVENTS),
            "latency": pair(counters.LATENCY_TRIALS, counters.LATENCY_EVENTS),
            "throughput": pair(counters.THROUGHPUT_TRIALS, counters.THROUGHPUT_EVENTS),
            "business": pair(counters.EXPOSED, counters.CONVERTED),
        }
        failed = cells[counters.FAILED]
        counts["requests"] = (
            cells[counters.FINISHED] - cells[counters.CLIENT_CLOSED],
            failed,
        )
        for name, slot in self.slots.items():
            counts[name] = pair(counters.OUTCOMES + 2 * slot, counters.OUTCOMES + 2 * slot + 1)
        if self._posts_count:
            counts["business"] = (cells[counters.EXPOSED], self._posted[variant])
        return counts

    def _update_thresholds(self, now: float) -> None:
        cells = self._cells.stable
        counts = cells[counters.FIRST_BYTE : counters.FIRST_BYTE + histogram.BUCKETS]
        tau = self._quantile.update(now, list(counts))
        if tau is None:
            return
        found = thresholds(tau, self._margin)
        self.table = replace(
            self.table, slow=(found.stable, found.canary), stall_after=found.stall_after
        )
        self._plane.publish(self.table, self._version)

    # What happens

    def act(self, event: rollout.Event | circuit.Trip | circuit.Reset) -> None:
        """Do what an operator wants. Raises ``rollout.Refused`` with the reason if it cannot be done."""
        self._refuse_if_stopped()
        release.refuse(event, self._circuit, self._rollout)
        self._apply(event)
        self._publish()

    async def act_and_save(self, event: rollout.Event | circuit.Trip | circuit.Reset) -> None:
        """Do what an operator wants, and return when it is on the disk.

        Raises ``rollout.Refused``, or ``Unsaved`` if the disk does not take it.
        """
        weight = self.table.limit
        self.act(event)
        await self.saved(raises_weight=self._wanted().limit > weight)

    async def saved(self, *, raises_weight: bool = False) -> None:
        """Return when everything until now is on the disk. Raises ``Unsaved`` if that does not work."""
        if self._saved >= self._version:
            return
        told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._version, told))
        why = await told
        if why is not None:
            holds = (
                "nobody gets the canary before it can be written"
                if raises_weight
                else "it holds, but a restart would not know of it"
            )
            raise Unsaved(f"{why}; {holds}")

    def _tell_waiting(self, why: str | None) -> None:
        """Tell those whose version is on the disk, or all of them that it could not be written."""
        left = []
        for version, told in self._waiting:
            if why is None and version > self._saved:
                left.append((version, told))
            elif not told.done():
                told.set_result(None if version <= self._saved else why)
        self._waiting = left

    def subscribe(self, listener: Callable[[int, Record], None]) -> Callable[[], None]:
        """Call ``listener`` with the number and each record of the history; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def note(self, what: str, cause: str, figures: Mapping[str, Any]) -> None:
        """Write something into the history."""
        self._note(what, cause, figures)
        self._publish()

    def check(self, config: Config) -> None:
        """Raise ``rollout.Refused`` if the release cannot go on by this configuration."""
        self._refuse_if_stopped()
        steps = () if config.release is None else config.release.steps
        here = self._rollout
        if config.release_id == self._release and here.step >= max(len(steps), 1):
            raise rollout.Refused(
                f"release.steps: the release is on step {here.step + 1}, and the plan would have "
                f"{len(steps)}: give the release another id, or abort it first"
            )

    def reconfigure(self, config: Config, table: RouteTable) -> None:
        """Go on by another configuration; ``table`` is what it starts with (``first_table``).

        The same release goes on: its step, its weight and its users stay, and evidence too if the judge
        compares what it did. Another release begins anew, with nobody on the canary until the disk knows of
        it. Raises ``rollout.Refused``, and changes nothing, if the plan has no step for where it is.
        """
        self.check(config)
        same = config.release_id == self._release
        old_rules, old_plan, old_quantile = self._rules, self._plan, self._latency_quantile
        old_weight = self._weight
        self._configure(config)
        self._requantile(old_quantile)
        self.revision += 1
        keep = replace(
            table,
            slow=self.table.slow,
            stall_after=self.table.stall_after,
        )
        if same:
            self.table = replace(
                keep, weight=self.table.weight, circuit_open=self.table.circuit_open
            )
            self._plane.publish(self.table, self._version)
            weight = self._weight if self._weight != old_weight else None
            judge_changed = self._rules != old_rules
            if judge_changed or self._plan != old_plan or weight is not None:
                self._apply(rollout.Replan(judge_changed, weight))
        else:
            self.table = replace(keep, weight=0.0, circuit_open=False)
            self._plane.publish(self.table, self._version)
            self._begin(table.weight)
        self._publish()

    def _requantile(self, old: float) -> None:
        if self._latency_quantile != old:
            self._quantile = RecentQuantile(self._latency_quantile)

    def _begin(self, weight: float) -> None:
        """Begin what the configuration names: its release, or a weight (percent) without one."""
        self._judge = Judge(self._settings)
        self._assessment = None
        self._suspect_at = None
        self._circuit = Circuit()
        self._rollout = Rollout(weight=weight, since=self.now)
        self._note("release", f"{self._release or 'no release'} begins", {})
        self._version += 1
        if self._release is not None:
            self._apply(rollout.Start(by="configuration"))

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise rollout.Refused("this process steers no more: ask again, another may do")

    def post_events(self, variant: str, count: int) -> None:
        """Count business events that somebody reported for a variant (``stable`` or ``canary``)."""
        self._posted[variant] += count

    def _trip(self, cause: str, figures: Mapping[str, Any]) -> None:
        self._apply(circuit.Trip(cause, figures))

    def _apply(self, event: release.Event, *, quiet: bool = False) -> None:
        """Let something happen to the release; ``quiet``: it need not be on the disk for itself."""
        change = release.step(
            self._circuit, self._rollout, event, self.now, self._plan, self._circuit_settings
        )
        self._circuit, self._rollout = change.circuit, change.rollout
        self._write_down(change.records)
        if not quiet:
            self._version += 1
        self._do(change.actions)

    def _do(self, actions: tuple[rollout.Action, ...]) -> None:
        for action in actions:
            if action is rollout.Action.ASK_GATES:
                self._ask_gates()
                continue
            if action is rollout.Action.NEW_JUDGE:
                self._judge = Judge(self._settings)
                self._suspect_at = None
            else:
                self._judge.expect_change()
            self._plane.new_round()

    def _ask_gates(self) -> None:
        """Ask in the background; without anybody to ask the answer is no."""
        task = asyncio.ensure_future(self._hear_gates(self._rollout.gate.question))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _hear_gates(self, number: int) -> None:
        if self._ask is None:
            passed, cause = False, "there is nobody to ask the gates"
        else:
            passed, cause = await self._ask(self._question())
        self._apply(rollout.GateAnswer(number, passed, cause), quiet=True)

    def _question(self) -> dict[str, Any]:
        at, steps = self._rollout.step, self._plan.steps
        last = at + 1 >= len(steps)
        return {
            "release": self._release,
            "step": at + 1,
            "steps": len(steps),
            "weight": self._rollout.weight,
            "next_step": None if last else at + 2,
            "next_weight": 100.0 if last else steps[at + 1].weight,
            "baked": round(self._rollout.baked, 3),
            **({} if self._assessment is None else figures(self._assessment)),
        }

    def _note(self, what: str, cause: str, figures: Mapping[str, Any]) -> None:
        self._write_down((Record(self.now, what, cause, figures),))

    def _write_down(self, records: tuple[Record, ...]) -> None:
        for record in records:
            self._recorded += 1
            self._history.append(record)
            _log.info(
                "%s: %s",
                record.what,
                record.cause,
                extra={"record": {"id": self._recorded, **record.to_dict()}},
            )
            for listener in tuple(self._listeners):
                listener(self._recorded, record)
        if records:
            del self._history[:-HISTORY]
            self._version += 1
            self.revision += 1

    # Publishing and saving

    def _publish(self, *, first: bool = False) -> None:
        """Publish what is safe now, and save what must be on the disk."""
        wanted, table = self._wanted(), self.table
        split = _split(wanted)
        same = split == _split(table)
        if split != self._split:
            self._split, self._split_version = split, self._version
        allowed = wanted.limit <= table.limit or self._is_kept
        if first or (allowed and not same):
            self.table = wanted if allowed else table
            self._plane.publish(self.table, self._version)
        if self._saved < self._version and self._saving is None and not self._stopped:
            self._saving = asyncio.ensure_future(self._save())

    @property
    def _is_kept(self) -> bool:
        """Whether a crash would not forget why the split is to be as it is."""
        return self._saved >= self._split_version

    def _wanted(self) -> RouteTable:
        weight = self._rollout.weight if self._has_canary else 0.0
        is_open = self._circuit.state is circuit.State.OPEN
        return replace(self.table, weight=weight, circuit_open=is_open)

    async def _save(self) -> None:
        """Write until the disk has everything; what waits for it is published then."""
        try:
            while self._saved < self._version and not self._stopped:
                version, document = self._version, self._document()
                try:
                    await asyncio.to_thread(self._file.save, document)
                except StateError as error:
                    if self._unsaved is None:
                        _log.error("%s; the canary gets no more users until it can be", error)
                    self._unsaved = str(error)
                    self._tell_waiting(self._unsaved)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                self._saved = version
                self._unsaved = None
                self._publish()  # what is acknowledged is in force
                self._tell_waiting(None)
        finally:
            self._saving = None

    def _document(self) -> dict[str, Any]:
        return {
            "release": self._release,
            "version": self._version,
            "circuit": self._circuit.to_dict(),
            "rollout": self._rollout.to_dict(),
            "judge": self._judge.to_dict(),
            "history": [record.to_dict() for record in self._history],
            "recorded": self._recorded,
        }

    def status(self) -> Status:
        """Return where the release is."""
        return Status(
            self._release,
            self._rollout,
            self._circuit,
            self._assessment,
            self.table.limit / 100,
            tuple(self._history),
            self._recorded,
            self._plan,
            self._circuit.left if self._circuit.state is circuit.State.OPEN else None,
            self._unsaved,
        )


def first_table(config: Config) -> RouteTable:
    """Return the route table that a configuration starts with.

    With a release nobody is on the canary until the controller says so, and its id is the salt; else
    ``split.weight`` holds. Without a canary the weight is 0.
    """
    release = config.release
    weight = config.split.weight if release is None else 0.0
    salt = config.split.salt
    if salt is None:
        salt = "" if release is None else release.id
    return RouteTable(
        weight=weight if config.variants.canary is not None else 0.0,
        salt=salt.encode(),
        new_sessions_only=config.split.admit == "new_sessions",
    )


def judge_settings(config: Config) -> JudgeSettings:
    """Return what the judge compares under a configuration."""
    judge = config.judge
    metrics = judge.metrics
    rails = judge.guard_rails
    business = metrics.business
    return JudgeSettings(
        alpha=judge.alpha,
        alpha_hold=judge.alpha_hold,
        errors=None if metrics.errors is None else ErrorsRule(metrics.errors.margin),
        latency=None if metrics.latency is None else LatencyRule(),
        throughput=None if metrics.throughput is None else ThroughputRule(),
        business=None if business is None else BusinessRule(business.margin, business.direction),
        outcomes=tuple(
            OutcomeRule(name, outcome.margin)
            for name, outcome in judge.outcomes.items()
            if outcome.bad
        ),
        guard_rails=None
        if rails is None or rails.errors is None
        else GuardRails(rails.errors, rails.min_requests),
    )


def figures(seen: Assessment) -> dict[str, Any]:
    """Return what a trip's record keeps of the assessment."""
    return {
        "judged": seen.judged,
        "answered": seen.answered,
        "metrics": {
            verdict.metric: {
                "level": verdict.level,
                "log_evidence": round(verdict.log_evidence, 6),
                "stable": list(verdict.stable),
                "canary": list(verdict.canary),
            }
            for verdict in seen.verdicts
        },
    }


def _split(table: RouteTable) -> tuple[float, bool, bytes]:
    """Return what of a route table has to be on the disk before more users come to the canary by it."""
    return table.weight, table.circuit_open, table.salt
