"""Measures latencies in an open model: all proxies, and the upstream itself, in slices that take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.harness import cores, measure, scenarios
from bench.harness.measure import DIRECT, Sample, Stage, Target
from bench.harness.settings import Settings
from bench.loads import Load, open_model
from bench.loads.open_model import Stream
from bench.loads.wrk import WrkResult
from bench.report.outcome import OpenModel

_TOO_SLOW = "serves less than twice that rate"
_TOGETHER = 8192
"""Connections of one job; the files that a process may have open are limited."""


def run(stage: Stage, settings: Settings, load: Load, capacities: Mapping[str, float]) -> OpenModel:
    """Send to each proxy at the rate of the load, or at half of its capacity (requests/s) if it has none.

    The stage is one whose upstreams send. Raises ``wrk.WrkError`` if the sender ends, ``StartError`` if an
    upstream does.
    """
    targets = {target.name: target for target in stage.targets if target.name in capacities}
    wanted = {name: load.rate or capacities[name] / 2 for name in targets}
    missing = dict(stage.missing)
    for name in targets:
        if wanted[name] > capacities[name] / 2:
            missing[name] = _TOO_SLOW
            del wanted[name]
    rates = {name: max(1.0, min(rate, scenarios.MAX_RATE)) for name, rate in wanted.items()}
    found = OpenModel(
        load=load,
        rates=rates,
        capped=frozenset(name for name, rate in wanted.items() if rate > scenarios.MAX_RATE),
        proxied={name: [] for name in rates},
        direct={name: [] for name in rates},
        missing=missing,
    )
    for number, of_turn in settings.plan(load).turns([targets[name] for name in rates]):
        here = [one for one in of_turn if one.name in found.proxied]
        together = len(here) * load.connections <= _TOGETHER
        for targets_at_once in [here] if together else [[one] for one in here]:
            _turn(stage, settings, found, number, targets_at_once)
    return found


def _turn(
    stage: Stage, settings: Settings, found: OpenModel, number: int, targets: Sequence[Target]
) -> None:
    direct = next(target for target in stage.targets if target.name == DIRECT)
    proxied = [Stream(target.port, found.rates[target.name]) for target in targets]
    alone = [Stream(direct.port, rate) for rate in {stream.rate for stream in proxied}]
    proxy_core = cores.read(settings.cores.proxy)
    results = open_model.send(
        stage.behind.sender,
        [*proxied, *alone],
        seconds=settings.seconds,
        connections=found.load.connections,
    )
    busy = cores.busy_share(proxy_core, cores.read(settings.cores.proxy))
    at_rate = {stream.rate: one for stream, one in zip(alone, results[len(proxied) :], strict=True)}
    for target, result in zip(targets, results, strict=False):
        if measure.ended(stage, target, number):
            found.missing[target.name] = stage.missing[target.name]
            del found.proxied[target.name], found.direct[target.name]
            continue
        without = at_rate[found.rates[target.name]]
        found.proxied[target.name].append(_sample(target.name, number, result, busy))
        found.direct[target.name].append(_sample(DIRECT, number, without, busy))
        stage.say(
            f"{found.load.name} turn {number + 1} {target.name}: {found.rates[target.name]:,.0f} requests/s, "
            f"p99 + {result.p99_us - without.p99_us:.0f} µs"
        )
    measure.check_upstreams(stage)


def _sample(name: str, number: int, result: WrkResult, proxy_core_busy: float) -> Sample:
    """What was found in a turn's slices of one stream; nobody but the sender is on the load core."""
    return Sample(
        name=name,
        round=number,
        wrk=result,
        cpu_seconds=None,  # the proxies took turns
        wall_seconds=result.seconds,
        proxy_core_busy=proxy_core_busy,
        load_core_busy=result.cpu_seconds / result.seconds if result.seconds else 0.0,
    )
