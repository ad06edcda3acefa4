"""When requests of a lottery's users ended last, and how many: whether there is anything to compare. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from canaryproxy.judging import words
from canaryproxy.judging.units import Lottery
from canaryproxy.judging.verdict import QUIET

_LONGEST_QUIET = 600.0


class Hearing:
    """Both sides of the lotteries of one release. Time is an argument, in seconds."""

    __slots__ = ("_gap", "_heard", "_pending", "expected", "judged")

    def __init__(self) -> None:
        self.judged = 0
        """Canary requests that were compared."""
        self.expected = 0.0
        """Canary responses that can be expected since it is up: pooled ones by the canary's share."""
        self._pending = 0
        self._heard = [-inf, -inf]
        self._gap = 0.0
        """Seconds between canary requests, smoothed."""

    def hear(self, lottery: Lottery, now: float, ended: Sequence[int], *, up: bool) -> None:
        """Take note of how many requests of the lottery's users ended, of stable and of the canary."""
        if up:
            self.expected += sum(ended) * lottery.canary / (lottery.last - lottery.first)
        for _ in range(ended[1]):
            if self._heard[1] > -inf:
                self._gap += 0.2 * (now - self._heard[1] - self._gap)
            self._heard[1] = now
        if ended[0]:
            self._heard[0] = now
        self._pending += ended[1]
        if self._heard[0] > -inf:
            self.judged += self._pending
            self._pending = 0

    def forget_users(self) -> None:
        """Listen to another group of users."""
        self._heard = [-inf, -inf]
        self._pending = 0

    def quiet(self, now: float) -> str | None:
        """Return why nothing can be compared now. Where requests are rare, more patience is needed."""
        patience = min(max(QUIET, 3.0 * self._gap), _LONGEST_QUIET)
        if self._heard[1] == -inf and self._heard[0] == -inf:
            return words.NOBODY_KNOWN
        if now - self._heard[0] > patience:
            return "stable has no traffic"
        if now - self._heard[1] > patience:
            return "the canary has no traffic"
        return None
