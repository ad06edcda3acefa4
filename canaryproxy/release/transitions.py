"""Circuit and rollout as one: the effect of an event on a release. Pure.

The circuit orders the rollout (``circuit.Action``), and the order is carried out at once: an open circuit
over a rollout that still has a weight is never visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from canaryproxy.release import circuit, rollout
from canaryproxy.release.circuit import Circuit, CircuitSettings, Record
from canaryproxy.release.rollout import Action, Plan, Rollout

Event = rollout.Event | circuit.Event


@dataclass(frozen=True, slots=True)
class Change:
    """The effect of an event."""

    circuit: Circuit
    rollout: Rollout
    actions: tuple[Action, ...] = ()
    records: tuple[Record, ...] = ()


def refuse(event: Event, broken: Circuit, here: Rollout) -> None:
    """Raise ``rollout.Refused`` for an operator's act that the circuit forbids."""
    is_open = broken.state is circuit.State.OPEN
    if isinstance(event, circuit.Trip):
        if is_open and not broken.drill:
            raise rollout.Refused(f"the circuit is already open: {broken.cause}")
        if here.state is rollout.State.ABORTED:
            raise rollout.Refused("the release is aborted: no user is on the canary")
    elif isinstance(event, circuit.Reset):
        if broken.state is circuit.State.CLOSED:
            raise rollout.Refused("nothing to reset: the circuit is closed")
    elif isinstance(event, rollout.Start) and is_open:
        raise rollout.Refused("the circuit is open: reset it before starting the release")


def on_regression(
    broken: Circuit, here: Rollout, plan: Plan, cause: str, figures: Mapping[str, Any]
) -> circuit.Trip | rollout.Breach | None:
    """Return the event of a regression that the judge has found; ``None`` if it is known already.

    Users of a probe were on stable a moment ago: they go back there in any case.
    """
    if plan.reversible or broken.state is not circuit.State.CLOSED:
        return circuit.Trip(cause, figures)
    return None if here.breach is not None else rollout.Breach(cause, figures)


def step(
    broken: Circuit,
    here: Rollout,
    event: Event,
    now: float,
    plan: Plan,
    settings: CircuitSettings,
) -> Change:
    """Return the effect of ``event`` at ``now`` (seconds). Raises ``rollout.Refused``."""
    if not isinstance(event, (circuit.Trip, circuit.Reset, circuit.Tick)):
        here, more, written = rollout.step(here, event, now, plan)
        return Change(broken, here, more, written)
    broken, orders, records = circuit.step(broken, event, now, settings)
    records = tuple(_with_weight(record, here) for record in records)
    actions: tuple[Action, ...] = ()
    for order in orders:
        here, more, written = rollout.step(here, _order(order, broken, records), now, plan)
        actions += more
        records += written
    return Change(broken, here, actions, records)


def _with_weight(record: Record, here: Rollout) -> Record:
    """Return the record of a trip with the users on the canary before it; other records as they are."""
    if record.what != "tripped":
        return record
    share = {"share": here.exposure.said()} if here.cohorts.reached else {}
    return replace(record, figures={"weight": here.weight, **share, **record.figures})


def _order(
    order: circuit.Action, broken: Circuit, records: tuple[Record, ...]
) -> rollout.Stop | rollout.Probe | rollout.Restore:
    if order is circuit.Action.STOP:
        return rollout.Stop(broken.cause or "trip")
    if order is circuit.Action.PROBE:
        return rollout.Probe()
    return rollout.Restore(records[-1].cause if records else "reset")
