"""Starts the peers and measures them in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import cores, cputime, ports, probe, process, upstream, wrk
from bench.cores import Cores
from bench.loads import Load
from bench.peers import Peer, Site
from bench.peers.base import PYTHONPATH
from bench.ports import HOST
from bench.process import Process, StartError
from bench.upstream import Upstreams
from bench.wrk import WrkResult

DIRECT = "direct"
"""Name of the reference without a proxy: load generator and upstream alone on their core."""

READY_SECONDS = 20.0
WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Target:
    """Something to send load to; ``process`` is None for the upstream itself."""

    name: str
    port: int
    process: Process | None
    canary_share: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer in one round.

    round: 0, 1, …
    wrk: what the load generator counted.
    cpu_seconds: CPU time of the proxy with all its threads and workers; None without a proxy.
    wall_seconds: from before the first connect until after the last answer.
    proxy_core_busy, load_core_busy: share of that time, 0..1, in which the core was not idle.
    """

    name: str
    round: int
    wrk: WrkResult
    cpu_seconds: float | None
    wall_seconds: float
    proxy_core_busy: float
    load_core_busy: float

    @property
    def requests_per_second(self) -> float:
        return self.wrk.requests / self.wrk.seconds

    @property
    def cpu_us(self) -> float | None:
        """CPU microseconds of the proxy per request."""
        if self.cpu_seconds is None or not self.wrk.requests:
            return None
        return self.cpu_seconds / self.wrk.requests * 1e6

    @property
    def requests_per_core_second(self) -> float | None:
        """Requests that one second of the proxy's CPU time answers."""
        return 1e6 / self.cpu_us if self.cpu_us else None

    @property
    def others_on_proxy_core(self) -> float | None:
        """Share of the time, 0..1, in which something else ran on the proxy's core."""
        if self.cpu_seconds is None:
            return None
        return max(0.0, self.proxy_core_busy - self.cpu_seconds / self.wall_seconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure: the load, rounds, whole seconds a sample, percent of users on the canary."""

    load: Load
    rounds: int
    seconds: int
    cores: Cores
    weight: float = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome.

    samples: by peer, one a round.
    missing: the reason for each peer that could not be measured.
    versions, canary_shares: by peer (and "wrk"); the share, 0..1, of users seen on the canary before.
    upstream: what stood behind the proxies.
    """

    samples: dict[str, list[Sample]]
    missing: dict[str, str]
    versions: dict[str, str]
    canary_shares: dict[str, float]
    upstream: str


def measure(
    peers: Sequence[Peer], plan: Plan, folder: Path, say: Callable[[str], None]
) -> Measured:
    """Run the plan over ``peers`` and the direct reference.

    Every peer is started once and checked (answers, stickiness, split); the rounds then take the
    peers in turn, each round starting with another one. Everything is stopped on the way out.
    """
    missing: dict[str, str] = {}
    versions = {"wrk": wrk.version()}
    with process.running() as started:
        numbers = ports.free(2 + len(peers))
        behind = upstream.start(
            *numbers[:2], core=plan.cores.load, folder=_made(folder / "up"), started=started
        )
        targets: list[Target] = []
        for peer, port in zip(peers, numbers[2:], strict=True):
            reason = peer.missing()
            if reason is None:
                site = Site(
                    folder=_made(folder / peer.name),
                    port=port,
                    stable=behind.stable,
                    canary=behind.canary,
                    weight=plan.weight,
                )
                try:
                    targets.append(_start(peer, site, plan, started))
                    versions[peer.name] = peer.version()
                    continue
                except (StartError, probe.WrongAnswerError) as error:
                    reason = str(error)
            missing[peer.name] = reason
            say(f"missing: {peer.name}: {reason}")
        targets.append(Target(DIRECT, behind.stable, None))
        samples = _rounds(targets, plan, behind, folder, missing, say)
    return Measured(
        samples=samples,
        missing=missing,
        versions=versions,
        canary_shares={t.name: t.canary_share for t in targets if t.canary_share is not None},
        upstream=behind.kind,
    )


def _start(peer: Peer, site: Site, plan: Plan, started: list[Process]) -> Target:
    config = site.folder / "config"
    config.write_text(peer.render_config(site))
    running = process.start(
        peer.name,
        peer.command(site, config),
        core=plan.cores.proxy,
        folder=site.folder,
        env=PYTHONPATH,
    )
    started.append(running)
    running.wait_until(lambda: probe.answers(site.port), READY_SECONDS)
    share = probe.check(site.port, plan.weight if peer.splits else None)
    return Target(peer.name, site.port, running, share if peer.splits else None)


def _rounds(
    targets: list[Target],
    plan: Plan,
    behind: Upstreams,
    folder: Path,
    missing: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for target in targets:
        wrk.run(
            _url(target), plan.load, seconds=WARM_UP_SECONDS, core=plan.cores.load, folder=folder
        )
    for number in range(plan.rounds):
        turn = number % len(targets)
        for target in targets[turn:] + targets[:turn]:
            sample = _sample(target, number, plan, folder)
            if target.process is not None and target.process.popen.poll() is not None:
                missing[target.name] = f"ended in round {number + 1}: {target.process.tail()}"
                say(f"missing: {target.name}: {missing[target.name]}")
                targets.remove(target)
                del samples[target.name]
                continue
            samples[target.name].append(sample)
            cpu = f", {sample.cpu_us:.1f} CPU µs each" if sample.cpu_us else ""
            say(
                f"round {number + 1}/{plan.rounds} {target.name}: "
                f"{sample.requests_per_second:,.0f} requests/s{cpu}"
            )
        for up in behind.processes:
            if up.popen.poll() is not None:
                raise StartError(f"{up.name} ended while it was needed: {up.tail()}")
    return samples


def _sample(target: Target, number: int, plan: Plan, folder: Path) -> Sample:
    pid = target.process.pid if target.process else None
    began = time.perf_counter()
    proxy_core, load_core = cores.read(plan.cores.proxy), cores.read(plan.cores.load)
    cpu = cputime.of_tree(pid) if pid else 0
    result = wrk.run(
        _url(target), plan.load, seconds=plan.seconds, core=plan.cores.load, folder=folder
    )
    spent = cputime.of_tree(pid) - cpu if pid else None
    return Sample(
        name=target.name,
        round=number,
        wrk=result,
        cpu_seconds=None if spent is None else spent / 1e9,
        wall_seconds=time.perf_counter() - began,
        proxy_core_busy=cores.busy_share(proxy_core, cores.read(plan.cores.proxy)),
        load_core_busy=cores.busy_share(load_core, cores.read(plan.cores.load)),
    )


def _url(target: Target) -> str:
    return f"http://{HOST}:{target.port}/"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
