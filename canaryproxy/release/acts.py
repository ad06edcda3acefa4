"""The acts of an operator: who moves, whether to ask before, and what to say. Pure.

Commands, dashboard and API go by ``preview``. It takes the act in the state machines themselves, without
keeping the result, so a preview cannot promise what the act does not do. ``docs/acts.md`` is the table of all
acts in all states.

An act that gives the canary users, or takes a protection away, *asks*. An act towards stable does not, and
never loses a race: it needs no precondition, whatever has changed since the operator looked
(``needs_precondition``). Where stable cannot serve the canary's users (``Plan.reversible`` is false), an act
that sends users there asks like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from canaryproxy.config import text
from canaryproxy.judging.verdict import Assessment
from canaryproxy.measure.exposure import NONE_REACHED, Cohorts, Exposure
from canaryproxy.release import circuit, rollout, transitions
from canaryproxy.release.circuit import Circuit, CircuitSettings
from canaryproxy.release.rollout import TRANSITIONS, Plan, Rollout, State
from canaryproxy.release.summary import summary

Operation = Literal[
    "start", "pause", "resume", "promote", "abort", "reset", "weight", "accept", "trip", "drill"
]
"""An act of an operator."""
Event = rollout.Event | circuit.Reset | circuit.Trip
EVENTS: Final[Mapping[Operation, type[Event]]] = {
    "start": rollout.Start,
    "pause": rollout.Pause,
    "resume": rollout.Resume,
    "promote": rollout.Promote,
    "abort": rollout.Abort,
    "weight": rollout.SetWeight,
    "accept": rollout.Accept,
    "reset": circuit.Reset,
    "trip": circuit.Trip,
}
"""The event of each act; a drill is a trip and a reset."""
OPERATIONS: Final[tuple[Operation, ...]] = get_args(Operation)

_ALWAYS_ASK: Final = ("promote", "accept", "drill")
"""They skip what protects users, or move them to and fro, even where the weight stays."""
_HARMS: Final = (
    "stable may not be able to read what these users have stored since"
    " (release.reversible is false)"
)
_LATER: Final = "a later start begins with the first step and a new judge"


@dataclass(frozen=True, slots=True)
class Here:
    """A release as it is before an act."""

    release: str | None
    circuit: Circuit
    rollout: Rollout
    plan: Plan
    settings: CircuitSettings
    weight: float
    """Percent of all users on the canary, as published."""
    now: float
    """Seconds since the epoch."""
    seen: Assessment | None = None
    users: int | None = None
    """Users seen of late, of both variants; ``None``: not known."""
    long_lived: int = 0
    """The canary's tunnels and streams."""
    moving: float = 0.0
    """Seconds in which they are closed after a trip."""
    cohorts: Cohorts = NONE_REACHED
    """Cohorts with users on the canary, as published."""

    @property
    def exposure(self) -> Exposure:
        """The users on the canary, as published."""
        return Exposure(self.weight, self.cohorts.reached, self.cohorts.drawn)


@dataclass(frozen=True, slots=True)
class Preview:
    """The effect of an act, if it were done now."""

    act: Operation
    refusal: str | None
    """Why it is refused now; ``None``: it is not."""
    already: bool
    """Refused because what it is for is in force."""
    asks: bool
    """Ask the operator before."""
    irreversible: bool
    """It sends users to stable, which may not be able to serve them (``release.reversible`` is false)."""
    before: float
    """Percent of users on the canary now."""
    after: float
    """Percent of users on the canary after it."""
    becomes: State
    """State of the release after it."""
    moved: int | None
    """Users that move, by those seen of late; ``None``: not known."""
    sure: str
    """What the judge knows of the canary."""
    title: str
    """What it is, such as ``Reset cart-2.4``."""
    says: tuple[str, ...]
    """What it does, in sentences without their full stops."""


def needs_precondition(
    event: Event, here: Rollout, weight: float, *, reversible: bool = True
) -> bool:
    """Return whether an act may depend on what the operator has seen; ``weight`` is published.

    An act towards stable must not: it is right whatever has happened meanwhile. It is not where stable cannot
    serve the users who would come back.
    """
    if isinstance(event, rollout.SetWeight):
        takes_back = not event.weight and bool(here.cohorts.reached)
        lowers = event.weight < max(here.weight, weight) or takes_back
        return event.weight > min(here.weight, weight) or (lowers and not reversible)
    if isinstance(event, (rollout.Abort, circuit.Trip)) and not reversible:
        return weight > 0.0 or here.exposure.has_users
    return not isinstance(event, (rollout.Pause, rollout.Abort, circuit.Trip))


def allowed(broken: Circuit, here: Rollout, plan: Plan, weight: float) -> tuple[Operation, ...]:
    """Return the acts that are possible now; ``weight`` is published."""
    is_open = broken.state is circuit.State.OPEN
    table = TRANSITIONS[here.state]
    found: list[Operation] = [name for name, event in EVENTS.items() if event in table]
    if "start" in found and (is_open or not plan.steps):
        found.remove("start")
    if here.state is State.RUNNING and not here.ready:
        found.remove("resume")
    if broken.state is not circuit.State.CLOSED:
        found.append("reset")
    if here.state not in (State.TRIPPED, State.ABORTED) or broken.drill:
        found.append("trip")
    if drill_refusal(broken, here, weight) is None:
        found.append("drill")
    return tuple(found)


def drill_refusal(broken: Circuit, here: Rollout, weight: float) -> str | None:
    """Return why there can be no drill now, or ``None``."""
    if broken.state is not circuit.State.CLOSED:
        return f"the circuit is {broken.state.value.replace('_', ' ')}"
    if here.state is State.PROMOTED:
        return "the release is promoted: a drill would begin its last step again"
    if here.state is State.ABORTING:
        return "the release is being aborted"
    if weight <= 0 and not here.cohorts.reached:
        return "no user is on the canary"
    return None


def preview(act: Operation, event: Event | None, here: Here) -> Preview:
    """Return the effect of an act that is not done; ``event`` is its event, ``None`` for a drill."""
    after, refusal = here.rollout, None
    try:
        if event is None:
            if (why := drill_refusal(here.circuit, here.rollout, here.weight)) is not None:
                raise rollout.Refused(f"no drill: {why}")
        else:
            transitions.refuse(event, here.circuit, here.rollout)
            after = transitions.step(
                here.circuit, here.rollout, event, here.now, here.plan, here.settings
            ).rollout
    except rollout.Refused as error:
        refusal = str(error)
    before = here.exposure
    ends = before if event is None or refusal is not None else _ends_at(after)
    begins = after.state is State.RUNNING and here.rollout.state is not State.RUNNING
    harms = refusal is None and _is_irreversible(act, here, ends)
    asks = refusal is None and (act in _ALWAYS_ASK or ends.raises(before) or begins or harms)
    shift = here.weight if act == "drill" else abs(ends.weight - here.weight)
    is_counted = here.users is not None and not (before.cohorts or ends.cohorts)
    users = round((here.users or 0) * shift / 100.0) if is_counted else None
    name = "" if here.release is None else f" {here.release}"
    if isinstance(event, rollout.Accept):
        name = f" {event.metric}".rstrip()
    return Preview(
        act,
        refusal,
        refusal is not None and _is_already(act, here),
        asks,
        harms,
        here.weight,
        ends.weight,
        after.state,
        users if refusal is None else None,
        _sure(here),
        f"Set the weight{name and ' of' + name}" if act == "weight" else act.capitalize() + name,
        ()
        if refusal is not None
        else (*_says(act, here, after, ends), *((_HARMS,) if harms else ())),
    )


def _ends_at(after: Rollout) -> Exposure:
    """Return the users on the canary that an act leads to: a ramp down begins where it is, and ends at 0."""
    return Exposure() if after.state is State.ABORTING else after.exposure


def _is_already(act: Operation, here: Here) -> bool:
    """Return whether what an act is for is in force already."""
    state = here.rollout.state
    if act == "trip":
        return state in (State.TRIPPED, State.ABORTED)
    wanted = {
        "start": State.RUNNING,
        "pause": State.PAUSED,
        "promote": State.PROMOTED,
        "abort": State.ABORTED,
    }
    return wanted.get(act) is state


def _sure(here: Here) -> str:
    """Return what the judge knows of the canary, in words."""
    return summary(here.seen, here.circuit, here.rollout.accepted).said


def moves(here: Here, to: Exposure) -> str:
    """Return who moves to these users: ``45% of users (…) move from stable to the canary …``."""
    return _moves(here, to, "with their next request")


def _moves(here: Here, to: Exposure, when: str) -> str:
    before = here.exposure
    names = dict.fromkeys(name for one in (before, to) for name, _ in one.cohorts)
    moved = [
        _moved(here.weight, to.weight, f"users{_counted(here, abs(to.weight - here.weight))}", when)
    ]
    moved += [_moved(before.of(name), to.of(name), name, when) for name in names]
    said = [one for one in moved if one]
    return " and ".join(said) if said else f"no users move ({_on_canary(before)} on the canary)"


def _moved(before: float, after: float, group: str, when: str) -> str:
    """Return who of a group moves; empty: no user does."""
    shift = abs(after - before)
    if shift < 0.005:
        return ""
    way = "from stable to the canary" if after > before else "from the canary to stable"
    ends = f"({text.weight(before)} to {text.weight(after)})"
    return f"{text.weight(shift)} of {group} move {way} {when} {ends}"


def _on_canary(users: Exposure) -> str:
    """``5%``; with cohorts ``1% of users, 50% of staff``."""
    return users.said() if users.cohorts else text.weight(users.weight)


def _counted(here: Here, percent: float) -> str:
    """Return how many users a percentage is: `` (about 120 of 2,400 seen in the last minutes)``."""
    if not here.users:
        return ""
    some = text.count(here.users * percent / 100.0)
    return f" (about {some} of {text.count(here.users)} seen in the last minutes)"


def _step(here: Here, at: int) -> str:
    """``step 2 of 5, 25%``, ``step 1 of 5, 50% of staff``."""
    steps = here.plan.steps
    share = text.weight(steps[at].weight) if steps[at].cohort is None else steps[at].share
    return f"step {at + 1} of {len(steps)}, {share}"


def _says(act: Operation, here: Here, after: Rollout, to: Exposure) -> tuple[str, ...]:
    """Return what an act does, the most important first."""
    said = moves(here, to)
    judged = f"so far {_sure(here)}"
    match act:
        case "start":
            fresh = "a new judge begins: no evidence of an earlier start counts"
            return _begins(here, after), fresh
        case "pause":
            return said, "no step begins until you resume; the judge keeps watching and can trip"
        case "resume":
            anew = () if here.rollout.breach is None else (_afresh(here),)
            return said, *_resumed(here, after), *anew, judged
        case "promote":
            held = any(step.hold_back for step in here.plan.steps[here.rollout.step :])
            skips = f"the remaining steps{', the hold-back' * held} and gates are skipped"
            ends = "the release ends; with no users on stable only guard rails can still trip"
            return said, skips, judged, ends
        case "abort":
            ends = "the promotion is taken back" if _is_promoted(here) else "the release ends"
            return (*_aborted(here, after), f"{ends}; {_LATER}", *_previous(here))
        case "weight":
            waits = () if after.state is State.IDLE else ("the release pauses at this weight",)
            lowered = (judged,) if to.raises(here.exposure) else _previous(here)
            return said, *waits, *lowered
        case "accept":
            return "it no longer holds or trips for the rest of the release", judged
        case "reset":
            return said, *_reset(here, after)
        case "trip":
            if after.state is State.ABORTED:
                return said, "the circuit opens", f"the release ends; {_LATER}"
            return said, *_tripped(here), *_previous(here)
        case "drill":
            gone = f"{text.weight(here.weight)} of users{_counted(here, here.weight)}"
            if here.cohorts.reached:
                gone = here.exposure.said()
            return f"{gone} go to stable and come back {_quiet(here)}", _afresh(here)


def _begins(here: Here, after: Rollout) -> str:
    """Return what a start begins with: what is known of stable counts, whichever judge has learnt it."""
    of = " of users" if here.plan.steps[0].cohort is None else ""
    begins = f"it begins with {_step(here, 0)}{of}"
    if not after.learning:
        return begins
    learned = 0.0 if here.seen is None else here.seen.learned
    left = here.plan.baseline - learned
    if left <= 0.0:
        return f"{begins}, at once: stable has been watched for {text.duration(learned)}"
    return f"it learns from stable for {text.duration(left)}; then {begins}"


def _quiet(here: Here) -> str:
    """Return when a drill ends."""
    if not here.long_lived:
        return "some seconds later"
    left = text.plural(here.long_lived, *text.LONG_LIVED)
    return f"once {left} have left the canary (about {text.duration(here.moving)})"


def _is_irreversible(act: Operation, here: Here, to: Exposure) -> bool:
    """Whether an act sends users to a version that may not be able to serve them."""
    return not here.plan.reversible and (act == "drill" or here.exposure.raises(to))


def _tripped(here: Here) -> tuple[str, ...]:
    """Return what a trip does besides moving users, and whether it stays so."""
    opens = "the circuit opens; reset sends the same users back to the canary"
    if here.settings.cooldown is None or here.circuit.trips > 0 or not here.exposure.has_users:
        return (opens,)
    left = text.duration(here.settings.cooldown)
    return opens, f"unless you abort, a probe with a few users begins by itself in {left}"


def _is_promoted(here: Here) -> bool:
    return here.rollout.state is State.PROMOTED


def _previous(here: Here) -> tuple[str, ...]:
    """Return what must still be true when users go back after the promotion."""
    if not _is_promoted(here):
        return ()
    ago = text.duration(max(here.now - here.rollout.since, 0.0))
    return (f"promoted {ago} ago: stable must still run the version before it",)


def _aborted(here: Here, after: Rollout) -> tuple[str, ...]:
    """Return who goes back to stable, and how fast."""
    if after.state is not State.ABORTING:
        return (moves(here, Exposure()),)
    return (
        _moves(here, Exposure(), f"over {text.duration(after.left)}"),
        "a suspicion, a trip, or a second abort takes the rest back at once",
    )


def _resumed(here: Here, after: Rollout) -> tuple[str, ...]:
    if after.state is State.PROMOTED:
        return ("this was the last step: the release is promoted",)
    begins = "continues" if after.step == here.rollout.step else "begins"
    if after.step == len(here.plan.steps) - 1:
        follows = "it is the last one: once it is complete, the release is promoted"
    elif here.plan.promote == "manual":
        follows = "the next step waits for another resume"
    else:
        follows = "the next steps begin by themselves"
    where = "learning from stable" if after.learning else _step(here, after.step)
    return (f"{where} {begins}; {follows}",)


def _reset(here: Here, after: Rollout) -> tuple[str, ...]:
    """Return what a reset does besides moving users, and why the circuit is not closed."""
    broken = here.circuit
    since = text.duration(max(here.now - broken.since, 0.0))
    again = (
        _afresh(here)
        if after.exposure.has_users
        else "the circuit closes, and no user is on the canary"
    )
    return (
        f"the same users as before; {again}",
        f"tripped {since} ago: {broken.cause or 'cause unknown'}",
    )


def _afresh(here: Here) -> str:
    if not here.plan.steps:
        return "a new judge begins"
    return f"step {here.rollout.step + 1} of {len(here.plan.steps)} starts over with a new judge"
