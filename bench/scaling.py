"""What a request's cost hardly depends on: how many users, endpoints and match rules there are.

Instructions of a request in user space, counted by callgrind, with all five metrics on: of one user and of a
new user with each request, which is what a proxy sees of a million of them; with one endpoint of each variant
and with 64; without match rules and with 20, none of which holds. Fails if one of them costs more than
``--limit`` above the first. Needs nginx, behind the proxy. For the number of services see
``bench.services``. Takes about three minutes.
Example: python -m bench.scaling --limit 5
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bench.gate import callgrind
from bench.gate.callgrind import CallgrindError, Counter
from bench.gate.steady import Steady
from bench.harness import cores, ports, process
from bench.harness.command_line import positive, positive_float, say, terminate
from bench.harness.process import StartError
from bench.peers import upstream
from bench.peers.ours import Ours
from bench.services import (
    EXIT_CANNOT_RUN,
    EXIT_DEARER,
    EXIT_INTERRUPTED,
    Bench,
    add_build,
    built,
)

_REPETITIONS = 3
_ENDPOINTS = 64
_RULES = 20
_WARM_UP = 15 * _ENDPOINTS
"""Requests, so that each endpoint of the canary, too, has a connection."""

_Client = Callable[[int], Steady]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status.

    0: fine; 1: a request costs more than the limit; 2: it cannot run; 130: interrupted.
    """
    arguments = _parser().parse_args(argv)
    reason = callgrind.missing()
    if reason:
        say(f"bench.scaling: {reason}")
        return EXIT_CANNOT_RUN
    try:
        with (
            tempfile.TemporaryDirectory(prefix="canaryproxy-scaling-") as name,
            process.running() as started,
        ):
            on = cores.choose()
            behind = upstream.start(
                *ports.free(2),
                core=on.load,
                folder=Path(name),
                started=started,
                addresses=_ENDPOINTS,
            )
            bench = Bench(Path(name), on, behind, started)
            most = _compare(bench, built(arguments.build), arguments.requests)
    except (StartError, CallgrindError, OSError) as error:
        say(f"bench.scaling: {error}")
        return EXIT_CANNOT_RUN
    except KeyboardInterrupt:
        say("bench.scaling: interrupted; everything that was started has been stopped")
        return EXIT_INTERRUPTED
    return EXIT_DEARER if most > arguments.limit / 100 else 0


def _compare(bench: Bench, peer: Ours, requests: int) -> float:
    """Print what a request costs; return by what part the dearest one is above the first."""
    few, new = _count(bench, "few", peer, requests, _of_one_user, _of_new_users)
    (endpoints,) = _count(
        bench, "endpoints", replace(peer, endpoints=_ENDPOINTS), requests, _of_one_user
    )
    (rules,) = _count(bench, "rules", replace(peer, rules=_RULES), requests, _of_one_user)
    print(f"a request of one user, one endpoint, no match rules: {few:,.0f} instructions")
    found = {
        "a new user with each request": new,
        f"{_ENDPOINTS} endpoints of each variant": endpoints,
        f"{_RULES} match rules": rules,
    }
    for what, cost in found.items():
        print(f"{what}: {cost:,.0f}: {cost / few - 1:+.1%}")
    return max(found.values()) / few - 1


def _of_one_user(port: int) -> Steady:
    return Steady(port, users=1)


def _of_new_users(port: int) -> Steady:
    return Steady(port, unseen=True)


def _count(
    bench: Bench, name: str, peer: Ours, requests: int, *clients: _Client
) -> tuple[float, ...]:
    """Return the instructions of a request of each client: the least of several repetitions."""
    with bench.proxy(name, peer, counted=True) as (server, site):
        counter = Counter(server.pid, site.folder)
        with closing(_of_new_users(site.port)) as anyone:
            anyone.send(_WARM_UP)
        costs = []
        for client in clients:
            with closing(client(site.port)) as one:
                one.send(requests)
                found = []
                for _ in range(_REPETITIONS):
                    counter.start()
                    sent = one.send(requests)
                    found.append(counter.stop() / sent)
            costs.append(min(found))
    return tuple(costs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--requests", type=positive, default=300, help="in a repetition (default: %(default)s)"
    )
    add_build(parser)
    parser.add_argument(
        "--limit",
        type=positive_float,
        default=5.0,
        help="percent that a request may cost more (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
