"""The users of each version beside the canary: ranges of a hash that is the same in every release.

A user's range does not depend on where a release has it, so a release of one version moves no user into or
out of the range of another. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from canaryproxy.measure.routing import BUCKETS, bucket_of

NO_RANGE: Final = -1
_SALT: Final = b"others\0"


class UserRanges:
    """Finds the version beside the canary that a user can get."""

    __slots__ = ("_ends", "_total")

    def __init__(self, shares: Sequence[float]) -> None:
        """``shares`` are in percent of all users, in the order of the versions."""
        self._ends: list[int] = []
        end = 0.0
        for share in shares:
            end += share
            self._ends.append(round(end * BUCKETS / 100.0))
        self._total = self._ends[-1] if self._ends else 0

    def of(self, key: bytes) -> int:
        """Return the index of the version that the user of this sticky key can get, or ``NO_RANGE``."""
        bucket = bucket_of(_SALT, key)
        if bucket >= self._total:
            return NO_RANGE
        for at, end in enumerate(self._ends):
            if bucket < end:
                return at
        return NO_RANGE
