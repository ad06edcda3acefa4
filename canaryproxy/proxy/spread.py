"""How closing many connections is spread over a time, so that their clients do not come back all at once.

Theory of operation. While passes come as they should, as large a part of all connections is closed as of the
spread has passed. After a stall of the process the rest is not made up at once: each pass moves on by its own
length at ``_PACE`` times the pace, and counts at most ``_LONGEST`` seconds as its length, so that no second
closes more than ``_PACE * (1 + _LONGEST)`` times its share: two and a half. Two promises may conflict then,
and the end wins: where that would be too slow, what is left is closed evenly over the time that is left, and
at the end of the spread everything is closed.
"""

from __future__ import annotations

from math import ceil
from typing import Final

_PACE: Final = 2.0
_LONGEST: Final = 0.25


def progress(before: float, elapsed: float, since: float, spread: float) -> float:
    """Return how many seconds of the spread this pass may have closed for, after ``before`` at the last one.

    The spread began ``elapsed`` seconds ago, the last pass was ``since`` seconds ago. The result never falls,
    never exceeds ``elapsed`` within the spread, and is ``spread`` at its end.
    """
    if elapsed >= spread:
        return spread
    length = min(since, _LONGEST)
    to_end_in_time = (spread - before) * length / (spread - elapsed + length)
    return max(before, min(elapsed, before + max(_PACE * length, to_end_in_time)))


def due(waiting: int, closed: int, progress: float, spread: float) -> int:
    """Return how many of ``waiting`` connections are to be closed now; ``closed`` were closed before.

    As large a part of all is closed as ``progress`` is of ``spread``. Those that come late belong to them.
    """
    if progress >= spread:
        return waiting
    return min(max(ceil((waiting + closed) * (progress / spread)) - closed, 0), waiting)
