"""A model of the fleet's protocol: a store, replicas, and everything that can go wrong between them.

Acts go through the product's own functions (``canaryproxy.fleet.protocol``). The store answers as the Lua
scripts do: compare-and-set by the name of the act, and for steps the lease and its token. What is modelled
beside: lease expiry at any moment, crashes, a partition of each replica, questions and answers that are lost
or late (a replica acts while it waits for one), a store that loses all of its data or its last act, trips of
any replica, an operator at any replica, the next release.

A state is a value; ``moves`` yields every state that can follow. ``search`` visits all of them, breadth
first, so that a counterexample is a shortest one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from canaryproxy.fleet import protocol
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.state import Document
from canaryproxy.judging.verdict import Assessment
from canaryproxy.measure.exposure import Exposure
from canaryproxy.release import circuit, rollout
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan, Rollout, State, Step

PLAN = Plan((Step(10.0, 0.0, 1), Step(50.0, 0.0, 1), Step(100.0, 0.0, 1)), ramp_down=2.0)
SETTINGS = Settings("r1", "s", "j", "r1", PLAN, CircuitSettings())
NEXT = Settings("r2", "t", "j", "r2", replace(PLAN, baseline=60.0), CircuitSettings())
"""The next release learns from stable before its first step."""
_STAFF_FIRST = replace(
    PLAN, steps=(Step(50.0, 0.0, 1, cohort="staff"), Step(10.0, 0.0, 1, cohort="beta"), *PLAN.steps)
)
COHORTS = replace(SETTINGS, plan=_STAFF_FIRST)
"""A release that begins with two cohorts; what follows it does, too (``following``)."""
NOBODY = Exposure()


def following(settings: Settings) -> Settings:
    """Return the next release after one by these settings."""
    return replace(NEXT, plan=replace(settings.plan, baseline=NEXT.plan.baseline))


@dataclass(frozen=True, slots=True)
class Replica:
    """What a replica knows."""

    mine: Document
    lost: bool = False
    """It cannot reach the store."""
    token: int = 0
    """The lease's token as it was last told; 0: it does not lead."""
    pending: Document | None = None
    """What it has asked the store to take: the store may get it, and the replica be told, at any time."""
    base: str = ""
    """The act that ``pending`` is to replace."""
    kind: str = ""
    """What ``pending`` is: a ``step``, the ``next`` release (both fenced), or what an operator wants."""
    knew: frozenset[str] = frozenset()
    """Trips without a reset that it has known of since it began: it must not forget one."""
    fell_back: bool = False
    """It has gone from the next release back to the one before."""
    revived: str = ""
    """How a release that was being aborted got users again."""
    ramp: Rollout | None = None
    """The rollout that it goes by, where that is not the document's: it has ramped down since."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hash once, and documents by their acts: equal ones have equal acts, and all of one is much."""
        pending = self.pending and self.pending.act
        known = (self.mine.act, self.lost, self.token, pending, self.base, self.kind, self.knew)
        object.__setattr__(self, "_hash", hash(known))

    def __hash__(self) -> int:
        return self._hash

    @property
    def here(self) -> Rollout:
        return self.ramp or self.mine.rollout

    @property
    def users(self) -> Exposure:
        return NOBODY if self.mine.is_open else self.here.exposure

    @property
    def ledger(self) -> Document:
        """The document with the rollout that it goes by, from which its acts are made."""
        return replace(self.mine, rollout=self.ramp) if self.ramp else self.mine


@dataclass(frozen=True, slots=True)
class World:
    """Everything, at one moment."""

    store: Document | None
    holder: int
    """Who has the lease; -1: nobody."""
    term: int
    """The newest token of the lease."""
    replicas: tuple[Replica, ...]
    budget: tuple[int, ...]
    """How often each mishap may still happen, in the order of ``BUDGET``."""
    trips: frozenset[tuple[str, str | None]] = frozenset()
    """Acts that opened the circuit, wherever, and of which release."""
    resets: tuple[tuple[str, frozenset[str]], ...] = ()
    """Acts that closed it, and the trips that their operator could see."""
    steps: tuple[tuple[str, int, int, bool], ...] = ()
    """Steps that the store took: from which act, from and to which step, and whether by who leads."""
    losses: int = 0
    """How often the store has lost its data."""
    highest: Exposure = NOBODY
    """The users that the store has ever had on the canary."""
    accepted: frozenset[str] = frozenset()
    """What the store has ever had as accepted by an operator."""
    past: Document | None = None
    """What the store had before its last act, where that can be lost."""

    def __hash__(self) -> int:
        """Return a hash of what tells worlds apart at little cost, as a replica's does."""
        acts = (self.store and self.store.act, self.past and self.past.act)
        counts = (self.holder, self.term, len(self.trips), len(self.resets), len(self.steps))
        return hash((acts, counts, self.replicas, self.budget))

    def left(self, what: str) -> int:
        return self.budget[_PLACES[what]]

    def spend(self, what: str) -> World:
        at = _PLACES[what]
        return replace(
            self, budget=(*self.budget[:at], self.budget[at] - 1, *self.budget[at + 1 :])
        )

    def cleared(self, document: Document) -> frozenset[str]:
        """Return the trips that the resets of a document knew of."""
        acts = known(document)
        return frozenset[str]().union(*(saw for reset, saw in self.resets if reset in acts))

    def uncleared(self, document: Document) -> frozenset[str]:
        """Return the trips that led to a document and that no reset has seen."""
        return (self.of(document) & known(document)) - self.cleared(document)

    def of(self, document: Document) -> frozenset[str]:
        """Return the trips of a document's release."""
        return frozenset(act for act, release in self.trips if release == document.release)

    def put(self, at: int, **changes: object) -> World:
        old = self.replicas[at]
        if all(getattr(old, name) is value for name, value in changes.items()):
            return self
        mine = changes.get("mine")
        if isinstance(mine, Document):
            knew = self.uncleared(mine)
            if not covers(mine):
                knew |= old.knew & self.of(mine) - self.cleared(mine)
            back = (old.mine.release, mine.release) == (NEXT.release, SETTINGS.release)
            back = back and bool(known(old.mine) & known(mine) - {""})
            changes |= {"knew": knew, "fell_back": old.fell_back or back}
            here = protocol.going_by(old.here, mine.rollout)
            changes["ramp"] = None if here == mine.rollout else here
        changed = replace(old, **changes)  # type: ignore[arg-type]
        if old.here.state is State.ABORTING and old.mine.release == changed.mine.release:
            if changed.here.state not in (State.ABORTING, State.ABORTED):
                changed = replace(changed, revived="a ramp down is forgotten")
            elif changed.users.raises(old.users):
                changed = replace(changed, revived="the weight rises during a ramp down")
        return replace(self, replicas=(*self.replicas[:at], changed, *self.replicas[at + 1 :]))


@dataclass(frozen=True, slots=True)
class Rules:
    """The release, and the protocol part by part, so that a test can plant a bug into it."""

    settings: Settings = SETTINGS
    decide: Callable[[Document, Document | None, str], protocol.Decision] = protocol.decide
    fenced: bool = True
    """The store looks at lease and token of a step."""
    compared: bool = True
    """The store looks at the act that is to be replaced."""
    is_cautious: Callable[[Document, Document], bool] = protocol.is_cautious
    told: Callable[[Document, Document | None, str], protocol.Decision] = protocol.decide
    """What a replica does about an act of its own that the store took."""


BUDGET = (
    ("trip", 1), ("reset", 1), ("step", 2), ("expire", 1), ("cut", 1), ("loss", 1), ("abort", 1),
    ("crash", 1), ("failover", 1), ("next", 1), ("accept", 1), ("breach", 1), ("ramp", 1), ("fall", 2),
)  # fmt: skip
"""How often each mishap may happen in one history."""
_PLACES = {name: at for at, (name, _) in enumerate(BUDGET)}


def plain(document: Document) -> Document:
    """Return a document without what does not matter here: its records, which have no hash."""
    return replace(document, records=()) if document.records else document


def covers(document: Document) -> bool:
    """Return whether nobody is on the canary until an operator says so."""
    return document.is_open or document.rollout.state is State.ABORTED


def known(document: Document) -> frozenset[str]:
    """Return the acts that a document was made by."""
    return frozenset((document.act, *document.trail))


def union(one: Exposure, other: Exposure) -> Exposure:
    """Return the exposure with the users of both."""
    names = sorted({name for each in (one, other) for name, _ in each.cohorts})
    cohorts = tuple((name, max(one.of(name), other.of(name))) for name in names)
    return Exposure(max(one.weight, other.weight), cohorts)


def first(
    replicas: int,
    budget: tuple[tuple[str, int], ...] = BUDGET,
    settings: Settings = SETTINGS,
) -> World:
    """Return the world in which a release has just begun, and nobody leads."""
    document = plain(protocol.begin(settings, "a", 0.0))
    often = dict(budget)
    left = tuple(often[name] for name in _PLACES)
    begun = World(document, -1, 0, (Replica(document),) * replicas, left)
    return replace(begun, highest=union(NOBODY, document.users))


def moves(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """Yield what can happen, and the world after it."""
    if world.holder >= 0 and world.left("expire"):
        yield "the lease expires", replace(world.spend("expire"), holder=-1)
    if world.store is not None and world.left("loss"):
        # Whoever holds the lease, the token and the document: all of it is gone.
        lost = replace(world.spend("loss"), store=None, holder=-1, term=0)
        yield "the store loses its data", replace(lost, losses=world.losses + 1, past=None)
    if world.past is not None and world.left("failover"):
        lost = replace(world.spend("failover"), store=world.past, holder=-1, past=None)
        yield "the store loses its last act", replace(lost, losses=world.losses + 1)
    for at, replica in enumerate(world.replicas):
        if replica.lost:
            yield f"{at} is back", world.put(at, lost=False)
        else:
            yield from _exchange(world, at, rules)
            if world.left("cut"):
                yield f"{at} is cut off", world.spend("cut").put(at, lost=True)
        if world.left("crash"):
            anew = list(world.replicas)
            anew[at] = Replica(protocol.unknown(rules.settings))
            yield f"{at} crashes", replace(world.spend("crash"), replicas=tuple(anew))
        yield from _lead(world, at, rules)
        yield from _fall(world, at)
        yield from _await(world, at, rules)
        yield from _operate(world, at, rules)


def _cas(
    world: World, base: str | None, document: Document, rules: Rules, fence: tuple[int, int] | None
) -> World | None:
    """Return the world after the store took a document; ``None`` if it refused."""
    there = None if world.store is None else world.store.act
    if rules.compared and there != base:
        return None
    if fence is not None and rules.fenced and fence != (world.holder, world.term):
        return None
    past = world.store if world.left("failover") else None
    highest = union(world.highest, document.users)
    accepted = world.accepted | document.rollout.accepted
    return replace(world, store=document, highest=highest, past=past, accepted=accepted)


def _exchange(world: World, at: int, rules: Rules) -> Iterator[tuple[str, World]]:
    """Let a replica look at the store, and do what ``decide`` says; its write may get lost."""
    replica = world.replicas[at]
    theirs = world.store
    named = f"({replica.mine.act}+{theirs.act if theirs else ''}){at}"
    if theirs is None and not replica.mine.act:  # it has waited for others in vain
        begun = protocol.begin(rules.settings, named, 0.0)
        found = protocol.Decision(plain(begun), write=True)
    else:
        found = rules.decide(replica.mine, theirs, named)
        found = replace(found, document=plain(found.document))
    changes: dict[str, Any] = {"token": 0}
    if found.document is not replica.mine:
        changes["mine"] = found.document
    if replica.kind in FENCED and found.document.act != replica.mine.act:
        changes |= NOTHING
    after, term = world, max(world.term, 0)
    if world.holder == at or (world.holder == -1 and theirs is not None):
        if world.holder == -1:
            # A token is never given twice, also after a loss: replicas tell which they have seen.
            term = max(term, *(one.token for one in world.replicas)) + 1
        changes["token"] = term
        if (world.holder, world.term) != (at, term):
            after = replace(world, holder=at, term=term)
    after = after.put(at, **changes)
    if found.write:
        yield f"{at} looks and its write is lost", after
        base = None if theirs is None else theirs.act
        written = _cas(after, base, found.document, rules, None)
        assert written is not None
        after = written
    yield f"{at} looks", after


_SEEN = Assessment(
    level="ok", verdicts=(), judged=9, answered=9, comparable=True, proven=True, cause=None, quiet=None
)  # fmt: skip
_HELD = replace(_SEEN, holds=("stable has carried at most 420/s",))
"""The same, and the next step would bring more than was carried (``release.capacity: hold``)."""


def position(here: Rollout) -> int:
    """Return how many steps have begun."""
    return here.step + (not here.learning)


def _fall(world: World, at: int) -> Iterator[tuple[str, World]]:
    """Let a second pass at a replica that ramps down."""
    here = world.replicas[at].here
    if here.state is State.ABORTING and here.left and world.left("fall"):
        lower = rollout.ramped(replace(here, ticked=0.0), 1.0)
        lower = replace(lower, ticked=here.ticked)
        yield f"a second passes at {at}", world.spend("fall").put(at, ramp=lower)


FENCED = ("step", "next", "end")
NOTHING: dict[str, Any] = {"pending": None, "base": "", "kind": ""}


def _lead(world: World, at: int, rules: Rules) -> Iterator[tuple[str, World]]:
    """Let a replica that believes that it leads ask for the next step, or the next release."""
    replica = world.replicas[at]
    mine = replica.mine
    if not replica.token or replica.pending is not None:
        return
    if world.left("step") and mine.rollout.state is State.RUNNING:
        named = f"{mine.act}s{at}"
        held, _ = protocol.step(mine, rollout.Tick(_HELD), 0.0, rules.settings, named)
        if held is not mine and not mine.rollout.learning:  # the first step is not held
            raise Broken("a step that capacity holds")
        made, _ = protocol.step(mine, rollout.Tick(_SEEN), 0.0, rules.settings, named)
        if made is not mine and rules.is_cautious(mine, made):
            yield f"{at} steps by itself", world.spend("step").put(at, mine=plain(made))
        elif made is not mine:
            yield f"{at} plans a step", _ask(world.spend("step"), at, made, "step")
    if replica.here.state is State.ABORTING and not replica.here.left:
        made, _ = protocol.step(
            replica.ledger, rollout.Tick(_SEEN), 0.0, rules.settings, f"{mine.act}e{at}"
        )
        yield f"{at} plans the end of the ramp down", _ask(world, at, made, "end")
    if world.left("next") and mine.release == SETTINGS.release:
        named = f"{mine.act}n{at}"
        begun = protocol.adopt(mine, following(rules.settings), 0.0, named)
        assert begun is not None
        yield f"{at} plans the next release", _ask(world.spend("next"), at, begun, "next")


def _ask(world: World, at: int, made: Document, kind: str) -> World:
    return world.put(at, pending=plain(made), base=world.replicas[at].mine.act, kind=kind)


def _await(world: World, at: int, rules: Rules) -> Iterator[tuple[str, World]]:
    """Let the store get what a replica has asked for, and the replica hear what became of it."""
    replica = world.replicas[at]
    made = replica.pending
    if made is None or replica.lost:
        return
    kept = world.put(at, **NOTHING)
    fence = (at, replica.token) if replica.kind in FENCED else None
    taken = _cas(kept, replica.base, made, rules, fence)
    if taken is None:
        yield f"{at}'s {replica.kind} is refused", kept
        return
    if replica.kind == "step":
        found = 0 if world.store is None else position(world.store.rollout)
        leads = (at, replica.token) == (world.holder, world.term)
        entry = (replica.base, found, position(made.rollout), leads)
        taken = replace(taken, steps=(*taken.steps, entry))
    yield f"{at}'s {replica.kind} is taken and it is not told", taken
    found_here = rules.told(replica.mine, made, f"({replica.mine.act}+{made.act}){at}")
    yield f"{at}'s {replica.kind} is taken", taken.put(at, mine=plain(found_here.document))


_LETTERS = {"accept": "x", "ramp": "d"}


def _operate(world: World, at: int, rules: Rules) -> Iterator[tuple[str, World]]:
    """Let an operator (or the judge) act at a replica."""
    replica = world.replicas[at]
    events = (
        ("trip", circuit.Trip("bad")),
        ("reset", circuit.Reset()),
        ("abort", rollout.Abort(now=True)),
        ("ramp", rollout.Abort()),
        ("breach", rollout.Breach("bad")),
        ("accept", rollout.Accept(str(replica.mine.release))),
    )
    for what, event in events:
        if not world.left(what):
            continue
        named = f"{replica.mine.act}{_LETTERS.get(what, what[0])}{at}"
        try:
            made, _ = protocol.step(replica.ledger, event, 0.0, rules.settings, named)
        except rollout.Refused:
            continue
        if made is replica.ledger:
            continue
        made, after = plain(made), world.spend(what)
        before = replica.users
        if what == "breach" and (made.users.raises(before) or before.raises(made.users)):
            raise Broken("a breach of an irreversible release moves users")
        if what == "trip":
            after = replace(after, trips=after.trips | {(named, made.release)})
        if what == "reset":
            saw = after.of(replica.mine) & known(replica.mine)
            after = replace(after, resets=(*after.resets, (named, saw)))
        if rules.is_cautious(replica.mine, made):
            yield f"{what} at {at}", after.put(at, mine=made)
        elif not replica.lost and replica.pending is None:
            yield f"{what} is asked for at {at}", _ask(after, at, made, what)


class Broken(AssertionError):
    """An invariant that does not hold, and how that came about."""


def check(world: World, plan: Plan = PLAN) -> None:
    """Raise ``Broken`` for a world that must not be."""
    documents = [replica.mine for replica in world.replicas]
    if world.store is not None:
        documents.append(world.store)
    for document in documents:
        here = document.rollout
        if document.is_open:
            if document.users.has_users:
                raise Broken("an open circuit with users on the canary")
            continue
        # A trip is never lost without a reset.
        if not covers(document) and (lost := world.uncleared(document)):
            raise Broken(f"the trip {', '.join(lost)} is lost without a reset")
        if here.breach is not None and here.state is State.RUNNING:
            raise Broken("a release goes on although a breach is known")
        users = NOBODY if here.learning else plan.exposure(here.step)
        if here.state is State.RUNNING and here.exposure != users:
            raise Broken("users who are not those of its step")
    for replica in world.replicas:
        if replica.knew and not covers(replica.mine):
            raise Broken("a replica has forgotten a trip")
        if replica.revived:
            raise Broken(replica.revived)
        if (
            replica.here.state is State.ABORTING
            and not replica.here.left
            and replica.users.has_users
        ):
            raise Broken("a ramp down has ended with users on the canary")
        if replica.fell_back:
            raise Broken("a replica has gone back to the release before")
        if replica.users.raises(world.highest):
            raise Broken("a replica gives the canary more than the store ever allowed")
        if not replica.mine.rollout.accepted <= world.accepted:
            raise Broken("a replica accepts what the fleet has not")
        if not replica.mine.rollout.accepted <= {replica.mine.release}:
            raise Broken("a release goes on with what was accepted for another one")
        if replica.token > world.term and not world.losses:
            raise Broken("a token from the future")
    if not world.losses:
        bases = [base for base, *_ in world.steps]
        if len(set(bases)) < len(bases):
            raise Broken("two steps from one act: a step is taken twice")
    for _, before, after, leads in world.steps:
        if not leads:
            raise Broken("a step of who does not lead any more")
        if after != before + 1:
            raise Broken("a step is skipped or taken twice")


def search(start: World, rules: Rules = Rules(), most: int = 10_000_000) -> int:
    """Visit every world that can follow; return how many there are.

    Raises ``Broken`` with a shortest way to a world in which an invariant does not hold, and
    ``OverflowError`` if there are more than ``most``.
    """
    before: dict[World, tuple[World, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        world = waiting.popleft()
        try:
            check(world, rules.settings.plan)
        except Broken as error:
            raise Broken(f"{error}, after: {'; '.join(_way(before, world))}") from None
        for what, after in moves(world, rules):
            if after not in before:
                before[after] = (world, what)
                waiting.append(after)
        if len(before) > most:
            raise OverflowError(f"more than {most} states")
    return len(before)


def _way(before: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    way = []
    while (found := before[world]) is not None:
        world, what = found
        way.append(what)
    return way[::-1]
