"""The circuit between users and the canary.

Theory of operation
-------------------

The circuit is *closed* while users may be on the canary, *open* while every user is on stable, and
*half open* while a small weight probes whether a canary that tripped has recovered.

* A ``Trip`` (a breach, a guard rail, an operator) opens it from any state, at once.
* An open circuit stays open until an operator's ``Reset``, unless a cool-down is configured and this was
  the first trip since the start or the last reset. Then it waits for the cool-down and goes half open.
* Half open, it needs ``probe_bake`` seconds of comparable traffic without suspicion, ``probe_requests``
  judged canary requests, and a judge that names nothing that holds. Then it closes. A trip meanwhile is the
  second one: open until ``Reset``. So is a trip after it closed again: the count falls only by a reset.
* The cool-down and the probe count seconds of a running controller: at most one second a tick. A restart
  never shortens them, nor does a clock jump.
* Events of one tick are ordered: the trip is applied first, so a tick never closes a circuit that it opened.

=========  ===================================  =====================================================
state      event                                becomes; action
=========  ===================================  =====================================================
closed     ``Trip``                             open; ``STOP``
open       ``Tick``, cool-down over             half open; ``PROBE``
open       ``Reset``                            closed, no trips; ``RESTORE``
half open  ``Trip``                             open, locked; ``STOP``
half open  ``Tick``, probe passed               closed; ``RESTORE``
half open  ``Reset``                            closed, no trips; ``RESTORE``
=========  ===================================  =====================================================

A ``Trip`` of an open circuit and a ``Reset`` of a closed one change nothing and are not recorded; a tick
that finds nothing to do moves the clocks only. A real ``Trip`` during a drill takes over: the end of
the drill does not close the circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from canaryproxy.config import text
from canaryproxy.judging.verdict import Assessment

LONGEST_TICK = 1.0
"""Seconds that one tick can add to a clock."""


class State(Enum):
    """Where the circuit is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Action(Enum):
    """The event of that name, which the rollout must get."""

    STOP = "stop"
    PROBE = "probe"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Trip:
    """The canary must get no more requests."""

    cause: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reset:
    """An operator closes the circuit."""

    by: str = "operator"


@dataclass(frozen=True, slots=True)
class Tick:
    """A tenth of a second has passed. ``assessment`` is that of the judge that watches the probe."""

    assessment: Assessment | None = None


Event = Trip | Reset | Tick


@dataclass(frozen=True, slots=True)
class Record:
    """An entry of the history."""

    time: float
    """Seconds since the epoch, as given to ``step``."""
    what: str
    """Which transition, for instance ``tripped``."""
    cause: str
    """Why, in plain words."""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "time": self.time,
            "what": self.what,
            "cause": self.cause,
            "figures": dict(self.figures),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Record:
        """Return the record whose ``to_dict`` this was."""
        return cls(float(state["time"]), state["what"], state["cause"], dict(state["figures"]))


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    """The settings by which a circuit closes by itself."""

    cooldown: float | None = None
    """Seconds until an open circuit probes; ``None``: never."""
    probe_weight: float = 1.0
    """Percent of users on the canary while half open; at most the step's weight."""
    probe_bake: float = 60.0
    """Seconds that a probe lasts at least."""
    probe_requests: int = 100
    """Canary requests that a probe judges at least."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of the circuit; replaced, never changed."""

    state: State = State.CLOSED
    trips: int = 0
    """Trips since the start or the last reset."""
    since: float = 0.0
    """Time of the last change, as given to ``step``."""
    cause: str | None = None
    """Why it is not closed."""
    left: float | None = None
    """Seconds of cool-down left; ``None``: open until ``Reset``."""
    probed: float = 0.0
    """Seconds of the probe that counted."""
    ticked: float | None = None
    """Time of the last tick."""
    drill: bool = False
    """It is open, and only for a drill."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values. The time of the last tick is left out: a restart begins with a new one."""
        return {
            "state": self.state.value,
            "trips": self.trips,
            "since": self.since,
            "cause": self.cause,
            "left": self.left,
            "probed": self.probed,
            "drill": self.drill,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Circuit:
        """Return the circuit whose ``to_dict`` this was."""
        left = state["left"]
        return cls(
            state=State(state["state"]),
            trips=int(state["trips"]),
            since=float(state["since"]),
            cause=state["cause"],
            left=None if left is None else float(left),
            probed=float(state["probed"]),
            drill=bool(state.get("drill", False)),
        )


Step = tuple[Circuit, tuple[Action, ...], tuple[Record, ...]]
"""The new state, the actions and the records."""


def _nothing(circuit: Circuit, _event: Any, _now: float, _settings: CircuitSettings) -> Step:
    return circuit, (), ()


def _open(circuit: Circuit, event: Trip, now: float, settings: CircuitSettings) -> Step:
    trips = circuit.trips + 1
    left = settings.cooldown if trips == 1 else None
    drill = bool(event.figures.get("drill"))
    opened = Circuit(State.OPEN, trips, now, event.cause, left, ticked=circuit.ticked, drill=drill)
    return opened, (Action.STOP,), (Record(now, "tripped", event.cause, event.figures),)


def _trip_when_open(circuit: Circuit, event: Trip, now: float, settings: CircuitSettings) -> Step:
    if not circuit.drill or event.figures.get("drill"):
        return circuit, (), ()
    return _open(replace(circuit, trips=circuit.trips - 1), event, now, settings)


def _reset(circuit: Circuit, event: Reset, now: float, _settings: CircuitSettings) -> Step:
    closed = Circuit(State.CLOSED, since=now, ticked=circuit.ticked)
    figures = {"trips": circuit.trips}
    return closed, (Action.RESTORE,), (Record(now, "reset", f"by {event.by}", figures),)


def elapsed(ticked: float | None, now: float) -> float:
    """Return the seconds that a tick adds: none on the first, one at most, never negative."""
    return 0.0 if ticked is None else min(max(now - ticked, 0.0), LONGEST_TICK)


def no_regression(requests: int, seconds: float) -> str:
    """Return the cause of a step or a probe that passed."""
    return f"no regression in {text.count(requests)} canary requests over {text.duration(seconds)}"


def _cool(circuit: Circuit, _event: Tick, now: float, _settings: CircuitSettings) -> Step:
    if circuit.left is None:
        return replace(circuit, ticked=now), (), ()
    left = circuit.left - elapsed(circuit.ticked, now)
    if left > 0.0:
        return replace(circuit, left=left, ticked=now), (), ()
    cause = "the cool-down has passed"
    probing = Circuit(State.HALF_OPEN, circuit.trips, now, circuit.cause, ticked=now)
    return probing, (Action.PROBE,), (Record(now, "probing", cause, {"trips": circuit.trips}),)


def _probe(circuit: Circuit, event: Tick, now: float, settings: CircuitSettings) -> Step:
    seen = event.assessment
    if seen is None or seen.level != "ok":
        return replace(circuit, probed=0.0, ticked=now), (), ()
    passed = circuit.probed + (
        elapsed(circuit.ticked, now) if seen.comparable and not seen.warming else 0.0
    )
    enough = passed >= settings.probe_bake and seen.judged >= max(settings.probe_requests, 1)
    if not enough or seen.holds:
        return replace(circuit, probed=passed, ticked=now), (), ()
    closed = Circuit(State.CLOSED, circuit.trips, now, ticked=now)
    cause = no_regression(seen.judged, passed)
    figures = {"judged": seen.judged, "seconds": passed}
    return closed, (Action.RESTORE,), (Record(now, "recovered", cause, figures),)


TRANSITIONS: Mapping[State, Mapping[type, Callable[..., Step]]] = {
    State.CLOSED: {Trip: _open, Reset: _nothing, Tick: _nothing},
    State.OPEN: {Trip: _trip_when_open, Reset: _reset, Tick: _cool},
    State.HALF_OPEN: {Trip: _open, Reset: _reset, Tick: _probe},
}
"""The handler of each event in each state; the table is complete."""


def step(circuit: Circuit, event: Event, now: float, settings: CircuitSettings) -> Step:
    """Return the state after ``event`` at ``now`` (seconds), the actions and the records."""
    return TRANSITIONS[circuit.state][type(event)](circuit, event, now, settings)
