"""The regression gate: fails when a request costs 3% more than the stored baseline.

The yardstick is the number of instructions of a request in user space, counted by callgrind: it is the
same on a busy machine and on an idle one (runs differ by 0.1%). With another Python or other libraries than
those of the baseline, the ratio to the plain aiohttp proxy, counted in the same run, is compared instead;
else that proxy is not started. Where valgrind is not installed it is the CPU time of a request as a ratio to
that proxy, measured in turn with it. Ratios are coarser: they fail at 10%. Takes one or two minutes.
The compiled copy is that of ``make checked``, at the gate's level of optimization, as in the baseline.
Example: python -m bench.gate --update
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.gate import callgrind
from bench.gate.callgrind import CallgrindError, Counter
from bench.gate.loads import LOADS, Client, Kind
from bench.harness import cores, cputime, ports, probe, process, scenarios, tls
from bench.harness.command_line import positive, say, terminate
from bench.harness.process import Process, StartError
from bench.peers import PEERS, Peer, Site, upstream
from bench.peers.ours import CHECKED, Ours, environment

EXIT_SLOWER = 1
EXIT_CANNOT_RUN = 2
EXIT_INTERRUPTED = 130

BASELINE = Path(__file__).with_name("baseline.json")
LIMIT = 0.03
"""Growth of the number of instructions, as a fraction, at which the gate fails."""
LIMIT_OF_RATIOS = 0.10
"""The same of a ratio to the plain aiohttp proxy."""


_REPETITIONS = {"instructions": 4, "cpu": 12}
"""By method, with the one that warms up. Not by time: the same number finds the same least everywhere, and a
longer look of the garbage collector, which falls into two in a row, never falls into all."""
_RECORDED_REPETITIONS = 3
_SLOWER = 2000.0
"""So that no tick of the controller falls into a repetition: it is no part of a request."""
_READY_SECONDS = 90.0
_WEIGHT = 10.0
_BUILDS = {name: one for name, one in scenarios.BUILDS.items() if one.compiled}
_PLAIN = "plain"
_PLAIN_SHARE = 0.25  # of the requests: a request of the plain proxy takes several times as long


@dataclass(frozen=True, slots=True)
class JudgeAlone(Ours):
    """The judge of canaryproxy, without a proxy, which gets records."""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-m", "bench.gate.judge_alone", str(site.port)]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one request: of canaryproxy and of the plain aiohttp proxy, in the same unit.

    ``plain`` is NaN where it was not measured.
    """

    ours: float
    plain: float = math.nan

    @property
    def ratio(self) -> float:
        return self.ours / self.plain


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run found.

    method: "instructions" or "cpu" (microseconds).
    stack: what the figures depend on beside our own code.
    costs: by load.
    """

    method: str
    stack: str
    costs: dict[str, Cost]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One load: ``growth`` 0.02 is 2 % more than the baseline."""

    load: str
    what: str
    before: float
    now: float
    limit: float

    @property
    def growth(self) -> float:
        return self.now / self.before - 1

    @property
    def fails(self) -> bool:
        return self.growth > self.limit

    def __str__(self) -> str:
        return (
            f"{self.load}: {self.what} {figure(self.now)}, baseline {figure(self.before)}: "
            f"{self.growth:+.1%}"
        )


def figure(value: float) -> str:
    """Return a figure with four digits that tell something, or all of those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def is_comparable(method: str, on: str, baseline: Mapping[str, Any]) -> bool:
    """Tell whether figures of this stack can be compared with the baseline's, and not only ratios."""
    known = baseline.get(method)
    return method == "instructions" and known is not None and bool(known["stack"] == on)


class NoBaselineError(Exception):
    """There is nothing to compare with."""


def compare(measured: Measured, baseline: Mapping[str, Any]) -> list[Comparison]:
    """Compare with the baseline of the same method.

    Raises ``NoBaselineError`` if it has none, or lacks a load.
    """
    known = baseline.get(measured.method)
    if known is None or not measured.costs.keys() <= known["costs"].keys():
        raise NoBaselineError(
            f"the baseline has no {measured.method} for all loads: python -m bench.gate --update"
        )
    found = []
    for load, cost in measured.costs.items():
        before = Cost(**known["costs"][load])
        if is_comparable(measured.method, measured.stack, baseline):
            found.append(Comparison(load, "instructions a request", before.ours, cost.ours, LIMIT))
        else:
            unit = "instructions" if measured.method == "instructions" else "CPU time"
            what = f"{unit} a request ÷ plain aiohttp"
            found.append(Comparison(load, what, before.ratio, cost.ratio, LIMIT_OF_RATIOS))
    return found


def updated(baseline: Mapping[str, Any], measured: Measured) -> dict[str, Any]:
    """Return the baseline with this method's figures replaced."""
    entry = {
        "stack": measured.stack,
        "costs": {load: asdict(cost) for load, cost in measured.costs.items()},
    }
    return {**baseline, measured.method: entry}


def stack() -> str:
    """Return what instructions a request takes beside our own: Python's build and the libraries."""
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("aiohttp", "uvloop"))
    return f"{platform.machine()}, Python {sys.version}, {libraries}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and compare; returns the exit status.

    0: fine or updated; 1: a request costs more; 2: it cannot run; 130: interrupted.
    """
    arguments = _parser().parse_args(argv)
    baseline_file: Path = arguments.baseline
    baseline = json.loads(baseline_file.read_text()) if baseline_file.exists() else {}
    reason = callgrind.missing()
    methods = ["cpu"] if arguments.method == "cpu" or reason else ["instructions"]
    if arguments.method == "instructions" and reason:
        say(f"bench.gate: {reason}")
        return EXIT_CANNOT_RUN
    if arguments.method == "auto" and reason:
        say(f"bench.gate: {reason}; CPU time is compared instead, which is coarser")
    if arguments.update and arguments.method == "auto" and not reason:
        methods = ["instructions", "cpu"]
    try:
        build = _BUILDS[arguments.build]
        found = [
            _measure(
                method,
                arguments.requests,
                build,
                beside_plain=arguments.update or not is_comparable(method, stack(), baseline),
            )
            for method in methods
        ]
    except (StartError, CallgrindError, OSError) as error:
        say(f"bench.gate: {error}")
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        say("bench.gate: interrupted; everything that was started has been stopped")
        return EXIT_INTERRUPTED
    if arguments.update:
        for measured in found:
            baseline = updated(baseline, measured)
            for load, cost in measured.costs.items():
                say(
                    f"{load}: {figure(cost.ours)} {measured.method}, {cost.ratio:.3f} of plain aiohttp"
                )
        baseline_file.write_text(json.dumps(baseline, indent=1) + "\n")
        say(f"written: {baseline_file}")
        return 0
    return _verdict(found[0], baseline)


def _verdict(measured: Measured, baseline: Mapping[str, Any]) -> int:
    try:
        comparisons = compare(measured, baseline)
    except NoBaselineError as error:
        say(f"bench.gate: {error}")
        return EXIT_CANNOT_RUN
    for comparison in comparisons:
        print(comparison, flush=True)
    slower = [comparison for comparison in comparisons if comparison.fails]
    for comparison in slower:
        say(
            f"bench.gate: a request ({comparison.load}) costs {comparison.growth:.1%} more than the "
            f"baseline; at most {comparison.limit:.0%} is let through. Make it cheaper, or if it is worth "
            "its price store a new baseline: python -m bench.gate --update"
        )
    return EXIT_SLOWER if slower else 0


def _measure(method: str, requests: int, build: Ours, *, beside_plain: bool) -> Measured:
    """Start everything, measure in turn, keep the least of each."""
    on = cores.choose()
    with (
        tempfile.TemporaryDirectory(prefix="canaryproxy-gate-") as name,
        process.running() as started,
    ):
        folder = Path(name)
        numbers = ports.free(10)
        peers = {
            _PLAIN: PEERS["plain"],
            "alone": replace(scenarios.OURS_ALONE, compiled=False),
            "judged": scenarios.PURE,
            "compiled": build,
            "judge": JudgeAlone(name="judge", compiled=False),
            "compiled judge": JudgeAlone(name="compiled judge", build=build.build),
        }
        loads = dict(LOADS)
        if not beside_plain:
            del peers[_PLAIN]
        reason = build.missing()
        if reason:
            say(f"bench.gate: {reason}; only plain Python is measured")
            del peers["compiled"], peers["compiled judge"]
            loads = {name: kind for name, kind in LOADS.items() if not kind.compiled}
        if method == "cpu":  # the few records of a repetition are too short for it
            loads = {name: kind for name, kind in loads.items() if not kind.recorded}
            peers = {name: peer for name, peer in peers.items() if not isinstance(peer, JudgeAlone)}
        behind = upstream.start(
            *numbers[:2], core=on.load, folder=folder, started=started, python=True
        )
        servers = {
            name: _start(name, peer, port, numbers[-1], behind, method, folder, on, started)
            for (name, peer), port in zip(peers.items(), numbers[2:-1], strict=False)
        }
        for name, (server, site) in servers.items():
            _wait(server, site, alone=isinstance(peers[name], JudgeAlone))
        meters = {
            name: _meter(method, server, site.folder) for name, (server, site) in servers.items()
        }
        # The plain proxy's load is the same for several of ours.
        plain = {load: kind.of_plain() for load, kind in loads.items()}
        wanted = [(kind.server, kind) for kind in loads.values()]
        if beside_plain:
            wanted += [(_PLAIN, kind) for kind in dict.fromkeys(plain.values())]
        least: dict[tuple[str, Kind], float] = {}
        for repetition in range(_REPETITIONS[method]):
            for name, kind in wanted:
                if kind.recorded and repetition >= _RECORDED_REPETITIONS:
                    continue  # a record costs the less the older its step is
                count = requests * kind.share * (_PLAIN_SHARE if name == _PLAIN else 1.0)
                cost = _cost(servers[name][1], kind, meters[name], max(1, round(count)))
                if repetition:  # the first one only warms up
                    least[name, kind] = min(cost, least.get((name, kind), cost))
            for server, _ in servers.values():
                if server.popen.poll() is not None:
                    raise StartError(f"{server.name} ended: {server.tail()}")
    costs = {
        load: Cost(least[kind.server, kind], least.get((_PLAIN, plain[load]), math.nan))
        for load, kind in loads.items()
    }
    return Measured(method, stack(), costs)


def _cost(site: Site, kind: Kind, meter: Callable[[Client, int], float], count: int) -> float:
    """Return what one of ``count`` requests costs, after some to warm up."""
    with closing(kind.client(site.tls_port if kind.tls else site.port)) as client:
        client.send(max(1, count // 4))
        return meter(client, count)


def _start(
    name: str,
    peer: Peer,
    port: int,
    tls_port: int,
    behind: upstream.Upstreams,
    method: str,
    folder: Path,
    on: cores.Cores,
    started: list[Process],
) -> tuple[Process, Site]:
    own = folder / name
    own.mkdir()
    site = Site(
        folder=own,
        port=port,
        stable=behind.stable,
        canary=behind.canary,
        weight=_WEIGHT,
        tls_port=tls_port if name == "compiled" else 0,
    )
    if site.tls_port:
        tls.write_certificate(site)
    config = own / "config"
    config.write_text(peer.render_config(site))
    command = peer.command(site, config)
    server = process.start(
        peer.name,
        _counted(command, own) if method == "instructions" else command,
        core=on.proxy,
        folder=own,
        env={**environment(peer), "PYTHONHASHSEED": "0"},
    )
    started.append(server)
    return server, site


def _counted(command: list[str], folder: Path) -> list[str]:
    """Return the command with callgrind around it and timers that are as slow as that makes it."""
    python, minus_m, *module = command
    slow = [python, minus_m, "bench.gate.slow_clock", f"{_SLOWER:g}", *module]
    return callgrind.command(slow, folder)


def _wait(server: Process, site: Site, *, alone: bool) -> None:
    is_ready = probe.listens if alone else probe.has_split
    server.wait_until(lambda: is_ready(site.port), _READY_SECONDS)


def _meter(method: str, server: Process, folder: Path) -> Callable[[Client, int], float]:
    """Return what measures the cost of each of a number of requests."""
    if method == "cpu":

        def cpu(client: Client, count: int) -> float:
            before = cputime.of_tree(server.pid)
            sent = client.send(count)
            return (cputime.of_tree(server.pid) - before) / 1000 / sent

        return cpu

    counter = Counter(server.pid, folder)

    def instructions(client: Client, count: int) -> float:
        counter.start()
        sent = client.send(count)
        return counter.stop() / sent

    return instructions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--update", action="store_true", help="rewrite the baseline")
    parser.add_argument("--method", choices=("auto", "instructions", "cpu"), default="auto")
    parser.add_argument(
        "--build",
        choices=_BUILDS,
        default=CHECKED.name,
        help="the compiled copy; the baseline is that of %(default)s",
    )
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE")
    parser.add_argument(
        "--requests", type=positive, default=300, help="in a repetition (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
