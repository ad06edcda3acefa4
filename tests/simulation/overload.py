"""An overloaded variant: slots, a queue without bound, clients that give up. A request whose client has left
is worked on all the same, as most servers do."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import BUCKETS, FINE, RouteTable, Routing
from canaryproxy.measure.shedding import LoadLimit

_TABLE = RouteTable()
_GIVE_UP = 10.0
"""Seconds that a client waits."""


@dataclass
class Served:
    """What became of the requests of some users."""

    sent: int = 0
    in_time: int = 0
    refused: int = 0

    @property
    def share(self) -> float:
        return self.in_time / self.sent if self.sent else 1.0


def user(bucket: int, *, new: bool) -> Routing:
    """Return the routing of a user; a new one's response sets a cookie."""
    return Routing(
        _TABLE,
        b"key",
        bucket,
        0,
        b"Set-Cookie: x\r\n" if new else b"",
        -1 if new else bucket * FINE,
    )


@dataclass(frozen=True)
class World:
    """``rate`` and ``service`` (mean seconds) by time; ``slots`` requests are served at a time."""

    rate: Callable[[float], float]
    slots: int = 10
    service: Callable[[float], float] = lambda _: 0.1
    new_users: float = 0.3
    seconds: float = 180.0
    users: int = 500


def run(
    world: World, limit: LoadLimit, patience: float, counted_from: float, seed: int = 1
) -> dict[bool, Served]:
    """Return what became of the requests from ``counted_from`` on, of new users and of others."""
    random = Random(seed)
    cells = [0] * counters.VARIANT_CELLS
    served = {True: Served(), False: Served()}
    queue: deque[tuple[float, bool, list[bool]]] = deque()
    busy = 0
    events: list[tuple[float, int, str, object]] = [
        (0.0, 0, "arrival", None),
        (0.0, 1, "tick", None),
    ]
    serial = 2

    def at(time: float, what: str, which: object = None) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (time, serial, what, which))

    def end(status: int, waited: float) -> None:
        cells[counters.FINISHED] += 1
        cells[counters.CODES + status] += 1
        cells[counters.FIRST_BYTE + histogram.bucket_index(waited)] += 1

    while events:
        now, _, what, which = heapq.heappop(events)
        if now > world.seconds:
            break
        if what == "tick":
            limit.observe(now, cells, 1)
            at(now + 0.1, "tick")
        elif what == "arrival":
            at(now + random.expovariate(world.rate(now)), "arrival")
            new = random.random() < world.new_users
            bucket = random.randrange(BUCKETS) if new else random.randrange(world.users) * 17
            group, counted = served[new], now >= counted_from
            group.sent += counted
            cells[counters.ROUTED] += 1
            in_flight = cells[counters.ROUTED] - cells[counters.FINISHED]
            if limit.refuses(in_flight, user(bucket, new=new)):
                cells[counters.ERRORS + Reason.SHED] += 1
                cells[counters.SHED] += 1
                end(503, 0.0)
                group.refused += counted
                continue
            waits = [True]
            queue.append((now, new, waits))
            at(now + _GIVE_UP, "gone", waits)
        elif what == "gone":
            assert isinstance(which, list)
            if which[0]:
                which[0] = False
                cells[counters.FINISHED] += 1
                cells[counters.CLIENT_CLOSED] += 1
        else:
            assert isinstance(which, tuple)
            busy -= 1
            came, new, waits = which
            if waits[0]:
                waits[0] = False
                end(200, now - came)
                if came >= counted_from and now - came <= patience:
                    served[new].in_time += 1
        while busy < world.slots and queue:
            busy += 1
            one = queue.popleft()
            at(now + random.expovariate(1.0 / world.service(now)), "done", one)
    return served
