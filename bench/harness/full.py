"""Runs the experiments of the full benchmark."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness import idle, latency, measure, probe, scenarios
from bench.harness.measure import DIRECT, Stage
from bench.harness.process import StartError
from bench.harness.settings import Settings
from bench.loads import Load, h2load, wrk
from bench.peers import PEERS, Peer
from bench.report.outcome import OURS, Closed, Outcome

UNSUPPORTED = "not supported"
_WARM_UP_SECONDS = 0.5


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
            {load.name for load in scenarios.CLOSED},
        ),
        (
            "latency",
            lambda: _latency(settings, peers, outcome, folder / "latency", say),
            {load.name for load in scenarios.OPEN},
        ),
        ("idle", lambda: idle.run(settings, peers, outcome, folder / "idle", say), {"idle"}),
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
        _check_again(stage, outcome, settings)


def _latency(
    settings: Settings,
    peers: Sequence[Peer],
    outcome: Outcome,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    with measure.staged(
        peers, settings.cores, folder, say, weight=settings.weight, sender=True
    ) as stage:
        outcome.versions |= stage.versions
        capacities = _capacities(stage, settings, outcome)
        for load in (scenarios.HALF, scenarios.SAME):
            if load.name in settings.loads:
                outcome.open_model[load.name] = latency.run(stage, settings, load, capacities)
        if scenarios.ACTIVE.name in settings.loads:
            able = {peer.name for peer in peers if "idle" in peer.features}
            able_ones = {name: one for name, one in capacities.items() if name in able}
            with idle.connections(stage, settings, able_ones, outcome.notes):
                run = latency.run(stage, settings, scenarios.ACTIVE, able_ones)
            run.missing.update(dict.fromkeys(stage.canary_shares.keys() - able, idle.BESIDE))
            outcome.open_model[scenarios.ACTIVE.name] = run
        _check_again(stage, outcome, settings)


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
