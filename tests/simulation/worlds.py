"""Simulated releases with users: histories that know nothing of variants, then the lot, then the harm.

A ``World`` says what users are like and what the canary does to them. ``World.run`` draws one release: first
what every user asks and how stable answers, then a position for each user, and only then makes answers of the
canary worse. So in a healthy world the histories do not depend on the draw, whatever users are like.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from canaryproxy.measure.routing import FINE, POSITIONS

TICK = 0.1
"""Seconds between two looks at the counts."""
BASELINE = 60.0
"""Seconds of stable alone before the step."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Harm:
    """What a bad canary does."""

    bad: float
    """Share of its answers that are bad, of users who would have met fewer."""
    after: float = 0.0
    """Seconds of the step for which it is as good as stable."""
    until: float = inf
    """Seconds of the step after which it is well."""
    route: int | None = None
    """The only route that is hurt."""
    waits: float = 0.0
    """Seconds after which a bad answer is known to be one."""


@dataclass(frozen=True)
class Release:
    """The requests of one release in the order in which they settled."""

    t: Floats
    """Seconds when it settled; those before 0 are the baseline."""
    asked: Floats
    """Seconds when it was routed."""
    user: Ints
    position: Ints
    canary: Bools
    bad: Bools
    keyed: Bools
    """Whether the request had a key; those without go to stable and leave no record."""
    route: Ints
    first: int
    limit: int
    """Positions ``first <= position < limit`` are moved to the canary at second 0."""
    seconds: float
    broken_at: float
    """Seconds from which the canary is bad."""

    @property
    def ticks(self) -> int:
        """Number of looks."""
        return round(self.seconds / TICK)

    def bounds(self) -> Ints:
        """Return where each tick of the step begins among the records, and where the last one ends."""
        edges = np.arange(self.ticks + 1) * TICK
        return np.searchsorted(self.t, edges, side="left")

    def counts(self, only: Bools | None = None) -> tuple[Ints, Ints, Ints, Ints]:
        """Return trials and events by tick, of stable, then of the canary; ``only`` some requests."""
        kept = self.t >= 0 if only is None else only & (self.t >= 0)
        tick = (self.t[kept] / TICK).astype(np.int64)
        canary, bad = self.canary[kept], self.bad[kept]
        n = self.ticks
        cells = [
            np.bincount(tick[side], minlength=n)[:n]
            for side in (~canary, ~canary & bad, canary, canary & bad)
        ]
        return cells[0], cells[1], cells[2], cells[3]

    def hurt_until(self, tick: int) -> tuple[int, int]:
        """Return the canary's requests, and users with a bad answer, since it broke and up to a tick."""
        end = (tick + 1) * TICK
        asked = self.canary & (self.asked >= self.broken_at) & (self.asked < end)
        bad = self.canary & self.bad & (self.t >= self.broken_at) & (self.t < end)
        return int(asked.sum()), len(np.unique(self.user[bad]))


@dataclass(frozen=True)
class World:
    """What users and their traffic are like; see the fields. Equal versions unless ``harm`` is given."""

    weight: float
    """Percent of the positions that the step moves to the canary, with those moved before."""
    users: int = 2000
    bad: float = 0.005
    """Share of bad answers of ordinary users."""
    harm: Harm | None = None
    rate: float = 200.0
    """Requests a second, both variants."""
    tail: float = 0.0
    """How unlike users' activity is: standard deviation of its logarithm; 1.5 is heavy-tailed."""
    accounts: float = 0.0
    """Share of accounts that differ from the others."""
    account_bad: float = 1.0
    """Share of bad answers of those accounts."""
    whale: float = 0.0
    """Share of the traffic that one client has, whose answers are all bad."""
    bots: int = 0
    """Clients that come in bursts of ten seconds, five requests a second, a third of them bad."""
    retries: float = 0.0
    """Mean number of times that a bad answer is asked for again within seconds, as bad each time."""
    keyless: float = 0.0
    """Share of requests without a key."""
    keyless_bad: float = 0.0
    """Share of bad answers among them."""
    swing: float = 0.0
    """Amplitude of a common wave of bad answers, and of the traffic at half of it."""
    outages: bool = False
    """Two outages of ten seconds in which half of all answers are bad, and a rush of traffic in one."""
    routes: tuple[float, ...] = ()
    """Shares of the traffic by route."""
    before: float = 0.0
    """Percent of the positions that earlier steps have moved."""

    def run(self, rng: np.random.Generator, seconds: float) -> Release:
        """Draw one release."""
        asked = self._times(rng, seconds)
        user = self._who(rng, len(asked))
        rates = np.full(self.users + self.bots, self.bad)
        rates[: self.users][rng.random(self.users) < self.accounts] = self.account_bad
        if self.whale:
            rates[0] = 1.0
        if self.bots:
            asked, user = self._with_bots(rng, asked, user, seconds)
            rates[self.users :] = 1 / 3
        keyed = rng.random(len(asked)) >= self.keyless
        p = np.where(keyed, rates[user], self.keyless_bad)
        p = self._shared(rng, p, asked, seconds)
        luck = rng.random(len(asked))
        shares = np.asarray(self.routes or (1.0,))
        route = np.searchsorted(np.cumsum(shares / shares.sum()), rng.random(len(asked)))
        if self.retries:
            times = np.where(luck < p, rng.geometric(1 / (1 + self.retries), len(asked)), 1)
            row = np.repeat(np.arange(len(asked)), times)
            late = rng.exponential(2.0, len(row)) * (np.diff(row, prepend=-1) == 0)
            asked, user, keyed = asked[row] + late, user[row], keyed[row]
            p, luck, route = p[row], luck[row], route[row]
        place = rng.integers(0, POSITIONS, self.users + self.bots)
        first, limit = (round(part * 100) * FINE for part in (self.before, self.weight))
        position = place[user]
        canary = keyed & (position < np.where(asked >= 0, limit, first))
        settled = asked
        if (harm := self.harm) is not None:
            hit = canary & (asked >= harm.after) & (asked < harm.until)
            if harm.route is not None:
                hit &= route == harm.route
            p = np.where(hit, np.maximum(p, harm.bad), p)
            settled = asked + harm.waits * (hit & (luck < p))
        order = np.argsort(settled, kind="stable")
        bad = luck < p
        return Release(
            t=settled[order],
            asked=asked[order],
            user=user[order],
            position=position[order],
            canary=canary[order],
            bad=bad[order],
            keyed=keyed[order],
            route=route[order],
            first=first,
            limit=limit,
            seconds=seconds,
            broken_at=0.0 if self.harm is None else self.harm.after,
        )

    def _times(self, rng: np.random.Generator, seconds: float) -> Floats:
        """Draw when requests come."""
        every = np.arange(-BASELINE, seconds)
        busy = np.full(len(every), self.rate)
        if self.swing:
            busy *= 1 + self.swing / 2 * np.sin(2 * np.pi * (every / 97.0 + rng.uniform()))
        if self.outages:
            busy[(every >= seconds * 0.6) & (every < seconds * 0.6 + 20)] *= 3
        times = np.repeat(every, rng.poisson(busy))
        return times + rng.random(len(times))

    def _who(self, rng: np.random.Generator, n: int) -> Ints:
        """Draw whose requests they are."""
        if not self.tail and not self.whale:
            return rng.integers(0, self.users, n)
        active = np.exp(self.tail * rng.normal(size=self.users))
        if self.whale:
            active[0] = active[1:].sum() * self.whale / (1 - self.whale)
        total = np.cumsum(active)
        found: Ints = np.searchsorted(total, rng.random(n) * total[-1])
        return found

    def _with_bots(
        self, rng: np.random.Generator, asked: Floats, user: Ints, seconds: float
    ) -> tuple[Floats, Ints]:
        """Add the requests of bots: each has a burst in every other minute or so."""
        bursts = rng.poisson((seconds + BASELINE) / 100.0, self.bots)
        whose = np.repeat(np.arange(self.bots), bursts)
        start = rng.uniform(-BASELINE, max(seconds - 10.0, 1.0), len(whose))
        times = (start[:, None] + rng.uniform(0.0, 10.0, (len(whose), 50))).ravel()
        return (
            np.concatenate([asked, times]),
            np.concatenate([user, np.repeat(self.users + whose, 50)]),
        )

    def _shared(self, rng: np.random.Generator, p: Floats, t: Floats, seconds: float) -> Floats:
        """Apply what happens to everybody at once."""
        if self.swing:
            period = rng.uniform(20.0, 200.0)
            p = p * (1 + self.swing * np.sin(2 * np.pi * (t / period + rng.uniform())))
        if self.outages:
            for start in (seconds * 0.3, seconds * 0.6):
                p = np.where((t >= start) & (t < start + 10.0), np.maximum(p, 0.5), p)
        return np.clip(p, 0.0, 1.0)


def mixed(total: float, accounts: float) -> float:
    """Return the rate of ordinary users so that with accounts that always fail the whole has ``total``."""
    return max((total - accounts) / (1.0 - accounts), 0.0)


def zipf(routes: int) -> tuple[float, ...]:
    """Return the shares of the traffic of routes by Zipf's law; of 32, the last has 0.77 %."""
    shares = 1.0 / np.arange(1, routes + 1)
    return tuple(float(share) for share in shares / shares.sum())
