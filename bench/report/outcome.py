"""What the full benchmark found, as plain values, and the figures derived from it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.harness.measure import Sample
from bench.harness.quietness import Quietness
from bench.loads import Load
from bench.report import summary
from bench.report.summary import Ratio, Row, Spread

OURS = "ours"
REPEATED = 5
"""Rounds below which medians are not to be quoted."""


@dataclass(frozen=True, slots=True)
class Closed:
    """One load of the closed model.

    samples: by target, one a round.
    missing: why a target was not measured, or failed.
    upstream: what stood behind.
    reference: the target that ratios compare with the others.
    """

    load: Load
    samples: dict[str, list[Sample]]
    missing: dict[str, str]
    upstream: str
    reference: str = OURS

    def rows(self) -> dict[str, Row]:
        return {name: summary.row(samples) for name, samples in self.samples.items() if samples}

    def ratio(self, peer: str, target: str = "") -> Ratio | None:
        """Return ``target`` (the reference) ÷ peer; None if one is missing or had errors."""
        rows, target = self.rows(), target or self.reference
        if target == peer or not {target, peer} <= rows.keys():
            return None
        if rows[target].errors or rows[peer].errors:
            return None
        return summary.ratio(self.samples[target], self.samples[peer])


@dataclass(frozen=True, slots=True)
class OpenModel:
    """One load of the open model: each proxy, and direct at the same rate in the same turn.

    rates: requests/s by target.
    capped: the targets for which half of their capacity was above what the generator sends.
    """

    load: Load
    rates: dict[str, float]
    capped: frozenset[str]
    proxied: dict[str, list[Sample]]
    direct: dict[str, list[Sample]]
    missing: dict[str, str]

    def added(self, name: str, value: Callable[[Sample], float]) -> Spread:
        """Return how much more the proxy has than direct, round by round, in microseconds."""
        pairs = zip(self.proxied[name], self.direct[name], strict=True)
        return summary.spread(value(proxied) - value(direct) for proxied, direct in pairs)

    def added_ratio(self, name: str, peer: str, value: Callable[[Sample], float]) -> Spread:
        """Return what one adds ÷ what a peer adds, in each turn that both have."""
        other = {sample.round: at for at, sample in enumerate(self.proxied[peer])}
        return summary.spread(
            self._added(name, at, value) / self._added(peer, other[sample.round], value)
            for at, sample in enumerate(self.proxied[name])
            if sample.round in other
        )

    def _added(self, name: str, at: int, value: Callable[[Sample], float]) -> float:
        """At least a microsecond: a stall of the machine in the direct slices is no gain of the proxy."""
        return max(1.0, value(self.proxied[name][at]) - value(self.direct[name][at]))

    def errors(self, name: str) -> int:
        return sum(sample.wrk.error_count for sample in (*self.proxied[name], *self.direct[name]))


@dataclass(frozen=True, slots=True)
class Beside:
    """One round with idle connections: a proxy started for it, the load alone, then beside them.

    opened, failed, closed: idle connections that were opened, that could not be, that the proxy closed.
    bytes_before, bytes_after: resident memory of the proxy before and after they were opened.
    """

    opened: int
    failed: int
    closed: int
    bytes_before: int
    bytes_after: int
    alone: Sample
    beside: Sample

    @property
    def kibibytes(self) -> float:
        """Memory per idle connection."""
        return (self.bytes_after - self.bytes_before) / max(1, self.opened) / 1024

    @property
    def errors(self) -> int:
        return self.failed + self.closed + self.alone.wrk.error_count + self.beside.wrk.error_count


@dataclass(frozen=True, slots=True)
class Idle:
    """The rounds with idle connections, by target; ``wanted`` is how many were to be opened."""

    load: Load
    wanted: int
    samples: dict[str, list[Beside]]
    missing: dict[str, str]

    def memory(self, name: str) -> Spread:
        return summary.spread(one.kibibytes for one in self.samples[name])

    def slowdown(self, name: str) -> Spread:
        """Return requests/s alone ÷ beside; above 1: slower beside idle connections."""
        return summary.spread(
            one.alone.requests_per_second / max(1.0, one.beside.requests_per_second)
            for one in self.samples[name]
        )

    def cpu_growth(self, name: str) -> Spread | None:
        """Return CPU time per request beside ÷ alone; None if one of them answered nothing."""
        pairs = [(one.beside.cpu_us, one.alone.cpu_us) for one in self.samples[name]]
        known = [beside / alone for beside, alone in pairs if beside and alone]
        return summary.spread(known) if len(known) == len(pairs) else None

    def errors(self, name: str) -> int:
        return sum(one.errors for one in self.samples[name])


@dataclass(slots=True)
class Outcome:
    """Everything that a run found; grows while it runs."""

    command: str
    commit: str
    machine: dict[str, str]
    rounds: int
    seconds: float
    weight: float
    proxy_core: int
    load_core: int
    began: str
    titles: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    closed: dict[str, Closed] = field(default_factory=dict)
    open_model: dict[str, OpenModel] = field(default_factory=dict)
    idle: Idle | None = None
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    took_seconds: float = 0.0
    quietness: Quietness | None = None

    def failures(self) -> list[str]:
        """Return one line for each row with errors."""
        found = [
            f"{name}: {target}: {row.errors:,} errors"
            for name, closed in self.closed.items()
            for target, row in closed.rows().items()
            if row.errors
        ]
        for name, run in self.open_model.items():
            found += [f"{name}: {t}: {n:,} errors" for t in run.proxied if (n := run.errors(t))]
        if self.idle is not None:
            idle = self.idle
            found += [f"idle: {t}: {n:,} errors" for t in idle.samples if (n := idle.errors(t))]
        return found


def per_request(samples: Sequence[Sample]) -> Spread | None:
    """Return the CPU microseconds per request over the rounds."""
    return summary.row(samples).cpu_us if samples else None
