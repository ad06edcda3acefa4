"""Do users arrive as they were drawn? A canary that loses its users before they ask again looks healthy.

One bet for each unit when it is first seen in the step: with c and s positions of the canary and of stable
not seen yet it is the canary's with probability ρ = c / (c + s), whatever was seen before. For every k

    M_k *= k^[canary] / (1 - ρ + ρ k)

is a martingale under random arrangement (the draw is without replacement), and so is their mean (compare
Lindon & Malek 2022, Anytime-valid inference for multinomial count data).
"""

from __future__ import annotations

from math import log, log1p

from canaryproxy.judging.evidence import log_sum_exp

_MULTIPLES = (0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0)
LIMIT = log(1000.0)
"""Evidence that holds."""


class SampleRatio:
    """The bet of one lottery: ``left`` are its positions of stable and of the canary."""

    __slots__ = ("_left", "_logs", "seen")

    def __init__(self, left: tuple[int, int]) -> None:
        self._left = left
        self.seen = (0, 0)
        """Units of stable and of the canary."""
        self._logs = [0.0] * len(_MULTIPLES)

    def add(self, *, canary: bool) -> None:
        """Take a unit that is seen for the first time."""
        left_s, left_c = self._left[0] - self.seen[0], self._left[1] - self.seen[1]
        self.seen = (self.seen[0] + (not canary), self.seen[1] + canary)
        if left_s <= 0 or left_c <= 0:
            return
        rho = left_c / (left_c + left_s)
        for at, k in enumerate(_MULTIPLES):
            self._logs[at] += (log(k) if canary else 0.0) - log1p(rho * (k - 1.0))

    @property
    def log_e(self) -> float:
        """Natural logarithm of the evidence that users do not arrive as they were drawn."""
        return log_sum_exp(self._logs) - log(len(_MULTIPLES))
