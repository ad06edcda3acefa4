"""Outlier ejection among equal endpoints, and of a dead or slow one: ``python -m bench.judge.outliers``.

Each row of the first table is a way in which requests fail on all endpoints alike, with users who are no coin
flips: an ejection there is a false one. The proxy's own pool chooses the endpoints. The second table has one
endpoint that fails in everything from some moment on. The third and the fourth are of slow responses; with
``--slow`` they are the only ones.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator
from math import log
from random import Random
from statistics import median

from canaryproxy.config import Limits
from canaryproxy.config.addresses import Endpoint as EndpointConfig
from canaryproxy.judging.outliers import Observed, OutlierRules, Outliers
from canaryproxy.measure.endpoint_cells import KEYS, MANY_KEYS, key_cell
from canaryproxy.measure.histogram import BUCKETS, bucket_index
from canaryproxy.measure.slowness import FAR
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.interfaces import UpstreamLink
from canaryproxy.proxy.pool import Pool

_RATE = 50
"""Requests a second, in all."""
_USERS = 2000

World = Callable[[Random, float], Iterator[tuple[int, bool]]]
"""Yields the requests of a tick: the user, and whether the request fails wherever it goes."""


def _few(random: Random, _time: float) -> Iterator[tuple[int, bool]]:
    for _ in range(_RATE // 10):
        yield random.randrange(_USERS), random.random() < 0.01


def _accounts(random: Random, _time: float) -> Iterator[tuple[int, bool]]:
    for _ in range(_RATE // 10):
        user = random.randrange(_USERS)
        yield user, user % 20 == 0


def _client(random: Random, _time: float) -> Iterator[tuple[int, bool]]:
    for _ in range(_RATE // 10):
        bad = random.random() < 0.3
        yield (0 if bad else random.randrange(_USERS)), bad


def _clients(random: Random, time: float) -> Iterator[tuple[int, bool]]:
    """Three clients with a bad route, others each hour."""
    for _ in range(_RATE // 10):
        bad = random.random() < 0.5
        user = int(time // 3600) * 3 + random.randrange(3) if bad else random.randrange(_USERS)
        yield user, bad


def _outages(random: Random, time: float) -> Iterator[tuple[int, bool]]:
    rate = 0.4 if time % 60 < 10 else 0.005
    for _ in range(_RATE // 10):
        yield random.randrange(_USERS), random.random() < rate


def _pages(random: Random, _time: float) -> Iterator[tuple[int, bool]]:
    for at in range(_RATE // 10 + 1):
        yield random.randrange(_USERS), at % 2 == 1


_WORLDS: dict[str, World] = {
    "1% of all requests fail": _few,
    "5% of the users fail in all requests": _accounts,
    "one client sends 30% of the requests, and all fail": _client,
    "three clients send half of the requests, and all fail": _clients,
    "outages: 40% fail in ten seconds of each minute": _outages,
    "each second request fails, in turn": _pages,
}


Times = Callable[[Random, float], Iterator[tuple[int, float]]]
"""Yields the requests of a tick: the user, and the seconds to the first byte wherever the request goes."""
Slower = Callable[[int, float, float], float]
"""Returns the seconds to the first byte at an endpoint (by number), at a time."""


def _even(random: Random, _time: float) -> Iterator[tuple[int, float]]:
    for _ in range(_RATE // 10):
        yield random.randrange(_USERS), random.lognormvariate(log(0.040), 0.5)


def _wide(random: Random, _time: float) -> Iterator[tuple[int, float]]:
    for _ in range(_RATE // 10):
        yield random.randrange(_USERS), random.lognormvariate(log(0.040), 1.0)


def _quick(random: Random, _time: float) -> Iterator[tuple[int, float]]:
    for _ in range(_RATE // 10):
        yield random.randrange(_USERS), random.lognormvariate(log(0.002), 0.1)


def _slow_accounts(random: Random, _time: float) -> Iterator[tuple[int, float]]:
    for user, seconds in _even(random, _time):
        yield user, seconds * (10.0 if user % 20 == 0 else 1.0)


def _slow_client(random: Random, _time: float) -> Iterator[tuple[int, float]]:
    for user, seconds in _even(random, _time):
        bad = random.random() < 0.3
        yield (0 if bad else user), seconds * (10.0 if bad else 1.0)


def _slow_times(random: Random, time: float) -> Iterator[tuple[int, float]]:
    for user, seconds in _even(random, time):
        yield user, seconds * (5.0 if time % 60 < 10 else 1.0)


def _same(_at: int, _time: float, seconds: float) -> float:
    return seconds


def _zone(at: int, _time: float, seconds: float) -> float:
    return seconds + (0.002 if at == 0 else 0.0)


def _half(at: int, _time: float, seconds: float) -> float:
    return seconds * (1.5 if at == 0 else 1.0)


def _pause(at: int, time: float, seconds: float) -> float:
    """A second in each minute, each endpoint at a time of its own."""
    past = (time + 13.7 * at) % 60
    return seconds + max(1.0 - past, 0.0)


def _thrice(at: int, _time: float, seconds: float) -> float:
    return seconds * (3.0 if at == 0 else 1.0)


_TIMES: dict[str, tuple[Times, Slower]] = {
    "median 40 ms, P95 91 ms": (_even, _same),
    "median 40 ms, P95 207 ms": (_wide, _same),
    "median 2 ms, one endpoint in another zone, 2 ms more": (_quick, _zone),
    "one endpoint half as slow again": (_even, _half),
    "5% of the users are ten times as slow": (_slow_accounts, _same),
    "one client sends 30% of the requests, ten times as slow": (_slow_client, _same),
    "all are five times as slow in ten seconds of each minute": (_slow_times, _same),
    "each endpoint stops for a second of each minute": (_even, _pause),
}


class _Service:
    """Endpoints that are equal, but for one that may be dead."""

    def __init__(self, endpoints: int, *, by_hash: bool, seed: int) -> None:
        self.random = Random(seed)
        addresses = [
            EndpointConfig("http", f"10.0.{seed % 256}.{at}", 80) for at in range(endpoints)
        ]
        self._names = [str(one) for one in addresses]
        loop = asyncio.new_event_loop()
        made = [Endpoint(one, Limits(), loop, _no_link) for one in addresses]
        loop.close()
        self._pool = Pool(made, by_hash=by_hash)
        self._at = {id(one): at for at, one in enumerate(made)}
        self._requests, self._failed = [0] * endpoints, [0] * endpoints
        self._keys = [[0] * KEYS for _ in made]
        self._slow_keys = [[0] * MANY_KEYS for _ in made]
        self._far_keys = [[0] * MANY_KEYS for _ in made]
        self._times = [[0] * BUCKETS for _ in made]
        self._outliers = Outliers(OutlierRules(by_hash, 0.2, 0.34, 30.0, 300.0))
        self.dead_for = 0
        """Requests that the first endpoint got when it was dead or slow."""

    def tick(self, now: float, world: World, *, dead: bool = False) -> int:
        """Return how many endpoints are ejected now."""
        for user, bad in world(self.random, now):
            key, at = self._choose(user)
            self.dead_for += dead and at == 0
            if bad or (dead and at == 0):
                self._failed[at] += 1
                self._keys[at][key_cell(key) % KEYS] += 1
        return self._observe(now)

    def tick_times(self, now: float, times: Times, slower: Slower, *, counts: bool = False) -> int:
        """Do the same with responses of which none fails."""
        for user, usual in times(self.random, now):
            key, at = self._choose(user)
            self.dead_for += counts and at == 0
            bucket = bucket_index(slower(at, now, usual))
            self._times[at][bucket] += 1
            slow_from = self._outliers.slow_from
            if bucket >= slow_from:
                self._slow_keys[at][key_cell(key)] += 1
                self._far_keys[at][key_cell(key)] += bucket >= FAR[slow_from]
        return self._observe(now)

    def _choose(self, user: int) -> tuple[bytes, int]:
        key = b"user%d" % user
        endpoint = self._pool.choose(key)
        assert endpoint is not None
        at = self._at[id(endpoint)]
        self._requests[at] += 1
        return key, at

    def _observe(self, now: float) -> int:
        changes = self._outliers.observe(
            now,
            [
                Observed(*one)
                for one in zip(
                    self._names,
                    [True] * len(self._names),
                    self._requests,
                    self._failed,
                    map(tuple, self._keys),
                    map(tuple, self._times),
                    map(tuple, self._slow_keys),
                    map(tuple, self._far_keys),
                    strict=True,
                )
            ],
        )
        return sum(change.ejected for change in changes)


def _no_link(_endpoint: Endpoint) -> UpstreamLink:
    raise AssertionError("nothing is connected")


def false_ejections(
    world: World, endpoints: int, hours: float, *, by_hash: bool, seed: int = 1
) -> int:
    """Return how often one of equal endpoints is ejected; each hour has users of its own."""
    found = 0
    for hour in range(max(int(hours), 1)):
        service = _Service(endpoints, by_hash=by_hash, seed=seed + hour)
        for tick in range(int(36000 * min(hours, 1.0))):
            found += service.tick(tick / 10, world)
    return found


def until_ejected(endpoints: int, *, by_hash: bool, seed: int) -> int:
    """Return how many requests an endpoint gets that fails in all, until it is ejected."""
    service = _Service(endpoints, by_hash=by_hash, seed=seed)
    now = 0.0
    while now < 20.0:
        now += 0.1
        service.tick(now, _few)
    while not service.tick(now, _few, dead=True):
        now += 0.1
    return service.dead_for


def false_slow(
    times: Times, slower: Slower, endpoints: int, hours: float, *, by_hash: bool, seed: int = 1
) -> int:
    """Return how often an endpoint is ejected as slow that is no slower than it may be."""
    service = _Service(endpoints, by_hash=by_hash, seed=seed)
    return sum(service.tick_times(tick / 10, times, slower) for tick in range(int(36000 * hours)))


def until_slow(times: Times, endpoints: int, *, by_hash: bool, seed: int) -> tuple[int, float]:
    """Return requests and seconds until an endpoint is ejected that becomes three times as slow.

    It is given up after five minutes.
    """
    service = _Service(endpoints, by_hash=by_hash, seed=seed)
    tick = 0
    for tick in range(900):
        service.tick_times(tick / 10, times, _same)
    for late in range(3000):
        if service.tick_times((tick + 1 + late) / 10, times, _thrice, counts=True):
            break
    return service.dead_for, (late + 1) / 10


def _print_slow(columns: list[tuple[bool, int]], names: list[str], hours: float, of: int) -> None:
    print(f"\n| false ejections in {hours:g} hours | {' | '.join(names)} |")
    print("|---|" + "---|" * len(columns))
    for title, (times, slower) in _TIMES.items():
        found = [false_slow(times, slower, n, hours, by_hash=by_hash) for by_hash, n in columns]
        print(f"| {title} | {' | '.join(map(str, found))} |", flush=True)
    print(f"\n| three times as slow, of so many | {' | '.join(names)} |")
    print("|---|" + "---|" * len(columns))
    for title, times in (("P95 91 ms", _even), ("P95 207 ms", _wide)):
        took = [
            [until_slow(times, n, by_hash=by_hash, seed=seed) for seed in range(of)]
            for by_hash, n in columns
        ]
        print(
            f"| {title}: its requests, median | "
            + " | ".join(f"{median(requests for requests, _ in one):g}" for one in took)
            + " |"
        )
        print(
            f"| {title}: seconds, median | "
            + " | ".join(f"{median(seconds for _, seconds in one):.1f}" for one in took)
            + " |"
        )
        print(
            f"| {title}: seconds, at most, of {of} | "
            + " | ".join(f"{max(seconds for _, seconds in one):.1f}" for one in took)
            + " |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=5.0, help="of each row and column")
    parser.add_argument("--slow", action="store_true", help="only the tables of slow responses")
    parser.add_argument("--runs", type=int, default=200, help="with an endpoint that is bad")
    given = parser.parse_args()
    hours = given.hours
    columns = [(by_hash, endpoints) for by_hash in (False, True) for endpoints in (2, 4, 8)]
    names = [f"{'hash' if by_hash else 'least_requests'}, {n}" for by_hash, n in columns]
    if not given.slow:
        _print_failing(columns, names, hours, given.runs)
    _print_slow(columns, names, hours, given.runs)


def _print_failing(
    columns: list[tuple[bool, int]], names: list[str], hours: float, of: int
) -> None:
    print(f"| false ejections in {hours:g} hours | {' | '.join(names)} |")
    print("|---|" + "---|" * len(columns))
    for title, world in _WORLDS.items():
        found = [false_ejections(world, n, hours, by_hash=by_hash) for by_hash, n in columns]
        print(f"| {title} | {' | '.join(map(str, found))} |", flush=True)
    print(f"\n| a dead endpoint of so many | {' | '.join(names)} |")
    print("|---|" + "---|" * len(columns))
    took = [
        [until_ejected(n, by_hash=by_hash, seed=seed) for seed in range(of)]
        for by_hash, n in columns
    ]
    print(f"| its requests, median | {' | '.join(f'{median(one):g}' for one in took)} |")
    print(f"| at most, of {of} | {' | '.join(str(max(one)) for one in took)} |")


if __name__ == "__main__":
    main()
