"""Figures of each endpoint: since the start, over the last minute, and which of them fails more than others.

Theory of operation. ``EndpointFigures.take`` is called once a second and keeps the counts of every endpoint
each ten seconds for a minute, and those at the moment when the step began. ``rows`` gives the figures,
``at_fault`` says which endpoint stands out:

    of the failures of a variant, k of K on one endpoint that had the share p of the attempts
    -> named if P(Binomial(K, p) >= k) is below one in a thousand, there are five at least, and its rate is
       twice that of the rest; then the rest is looked at again

so a variant that fails on all of its endpoints names none. Time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final

from canaryproxy.config.text import count, duration
from canaryproxy.judging.look import log_choose
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import NONE, EndpointCounts
from canaryproxy.measure.routing import VARIANTS

SPAN: Final = 60.0
"""Seconds that the recent figures look back."""
_EVERY: Final = 10.0
_LEAST: Final = 5
"""Failures from which an endpoint is named."""
_RATIO: Final = 2.0
"""How often as much as the others an endpoint that is named fails."""
_CHANCE: Final = 0.001
_NAMED: Final = 3
"""Endpoints that are named in words."""


@dataclass(frozen=True, slots=True)
class EndpointReading:
    """One endpoint as all workers see it now."""

    url: str
    """Its address, or how many more endpoints there are."""
    workers: int
    """Workers that run."""
    ejected_by: int
    """Workers that send it no requests, because it took no connections."""
    in_flight: int
    errors: int
    """Attempts without a complete response in the workers that run."""
    reason: Reason
    """Of the last failure."""
    errno: int
    counts: EndpointCounts
    """Sums over all workers, those that have ended included."""
    starting: bool = False
    """Some worker sends it less than its share yet."""
    out: str = ""
    """Why the control plane has taken it out of service; empty: it has not."""
    panic: bool = False
    """It is tried all the same, as no endpoint of its variant is up."""

    @property
    def up(self) -> bool:
        """Every worker sends it requests."""
        return not self.ejected_by and not self.out

    @property
    def state(self) -> str:
        """In one word."""
        if self.up:
            return "starting" if self.starting else "up"
        return "panic" if self.panic else "down"

    @property
    def lost(self) -> bool:
        """No worker would send it requests while another endpoint is up."""
        return bool(self.out) or (self.workers > 0 and self.ejected_by == self.workers)


@dataclass(frozen=True, slots=True)
class Recent:
    """Counts of a stretch of time."""

    seconds: float
    counts: EndpointCounts


@dataclass(frozen=True, slots=True)
class _Snapshot:
    time: float
    counts: Mapping[tuple[int, str], EndpointCounts]

    def until(self, now: float, variant: int, one: EndpointReading) -> Recent:
        counts = one.counts.since(self.counts.get((variant, one.url)))
        return Recent(now - self.time, counts)


@dataclass(frozen=True, slots=True)
class AtFault:
    """Endpoints of a variant that fail more than its others."""

    said: str
    """In words."""
    urls: tuple[str, ...]
    of: int
    """How many endpoints the variant has."""


class EndpointFigures:
    """Remembers what was counted when; ``read`` returns the endpoints of a variant as they are now."""

    def __init__(self, read: Callable[[int], Sequence[EndpointReading]]) -> None:
        self._read = read
        self._snapshots: deque[_Snapshot] = deque()
        self._step: _Snapshot | None = None
        self._began = -1.0

    def take(self, now: float, step_began: float) -> None:
        """Take note of the counts; ``step_began`` is when the release last changed its step or state."""
        if step_began != self._began:
            self._began, self._step = step_began, self._snapshot(now)
        if not self._snapshots or now - self._snapshots[-1].time >= _EVERY:
            self._snapshots.append(self._snapshot(now))
        while len(self._snapshots) > 1 and now - self._snapshots[1].time >= SPAN:
            self._snapshots.popleft()

    def _snapshot(self, now: float) -> _Snapshot:
        return _Snapshot(
            now,
            {
                (variant, one.url): one.counts
                for variant in range(len(VARIANTS))
                for one in self._read(variant)
            },
        )

    def rows(self, now: float, variant: int) -> list[tuple[EndpointReading, Recent]]:
        """Return each endpoint of a variant, and what it counted in the last minute.

        The minute is shorter after a start, and up to ten seconds longer.
        """
        readings = self._read(variant)
        if not self._snapshots:
            return [(one, Recent(0.0, NONE)) for one in readings]
        return [(one, self._snapshots[0].until(now, variant, one)) for one in readings]

    def at_fault(self, now: float, variant: int) -> AtFault | None:
        """Return the endpoints of a variant that fail more than the others; ``None`` if none stands out.

        Over the last minute, or else since the step began.
        """
        readings = self._read(variant)
        for base in (self._snapshots[0] if self._snapshots else None, self._step):
            if base is None or len(readings) < 2:
                continue
            recent = [(one.url, base.until(now, variant, one).counts) for one in readings]
            found = standing_out(recent)
            if found:
                urls = tuple(url for url, _ in found)
                said = _words(VARIANTS[variant], found, len(readings), now - base.time)
                return AtFault(said, urls, len(readings))
        return None


def standing_out(
    endpoints: Sequence[tuple[str, EndpointCounts]],
) -> list[tuple[str, EndpointCounts]]:
    """Return the endpoints that fail more than the others, the worst first."""
    rest = [one for one in endpoints if one[1].requests]
    rest.sort(key=lambda one: one[1].failed / one[1].requests, reverse=True)
    found: list[tuple[str, EndpointCounts]] = []
    while len(rest) > 1 and _stands_out(rest[0][1], [counts for _, counts in rest[1:]]):
        found.append(rest.pop(0))
    return found


def _stands_out(one: EndpointCounts, others: Sequence[EndpointCounts]) -> bool:
    requests, failed = one.requests, one.failed
    of_others = sum(other.requests for other in others)
    failed_there = sum(other.failed for other in others)
    if failed < _LEAST or failed * of_others < _RATIO * failed_there * requests:
        return False
    share = requests / (requests + of_others)
    return _tail(failed, failed + failed_there, share) < _CHANCE


def _tail(least: int, trials: int, share: float) -> float:
    """Return an upper bound on P(Binomial(trials, share) >= least), for least > trials * share.

    The first term times a geometric series (Feller 1968, VI.3).
    """
    if least <= trials * share:
        return 1.0
    term = log_choose(trials, least) + least * log(share) + (trials - least) * log(1.0 - share)
    ratio = (trials - least) * share / ((least + 1) * (1.0 - share))
    return exp(term) / (1.0 - ratio)


def _words(
    variant: str, found: Sequence[tuple[str, EndpointCounts]], total: int, seconds: float
) -> str:
    verb, within = "fails" if len(found) == 1 else "fail", duration(seconds)
    named = [
        f"{url} ({count(counts.failed)} of {count(counts.requests)} requests failed in {within})"
        for url, counts in found[:_NAMED]
    ]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{len(found)} of {total} {variant} endpoints {verb}: {', '.join(named)}{more}"
