"""The benchmark: canaryproxy beside nginx, HAProxy, Envoy, Caddy and two proxies in Python.

Needs Linux with wrk and a C compiler; takes about 50 minutes. What is not installed is named in the report.
Writes bench/RESULTS.md, bench/summary.json (targets and medians) and all samples to bench/out/RESULTS.json,
which git ignores. A selection of proxies or loads is only printed, unless --output is given.
Example: python -m bench --only ours,nginx --load small-32,1m --rounds 5
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness import cores, full, machine, scenarios
from bench.harness.command_line import positive, positive_float, say, selection, terminate
from bench.harness.quietness import Watch
from bench.harness.settings import Settings
from bench.loads import wrk
from bench.peers import PEERS
from bench.peers.base import MAX_CONNECTIONS
from bench.report import goals, results
from bench.report.outcome import Outcome

EXIT_FAILED = 1
EXIT_CANNOT_RUN = 2
EXIT_INTERRUPTED = 130

RESULTS = Path(__file__).with_name("RESULTS.md")
_MAIN = tuple(name for name in PEERS if name != "floor")
_SPARE_FILES = 500


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status.

    0: done; 1: a row had errors, or with --require a target is not met; 2: it cannot run; 130:
    interrupted.
    """
    arguments = _parser().parse_args(argv)
    words = argv if argv is not None else sys.argv[1:]
    try:
        wrk.find()
        outcome = _run(arguments, shlex.join(["python", "-m", "bench", *words]))
    except wrk.WrkError as error:
        say(f"bench: {error}")
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        say("bench: interrupted; everything that was started has been stopped")
        return EXIT_INTERRUPTED
    _write(outcome, _output(arguments))
    problems = [*outcome.failures(), *outcome.notes]
    if arguments.require:
        problems += [
            f"{one.wanted}: {one.found}" for one in goals.verdicts(outcome) if one.met is not True
        ]
    for problem in problems:
        say(f"bench: {problem}")
    return EXIT_FAILED if problems else 0


def _run(arguments: argparse.Namespace, command: str) -> Outcome:
    on = cores.choose()
    settings = Settings(
        peers=tuple(arguments.only),
        loads=frozenset(arguments.load),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        idle=_possible(arguments.idle),
        cores=on,
    )
    outcome = Outcome(
        command=command,
        commit=full.commit(),
        machine=machine.describe(),
        rounds=settings.rounds,
        seconds=settings.seconds,
        weight=settings.weight,
        proxy_core=on.proxy,
        load_core=on.load,
        began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    if settings.idle < arguments.idle:
        outcome.notes.append(
            f"Only {settings.idle:,} idle connections: more files may not be open here (RLIMIT_NOFILE)."
        )
    if on.shared:
        outcome.notes.append("Only one core is usable: requests/s and latency mean little.")
    began = time.monotonic()
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="canaryproxy-bench-") as folder:
        full.run(settings, outcome, Path(folder), say)
    outcome.took_seconds = time.monotonic() - began
    outcome.quietness = watch.quietness()
    return outcome


def _possible(wanted: int) -> int:
    """Allow ourselves and our children as many files as may be, and return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else hard - _SPARE_FILES
    return max(1, min(wanted, room, MAX_CONNECTIONS - _SPARE_FILES))


def _output(arguments: argparse.Namespace) -> Path | None:
    if arguments.output is not None:
        output: Path = arguments.output
        return output
    everything = set(arguments.only) >= set(_MAIN) and set(arguments.load) >= set(scenarios.NAMES)
    return RESULTS if everything else None


def _write(outcome: Outcome, output: Path | None) -> None:
    page = results.markdown(outcome)
    if output is None:
        print(page)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page)
    summary = output.with_name("summary.json")
    summary.write_text(json.dumps(results.summary_json(outcome), indent=1) + "\n")
    samples = output.parent / "out" / f"{output.stem}.json"
    samples.parent.mkdir(exist_ok=True)
    samples.write_text(json.dumps(results.as_json(outcome), indent=1) + "\n")
    say(f"written: {output}, {summary} and all samples: {samples}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        type=selection(PEERS),
        default=list(_MAIN),
        metavar="NAMES",
        help=f"comma-separated, of: {', '.join(PEERS)} (default: all but floor)",
    )
    parser.add_argument(
        "--load",
        type=selection(scenarios.NAMES),
        default=list(scenarios.NAMES),
        metavar="NAMES",
        help=f"comma-separated, of: {', '.join(scenarios.NAMES)} (default: all)",
    )
    parser.add_argument("--rounds", type=positive, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds",
        type=positive_float,
        default=1.5,
        help="length of a sample (default: %(default)s)",
    )
    parser.add_argument(
        "--idle", type=positive, default=10_000, help="idle connections (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the page")
    parser.add_argument(
        "--require", action="store_true", help="exit status 1 unless all targets are met"
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
