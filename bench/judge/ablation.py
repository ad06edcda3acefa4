"""What each part of the test gives: ``python -m bench.judge.ablation [--seed N] [--releases N]``.

Markdown: rows that show it, with the whole test and then with one part of it taken out. The stake of that
part goes to the others, so a part that gives nothing costs. Not with compiled modules.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import Final

from bench.judge.__main__ import collect, line
from bench.judge.parts import ALL, PARTS
from bench.judge.rows import ROWS
from tests.simulation.judges import Run

ROWS_THAT_SHOW: Final = (
    "0.5 → 100%, weight 1",
    "0.5 → 100%, weight 50",
    "0.5 → 5%, weight 1",
    "0.5 → 2%, weight 5",
    "0.5 → 5%, weight 1, 2,000 users",
    "slow answers 5 → 25%, weight 5, 3% slow accounts",
    "healthy for 14 min, then 0.5 → 100%, weight 50",
    "healthy for 14 min, then 0.5 → 10%, weight 5",
    "the last of 32 routes (Zipf, 0.77% of the traffic) dead, weight 50",
    "3% slow accounts, 2,000 users, weight 5",
    "5% of accounts always fail, weight 1, with history",
)
"""Names of rows that some part makes better."""


def _cell(healthy: bool, runs: Sequence[Run]) -> str:
    rolled = sum(run.tick is not None for run in runs) / len(runs)
    if healthy:
        worse = sum(run.worse for run in runs) / len(runs)
        return f"{rolled:.0%}, looks worse {worse:.0%}"
    if rolled <= 0.5:
        return f"{rolled:.0%} caught"
    text = f"{median(run.requests for run in runs):,.0f}"
    return text if rolled == 1.0 else f"{text}, {rolled:.0%} caught"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge.ablation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    wanted = [
        (index, options.releases) for index, row in enumerate(ROWS) if row.name in ROWS_THAT_SHOW
    ]
    cells: dict[str, list[str]] = {ROWS[index].name: [] for index, _ in wanted}
    for part in (ALL, *PARTS):
        for row, found in collect(wanted, options.seed, options.processes, part):
            cells[row.name].append(_cell(row.section == "healthy", found["this judge"]))
    print(
        "Canary requests until the rollback, medians; of healthy rows the share rolled back. "
        f"{options.releases} releases a row, seed {options.seed}.\n"
    )
    line("world", "whole", *(f"without {part}" for part in PARTS))
    line(*["---"] * (len(PARTS) + 2))
    for name, of_row in cells.items():
        line(name, *of_row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
