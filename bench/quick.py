"""The quick comparison: small answers, kept-alive connections, one core for each proxy.

Needs Linux with wrk; takes about two and a half minutes. Proxies that are not installed are named
in the report. Example: python -m bench.quick --only ours,nginx --rounds 5
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.harness import cores, machine, measure
from bench.harness.command_line import positive, say, selection, terminate
from bench.harness.measure import Plan
from bench.harness.process import StartError
from bench.harness.quietness import Watch
from bench.loads import LOADS, wrk
from bench.peers import PEERS
from bench.report import comparison, goals, summary

EXIT_GOAL = 1
EXIT_CANNOT_RUN = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status.

    0: done; 1: with --require, a goal is not met; 2: it cannot run; 130: interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        wrk.find()
        found = _run(arguments, argv if argv is not None else sys.argv[1:])
    except (wrk.WrkError, StartError) as error:
        say(f"bench: {error}")
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        say("bench: interrupted; everything that was started has been stopped")
        return EXIT_INTERRUPTED
    print(comparison.markdown(found))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(comparison.as_json(found), indent=1) + "\n")
    if arguments.require:
        problems = goals.unmet(found.rows, found.ratios)
        for problem in problems:
            say(f"bench: required: {problem}")
        return EXIT_GOAL if problems else 0
    return 0


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> comparison.Report:
    load = dataclasses.replace(LOADS[arguments.load], connections=arguments.connections)
    plan = Plan(load=load, rounds=arguments.rounds, seconds=arguments.seconds, cores=cores.choose())
    peers = [peer for name, peer in PEERS.items() if name in arguments.only]
    described = machine.describe()
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="canaryproxy-bench-") as folder:
        measured = measure.measure(peers, plan, Path(folder), say)
    ours = measured.samples.get("ours")
    ratios = {
        name: ratio
        for name, samples in measured.samples.items()
        if ours and name != "ours" and (ratio := summary.ratio(ours, samples)) is not None
    }
    return comparison.Report(
        command=shlex.join(["python", "-m", "bench.quick", *argv]),
        machine=described,
        titles={peer.name: peer.title for peer in peers},
        plan=plan,
        measured=measured,
        quietness=watch.quietness(),
        rows={name: summary.row(samples) for name, samples in measured.samples.items()},
        ratios=ratios,
        goals=goals.GOALS,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quick",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        type=selection(PEERS),
        default=[name for name in PEERS if name != "proxypy"],
        metavar="NAMES",
        help=f"comma-separated, of: {', '.join(PEERS)} (default: all but proxypy)",
    )
    parser.add_argument("--rounds", type=positive, default=3, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=positive, default=5, help="length of a sample (default: %(default)s)"
    )
    parser.add_argument("--connections", type=positive, default=32, help="default: %(default)s")
    parser.add_argument(
        "--load",
        choices=list(LOADS),
        default="users",
        help="; ".join(f"{load.name}: {load.description}" for load in LOADS.values())
        + " (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures as JSON")
    parser.add_argument(
        "--require",
        action="store_true",
        help="exit status 1 unless ours reaches in requests/s per core: "
        + ", ".join(f"{goal.factor:g} x {goal.peer}" for goal in goals.GOALS),
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
