"""The command line of the fuzzers: cases over several processes, and what they came to."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic

Run = Callable[[int, str], Counter[str]]
"""Runs so many cases of a seed, and counts what was seen."""


def main(run: Run, about: str | None, *, cases: int) -> None:
    """Run the cases that the command line asks for, and say what they came to.

    ``run`` is a function of a module: each process has one of its own. ``about`` is its docstring, ``cases``
    how many there are by default.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    seeds = [f"{asked.seed}.{number}" for number in range(asked.jobs)]
    started = monotonic()
    total: Counter[str] = Counter()
    with multiprocessing.Pool(asked.jobs) as pool:
        for seen in pool.imap_unordered(partial(run, asked.cases // asked.jobs), seeds):
            total += seen
    took = monotonic() - started
    words = ", ".join(f"{name}: {count}" for name, count in sorted(total.items()))
    sys.stdout.write(f"{words}\nseed {asked.seed}, {asked.jobs} jobs, {took:.0f} s\n")
