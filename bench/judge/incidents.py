"""Release a canary equal to stable while both have a bad time; print what becomes of it, as Markdown.

``python -m bench.judge.incidents [--only TEXT] [--releases N] [--seed N]``. The whole judge with its
defaults, 3,000 users of unlike activity, 100 requests per second, a minute of stable alone, then a step of
four minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.judge.named_rows import print_rows
from tests.simulation.incidents import INCIDENTS, Incident, play


def row(incident: Incident, releases: int, seed: int) -> str:
    """Play some releases in an incident and return a line of the table."""
    runs = [play(incident, seed + number) for number in range(releases)]
    tripped = [run for run in runs if run.cause is not None]
    shed = [round(median(run.shed[side] for run in runs)) for side in (0, 1)]
    refused = f"{shed[0]:,} and {shed[1]:,}" if any(shed) else "–"
    causes = ", ".join(sorted({(run.cause or "").partition(" (")[0] for run in tripped})) or "–"
    after = f"{median(run.at for run in tripped):.0f} s" if tripped else "–"
    return (
        f"| {incident.name} | {incident.weight:g}% | {len(tripped)} of {releases} | {causes} | {after} |"
        f" {refused} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    heads = (
        "what happens to both",
        "weight",
        "rolled back",
        "for",
        "after",
        "stable and canary shed",
    )
    print_rows("bench.judge.incidents", __doc__, INCIDENTS, heads, row, arguments)


if __name__ == "__main__":
    main()
