"""Times that are bad for both versions: stalls, overload, a flaky network, by the rules of the data path.

Two variants of one version, users of unlike activity, and a data path as ``proxy`` is: it waits longer for
stable than for the canary (``rescue.after``), has another endpoint answer for stable and stable for the
canary, and sheds the load of each variant by itself. Records are what it leaves of it all. Seeded; time is
that of the simulation, in seconds since the first step.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp, inf
from random import Random
from typing import Final

from canaryproxy.config import Rescue
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Counts, Sample
from canaryproxy.measure import counters, histogram, records
from canaryproxy.measure.counters import ERRORS, FAILED, FINISHED, FIRST_BYTE, ROUTED, SHED, Reason
from canaryproxy.measure.records import ENDED, pack_first, pack_second, pack_third, template_of
from canaryproxy.measure.rescue import Patience, RescueRules
from canaryproxy.measure.routing import CANARY, FINE, POSITIONS, STABLE, RouteTable, Routing
from canaryproxy.measure.shedding import LoadLimits

TICK: Final = 0.1
BASELINE: Final = 60.0
USERS: Final = 3000
RATE: Final = 100.0
MEAN: Final = 0.03
ENDPOINTS: Final = 3
GIVES_UP: Final = 30.0
"""Seconds that a client waits."""
_EPOCH: Final = 7
_TABLE: Final = RouteTable()
_NAME: Final = b"GET /"
_ROUTE: Final = template_of(_NAME)

When = Callable[[float], float]
"""A factor or share by time."""


def usual(_: float) -> float:
    """Multiply nothing."""
    return 1.0


def never(_: float) -> float:
    """Concern no request."""
    return 0.0


def during(begin: float, end: float, value: float, else_: float = 1.0) -> When:
    """Return what has a value from one second to another."""
    return lambda now: value if begin <= now < end else else_


@dataclass(frozen=True)
class Incident:
    """What happens to both variants."""

    name: str
    weight: float = 5.0
    slow: When = usual
    """How many times as long a request is worked on."""
    stall: tuple[float, float] = (inf, inf)
    """Nothing is answered from one second to the other."""
    flaky: When = never
    """Share of attempts that an endpoint resets."""
    load: When = usual
    """How many times the usual number of requests come."""
    shed_after: float | None = None
    slots: int = 20
    """Requests that a variant works on at a time."""
    shared: bool = False
    """Both wait in one queue, as of a database."""
    rescue: bool = True
    replicas: int = 1
    canary: float = 1.0
    """How many times as long the canary takes as stable: above 1 it is worse."""


@dataclass(eq=False)
class Request:
    """One request in flight."""

    user: int
    at: float
    routed: int
    serves: int
    """The variant that answers: stable, if it has come to the canary's rescue."""
    proxy: Proxy
    compared: bool = True
    flags: int = 0
    attempt: int = 0
    is_over: bool = False


class Proxy:
    """What one worker measures and decides."""

    def __init__(self, incident: Incident) -> None:
        self.cells = [[0] * counters.VARIANT_CELLS for _ in (STABLE, CANARY)]
        self.load = LoadLimits()
        self.load.configure(incident.shed_after)
        self.rules = RescueRules(Rescue(enabled=incident.rescue))
        self._patience = Patience()
        self.after = inf

    def tick(self, now: float) -> None:
        """Look at the counters, as ``proxy.service_path`` does."""
        self.rules.budget.observe(now, self.cells[STABLE][ROUTED])
        self._patience.observe(now, self.cells[STABLE])
        self.after = self._patience.seconds if self._patience.seconds < GIVES_UP else inf
        self.load.observe(now, self.cells, (1, 1))

    def in_flight(self, variant: int) -> int:
        return self.cells[variant][ROUTED] - self.cells[variant][FINISHED]

    def may_rescue(self, request: Request, now: float) -> bool:
        """Tell whether stable may answer a request, and count it if so."""
        return (
            request.serves == CANARY
            and self.rules.enabled
            and self.load.of[STABLE].has_room(self.in_flight(STABLE))
            and self.rules.budget.take(now, self.cells[STABLE][ROUTED])
        )

    def count(self, request: Request, status: int, waited: float, *, failed: bool) -> None:
        """Count the end of a request for its variant."""
        if request.serves == request.routed:
            cells = self.cells[request.routed]
            cells[FINISHED] += 1
            cells[counters.CODES + status] += 1
            cells[FIRST_BYTE + histogram.bucket_index(waited)] += 1
            cells[FAILED] += failed


@dataclass
class Servers:
    """A queue without bound, and who is worked on."""

    slots: int
    busy: int = 0
    queue: deque[tuple[Request, int]] = field(default_factory=deque)


class Play:
    """One release in an incident; ``tick`` until ``seconds``, ten times each."""

    def __init__(self, incident: Incident, seed: int) -> None:
        self._incident = incident
        self._luck = luck = Random(f"{incident.name} {seed}")
        self._activity = list(accumulate(exp(luck.gauss(0.0, 1.0)) for _ in range(USERS)))
        self._positions = [luck.randrange(POSITIONS) for _ in range(USERS)]
        self._proxies = [Proxy(incident) for _ in range(incident.replicas)]
        self._homes = [luck.choice(self._proxies) for _ in range(USERS)]
        if incident.shared:
            both = Servers(2 * incident.slots)
            self._servers = (both, both)
        else:
            self._servers = (Servers(incident.slots), Servers(incident.slots))
        self._judge = Judge(JudgeSettings(steps=(incident.weight,), placebos=0))
        self._in_flight: list[Request] = []
        self._done: list[tuple[float, int, Request, int]] = []
        self._next = self.now = -BASELINE
        self._number = 0
        self._words: list[int] = []
        self._limit = 0

    @property
    def shed(self) -> tuple[int, int]:
        """Requests that stable and the canary have refused."""
        stable, canary = (
            sum(counters.shed(one.cells[variant]) for one in self._proxies)
            for variant in (STABLE, CANARY)
        )
        return stable, canary

    def tick(self) -> Assessment:
        """Let a tenth of a second pass, and judge."""
        self.now += TICK
        while (at := min(self._next, self._done[0][0] if self._done else inf)) <= self.now:
            if self._next == at:
                self._come(at)
            else:
                self._end_work(at)
        if self.now >= 0.0:
            self._limit = round(self._incident.weight * 100)
        for proxy in self._proxies:
            proxy.tick(self.now)
        self._in_flight = [request for request in self._in_flight if not request.is_over]
        for request in self._in_flight:
            self._look_after(request)
        words, self._words = self._words, []
        sample = Sample(
            *(self._raw(STABLE), self._raw(CANARY), words, self._limit, _EPOCH),
            names={_ROUTE: _NAME.decode()},
            shed=self.shed,
        )
        return self._judge.observe(self.now + BASELINE, sample)

    def _raw(self, variant: int) -> Counts:
        ended = sum(counters.answered(one.cells[variant]) for one in self._proxies)
        failed = sum(one.cells[variant][FAILED] for one in self._proxies)
        return {"requests": (ended, failed), "client_errors": (ended, 0), "unreached": (ended, 0)}

    # The way of a request

    def _come(self, now: float) -> None:
        """Let a user ask: ``dispatch.begin``."""
        self._next = now + self._luck.expovariate(RATE * self._incident.load(now))
        (user,) = self._luck.choices(range(USERS), cum_weights=self._activity)
        position, proxy = self._positions[user], self._homes[user]
        variant = CANARY if position < self._limit * FINE else STABLE
        request = Request(user, now, variant, variant, proxy)
        proxy.cells[variant][ROUTED] += 1
        routing = Routing(_TABLE, b"key", position // FINE, variant, b"", position)
        load = proxy.load
        refused = load.sheds and load.of[variant].refuses(proxy.in_flight(variant), routing)
        request.compared = not load.of[STABLE].sheds
        if refused:
            self._refuse(request, now)
        else:
            self._in_flight.append(request)
            self._start(request, now)

    def _refuse(self, request: Request, now: float) -> None:
        proxy, variant = request.proxy, request.routed
        cells = proxy.cells[variant]
        cells[ERRORS + Reason.SHED] += 1
        if variant == STABLE or proxy.load.of[STABLE].was_late:
            cells[SHED] += 1
            proxy.count(request, 503, 0.0, failed=False)
        else:
            self._fail(request, 503, now)

    def _start(self, request: Request, now: float) -> None:
        """Send it to an endpoint, or to another one."""
        attempts, flaky = 0, self._incident.flaky(now)
        while self._luck.random() < flaky:
            attempts += 1
            if (request.serves == CANARY and self._incident.rescue) or attempts == ENDPOINTS:
                self._fail(request, 502, now)
                return
            request.flags |= records.FAILED
        request.attempt += 1
        servers = self._servers[request.serves]
        servers.queue.append((request, request.attempt))
        self._work(servers, now)

    def _work(self, servers: Servers, now: float) -> None:
        incident = self._incident
        while servers.busy < servers.slots and servers.queue:
            request, attempt = servers.queue.popleft()
            if request.is_over or request.attempt != attempt:
                continue
            servers.busy += 1
            takes = MEAN * exp(0.5 * self._luck.gauss(0.0, 1.0)) * incident.slow(now)
            takes *= incident.canary if request.serves == CANARY else 1.0
            begin, end = incident.stall
            if now < end and now + takes > begin:
                takes += end - max(now, begin)
            self._number += 1
            heapq.heappush(self._done, (now + takes, self._number, request, attempt))

    def _end_work(self, now: float) -> None:
        _, _, request, attempt = heapq.heappop(self._done)
        servers = self._servers[request.serves if request.attempt == attempt else request.routed]
        servers.busy -= 1
        if not request.is_over and request.attempt == attempt:
            waited = now - request.at
            request.is_over = True
            request.proxy.count(request, 200, waited, failed=False)
            self._record(request, request.flags | ENDED, 200, waited)
        self._work(servers, now)

    def _fail(self, request: Request, status: int, now: float) -> None:
        """Have stable answer in the canary's place, or fail: ``Exchange._failed``."""
        flags = request.flags | ENDED | records.FAILED
        proxy = request.proxy
        proxy.count(request, status, now - request.at, failed=True)
        if proxy.may_rescue(request, now):
            self._record(request, flags | records.RESCUED, status, None)
            request.serves, request.compared = STABLE, False
            self._start(request, now)
        else:
            request.is_over = True
            self._record(request, flags, status, None)

    def _look_after(self, request: Request) -> None:
        """Record what a request has passed, and have it answered or given up: ``DataPath.tick``."""
        proxy, waited = request.proxy, self.now - request.at
        late, stalled = self._judge.published
        rescue = proxy.rules.enabled and waited > proxy.after
        passed = (
            (records.LATE if waited > late else 0)
            | (records.STALLED if waited > stalled else 0)
            | (records.OVERDUE if rescue else 0)
        ) & ~request.flags
        if passed:
            request.flags |= passed
            self._record(request, passed, 0, None)
        if waited > GIVES_UP and not request.is_over:
            request.is_over = True
            if request.serves == request.routed:
                cells = proxy.cells[request.routed]
                cells[FINISHED] += 1
                cells[counters.CLIENT_CLOSED] += 1
            gone = ENDED | records.CLIENT_GONE | records.ABANDONED
            self._record(request, request.flags | gone, 0, None)
        elif rescue and not request.is_over and request.serves == CANARY:
            budget, stable = proxy.rules.budget, proxy.cells[STABLE][ROUTED]
            if budget.allows(self.now, stable):
                self._fail(request, 504, self.now)

    def _record(self, request: Request, flags: int, status: int, waited: float | None) -> None:
        if request.compared:
            position = self._positions[request.user]
            self._words += (
                pack_first(position, request.routed, _EPOCH, status, 2, flags),
                pack_second(_ROUTE, 0, 0),
                pack_third(waited, 1000 if status == 200 else 0),
            )


@dataclass(frozen=True)
class Outcome:
    """What became of a release."""

    cause: str | None
    """Why it was rolled back; ``None``: it was not."""
    at: float
    """Seconds since the first step when it was, or when the simulation ended."""
    shed: tuple[int, int]


def play(incident: Incident, seed: int, seconds: float = 240.0) -> Outcome:
    """Play an incident; stop at a rollback."""
    run = Play(incident, seed)
    while run.now < seconds:
        seen = run.tick()
        if seen.level == "breach":
            return Outcome(seen.cause, run.now, run.shed)
    return Outcome(None, run.now, run.shed)


_STARVED: Final = during(90.0, 210.0, 20.0)

INCIDENTS: Final = (
    Incident("nothing"),
    Incident("a stall of 3 s", stall=(90.0, 93.0)),
    Incident("a stall of 20 s", stall=(90.0, 110.0)),
    Incident("a stall of 5 s", stall=(90.0, 95.0), weight=50.0),
    Incident("60 times as slow for a minute", slow=during(90.0, 150.0, 60.0), slots=400),
    Incident("2% of attempts are reset", flaky=lambda _: 0.02),
    Incident("30% of attempts are reset, for 20 s", flaky=during(90.0, 110.0, 0.3, 0.0)),
    Incident("20 times as slow, one queue, shed", slow=_STARVED, shared=True, shed_after=2.0),
    Incident("20 times as slow, two queues, shed", slow=_STARVED, slots=10, shed_after=2.0),
    Incident("8 times as slow, one queue, shed", slow=during(90.0, 210.0, 8.0), slots=10,
             shared=True, shed_after=2.0, weight=50.0),
    Incident("slow in half of the time, 2 replicas, shed", replicas=2, shed_after=2.0, slots=10,
             slow=lambda now: 25.0 if 60.0 < now < 240.0 and now % 20.0 < 10.0 else 1.0),
    Incident("the same", replicas=2, shed_after=2.0, slots=10, weight=25.0,
             slow=lambda now: 25.0 if 60.0 < now < 240.0 and now % 20.0 < 10.0 else 1.0),
    Incident("five times the load, one queue, shed", load=during(90.0, 210.0, 5.0), slots=3,
             shared=True, shed_after=2.0),
    Incident("a canary four times as slow, in a stall of 20 s", stall=(90.0, 110.0), canary=4.0),
)  # fmt: skip
