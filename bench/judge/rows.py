"""The worlds that the judge is tried on, each with what it promises there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

from tests.simulation.judges import ERRORS, ROUTES, SLOW, Metric, Run
from tests.simulation.worlds import Harm, World, mixed, zipf


@dataclass(frozen=True)
class Wanted:
    """A promise about the runs of a row; what is not set is not asked for."""

    rolled: int | None = None
    """Releases rolled back at most."""
    held: float | None = None
    """Share of the releases that were suspect at any time, at most."""
    worse: float | None = None
    """Share of the releases that look worse at the end of the step, at most."""
    caught: float | None = None
    """Share of the releases rolled back, at least."""
    kept_back: bool = False
    """Whether each release that was not rolled back is held or looks worse, so that it is not promoted."""
    requests: float = inf
    """Median of the canary's requests until the rollback, at most."""
    users: float = inf
    """Median of the users with a bad answer, at most."""
    seconds: float = inf
    """Median seconds from the first bad request, at most."""

    def __str__(self) -> str:
        parts = []
        if self.rolled is not None:
            parts.append(f"rolled back ≤ {self.rolled}")
        if self.held is not None:
            parts.append(f"held ≤ {100 * self.held:g}%")
        if self.worse is not None:
            parts.append(f"looks worse ≤ {self.worse:.0%}")
        if self.caught is not None:
            parts.append(f"rolled back ≥ {self.caught:.0%}")
        if self.kept_back:
            parts.append("else not promoted")
        for value, unit in (
            (self.requests, "requests"),
            (self.users, "users hurt"),
            (self.seconds, "s"),
        ):
            if value < inf:
                parts.append(f"≤ {value:,g} {unit}")
        return ", ".join(parts)

    def measure(self, runs: Sequence[Run], slack: float = 1.0) -> tuple[str, bool]:
        """Return what was measured in words, and whether the promise holds.

        ``slack``: how many times as large as promised a median may be, because there are few runs.
        """
        total = len(runs)
        rolled = sum(run.tick is not None for run in runs)
        held = sum(run.held or run.tick is not None for run in runs) / total
        worse = sum(run.worse for run in runs) / total
        requests, users, seconds = (
            median(getattr(run, name) for run in runs) for name in ("requests", "users", "seconds")
        )
        parts, ok = [f"rolled back {rolled} of {total}"], requests <= self.requests * slack
        ok = ok and users <= self.users * slack and seconds <= self.seconds * slack
        if rolled * 2 > total:
            parts.append(f"{requests:,.0f} requests, {users:,.0f} users hurt, {seconds:.1f} s")
        if self.rolled is not None:
            ok = ok and rolled <= self.rolled
        if self.held is not None:
            parts.append(f"held {held:.1%}")
            ok = ok and held <= self.held
        if self.worse is not None:
            parts.append(f"looks worse {worse:.1%}")
            ok = ok and worse <= self.worse
        if self.caught is not None:
            ok = ok and rolled >= self.caught * total
        if self.kept_back:
            let_go = sum(run.tick is None and not run.held and not run.worse for run in runs)
            parts.append(f"promoted {let_go}")
            ok = ok and not let_go
        tripped, of = (sum(run.placebos[i] for run in runs) for i in (0, 1))
        if of:
            parts.append(f"placebo {tripped} of {of:,}")
            ok = ok and tripped <= 1 + of // 1000
        return ", ".join(parts), ok


@dataclass(frozen=True)
class Row:
    """A world, and what is promised there."""

    section: str
    name: str
    world: World
    wanted: Wanted
    metric: Metric = ERRORS
    seconds: float = 300.0
    """How long the step lasts."""
    releases: int = 200
    quick: int = 0
    """Releases of a quick run; 0: the row is left out of it."""
    placebos: int = 0
    history: bool = True
    """Whether the test knows what users did before the step."""
    beside: bool = False
    """Whether the other rules are tried on it."""
    whole: bool = False
    """Whether the whole judge is tried, with all its metrics and rules, in place of one metric's test."""


HEALTHY = Wanted(rolled=1, held=0.025)
"""One metric of fourteen may be held in 0.4 percent of releases; of 200, five at most are noise."""


def _healthy() -> list[Row]:
    rows = []

    def add(name: str, world: World, metric: Metric = ERRORS, **more: object) -> None:
        rows.append(Row("healthy", name, world, HEALTHY, metric, **more))  # type: ignore[arg-type]

    for weight in (1.0, 5.0, 25.0, 50.0):
        add(
            f"users alike, weight {weight:g}",
            World(weight, 20_000),
            quick=2 if weight == 50.0 else 0,
            beside=weight == 5.0,
        )
    slow = World(5.0, 200, mixed(0.05, 0.03), accounts=0.03, tail=1.0)
    for users, weights in ((200, (5, 25, 50)), (2000, (1, 5, 25, 50)), (20_000, (1,))):
        for weight in weights:
            add(
                f"3% slow accounts, {users:,} users, weight {weight}",
                replace(slow, users=users, weight=float(weight)),
                SLOW,
                quick=2 if (users, weight) in ((200, 50), (2000, 5)) else 0,
                beside=weight in (5, 25),
            )
    add("3% slow accounts, 10⁶ users, weight 1", replace(slow, users=10**6, weight=1.0), SLOW)
    whale = World(5.0, 2000, whale=0.1, tail=1.0)
    for weight in (5.0, 50.0):
        add(
            f"a whale with 10% of the traffic, always bad, weight {weight:g}",
            replace(whale, weight=weight),
            replace(SLOW, margin=0.01),
            quick=2 if weight == 50.0 else 0,
            beside=True,
        )
    for weight in (5.0, 50.0):
        for name, world in (
            ("40 bots in bursts, a third bad", World(weight, tail=1.5, bots=40)),
            ("clustered errors, 8 retries each", World(weight, tail=1.5, retries=8.0)),
            ("96% of requests without a key", World(weight, bad=0.02, tail=1.5, keyless=0.96)),
            ("wave of ±90%", World(weight, bad=0.02, tail=1.5, swing=0.9)),
            ("outages and a rush", World(weight, bad=0.01, tail=1.5, outages=True)),
        ):
            add(
                f"{name}, weight {weight:g}",
                world,
                placebos=20 if weight == 5.0 else 0,
                quick=1 if weight == 5.0 else 0,
                beside=weight == 5.0,
            )
    add("20 users, weight 50", World(50.0, 20, tail=1.5), beside=True)
    add(
        "the second to fourth step: from 5 to 25",
        World(25.0, 2000, mixed(0.05, 0.03), accounts=0.03, tail=1.5, before=5.0),
        SLOW,
    )
    add("32 routes (Zipf), weight 5", World(5.0, tail=1.5, routes=zipf(32)), ROUTES, quick=1)
    always = World(1.0, 2000, accounts=0.05)
    for history in (True, False):
        rows.append(
            Row(
                "healthy",
                f"5% of accounts always fail, weight 1, {'with' if history else 'without'} history",
                always,
                Wanted(rolled=1, worse=0.05),
                quick=0,
                history=history,
                beside=history,
            )
        )
    return rows


def _broken() -> list[Row]:
    rows = []

    def add(
        name: str, world: World, wanted: Wanted, metric: Metric = ERRORS, **more: object
    ) -> None:
        rows.append(Row("broken", name, world, wanted, metric, **more))  # type: ignore[arg-type]

    sure = 0.995
    dead = Harm(1.0)
    for weight, most in ((1.0, 4), (5.0, 5), (25.0, 9), (50.0, 14)):
        add(
            f"0.5 → 100%, weight {weight:g}",
            World(weight, 20_000, harm=dead),
            Wanted(caught=1.0, requests=most),
            seconds=60.0,
            quick=11,
            beside=weight in (5.0, 50.0),
        )
    for before, weight, most in ((5.0, 25.0, 12), (25.0, 50.0, 22)):
        add(
            f"0.5 → 100%, a later step, from {before:g} to {weight:g}",
            World(weight, 20_000, harm=dead, before=before),
            Wanted(caught=1.0, requests=most),
            seconds=60.0,
            quick=5,
        )
    for bad, weight, most, seconds in (
        (0.5, 1.0, 9, 120),
        (0.05, 1.0, 190, 600),
        (0.02, 5.0, 1000, 600),
    ):
        add(
            f"0.5 → {bad * 100:g}%, weight {weight:g}",
            World(weight, 20_000, harm=Harm(bad)),
            Wanted(caught=sure, requests=most),
            seconds=float(seconds),
            quick=9 if bad == 0.5 else 0,
            beside=True,
        )
    add(
        "0.5 → 5%, weight 1, 2,000 users",
        World(1.0, 2000, harm=Harm(0.05)),
        Wanted(caught=0.9, kept_back=True),
        seconds=500.0,
        beside=True,
    )
    for name, accounts, most in (("users alike", 0.0, 75), ("3% slow accounts", 0.03, 100)):
        add(
            f"slow answers 5 → 25%, weight 5, {name}",
            World(5.0, 2000, mixed(0.05, accounts), Harm(mixed(0.25, accounts)), accounts=accounts),
            Wanted(caught=sure, requests=most),
            SLOW,
            quick=5,
            beside=True,
        )
    for bad, weight, most in ((1.0, 50.0, 30), (0.1, 5.0, 110)):
        add(
            f"healthy for 14 min, then 0.5 → {bad * 100:g}%, weight {weight:g}",
            World(weight, 20_000, harm=Harm(bad, after=840.0)),
            Wanted(caught=sure, requests=most),
            seconds=960.0,
            beside=True,
        )
    for weight, most in ((1.0, 5), (5.0, 6), (25.0, 9), (50.0, 14)):
        add(
            f"the last of 32 routes (Zipf, 0.77% of the traffic) dead, weight {weight:g}",
            World(weight, 20_000, harm=dead, rate=200 * zipf(32)[-1]),
            Wanted(caught=sure, users=most),
            ROUTE,
            seconds=1800.0 if weight == 1.0 else 600.0,
            quick=5,
        )
    for weight, most in ((1.0, 5), (5.0, 6), (25.0, 9), (50.0, 14)):
        add(
            f"a route with 0.10% of the traffic dead, weight {weight:g}",
            World(weight, 20_000, harm=dead, rate=0.2),
            Wanted(caught=sure, users=most),
            ROUTE,
            seconds=18_000.0 / weight,
        )
    stuck = Harm(1.0, waits=0.184)
    for weight, longest in ((1.0, 3.0), (5.0, 1.5), (50.0, 1.0)):
        add(
            f"deadlock, weight {weight:g}",
            World(weight, 20_000, 0.015, stuck),
            Wanted(caught=1.0, seconds=longest),
            SLOW,
            seconds=60.0,
            quick=5,
        )
    return rows


def _whole() -> list[Row]:
    rows = []

    def add(
        name: str, world: World, wanted: Wanted, metric: Metric = ERRORS, **more: object
    ) -> None:
        rows.append(Row("whole", f"whole judge: {name}", world, wanted, metric, whole=True, **more))  # type: ignore[arg-type]

    dead = Harm(1.0)
    few = World(50.0, 20, harm=dead, rate=8.0)
    add(
        "20 users, weight 50, dead",
        few,
        Wanted(caught=1.0, seconds=10.0, kept_back=True),
        seconds=60.0,
        quick=2,
    )
    three = replace(few, users=3, rate=1.2)
    add(
        "3 users, weight 50, dead",
        three,
        Wanted(caught=0.6, kept_back=True),
        seconds=180.0,
        quick=2,
    )
    add(
        "3 users, weight 50, equal",
        replace(three, harm=None),
        Wanted(rolled=0, kept_back=True),
        seconds=90.0,
        releases=40,
    )
    busy = World(5.0, 2000, tail=1.5, routes=zipf(32))
    add(
        "32 routes, heavy-tailed",
        busy,
        Wanted(rolled=0),
        seconds=120.0,
        releases=20,
        quick=0,
    )
    add(
        "96% of requests without a key, slower than the others",
        replace(busy, keyless=0.96, keyless_bad=0.3),
        Wanted(rolled=0),
        SLOW,
        seconds=120.0,
        releases=10,
    )
    add(
        "5% of accounts always fail",
        replace(busy, accounts=0.05, rate=50.0),
        Wanted(rolled=0),
        seconds=120.0,
        releases=20,
    )
    cold = World(5.0, 2000, 0.02, Harm(1.0, until=8.0), tail=1.0, rate=50.0)
    add(
        "cold start: slow for 8 s, then well",
        cold,
        Wanted(rolled=0),
        SLOW,
        seconds=90.0,
        releases=20,
        quick=1,
    )
    add(
        "slow for ever",
        replace(cold, harm=Harm(1.0)),
        Wanted(caught=1.0, seconds=60.0),
        SLOW,
        seconds=90.0,
        releases=20,
        quick=1,
    )
    add(
        "route of 0.77% dead, weight 25",
        World(25.0, 20_000, harm=Harm(1.0, route=31), rate=200.0, routes=zipf(32)),
        Wanted(caught=1.0, users=14.0),  # stable's 0.5% hurts four or five of them elsewhere
        seconds=90.0,
        releases=10,
    )
    return rows


ROUTE = replace(ROUTES, alone=True)
"""One route of 32, whose traffic alone is drawn: the tests of the others do not see it."""

ROWS = tuple(_broken() + _healthy() + _whole())
