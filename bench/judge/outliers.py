"""Outlier ejection among equal endpoints, and of a dead one: ``python -m bench.judge.outliers``.

Each row of the first table is a way in which requests fail on all endpoints alike, with users who are no coin
flips: an ejection there is a false one. The proxy's own pool chooses the endpoints. The second table has one
endpoint that fails in everything from some moment on.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator
from random import Random
from statistics import median

from canaryproxy.config import Limits
from canaryproxy.config.addresses import Endpoint as EndpointConfig
from canaryproxy.judging.outliers import Observed, OutlierRules, Outliers
from canaryproxy.measure.endpoint_cells import KEYS, key_cell
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
        self._outliers = Outliers(OutlierRules(by_hash, 0.2, 0.34, 30.0, 300.0))
        self.dead_for = 0

    def tick(self, now: float, world: World, *, dead: bool = False) -> int:
        """Return how many endpoints are ejected now."""
        for user, bad in world(self.random, now):
            key = b"user%d" % user
            endpoint = self._pool.choose(key)
            assert endpoint is not None
            at = self._at[id(endpoint)]
            self._requests[at] += 1
            self.dead_for += dead and at == 0
            if bad or (dead and at == 0):
                self._failed[at] += 1
                self._keys[at][key_cell(key)] += 1
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


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=5.0, help="of each row and column")
    hours = parser.parse_args().hours
    columns = [(by_hash, endpoints) for by_hash in (False, True) for endpoints in (2, 4, 8)]
    names = [f"{'hash' if by_hash else 'least_requests'}, {n}" for by_hash, n in columns]
    print(f"| false ejections in {hours:g} hours | {' | '.join(names)} |")
    print("|---|" + "---|" * len(columns))
    for title, world in _WORLDS.items():
        found = [false_ejections(world, n, hours, by_hash=by_hash) for by_hash, n in columns]
        print(f"| {title} | {' | '.join(map(str, found))} |", flush=True)
    print(f"\n| a dead endpoint of so many | {' | '.join(names)} |")
    print("|---|" + "---|" * len(columns))
    took = [
        [until_ejected(n, by_hash=by_hash, seed=seed) for seed in range(200)]
        for by_hash, n in columns
    ]
    print(f"| its requests, median | {' | '.join(f'{median(one):g}' for one in took)} |")
    print(f"| at most, of 200 | {' | '.join(str(max(one)) for one in took)} |")


if __name__ == "__main__":
    main()
