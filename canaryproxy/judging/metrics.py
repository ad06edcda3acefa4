"""The meaning of a record: of which metrics it is a trial, and of which an event. Pure.

Both sides are measured alike, by limits that are fixed when a step begins, from what stable's users met
before it (``Limits``, made by ``Baseline``): a limit that followed stable within the step would make "slow"
depend on who happens to be on stable, and the lottery would no longer be fair.

================  ===========================  =========================================================
metric            trial                        event
================  ===========================  =========================================================
errors            ended, client still there    failed, broken, rescued; or the client gave up waiting
                  or overdue                   overdue: no first byte within ``rescue.after``
client_errors     answered below 500           4xx
redirects         answered below 500           3xx, but not 304
empty             the same, not HEAD           2xx without a body
success           answered below 500           2xx with a body, 304
latency           first byte, or late          later than stable's P95 and the margin
latency_p50       first byte                   later than 1.5 times stable's median
latency_p95       first byte                   later than twice stable's P95
latency_p99       first byte                   later than stable's P99 and half of it again
throughput        ended, or stalled            stalled
size              2xx with a body              less than half of the route's P05, more than twice its P95
content_type      2xx with a body              a media type that stable did not send on that route
connections       tunnels, event streams       ended by the upstream, abnormally or within seconds
outcomes          as configured                as configured
business          half a minute of a user      the user had an event in it (``user_time``)
routes            as errors, 4xx and 3xx and   the same, for each of the busiest routes
                  empty together, latency
================  ===========================  =========================================================

``success`` is there because an increase of any class is the bad direction: where a redirect to the login has
become a page for all users, the others only decrease.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from canaryproxy.judging.settings import LatencyRule
from canaryproxy.measure import records
from canaryproxy.measure.records import LARGEST, NO_FIRST_BYTE, WORDS

ERRORS: Final = "errors"
CLIENT_ERRORS: Final = "client_errors"
REDIRECTS: Final = "redirects"
EMPTY: Final = "empty"
SUCCESS: Final = "success"
LATENCY: Final = "latency"
P50: Final = "latency_p50"
P95: Final = "latency_p95"
P99: Final = "latency_p99"
THROUGHPUT: Final = "throughput"
SIZE: Final = "size"
CONTENT_TYPE: Final = "content_type"
CONNECTIONS: Final = "connections"
BUSINESS: Final = "business"
ANSWERS: Final = "answers"
"""Of a route: 3xx, 4xx and responses without a body together."""
CLASSES: Final = (CLIENT_ERRORS, REDIRECTS, EMPTY, SUCCESS)
OF_RECORDS: Final = (ERRORS, *CLASSES, LATENCY, P50, P95, P99, THROUGHPUT, CONNECTIONS)
"""Those of ``outcomes_of``."""

OTHER: Final = 0
"""Template of the requests on none of the busiest routes."""
BUSIEST: Final = 31
"""Routes that are judged one by one; the others together."""
_ENOUGH: Final = 100
"""Answers of stable from which limits are taken."""
_FEW: Final = 50
"""The same for one route."""
_KEPT: Final = 256
_ROOM: Final = 64
"""Answers of a route that are kept, and how many more before the older ones are forgotten."""
_LAST: Final = 2000
"""Answers of all routes that are kept."""
_NO_ANSWER: Final = records.ENDED | records.CLIENT_GONE | records.TUNNEL | records.FAILED
"""Flags by which a record is one of an answer or not: of them it has but the first."""


class Record(NamedTuple):
    """A record, unpacked."""

    position: int
    variant: int
    epoch: int
    status: int
    content_type: int
    flags: int
    template: int
    trials: int
    """Outcomes that the response is a trial of, a bit for each slot."""
    events: int
    first_byte: float | None
    """Seconds; ``None`` if it never came."""
    size: int
    """Bytes of the body."""

    @property
    def ended(self) -> bool:
        """Whether the request has ended; else this is the early record of one in flight."""
        return bool(self.flags & records.ENDED)


def unpack(words: Sequence[int]) -> Iterator[Record]:
    """Unpack records, three words each."""
    for at in range(0, len(words), WORDS):
        yield unpacked(words[at], words[at + 1], words[at + 2])


def unpacked(first: int, second: int, third: int) -> Record:
    """Unpack one record; its words may be signed."""
    micros = third & NO_FIRST_BYTE
    return Record(
        first & records.POSITION_MASK,
        first >> records.VARIANT_SHIFT & 1,
        first >> records.EPOCH_SHIFT & 0xFF,
        first >> records.STATUS_SHIFT & 0x3FF,
        first >> records.TYPE_SHIFT & 0xFF,
        first >> records.FLAGS_SHIFT & 0xFFFF,
        second & records.TEMPLATE_MASK,
        second >> 32 & 0xFFFF,
        second >> 48 & 0xFFFF,
        None if micros == NO_FIRST_BYTE else micros / 1e6,
        third >> records.SIZE_SHIFT & LARGEST,
    )


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """The limits of one route."""

    name: str
    late: float | None = None
    """Seconds to the first byte; ``None``: too few answers to tell."""
    late_share: float = 0.05
    """Share of stable's answers above it before the step, 0..1."""
    sizes: tuple[float, float] | None = None
    """Bytes below and above which a body is odd; ``None``: too few answers to tell."""
    types: frozenset[int] = frozenset()
    """Codes of the media types that stable sends; empty: not known."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits beyond which a response is late or odd, for both sides, all through a step."""

    late: float
    """Seconds to the first byte: stable's P95 and the configured margin."""
    stalled: float
    """Seconds to the last byte."""
    known: bool = False
    """Whether stable's latency was known; else ``late`` is a fallback and the rest says nothing."""
    late_p50: float = 0.0
    late_p95: float = 0.0
    late_p99: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    """By metric of latency: the share of stable's answers above its limit before the step, 0..1."""
    routes: Mapping[int, RouteLimits] = field(default_factory=dict)
    """By template: the busiest routes."""

    def warming(self, hang: float) -> Limits:
        """Return those of a warm-up, in which a response is late only beyond ``hang`` seconds."""
        return replace(self, late=max(self.late, hang), stalled=max(self.stalled, FALLBACK.stalled))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "times": [self.late, self.stalled, self.late_p50, self.late_p95, self.late_p99],
            "known": self.known,
            "shares": dict(self.shares),
            "routes": {
                str(template): [one.name, one.late, one.late_share, one.sizes, sorted(one.types)]
                for template, one in self.routes.items()
            },
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Limits:
        """Return the limits whose ``to_dict`` this was."""
        late, stalled, late_p50, late_p95, late_p99 = map(float, state["times"])
        return cls(
            late=late,
            stalled=stalled,
            known=bool(state["known"]),
            late_p50=late_p50,
            late_p95=late_p95,
            late_p99=late_p99,
            shares={name: float(share) for name, share in state["shares"].items()},
            routes={
                int(template): RouteLimits(
                    name,
                    late,
                    float(share),
                    None if sizes is None else (float(sizes[0]), float(sizes[1])),
                    frozenset(types),
                )
                for template, (name, late, share, sizes, types) in state["routes"].items()
            },
        )


FALLBACK: Final = Limits(records.FALLBACK_LATE, 5 * records.FALLBACK_LATE)
"""Limits while stable has fewer than a hundred answers."""


def outcomes_of(record: Record, limits: Limits, *, warm: bool, hang: float) -> dict[str, bool]:
    """Return the metrics that a record is a trial of, each with whether it is an event.

    Without those of routes and of configured outcomes. ``warm``: the canary is past its warm-up; before, an
    answer is late only beyond ``hang`` seconds, and the other metrics of time have no trials.
    """
    flags, status, first_byte = record.flags, record.status, record.first_byte
    found: dict[str, bool] = {}
    if not record.ended:
        if flags & records.LATE:
            found[LATENCY] = True
        if flags & records.STALLED:
            found[THROUGHPUT] = True
        if flags & records.OVERDUE:
            found[ERRORS] = True
        return found
    gone = bool(flags & records.CLIENT_GONE)
    abandoned = bool(flags & records.ABANDONED)
    failed = bool(flags & records.FAILED)
    if first_byte is not None and not flags & records.TUNNEL:
        if not flags & records.LATE:
            found[LATENCY] = first_byte > (limits if warm else limits.warming(hang)).late
        if warm and limits.known:
            found[P50] = first_byte > limits.late_p50
            found[P95] = first_byte > limits.late_p95
            found[P99] = first_byte > limits.late_p99
    counts = not flags & records.OVERDUE  # else its early record is the trial
    if abandoned and counts:
        found[ERRORS] = True
    if flags & records.TUNNEL:
        found[CONNECTIONS] = bool(flags & records.BROKEN)
    if gone:
        return found
    if counts:
        found[ERRORS] = failed
    if not flags & (records.STALLED | records.TUNNEL):
        found[THROUGHPUT] = False
    if status < 500 and not (failed and flags & (records.UNREACHED | records.RESCUED)):
        _classify(record, found)
    return found


def _classify(record: Record, found: dict[str, bool]) -> None:
    status = record.status
    found[CLIENT_ERRORS] = 400 <= status < 500
    found[REDIRECTS] = 300 <= status < 400 and status != 304
    is_empty = 200 <= status < 300 and record.size == 0
    if not record.flags & records.BODILESS or status in (204, 304):
        found[EMPTY] = is_empty
        found[SUCCESS] = status == 304 or (200 <= status < 300 and not is_empty)


def has_content(record: Record) -> bool:
    """Return whether a record is a trial of the metrics of content, where its route has limits for them."""
    return (
        record.ended
        and 200 <= record.status < 300
        and not record.flags
        & (records.BODILESS | records.TUNNEL | records.CLIENT_GONE | records.FAILED)
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted values (not empty): the least with at least ``share`` up to it."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _share_above(ordered: Sequence[float], limit: float) -> float:
    return sum(value > limit for value in ordered) / len(ordered)


def _seconds(answers: Sequence[int]) -> list[float]:
    """Return the seconds to the first byte, in order, from third words of records."""
    return [micros / 1e6 for micros in sorted([third & NO_FIRST_BYTE for third in answers])]


class _Route:
    """Recent answers of stable on one route."""

    __slots__ = ("answers", "bodies", "room", "seen", "types")

    def __init__(self) -> None:
        self.seen = 0.0
        self.room = _ROOM
        """Answers until ``trim``."""
        self.answers: list[int] = []
        """Third words of records with a first byte."""
        self.bodies: list[int] = []
        """Third words of successes, with their sizes."""
        self.types: list[int] = []

    def trim(self) -> None:
        """Forget all but the last 256."""
        self.room = _ROOM
        for values in (self.answers, self.bodies, self.types):
            del values[:-_KEPT]

    def limits(self, name: str, margin: float) -> RouteLimits:
        self.trim()
        late, share = None, 0.05
        if len(self.answers) >= _FEW:
            ordered = _seconds(self.answers)
            late = quantile(ordered, 0.95) + margin
            share = _share_above(ordered, late)
        sizes = None
        if len(self.bodies) >= _FEW:
            by_size = sorted([third >> records.SIZE_SHIFT & LARGEST for third in self.bodies])
            sizes = (quantile(by_size, 0.05) / 2, quantile(by_size, 0.95) * 2)
        types = frozenset(self.types) if len(self.types) >= _FEW else frozenset[int]()
        return RouteLimits(name, late, share, sizes, types)


class Baseline:
    """Recent responses of stable to its randomised users: latency, routes, sizes, media types.

    Keeps the last two thousand answers, and the last 256 of each of the busiest routes. Bounded: routes are
    counted as Metwally, Agrawal & El Abbadi (2005, Efficient computation of frequent and top-k elements in
    data streams) do, so that a scanner with a new path for each request does not crowd the others out.
    """

    _ROUTES: Final = 256

    def __init__(self) -> None:
        self._answers: list[int] = []
        """Third words of records with a first byte; the last two thousand count."""
        self._routes: dict[int, _Route] = {}
        self.names: dict[int, str] = {}
        """Names of templates, those that are counted."""

    def learn(self, names: Mapping[int, str]) -> None:
        """Take the names of templates that workers have seen."""
        self.names.update(names)
        if len(self.names) > 4 * self._ROUTES:
            self.names = {t: name for t, name in self.names.items() if t in self._routes}

    def add(self, first: int, third: int, template: int) -> None:
        """Take a record of stable, given by its words, which may be signed, on a route."""
        flags = first >> records.FLAGS_SHIFT
        if flags & _NO_ANSWER != records.ENDED:
            return
        route = self._routes.get(template)
        if route is None:
            route = self._new_route(template)
        route.seen += 1.0
        route.room -= 1
        if not route.room:
            route.trim()
            del self._answers[:-_LAST]
        shared: Any = third  # one object for all, where compiled, too
        if third & NO_FIRST_BYTE != NO_FIRST_BYTE:
            self._answers.append(shared)
            route.answers.append(shared)
        if 200 <= first >> records.STATUS_SHIFT & 0x3FF < 300 and not flags & records.BODILESS:
            route.bodies.append(shared)
            if third >> records.SIZE_SHIFT:
                route.types.append(first >> records.TYPE_SHIFT & 0xFF)

    def _new_route(self, template: int) -> _Route:
        route = _Route()
        if len(self._routes) >= self._ROUTES:
            oldest = min(self._routes, key=lambda t: self._routes[t].seen)
            route.seen = self._routes.pop(oldest).seen
        self._routes[template] = route
        return route

    @property
    def enough(self) -> bool:
        """Whether stable's latency is known."""
        return len(self._answers) >= _ENOUGH

    def limits(self, rule: LatencyRule, *, routes: bool = True) -> Limits:
        """Return the limits for a step that begins now."""
        margin = rule.margin
        busiest: dict[int, RouteLimits] = {}
        if routes:
            order = sorted(self._routes.items(), key=lambda one: -one[1].seen)[:BUSIEST]
            for template, route in order:
                name = self.names.get(template)
                if name is not None:
                    busiest[template] = route.limits(name, margin)
        if not self.enough:
            return Limits(FALLBACK.late, FALLBACK.stalled, routes=busiest)
        ordered = _seconds(self._answers[-_LAST:])
        p50, p95, p99 = (quantile(ordered, share) for share in (0.5, 0.95, 0.99))
        tau = quantile(ordered, rule.quantile)
        late = tau + margin
        late_p50 = p50 + max(rule.p50 * p50, 0.01)
        late_p95 = max(2.0 * p95, p95 + 0.01)
        late_p99 = p99 + max(rule.p99 * p99, margin)
        return Limits(
            late=late,
            stalled=max(1.0, 5.0 * tau),
            known=True,
            late_p50=late_p50,
            late_p95=late_p95,
            late_p99=late_p99,
            shares={
                LATENCY: _share_above(ordered, late),
                P50: _share_above(ordered, late_p50),
                P95: _share_above(ordered, late_p95),
                P99: _share_above(ordered, late_p99),
            },
            routes=busiest,
        )
