"""The tests of one step: every metric, every busy route, all by the same lottery.

A step moves some positions to the canary and leaves others on stable, and nothing but those is compared
(``lottery.Lottery``). The limits of its metrics and its routes are fixed when it begins; where stable was too
quiet to tell them, once, as soon as they are known.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any

from canaryproxy.judging import families, metrics, words
from canaryproxy.judging.bad_responses import BadResponses
from canaryproxy.judging.collecting import Collector
from canaryproxy.judging.families import Spec
from canaryproxy.judging.growth import with_bytes
from canaryproxy.judging.history import History
from canaryproxy.judging.lottery import Estimate, Lottery, LotteryTest, TestSettings
from canaryproxy.judging.metrics import OTHER, Limits
from canaryproxy.judging.parts import whole
from canaryproxy.judging.proof import UserProof
from canaryproxy.judging.sample_ratio import LIMIT, SampleRatio
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.sorting import Sorter
from canaryproxy.judging.units import Units
from canaryproxy.judging.user_time import UserTime
from canaryproxy.judging.verdict import Placebo, Verdict
from canaryproxy.measure.flat import sum64, u8, vec
from canaryproxy.measure.records import POSITION_MASK

OTHERS = "other routes"
"""Scope of the routes that are judged together."""
HANG = 5.0
"""Seconds without a first byte that count as late in the warm-up, too."""
_ESTIMATE_EVERY = 1.0
_FEW = 200
"""Canary trials up to which the estimate follows each tick: a step may be left within its first second."""
_WARMED = (metrics.LATENCY, metrics.THROUGHPUT)
"""Metrics whose limits are others in the warm-up: their tests begin anew after it."""
_OF_TIME = (metrics.LATENCY, metrics.P50, metrics.P95, metrics.P99, metrics.THROUGHPUT)


@dataclass(frozen=True, slots=True)
class Kept:
    """The last verdict on a test, and what it was made of."""

    verdict: Verdict
    seen: Estimate | None
    at: float
    of: tuple[object, ...]


@dataclass(slots=True)
class Trial:
    """One test with what is known of it."""

    spec: Spec
    scope: str
    settings: TestSettings
    test: LotteryTest
    template: int | None = None
    """The route's, if it is about one."""
    proof: UserProof | None = None
    estimated: Estimate | None = None
    estimated_at: float = float("-inf")

    said: tuple[object, str] = (None, "")
    kept: Kept | None = None

    def words(self, of: tuple[Estimate | None, str, str | None], say: Callable[[], str]) -> str:
        """Return what is said of an estimate, a level and a note: anew for another one of any."""
        last = self.said[0]
        if not isinstance(last, tuple) or last[0] is not of[0] or last[1:] != of[1:]:
            self.said = (of, say())
        return self.said[1]

    def breached(self, extra: float) -> bool:
        """Whether it opens the circuit, where α is smaller by the factor ``exp(-extra)``."""
        test = self.test
        return test.breach and test.log_evidence >= self.settings.log_limit + extra

    def estimate(self, now: float) -> Estimate | None:
        """Return the estimate, worked out once a second; at first with each trial, after a breach always."""
        seen, test = self.estimated, self.test
        is_behind = (test.has_news or test.pending) and (seen is None or seen.canary[0] < _FEW)
        if is_behind or now - self.estimated_at >= _ESTIMATE_EVERY or test.breach:
            self.estimated, self.estimated_at = test.estimate(), now
        return self.estimated


class Step:
    """Judges one lottery. ``share`` is its share of α, ``past`` what units did before, by metric."""

    def __init__(
        self,
        lottery: Lottery,
        units: Units,
        settings: JudgeSettings,
        limits: Limits,
        share: float,
        now: float,
        past: Mapping[str, History],
        *,
        warm: bool,
    ) -> None:
        self.lottery = lottery
        self.limits = limits
        self.warm = warm
        self._units = Units(units)
        self._settings = settings
        self.share = share
        self._past = past
        self._left = (lottery.stable, lottery.canary)
        self.ratio = SampleRatio(self._left)
        self._met = vec[u8]()
        """By row: the part of the step in which the unit was seen last, 1 or, after the warm-up, 2."""
        self._part = 1
        self._users = [0, 0]
        self.user_time = None if settings.business is None else UserTime()
        self._specs = families.specs(settings, limits)
        self.trials: dict[str, Trial] = {}
        for spec in self._specs:
            self.trials[spec.name] = self._trial(spec, now)
        self._now = now
        self._watched = self._watched_cold = 0.0
        """Seconds, at most one a tick: in all, and of them until the end of the warm-up."""
        self.routes: dict[int, dict[str, Trial]] = {}
        """By template, of the routes that were met."""
        self.version = 0
        """Grows with everything that its verdicts are made of."""
        self.bad_responses = BadResponses()
        """Of the canary."""
        self._sort()

    @property
    def users(self) -> tuple[int, int]:
        """Units of stable and of the canary that were compared; with latency only those since the warm-up."""
        return self._users[0], self._users[1]

    def _trial(self, spec: Spec, now: float) -> Trial:
        settings = self._settings
        log_limit = float("inf")
        if spec.trips:
            alpha = families.alpha_of(spec, self._specs, settings, self.share)
            if spec.name in _WARMED:
                alpha = families.warming(alpha, warm=self.warm)
            log_limit = -log(alpha)
        wanted = TestSettings(
            log_limit=log_limit,
            log_hold=families.log_hold(self._specs, settings),
            margin=spec.trip_margin,
            relative=spec.relative,
            direction=spec.direction,
        )
        placebos = settings.placebos if spec.trips else 0
        past = self._past.get(spec.name)
        test = LotteryTest(self.lottery, self._units, wanted, now, past, placebos)
        return Trial(spec, "", wanted, test, proof=_proof(spec, self._left))

    def _route_tests(self, template: int) -> dict[str, Trial]:
        """Return the tests of a route, or of the routes that are judged together."""
        if not self._settings.routes or not self.limits.routes:
            return {}
        route = self.limits.routes.get(template)
        name = OTHERS if route is None else route.name
        hold = families.log_hold(self._specs, self._settings, route=True)
        found: dict[str, Trial] = {}
        for spec in families.route_specs(self._settings):
            alpha = families.route_alpha_of(spec, self._specs, self._settings, self.share)
            settings = TestSettings(
                log_limit=-log(alpha), log_hold=hold, margin=spec.margin, looks=False
            )
            test = LotteryTest(self.lottery, self._units, settings, self._now, None, 0)
            found[spec.name] = Trial(spec, name, settings, test, template)
        return found

    # Records

    def _sort(self) -> None:
        """Sort records by the tests and limits that there are now."""
        settings = self._settings
        # The trials of the business metric are intervals.
        tests = ["" if name == metrics.BUSINESS else name for name in self.trials]
        outcomes = [(rule.slot, rule.name) for rule in settings.outcomes]
        self._sorter = Sorter(
            tests, self.limits, outcomes, settings.business, warm=self.warm, hang=HANG
        )
        self._collector = Collector(
            self._units,
            self._sorter,
            self.limits.routes,
            self._begin_route,
            self.bad_responses,
            content=settings.content is not None,
            warm=self.warm,
        )

    def _begin_route(self, template: int) -> list[str]:
        """Begin the tests of a route, with its first record, and return their metrics.

        All routes at once would be the longest tick of a step.
        """
        if template not in self.routes:
            self.routes[template] = self._route_tests(template)
        return list(self.routes[template])

    def take(self, words: vec[sum64], chosen: vec[sum64], begin: int) -> int:
        """Take records of the lottery's population; ``chosen`` has the places of their words.

        The first one's is at ``begin``; that of a business event is inverted. Return the end: it comes sooner
        where an event follows, or where tests of a route begin.
        """
        at: int = chosen[begin]
        if at < 0:
            self._post(words[~at] & POSITION_MASK)
            return begin + 1
        rows, codes = self._collector.add(words, chosen, begin)
        self._meet(rows)
        if self.user_time is not None:
            self.user_time.respond(rows, codes, self._sorter.business)
        return begin + len(rows)

    def _post(self, position: int) -> None:
        """Take a business event of a user of the lottery's population."""
        if self.user_time is not None:
            self.user_time.take(self._units.row(position) << 1 | 1)

    def heard(self) -> bool:
        """Return whether a user of the step had a business event since this was asked last."""
        return self.user_time is not None and self.user_time.heard()

    def seconds(self, trial: Trial) -> float | None:
        """Return the seconds beyond which a request is an event of a test; ``None``: it is not about time."""
        limits, name = self.limits, trial.spec.name
        if name == metrics.LATENCY and trial.template is not None:
            route = limits.routes.get(trial.template)
            return None if route is None else route.late
        in_force = limits if self.warm else limits.warming(HANG)
        times = (in_force.late, limits.late_p50, limits.late_p95, limits.late_p99, in_force.stalled)
        return dict(zip(_OF_TIME, times, strict=True)).get(name)

    def watched(self, trial: Trial) -> float:
        """Return for how many seconds of the step a test has counted."""
        anew = trial.spec.name in _WARMED and not trial.scope
        return self._watched - (self._watched_cold if anew else 0.0)

    def _meet(self, rows: vec[sum64]) -> None:
        """Note which units are seen for the first time in a part of the step."""
        if len(self._units) > len(self._met):
            self._met = with_bytes(self._met, max(len(self._units) - len(self._met), 1024))
        met, part = self._met, self._part
        for row in rows:
            before: int = met[row]
            if before != part:
                canary = self._units.positions[row] < self.lottery.limit
                if not before:
                    self.ratio.add(canary=canary)
                met[row] = part
                self._users[canary] += 1

    @property
    def collected(self) -> int:
        """Number of records that the tests have not taken."""
        return len(self._collector)

    def settle(self) -> Generator[None]:
        """Have the tests take what has been added, in parts (``judging.parts``)."""
        batch = self._collector.taken()
        for number, trial in enumerate(self.trials.values()):
            found = batch.trials(number)
            if len(found):
                yield from trial.test.take_in_parts(found)
            elif not trial.test.pending:
                continue
            trial.test.settle()
            yield
        for template, of_route in self._collector.taken_by_route():
            for number, trial in enumerate(self.routes[template].values()):
                found = of_route.trials(number)
                if len(found):
                    trial.test.take(found)
                    yield

    def _follow(self) -> Generator[None]:
        """Prepare looks, in parts: all tests by turns, as most of them move the same units at once."""
        behind = [trial.test for trial in self.trials.values() if trial.test.is_behind]
        while behind:
            more = []
            for test in behind:
                if test.follow():
                    more.append(test)
                yield
            behind = more

    def tick(self, now: float) -> None:
        """Let the tests look, begin rounds and settle proofs: ten times a second."""
        whole(self.tick_in_parts(now))

    def tick_in_parts(self, now: float) -> Generator[None]:
        """Do the same in parts (``judging.parts``): one for each test that has something to do."""
        if len(self._collector):
            yield from self.settle()
        self._watched += min(max(now - self._now, 0.0), 1.0)
        self._now = now
        if self.user_time is not None:
            self.trials[metrics.BUSINESS].test.pending += self.user_time.close(now)
        yield from self._follow()
        for trial in self.trials.values():
            has_proven = trial.proof is not None and self._prove(trial, trial.proof, now)
            if trial.test.tick(now) or has_proven:
                self.version += 1
                yield
        for tests in self.routes.values():
            ticked = [trial.test.tick(now) for trial in tests.values()]
            if any(ticked):
                self.version += 1
                yield

    def _prove(self, trial: Trial, proof: UserProof, now: float) -> bool:
        """Begin the trials of new units; settle those whose time is over and return whether there are any."""
        test, positions, limit = trial.test, self._units.positions, self.lottery.limit
        test.settle()
        for row in test.newcomers:
            proof.begin(row, now, canary=positions[row] < limit)
        test.newcomers.clear()
        due = proof.due(now)
        for row, canary in due:
            trials, events = test.counts(row)
            bad = events if trial.spec.direction == "increase" else trials - events
            proof.settle(bad / trials, canary=canary)
        return bool(due)

    def learn(self, limits: Limits) -> None:
        """Take the limits that were not known when the step began; routes that were known stay."""
        whole(self.settle())
        known = self.limits.routes
        if known:
            routes = {template: limits.routes.get(template, old) for template, old in known.items()}
            limits = replace(limits, routes=routes)
        else:
            self.routes = {}
        self.limits = limits
        self.version += 1
        self._sort()

    def warm_up(self, now: float) -> None:
        """End the warm-up: a late response is late from now on, and users are compared afresh."""
        whole(self.settle())  # for the history of its users
        self.warm = True
        self.version += 1
        self._watched_cold = self._watched
        self._specs = families.specs(self._settings, self.limits)
        for spec in self._specs:
            if spec.name in _WARMED:
                self._part, self._users = 2, [0, 0]
                self.trials[spec.name] = self._trial(spec, now)
        self._sort()

    @property
    def placebo(self) -> Placebo | None:
        """How virtual canaries fare in all tests together; ``None`` without any."""
        found = [trial.test.placebo for trial in self.trials.values() if trial.spec.trips]
        if not found or not found[0].of:
            return None
        tripped = min(sum(one.tripped for one in found), found[0].of)
        return Placebo(tripped, found[0].of, max(one.log_evidence for one in found))

    def holds(self, accepted: frozenset[str]) -> list[str]:
        """Return why the step may not be left: its users get no response, or do not come as drawn."""
        found = []
        if metrics.ERRORS in self.trials and metrics.ERRORS not in accepted:
            users = self.trials[metrics.ERRORS].test.users
            few = words.absent(users, self.lottery.odds, self._settings.min_users)
            if few:
                found.append(
                    f"{few}; look for clients that close early, and for requests that hang"
                )
        if self.ratio.log_e >= LIMIT and "users" not in accepted:
            found.append(words.arrivals(self.ratio.seen, self.lottery))
        return found

    def all_trials(self) -> list[Trial]:
        """The tests of the service, then those of routes."""
        found = list(self.trials.values())
        for tests in self.routes.values():
            found += tests.values()
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence as JSON values."""
        whole(self.settle())
        return {
            "lottery": [self.lottery.first, self.lottery.limit, self.lottery.last],
            "share": self.share,
            "warm": self.warm,
            "watched": [self._watched, self._watched_cold],
            "seen": list(self.ratio.seen),
            "trials": {name: trial.test.to_dict() for name, trial in self.trials.items()},
            "proofs": {
                name: trial.proof.log_e
                for name, trial in self.trials.items()
                if trial.proof is not None
            },
            "routes": {
                str(template): {name: trial.test.to_dict() for name, trial in tests.items()}
                for template, tests in self.routes.items()
            },
        }

    def load(self, state: Mapping[str, Any], now: float) -> None:
        """Take the evidence of a saved step over, as far as its metrics and routes are still there."""
        self._watched, self._watched_cold = map(float, state.get("watched", (0.0, 0.0)))
        for name, saved in state["trials"].items():
            if name in self.trials:
                self._restore(self.trials[name], saved, now, self._past.get(name))
        for name, log_e in state["proofs"].items():
            trial = self.trials.get(name)
            if trial is not None and trial.proof is not None:
                trial.proof.log_e = float(log_e)
        for template, tests in state["routes"].items():
            of = int(template)
            if of != OTHER and of not in self.limits.routes:
                continue
            mine = self.routes[of] = self._route_tests(of)
            for name, saved in tests.items():
                if name in mine:
                    self._restore(mine[name], saved, now, None)
        self._sort()

    def _restore(
        self, trial: Trial, saved: Mapping[str, Any], now: float, past: History | None
    ) -> None:
        placebos = self._settings.placebos if trial.spec.trips and not trial.scope else 0
        trial.test = LotteryTest.from_dict(
            saved, self.lottery, self._units, trial.settings, now, past, placebos
        )


def _proof(spec: Spec, left: tuple[int, int]) -> UserProof | None:
    """A metric whose margin is relative is proven for the same margin as a share of one half.

    ``left``: units of stable and of the canary in the lottery.
    """
    margin = spec.margin * (0.5 if spec.relative else 1.0)
    if not spec.trips or not 0.0 < margin < 1.0:
        return None
    return UserProof(left, margin)
