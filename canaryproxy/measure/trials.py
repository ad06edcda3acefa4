"""Trials of the data path: the requests that count as evidence, and when.

Everything here is pure and cheap: time is an argument, buffers belong to the caller.

**The contract.** For each metric and variant the data path keeps two growing cells, ``trials`` and
``events``. Both move at the same instant, when the outcome of a trial is known, trials first; a reader
reads events first. Which requests are trials is settled before their outcome is known: a selection that
looked at outcomes would make evidence out of nothing.

=============  ==========================================================================================
errors         ``unit: request``: every request that ends is a trial, except ``client_closed``. ``unit:
               user``: the requests that ``UserReducer.claim`` granted *when they were routed*; if one
               ends in an error, ``UserReducer.failed`` as well. A rescued request is the canary's error.
client_errors  the same trials; responses with 4xx are the events.
latency        every request routed while a threshold was published, by the threshold it was routed with
               (``Thresholds``): settled by its first byte, or by the tick that finds it past the threshold,
               whichever is first. No trial if the client closed before that, or for upgrades.
throughput     the same with the time to the last byte and ``stall_after``. An upgrade is settled by its
               handshake. A stalled request is counted once, not again when it ends after all.
business       trials: grants of a second ``UserReducer`` (exposed users, at most one in ten seconds);
               events: responses with that outcome, through ``UserReducer.claim`` of a third, so that
               one user is one conversion in ten seconds. Posted events count as given.
outcomes       trials: requests that the rule matches and whose response was evaluated; events: bad ones.
requests       trials: requests that ended, except ``client_closed``; events: the failed ones. Never
               reduced; for "12 of 500 requests", and for guard rails if ``errors`` is off.
=============  ==========================================================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from canaryproxy.measure import histogram
from canaryproxy.measure.routing import BUCKETS

WINDOW: Final = 10.0
"""Seconds for which a granted bucket is not granted again."""

TICKS_PER_SECOND: Final = 10
"""Unit of the times given to ``UserReducer``: ``int(seconds * TICKS_PER_SECOND)``."""

_CELL_BYTES: Final = 4
_OUT: Final = 0xFFFFFFFF
_SPACING: Final = int(WINDOW * TICKS_PER_SECOND)


class UserReducer:
    """At most one trial per user bucket in ten seconds, and one error per bucket in a round.

    ``claim`` is called when a request is *routed* and its result kept with the request: the first request
    of a bucket after ten seconds is the trial, however it ends. So an error after a success within
    the window does not count, nor a success after an error: counting "any error of the window" would
    weigh users by how much they ask, and counting the first to *end* would prefer quick failures.

    A bucket whose trial failed is out until the end of the round. So a client that fails again and again is
    one event, however long it tries; and users for whom the service never worked, of whom one variant has
    more by chance, are counted once and not every ten seconds. Being out depends on the past only, and is
    the same rule for both variants, so every trial granted is a fair one (as the risk set of a log-rank
    test: Mantel 1966).

    A round ends with every step of the release (``new_round``), and when half of the buckets seen on a side
    are out, at least two of three (``refresh``): then errors are common, and waiting would make the judge
    blind. So a beta group of five for whom everything fails is noticed, and a lone client is not.

    The cells lie over any writable buffer of ``SIZE`` bytes, which workers may share: a race between two
    costs at most one trial too many.
    """

    __slots__ = ("_free",)

    SIZE: ClassVar[int] = BUCKETS * _CELL_BYTES

    def __init__(self, buffer: bytearray | memoryview | None = None) -> None:
        memory = memoryview(bytearray(self.SIZE) if buffer is None else buffer)
        self._free: memoryview[int] = memory[: self.SIZE].cast("B").cast("I")
        """By bucket: the tick from which it is granted again."""

    def claim(self, bucket: int, now: int) -> bool:
        """Tell whether a request of this bucket, routed now (in tenths of a second), is a trial."""
        free = self._free
        if free[bucket] > now:
            return False
        free[bucket] = now + _SPACING
        return True

    def failed(self, bucket: int) -> None:
        """Take a bucket out of the round: its trial was an event."""
        self._free[bucket] = _OUT

    def seen(self, limit: int, now: int) -> int:
        """Return the buckets below ``limit`` that were granted a trial within the last ten seconds.

        Those that are out of the round are among them. ``now`` in tenths of a second.
        """
        return sum(free > now for free in self._free[:limit].tolist())

    def new_round(self) -> None:
        """Let every bucket count again."""
        self._free[:] = memoryview(bytes(self.SIZE)).cast("I")

    def refresh(self, limit: int) -> bool:
        """Begin a new round if it is time; return whether it was.

        ``limit``: buckets below it are on the canary. To be called by one process, every ten seconds.
        """
        cells = self._free.tolist()
        for side in (cells[:limit], cells[limit:]):
            seen = len(side) - side.count(0)
            if seen >= 3 and side.count(_OUT) >= max(2, seen / 2):
                self.new_round()
                return True
        return False


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Settings published with the route table: in force for the requests routed after it."""

    stable: float
    """Seconds to the first byte above which a response of stable is late: τ."""
    canary: float
    """The same for the canary: τ + margin."""
    stall_after: float
    """Seconds to the last byte above which a request of either variant is stalled."""


def thresholds(tau: float, margin: float) -> Thresholds:
    """Return the thresholds for stable's recent quantile τ and the margin, both in seconds.

    A stall is five times τ and at least a second: responses that rightly take longer (downloads, streams,
    long polls) do so on both sides, and only a difference counts.
    """
    return Thresholds(tau, tau + margin, max(1.0, 5.0 * tau))


class RecentQuantile:
    """Stable's recent quantile τ of the time to the first byte, from a growing histogram.

    Looks back one minute, or as far as it takes to have a hundred responses, at most ten minutes. An
    inexact τ costs power but not validity: the hypothesis is about the same τ on both sides.
    """

    __slots__ = ("_past", "_quantile")

    _EVERY: ClassVar[float] = 5.0
    _RECENT: ClassVar[float] = 60.0
    _LONGEST: ClassVar[float] = 600.0
    _ENOUGH: ClassVar[int] = 100

    def __init__(self, quantile: float = 0.95) -> None:
        self._quantile = quantile
        self._past: deque[tuple[float, list[int]]] = deque()

    def update(self, now: float, counts: Sequence[int]) -> float | None:
        """Return τ in seconds from the histogram's ``BUCKETS`` cells; ``None`` below a hundred responses.

        Call it once a second or so.
        """
        current = list(counts[: histogram.BUCKETS])
        past = self._past
        if past and any(new < old for new, old in zip(current, past[-1][1], strict=True)):
            past.clear()  # a new worker counts from zero
        if not past:
            past.append((now, [0] * len(current) if sum(current) < self._ENOUGH else current))
        while len(past) > 1 and now - past[1][0] >= self._LONGEST:
            past.popleft()
        recent = None
        for then, counted in reversed(past):
            recent = [new - old for new, old in zip(current, counted, strict=True)]
            if now - then >= self._RECENT and sum(recent) >= self._ENOUGH:
                break
        if now - past[-1][0] >= self._EVERY:
            past.append((now, current))
        if recent is None or sum(recent) < self._ENOUGH:
            return None
        return histogram.quantile(recent, self._quantile)
