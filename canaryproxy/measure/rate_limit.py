"""How many log lines of a kind are written: a token bucket. Pure; time is an argument."""

from __future__ import annotations


class RateLimit:
    """Admits ``burst`` events at once and ``per_second`` in the long run, and counts the others."""

    __slots__ = ("_at", "_burst", "_per_second", "_tokens", "dropped")

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._tokens = float(burst)
        self._at = 0.0
        self.dropped = 0
        """Events that were not admitted since the last one that was; see ``admit``."""

    def admit(self, now: float) -> int | None:
        """Return how many events were dropped since the last one admitted, or ``None`` to drop this one.

        ``now`` is in seconds and never goes back.
        """
        self._tokens = min(self._tokens + max(now - self._at, 0.0) * self._per_second, self._burst)
        self._at = now
        if self._tokens < 1:
            self.dropped += 1
            return None
        self._tokens -= 1
        dropped, self.dropped = self.dropped, 0
        return dropped
