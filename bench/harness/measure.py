"""Starts the peers and measures them in interleaved rounds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.harness import cores, cputime, ports, probe, process, tls
from bench.harness.cores import Cores
from bench.harness.ports import HOST
from bench.harness.process import Process, StartError
from bench.loads import Load, wrk
from bench.loads.wrk import WrkResult
from bench.peers import Peer, Site, upstream
from bench.peers.ours import environment
from bench.peers.upstream import Upstreams

DIRECT = "direct"
"""Name of the reference without a proxy: load generator and upstream alone on their core."""

MORE = 3
"""How many times in a round those are measured that it takes more rounds to compare."""
READY_SECONDS = 20.0
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """Something to send load to; ``process`` is None for the upstream itself.

    load: its own, instead of the plan's.
    """

    name: str
    port: int
    process: Process | None
    canary_share: float | None = None
    tls: bool = False
    load: Load | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer in one round.

    round: 0, 1, …: samples of the same number were taken one after the other.
    wrk: what the load generator counted.
    cpu_seconds: CPU time of the proxy with all its threads and workers; None without a proxy.
    wall_seconds: from before the first connect until after the last answer.
    proxy_core_busy, load_core_busy: share of that time, 0..1, in which the core was not idle.
    upstream_cpu_seconds: CPU time of the upstreams.
    """

    name: str
    round: int
    wrk: WrkResult
    cpu_seconds: float | None
    wall_seconds: float
    proxy_core_busy: float
    load_core_busy: float
    upstream_cpu_seconds: float = 0.0

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

    @property
    def generator_share(self) -> float:
        """Share of the load core, 0..1, that the load generator used."""
        return self.wrk.cpu_seconds / self.wall_seconds

    @property
    def upstream_share(self) -> float:
        """Share of the load core, 0..1, that the upstreams used."""
        return self.upstream_cpu_seconds / self.wall_seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure: the load, rounds, seconds a sample, percent of users on the canary.

    more: targets that are measured ``MORE`` times in each round.
    """

    load: Load
    rounds: int
    seconds: float
    cores: Cores
    weight: float = 10.0
    more: frozenset[str] = frozenset()

    def turns(self, targets: Sequence[Target]) -> Iterator[tuple[int, list[Target]]]:
        """Give the number of each turn, and who is measured in it: each turn begins with another one."""
        each = MORE if self.more else 1
        for number in range(self.rounds * each):
            of_turn = [one for one in targets if number % each == 0 or one.name in self.more]
            first = number % max(1, len(of_turn))
            yield number, of_turn[first:] + of_turn[:first]


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


@dataclass(frozen=True, slots=True)
class Stage:
    """Running peers over running upstreams, to be measured under any number of loads.

    targets: the peers that run, in the order of the tables, then ``DIRECT``.
    behind: the upstreams.
    missing: the reason for each peer that does not run; grows when one ends.
    versions: by peer.
    """

    targets: list[Target]
    behind: Upstreams
    folder: Path
    say: Callable[[str], None]
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def canary_shares(self) -> dict[str, float]:
        return {t.name: t.canary_share for t in self.targets if t.canary_share is not None}


def measure(
    peers: Sequence[Peer], plan: Plan, folder: Path, say: Callable[[str], None]
) -> Measured:
    """Run the plan over ``peers`` and the direct reference.

    Every peer is started once and checked (answers, stickiness, split); the rounds then take the
    peers in turn, each round starting with another one. Everything is stopped on the way out.
    """
    with staged(peers, plan.cores, folder, say, weight=plan.weight) as stage:
        samples = rounds(stage, plan)
    return Measured(
        samples=samples,
        missing=stage.missing,
        versions={"wrk": wrk.version(), **stage.versions},
        canary_shares=stage.canary_shares,
        upstream=stage.behind.kind,
    )


@contextlib.contextmanager
def staged(
    peers: Sequence[Peer],
    on: Cores,
    folder: Path,
    say: Callable[[str], None],
    *,
    weight: float = 10.0,
    with_tls: bool = False,
    with_http2: bool = False,
    with_http2_upstream: bool = False,
    python_upstream: bool = False,
    sender: bool = False,
    addresses: int = 1,
) -> Iterator[Stage]:
    """Start upstreams and peers, check each peer, and stop everything in the end.

    sender: the upstreams are of the program that sends the open model.
    """
    with process.running() as started:
        numbers = ports.free(2 + len(peers))
        up = _made(folder / "up")
        if sender:
            behind = upstream.start_sender(*numbers[:2], core=on.load, folder=up, started=started)
        else:
            behind = upstream.start(
                *numbers[:2],
                core=on.load,
                folder=up,
                started=started,
                addresses=addresses,
                python=python_upstream,
                http2=with_http2_upstream,
            )
        stage = Stage(targets=[], behind=behind, folder=folder, say=say)
        for peer, port in zip(peers, numbers[2:], strict=True):
            reason = peer.missing()
            if reason is None:
                site = Site(
                    folder=_made(folder / peer.name),
                    port=port,
                    stable=behind.stable,
                    canary=behind.canary,
                    weight=weight,
                    tls=with_tls,
                    http2=with_http2,
                    http2_upstream=with_http2_upstream,
                )
                try:
                    stage.targets.append(start(peer, site, on, started))
                    stage.versions[peer.name] = peer.version()
                    continue
                except (StartError, probe.WrongAnswerError) as error:
                    reason = str(error)
            stage.missing[peer.name] = reason
            say(f"missing: {peer.name}: {reason}")
        stage.targets.append(Target(DIRECT, behind.stable, None))
        yield stage


def start(peer: Peer, site: Site, on: Cores, started: list[Process]) -> Target:
    """Start one peer and check that it does its work.

    The process is added to ``started``. Raises ``StartError`` and ``probe.WrongAnswerError``.
    """
    if site.tls:
        tls.write_certificate(site)
    config = site.folder / "config"
    config.write_text(peer.render_config(site))
    running = process.start(
        peer.name,
        peer.command(site, config),
        core=on.proxy,
        folder=site.folder,
        env=environment(peer),
    )
    started.append(running)
    way = {"tls": site.tls, "http2": site.http2}
    running.wait_until(lambda: probe.answers(site.port, **way), READY_SECONDS)
    if peer.splits:
        running.wait_until(lambda: probe.has_split(site.port, **way), READY_SECONDS)
    share = probe.check(site.port, site.weight if peer.splits else None, **way)
    return Target(peer.name, site.port, running, share if peer.splits else None, site.tls)


def rounds(
    stage: Stage,
    plan: Plan,
    *,
    warm_up: float = WARM_UP_SECONDS,
    failed: dict[str, str] | None = None,
) -> dict[str, list[Sample]]:
    """Measure the targets of a stage in turn, each round starting with another one.

    A peer that ends is named in ``stage.missing`` and left out; one that no load can be sent to is named
    in ``failed`` if that is given, else ``wrk.WrkError`` is raised. ``StartError`` if an upstream ends.
    """
    targets = list(stage.targets)
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for target in tuple(targets):
        try:
            sample(stage, target, replace(plan, seconds=warm_up), 0)
        except wrk.WrkError as error:
            _leave_out(target, error, targets, samples, failed)
    for number, of_turn in plan.turns(targets):
        for target in of_turn:
            if target.name not in samples:
                continue
            try:
                taken = sample(stage, target, plan, number)
            except wrk.WrkError as error:
                _leave_out(target, error, targets, samples, failed)
                continue
            if ended(stage, target, number):
                targets.remove(target)
                del samples[target.name]
                continue
            samples[target.name].append(taken)
            cpu = f", {taken.cpu_us:.1f} CPU µs each" if taken.cpu_us else ""
            stage.say(
                f"{plan.load.name} turn {number + 1} {target.name}: "
                f"{taken.requests_per_second:,.0f} requests/s{cpu}"
            )
        check_upstreams(stage)
    return samples


def _leave_out(
    target: Target,
    error: wrk.WrkError,
    targets: list[Target],
    samples: dict[str, list[Sample]],
    failed: dict[str, str] | None,
) -> None:
    if failed is None:
        raise error
    failed[target.name] = f"failed: {error}"
    targets.remove(target)
    del samples[target.name]


def check_upstreams(stage: Stage) -> None:
    """Raise ``StartError`` if an upstream has ended."""
    for up in stage.behind.processes:
        if up.popen.poll() is not None:
            raise StartError(f"{up.name} ended while it was needed: {up.tail()}")


def ended(stage: Stage, target: Target, number: int) -> bool:
    """Return whether a target has ended by itself; it is then no longer part of the stage."""
    if target.process is None or target.process.popen.poll() is None:
        return False
    stage.missing[target.name] = f"ended in round {number + 1}: {target.process.tail()}"
    stage.say(f"missing: {target.name}: {stage.missing[target.name]}")
    stage.targets.remove(target)
    return True


def sample(stage: Stage, target: Target, plan: Plan, number: int) -> Sample:
    """Send the load of the plan to one target once."""
    pid = target.process.pid if target.process else None
    began = time.perf_counter()
    proxy_core, load_core = cores.read(plan.cores.proxy), cores.read(plan.cores.load)
    cpu, upstream_cpu = cputime.of_tree(pid) if pid else 0, _upstream_cpu(stage)
    result = wrk.run(
        target.url,
        target.load or plan.load,
        seconds=plan.seconds,
        core=plan.cores.load,
        folder=stage.folder,
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
        upstream_cpu_seconds=(_upstream_cpu(stage) - upstream_cpu) / 1e9,
    )


def _upstream_cpu(stage: Stage) -> int:
    return sum(cputime.of_tree(up.pid) for up in stage.behind.processes)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
