"""The traffic history for people: rates, error rates and latency quantiles of both variants over time.

Nothing here decides anything; the judge reads the counters itself.

**Bands.** An error rate is shown with a confidence sequence at 95%: the interval of all rates p for which
the mixture likelihood ratio ``B(e + ½, n - e + ½) / (B(½, ½) pᵉ (1-p)ⁿ⁻ᵉ)`` stays below 1/α (Robbins 1970;
Howard, Ramdas, McAuliffe & Sekhon 2021, *Time-uniform, nonparametric, nonasymptotic confidence sequences*,
proposition 7 with a beta mixture). It holds at every moment of a window, however often one looks. A
quantile's band comes from the same test turned round: the ranks at which the share of responses below the
quantile is not refuted (Howard & Ramdas 2022, *Sequential estimation of quantiles*), read from the histogram.
Neighbouring windows overlap, and no promise is made for all of them together.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, lgamma, log, nan
from typing import Any, Final

from canaryproxy.measure import counters, histogram
from canaryproxy.measure.routing import VARIANTS

WINDOW = 10.0
"""Seconds that "now" and each point of the history look back: one figure of one thing."""
POINTS = 1200
"""Points that are kept; when there are more, every second one goes."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The growing counts of one variant at one moment."""

    time: float
    """Seconds, on any clock that only goes forward."""
    routed: int
    ended: int
    """Requests that ended, without those whose client went away and those that stable refused to take."""
    failed: int
    first_byte: Sequence[int]
    """The histogram of the time to the first byte."""

    @classmethod
    def of(cls, now: float, cells: Sequence[int], before: Snapshot | None = None) -> Snapshot:
        """Read a variant's cells; what has not changed since ``before`` is the same object."""
        failed = cells[counters.FAILED]  # before the trials, which are written first
        buckets = cells[counters.FIRST_BYTE : counters.FIRST_BYTE + histogram.BUCKETS]
        first_byte = array("Q", buckets) if any(buckets) else _EMPTY
        return cls(
            now,
            cells[counters.ROUTED],
            counters.answered(cells),
            failed,
            first_byte if before is None or first_byte != before.first_byte else before.first_byte,
        )


_NO_RESPONSES: Final = (0,) * histogram.BUCKETS
_EMPTY: Final = array("Q", bytes(8 * histogram.BUCKETS))
"""The histogram of a variant without responses."""

Snapshots = tuple[Snapshot, ...]
"""Of each variant."""


@dataclass(frozen=True, slots=True)
class Window:
    """The traffic between two snapshots of a variant. Rates are per second, quantiles in seconds."""

    seconds: float
    rate: float
    """Requests a second."""
    routed: int
    ended: int
    failed: int
    first_byte: tuple[int, ...]

    @classmethod
    def between(cls, old: Snapshot, new: Snapshot) -> Window:
        """Return the difference; counts that fell (a new worker) add their new value."""
        seconds = new.time - old.time
        routed = _added(old.routed, new.routed)
        ended = _added(old.ended, new.ended)
        return cls(
            seconds=seconds,
            rate=routed / seconds if seconds > 0 else 0.0,
            routed=routed,
            ended=ended,
            failed=min(_added(old.failed, new.failed), ended),
            first_byte=(
                _NO_RESPONSES
                if old.first_byte is new.first_byte
                else tuple(map(_added, old.first_byte, new.first_byte))
            ),
        )

    @property
    def error_rate(self) -> float | None:
        """Share of requests that failed, 0..1; ``None`` without requests."""
        return self.failed / self.ended if self.ended else None

    def quantile(self, q: float) -> float | None:
        """Return a quantile (``q`` in 0..1) of the time to the first byte in seconds."""
        return histogram.quantile(self.first_byte, q)


def _added(old: int, new: int) -> int:
    return new - old if new >= old else new


def rate_band(events: int, trials: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the confidence sequence of a rate after ``trials`` with ``events``: low and high, 0..1."""
    if trials <= 0:
        return 0.0, 1.0
    mixture = _log_mixture(events, trials)
    limit = -log(alpha)

    def refuted(rate: float) -> bool:
        return mixture - _log_likelihood(events, trials, rate) >= limit

    middle = events / trials
    return _edge(0.0, middle, refuted), _edge(1.0, middle, refuted)


def quantile_band(
    counts: Sequence[int], q: float, alpha: float = ALPHA
) -> tuple[float, float] | None:
    """Return the confidence sequence of a quantile (``q`` in 0..1), in seconds; ``None`` without responses.

    ``counts`` are the buckets of a histogram: the band is no finer than they are.
    """
    total = sum(counts)
    if not total:
        return None
    limit = -log(alpha)

    def refuted(share: float) -> bool:
        rank = round(share * total)
        return _log_mixture(rank, total) - _log_likelihood(rank, total, q) >= limit

    low, high = _edge(0.0, q, refuted), _edge(1.0, q, refuted)
    found = histogram.quantile(counts, low), histogram.quantile(counts, high)
    assert found[0] is not None
    assert found[1] is not None
    return found[0], found[1]


def _log_mixture(events: int, trials: int) -> float:
    """Return ln of B(e + ½, n - e + ½) / B(½, ½)."""
    return _log_beta(events + 0.5, trials - events + 0.5) - _log_beta(0.5, 0.5)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_likelihood(events: int, trials: int, rate: float) -> float:
    """Return ln of pᵉ (1-p)ⁿ⁻ᵉ."""
    misses = trials - events
    if (events and rate <= 0.0) or (misses and rate >= 1.0):
        return -inf
    return (events * log(rate) if events else 0.0) + (misses * log(1.0 - rate) if misses else 0.0)


def _edge(outside: float, inside: float, refuted: Callable[[float], bool]) -> float:
    """Return the edge of the refuted range, between a value that may be refuted and one that is not."""
    if not refuted(outside):
        return outside
    for _ in range(40):
        middle = (outside + inside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


@dataclass(frozen=True, slots=True)
class Percentile:
    """A quantile of the time to the first byte, in seconds, with its band."""

    value: float
    low: float
    high: float


def percentile(first_byte: Sequence[int], q: float) -> Percentile | None:
    """Return a quantile (``q`` in 0..1) of a histogram; ``None`` without responses."""
    value, band = histogram.quantile(first_byte, q), quantile_band(first_byte, q)
    return None if value is None or band is None else Percentile(value, *band)


class StepTraffic:
    """The traffic of both variants since a step began, for people."""

    def __init__(self) -> None:
        self._of: object = None
        self._first: Snapshots = ()
        self._last: Snapshots = ()

    def take(self, of: object, snapshots: Snapshots) -> None:
        """Take the counts of now; ``of`` names the step, and another one begins anew."""
        if of != self._of:
            self._of, self._first = of, snapshots
        self._last = snapshots

    def percentiles(self, q: float) -> tuple[float, tuple[Percentile | None, ...]]:
        """Return how many seconds were watched, and a quantile of each variant."""
        windows = [Window.between(*pair) for pair in zip(self._first, self._last, strict=True)]
        if not windows:
            return 0.0, (None, None)
        return windows[0].seconds, tuple(percentile(window.first_byte, q) for window in windows)


_HEAD = ("t", "weight", "share")
_FIGURES = (
    *("rate", "error_rate", "error_low", "error_high", "p50", "p95", "p95_low", "p95_high", "p99"),
)


@dataclass(frozen=True, slots=True)
class _Point:
    """A point of the history in a fifth of the memory of its JSON values."""

    values: array[float]
    """``_HEAD``, then ``_FIGURES`` of each variant; nan for none."""
    evidence: Mapping[str, float | None]

    @classmethod
    def of(cls, point: Mapping[str, Any]) -> _Point:
        values = [point[name] for name in _HEAD]
        for variant in VARIANTS:
            values += [point[variant][name] for name in _FIGURES]
        return cls(
            array("d", [nan if value is None else value for value in values]),
            point["evidence"] or _NO_EVIDENCE,
        )

    def to_dict(self) -> dict[str, Any]:
        values = iter([None if isnan(value) else value for value in self.values])
        point: dict[str, Any] = {name: next(values) for name in _HEAD}
        point["evidence"] = dict(self.evidence)
        for variant in VARIANTS:
            point[variant] = {name: next(values) for name in _FIGURES}
        return point


_NO_EVIDENCE: Mapping[str, float | None] = {}


class TrafficHistory:
    """The recent past of both variants. ``take`` is called once a second."""

    def __init__(self) -> None:
        self._snapshots: list[Snapshots] = []
        self._points: list[_Point] = []
        self._every = 1
        self._taken = 0

    def take(
        self,
        now: float,
        time: float,
        cells: Sequence[Sequence[int]],
        weight: float,
        evidence: Mapping[str, float | None],
    ) -> dict[str, Any]:
        """Read the cells of both variants and return the point of this second.

        ``now`` is monotonic, ``time`` seconds since the epoch, ``weight`` percent, ``evidence`` natural
        logarithms by metric.
        """
        before = self._snapshots[-1] if self._snapshots else (None,) * len(cells)
        pairs = zip(cells, before, strict=True)
        self._snapshots.append(tuple(Snapshot.of(now, here, old) for here, old in pairs))
        while len(self._snapshots) > 2 and now - self._snapshots[1][0].time >= WINDOW:
            del self._snapshots[0]
        windows = self._since(WINDOW)
        routed = sum(window.routed for window in windows)
        point: dict[str, Any] = {
            "t": time,
            "weight": weight,
            "share": windows[1].routed / routed if routed else None,
            "evidence": dict(evidence),
        }
        for name, window in zip(VARIANTS, windows, strict=True):
            point[name] = _figures(window)
        self._keep(point)
        return point

    def _keep(self, point: dict[str, Any]) -> None:
        self._taken += 1
        if self._taken % self._every:
            return
        self._points.append(_Point.of(point))
        if len(self._points) > POINTS:
            del self._points[::2]
            self._every *= 2

    @property
    def points(self) -> list[dict[str, Any]]:
        """The history since the start, oldest first, as the admin API returns it."""
        return [point.to_dict() for point in self._points]

    def _since(self, seconds: float) -> tuple[Window, ...]:
        newest = self._snapshots[-1]
        oldest = newest
        for snapshots in reversed(self._snapshots):
            oldest = snapshots
            if newest[0].time - snapshots[0].time >= seconds:
                break
        return tuple(Window.between(old, new) for old, new in zip(oldest, newest, strict=True))

    @property
    def newest(self) -> Snapshots:
        """The counts of both variants as taken last."""
        return self._snapshots[-1]

    def now(self) -> tuple[Window, ...]:
        """Return both variants over the last ``WINDOW`` seconds; nothing before the first snapshot."""
        if not self._snapshots:
            nothing = Window(0.0, 0.0, 0, 0, 0, (0,) * histogram.BUCKETS)
            return (nothing,) * len(VARIANTS)
        return self._since(WINDOW)


def _figures(window: Window) -> dict[str, float | None]:
    low, high = rate_band(window.failed, window.ended) if window.ended else (None, None)
    band = quantile_band(window.first_byte, 0.95) or (None, None)
    return {
        "rate": window.rate,
        "error_rate": window.error_rate,
        "error_low": low,
        "error_high": high,
        "p50": window.quantile(0.5),
        "p95": window.quantile(0.95),
        "p95_low": band[0],
        "p95_high": band[1],
        "p99": window.quantile(0.99),
    }
