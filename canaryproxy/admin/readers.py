"""Readers of metrics: functions that read the samples of a metric at the moment of a scrape."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol, get_args

from prometheus_client.samples import Exemplar

import canaryproxy
from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.config.model import EventName
from canaryproxy.control.controller import Status
from canaryproxy.control.endpoint_view import CLASSES, REASONS, EndpointRow
from canaryproxy.control.record_reader import RecordCounts
from canaryproxy.control.release_view import Fleet, Release, Step
from canaryproxy.judging.verdict import Level, Placebo, Verdict
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.counters import (
    Blind,
    Counters,
    HandshakeFailure,
    Http2Failure,
    Reason,
    Total,
    Totals,
)
from canaryproxy.measure.resolved import NameState
from canaryproxy.measure.routing import VARIANTS, RouteTable
from canaryproxy.release import circuit, rollout

Cells = Sequence[int]


class Notified(Protocol):
    """The results of notifications, one number for each webhook (``notify.Notifier``)."""

    @property
    def sent(self) -> Sequence[int]:
        """Accepted by the webhook."""

    @property
    def failed(self) -> Sequence[int]:
        """Given up after the last attempt."""

    @property
    def dropped(self) -> Sequence[int]:
        """Never tried, because too many were pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSources:
    """Inputs of a scrape that belong to no service."""

    proxy: Sequence[memoryview[int]]
    """The counters of each worker that belong to no service (``Counters.proxy``)."""
    names: Callable[[], Sequence[NameState]] = tuple
    """How the look-ups of endpoints' names fare."""
    certificates: Callable[[], Mapping[str, float]] = dict
    """Expiry of each certificate in use, in seconds since the epoch, by server name."""
    tasks: Callable[[], int] = int
    """Tasks in the workers' event loops."""
    log_lines_dropped: Callable[[], int] = int
    """Access-log lines dropped since the process started."""
    tick: Callable[[], float] = float
    """Seconds that the last tick took, from its beginning to its end."""
    late_ticks: Callable[[], int] = int
    """Ticks that were not begun, because the one before had not ended."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sources:
    """Inputs of a scrape of one service; defaults stand for parts that a service may lack."""

    service: str | None = None
    """Its name; ``None`` if the configuration has no ``services``."""
    workers: Callable[[], Sequence[Counters]]
    """Its counters in each worker that has counted something; the others need no memory for them."""
    table: Callable[[], RouteTable]
    status: Callable[[], Status]
    view: Callable[[], Release]
    endpoints: Callable[[], Sequence[EndpointRow]] = tuple
    """The figures of each endpoint."""
    checks: Callable[[], Sequence[Sequence[int]]] = lambda: ((0, 0), (0, 0))
    """Health checks that failed and that passed, of stable and of the canary."""
    events: Callable[[], Mapping[str, int]] = dict
    """Records of the history since the process started, by event (``EventCounts.counts``)."""
    records: Callable[[], RecordCounts] = RecordCounts
    """What became of the records of requests."""
    outcomes: Callable[[], Mapping[str, int]] = dict
    """Slots of ``judge.outcomes`` by name (``counters.slots``)."""
    notified: Callable[[], Notified | None] = lambda: None
    """The current notifier; a new one counts from zero."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The inputs of one scrape of one service, taken at its beginning."""

    variants: tuple[Cells, Cells]
    """Counters of stable and canary, summed over the workers."""
    service: Cells
    """Those that belong to both."""
    proxy: Cells
    """Those that belong to no service."""
    exemplars: Sequence[tuple[memoryview[int], memoryview[int]]]
    """Those of stable and canary, for each worker."""
    process: ProcessSources
    sources: Sources
    table: RouteTable
    status: Status
    view: Release
    endpoints: Sequence[EndpointRow]
    events: Mapping[str, int]

    @classmethod
    def take(cls, process: ProcessSources, sources: Sources) -> Scrape:
        """Take the inputs of a service."""
        workers = sources.workers() or (_NOTHING,)
        totals = Totals(workers)
        return cls(
            variants=totals.variants,
            service=totals.service,
            proxy=Total(process.proxy),
            exemplars=tuple(worker.exemplars for worker in workers),
            process=process,
            sources=sources,
            table=sources.table(),
            status=sources.status(),
            view=sources.view(),
            endpoints=sources.endpoints(),
            events=sources.events(),
        )


_NOTHING: Final = Counters()
"""Counters of a service without requests."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulated buckets (upper bound, count, exemplar) and the sum of a histogram."""

    buckets: Sequence[tuple[str, float] | tuple[str, float, Exemplar]]
    sum: float

    def __bool__(self) -> bool:
        return self.buckets[-1][1] > 0


Sample = tuple[Sequence[str], float | Histogram]
"""Values of the labels, and the value."""
Reader = Callable[[Scrape], Iterable[Sample]]


def one(value: Callable[[Scrape], float]) -> Reader:
    """Return a reader for a metric without labels."""
    return lambda scrape: [((), value(scrape))]


def view(value: Callable[[Release], float]) -> Reader:
    """Return a reader for a value of the release view."""
    return one(lambda scrape: value(scrape.view))


def proxy(cell: int) -> Reader:
    """Return a reader for a counter that belongs to no variant."""
    return one(lambda scrape: scrape.proxy[cell])


def by_variant(value: Callable[[Cells], float]) -> Reader:
    """Return a reader for a value of each variant's counters."""
    return lambda scrape: [
        ((variant,), value(cells)) for variant, cells in zip(VARIANTS, scrape.variants, strict=True)
    ]


def ended_connections(scrape: Scrape) -> Iterable[Sample]:
    """Yield the tunnels and streams that the proxy ended, by variant and whether at a boundary."""
    for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
        yield (variant, "clean"), cells[counters.ENDED_CLEANLY]
        yield (variant, "rough"), cells[counters.ENDED_ROUGHLY]


def verdicts(value: Callable[[Verdict], float]) -> Reader:
    """Return a reader for a value of each metric's verdict; single routes have no series of their own."""
    return lambda scrape: [
        ((verdict.metric,), value(verdict))
        for verdict in _all_verdicts(scrape)
        if not verdict.scope
    ]


def route_levels(scrape: Scrape) -> Iterable[Sample]:
    """Count the routes by the worst level of their metrics."""
    worst: dict[str, int] = {}
    levels = get_args(Level)
    for verdict in _all_verdicts(scrape):
        if verdict.scope:
            level = levels.index(verdict.level)
            worst[verdict.scope] = max(worst.get(verdict.scope, 0), level)
    found = list(worst.values())
    seen = scrape.status.assessment
    found += [0] * ((0 if seen is None else seen.routes) - len(found))
    return [((level,), found.count(at)) for at, level in enumerate(levels)]


def judged_users(scrape: Scrape) -> Iterable[Sample]:
    for verdict in _all_verdicts(scrape):
        if not verdict.scope:
            for variant, users in zip(VARIANTS, verdict.users, strict=True):
                yield (variant, verdict.metric), users


def placebo(value: Callable[[Placebo], float]) -> Reader:
    """Return a reader for a value of the virtual canaries, without a sample where there are none."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        seen = scrape.status.assessment
        if seen is not None and seen.placebo is not None:
            yield (), value(seen.placebo)

    return read


def endpoints(value: Callable[[EndpointRow], float | None]) -> Reader:
    """Return a reader for a value of each endpoint, without a sample where there is none."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        for row in scrape.endpoints:
            found = value(row)
            if found is not None:
                yield (row.variant, row.url), found

    return read


def endpoint_up(row: EndpointRow) -> float:
    if row.out is not None:
        return 0.0
    return 1.0 - row.ejected_by / row.workers if row.workers else 0.0


def health_checks(scrape: Scrape) -> Iterable[Sample]:
    for variant, counts in zip(VARIANTS, scrape.sources.checks(), strict=True):
        for result, count in zip(("failed", "passed"), counts, strict=True):
            yield (variant, result), count


def panic(scrape: Scrape) -> Iterable[Sample]:
    """Yield 1 for a variant without an endpoint that is up, whose requests are tried all the same."""
    for variant in VARIANTS:
        rows = [row for row in scrape.endpoints if row.variant == variant]
        if rows:
            yield (variant,), float(any(row.state == "panic" for row in rows))


def names(value: Callable[[NameState], float]) -> Reader:
    """Return a reader for a value of each name of endpoints."""
    return lambda scrape: [((one.name,), value(one)) for one in scrape.process.names()]


def endpoint_responses(scrape: Scrape) -> Iterable[Sample]:
    for row in scrape.endpoints:
        for name in CLASSES:
            yield (row.variant, row.url, name), row.total.codes.get(name, 0)


def endpoint_errors(scrape: Scrape) -> Iterable[Sample]:
    for row in scrape.endpoints:
        for reason in REASONS:
            yield (row.variant, row.url, reason.label), row.total.errors.get(reason.label, 0)


def fleet(value: Callable[[Fleet], float | None]) -> Reader:
    """Return a reader for a value of the fleet, without a sample where there is none."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        fleet = scrape.view.fleet
        if fleet is not None and (found := value(fleet)) is not None:
            yield (), found

    return read


def in_flight(cells: Cells) -> int:
    return max(counters.in_flight(cells), 0)  # a request may end between the two reads


def requests(scrape: Scrape) -> Iterable[Sample]:
    for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
        for code, count in counters.codes(cells):
            yield (variant, str(code)), count


def grpc_requests(scrape: Scrape) -> Iterable[Sample]:
    for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
        for status in GrpcStatus:
            if count := cells[counters.GRPC + status]:
                yield (variant, status.name), count


def upstream_errors(scrape: Scrape) -> Iterable[Sample]:
    for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
        for reason in Reason:
            yield (variant, reason.label), cells[counters.ERRORS + reason]


def asset_lookups(scrape: Scrape) -> Iterable[Sample]:
    for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
        yield (variant, "found"), cells[counters.ASSETS_FOUND]
        yield (variant, "missing"), cells[counters.ASSETS_MISSING]


def refused(scrape: Scrape) -> Iterable[Sample]:
    return [((str(code),), count) for code, count in counters.refused(scrape.proxy)]


def unidentified(scrape: Scrape) -> Iterable[Sample]:
    yield ("probe",), scrape.service[counters.PROBES]
    yield ("cookie_withheld",), scrape.service[counters.WITHHELD]


def equal_keys(scrape: Scrape) -> Iterable[Sample]:
    found = scrape.status.concentration
    if found is not None:
        yield (), found.equal_keys


def tolerated(scrape: Scrape) -> Iterable[Sample]:
    for at, reason in enumerate(counters.TOLERATED_REASONS):
        yield (reason,), scrape.proxy[counters.TOLERATED + at]


def followed(scrape: Scrape) -> Iterable[Sample]:
    yield (), scrape.service[counters.FOLLOWED]


def not_followed(scrape: Scrape) -> Iterable[Sample]:
    for reason in counters.NotFollowed:
        yield (reason.label,), scrape.service[counters.NOT_FOLLOWED + reason]


def mirrored(scrape: Scrape) -> Iterable[Sample]:
    for result, name in enumerate(counters.COPY_RESULTS):
        yield (name,), scrape.service[counters.MIRRORED + result]


def handshakes_failed(scrape: Scrape) -> Iterable[Sample]:
    for reason in HandshakeFailure:
        yield (reason.label,), scrape.proxy[counters.HANDSHAKES_FAILED + reason]


def http2_resets(scrape: Scrape) -> Iterable[Sample]:
    for at, by in enumerate(counters.HTTP2_RESETTERS):
        yield (by,), scrape.proxy[counters.HTTP2_RESETS + at]


def http2_failed(scrape: Scrape) -> Iterable[Sample]:
    for reason in Http2Failure:
        yield (reason.label,), scrape.proxy[counters.HTTP2_FAILED + reason]


def certificates(scrape: Scrape) -> Iterable[Sample]:
    return [((name,), expiry) for name, expiry in scrape.process.certificates().items()]


def judged(*, event: bool) -> Reader:
    """Return a reader for the trials of each metric, or for their events."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        for verdict in _all_verdicts(scrape):
            if not verdict.scope:
                for variant, pair in zip(VARIANTS, (verdict.stable, verdict.canary), strict=True):
                    yield (variant, verdict.metric), pair[event]

    return read


def records(scrape: Scrape) -> Iterable[Sample]:
    counts = scrape.sources.records()
    yield ("taken",), counts.taken
    yield ("left_out",), counts.left_out
    yield ("dropped",), counts.dropped


def outcomes(*, event: bool) -> Reader:
    """Return a reader for the responses that outcomes evaluated, or for those where the rule holds."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
            for name, slot in scrape.sources.outcomes().items():
                seen = counters.outcome(cells, slot)
                yield (variant, name), seen.events if event else seen.trials

    return read


def blind(scrape: Scrape) -> Iterable[Sample]:
    for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
        for name, slot in scrape.sources.outcomes().items():
            counts = counters.outcome(cells, slot).blind
            for reason, count in zip(Blind, counts, strict=True):
                yield (variant, name, reason.label), count


def pointers(*, found: bool) -> Reader:
    """Return a reader for responses whose JSON pointer was followed, or for those with something there."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        for variant, cells in zip(VARIANTS, scrape.variants, strict=True):
            for name, slot in scrape.sources.outcomes().items():
                seen = counters.outcome(cells, slot)
                yield (variant, name), seen.found if found else seen.followed

    return read


def _all_verdicts(scrape: Scrape) -> Sequence[Verdict]:
    assessment = scrape.status.assessment
    return () if assessment is None else assessment.verdicts


def metric_level(scrape: Scrape) -> Iterable[Sample]:
    for verdict in _all_verdicts(scrape):
        for level in () if verdict.scope else get_args(Level):
            yield (verdict.metric, level), verdict.level == level


def comparable(scrape: Scrape) -> bool:
    assessment = scrape.status.assessment
    return assessment is not None and assessment.comparable


def circuit_state(scrape: Scrape) -> Iterable[Sample]:
    return [((state.value,), state.value == scrape.view.circuit.state) for state in circuit.State]


def cohorts(scrape: Scrape) -> Iterable[Sample]:
    return [((group.name,), group.limit / 10_000) for group in scrape.table.groups]


def release_state(scrape: Scrape) -> Iterable[Sample]:
    return [((state.value,), state.value == scrape.view.state) for state in rollout.State]


def release_info(scrape: Scrape) -> Iterable[Sample]:
    view = scrape.view
    yield (view.release or "", view.promote, view.environment or ""), 1


def step(view: Release) -> Step:
    """Return the current step; one without conditions where there is no plan."""
    if 0 < view.step <= len(view.steps):
        return view.steps[view.step - 1]
    return Step(weight=0.0, bake=0.0, min_requests=0, min_users=0)


def events(scrape: Scrape) -> Iterable[Sample]:
    counts = {**dict.fromkeys(get_args(EventName), 0), **scrape.events}
    return [((event,), count) for event, count in counts.items()]


def notifications(scrape: Scrape) -> Iterable[Sample]:
    notified = scrape.sources.notified()
    if notified is None:
        return
    results = {"sent": notified.sent, "failed": notified.failed, "dropped": notified.dropped}
    for result, counts in results.items():
        for webhook, count in enumerate(counts):
            yield (str(webhook), result), count


def build_info(_scrape: Scrape) -> Iterable[Sample]:
    labels = (canaryproxy.__version__, platform.python_version(), str(COMPILED).lower())
    yield labels, 1


_THINNED: Final = 4
"""Every so many bounds of the histograms are exposed of each of several services."""
_NAMES: Final = tuple(f"{bound:g}" for bound in histogram.BOUNDS)


def _bounds(every: int) -> tuple[tuple[int, str], ...]:
    """Return the buckets at whose upper bound a cumulated count is exposed, and the bounds."""
    last = len(histogram.BOUNDS)
    return (*((at, _NAMES[at]) for at in range(0, last, every)), (last, "+Inf"))


_ALL_BOUNDS: Final = _bounds(1)
_FEW_BOUNDS: Final = _bounds(_THINNED)


def buckets(offset: int) -> Reader:
    """Return a reader for the histogram at ``offset`` of each variant's counters."""

    def read(scrape: Scrape) -> Iterable[Sample]:
        bounds = _ALL_BOUNDS if scrape.sources.service is None else _FEW_BOUNDS
        for at, (variant, cells) in enumerate(zip(VARIANTS, scrape.variants, strict=True)):
            exemplars = [both[at] for both in scrape.exemplars]
            yield (variant,), _read_histogram(cells, offset, exemplars, bounds)

    return read


def _read_histogram(
    cells: Cells,
    offset: int,
    exemplars: Sequence[memoryview[int]],
    bounds: Sequence[tuple[int, str]],
) -> Histogram:
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    counts = list(cells[offset : offset + histogram.BUCKETS])
    totals = list(accumulate(counts))
    before = -1
    for bucket, bound in bounds:
        merged = range(before + 1, bucket + 1)
        before = bucket
        found = _newest_exemplar(exemplars, offset, [at for at in merged if counts[at]])
        entry = (bound, float(totals[bucket]))
        buckets.append(entry if found is None else (*entry, found))
    return Histogram(buckets, cells[offset + histogram.SUM] / 1e6)


def _newest_exemplar(
    exemplars: Sequence[memoryview[int]], offset: int, merged: Sequence[int]
) -> Exemplar | None:
    kept = [counters.exemplar(cells, offset, bucket) for cells in exemplars for bucket in merged]
    newest = max((one for one in kept if one is not None), key=lambda one: one.time, default=None)
    if newest is None:
        return None
    return Exemplar({"trace_id": newest.trace_id}, newest.seconds, newest.time)
