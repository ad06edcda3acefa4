"""Figures of each endpoint: since the start, over the last minute, and which of them stands out.

Theory of operation. ``EndpointFigures.take`` is called once a second and keeps the counts of every endpoint
each ten seconds for a minute, and those at the moment when the step began. ``rows`` gives the figures,
``at_fault`` says which endpoint fails more, or is slower, than the others (``standing_out``). Time is an
argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from canaryproxy.config.text import duration
from canaryproxy.control import standing_out
from canaryproxy.control.standing_out import Named
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import NONE, EndpointCounts
from canaryproxy.measure.routing import VARIANTS

SPAN: Final = 60.0
"""Seconds that the recent figures look back."""
_EVERY: Final = 10.0
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
    standby: bool = False
    """It gets no requests while one with a better priority of its SRV record is up."""

    @property
    def up(self) -> bool:
        """Every worker sends it requests, or would if it were not on standby."""
        return not self.ejected_by and not self.out

    @property
    def serves(self) -> bool:
        """Every worker sends it requests now."""
        return self.up and not self.standby

    @property
    def state(self) -> str:
        """In one word."""
        if self.up and self.standby:
            return "standby"
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

    def times(self, variant: int, one: EndpointReading) -> list[int]:
        """Return the histogram of the times to the first byte since then."""
        old = self.counts.get((variant, one.url), NONE)
        return [
            new - was if new >= was else new
            for new, was in zip(one.counts.times, old.times, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class AtFault:
    """Endpoints of a variant that fail more, or are slower, than its others."""

    said: str
    """In words."""
    urls: tuple[str, ...]
    of: int
    """How many endpoints the variant has."""


class EndpointFigures:
    """Remembers what was counted when; ``read`` returns the endpoints of a variant as they are now."""

    def __init__(self, read: Callable[[int], Sequence[EndpointReading]]) -> None:
        self._read = read
        self._snapshots: list[_Snapshot] = []
        self._step: _Snapshot | None = None
        self._began = -1.0

    def take(self, now: float, step_began: float) -> None:
        """Take note of the counts; ``step_began`` is when the release last changed its step or state."""
        if step_began != self._began:
            self._began, self._step = step_began, self._snapshot(now)
        if not self._snapshots or now - self._snapshots[-1].time >= _EVERY:
            self._snapshots.append(self._snapshot(now))
        while len(self._snapshots) > 1 and now - self._snapshots[1].time >= SPAN:
            del self._snapshots[0]

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
        """Return the endpoints of a variant that stand out from its others; ``None`` if none does.

        Over the last minute, or else since the step began; one that is slow, also over the last seconds.
        """
        readings = self._read(variant)
        if len(readings) < 2:
            return None
        minute, step = list(self._snapshots), self._step

        def failing(base: _Snapshot) -> list[Named]:
            return standing_out.failing(
                [(one.url, base.until(now, variant, one).counts) for one in readings]
            )

        def slow(base: _Snapshot) -> list[Named]:
            return standing_out.slow([(one.url, base.times(variant, one)) for one in readings])

        said: list[str] = []
        urls: dict[str, None] = {}
        for verbs, look, bases in (
            (("fails", "fail"), failing, (*minute[:1], step)),
            (("is slow", "are slow"), slow, (*minute[::2], step)),
        ):
            named, seconds = _first_named(now, look, bases)
            if named:
                some = f"{len(named)} of {len(readings)} {VARIANTS[variant]} endpoints"
                said.append(f"{some} {verbs[len(named) > 1]}: {_words(named, seconds)}")
                urls |= dict.fromkeys(url for url, _ in named)
        return AtFault("; ".join(said), tuple(urls), len(readings)) if said else None


def _first_named(
    now: float, look: Callable[[_Snapshot], list[Named]], bases: Iterable[_Snapshot | None]
) -> tuple[list[Named], float]:
    """Return what stands out since the first base that shows something, and for how long that is."""
    for base in bases:
        if base is not None and (named := look(base)):
            return named, now - base.time
    return [], 0.0


def _words(named: Sequence[Named], seconds: float) -> str:
    within = duration(seconds)
    each = [f"{url} ({how.format(within)})" for url, how in named[:_NAMED]]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"{', '.join(each)}{more}"
