"""How replicas agree on one release. Pure: no I/O, no clock, no randomness; names of acts are arguments.

Theory of operation
-------------------

There is one document (``Document``) in one place, the store (Redis). It changes by *acts*: a step, an
operator's command, a trip. An act is made from a document and replaces exactly that one, by compare-and-set.
Each act has a unique name, and a document lists the names of the acts that led to it.

**Two kinds of acts.**

* An act that gives the canary more users, or reverts a cautious act (``is_cautious`` is false: start, step,
  resume, promote, a higher weight, reset), holds once the store has taken it, and not before. Steps are also
  *fenced*: the store takes them only from the holder of the lease, with the lease's newest token, so two
  leaders never both step from one document, and a leader that was suspended steps nothing.
* An act that takes users off the canary (``is_cautious``: trip, abort, pause, a lower weight) holds at once
  where it is made, even without the store. Its document is then *ahead* of the store's, and is written as
  soon as the store can be reached.

So every replica's document was in the store once, apart from cautious acts of its own.

**Seeing the store** (``decide``), with *mine* and *theirs*:

====================================  =========================================================
theirs                                decision
====================================  =========================================================
absent; mine is empty                 wait for replicas that may have one, then begin
absent; I have one                    put mine back: the store has lost its data
was made from mine                    take theirs
mine was made from theirs             write mine: it is ahead, or the store has lost its last acts
neither                               ``merge``: take it at once, and write it
====================================  =========================================================

**The most cautious state wins** (``merge``): open before half open before closed, aborted and aborting
before anything that has users on the canary, the lower weight, the earlier step. A merge never closes a
circuit; only a ``Reset`` does, an act made from a document in which the circuit was open. A trip that the
reset did not know of is written after it, and opens the circuit again.

**Configurations.** The document names its configuration (``settings``). A replica with another one follows
the document's weight, circuit and salt, adds nothing to the counts and does not lead; with another release,
it sends every user to stable. While such a replica is present, no step is left. When all replicas have the
other configuration, their leader puts it in force (``adopt``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from canaryproxy.fleet.state import Document
from canaryproxy.measure.exposure import Cohorts, Exposure
from canaryproxy.release import circuit, rollout, transitions
from canaryproxy.release.circuit import Circuit, CircuitSettings, Record
from canaryproxy.release.rollout import Plan, Rollout

__all__ = [
    "Decision", "Settings",
    "adopt", "begin", "decide", "going_by", "is_cautious", "merge", "step", "unknown",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a configuration that replicas must share."""

    release: str | None
    settings: str
    judge: str
    salt: str
    plan: Plan
    circuit: CircuitSettings
    weight: float | None = None
    """Percent of users without a plan."""


def unknown(settings: Settings) -> Document:
    """Return the document of a replica before its first contact: no user is on the canary."""
    return Document(
        release=settings.release,
        settings=settings.settings,
        judge=settings.judge,
        salt=settings.salt,
    )


def begin(settings: Settings, act: str, now: float) -> Document:
    """Return the first document of a configuration's release."""
    return _begun(Document(), settings, act, now)


def _begun(before: Document, settings: Settings, act: str, now: float) -> Document:
    here = Rollout(weight=settings.weight or 0.0, since=now)
    records: tuple[Record, ...] = (
        Record(now, "release", rollout.release_change(before.release, settings.release), {}),
    )
    if settings.plan.steps:
        event = rollout.Start(by="configuration")
        here, _, started = rollout.step(here, event, now, settings.plan)
        records += started
    return before.acted(
        act,
        Circuit(),
        here,
        records,
        release=settings.release,
        settings=settings.settings,
        judge=settings.judge,
        salt=settings.salt,
        round=before.round + 1,
    )


def step(
    document: Document, event: transitions.Event, now: float, settings: Settings, act: str
) -> tuple[Document, transitions.Change]:
    """Return the document after an event of an operator, the judge or the plan, and the change.

    It is the same document if nothing lasting has happened: then only clocks have moved, in the change.
    Raises ``rollout.Refused``.
    """
    change = transitions.step(
        document.circuit, document.rollout, event, now, settings.plan, settings.circuit
    )
    states = (document.circuit.state, document.rollout.state)
    if not change.records and (change.circuit.state, change.rollout.state) == states:
        return document, change
    afresh = rollout.Action.NEW_JUDGE in change.actions
    made = document.acted(
        act,
        change.circuit,
        _of_the_step(change.rollout),
        change.records,
        round=document.round + afresh,
    )
    return made, change


def _of_the_step(here: Rollout) -> Rollout:
    """Return a rollout whose counts begin with the step, independent of any replica's judge."""
    return replace(
        here,
        judged=max(here.judged - here.judged_from, 0),
        answered=max(here.answered - here.answered_from, 0),
        judged_from=0,
        answered_from=0,
    )


def adopt(document: Document, settings: Settings, now: float, act: str) -> Document | None:
    """Return the document under another configuration; ``None`` if the release cannot continue under it."""
    if document.release != settings.release:
        return _begun(document, settings, act, now)
    if document.rollout.step >= max(len(settings.plan.steps), 1):
        return None
    event = rollout.Replan(document.judge != settings.judge, settings.weight)
    here, actions, records = rollout.step(document.rollout, event, now, settings.plan)
    return document.acted(
        act,
        document.circuit,
        _of_the_step(here),
        (Record(now, "release", "all replicas have the new configuration", {}), *records),
        settings=settings.settings,
        judge=settings.judge,
        salt=settings.salt,
        round=document.round + (rollout.Action.NEW_JUDGE in actions),
    )


_RANK = {circuit.State.OPEN: 2, circuit.State.HALF_OPEN: 1, circuit.State.CLOSED: 0}


def _rank(broken: Circuit) -> tuple[int, bool]:
    return _RANK[broken.state], not broken.drill


def is_cautious(before: Document, after: Document) -> bool:
    """Whether an act may hold before the store has it: it gives the canary no users, now or later by
    itself."""
    if after.release != before.release or after.settings != before.settings:
        return False
    if _rank(after.circuit) < _rank(before.circuit) or after.users.raises(before.users):
        return False
    if not after.rollout.accepted <= before.rollout.accepted:
        return False
    opened = after.is_open and _rank(after.circuit) > _rank(before.circuit)
    ends = (*_ENDING, rollout.State.PAUSED, rollout.State.IDLE)
    return opened or after.rollout.state in ends


def going_by(before: Rollout, after: Rollout) -> Rollout:
    """Return the rollout of an agreed document as a replica goes by it that went by ``before``.

    Each replica ramps down by its own clock, and a document has the weight of the moment of its act: what
    has gone back to stable stays there.
    """
    if after.state is not rollout.State.ABORTING:
        return after
    lower = after.exposing(after.exposure.meet(before.exposure))
    if before.state is not rollout.State.ABORTING:
        return lower
    return replace(lower, left=min(after.left, before.left), ticked=before.ticked)


@dataclass(frozen=True, slots=True)
class Decision:
    """The reaction to the store's document."""

    document: Document
    """The document that this replica goes by from now on."""
    write: bool = False
    """Whether to write it to the store."""


def decide(mine: Document, theirs: Document | None, act: str) -> Decision:
    """Return how a replica with ``mine`` (which has an act) reacts to the store's document."""
    if theirs is None:
        return Decision(mine, write=True)
    if theirs.follows(mine):
        return Decision(theirs)
    if mine.follows(theirs):
        return Decision(mine, write=True)
    merged = merge(mine, theirs, act)
    return Decision(merged, write=merged is not theirs)


def merge(mine: Document, theirs: Document, act: str) -> Document:
    """Return the more cautious parts of two documents that have diverged.

    The result is ``theirs`` itself if that is the more cautious throughout. Of two releases the later one
    wins; if they are unrelated, theirs does.
    """
    if mine.release != theirs.release:
        is_later = mine.round > theirs.round and bool(_known(mine) & _known(theirs))
        return mine if is_later else theirs
    is_theirs = _rank(theirs.circuit) >= _rank(mine.circuit)
    broken = theirs.circuit if is_theirs else mine.circuit
    lower = _lower(_resting(theirs.rollout), _resting(mine.rollout))
    if lower.state in _ENDING and broken.state is not circuit.State.CLOSED:
        here = lower.exposing(Exposure(), state=rollout.State.ABORTED)
    elif broken.state is circuit.State.CLOSED:
        here = lower
    else:
        stopped = theirs.rollout if broken is theirs.circuit else mine.rollout
        here = stopped.exposing(
            stopped.exposure.meet(lower.exposure),
            step=lower.step,
            learning=lower.learning,
            before=lower.state,
        ).resting(lower.exposure)
    here = replace(here, accepted=mine.rollout.accepted & theirs.rollout.accepted)
    if broken is theirs.circuit and _same(here, theirs.rollout):
        return theirs
    newer = max(mine, theirs, key=lambda one: (one.version, one.act))
    cause = "replicas had diverged: the more cautious state holds"
    record = Record(max(broken.since, here.since), "merged", cause, {"weight": here.weight})
    return replace(
        theirs.acted(
            act,
            broken,
            here,
            (record,),
            round=max(mine.round, theirs.round),
        ),
        version=newer.version + 1,
        trail=_both(mine, theirs),
    )


def _resting(here: Rollout) -> Rollout:
    """Return a rollout as it was before the circuit opened."""
    if here.state in (rollout.State.TRIPPED, rollout.State.PROBING):
        return here.exposing(here.exposure_before, state=here.before)
    return here


def _lower(theirs: Rollout, mine: Rollout) -> Rollout:
    """Return the more cautious of two rollouts; one that is idle does not count."""
    idle = rollout.State.IDLE
    if (theirs.state is idle) != (mine.state is idle):
        return mine if theirs.state is idle else theirs
    found = min(theirs, mine, key=_caution)
    if found.state is rollout.State.ABORTING or theirs.cohorts.reached or mine.cohorts.reached:
        return found.exposing(theirs.exposure.meet(mine.exposure))
    return found


_ENDING = (rollout.State.ABORTED, rollout.State.ABORTING)
_FINALITY = (
    *_ENDING,
    rollout.State.PAUSED,
    rollout.State.IDLE,
    rollout.State.RUNNING,
    rollout.State.PROMOTED,
)


def _caution(here: Rollout) -> tuple[bool, float, float, int, int]:
    is_over = here.state in _ENDING
    of_cohorts = sum(percent for _, percent in here.cohorts.reached)
    return not is_over, here.weight, of_cohorts, here.step, _FINALITY.index(here.state)


def _same(one: Rollout, other: Rollout) -> bool:
    return _split_of(one) == _split_of(other)


def _split_of(here: Rollout) -> tuple[object, ...]:
    return (
        *(here.state, here.step, here.learning, here.weight),
        *(here.before, here.weight_before, here.accepted),
        *(_in_any_order(here.cohorts), _in_any_order(here.cohorts_before)),
    )


def _in_any_order(cohorts: Cohorts) -> tuple[object, ...]:
    return frozenset(cohorts.reached), cohorts.drawn


def _known(document: Document) -> set[str]:
    return {document.act, *document.trail} - {""}


def _both(mine: Document, theirs: Document) -> tuple[str, ...]:
    """Return the acts of both documents; those of each keep their order."""
    acts = dict.fromkeys((*theirs.trail, *mine.trail, mine.act, theirs.act))
    acts.pop("", None)
    return tuple(acts)[-256:]
