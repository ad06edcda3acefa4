"""Looks: at a time that does not depend on labels, all units at once, with all of their requests.

With a score g of each unit that does not depend on labels, S the sum of the canary's scores and λ any
number that does not depend on labels, ``E = e^{λS} / mean of e^{λS}`` has mean 1 over the draw. A sum ``Σ
π_k E_k`` over looks with ``Σ π_k <= 1`` never falls and has mean at most 1, so it ever reaches 1/α with
probability at most α (Markov).

**Theorem 1 (bound of the mean).** Of N positions L are the canary's. With ``x_i = e^{λ g_i}``, for every
t > 0

    ln mean e^{λS} <= -L ln t + Σ ln(1 + t x_i) + ln(0.4689 / sd K) - ln C(N, L),
    K = Σ Bernoulli(t x_i / (1 + t x_i)).

*Proof.* The mean is ``[t^L] Π(1 + t x_i) / C(N, L)``, and that coefficient is ``t^-L Π(1 + t x_i) P(K =
L)``. For a sum of independent Bernoulli variables ``P(K = L) <= 0.4689 / sd K`` (Baillon, Cominetti &
Vaisman 2016, A sharp uniform bound for the distribution of sums of Bernoulli trials), and it is at most
1. ∎

The best t has mean K = L; the bound is at most ln(0.4689 √2π) = 0.16 above where K is near normal.
Positions without traffic have x = 1.

Scores are those of ``Cells``: a unit's bad events less what its trials let expect, weighed down where the
requests of a unit are alike. λ is that for which the least S reaches the limit, by a normal approximation
and Newton's steps on independent labels: that chooses, the theorem decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma, log, log1p, sqrt
from typing import Final

_LARGEST: Final = 300.0
"""Of |λ g|: so that e^{λ g} is a float."""
_BAILLON: Final = 0.4689
_TURNS: Final = 12


def log_choose(n: int, k: int) -> float:
    """Return ln C(n, k)."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def log_mean(
    levels: Sequence[float], units: Sequence[int], tilt: float, canary: int, stable: int
) -> float:
    """Return a bound from above of ln mean e^{tilt · S} over draws of ``canary`` among ``canary +
    stable`` positions.

    ``units[i]`` units have the score ``levels[i]``; all other positions have the score 0. Theorem 1.
    """
    if not canary:
        return 0.0
    if not stable:
        return tilt * sum([level * count for level, count in zip(levels, units, strict=True)])
    rest = canary + stable - sum(units)
    x = [exp(tilt * level) for level in levels]
    u = log(canary / stable)
    variance = 0.0
    for _ in range(_TURNS):
        t = exp(u)
        theta = t / (1.0 + t)
        gap, variance = canary - rest * theta, rest * theta * (1.0 - theta)
        for value, count in zip(x, units, strict=True):
            odds = t * value
            theta = count * odds / (1.0 + odds)
            gap -= theta
            variance += theta / (1.0 + odds)
        if gap * gap <= 4e-4 * variance:
            break
        u += min(max(gap / max(variance, 1e-9), -2.0), 2.0)
    t = exp(u)
    total, variance = rest * log1p(t), rest * t / (1.0 + t) ** 2
    for value, count in zip(x, units, strict=True):
        odds = t * value
        total += count * log1p(odds)
        variance += count * odds / (1.0 + odds) ** 2
    local = min(0.0, log(_BAILLON) - 0.5 * log(max(variance, 1e-12)))
    return total - canary * u + local - log_choose(canary + stable, canary)


def log_mean_independent(
    levels: Sequence[float], units: Sequence[int], tilt: float, share: float
) -> tuple[float, float, float]:
    """Return ln mean e^{tilt · S} and two derivatives, each unit being the canary's with chance ``share``."""
    mean = first = second = 0.0
    for level, count in zip(levels, units, strict=True):
        odds = exp(tilt * level)
        total = 1.0 + share * (odds - 1.0)
        theta = share * odds / total
        mean += count * log(total)
        first += count * level * theta
        second += count * level * level * theta * (1.0 - theta)
    return mean, first, second


def best_tilt(levels: Sequence[float], units: Sequence[int], share: float, aim: float) -> float:
    """Return the λ for which the least S gives a log evidence of ``aim``, approximately; 0 without any
    spread.

    S must reach ``(aim + K(λ)) / λ`` with K the log mean; that is least where ``λ K' - K = aim``.
    """
    most = max([abs(level) for level in levels], default=0.0)
    spread = sum([level * level * count for level, count in zip(levels, units, strict=True)])
    spread *= share * (1.0 - share)
    if spread <= 0.0:
        return 0.0
    highest = _LARGEST / most
    tilt = min(sqrt(2.0 * max(aim, 1.0) / spread), highest)
    for _ in range(5):
        mean, first, second = log_mean_independent(levels, units, tilt, share)
        gap = tilt * first - mean - max(aim, 1.0)
        step = gap / max(tilt * second, 1e-12)
        tilt = min(max(tilt - step, 0.5 * tilt), 2.0 * tilt, highest)
        if abs(step) < 0.03 * tilt:
            break
    return tilt
