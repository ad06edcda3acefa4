"""What the judge costs: ``python -m bench.judge.cost [--rate N] [--users N] [--weight N] [--seconds N]``.

The whole judge with 32 routes and 20 virtual canaries, ten looks a second, on simulated traffic. CPU time of
the process, so that a busy machine does not blur it.
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
from collections.abc import Sequence
from time import process_time

import numpy as np

from canaryproxy.judging.settings import JudgeSettings
from tests.simulation.whole import watch
from tests.simulation.worlds import TICK, World, zipf


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cost of a step."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge.cost", description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--weight", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument(
        "--memory", action="store_true", help="measure memory instead, which is slow"
    )
    options = parser.parse_args(arguments)
    world = World(options.weight, options.users, tail=1.5, rate=options.rate, routes=zipf(32))
    release = world.run(np.random.default_rng(1), options.seconds)
    settings = JudgeSettings(steps=(options.weight,))
    if options.memory:
        tracemalloc.start()
    gc.collect()
    gc.freeze()  # as the proxy does at its start
    spent = []
    users = 0
    before = process_time()
    for seen in watch(release, "errors", settings):
        now = process_time()
        if seen.tick >= 0:
            spent.append(now - before)
        users = seen.assessment.users
        before = process_time()
    longest = int(np.argmax(spent))
    low, middle, high, most = np.quantile(spent, (0.05, 0.5, 0.99, 1.0)) * 1000
    seconds = len(spent) * TICK
    print(
        f"{options.rate:g} requests/s, {users:,} users of the canary, {seconds:.0f} s: "
        f"{sum(spent) / seconds:.2%} of a core; a tick {middle:.2f} ms (P5 {low:.2f}, P99 {high:.2f}, "
        f"most {most:.2f} at tick {longest})"
    )
    if options.memory:
        held, top = tracemalloc.get_traced_memory()
        print(
            f"{held / 2**20:.1f} MiB held, {top / 2**20:.1f} MiB at most, the recorded release included"
        )


if __name__ == "__main__":
    main()
