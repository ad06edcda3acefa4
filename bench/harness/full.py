"""Runs the experiments of the full benchmark."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness import measure, memory, ports, probe, process, scenarios
from bench.harness.cores import Cores
from bench.harness.measure import DIRECT, Plan, Sample, Stage
from bench.harness.process import Process, StartError
from bench.loads import Load, h2load, wrk
from bench.loads import idle as idle_client
from bench.peers import PEERS, Peer, Site
from bench.peers.base import PYTHONPATH
from bench.report import goals
from bench.report.outcome import OURS, Beside, Closed, Idle, OpenModel, Outcome

UNSUPPORTED = "not supported"
BESIDE = "not measured beside so many connections"
_WARM_UP_SECONDS = 0.5
_OPEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run: peers and loads by name, rounds, seconds a sample, idle connections."""

    peers: tuple[str, ...]
    loads: frozenset[str]
    rounds: int
    seconds: float
    idle: int
    cores: Cores
    weight: float = 10.0

    def plan(self, load: Load) -> Plan:
        return Plan(
            load=load,
            rounds=self.rounds,
            seconds=self.seconds,
            cores=self.cores,
            weight=self.weight,
            more=goals.close(load.name) & {*self.peers},
        )


def run(settings: Settings, outcome: Outcome, folder: Path, say: Callable[[str], None]) -> None:
    """Run the experiments that are wanted and put what they find into ``outcome``.

    An experiment that cannot run is noted in the outcome, and the next one follows.
    """
    peers: list[Peer] = [
        {OURS: scenarios.OURS, scenarios.PURE.name: scenarios.PURE}.get(name, peer)
        for name, peer in PEERS.items()
        if name in settings.peers
    ]
    outcome.titles |= {peer.name: peer.title for peer in peers}
    outcome.versions["wrk (generator)"] = wrk.version()
    if h2load.find():
        outcome.versions["h2load (generator)"] = h2load.version()
    experiments: tuple[tuple[str, Callable[[], None], Collection[str]], ...] = (
        (
            "main",
            lambda: _main(settings, peers, outcome, folder / "main", say),
            {load.name for load in (*scenarios.CLOSED, *scenarios.OPEN)},
        ),
        ("idle", lambda: _idle(settings, peers, outcome, folder / "idle", say), {"idle"}),
        (
            "websocket",
            lambda: _featured(
                settings, peers, outcome, folder / "websocket", say, [scenarios.WEBSOCKET]
            ),
            {"websocket"},
        ),
        (
            "cost",
            lambda: _cost(settings, outcome, folder / "cost", say),
            {"cost", "users"} if OURS in settings.peers else set(),
        ),
        (
            "tls",
            lambda: _featured(
                settings,
                peers,
                outcome,
                folder / "tls",
                say,
                [scenarios.TLS, scenarios.TLS_CONNECT],
            ),
            {scenarios.TLS.name, scenarios.TLS_CONNECT.name},
        ),
        (
            "http2",
            lambda: _featured(settings, peers, outcome, folder / "http2", say, scenarios.HTTP2),
            {load.name for load in scenarios.HTTP2},
        ),
        (
            "http2-tls",
            lambda: _featured(
                settings, peers, outcome, folder / "http2-tls", say, [scenarios.HTTP2_TLS]
            ),
            {scenarios.HTTP2_TLS.name},
        ),
        (
            "http2-upstream",
            lambda: _featured(
                settings, peers, outcome, folder / "http2-upstream", say, scenarios.HTTP2_BOTH
            ),
            {load.name for load in scenarios.HTTP2_BOTH},
        ),
    )
    for name, experiment, loads in experiments:
        if settings.loads.isdisjoint(loads):
            continue
        try:
            experiment()
        except (StartError, wrk.WrkError) as error:
            outcome.notes.append(f"{name} could not be measured to the end: {error}")
            say(outcome.notes[-1])


def _main(
    settings: Settings,
    peers: Sequence[Peer],
    outcome: Outcome,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    with measure.staged(peers, settings.cores, folder, say, weight=settings.weight) as stage:
        outcome.versions |= stage.versions
        for load in scenarios.CLOSED:
            if load.name in settings.loads:
                outcome.closed[load.name] = _closed(stage, settings, load)
        if "latency-half" in settings.loads:
            half = {
                name: requests_per_second / 2
                for name, requests_per_second in _capacities(stage, settings, outcome).items()
            }
            outcome.open_model["latency-half"] = _open(stage, settings, scenarios.HALF, half)
        if "latency-same" in settings.loads:
            rates = _same_rate(scenarios.SAME, [target.name for target in stage.targets])
            outcome.open_model["latency-same"] = _open(stage, settings, scenarios.SAME, rates)
        if "latency-active" in settings.loads:
            able = {peer.name for peer in peers if "idle" in peer.features}
            rates = _same_rate(
                scenarios.ACTIVE, [target.name for target in stage.targets if target.name in able]
            )
            with _idle_connections(stage, settings, rates, outcome.notes):
                run = _open(stage, settings, scenarios.ACTIVE, rates)
            run.missing.update(dict.fromkeys(stage.canary_shares.keys() - able, BESIDE))
            outcome.open_model["latency-active"] = run
        _check_again(stage, outcome, settings)


def _same_rate(load: Load, names: Sequence[str]) -> dict[str, float]:
    return {name: load.rate or 0.0 for name in names if name != DIRECT}


@contextlib.contextmanager
def _idle_connections(
    stage: Stage, settings: Settings, names: Collection[str], notes: list[str]
) -> Iterator[None]:
    """Hold idle connections to each of these targets, and note whose were not all there to the end."""
    with process.running() as started:
        holders: dict[str, Process] = {}
        for target in stage.targets:
            if target.name in names:
                folder = stage.folder / f"{target.name}-idle"
                folder.mkdir()
                holders[target.name] = _hold(target.port, settings, folder, started)
        yield
        process.stop(started)
    for name, holder in holders.items():
        counted = idle_client.parse(holder.tail())
        if counted.failed or counted.closed:
            notes.append(
                f"{name}: of the idle connections {counted.failed:,} could not be opened and "
                f"{counted.closed:,} were closed"
            )


def _hold(port: int, settings: Settings, folder: Path, started: list[Process]) -> Process:
    """Open idle connections to a port; whoever stops the process can read what became of them."""
    holder = process.start(
        "idle",
        idle_client.command(port, settings.idle),
        core=settings.cores.load,
        folder=folder,
        env=PYTHONPATH,
    )
    started.append(holder)
    holder.wait_until(lambda: idle_client.READY in holder.tail(), _OPEN_SECONDS)
    return holder


def _closed(stage: Stage, settings: Settings, load: Load) -> Closed:
    failed: dict[str, str] = {}
    samples = measure.rounds(
        stage, settings.plan(load), warm_up=min(_WARM_UP_SECONDS, settings.seconds), failed=failed
    )
    return Closed(
        load=load,
        samples=samples,
        missing={**stage.missing, **failed},
        upstream=stage.behind.kind,
    )


def _capacities(stage: Stage, settings: Settings, outcome: Outcome) -> dict[str, float]:
    """Requests/s of each proxy in small-32: as measured before, or measured now."""
    closed = outcome.closed.get(scenarios.SMALL.name) or _closed(
        stage, replace(settings, rounds=1), scenarios.SMALL
    )
    return {
        name: row.requests_per_second.median
        for name, row in closed.rows().items()
        if name != DIRECT
    }


def _open(stage: Stage, settings: Settings, load: Load, rates: dict[str, float]) -> OpenModel:
    direct = next(target for target in stage.targets if target.name == DIRECT)
    sent = {name: max(1.0, min(rate, scenarios.MAX_RATE)) for name, rate in rates.items()}
    run = OpenModel(
        load=load,
        rates=sent,
        capped=frozenset(name for name, rate in rates.items() if rate > scenarios.MAX_RATE),
        proxied={name: [] for name in sent},
        direct={name: [] for name in sent},
        missing=dict(stage.missing),
    )
    targets = [target for target in stage.targets if target.name in sent]
    for number, of_turn in settings.plan(load).turns(targets):
        at_rate: dict[float, Sample] = {}  # direct, in this turn
        for target in of_turn:
            if target.name not in run.proxied:
                continue
            rate = sent[target.name]
            plan = settings.plan(replace(load, rate=rate))
            try:
                if rate not in at_rate:
                    at_rate[rate] = measure.sample(stage, direct, plan, number)
                proxied = measure.sample(stage, target, plan, number)
            except wrk.WrkError as error:
                run.missing[target.name] = f"failed: {error}"
                del run.proxied[target.name], run.direct[target.name]
                continue
            if measure.ended(stage, target, number):
                run.missing[target.name] = stage.missing[target.name]
                del run.proxied[target.name], run.direct[target.name]
                continue
            run.proxied[target.name].append(proxied)
            run.direct[target.name].append(at_rate[rate])
            added = proxied.wrk.p50_us - at_rate[rate].wrk.p50_us
            stage.say(
                f"{load.name} turn {number + 1} {target.name}: "
                f"{rate:,.0f} requests/s, p50 + {added:.0f} µs"
            )
        measure.check_upstreams(stage)
    return run


def _check_again(stage: Stage, outcome: Outcome, settings: Settings) -> None:
    """See that everybody still splits as in the beginning: a release could have been rolled back."""
    for target in stage.targets:
        if target.canary_share is None:
            continue
        try:
            after = probe.check(target.port, settings.weight, tls=target.tls)
        except probe.WrongAnswerError as error:
            outcome.notes.append(f"{target.name} does not split any more in the end: {error}")
            continue
        outcome.shares[target.name] = (target.canary_share, after)


def _idle(
    settings: Settings,
    peers: Sequence[Peer],
    outcome: Outcome,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    found = Idle(load=scenarios.IDLE, wanted=settings.idle, samples={}, missing={})
    outcome.idle = found
    for peer in peers:
        if "idle" not in peer.features:
            found.missing[peer.name] = BESIDE
        elif (reason := peer.missing()) is not None:
            found.missing[peer.name] = reason
        else:
            found.samples[peer.name] = []
    with measure.staged([], settings.cores, folder, say) as stage:
        for number in range(settings.rounds):
            able = [peer for peer in peers if peer.name in found.samples]
            turn = number % max(1, len(able))
            for peer in able[turn:] + able[:turn]:
                try:
                    one = _beside(stage, settings, peer, number)
                except (StartError, probe.WrongAnswerError, wrk.WrkError) as error:
                    found.missing[peer.name] = f"failed: {error}"
                    del found.samples[peer.name]
                    say(f"idle: {peer.name}: {found.missing[peer.name]}")
                    continue
                found.samples[peer.name].append(one)
                say(
                    f"idle round {number + 1}/{settings.rounds} {peer.name}: "
                    f"{one.kibibytes:.1f} KiB each, {one.errors} errors"
                )
            measure.check_upstreams(stage)


def _beside(stage: Stage, settings: Settings, peer: Peer, number: int) -> Beside:
    plan = settings.plan(scenarios.IDLE)
    folder = stage.folder / f"{peer.name}-{number}"
    folder.mkdir(parents=True)
    site = Site(
        folder=folder,
        port=ports.free(1)[0],
        stable=stage.behind.stable,
        canary=stage.behind.canary,
        weight=settings.weight,
    )
    with process.running() as started:
        target = measure.start(peer, site, settings.cores, started)
        pid = started[0].pid
        alone = measure.sample(stage, target, plan, number)
        before = memory.of_tree(pid)
        holder = _hold(site.port, settings, folder, started)
        after = memory.of_tree(pid)
        beside = measure.sample(stage, target, plan, number)
        if started[0].popen.poll() is not None:
            raise StartError(f"{peer.name} ended: {started[0].tail()}")
        process.stop([holder])
        counted = idle_client.parse(holder.tail())
    return Beside(
        opened=counted.opened,
        failed=counted.failed,
        closed=counted.closed,
        bytes_before=before,
        bytes_after=after,
        alone=alone,
        beside=beside,
    )


def _featured(
    settings: Settings,
    peers: Sequence[Peer],
    outcome: Outcome,
    folder: Path,
    say: Callable[[str], None],
    loads: Sequence[Load],
) -> None:
    """Loads that not every peer can take: WebSockets, TLS, HTTP/2. All of ``loads`` are of one kind."""
    first = loads[0]
    http2, websocket = first.tool == "h2load", first.tool == "websocket"
    needs = {
        *(["tls"] if first.tls else []),
        *(["http2"] if http2 else []),
        *(["http2-upstream"] if first.http2_upstream else []),
        *(["websocket"] if websocket else []),
    }
    able = [peer for peer in peers if needs <= peer.features]
    unable = {peer.name: UNSUPPORTED for peer in peers if peer not in able}
    with measure.staged(
        able,
        settings.cores,
        folder,
        say,
        weight=settings.weight,
        with_tls=first.tls,
        with_http2=http2,
        with_http2_upstream=first.http2_upstream,
        python_upstream=websocket,
    ) as stage:
        outcome.versions |= stage.versions
        if first.tls or http2:
            stage.targets.pop()  # the upstream itself speaks neither
        for load in loads:
            if load.name in settings.loads:
                closed = _closed(stage, settings, load)
                outcome.closed[load.name] = replace(closed, missing={**unable, **closed.missing})


def _cost(settings: Settings, outcome: Outcome, folder: Path, say: Callable[[str], None]) -> None:
    # Growth of a few percent is looked for: many short rounds tell it from what else goes on.
    settings = replace(settings, rounds=3 * settings.rounds, seconds=settings.seconds / 2)
    most = max(peer.endpoints for peer in scenarios.VARIATIONS)
    peers = scenarios.VARIATIONS if "cost" in settings.loads else (scenarios.OURS,)
    with measure.staged(
        peers, settings.cores, folder, say, weight=settings.weight, addresses=most
    ) as stage:
        stage.targets.pop()  # direct is known from the other loads
        if "cost" in settings.loads:
            outcome.closed["cost"] = _closed(stage, settings, scenarios.COST)
            outcome.titles |= {f"cost: {peer.name}": peer.title for peer in peers}
        ours = next((target for target in stage.targets if target.name == OURS), None)
        if "users" in settings.loads and ours is not None:
            by_users = [replace(ours, name=load.name, load=load) for load in scenarios.USERS]
            with_users = replace(stage, targets=[*by_users])
            load = replace(
                scenarios.SMALL,
                name="users",
                description="small-32, cookies made while sending, against the number of users; "
                "three times as many rounds of half the length",
            )
            closed = _closed(with_users, settings, load)
            outcome.closed["users"] = replace(closed, reference=scenarios.USERS[0].name)


def commit() -> str:
    """Return what git calls this checkout, or "unknown"."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
