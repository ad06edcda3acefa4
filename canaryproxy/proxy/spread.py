"""How closing many connections is spread over a time, so that their clients do not come back all at once."""

from __future__ import annotations

from math import ceil


def due(waiting: int, closed: int, elapsed: float, spread: float) -> int:
    """Return how many of ``waiting`` connections are to be closed now.

    ``closed`` were closed before. The time of ``spread`` seconds began ``elapsed`` seconds ago; a negative
    number: it has not begun. At any moment as large a part of all is closed as of the time has passed, and at
    its end all are. Those that come late belong to them, too.
    """
    if elapsed < 0.0:
        return 0
    if elapsed >= spread:
        return waiting
    all_of_them = waiting + closed
    return min(max(ceil(all_of_them * elapsed / spread) - closed, 0), waiting)
