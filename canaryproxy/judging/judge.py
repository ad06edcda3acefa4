"""The judge: growing counters of a tick in, a verdict per metric out.

Every metric is a pair of rates, canary against stable, watched by ``evidence.LiveTest``. Two levels:

* ``breach``: the evidence that the canary is worse has reached m/α (α shared over the m metrics:
  Bonferroni) *and* the estimated difference on the same trials has reached the margin. The first half
  bounds false trips by α for a whole release, the second keeps a true but tiny difference from rolling
  anything back (half a standard error is taken off, so that chance does not lift what is small over the
  margin). The trials are those of the release, or the last half minute if that alone stands out by
  five standard errors: else a canary that breaks after an hour of health would have to fail for minutes
  until the average of the hour is bad.
* ``suspect``: the evidence has reached m/α_hold now. It may pass again: evidence falls when the canary
  does well.

**Ticks.** Counts are collected until stable has three trials or ten seconds have passed, so that a
service with little traffic is judged too; when a tick is closed depends on the trials and never on their
outcomes. With 30 requests a second that is every tick of 100 ms. Conversions come later than the
exposures they belong to, so ``business`` is judged in ticks of half a minute at least.

**Estimates** of the difference and the ratio of rates are those of Mantel & Haenszel (1959; Greenland &
Robins 1985) over the ticks: they compare the variants at the same time, as the evidence does. The pooled
rates are shown beside them.

**4xx responses** are watched apart: they can be suspect and never trip, because clients cause them as often
as the service. ``client_closed`` counts against neither variant: it is in no cell.

**Guard rails** are simple and absolute: the share of failed canary requests among the last ones, at least
``min_requests`` of them, whatever stable does. They count the trials of ``errors``, so a retrying
client is not counted repeatedly.

A judge belongs to one release: α starts afresh with it and not with a step. After a reset or for a probe
of a half-open circuit a new judge begins, with a new α.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log, sqrt
from typing import Any, Literal

from canaryproxy.config.text import count, odds, percent
from canaryproxy.config.units import ratio_text
from canaryproxy.judging.evidence import (
    FINE,
    MULTIPLES,
    Direction,
    EProcess,
    LiveTest,
    NonInferiority,
    RatioInterval,
)

Level = Literal["ok", "suspect", "breach"]

REQUESTS = "requests"
"""Key of the unreduced request counts in a ``Sample``."""
CLIENT_ERRORS = "client_errors"

QUIET = 15.0
"""Seconds without a comparison after which there is nothing to be judged."""

_RESTART_EVERY = 60.0
_INTERVAL_EVERY = 1.0
_RECENT = 15.0
_SETTLED_TRIALS = 3
_LONGEST_TICK = 10.0
_BUSINESS_TICK = 30.0
_BUSINESS_LONGEST = 300.0


@dataclass(frozen=True, slots=True)
class ErrorsRule:
    """Failed responses."""

    margin: float = 0.01
    """Increase that matters, absolute."""


@dataclass(frozen=True, slots=True)
class LatencyRule:
    """Slow responses; the margin in seconds is part of the canary's threshold (``trials.thresholds``)."""


@dataclass(frozen=True, slots=True)
class ThroughputRule:
    """Requests that stall."""

    margin: float = 0.01
    """Increase that matters, absolute."""


@dataclass(frozen=True, slots=True)
class BusinessRule:
    """Something that users should keep doing."""

    margin: float = 0.05
    """Change that matters, relative to stable's rate."""
    direction: Direction = "decrease"
    """Which change is bad."""


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """Responses that are bad by their content."""

    name: str
    margin: float = 0.01
    """Increase that matters, absolute."""


@dataclass(frozen=True, slots=True)
class GuardRails:
    """Limits that hold whatever stable does."""

    errors: float
    """Share of failed canary requests, 0..1."""
    min_requests: int = 20
    """Canary requests before it applies."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """The metrics to compare, and how sure the judge has to be. A metric that is ``None`` is off."""

    alpha: float = 0.001
    """Chance that a healthy release is ever rolled back, all metrics together."""
    alpha_hold: float = 0.05
    """Chance that a healthy release is ever held as suspect, all metrics together."""
    errors: ErrorsRule | None = ErrorsRule()
    latency: LatencyRule | None = LatencyRule()
    throughput: ThroughputRule | None = ThroughputRule()
    business: BusinessRule | None = None
    outcomes: tuple[OutcomeRule, ...] = ()
    client_errors: bool = True
    """Whether more 4xx responses hold a release."""
    guard_rails: GuardRails | None = None


Counts = Mapping[str, tuple[int, int]]
"""Growing ``(trials, events)`` by metric: ``errors``, ``client_errors``, ``latency``, ``throughput``,
``business``, the names of outcomes, and ``requests``. ``measure.trials`` defines them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters as read at one tick, summed over workers, and the records since the last sample.

    Of the counters nothing but growth is looked at.
    """

    stable: Counts
    canary: Counts
    records: Sequence[int] = ()
    """Three words for each randomised request (``measure.records``), in an order that does not depend on
    variants."""
    limit: int = 0
    """Buckets on the canary, as published."""
    epoch: int = 0
    """The split in force (``RouteTable.epoch``): records of another one are not compared."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of route templates by their hash, as far as they are new since the last sample."""
    lost: bool = False
    """Whether records of this tick were dropped, because a ring was lapped."""
    accepted: frozenset[str] = frozenset()
    """What an operator has accepted: a metric, or ``"metric route"``. It neither holds nor trips."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one metric."""

    metric: str
    level: Level
    log_evidence: float
    """Natural logarithm of the evidence that the canary is worse."""
    limit: float
    """The ``log_evidence`` of a breach; ``inf`` if the metric never trips."""
    hold_limit: float
    """The ``log_evidence`` of a suspicion."""
    log_proof: float
    """Natural logarithm of the evidence that the canary is not worse by the margin."""
    proven: bool
    """Whether that is enough for ``promote: proof``."""
    stable: tuple[int, int]
    """Trials and events of stable that were judged."""
    canary: tuple[int, int]
    """Trials and events of the canary that were judged."""
    difference: float | None
    """Estimated difference of the rates, canary minus stable."""
    ratio: float | None
    """Estimated ratio of the rates, canary over stable."""
    interval: tuple[float, float]
    """Anytime-valid interval for the ratio at 1 - α_hold."""
    comparable: bool
    """Whether both sides had trials of late."""
    reason: str
    """The verdict in plain words."""
    scope: str = ""
    """The route that it is about; empty: all of them."""
    users: tuple[int, int] = (0, 0)
    """Users of stable and of the canary that were compared; (0, 0): the metric is not judged by user."""
    hurt: int = 0
    """Canary users with an event in the evidence."""
    trips: bool = True
    """Whether the metric can open the circuit."""
    worse: bool = False
    """Whether the difference as estimated now reaches the margin, whatever the evidence: not promoted."""


@dataclass(frozen=True, slots=True)
class Placebo:
    """Virtual canaries, drawn at random from stable's users and judged like the real one."""

    tripped: int
    """How many of them would have tripped. None should: their version is stable's."""
    of: int
    """How many there are."""
    log_evidence: float
    """Natural logarithm of the strongest evidence against any of them."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict on the release."""

    level: Level
    verdicts: tuple[Verdict, ...]
    judged: int
    """Canary requests that were compared with stable's, since the judge began."""
    answered: int
    """Canary requests that ended, compared or not, since the judge began."""
    comparable: bool
    """Whether requests of both variants ended together within the last ``QUIET`` seconds."""
    proven: bool
    """Whether every metric that can trip has shown that the canary is not worse by its margin."""
    cause: str | None
    """Why the circuit must open: the first breach or guard rail in plain words."""
    quiet: str | None
    """Why nothing can be compared, if nothing can."""
    users: int = 0
    """Canary users of the step that were compared."""
    holds: tuple[str, ...] = ()
    """Why the step may not be left, whatever the evidence; each in plain words."""
    placebo: Placebo | None = None
    """The judge's own test; ``None``: there is none (yet)."""


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    direction: Direction = "increase"
    margin: float = 0.0
    relative: bool = False
    trips: bool = True
    shortest: float = 0.0
    longest: float = _LONGEST_TICK


def _specs(settings: JudgeSettings) -> list[_Spec]:
    specs = []
    if settings.errors is not None:
        specs.append(_Spec("errors", margin=settings.errors.margin))
    if settings.latency is not None:
        specs.append(_Spec("latency"))
    if settings.throughput is not None:
        specs.append(_Spec("throughput", margin=settings.throughput.margin))
    if settings.business is not None:
        rule = settings.business
        specs.append(
            _Spec(
                "business",
                rule.direction,
                rule.margin,
                relative=True,
                shortest=_BUSINESS_TICK,
                longest=_BUSINESS_LONGEST,
            )
        )
    specs.extend(_Spec(rule.name, margin=rule.margin) for rule in settings.outcomes)
    if settings.client_errors:
        specs.append(_Spec(CLIENT_ERRORS, margin=0.01, trips=False))
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1 or name == REQUESTS:
            raise ValueError(f"an outcome cannot be named {name!r}")
    return specs


def tripping_metrics(settings: JudgeSettings) -> int:
    """Return the number of metrics that share α."""
    return sum(spec.trips for spec in _specs(settings))


def _usable(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value) and value >= 0


class _Growth:
    """The growth of a pair of counts since it was last read."""

    __slots__ = ("_last", "broken")

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self.broken = False

    def gained(self, counts: tuple[int, int] | None) -> tuple[int, int]:
        """Return new trials and events. The first reading is where counting begins."""
        if counts is None:
            self.broken = False
            return 0, 0
        self.broken = not (_usable(counts[0]) and _usable(counts[1]))
        if self.broken:
            return 0, 0
        trials, events = int(counts[0]), int(counts[1])
        last, self._last = self._last, (trials, events)
        if last is None:
            return 0, 0
        if trials < last[0] or events < last[1]:  # a worker restarted
            return trials, events
        return trials - last[0], events - last[1]


class _Pairing:
    """Collects counts of both sides until they make a tick."""

    __slots__ = (
        "_carry_c",
        "_carry_s",
        "_opened",
        "_sides",
        "_spec",
        "e_c",
        "e_s",
        "growing",
        "heard_c",
        "heard_s",
        "n_c",
        "n_s",
    )

    def __init__(self, spec: _Spec) -> None:
        self._spec = spec
        self._sides = (_Growth(), _Growth())
        self._opened: float | None = None
        self.n_s = self.e_s = self.n_c = self.e_c = 0
        self._carry_s = self._carry_c = 0
        self.heard_s = self.heard_c = -inf
        self.growing = 0

    def tick(self, now: float, sample: Sample) -> tuple[int, int, int, int] | None:
        """Return ``n_s, e_s, n_c, e_c`` when a tick closes. Events are then not more than trials."""
        name = self._spec.name
        stable, canary = self._sides
        n_s, e_s = stable.gained(sample.stable.get(name))
        n_c, e_c = canary.gained(sample.canary.get(name))
        self.growing = n_c
        if n_s:
            self.heard_s = now
        if n_c:
            self.heard_c = now
        self.n_s += n_s
        self.e_s += e_s
        self.n_c += n_c
        self.e_c += e_c
        if self._opened is None:
            self._opened = now
        age = now - self._opened
        if age < self._spec.longest and (self.n_s < _SETTLED_TRIALS or age < self._spec.shortest):
            return None
        return self._close(now)

    def _close(self, now: float) -> tuple[int, int, int, int]:
        """Close the tick; events read before their trials carry over to the next tick."""
        e_s, e_c = self.e_s + self._carry_s, self.e_c + self._carry_c
        tick = (self.n_s, min(e_s, self.n_s), self.n_c, min(e_c, self.n_c))
        self._carry_s = min(e_s - tick[1], self.n_s)
        self._carry_c = min(e_c - tick[3], self.n_c)
        self.n_s = self.e_s = self.n_c = self.e_c = 0
        self._opened = now
        return tick

    def silence(self, now: float) -> str | None:
        """Return why there is nothing to compare, or ``None``."""
        stable, canary = self._sides
        patience = max(QUIET, self._spec.shortest * 2)
        if stable.broken:
            return "stable's counts are not numbers"
        if canary.broken:
            return "the canary's counts are not numbers"
        if now - self.heard_s > patience:
            return "stable has no traffic"
        if now - self.heard_c > patience:
            return "the canary has no traffic"
        return None


class _Recent:
    """Rates of the last quarter to half minute: two blocks, the older one complete."""

    __slots__ = ("_before", "_began", "_length", "_now")

    _STANDS_OUT = 5.0

    def __init__(self, length: float) -> None:
        self._length = length
        self._before = self._now = (0, 0, 0, 0)
        self._began: float | None = None

    def add(self, now: float, n_s: int, e_s: int, n_c: int, e_c: int) -> None:
        if self._began is None:
            self._began = now
        elif now - self._began >= self._length:
            self._before, self._now, self._began = self._now, (0, 0, 0, 0), now
        have = self._now
        self._now = (have[0] + n_s, have[1] + e_s, have[2] + n_c, have[3] + e_c)

    def material(self, spec: _Spec) -> bool:
        """Whether they differ by the margin, and by more than chance does."""
        n_s, e_s, n_c, e_c = (a + b for a, b in zip(self._before, self._now, strict=True))
        if not (n_s and n_c):
            return False
        stable = e_s / n_s
        worse = e_c / n_c - stable if spec.direction == "increase" else stable - e_c / n_c
        pooled = (e_s + e_c) / (n_s + n_c)
        error = sqrt(pooled * max(1.0 - pooled, 0.0) * (1.0 / n_s + 1.0 / n_c))
        margin = spec.margin * stable if spec.relative else spec.margin
        return worse > self._STANDS_OUT * error and worse >= margin


def _proof_for(spec: _Spec) -> NonInferiority | EProcess:
    """Return the process that shows that the canary is not worse by the margin."""
    if spec.relative and spec.direction == "decrease":
        return EProcess("increase", max(1.0 - spec.margin, 1e-6), FINE + MULTIPLES)
    if spec.relative:
        return EProcess("decrease", 1.0 + spec.margin, FINE + MULTIPLES)
    if 0.0 < spec.margin < 1.0:
        return NonInferiority(spec.margin)
    return EProcess("decrease", 1.0, FINE + MULTIPLES)


class _Metric:
    """One metric: its test, its proof, its estimates."""

    __slots__ = (
        "_interval",
        "_interval_at",
        "bounds",
        "canary",
        "canary_sum",
        "pairing",
        "proof",
        "recent",
        "spec",
        "stable",
        "stable_sum",
        "test",
        "weight",
    )

    def __init__(self, spec: _Spec) -> None:
        self.spec = spec
        self.pairing = _Pairing(spec)
        self.test = LiveTest(spec.direction)
        self.proof = _proof_for(spec)
        self.recent = _Recent(max(_RECENT, 4.0 * spec.shortest))
        self._interval = RatioInterval()
        self._interval_at = -inf
        self.bounds = (0.0, inf)
        self.stable = (0, 0)
        self.canary = (0, 0)
        self.weight = self.canary_sum = self.stable_sum = 0.0

    def tick(self, now: float, sample: Sample) -> None:
        """Take the counts of a tick."""
        tick = self.pairing.tick(now, sample)
        if tick is None:
            return
        n_s, e_s, n_c, e_c = tick
        self.test.add(n_s, e_s, n_c, e_c)
        self.proof.add(n_s, e_s, n_c, e_c)
        if not (n_s and n_c):
            return
        self._interval.add(n_s, e_s, n_c, e_c)
        self.recent.add(now, n_s, e_s, n_c, e_c)
        self.stable = (self.stable[0] + n_s, self.stable[1] + e_s)
        self.canary = (self.canary[0] + n_c, self.canary[1] + e_c)
        both = n_s + n_c
        self.weight += n_s * n_c / both
        self.canary_sum += e_c * n_s / both
        self.stable_sum += e_s * n_c / both

    def interval(self, now: float, alpha: float) -> tuple[float, float]:
        """Return the interval for the ratio, worked out once a second."""
        if now - self._interval_at >= _INTERVAL_EVERY:
            self._interval_at = now
            self.bounds = self._interval.bounds(alpha)
        return self.bounds

    @property
    def difference(self) -> float | None:
        """Mantel-Haenszel difference of the rates, canary minus stable."""
        return (self.canary_sum - self.stable_sum) / self.weight if self.weight else None

    @property
    def ratio(self) -> float | None:
        """Mantel-Haenszel ratio of the rates, canary over stable."""
        return self.canary_sum / self.stable_sum if self.stable_sum else None

    @property
    def material(self) -> bool:
        """Whether the estimate, less half a standard error, has reached the margin in the bad direction."""
        if not self.weight:
            return False
        worse = (self.canary_sum - self.stable_sum) / self.weight
        if self.spec.direction == "decrease":
            worse = -worse
        (n_s, e_s), (n_c, e_c) = self.stable, self.canary
        error = sqrt(e_s / n_s**2 + e_c / n_c**2)
        least = self.spec.margin
        if self.spec.relative:
            least *= self.stable_sum / self.weight
        return worse - 0.5 * error > max(least - 1e-12, 0.0) or self.recent.material(self.spec)

    def to_dict(self) -> dict[str, Any]:
        return {
            "spec": [self.spec.direction, self.spec.margin],
            "test": self.test.to_dict(),
            "proof": self.proof.to_dict(),
            "interval": self._interval.to_dict(),
            "stable": list(self.stable),
            "canary": list(self.canary),
            "sums": [self.weight, self.canary_sum, self.stable_sum],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a state over, unless its direction or margin has changed."""
        if state["spec"] != [self.spec.direction, self.spec.margin]:
            return
        self.test = LiveTest.from_dict(state["test"])
        self.proof = type(self.proof).from_dict(state["proof"])
        self._interval = RatioInterval.from_dict(state["interval"])
        n_s, e_s = state["stable"]
        n_c, e_c = state["canary"]
        self.stable, self.canary = (int(n_s), int(e_s)), (int(n_c), int(e_c))
        self.weight, self.canary_sum, self.stable_sum = map(float, state["sums"])


class _Guard:
    """Share of failures among the last requests: two blocks, each of ``min_requests`` or ten seconds."""

    __slots__ = ("_before", "_began", "_now", "_rule")

    def __init__(self, rule: GuardRails) -> None:
        self._rule = rule
        self._before = self._now = (0, 0)
        self._began: float | None = None

    def tick(self, now: float, trials: int, events: int) -> str | None:
        """Take new canary requests; return the cause if the rail is hit."""
        if self._began is None:
            self._began = now
        self._now = (self._now[0] + trials, self._now[1] + events)
        answered = self._before[0] + self._now[0]
        failed = self._before[1] + self._now[1]
        if self._now[0] >= self._rule.min_requests and now - self._began >= _LONGEST_TICK:
            self._before, self._now, self._began = self._now, (0, 0), now
        if answered >= self._rule.min_requests and failed >= self._rule.errors * answered:
            return (
                f"guard rail: {percent(failed / answered)} of the last {count(answered)} canary requests "
                f"failed ({count(failed)}), limit {ratio_text(self._rule.errors)}"
            )
        return None


class Judge:
    """Judges one release. ``observe`` ten times a second."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self._metrics = [_Metric(spec) for spec in _specs(settings)]
        tripping = sum(metric.spec.trips for metric in self._metrics)
        self._tripping = max(tripping, 1)
        self._limit = log(self._tripping / settings.alpha)
        self._hold_limit = log(max(len(self._metrics), 1) / settings.alpha_hold)
        self._requests = _Pairing(_Spec(REQUESTS))
        self._guard = _Guard(settings.guard_rails) if settings.guard_rails else None
        self._guard_growth = _Growth()
        self._judged = self._answered = 0
        self._compared_at = -inf
        self._restart_at: float | None = None
        self._restart_in = _RESTART_EVERY

    def observe(self, now: float, sample: Sample) -> Assessment:
        """Take the counters read at ``now`` (seconds, any origin, not falling) and return the verdicts.

        The counts at the first call are not judged.
        """
        if self._restart_at is None:
            self._restart_at = now + self._restart_in
        elif now >= self._restart_at:
            self._restart_at = now + _RESTART_EVERY
            self.expect_change()
        self._restart_in = max(self._restart_at - now, 0.0)
        for metric in self._metrics:
            metric.tick(now, sample)
        tick = self._requests.tick(now, sample)
        self._answered += self._requests.growing
        if tick is not None and tick[0] and tick[2]:
            self._judged += tick[2]
            self._compared_at = now
        rail = None
        if self._guard is not None:
            counted = REQUESTS if self.settings.errors is None else "errors"
            rail = self._guard.tick(now, *self._guard_growth.gained(sample.canary.get(counted)))
        return self._assess(now, rail)

    def share(self, alpha: float) -> None:
        """Lower α to this value, if smaller than the configured one."""
        self._limit = log(self._tripping / min(alpha, self.settings.alpha))

    def expect_change(self) -> None:
        """Stake a part of the evidence on a change from now on: each minute, and at each new step."""
        for metric in self._metrics:
            metric.test.restart()

    def _assess(self, now: float, rail: str | None) -> Assessment:
        verdicts = tuple(self._verdict(metric, now) for metric in self._metrics)
        breach = next((verdict for verdict in verdicts if verdict.level == "breach"), None)
        level: Level = "ok"
        if rail is not None or breach is not None:
            level = "breach"
        elif any(verdict.level == "suspect" for verdict in verdicts):
            level = "suspect"
        comparable = now - self._compared_at <= QUIET
        quiet = None if comparable else self._requests.silence(now)
        if not comparable and quiet is None:
            quiet = "no requests of stable and canary ended together yet"
        tripping = [v for v, m in zip(verdicts, self._metrics, strict=True) if m.spec.trips]
        return Assessment(
            level=level,
            verdicts=verdicts,
            judged=self._judged,
            answered=self._answered,
            comparable=comparable,
            proven=bool(tripping) and all(verdict.proven for verdict in tripping),
            cause=breach.reason if breach is not None else rail,
            quiet=quiet,
        )

    def _verdict(self, metric: _Metric, now: float) -> Verdict:
        spec = metric.spec
        log_e, log_proof = metric.test.log_e, metric.proof.log_e
        silence = metric.pairing.silence(now)
        level: Level = "ok"
        if spec.trips and log_e >= self._limit and metric.material:
            level = "breach"
        elif log_e >= self._hold_limit and (spec.trips or metric.material):
            level = "suspect"
        proven = log_proof >= self._hold_limit
        return Verdict(
            metric=spec.name,
            level=level,
            log_evidence=log_e,
            limit=self._limit if spec.trips else inf,
            hold_limit=self._hold_limit,
            log_proof=log_proof,
            proven=proven,
            stable=metric.stable,
            canary=metric.canary,
            difference=metric.difference,
            ratio=metric.ratio,
            interval=metric.interval(now, self.settings.alpha_hold),
            comparable=silence is None,
            reason=_words(metric, level, (self._limit, self._hold_limit), proven, silence),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, exact.

        Left out: the last reading of the counters, the tick that was being collected (ten seconds at
        most; half a minute for business), and the last requests of guard rails and of recent rates.
        """
        return {
            "metrics": {metric.spec.name: metric.to_dict() for metric in self._metrics},
            "judged": self._judged,
            "answered": self._answered,
            "restart_in": self._restart_in,
        }

    @classmethod
    def from_dict(cls, settings: JudgeSettings, state: Mapping[str, Any]) -> Judge:
        """Return a judge that continues from a state.

        A metric that is new in ``settings``, or has another margin or direction, starts afresh.
        """
        judge = cls(settings)
        states = state["metrics"]
        for metric in judge._metrics:
            if metric.spec.name in states:
                metric.load(states[metric.spec.name])
        judge._judged = int(state["judged"])
        judge._answered = int(state["answered"])
        judge._restart_in = float(state["restart_in"])
        return judge


_SUBJECTS = {
    "errors": "error rate",
    "latency": "slow responses",
    "throughput": "stalled requests",
    "business": "conversion rate",
    CLIENT_ERRORS: "4xx rate",
}
"""The metrics in words; an outcome keeps its own name."""


def _words(
    metric: _Metric,
    level: Level,
    limits: tuple[float, float],
    proven: bool,
    silence: str | None,
) -> str:
    """Return a verdict in plain words; ``limits`` are those of a breach and of a suspicion."""
    (n_s, e_s), (n_c, e_c) = metric.stable, metric.canary
    spec = metric.spec
    subject = _SUBJECTS.get(spec.name, spec.name)
    if not n_s or not n_c:
        return f"{subject} cannot be judged: {silence or 'nothing to compare yet'}"
    rates = (
        f"{subject} {percent(e_c / n_c)} on canary ({count(e_c)} of {count(n_c)}) "
        f"vs {percent(e_s / n_s)} on stable ({count(e_s)} of {count(n_s)})"
    )
    evidence = f"evidence {odds(metric.test.log_e)}"
    limit, hold_limit = map(odds, limits)
    if level == "breach":
        return f"{rates}; {evidence} (limit {limit}){_difference(metric)}"
    if level == "suspect":
        trips = f", trips at {limit}" if spec.trips else ", never trips"
        return f"{rates}; {evidence} (holds at {hold_limit}{trips}){_difference(metric)}"
    if silence is not None:
        return f"{rates}; cannot be judged now: {silence}"
    margin = f" by {ratio_text(spec.margin)} or more" if spec.margin else ""
    return f"{rates}; " + (f"proven not worse{margin}" if proven else "no regression seen")


def _difference(metric: _Metric) -> str:
    if not metric.spec.margin:
        return ""
    margin = f"the {ratio_text(metric.spec.margin)} margin"
    return (
        f", difference over {margin}" if metric.material else f", difference within {margin} so far"
    )
