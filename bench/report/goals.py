"""What the proxy has to reach, and whether it does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.harness.measure import Sample
from bench.report import summary
from bench.report.outcome import OURS, Closed, Outcome
from bench.report.summary import Ratio, Row, Spread


@dataclass(frozen=True, slots=True)
class Goal:
    """Under ``load``, ``target`` has ``factor`` times the requests/s per core of ``peer``, or more."""

    peer: str
    factor: float
    load: str = "small-32"
    target: str = OURS


GOALS = (Goal("plain", 5.0), Goal("envoy", 1.5), Goal("nginx", 0.4))
"""What ``bench.quick --require`` demands."""

FULL = (
    Goal("nginx", 1.0),
    Goal("haproxy", 0.95),
    Goal("envoy", 2.0),
    Goal("caddy", 3.0),
    Goal("plain", 7.0),
    Goal("nginx", 0.75, target="pure"),
    Goal("nginx", 0.9, "traced"),
    Goal("nginx", 0.75, "connect"),
    Goal("nginx", 0.85, "tls"),
    Goal("nginx", 0.7, "tls-connect"),
    Goal("nginx", 1.2, "1m"),
    Goal("nginx", 1.0, "upload"),
)
"""What the full benchmark is to show, with everything on."""

_CLOSE = 2.0
"""A factor below which it takes more rounds to tell on which side of it a ratio is."""
LATENCY = "latency-half"
ADDED_P50_US = 120.0
ADDED = (("envoy", 1.0, "p99"), ("nginx", 1.0, "p99"), ("nginx", 2.0, "p99.9"))
"""At half load ours adds at most so many times what a peer adds to a quantile: peer, factor, quantile."""
IDLE_KIBIBYTES = 12.0
IDLE_SLOWDOWN = 1.10
FLAT = 1.05
"""Cost per request that counts as the same."""
WORKERS = 1.8
NOT_MEASURED = "not measured"
_QUANTILES: dict[str, Callable[[Sample], float]] = {
    "p99": lambda sample: sample.wrk.p99_us,
    "p99.9": lambda sample: sample.wrk.p999_us,
}


def close(load: str) -> frozenset[str]:
    """Return whom a target compares under this load so closely that it takes more rounds to tell."""
    if load == LATENCY:
        return frozenset((OURS, *(peer for peer, _, _ in ADDED)))
    return frozenset(
        name
        for goal in FULL
        if goal.load == load and goal.factor < _CLOSE
        for name in (goal.peer, goal.target)
    )


def unmet(
    rows: Mapping[str, Row], ratios: Mapping[str, Ratio], goals: Sequence[Goal] = GOALS
) -> list[str]:
    """Return one sentence for each goal that is not shown to be met; [] if all are."""
    if OURS not in rows:
        return ["ours was not measured"]
    problems = []
    if rows[OURS].errors:
        problems.append(f"ours had {rows[OURS].errors} errors")
    for goal in goals:
        ratio = ratios.get(goal.peer)
        if ratio is None:
            problems.append(f"{goal.peer} was not measured, so ≥ {goal.factor:g} × is not shown")
        elif rows[goal.peer].errors:
            problems.append(f"{goal.peer} had {rows[goal.peer].errors} errors: no fair comparison")
        elif not ratio.requests_per_core_second.is_steady:
            problems.append(f"{goal.peer}: {_unsteady(ratio.requests_per_core_second)}")
        elif ratio.requests_per_core_second.median < goal.factor:
            problems.append(
                f"ours is {ratio.requests_per_core_second.median:.2f} × {goal.peer} "
                f"in requests/s per core, to be ≥ {goal.factor:g} ×"
            )
    return problems


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what is wanted, what was found, and whether that is met (None: not measured)."""

    wanted: str
    found: str
    met: bool | None


def verdicts(outcome: Outcome) -> list[Verdict]:
    """Return all targets of the full benchmark in order."""
    return [
        *_throughput(outcome),
        *_latency(outcome),
        *_idle(outcome),
        *_cost(outcome),
        _workers(outcome),
    ]


def _throughput(outcome: Outcome) -> Iterator[Verdict]:
    for goal in FULL:
        closed = outcome.closed.get(goal.load)
        ratio = closed.ratio(goal.peer, goal.target) if closed else None
        yield _at_least(
            f"{goal.load}, {goal.target}, everything on, per core: ≥ {goal.factor:g} × {goal.peer}",
            ratio.requests_per_core_second if ratio else None,
            goal.factor,
        )


def _latency(outcome: Outcome) -> Iterator[Verdict]:
    wanted = f"added p50 at half load: ≤ {ADDED_P50_US:g} µs"
    half = outcome.open_model.get(LATENCY)
    if half is None or not half.proxied.get(OURS) or half.errors(OURS):
        yield Verdict(wanted, NOT_MEASURED, None)
        return
    p50 = half.added(OURS, lambda s: s.wrk.p50_us)
    yield Verdict(wanted, f"{p50.median:.0f} µs", p50.median <= ADDED_P50_US)
    for peer, factor, name in ADDED:
        wanted = f"added {name} at half load: ≤ {factor:g} × that of {peer}"
        if not half.proxied.get(peer) or half.errors(peer):
            yield Verdict(wanted, NOT_MEASURED, None)
            continue
        ratio = half.added_ratio(OURS, peer, _QUANTILES[name])
        found = f"{ratio.median:.2f} × ({ratio.surely_from:.2f}–{ratio.surely_to:.2f})"
        full = max(
            sample.load_core_busy
            for target in (OURS, peer)
            for sample in (*half.proxied[target], *half.direct[target])
        )
        if full >= summary.SATURATED:
            yield Verdict(wanted, f"{found}; the load generator's core was full", None)
        elif ratio.surely_from <= factor < ratio.surely_to:
            yield Verdict(wanted, f"{found}: on which side of it is not sure", None)
        else:
            yield Verdict(wanted, found, ratio.surely_to <= factor)


def _idle(outcome: Outcome) -> Iterator[Verdict]:
    memory = f"memory per idle connection: ≤ {IDLE_KIBIBYTES:g} KiB"
    slower = f"others beside idle connections: at most {IDLE_SLOWDOWN - 1:.0%} slower"
    idle = outcome.idle
    if idle is None or not idle.samples.get(OURS) or idle.errors(OURS):
        yield Verdict(memory, NOT_MEASURED, None)
        yield Verdict(slower, NOT_MEASURED, None)
        return
    kibibytes = idle.memory(OURS).median
    yield Verdict(memory, f"{kibibytes:.1f} KiB", kibibytes <= IDLE_KIBIBYTES)
    cpu = idle.cpu_growth(OURS)
    worst = max(idle.slowdown(OURS).median, cpu.median if cpu else 0.0)
    yield Verdict(
        slower,
        f"requests/s ÷ {idle.slowdown(OURS).median:.2f}, "
        f"CPU per request × {cpu.median if cpu else float('nan'):.2f}, with {idle.wanted:,}",
        worst <= IDLE_SLOWDOWN,
    )


def _cost(outcome: Outcome) -> Iterator[Verdict]:
    users, cost = outcome.closed.get("users"), outcome.closed.get("cost")
    cases = (
        ("1 to 1,000,000 users", users, "1 user", "1,000,000 users"),
        ("1 to 64 endpoints", cost, OURS, "64 endpoints"),
        ("0 to 20 match rules", cost, OURS, "20 rules"),
    )
    for what, closed, few, many in cases:
        wanted = f"CPU per request, {what}: at most {FLAT - 1:.0%} more"
        growth = _growth(closed, few, many)
        if growth is None:
            yield Verdict(wanted, NOT_MEASURED, None)
        else:
            yield Verdict(wanted, f"× {growth.median:.3f}", growth.median <= FLAT)


def _growth(closed: Closed | None, few: str, many: str) -> Spread | None:
    """CPU per request of ``many`` ÷ that of ``few``, round by round."""
    if closed is None or not closed.samples.get(few) or not closed.samples.get(many):
        return None
    rows = closed.rows()
    if rows[few].errors or rows[many].errors:
        return None
    ratio = summary.ratio(closed.samples[few], closed.samples[many])
    return ratio.requests_per_core_second if ratio else None


def _workers(outcome: Outcome) -> Verdict:
    wanted = (
        f"2 workers: ≥ {WORKERS:g} × one where two cores are free, by CPU per request "
        f"(2 ÷ its growth; this machine has no second core to give)"
    )
    growth = _growth(outcome.closed.get("cost"), OURS, "2 workers")
    if growth is None:
        return Verdict(wanted, NOT_MEASURED, None)
    return Verdict(wanted, f"{2 / growth.median:.2f} ×", 2 / growth.median >= WORKERS)


def _unsteady(found: Spread) -> str:
    return (
        f"the rounds differ too much to quote one: {found.surely_from:.2f}–{found.surely_to:.2f} ×"
    )


def _at_least(wanted: str, found: Spread | None, factor: float) -> Verdict:
    if found is None:
        return Verdict(wanted, NOT_MEASURED, None)
    if not found.is_steady:
        # No figure to quote, but where the whole interval is on one side it is on that side.
        decided = found.surely_from >= factor or found.surely_to < factor
        return Verdict(wanted, _unsteady(found), found.surely_from >= factor if decided else None)
    return Verdict(
        wanted,
        f"{found.median:.2f} × ({found.surely_from:.2f}–{found.surely_to:.2f})",
        found.median >= factor,
    )
