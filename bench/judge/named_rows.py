"""A table in Markdown with a line for each of some named cases, which the command line selects."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar


class Named(Protocol):
    """A case that can be selected by a part of its name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def print_rows(
    program: str,
    about: str | None,
    cases: Iterable[N],
    heads: Sequence[str],
    row: Callable[[N, int, int], str],
    arguments: Sequence[str] | None,
) -> None:
    """Print the table of the cases that ``arguments`` select (default: those of the process).

    ``about`` is its help. ``row`` returns the line of a case, from the number of releases to play and the
    first seed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--releases", type=int, default=3, help="releases of each")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|", flush=True)
    for case in cases:
        if options.only in case.name:
            print(row(case, options.releases, options.seed), flush=True)
