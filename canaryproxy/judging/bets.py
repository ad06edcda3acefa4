"""Bets on labels: units are looked up one after the other, and the bet is whose each of them is.

**Lemma 2.** Look units up in an order that does not depend on labels. With c and s positions of canary
and stable not yet looked up, the next one is the canary's with probability ``ρ = c / (c + s)``, given all
histories and all labels looked up before (lemma 1, ``units.Lottery``). So for any f > 0 known before,

    M ← M · (f if it is the canary's else 1) / (1 - ρ + ρ f)

has mean M: a martingale, mean exactly 1, with the draw without replacement in ρ, and without any
assumption about users, requests or time. It ever reaches 1/α with probability at most α (Ville 1939).
Compare Ham, Bojinov, Lindon & Tingley 2022 (Design-based confidence sequences) and Shekhar & Ramdas 2023
(Nonparametric two-sample testing by betting). A mixture of such bets over f is one, too.

*A, first events*: units in the order of their first bad event in a round; f = 1 + (k-1) · share, mixed
over k: the canary's share of first events is k times what it has in the lottery. ``share`` = mean rate
over the unit's own expected rate, at most 1: a unit that was bad before is little surprise.

*C, first trials*: units in the order of their first trial in a round; f = g_c/g_s if that is bad and
(1-g_c)/(1-g_s) if not, mixed over gross rates g_c of the canary, where g_s is expected of stable. Each
stable user whose first request is well is evidence, too: half as many users are hurt at high weights.

**Theorem 3.** A canary that makes no first event earlier than stable would have cannot lose by it: A is
at every time at most what it would be with equal versions, as the exchange of a canary vote for a later
one changes ``(kc+s)(k(c-1)+s)`` to ``(kc+s)(kc+s-1)``, and k > 1. So the bound is one for canaries that
are better, as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Final

from canaryproxy.judging.evidence import log_sum_exp
from canaryproxy.judging.history import CLASS_RATES
from canaryproxy.measure.flat import vec

KS: Final[tuple[float, ...]] = (1.5, 2.5, 5.0, 12.0, 40.0, 300.0)
"""A: how many times its share of first events the canary may have."""
PRIOR_A: Final[tuple[float, ...]] = (0.20, 0.20, 0.20, 0.15, 0.15, 0.10)
GROSS: Final[tuple[float, ...]] = (0.15, 0.5, 0.97)
"""C: rates of the canary that are bet on, where they are at least twice what is expected."""
PRIOR_C: Final[tuple[float, ...]] = (0.3, 0.3, 0.4)
LOST: Final = -30.0
"""A bet that has lost all but e^-30 of its stake is not carried on: a fresh round gets there first."""


class Factors:
    """The factor f of each bet of a mixture, as f - 1 and as its logarithm."""

    __slots__ = ("logs", "over")

    def __init__(self, factors: Sequence[float]) -> None:
        self.over = vec[float]([f - 1.0 for f in factors])
        self.logs = vec[float]([log(f) for f in factors])

    def log_means(self, share: float) -> list[float]:
        """Return ``ln(1 - ρ + ρ f)`` of each bet for ρ = ``share``."""
        return [log(1.0 + share * over) for over in self.over]


def first_event_factors(mean: float, rates: Sequence[float], increase: bool) -> list[Factors]:
    """Return the factors of A by class of unit."""
    ks = KS if increase else tuple(1.0 / k for k in KS)
    shares = [min(mean / rate, 1.0) for rate in rates]
    return [Factors([1.0 + (k - 1.0) * share for k in ks]) for share in shares]


def first_trial_factors(rate: float) -> list[Factors]:
    """Return the factors of C for a good and for a bad first trial, where ``rate`` is expected of stable."""
    g_s = min(max(rate, 1e-4), 0.99)
    bets = [g if g >= 2.0 * g_s else g_s for g in GROSS]
    good = Factors([(1.0 - g) / (1.0 - g_s) for g in bets])
    return [good, Factors([g / g_s for g in bets])]


OF_CLASSES: Final = [factors for rate in CLASS_RATES for factors in first_trial_factors(rate)]
"""Factors of C of the classes of units from 1 on: at ``2 * (class - 1) + bad``."""


class Bets:
    """A mixture of bets on labels in turn; ``canary`` and ``stable`` positions are still to be looked up."""

    __slots__ = ("_log_e", "_stale", "canary", "logs", "stable")

    def __init__(self, prior: Sequence[float], canary: int, stable: int) -> None:
        self.canary = canary
        self.stable = stable
        self.logs = vec[float]([log(weight) for weight in prior])
        self._log_e = 0.0
        self._stale = True

    def look_up(self, factors: Factors, canary: int) -> None:
        """Look a unit up: ``canary`` is whose it is; the factors were known before."""
        share = self.canary / (self.canary + self.stable)
        logs, over, gains = self.logs, factors.over, factors.logs
        for at in range(len(logs)):
            value = logs[at]
            if value > LOST:
                value -= log(1.0 + share * over[at])
                logs[at] = value + gains[at] if canary else value
                self._stale = True
        if canary:
            self.canary -= 1
        else:
            self.stable -= 1

    @property
    def log_e(self) -> float:
        """Natural logarithm of the mixture."""
        if self._stale:
            self._stale = False
            self._log_e = log_sum_exp(list(self.logs))
        return self._log_e
