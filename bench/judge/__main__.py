"""Print what the judge promises on simulated releases, and what other rules do there, as Markdown.

``python -m bench.judge [--quick] [--seed N] [--only TEXT] [--releases N] [--without PART]``. Exit status 1 if
a promise is broken. Releases are seeded one by one, so the figures do not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from binascii import crc32
from collections.abc import Callable, Iterator, Sequence
from math import exp
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np

from bench.judge.parts import ALL, PARTS, Part, without
from bench.judge.rows import ROWS, Row
from canaryproxy.judging import metrics
from canaryproxy.judging.settings import JudgeSettings
from tests.simulation import others
from tests.simulation.judges import ERRORS, ROUTES, SLOW, Run, at, judged_on, this_judge
from tests.simulation.whole import Kind, whole_judge
from tests.simulation.worlds import Release

FOLDER = Path(__file__).parent
CHUNK = 5
BESIDE = 40
"""Releases of a row on which the other rules are tried."""
QUICK_SLACK = 1.5
"""Medians of a few releases may be so many times as large as promised."""
LONG_SECONDS = 1800.0
"""Length of the releases for the rules that look every few minutes."""
SHORT: dict[str, Callable[[Release], int | None]] = {
    "difference > 1 point": others.naive,
    "z-test, peeking": others.z_test,
    "by user, peeking": others.users_z,
}
LONG: dict[str, Callable[[Release], int | None]] = {
    "Flagger": others.flagger,
    "Argo Rollouts": others.argo,
    "Kayenta": others.kayenta,
}
COUNTING = "request counting"
COLUMNS = ("this judge", COUNTING, *SHORT, *LONG)
Task = tuple[int, int, int, int, Part]
"""Row, first release, last, seed, the part that the judge goes without."""


def release_of(row: Row, number: int, seed: int, seconds: float) -> Release:
    """Draw the release of a row with this number."""
    rng = np.random.default_rng([seed, crc32(row.name.encode()), number])
    return row.world.run(rng, seconds)


def judge(row: Row, release: Release, *, history: bool) -> Run:
    """Judge a release of a row by this judge."""
    if row.whole:
        kind: Kind = "slow" if row.metric.name == metrics.LATENCY else "errors"
        return whole_judge(release, kind, JudgeSettings())
    return this_judge(release, row.metric, row.placebos, history=history and row.history)


def run(task: Task) -> tuple[int, dict[str, list[Run]]]:
    """Run some releases of a row; return its index and the runs by rule."""
    index, begin, end, seed, part = task
    row = ROWS[index]
    found: dict[str, list[Run]] = {"this judge": []}
    for number in range(begin, end):
        release = release_of(row, number, seed, row.seconds)
        with without(part):
            found["this judge"].append(judge(row, release, history=part != "history"))
        if not row.beside or number >= BESIDE or part != ALL:
            continue
        margin = judged_on(release, row.metric)[1].margin
        counted = others.request_counting(release, margin, row.metric.by_user)
        found.setdefault(COUNTING, []).append(at(release, counted))
        for name, rule in SHORT.items():
            found.setdefault(name, []).append(at(release, rule(release)))
        longer = release_of(row, number, seed, max(LONG_SECONDS, row.seconds))
        for name, rule in LONG.items():
            found.setdefault(name, []).append(at(longer, rule(longer)))
    return index, found


def collect(
    wanted: Sequence[tuple[int, int]], seed: int, processes: int, part: Part = ALL
) -> Iterator[tuple[Row, dict[str, list[Run]]]]:
    """Yield the runs of each row in order; ``wanted`` are indices and numbers of releases."""
    tasks: list[Task] = [
        (index, begin, min(begin + CHUNK, releases), seed, part)
        for index, releases in wanted
        for begin in range(0, releases, CHUNK)
    ]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        left = dict(wanted)
        found: dict[str, list[Run]] = {}
        for index, some in pool.imap(run, tasks):
            for name, runs in some.items():
                found.setdefault(name, []).extend(runs)
            left[index] -= len(some["this judge"])
            if not left[index]:
                yield ROWS[index], found
                found = {}


def line(*cells: str) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def _header(seed: int) -> str:
    limits = [
        f"{exp(metric.judged()[1].log_limit):,.0f}:1 for {name}"
        for metric, name in ((ERRORS, "errors"), (SLOW, "latency"), (ROUTES, "errors of a route"))
    ]
    later = exp(ERRORS.judged(first_step=False)[1].log_limit)
    return (
        "α = 0.001, shared as the judge shares it by default in a plan of 1, 5, 25, 50, 100%: a step that "
        "moves the first users has half of it, whatever its weight and however long it lasts. The limits are "
        f"{', '.join(limits)}, and {later:,.0f}:1 for errors in a later step. 200 requests/s unless the row "
        f"says otherwise, ten looks a second, a minute of baseline, seed {seed}. Medians count all "
        "releases.\n"
    )


def _beside(row: Row, runs: Sequence[Run]) -> str:
    """Return what a rule did in a cell: releases rolled back, requests and users until then."""
    if not runs:
        return ""
    rolled = [one for one in runs if one.tick is not None and one.requests > 0]
    share = sum(one.tick is not None for one in runs) / len(runs)
    if row.section == "healthy" or not rolled:
        return f"{share:.0%}" if row.section == "healthy" else "never"
    early = share - len(rolled) / len(runs)
    text = f"{median(one.requests for one in rolled):,.0f} / {median(one.users for one in rolled):,.0f}"
    if len(rolled) < len(runs):
        text += f", {len(rolled) / len(runs):.0%} of releases"
    return f"{text}, {early:.0%} before" if early > 0 else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few releases of some rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only",
        default="",
        help='rows whose "section: name" contains this text, such as "healthy: "',
    )
    parser.add_argument("--releases", type=int, default=200, help="at most so many a row")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--without", choices=PARTS, default=ALL, help="take a part of the test out")
    options = parser.parse_args(arguments)
    wanted = [
        (index, min(releases, options.releases))
        for index, row in enumerate(ROWS)
        if options.only in f"{row.section}: {row.name}"
        and (releases := row.quick if options.quick else row.releases)
    ]
    began = monotonic()
    print(_header(options.seed))
    line("world", "wanted", "measured", "")
    line("---", "---", "---", "---")
    beside, broken = [], 0
    for row, found in collect(wanted, options.seed, options.processes, options.without):
        measured, ok = row.wanted.measure(
            found["this judge"], QUICK_SLACK if options.quick else 1.0
        )
        broken += not ok
        line(row.name, str(row.wanted), measured, "ok" if ok else "NOT")
        if row.beside and not options.quick and options.without == ALL:
            beside.append((row, found))
    for section, title in (
        ("healthy", "healthy canaries rolled back"),
        ("broken", "canary requests / users hurt until the rollback, medians"),
    ):
        rows = [(row, found) for row, found in beside if row.section == section]
        if rows:
            print(
                f"\nThe first {BESIDE} releases; Flagger, Argo Rollouts and Kayenta get half an hour.\n"
            )
            line(title, *COLUMNS)
            line(*["---"] * (1 + len(COLUMNS)))
            for row, found in rows:
                cells = (_beside(row, found.get(name, [])[:BESIDE]) for name in COLUMNS)
                line(row.name, *cells)
    print(
        f"\n{len(wanted)} promises, {broken} broken; {monotonic() - began:.0f} s", file=sys.stderr
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
