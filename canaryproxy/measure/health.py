"""Whether an endpoint is healthy, told from its checks.

    up    -- ``fall`` failed checks in a row  --> down
    down  -- ``rise`` passed checks in a row  --> up

An endpoint begins as up, and its first check decides at once, as HAProxy does it: the start of a proxy, or of
an endpoint, takes nothing away that was there, and what is down at the start is out after one check.
"""

from __future__ import annotations


class Health:
    """One endpoint. ``down``: so it was left by checks before these, and its first check does not decide."""

    __slots__ = ("_first", "_streak", "cause", "fall", "rise", "up")

    def __init__(self, rise: int, fall: int, *, down: bool = False) -> None:
        self.rise = rise
        self.fall = fall
        self._first = not down
        self._streak = 0
        """Checks in a row that say otherwise than ``up``."""
        self.up = not down
        self.cause = "check failed before a restart" if down else ""
        """Why it is down: of the last check that failed."""

    def observe(self, failure: str) -> bool:
        """Take the result of a check: why it failed, or nothing if it passed.

        Return whether that changes ``up`` or ``cause``.
        """
        first, self._first = self._first, False
        before, passed = self.cause, not failure
        if passed == self.up:
            self._streak = 0
        else:
            self._streak += 1
            if first or self._streak >= (self.rise if passed else self.fall):
                self.up, self._streak = passed, 0
        if self.up:
            self.cause = ""
        elif failure:
            self.cause = f"check failed: {failure}"
        return self.cause != before
