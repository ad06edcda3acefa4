"""Release canaries that are wrong, each in a way of its own; print what becomes of them, as Markdown.

``python -m bench.judge.enemy [--only TEXT] [--releases N] [--seed N]``. The whole judge and the rollout, with
their defaults, in steps of 5, 25 and 50% of 3,000 users of unlike activity, 100 requests per second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from random import Random
from statistics import median
from typing import Final, Literal

from bench.judge.named_rows import print_rows
from canaryproxy.config.text import plural
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.verdict import Assessment
from canaryproxy.measure.routing import FINE, POSITIONS
from canaryproxy.release import rollout
from canaryproxy.release.rollout import Plan, Rollout, Start, State, Step, Tick
from tests.judging.world import Answer, User, World
from tests.simulation.enemies import (
    BASELINE,
    ENEMIES,
    NEW_USERS,
    STEPS,
    Ask,
    Crowd,
    Enemy,
    Harm,
    version,
)

USERS: Final = 3000
_MIN_REQUESTS: Final = 100
_PATIENCE: Final = 2.0
"""A step that takes so many times its bake time and its warm-up is held."""
End = Literal["rolled back", "held", "promoted"]


@dataclass(frozen=True)
class Result:
    """What became of one release."""

    end: End
    weight: float
    """Percent of users on the canary at the end."""
    why: str
    """What the judge named: metrics and routes."""
    seconds: float
    """Since the first step."""
    hurt: int
    """Users who met another answer than stable's."""


class Shop(World):
    """A world whose users also leave, ask again, and come for the first time."""

    def __init__(self, enemy: Enemy, seed: int) -> None:
        luck = Random(f"{enemy.name} {seed}")
        self.crowd = Crowd()
        self._asks = enemy.asks
        self.hurt: set[int] = set()
        stable = None if enemy.stable is None else enemy.stable(self.crowd)
        canary = stable if enemy.canary is None else enemy.canary(self.crowd)
        self._comes = [0.0] * USERS
        for number in range(0, USERS, NEW_USERS):
            self._comes[number] = BASELINE + luck.uniform(0.0, 200.0)
        activity = [exp(luck.gauss(0.0, 1.0)) for _ in range(USERS)]
        super().__init__(
            Judge(enemy.settings),
            users=[User(number, luck.randrange(POSITIONS)) for number in range(USERS)],
            rate=enemy.rate,
            stable=version(stable),
            canary=version(canary if canary is None or canary is stable else self._noting(canary)),
            seed=luck.randrange(1 << 30),
            weigh=lambda user: activity[user.number],
        )

    def _noting(self, harm: Harm) -> Harm:
        """Return a harm that notes who meets it."""

        def noted(ask: Ask) -> Answer:
            answer = harm(ask)
            if replace(answer, route=ask.good.route) != ask.good:
                self.hurt.add(ask.user.number)
            return answer

        return noted

    def asking(self, asks: int) -> list[User]:
        """Return who asks in this tick."""
        again, self.crowd.again = self.crowd.again, []
        gone, comes = self.crowd.gone, self._comes
        limit = 0 if self._asks == 1.0 else round(self.weight * 100) * FINE
        return again + [
            user
            for user in super().asking(asks)
            if user.number not in gone
            and comes[user.number] <= self.now
            and (user.position >= limit or self.luck.random() < self._asks)
        ]


def play(enemy: Enemy, seed: int) -> Result:
    """Release a canary."""
    shop = Shop(enemy, seed)
    steps = tuple(
        Step(weight, enemy.bake, _MIN_REQUESTS, enemy.settings.min_users) for weight in STEPS
    )
    plan = Plan(steps, baseline=BASELINE)
    release, _, _ = rollout.step(Rollout(), Start(), 0.0, plan)
    begun = longest = 0.0
    named = ""
    while longest < _PATIENCE * (enemy.bake + enemy.settings.warmup):
        shop.weight = release.weight
        seen = shop.tick()
        if seen.level == "breach":
            rail = (seen.cause or "").partition(":")[0]
            return _result("rolled back", release, _named(seen, worse=False) or rail, shop)
        at = release.step
        release, _, _ = rollout.step(release, Tick(seen), shop.now, plan)
        if release.state is State.PROMOTED:
            return _result("promoted", release, "", shop)
        named = _named(seen, worse=True) or named
        if release.learning or release.step != at:
            begun = shop.now
        longest = shop.now - begun
    hold = release.hold or ""
    is_rate = hold.startswith(("suspect", "looks worse", "bake time"))
    return _result("held", release, named if is_rate else hold.partition(";")[0], shop)


def _result(end: End, release: Rollout, why: str, shop: Shop) -> Result:
    return Result(end, release.weight, why, shop.now - BASELINE, len(shop.hurt))


def _named(seen: Assessment, *, worse: bool) -> str:
    """Return the metric and the route of the first verdict that is not ok, or that looks ``worse``."""
    first = [one for one in seen.verdicts if one.level == seen.level != "ok"]
    for one in first or [one for one in seen.verdicts if worse and one.worse]:
        return f"`{one.metric}`" + (f" on {one.scope}" if one.scope else "")
    return ""


def row(enemy: Enemy, releases: int, seed: int) -> str:
    """Play some releases of a canary and return a line of the table."""
    runs = [play(enemy, seed + number) for number in range(releases)]
    ends = Counter(run.end for run in runs)
    end = ", ".join(
        what if releases == 1 else f"{what} {times} of {releases}"
        for what, times in ends.most_common()
    )
    why = Counter(run.why for run in runs if run.why).most_common(2)
    last = [run for run in runs if run.end == ends.most_common(1)[0][0]]
    at = sorted({run.weight for run in last if run.end != "promoted"})
    where = f" at {', '.join(f'{weight:g}' for weight in at)}%" if at else ""
    hurt = plural(round(median(run.hurt for run in runs)), "user")
    after = f"{median(run.seconds for run in last):,.0f} s"
    named = ", ".join(name for name, _ in why) or "–"
    return f"| {enemy.name} | {end}{where} | {named} | {hurt} | {after} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    heads = ("canary", "end", "named by the judge", "met it", "after")
    print_rows("bench.judge.enemy", __doc__, ENEMIES, heads, row, arguments)


if __name__ == "__main__":
    main()
