"""What several services cost: a request, an idle service, and the control plane.

Instructions of a request in user space, counted by callgrind, of a proxy with one service and of one with
many, of which some have a release under way and get the requests in turn. Both have all five metrics on.
Counted twice: with connections of one host each; and with one connection, each of whose requests is for
another host than the last, against a configuration without services that gets the same bytes (what a
connection remembers of its last head helps neither). Fails if a request of many costs more than ``--limit``
above one of a single service. Then, with the clock: resident memory of an idle service, against one service
and between a quarter and three quarters of them, and CPU time of a proxy without requests, which is that of
its ticks and whatever else it does. Takes about five minutes.
Example: python -m bench.services --services 200 --releasing 20
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.gate import callgrind
from bench.gate.callgrind import CallgrindError, Counter
from bench.gate.steady import Steady
from bench.harness import cores, cputime, memory, ports, process, scenarios
from bench.harness.command_line import positive, say, terminate
from bench.harness.process import Process, StartError
from bench.loads import Load
from bench.peers import Site, upstream
from bench.peers.ours import Ours, environment, host_of_service
from bench.peers.upstream import Upstreams
from canaryproxy.control.controller import TICK_SECONDS

EXIT_DEARER = 1
EXIT_CANNOT_RUN = 2
EXIT_INTERRUPTED = 130

_WEIGHT = 10.0
_SLOWER = 2000.0
"""So that no tick falls into a repetition: it is no part of a request."""
_REPETITIONS = 3
_READY_SECONDS = 120.0
_IDLE_SECONDS = 10.0
_SETTLE_SECONDS = 3.0


class InTurn(Steady):
    """Requests to hosts in turn: a connection, if there are as many, is always of the same host."""

    def __init__(self, port: int, hosts: Sequence[str], connections: int = 1) -> None:
        super().__init__(port, connections=connections)
        self._requests = [
            f"GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n".encode()
            for cookie in Load("", "", users=100 // len(hosts) or 1).cookies()
            for host in hosts
        ]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is started."""

    folder: Path
    on: cores.Cores
    behind: Upstreams
    started: list[Process]

    @contextmanager
    def proxy(self, name: str, peer: Ours, *, counted: bool) -> Iterator[tuple[Process, Site]]:
        """Run a proxy, under callgrind if ``counted``; it is up when this returns."""
        own = self.folder / name
        own.mkdir()
        (port,) = ports.free(1)
        behind = self.behind
        site = Site(
            folder=own, port=port, stable=behind.stable, canary=behind.canary, weight=_WEIGHT
        )
        config = own / "config"
        config.write_text(peer.render_config(site))
        command = peer.command(site, config)
        if counted:
            python, minus_m, *module = command
            slow = [python, minus_m, "bench.gate.slow_clock", f"{_SLOWER:g}", *module]
            command = callgrind.command(slow, own)
        server = process.start(
            peer.name,
            command,
            core=self.on.proxy,
            folder=own,
            env={**environment(peer), "PYTHONHASHSEED": "0"},
        )
        self.started.append(server)
        server.wait_until(lambda: _answers(site, hosts(peer)[:1]), _READY_SECONDS)
        yield server, site
        process.stop([server])


def hosts(peer: Ours) -> list[str]:
    """Return the hosts that requests go to in turn: those of the services with a release."""
    return [host_of_service(number) for number in range(max(peer.releasing, 1))]


def _answers(site: Site, to: Sequence[str]) -> bool:
    try:
        with closing(InTurn(site.port, to)) as client:
            client.send(1)
    except OSError:
        return False
    return True


def instructions(
    bench: Bench, name: str, peer: Ours, to: Sequence[str], requests: int, connections: int
) -> float:
    """Return the instructions of a request to one of the hosts: the least of several repetitions."""
    with bench.proxy(name, peer, counted=True) as (server, site):
        counter = Counter(server.pid, site.folder)
        found = []
        with closing(InTurn(site.port, to, connections)) as client:
            client.send(requests)
            for _ in range(_REPETITIONS):
                counter.start()
                sent = client.send(requests)
                found.append(counter.stop() / sent)
    return min(found)


@dataclass(frozen=True, slots=True)
class Idle:
    """A proxy without requests."""

    memory: int
    """Resident bytes."""
    cpu: float
    """Fraction of a core."""

    @property
    def tick(self) -> float:
        """Seconds of a core in the time of a tick: all that the proxy does."""
        return self.cpu * TICK_SECONDS


def _each(few: Idle, many: Idle, more: int) -> float:
    """Return the KiB that each of so many ``more`` services takes."""
    return (many.memory - few.memory) / more / 1024


def idle(bench: Bench, name: str, peer: Ours) -> Idle:
    """Measure a proxy to which nothing is sent."""
    with bench.proxy(name, peer, counted=False) as (server, _):
        time.sleep(_SETTLE_SECONDS)
        before, began = cputime.of_tree(server.pid), time.monotonic()
        time.sleep(_IDLE_SECONDS)
        used = (cputime.of_tree(server.pid) - before) / 1e9
        return Idle(memory.of_tree(server.pid), used / (time.monotonic() - began))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status.

    0: fine; 1: a request costs more than the limit; 2: it cannot run; 130: interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        one = built(arguments.build)
        many = replace(one, services=arguments.services, releasing=arguments.releasing)
        single = replace(one, services=1, releasing=1)
        with (
            tempfile.TemporaryDirectory(prefix="canaryproxy-services-") as name,
            process.running() as started,
        ):
            on = cores.choose()
            behind = upstream.start(
                *ports.free(2), core=on.load, folder=Path(name), started=started, python=True
            )
            return _run(Bench(Path(name), on, behind, started), single, many, arguments)
    except (StartError, CallgrindError, OSError) as error:
        say(f"bench.services: {error}")
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        say("bench.services: interrupted; everything that was started has been stopped")
        return EXIT_INTERRUPTED


def add_build(parser: argparse.ArgumentParser) -> None:
    """Let the command line say which build is measured."""
    parser.add_argument(
        "--build",
        choices=scenarios.BUILDS,
        help="what is measured (default: the first of these that has been made)",
    )


def built(name: str | None) -> Ours:
    """Return the build of this name, and print which it is. Raises ``StartError`` if it has not been made."""
    one = scenarios.build(name)
    print(f"measured: {one.build.name if one.compiled else 'plain Python'}")
    return one


def _run(bench: Bench, single: Ours, many: Ours, arguments: argparse.Namespace) -> int:
    status = 0
    counted = callgrind.missing()
    if counted is None:
        growth = _count(bench, single, many, arguments.requests)
        status = EXIT_DEARER if growth > arguments.limit / 100 else 0
    else:
        say(f"bench.services: {counted}; a request is not counted")
    few = idle(bench, "few", replace(single, judged=False, releasing=0))
    quiet = idle(bench, "quiet", replace(many, judged=False, releasing=0))
    busy = idle(bench, "busy", many)
    print(f"an idle service: {_each(few, quiet, many.services - 1):.0f} KiB resident")
    low, high = many.services // 4, 3 * many.services // 4
    if 1 < low < high:
        less = idle(bench, "less", replace(many, services=low, judged=False, releasing=0))
        more = idle(bench, "more", replace(many, services=high, judged=False, releasing=0))
        print(f"between {low} and {high} services: {_each(less, more, high - low):.0f} KiB each")
    print(
        f"a tick of {many.services} services with {many.releasing} releases under way: "
        f"{busy.tick * 1e3:.1f} ms of a core; without releases {quiet.tick * 1e3:.1f} ms, with one "
        f"service {few.tick * 1e3:.1f} ms"
    )
    print(
        f"a proxy without requests: {few.cpu:.2%} of a core with one service, {quiet.cpu:.2%} with "
        f"{many.services}, {busy.cpu:.2%} with {many.releasing} releases under way"
    )
    return status


def _count(bench: Bench, single: Ours, many: Ours, requests: int) -> float:
    """Print what a request costs; return by what part it is dearer with many services, at most."""
    to = hosts(many)
    apart = (
        instructions(bench, "one", single, hosts(single), requests, len(to)),
        instructions(bench, "many", many, to, requests, len(to)),
    )
    mixed = (
        instructions(bench, "default", replace(single, services=0), to, requests, 1),
        instructions(bench, "mixed", many, to, requests, 1),
    )
    with_many = f"with {many.services} services ({many.releasing} releases)"
    for what, (of_one, of_many) in (
        ("connections of one host each", apart),
        ("a connection of all hosts", mixed),
    ):
        print(
            f"a request, {what}: {of_one:,.0f} instructions with one service, {of_many:,.0f} "
            f"{with_many}: {of_many / of_one - 1:+.1%}",
            flush=True,
        )
    return max(of_many / of_one - 1 for of_one, of_many in (apart, mixed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.services",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--services", type=positive, default=200, help="(default: %(default)s)")
    parser.add_argument(
        "--releasing",
        type=positive,
        default=20,
        help="of them, with a release (default: %(default)s)",
    )
    parser.add_argument(
        "--requests", type=positive, default=300, help="in a repetition (default: %(default)s)"
    )
    add_build(parser)
    parser.add_argument(
        "--limit", type=float, default=5.0, help="percent that a request may cost more (default: 5)"
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
