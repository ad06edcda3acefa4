"""The right to change the release: an interface, and the authority of a proxy that stands alone.

The controller ticks, publishes and saves; its authority decides. ``LocalAuthority`` changes the release at
once and by itself. ``fleet.authority.FleetAuthority`` shares one release with other replicas and asks a store
first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from canaryproxy.config.text import duration
from canaryproxy.control.capacity_watch import CapacityWatch
from canaryproxy.control.causes import Causes
from canaryproxy.control.departures import Departures
from canaryproxy.control.front_watch import Front
from canaryproxy.control.gates import GateKeeper, question
from canaryproxy.control.ledger import Ledger, figures
from canaryproxy.control.sampler import Sampler
from canaryproxy.control.saver import Split
from canaryproxy.control.settings import ControlSettings
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure.exposure import Cohorts, Exposure
from canaryproxy.measure.routing import RouteTable
from canaryproxy.release import circuit, rollout, transitions
from canaryproxy.release.circuit import Circuit, Record
from canaryproxy.release.rollout import Plan, Rollout
from canaryproxy.release.transitions import Event

CLEARED_AFTER = 30.0
"""Seconds without a suspect metric until the history records that all is well again."""


class Unavailable(Exception):
    """The act needs a store that cannot be reached now; nothing has changed."""


class Overtaken(Exception):
    """Another act has changed the release meanwhile; nothing has been done."""


class AuthorityHost(Protocol):
    """The controller, as an authority uses it."""

    @property
    def now(self) -> float:
        """Seconds since the epoch that never fall or jump while the process runs."""

    @property
    def table(self) -> RouteTable:
        """The route table in force."""

    def sample(self) -> Sample:
        """Read the counters of both variants, without records: those come with ``observe`` only."""

    @property
    def sampler(self) -> Sampler:
        """Reads the workers' counters and records, and knows the front's split if there is one."""

    @property
    def causes(self) -> Causes:
        """Explains what the judge found."""

    @property
    def departures(self) -> Departures:
        """Counts the long-lived connections that are to leave."""

    @property
    def capacity(self) -> CapacityWatch:
        """Says why the next step would bring more than has been carried."""

    def publish(self) -> None:
        """Publish what the authority wants as far as it is safe now, and save it."""

    @property
    def gates(self) -> GateKeeper:
        """Asks the gates; their answer arrives through ``gates_answered``."""


class Authority(Protocol):
    """Decides how a release proceeds. It keeps the state in the ledger, and never touches the route table.

    The events are those of ``release.transitions``. Everything is called in the event loop.
    """

    settings: ControlSettings
    assessment: Assessment | None
    """The latest verdict."""

    @property
    def wanted(self) -> Split:
        """The split that the release calls for."""

    @property
    def limits(self) -> tuple[float, float]:
        """Seconds to the first and to the last byte after which a request in flight is reported at once."""

    @property
    def saves_first(self) -> bool:
        """Whether a higher weight waits for the own disk; if not, a store has it already."""

    # Acts

    def propose(self, event: Event) -> None:
        """Perform an operator's act at once. Raises ``rollout.Refused`` or ``Unavailable``."""

    async def commit(self, event: Event) -> None:
        """Perform an operator's act, and return when every proxy that shares the release is bound by it.

        The own disk may not have it yet. Raises ``rollout.Refused``, ``Overtaken``, ``Unavailable`` or
        ``saver.Unsaved``.
        """

    def trip(self, cause: str, figures: Mapping[str, Any]) -> None:
        """Open the circuit."""

    def fall_back(self, to: Rollout, record: Record) -> None:
        """Take a rollout with fewer users on the canary that is in force already."""

    def observe(self, sample: Sample) -> Iterator[None]:
        """Judge the counters of a tick, and act on the verdict, in parts.

        The verdict and what follows from it are one part, the last one.
        """

    def gates_answered(self, answer: rollout.GateAnswer) -> None:
        """Take the answer of the gates."""

    # Configurations

    def carry_over(self, settings: ControlSettings, table: RouteTable) -> Split:
        """Return the split to route by when ``settings`` come into force; ``table`` is in force now."""

    def configure(self, settings: ControlSettings) -> None:
        """Continue under other settings, which the release can follow."""

    # Life

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from a saved document. Raises ``KeyError``, ``TypeError``, ``ValueError``."""

    def distrust(self, why: str) -> None:
        """Keep users off the canary: there was a state file, and it cannot be used."""

    def begin(self) -> None:
        """Start the release of the configuration, unless it was started before."""

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the saved document that is not in the ledger."""

    def start(self) -> None:
        """Start background work, if there is any."""

    async def stop(self) -> None:
        """Stop it."""

    # Views

    @property
    def tag(self) -> str | None:
        """The part of an ETag that is the same for several proxies; ``None`` for a proxy alone."""

    def view(self) -> dict[str, Any] | None:
        """Return the ``fleet`` part of the release document; ``None`` for a proxy alone."""

    def leaving_elsewhere(self, variant: int) -> int:
        """Return the tunnels and streams that are to leave a variant at other proxies of the release."""

    def is_mine(self, record: Mapping[str, Any]) -> bool:
        """Whether notifications about a record (as JSON values) are this proxy's to send."""


class Suspicion:
    """Records when a suspicion begins, and when it has passed."""

    def __init__(self, ledger: Ledger, host: AuthorityHost) -> None:
        self._ledger = ledger
        self._host = host
        self._last: float | None = None

    def observe(self, now: float, seen: Assessment) -> None:
        """Take an assessment of ``now`` (seconds).

        While nothing is compared, nothing is cleared; while the circuit is open, nothing is suspect.
        """
        if self._ledger.circuit.state is circuit.State.OPEN:
            self.forget()
        elif seen.level == "suspect":
            if self._last is None:
                found = self._host.causes.of_suspicion(self._host.now, seen)
                self._ledger.note("suspect", *found)
            self._last = now
        elif self._last is not None and not seen.comparable:
            self._last = now
        elif self._last is not None and now - self._last >= CLEARED_AFTER:
            self._last = None
            cause = f"no suspect metric for {duration(CLEARED_AFTER)}"
            self._ledger.note("cleared", cause, figures(seen))

    def forget(self) -> None:
        """Forget the suspicion, because a new judge begins or the circuit is open."""
        self._last = None


def event_of(
    seen: Assessment, host: AuthorityHost, ledger: Ledger, plan: Plan, **more: Any
) -> Event | None:
    """Return the event of a breach, with ``more`` figures; ``None`` if it is known already."""
    cause, evidence = host.causes.of_trip(host.now, seen, **more)
    return transitions.on_regression(ledger.circuit, ledger.rollout, plan, cause, evidence)


def with_capacity(seen: Assessment, host: AuthorityHost) -> Assessment:
    """Return an assessment that also holds a step that would bring more than has been carried."""
    holds = host.capacity.holds(host.now)
    return replace(seen, holds=(*seen.holds, *holds)) if holds else seen


def saved_rollout(
    document: Mapping[str, Any], settings: ControlSettings, ledger: Ledger
) -> Rollout | None:
    """Return the saved rollout if the release continues from it; otherwise record why it starts over."""
    if document["release"] != settings.release:
        old = document["release"]
        ledger.note("release", rollout.release_change(old, settings.release), {})
        return None
    restored = Rollout.from_dict(document["rollout"])
    if restored.step >= max(len(settings.plan.steps), 1):
        ledger.note("release", "the plan has fewer steps now: the release starts over", {})
        return None
    if restored.state is rollout.State.ABORTING:  # how far it was is not known: to the end
        return restored.exposing(Exposure(), left=0.0)
    if settings.release is None and restored.state is rollout.State.IDLE:
        return replace(restored, weight=ledger.rollout.weight)  # as the configuration says now
    return restored


def split_of(table: RouteTable) -> Split:
    """Return the split of a route table."""
    cohorts = Cohorts(table.cohorts, table.cohort)
    return Split(table.weight, table.circuit_open, table.salt, cohorts)


class LocalAuthority:
    """A proxy alone: acts hold at once, and the state file remembers them."""

    def __init__(self, host: AuthorityHost, ledger: Ledger, settings: ControlSettings) -> None:
        self.settings = settings
        self.assessment: Assessment | None = None
        self._host = host
        self._ledger = ledger
        self._begun: Judge | None = None
        """``None``: it has seen nothing yet, as with a service that is idle."""
        self._first_limits = Judge(settings.judge).published
        self._suspicion = Suspicion(ledger, host)
        self._front: int | None = None
        """Key of the front's release that is compared."""

    @property
    def _judge(self) -> Judge:
        if self._begun is None:
            self._begun = Judge(self.settings.judge)
        return self._begun

    @property
    def wanted(self) -> Split:
        ledger, settings = self._ledger, self.settings
        is_open, here = ledger.circuit.state is circuit.State.OPEN, ledger.rollout
        if not settings.has_canary:
            return Split(0.0, is_open, settings.salt)
        return Split(here.weight, is_open, settings.salt, here.cohorts)

    @property
    def limits(self) -> tuple[float, float]:
        return self._first_limits if self._begun is None else self._begun.published

    @property
    def saves_first(self) -> bool:
        return True

    # Acts

    def propose(self, event: Event) -> None:
        transitions.refuse(event, self._ledger.circuit, self._ledger.rollout)
        self._apply(event)

    async def commit(self, event: Event) -> None:
        self.propose(event)

    def trip(self, cause: str, figures: Mapping[str, Any]) -> None:
        self._apply(circuit.Trip(cause, figures))

    def fall_back(self, to: Rollout, record: Record) -> None:
        self._ledger.move(self._ledger.circuit, to, (record,))

    def observe(self, sample: Sample) -> Iterator[None]:
        now, front = self._host.now, self._host.sampler.front
        if front is not None and front.key != self._front:
            self._follow(front)
        seen = yield from self._judge.parts(now, sample)
        seen = with_capacity(seen, self._host)
        self.assessment = seen
        ledger = self._ledger
        exposed = ledger.rollout.exposure.has_users if front is None else sample.limit > 0
        if seen.level == "breach" and exposed:
            more = {} if front is None else {"weight": front.weight, "release": front.release}
            event = event_of(seen, self._host, ledger, self.settings.plan, **more)
            if event is not None:
                self._apply(event)
        else:
            self._suspicion.observe(now, seen)
        self._move(circuit.Tick(seen))
        if not self.wanted.raises(split_of(self._host.table)):  # else the step has not really begun
            self._move(rollout.Tick(seen))

    def _follow(self, front: Front) -> None:
        """Compare the users of a release of the front; of another one, afresh."""
        if self._front is not None:
            self._do(rollout.Action.NEW_JUDGE)
        self._front = front.key
        what = f"release {front.release} of the front" if front.release else "the front"
        self._ledger.note("release", f"follows {what}", {"weight": front.weight})

    def gates_answered(self, answer: rollout.GateAnswer) -> None:
        self._move(answer)

    def _apply(self, event: Event) -> None:
        """Apply an event that must be saved, even if it leaves no record."""
        self._move(event)
        self._ledger.version += 1

    def _move(self, event: Event) -> None:
        """Apply an event; a clock that has moved need not be saved at once."""
        ledger, settings = self._ledger, self.settings
        change = transitions.step(
            ledger.circuit, ledger.rollout, event, self._host.now, settings.plan, settings.circuit
        )
        ledger.move(change.circuit, change.rollout, change.records)
        for action in change.actions:
            self._do(action)

    def _do(self, action: rollout.Action) -> None:
        if action is rollout.Action.ASK_GATES:
            here, settings = self._ledger.rollout, self.settings
            asked = question(settings.release, here, settings.plan, self.assessment)
            self._host.gates.ask(here.gate.question, asked)
            return
        if action is rollout.Action.NEW_JUDGE:
            self._begun = Judge(self.settings.judge, before=self._begun)
            self.assessment = None
            self._suspicion.forget()

    # Configurations

    def carry_over(self, settings: ControlSettings, table: RouteTable) -> Split:
        if settings.release == self.settings.release:
            return replace(split_of(table), salt=settings.salt)
        return Split(0.0, circuit_open=False, salt=settings.salt)

    def configure(self, settings: ControlSettings) -> None:
        old, self.settings = self.settings, settings
        if self._begun is None:
            self._first_limits = Judge(settings.judge).published
        if settings.release != old.release:
            self._begin_another(old.release)
            return
        weight = settings.weight if settings.weight != old.weight else None
        judge_changed = settings.evidence_of != old.evidence_of or settings.follows != old.follows
        if judge_changed or settings.plan != old.plan or weight is not None:
            self._apply(rollout.Replan(judge_changed, weight))

    def _begin_another(self, old: str | None) -> None:
        """Begin the configured release, or set the configured weight without one."""
        settings, ledger = self.settings, self._ledger
        self._begun, self._first_limits = None, Judge(settings.judge).published
        self.assessment = None
        self._suspicion.forget()
        weight = settings.weight if settings.has_canary else 0.0
        ledger.move(Circuit(), Rollout(weight=weight or 0.0, since=self._host.now))
        ledger.note("release", rollout.release_change(old, settings.release), {})
        ledger.version += 1
        self.begin()

    # Life

    def restore(self, document: Mapping[str, Any]) -> None:
        restored = saved_rollout(document, self.settings, self._ledger)
        if restored is None:
            return
        self._ledger.move(Circuit.from_dict(document["circuit"]), restored)
        if document["judge"] != Judge(self.settings.judge).to_dict():
            self._begun = Judge.from_dict(self.settings.judge, document["judge"])
        self._host.sampler.restore(document, self._host.now)
        front = self._host.sampler.front
        self._front = None if front is None else front.key

    def distrust(self, why: str) -> None:
        self.trip(why, {})

    def begin(self) -> None:
        idle = self._ledger.rollout.state is rollout.State.IDLE
        if self.settings.release is not None and idle:
            self._apply(rollout.Start(by="configuration"))

    def to_dict(self) -> dict[str, Any]:
        judge = (self._begun or Judge(self.settings.judge)).to_dict()
        return {"judge": judge, **self._host.sampler.to_dict()}

    def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    # Views

    @property
    def tag(self) -> str | None:
        return None

    def view(self) -> dict[str, Any] | None:
        return None

    def leaving_elsewhere(self, variant: int) -> int:  # noqa: ARG002 - a fleet has others
        return 0

    def is_mine(self, record: Mapping[str, Any]) -> bool:  # noqa: ARG002 - a fleet looks at it
        return True
