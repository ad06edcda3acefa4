"""Says so when workers had to drop records: what is dropped is not compared. Pure."""

from __future__ import annotations

from typing import Final

from canaryproxy.config.text import plural

SAID_FOR: Final = 60.0
"""Seconds without a loss after which nothing is said any more."""


class RecordLosses:
    """Losses that belong together, up to a minute without one."""

    def __init__(self) -> None:
        self._before = 0
        self._lost = 0
        self._last_at: float | None = None

    def take(self, now: float, dropped: int) -> bool:
        """Take the number of records dropped so far; ``now`` in seconds. Return whether a loss begins."""
        self._forget(now)
        lost, self._before = dropped - self._before, dropped
        if lost <= 0:
            return False
        begins = self._last_at is None
        self._lost += lost
        self._last_at = now
        return begins

    def notice(self, now: float) -> str | None:
        """Return a sentence for operators; ``None`` without a loss in the last minute."""
        self._forget(now)
        if self._last_at is None:
            return None
        return (
            f"dropped {plural(self._lost, 'record')} of requests because the control plane was late:"
            " those requests are not compared"
        )

    def _forget(self, now: float) -> None:
        if self._last_at is not None and now - self._last_at > SAID_FOR:
            self._last_at = None
            self._lost = 0
