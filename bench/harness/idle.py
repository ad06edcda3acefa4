"""Measures what idle connections take: memory, and how much slower everything beside them gets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from bench.harness import measure, memory, ports, probe, process, scenarios
from bench.harness.measure import Stage
from bench.harness.process import Process, StartError
from bench.harness.settings import Settings
from bench.loads import idle as idle_client
from bench.loads import wrk
from bench.peers import Peer, Site
from bench.peers.base import PYTHONPATH
from bench.report.outcome import Beside, Idle, Outcome

BESIDE = "not measured beside so many connections"
_OPEN_SECONDS = 60.0


def run(
    settings: Settings,
    peers: Sequence[Peer],
    outcome: Outcome,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Measure each proxy alone and then beside idle connections, in a process started for each round."""
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


@contextlib.contextmanager
def connections(
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
