"""Evidence that stays valid while it is watched: e-processes for two streams of counts.

An e-process is a running number that starts at 1 and, if the null hypothesis holds, is no larger than 1
in expectation whenever one stops (a non-negative supermartingale, or bounded by one). The chance that it
*ever* reaches 1/α is then at most α (Ville 1939, Étude critique de la notion de collectif;
Ramdas, Grünwald, Vovk & Shafer 2023, Game-theoretic statistics and safe anytime-valid inference). So it
may be looked at after every request, and acted upon at once.

Notation, for one tick: ``n_s``, ``e_s`` trials and events of stable, ``n_c``, ``e_c`` of the canary,
``p_s``, ``p_c`` their (unknown, changing) rates. Hypotheses are about every tick, so a rate that both
variants share may do what it likes: outages, day and night, deploys of a common database.

*Ratio* (``EProcess``; Lindon & Malek 2022, Anytime-valid inference for multinomial count data, in its
two-sample form). H0: ``p_c <= r p_s``. Given that an event happened it is the canary's with probability
at most ``ρ = r n_c / (r n_c + n_s)``. Against a rate k times that one, ``θ_k = rk n_c / (rk n_c + n_s)``:

    log E_k += e_c ln(θ_k / ρ) + e_s ln((1 - θ_k) / (1 - ρ)),    E = mean over k of E_k

(the mean over alternatives is Robbins' method of mixtures, 1970). Why the bound holds for trials that
happen or not, whatever r: with ``a = θ/ρ``, ``b = (1-θ)/(1-ρ)`` and ``1 + x <= exp x``,

    ln mean of a^e_c b^e_s <= n_c p_c (a - 1) + n_s p_s (b - 1)
                           <= n_s p_s [r n_c/n_s (a - 1) + b - 1] = 0      as ρ(a-1) + (1-ρ)(b-1) = 0.

Where k < 1, a < 1 < b and the second line holds for ``p_c >= r p_s``: the mirrored form bounds its own
null. For r = 1 it also holds with the number of events fixed and the labels drawn at random, since
sampling without replacement is below the binomial in convex order (Hoeffding 1963, theorem 4).

*Two by two* (inside ``LiveTest``; Turner, Ly & Grünwald 2024, Generic e-variables for exact sequential
k-sample tests). H0: ``p_c <= p_s``, using trials without events as well. With guesses ``g_c > g_s`` made
before the tick, and ``g = (n_c g_c + n_s g_s) / (n_c + n_s)``:

    log E += e_c ln(g_c/g) + (n_c - e_c) ln((1-g_c)/(1-g)) + e_s ln(g_s/g) + (n_s - e_s) ln((1-g_s)/(1-g))

A canary trial multiplies by ``1 + (p_c - g)(g_c - g) / (g(1-g))`` in the mean, which grows in p_c, a
stable trial by the same with g_s, which falls in p_s; at p_c = p_s = p the product is at most
``exp((p - g)/(g(1-g)) [n_c(g_c - g) + n_s(g_s - g)]) = exp 0``.

*Difference* (``NonInferiority``). H0: ``p_c >= p_s + margin``, the same construction for a shifted null.

**Ticks.** Only trials count: a tick in which either side has no trial adds nothing, whatever its
events. Events beyond the trials of their tick are accepted by the ratio form, which treats counts as
arrivals at a rate (Poisson) proportional to the trials; but nothing is carried from tick to tick here.
Whoever counts an event later than its trial must bring the two together (``judge`` says how), because
dropping only the ticks without a canary trial would then drop events of one side. Merging ticks is not
neutral: it gives the same evidence only where n_c / n_s is the same in each, and the bound for the merged
tick is about its mean rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf, log, log1p
from typing import Any, Literal

Direction = Literal["increase", "decrease"]
"""Which change of the canary's rate is the bad one."""

MULTIPLES = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""The alternatives k: how many times its permitted rate the canary may have. Mirrored: 1/k."""

FINE = (1.05, 1.12, 1.25)
"""Alternatives for small changes of common events: the expected log evidence of k grows only where the
true multiple is above ``(k - 1) / ln k``, which is 1.23 for 1.5 (and below 0.82 for 1/1.5)."""


def log_sum_exp(logs: Sequence[float]) -> float:
    """Return ``ln Σ exp(x)`` without leaving the range of floats; ``-inf`` for nothing."""
    top = -inf
    for x in logs:
        top = max(top, x)
    if top == -inf:
        return -inf
    total = 0.0
    for x in logs:
        total += exp(x - top)
    return top + log(total)


def as_float(log_e: float) -> float:
    """Return ``exp(log_e)``, ``inf`` beyond the range of floats."""
    try:
        return exp(log_e)
    except OverflowError:
        return inf


def ratio_steps(
    multiples: Sequence[float], ratio: float, n_s: float, e_s: float, n_c: float, e_c: float
) -> list[float]:
    """Return the growth of ``log E_k`` by a tick for each k; both sides have trials.

    ``θ/ρ = 1 + (k-1) n_s / d`` and ``(1-θ)/(1-ρ) = 1 - (k-1) r n_c / d`` with ``d = rk n_c + n_s``: exact
    however small the share of a side is.
    """
    permitted = ratio * n_c
    steps = []
    for k in multiples:
        over = (k - 1.0) / (k * permitted + n_s)
        steps.append(e_c * log1p(over * n_s) + e_s * log1p(-over * permitted))
    return steps


class EProcess:
    """The conditional two-sample e-process, a uniform mixture over ``MULTIPLES``.

    ``direction`` increase tests H0: canary rate <= ``ratio`` · stable rate; decrease tests H0: canary
    rate >= ``ratio`` · stable rate. ``multiples`` are the alternatives, as for an increase; with the
    default this is the formula that ``canaryproxy judge`` publishes.
    """

    __slots__ = ("_carry", "_logs", "_multiples", "direction", "multiples", "ratio")

    def __init__(
        self,
        direction: Direction = "increase",
        ratio: float = 1.0,
        multiples: Sequence[float] = MULTIPLES,
    ) -> None:
        if not 0.0 < ratio < inf:
            raise ValueError(f"ratio must be a positive number, found {ratio!r}")
        self.direction = direction
        self.ratio = ratio
        self.multiples = tuple(multiples)
        self._multiples = _directed(direction, self.multiples)
        self._logs = [0.0] * len(self.multiples)
        self._carry = [0.0] * len(self.multiples)

    def add(self, n_s: int, e_s: int, n_c: int, e_c: int) -> None:
        """Add a tick: trials and events of stable, then of the canary. O(1)."""
        if n_s <= 0 or n_c <= 0 or not (e_s or e_c):
            return
        logs, carry = self._logs, self._carry
        steps = ratio_steps(self._multiples, self.ratio, n_s, e_s, n_c, e_c)
        for at, step in enumerate(steps):  # Neumaier's sum, so rounding errors do not accumulate
            old = logs[at]
            new = old + step
            carry[at] += (old - new) + step if abs(old) >= abs(step) else (step - new) + old
            logs[at] = new

    @property
    def log_parts(self) -> list[float]:
        """``log E_k`` for each k."""
        return [value + rest for value, rest in zip(self._logs, self._carry, strict=True)]

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value."""
        return log_sum_exp(self.log_parts) - log(len(self.multiples))

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values; floats keep every bit."""
        return {
            "direction": self.direction,
            "ratio": self.ratio,
            "multiples": list(self.multiples),
            "logs": list(self._logs),
            "carry": list(self._carry),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> EProcess:
        """Return the process whose ``to_dict`` this was."""
        process = cls(state["direction"], float(state["ratio"]), state["multiples"])
        process._logs = _floats(state["logs"], len(process.multiples))
        process._carry = _floats(state["carry"], len(process.multiples))
        return process


def _directed(direction: Direction, multiples: tuple[float, ...]) -> tuple[float, ...]:
    """Return the alternatives k of a direction."""
    if direction == "increase":
        return multiples
    if direction == "decrease":
        return tuple(1.0 / k for k in multiples)
    raise ValueError(f"direction must be increase or decrease, found {direction!r}")


def _floats(values: Sequence[float], length: int) -> list[float]:
    if len(values) != length:
        raise ValueError(f"expected {length} numbers, found {len(values)}")
    return [float(value) for value in values]


_PER_DECADE = 32
_RATIO_DECADES = 3
_ALTERNATIVE_DECADES = 2
_SIDE = (_RATIO_DECADES + _ALTERNATIVE_DECADES) * _PER_DECADE
_GRID = tuple(10.0 ** (i / _PER_DECADE) for i in range(-_SIDE, _SIDE + 1))
_LOWEST = _ALTERNATIVE_DECADES * _PER_DECADE
_HIGHEST = len(_GRID) - 1 - _LOWEST
_OFFSETS = (1, *(round(log(k) / log(10.0) * _PER_DECADE) for k in (FINE[-1], *MULTIPLES)))
_OFFSET_LOGS = tuple(offset / _PER_DECADE * log(10.0) for offset in _OFFSETS)


class RatioInterval:
    """Anytime-valid interval for the rate ratio canary / stable: all r that no test has rejected.

    The form of ``EProcess`` is ``log E_k(r) = e_c ln k + Σ e [ln(1 + r x) - ln(1 + k r x)]`` with
    ``x = n_c / n_s``, so one sum per point of a geometric grid serves every r and k that lie on it. The
    grid has 32 points a decade from 0.001 to 1000, the k are points of it: 1.07, 1.24, and the nearest to
    ``MULTIPLES``.

    α is split in halves: r is rejected as too low when the evidence for *more* reaches 2/α, as too high
    when the evidence for *less* does. The first falls in r and the second rises, so what is left is an
    interval; its ends are rounded outwards to the grid (7.5%). It covers the true ratio at all times
    at once with probability 1 - α.
    """

    __slots__ = ("_canary", "_sums")

    def __init__(self) -> None:
        self._canary = 0
        self._sums = [0.0] * len(_GRID)

    def add(self, n_s: int, e_s: int, n_c: int, e_c: int) -> None:
        """Add a tick; one without events or without trials on a side changes nothing."""
        events = e_s + e_c
        if n_s <= 0 or n_c <= 0 or not events:
            return
        x = n_c / n_s
        self._canary += e_c
        self._sums = [
            total + events * log1p(y * x) for total, y in zip(self._sums, _GRID, strict=True)
        ]

    def log_e(self, at: int, sign: int) -> float:
        """Evidence that the ratio is above (sign 1) or below (sign -1) the grid point ``at``."""
        return log_sum_exp(
            [
                sign * self._canary * log_k + self._sums[at] - self._sums[at + sign * offset]
                for offset, log_k in zip(_OFFSETS, _OFFSET_LOGS, strict=True)
            ]
        ) - log(len(_OFFSETS))

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Return ``(low, high)``; ``(0, inf)`` while nothing is known."""
        limit = log(2.0 / alpha)
        low, high = 0.0, inf
        inside, outside = _HIGHEST + 1, _LOWEST - 1  # the highest point rejected as too low
        while inside - outside > 1:
            middle = (inside + outside) // 2
            if self.log_e(middle, 1) >= limit:
                outside = middle
            else:
                inside = middle
        if outside >= _LOWEST:
            low = _GRID[outside]
        inside, outside = _LOWEST - 1, _HIGHEST + 1  # the lowest point rejected as too high
        while outside - inside > 1:
            middle = (inside + outside) // 2
            if self.log_e(middle, -1) >= limit:
                outside = middle
            else:
                inside = middle
        if outside <= _HIGHEST:
            high = _GRID[outside]
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"canary": self._canary, "sums": list(self._sums)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RatioInterval:
        """Return the interval whose ``to_dict`` this was."""
        interval = cls()
        interval._canary = int(state["canary"])
        interval._sums = _floats(state["sums"], len(_GRID))
        return interval


class PastRate:
    """A rate estimated from earlier ticks, starting at half an event in fifty trials."""

    __slots__ = ("events", "trials")

    def __init__(self, trials: float = 50.0, events: float = 0.5) -> None:
        self.trials = trials
        self.events = events

    def add(self, trials: float, events: float) -> None:
        """Add a tick; earlier ones fade so that the last hundred thousand trials count."""
        if self.trials > 100_000.0:
            self.trials *= 0.5
            self.events *= 0.5
        self.trials += trials
        self.events += events

    @property
    def rate(self) -> float:
        """The estimate, between 0.0001 and 0.99."""
        return min(max(self.events / self.trials, 1e-4), 0.99)


GROSS = (0.15, 0.5, 0.97)
"""Canary rates that the two-by-two part bets on."""
_RATIO, _SMALL, _REST, _RESTARTED = 0.7, 0.02, 0.13, 0.15


class LiveTest:
    """The test that the live judge watches, at r = 1: ``EProcess`` and three additions, one mixture.

    * *Gross failures.* The ratio form learns from events alone: at weight 50 a canary event multiplies
      it by two at most. The two-by-two form also learns from stable requests that went well, and needs
      half as many hurt users for a canary that is simply broken. It bets on the rates ``GROSS`` against
      stable's rate so far. Used for increases.
    * *Small changes* of common events, such as five percent fewer conversions: the alternatives ``FINE``.
    * *Late failures.* Evidence for "healthy" piles up and would have to be undone first when a canary
      breaks after an hour. A part of the stake is held back, and put on the same alternatives afresh at
      each ``restart()``: the j-th gets 1/(j(j+1)) of it (a mixture over the time of the change; compare
      Shin, Ramdas & Rinaldo 2024, E-detectors). The stake is spent once per release, so the whole stays
      one e-process with one α.

    Stakes: 0.7 on the ratio form, 0.02 on small changes, 0.13 on gross failures (for a decrease: on small
    changes), 0.15 for later. A sum of e-processes with weights that add up to 1 is one; so the price of
    the additions is at most ln(1/0.7) = 0.36 in log evidence, four percent more trials where they do not
    help.
    """

    __slots__ = (
        "_gross",
        "_late",
        "_logs",
        "_multiples",
        "_restarts",
        "_stable",
        "_stakes",
        "direction",
    )

    def __init__(self, direction: Direction = "increase") -> None:
        self.direction = direction
        self._multiples = _directed(direction, MULTIPLES + FINE)
        self._gross = GROSS if direction == "increase" else ()
        small = _SMALL if self._gross else _SMALL + _REST
        self._stakes = [
            *[log(_RATIO / len(MULTIPLES))] * len(MULTIPLES),
            *[log(small / len(FINE))] * len(FINE),
            *[log(_REST / len(GROSS)) for _ in self._gross],
        ]
        self._logs = [0.0] * len(self._stakes)
        self._late = [-inf] * len(self._stakes)
        self._restarts = 0
        self._stable = PastRate()

    def add(self, n_s: float, e_s: float, n_c: float, e_c: float) -> None:
        """Add a tick; events are not more than trials. Expected counts need not be whole. O(1)."""
        if n_s > 0 and n_c > 0:
            steps = (
                ratio_steps(self._multiples, 1.0, n_s, e_s, n_c, e_c)
                if e_s or e_c
                else [0.0] * len(self._multiples)
            )
            g_s = self._stable.rate
            steps += [_two_by_two(g_c, g_s, n_s, e_s, n_c, e_c) for g_c in self._gross]
            self._logs = [old + step for old, step in zip(self._logs, steps, strict=True)]
            self._late = [old + step for old, step in zip(self._late, steps, strict=True)]
        self._stable.add(n_s, e_s)

    def restart(self) -> None:
        """Put the next part of the stake on a change from now on."""
        self._restarts += 1
        j = self._restarts
        stake = log(_RESTARTED / (j * (j + 1)))
        parts = len(self._stakes)
        self._late = [log_sum_exp((old, stake - log(parts))) for old in self._late]

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value."""
        reserve = log(_RESTARTED / (self._restarts + 1))
        return log_sum_exp(
            [
                *(stake + value for stake, value in zip(self._stakes, self._logs, strict=True)),
                *self._late,
                reserve,
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values; ``null`` stands for minus infinity."""
        return {
            "direction": self.direction,
            "logs": list(self._logs),
            "late": [None if value == -inf else value for value in self._late],
            "restarts": self._restarts,
            "stable": [self._stable.trials, self._stable.events],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LiveTest:
        """Return the test whose ``to_dict`` this was."""
        test = cls(state["direction"])
        test._logs = _floats(state["logs"], len(test._stakes))
        test._late = _floats(
            [-inf if value is None else value for value in state["late"]], len(test._stakes)
        )
        test._restarts = int(state["restarts"])
        test._stable = PastRate(*_floats(state["stable"], 2))
        return test


def _two_by_two(g_c: float, g_s: float, n_s: float, e_s: float, n_c: float, e_c: float) -> float:
    """Return the growth of the two-by-two form by a tick; 0 if the guesses are not far apart."""
    if g_c < 2.0 * g_s:
        return 0.0
    g = (n_c * g_c + n_s * g_s) / (n_c + n_s)
    apart_c, apart_s = g_c - g, g_s - g
    gain = e_c * log1p(apart_c / g) + e_s * log1p(apart_s / g)
    spare = 1.0 - g
    return gain + (n_c - e_c) * log1p(-apart_c / spare) + (n_s - e_s) * log1p(-apart_s / spare)


class NonInferiority:
    """Evidence that the canary is *not* worse by an absolute margin: H0 is ``p_c >= p_s + margin``.

    With ``q_c = q_s + margin`` guessed before the tick, and bets ``η <= 1/(1 - q_c)``,
    ``η' = η n_c / n_s <= 1/q_s``:

        E *= Π over canary trials (1 - η (x - q_c)) · Π over stable trials (1 + η' (y - q_s))

    In the mean the logarithm is at most ``η n_c [(p_s - p_c) + (q_c - q_s)] <= 0`` under H0, again by
    ``1 + x <= exp x``. The guesses put both rates at the pooled past rate p: ``q_c`` and ``q_s`` are the
    pair nearest to it that H0 allows (compare Farrington & Manning 1990), and
    ``η = (q_c - p) / (q_c (1 - q_c))`` makes a canary trial the likelihood ratio of p to q_c. As a ratio
    the null would be ``r = (p + margin) / p``, which says nothing where there are no errors at all; this
    form turns a clean canary into evidence: 465 requests without an error prove "less than one point
    worse" at 1 percent.
    """

    __slots__ = ("_log", "_past", "margin")

    def __init__(self, margin: float) -> None:
        if not 0.0 < margin < 1.0:
            raise ValueError(f"margin must lie between 0 and 1, found {margin!r}")
        self.margin = margin
        self._log = 0.0
        self._past = PastRate()

    def add(self, n_s: int, e_s: int, n_c: int, e_c: int) -> None:
        """Add a tick; events are not more than trials. O(1)."""
        if n_s > 0 and n_c > 0:
            past = self._past.rate
            q_s = max(past - self.margin * n_c / (n_c + n_s), 0.0)
            q_c = q_s + self.margin
            if past < q_c < 1.0:
                bet = (q_c - past) / (q_c * (1.0 - q_c))
                stable_bet = bet * n_c / n_s
                if stable_bet * q_s > 0.5:  # never stake all on stable's next request
                    bet *= 0.5 / (stable_bet * q_s)
                    stable_bet = bet * n_c / n_s
                self._log += (
                    e_c * log1p(-bet * (1.0 - q_c))
                    + (n_c - e_c) * log1p(bet * q_c)
                    + e_s * log1p(stable_bet * (1.0 - q_s))
                    + (n_s - e_s) * log1p(-stable_bet * q_s)
                )
        self._past.add(n_s + n_c, e_s + e_c)

    @property
    def log_e(self) -> float:
        """Natural logarithm of the e-value."""
        return self._log

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "margin": self.margin,
            "log": self._log,
            "past": [self._past.trials, self._past.events],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> NonInferiority:
        """Return the process whose ``to_dict`` this was."""
        process = cls(float(state["margin"]))
        process._log = float(state["log"])
        process._past = PastRate(*_floats(state["past"], 2))
        return process
