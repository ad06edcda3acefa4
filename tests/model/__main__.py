"""The large run: ``make model``. Prints the states of each world."""

from __future__ import annotations

import time

from .model import BUDGET, COHORTS, SETTINGS, Rules, first, search

LARGE: tuple[tuple[int, dict[str, int]], ...] = (
    (2, {"trip": 2, "reset": 1, "step": 2, "expire": 1, "cut": 1}),
    (2, {"trip": 1, "reset": 1, "step": 1, "expire": 1, "loss": 1, "abort": 1}),
    (2, {"trip": 1, "reset": 1, "step": 2, "expire": 1, "crash": 1}),
    (2, {"trip": 1, "reset": 1, "step": 2, "expire": 1, "failover": 1}),
    (3, {"trip": 1, "reset": 1, "step": 2, "expire": 1}),
    (3, {"trip": 1, "step": 1, "loss": 1, "cut": 1}),
    (2, {"trip": 2, "next": 1, "failover": 1, "cut": 1}),
    (2, {"trip": 1, "next": 1, "loss": 1, "cut": 1, "crash": 1}),
    (3, {"trip": 1, "next": 1, "failover": 1}),
    (2, {"trip": 1, "reset": 1, "accept": 2, "next": 1, "cut": 1}),
    (2, {"ramp": 2, "fall": 3, "trip": 1, "reset": 1, "cut": 1}),
)

LARGE_OF_COHORTS: tuple[tuple[int, dict[str, int]], ...] = (
    (2, {"trip": 1, "reset": 1, "step": 3, "expire": 1, "cut": 1}),
    (2, {"trip": 1, "step": 2, "ramp": 1, "fall": 3, "cut": 1}),
    (2, {"trip": 1, "reset": 1, "step": 2, "expire": 1, "failover": 1}),
    (3, {"trip": 1, "reset": 1, "step": 2}),
)
"""Of a release that begins with two cohorts."""


def main() -> None:
    """Search each world; an invariant that does not hold is an exception."""
    total = 0
    worlds = [(SETTINGS, *each) for each in LARGE] + [(COHORTS, *each) for each in LARGE_OF_COHORTS]
    for settings, replicas, given in worlds:
        began = time.monotonic()
        budget = tuple((name, given.get(name, 0)) for name, _ in BUDGET)
        found = search(first(replicas, budget, settings), Rules(settings))
        total += found
        words = ", ".join(f"{what} {often}" for what, often in given.items())
        of = ", cohorts first" if settings is COHORTS else ""
        print(
            f"{replicas} replicas{of}; {words}: {found:,} states, {time.monotonic() - began:.0f} s"
        )
    print(f"{total:,} states, every promise kept")


if __name__ == "__main__":
    main()
