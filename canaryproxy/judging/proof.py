"""Proof by user that the canary is *not* worse by a margin (``promote: proof``).

One trial for each unit and step: y is the share of its requests in its first ten seconds that are events, a
number between 0 and 1. Null: the mean of y is higher by the margin or more where the version is the canary's,
``y_c >= y_s + margin``. With ρ = c / (c + s), the chance that the next unit is the canary's, and guesses
``q_c = q_s + margin`` made before it,

    canary:  M *= 1 - η (y - q_c)         stable:  M *= 1 + η ρ / (1 - ρ) (y - q_s)

has mean ``1 - η ρ (y_c - y_s - margin) <= 1`` whatever the units do (a bet as in Waudby-Smith & Ramdas 2024,
Estimating means of bounded random variables by betting, on the labels of a lottery). How many requests a unit
sends, and how alike they are, does not matter: it is one trial.
"""

from __future__ import annotations

from collections import deque
from math import log1p

from canaryproxy.judging.evidence import PastRate

WINDOW = 10.0
"""Seconds of a unit's requests that make its trial."""
_WHOLE = 0.5
"""Most of the stake that one unit can cost."""


class UserProof:
    """The proof of one metric in one lottery: ``left`` are its positions of stable and of the canary.

    ``margin`` is absolute. For a metric that should not fall, give the complement of its events.
    """

    __slots__ = ("_left", "_margin", "_past", "_queue", "log_e")

    def __init__(self, left: tuple[int, int], margin: float) -> None:
        if not 0.0 < margin < 1.0:
            raise ValueError(f"margin must lie between 0 and 1, found {margin!r}")
        self._left = [left[0], left[1]]
        self._margin = margin
        self._past = PastRate()
        self._queue: deque[tuple[float, int, bool]] = deque()
        """Units whose trial is under way: since when, row, and whether the unit is the canary's."""
        self.log_e = 0.0
        """Natural logarithm of the evidence that the canary is not worse by the margin."""

    def begin(self, row: int, now: float, *, canary: bool) -> None:
        """Begin the trial of a unit with its first request."""
        self._queue.append((now, row, canary))

    def due(self, now: float) -> list[tuple[int, bool]]:
        """End the trials whose ten seconds are over: row and side of each, to ``settle`` in this order."""
        found: list[tuple[int, bool]] = []
        while self._queue and now - self._queue[0][0] >= WINDOW:
            _, row, canary = self._queue.popleft()
            found.append((row, canary))
        return found

    def settle(self, y: float, *, canary: bool) -> None:
        """Bet on a unit whose trial is over; ``y``: the share of its requests that are bad."""
        left_s, left_c = self._left
        self._left[canary] -= 1
        past = self._past.rate
        self._past.add(1.0, y)
        if left_s <= 0 or left_c <= 0:
            return
        rho = left_c / (left_c + left_s)
        q_s = max(past - self._margin * rho, 0.0)
        q_c = q_s + self._margin
        if not past < q_c < 1.0:
            return
        bet = (q_c - past) / (q_c * (1.0 - q_c))
        stable_bet = bet * rho / (1.0 - rho)
        if stable_bet * q_s > _WHOLE:
            bet *= _WHOLE / (stable_bet * q_s)
            stable_bet = bet * rho / (1.0 - rho)
        if canary:
            self.log_e += log1p(-bet * (y - q_c))
        else:
            self.log_e += log1p(stable_bet * (y - q_s))
