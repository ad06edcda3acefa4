"""``/metrics``: the counters as Prometheus metrics, put together only when somebody asks."""

from __future__ import annotations

import gzip
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Protocol, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

import canaryproxy
from canaryproxy.config.model import EventName
from canaryproxy.control.controller import Status
from canaryproxy.judging.evidence import as_float
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.counters import Counters, HandshakeFailure, Reason
from canaryproxy.measure.routing import VARIANTS, RouteTable
from canaryproxy.release import rollout
from canaryproxy.release.circuit import State

_BOUNDS: Final = [*(f"{bound:g}" for bound in histogram.BOUNDS), "+Inf"]
_LEVELS: Final = ("ok", "suspect", "breach")
_JUDGED: Final = {
    "errors": (counters.ERROR_TRIALS, counters.ERROR_EVENTS),
    "client_errors": (counters.ERROR_TRIALS, counters.CLIENT_ERROR_EVENTS),
    "latency": (counters.LATENCY_TRIALS, counters.LATENCY_EVENTS),
    "throughput": (counters.THROUGHPUT_TRIALS, counters.THROUGHPUT_EVENTS),
    "business": (counters.EXPOSED, counters.CONVERTED),
}


class Notified(Protocol):
    """What became of notifications, a number for each webhook (``notify.Notifier``)."""

    @property
    def sent(self) -> Sequence[int]:
        """Taken by the webhook."""

    @property
    def failed(self) -> Sequence[int]:
        """Given up."""

    @property
    def dropped(self) -> Sequence[int]:
        """Not tried, for too many were waiting."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom the collector asks at a scrape, besides the counters and the controller.

    Each default stands for a part that is not there.
    """

    document: Callable[[], Mapping[str, Any]] | None = None
    """The release document (``Control.document``): plan, endpoints, configuration."""
    events: Callable[[], Mapping[str, int]] = dict
    """Records of the history since the process began, by name: ``EventCounts.counts``."""
    outcomes: Callable[[], Mapping[str, int]] = dict
    """The slots of ``judge.outcomes`` by name (``counters.slots``)."""
    notified: Callable[[], Notified | None] = lambda: None
    """The notifier of now; another one counts anew."""
    certificates: Callable[[], Mapping[str, float]] = dict
    """When the certificates in use end, in seconds since the epoch, by the name of the server."""
    tasks: Callable[[], int] = int
    """Tasks of the workers' event loops."""
    log_lines_dropped: Callable[[], int] = int
    """Access-log lines that were dropped since the process began, for the queue was full."""


class EventCounts:
    """Counts the records of the history, as a listener of ``Control.subscribe``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str, value: Mapping[str, Any]) -> None:
        """Take what the listener is told; points are not counted."""
        if kind == "record":
            self._counts[value["what"]] += 1

    def counts(self) -> Mapping[str, int]:
        """Return how many records there were, by name."""
        return self._counts


class CounterCollector(Collector):
    """Reads the counters of all workers and the route table at the moment of a scrape.

    Every series exists from the start, at zero, but those per status code: rates and alerts need no
    special case for a proxy that was just started. What a label can be is bounded by the code or by the
    configuration, never by what clients or upstreams send (a status has three digits).
    """

    def __init__(
        self,
        workers: Sequence[Counters],
        table: Callable[[], RouteTable],
        status: Callable[[], Status],
        sources: Sources = Sources(),
    ) -> None:
        self._workers = workers
        self._table = table
        self._status = status
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families."""
        cells = [
            _sum([worker.variants[v] for worker in self._workers]) for v in range(len(VARIANTS))
        ]
        proxy = _sum([worker.proxy for worker in self._workers])
        yield from self._requests(cells)
        yield from self._upstreams(cells)
        yield from self._judged(cells)
        yield from self._proxy(proxy)
        yield from self._routing()
        yield from self._release()
        yield from self._evidence()
        yield from self._told()
        if self._sources.document is not None:
            document = self._sources.document()
            yield from _plan(document)
            yield from _fleet(document.get("fleet"))
            yield from _endpoints(document)
            yield from _configuration(document)

    def _requests(self, cells: Sequence[memoryview[int]]) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "canaryproxy_requests",
            "Requests by the variant they were routed to and the status code that it gave,"
            " or that the proxy gave in its place.",
            labels=["variant", "code"],
        )
        routed = CounterMetricFamily(
            "canaryproxy_routed_requests",
            "Requests routed to the variant, ended or not.",
            labels=["variant"],
        )
        forced = CounterMetricFamily(
            "canaryproxy_forced_requests",
            "Of the requests routed to the variant, those that a match rule sent there.",
            labels=["variant"],
        )
        in_flight = GaugeMetricFamily(
            "canaryproxy_inflight_requests",
            "Requests routed to the variant that have not ended.",
            labels=["variant"],
        )
        client_closed = CounterMetricFamily(
            "canaryproxy_client_closed",
            "Requests whose client went away before the answer was complete.",
            labels=["variant"],
        )
        duration = HistogramMetricFamily(
            "canaryproxy_request_duration_seconds",
            "Time from a request's head to the last byte of its answer.",
            labels=["variant"],
        )
        first_byte = HistogramMetricFamily(
            "canaryproxy_first_byte_seconds",
            "Time from the complete request to the first byte of its answer.",
            labels=["variant"],
        )
        tunnels = GaugeMetricFamily(
            "canaryproxy_open_tunnels",
            "Upgraded connections (WebSocket and the like) that are open.",
            labels=["variant"],
        )
        for at, (variant, here) in enumerate(zip(VARIANTS, cells, strict=True)):
            exemplars = [worker.exemplars[at] for worker in self._workers]
            for code, count in counters.codes(here):
                requests.add_metric([variant, str(code)], count)
            routed.add_metric([variant], here[counters.ROUTED])
            forced.add_metric([variant], here[counters.FORCED])
            # Another process may end a request between the two readings.
            in_flight.add_metric([variant], max(counters.in_flight(here), 0))
            client_closed.add_metric([variant], here[counters.CLIENT_CLOSED])
            _add_histogram(duration, variant, here, counters.DURATION, exemplars)
            _add_histogram(first_byte, variant, here, counters.FIRST_BYTE, exemplars)
            tunnels.add_metric(
                [variant], here[counters.TUNNELS_OPENED] - here[counters.TUNNELS_CLOSED]
            )
        yield from (requests, routed, forced, in_flight, client_closed)
        yield from (duration, first_byte, tunnels)

    def _upstreams(self, cells: Sequence[memoryview[int]]) -> Iterable[Metric]:
        errors = CounterMetricFamily(
            "canaryproxy_upstream_errors",
            "Attempts that failed to get an answer from the variant, by reason.",
            labels=["variant", "reason"],
        )
        for variant, here in zip(VARIANTS, cells, strict=True):
            for reason in Reason:
                errors.add_metric([variant, reason.label], here[counters.ERRORS + reason])
        yield errors
        yield _counter(
            "canaryproxy_rescued",
            "Requests that failed on the canary and were answered by stable.",
            sum(here[counters.RESCUED] for here in cells),
        )

    def _judged(self, cells: Sequence[memoryview[int]]) -> Iterable[Metric]:
        trials = CounterMetricFamily(
            "canaryproxy_judge_trials",
            "What the judge compares events with, by metric: requests, users or answers.",
            labels=["variant", "metric"],
        )
        events = CounterMetricFamily(
            "canaryproxy_judge_events",
            "Of the trials of the metric, those that count as its event: errors, slow answers...",
            labels=["variant", "metric"],
        )
        outcomes = {
            name: (counters.OUTCOMES + 2 * slot, counters.OUTCOMES + 2 * slot + 1)
            for name, slot in self._sources.outcomes().items()
        }
        for variant, here in zip(VARIANTS, cells, strict=True):
            for metric, (trial, event) in {**outcomes, **_JUDGED}.items():
                # Events first: a trial is written before its event.
                events.add_metric([variant, metric], here[event])
                trials.add_metric([variant, metric], here[trial])
        yield trials
        yield events

    def _proxy(self, proxy: memoryview[int]) -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "canaryproxy_refused",
            "Requests that the proxy refused before routing them, by status code.",
            labels=["code"],
        )
        for code, count in counters.refused(proxy):
            refused.add_metric([str(code)], count)
        yield refused
        yield _counter(
            "canaryproxy_connections",
            "Downstream connections accepted.",
            proxy[counters.CONNECTIONS_OPENED],
        )
        yield _counter(
            "canaryproxy_connections_refused",
            "Downstream connections closed for being over the limit.",
            proxy[counters.CONNECTIONS_REFUSED],
        )
        mirrored = CounterMetricFamily(
            "canaryproxy_mirrored",
            "Copies of stable's requests for the canary, by what became of them.",
            labels=["result"],
        )
        for result, name in enumerate(counters.COPY_RESULTS):
            mirrored.add_metric([name], proxy[counters.MIRRORED + result])
        yield mirrored
        failed = CounterMetricFamily(
            "canaryproxy_handshakes_failed",
            "Downstream connections that ended before their first request could come.",
            labels=["reason"],
        )
        for why in HandshakeFailure:
            failed.add_metric([why.label], proxy[counters.HANDSHAKES_FAILED + why])
        yield failed
        ends = GaugeMetricFamily(
            "canaryproxy_certificate_expiry_timestamp_seconds",
            "When a certificate that the proxy shows to others ends.",
            labels=["name"],
        )
        for name, end in self._sources.certificates().items():
            ends.add_metric([name], end)
        yield ends
        yield _gauge(
            "canaryproxy_open_connections",
            "Downstream connections open.",
            proxy[counters.CONNECTIONS_OPENED] - proxy[counters.CONNECTIONS_CLOSED],
        )
        yield _gauge(
            "canaryproxy_tasks",
            "Tasks of the workers' event loops; a request needs none.",
            self._sources.tasks(),
        )

    def _routing(self) -> Iterable[Metric]:
        yield _gauge(
            "canaryproxy_weight_ratio",
            "Share of users routed to the canary, 0..1; 0 while the circuit is open.",
            self._table().limit / 10_000,
        )
        yield _info(
            "canaryproxy_build_info",
            "Versions of what runs.",
            {
                "version": canaryproxy.__version__,
                "python": platform.python_version(),
                "compiled": str(COMPILED).lower(),
            },
        )

    def _release(self) -> Iterable[Metric]:
        status = self._status()
        now = status.rollout
        yield _states(
            "canaryproxy_circuit_state",
            "1 for the state that the circuit is in.",
            (state.value for state in State),
            status.circuit.state.value,
        )
        yield _counter(
            "canaryproxy_circuit_trips",
            "Times that the circuit opened since the process began.",
            self._sources.events().get("tripped", 0),
        )
        yield _states(
            "canaryproxy_release_state",
            "1 for the state that the release is in.",
            (state.value for state in rollout.State),
            now.state.value,
        )
        yield _gauge(
            "canaryproxy_release_state_timestamp_seconds",
            "When the state or the step began, in seconds since the epoch; 0 before a release.",
            now.since,
        )
        yield _gauge(
            "canaryproxy_release_baked_seconds",
            "Seconds of the step's bake time that have counted.",
            now.baked,
        )
        yield _gauge(
            "canaryproxy_release_ready",
            "1 while the step can be left as soon as an operator says so.",
            int(now.ready),
        )
        seen = status.assessment
        yield _gauge(
            "canaryproxy_release_comparable",
            "1 while requests of both variants end, so that there is something to judge.",
            int(seen is not None and seen.comparable),
        )
        yield _gauge(
            "canaryproxy_state_unsaved",
            "1 while the state file cannot be written.",
            int(status.unsaved is not None),
        )

    def _evidence(self) -> Iterable[Metric]:
        evidence = GaugeMetricFamily(
            "canaryproxy_evidence",
            "E-value that the canary is worse, by metric.",
            labels=["metric"],
        )
        limit = GaugeMetricFamily(
            "canaryproxy_evidence_limit",
            "E-value at which the circuit trips, by metric.",
            labels=["metric"],
        )
        hold = GaugeMetricFamily(
            "canaryproxy_evidence_hold_limit",
            "E-value at which a metric is suspect and holds the release.",
            labels=["metric"],
        )
        level = GaugeMetricFamily(
            "canaryproxy_metric_level",
            "1 for the level that the judge sees the metric at.",
            labels=["metric", "level"],
        )
        seen = self._status().assessment
        for verdict in seen.verdicts if seen else ():
            evidence.add_metric([verdict.metric], as_float(verdict.log_evidence))
            limit.add_metric([verdict.metric], as_float(verdict.limit))
            hold.add_metric([verdict.metric], as_float(verdict.hold_limit))
            for name in _LEVELS:
                level.add_metric([verdict.metric, name], int(verdict.level == name))
        yield from (evidence, limit, hold, level)

    def _told(self) -> Iterable[Metric]:
        happened = self._sources.events()
        events = CounterMetricFamily(
            "canaryproxy_events",
            "What the history recorded since the process began, by name.",
            labels=["event"],
        )
        for name in (*get_args(EventName), *sorted(happened.keys() - set(get_args(EventName)))):
            events.add_metric([name], happened.get(name, 0))
        yield events
        notifications = CounterMetricFamily(
            "canaryproxy_notifications",
            "Notifications by the webhook's place in notify, from 0: sent, failed (given up)"
            " or dropped (too many were waiting).",
            labels=["webhook", "result"],
        )
        if (told := self._sources.notified()) is not None:
            results = {"sent": told.sent, "failed": told.failed, "dropped": told.dropped}
            for result, counts in results.items():
                for at, count in enumerate(counts):
                    notifications.add_metric([str(at), result], count)
        yield notifications
        yield _counter(
            "canaryproxy_access_log_dropped",
            "Access-log lines that were not written because too many were waiting.",
            self._sources.log_lines_dropped(),
        )


def _plan(document: Mapping[str, Any]) -> Iterable[Metric]:
    steps, at = document["steps"], document["step"]
    labels = {"release": document["release"] or "", "promote": document["promote"]}
    yield _info("canaryproxy_release_info", "The release and how its steps are left.", labels)
    yield _gauge("canaryproxy_release_steps", "Steps of the plan.", len(steps))
    yield _gauge(
        "canaryproxy_release_step", "Step that the release is on, from 1; 0 without a plan.", at
    )
    here = steps[at - 1] if 0 < at <= len(steps) else {"bake": 0.0, "min_requests": 0}
    yield _gauge(
        "canaryproxy_release_bake_seconds",
        "Seconds that the step is to be watched at least.",
        here["bake"],
    )
    yield _gauge(
        "canaryproxy_release_min_requests",
        "Canary requests that the step is to judge at least.",
        here["min_requests"],
    )
    yield _gauge(
        "canaryproxy_release_requests",
        "Canary requests judged in the step.",
        document["requests"],
    )


def _fleet(fleet: Mapping[str, Any] | None) -> Iterable[Metric]:
    """Yield the metrics of a replica; without a fleet they have no series."""
    told = {
        "connected": "1 while this replica reaches Redis.",
        "replicas": "Replicas of the fleet that were heard of within a lease.",
        "leader": "1 while this replica leads: it takes the steps.",
        "conflict": "1 while this replica's configuration is not the one in force.",
        "propagation_seconds": "From the last act of another replica to its taking effect here.",
    }
    values: dict[str, float | None] = {}
    if fleet is not None:
        values = {
            "connected": int(fleet["connected"]),
            "replicas": fleet["replicas"],
            "leader": int(fleet["leads"]),
            "conflict": int(fleet["conflict"] is not None),
            "propagation_seconds": fleet["propagation"],
        }
    for name, documentation in told.items():
        family = GaugeMetricFamily(f"canaryproxy_fleet_{name}", documentation)
        if (value := values.get(name)) is not None:
            family.add_metric([], value)
        yield family


def _endpoints(document: Mapping[str, Any]) -> Iterable[Metric]:
    up = GaugeMetricFamily(
        "canaryproxy_endpoint_up",
        "1 while the endpoint gets requests; 0 after failures to connect, until a probe succeeds.",
        labels=["variant", "endpoint"],
    )
    in_flight = GaugeMetricFamily(
        "canaryproxy_endpoint_inflight_requests",
        "Requests that the endpoint works on.",
        labels=["variant", "endpoint"],
    )
    for variant in VARIANTS:
        for endpoint in (document["variants"][variant] or {"endpoints": ()})["endpoints"]:
            up.add_metric([variant, endpoint["url"]], int(endpoint["usable"]))
            in_flight.add_metric([variant, endpoint["url"]], endpoint["in_flight"])
    yield up
    yield in_flight


def _configuration(document: Mapping[str, Any]) -> Iterable[Metric]:
    config = document["config"]
    yield _gauge(
        "canaryproxy_config_last_reload_successful",
        "1 if the configuration was taken when it was last read, 0 if it was refused.",
        int(config["error"] is None),
    )
    yield _gauge(
        "canaryproxy_config_last_reload_success_timestamp_seconds",
        "When a configuration was last taken, in seconds since the epoch.",
        config["loaded_at"],
    )
    yield _gauge(
        "canaryproxy_config_restart_needed",
        "Fields of the configuration that were changed and act only after a restart.",
        len(config["restart_needed"]),
    )


def registry(collector: Collector) -> CollectorRegistry:
    """Return a registry with the collector and the usual metrics of the process and the platform."""
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def render(source: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its Content-Type for an Accept header.

    That is OpenMetrics 1.0 if the header names it and prefers no text format to it, else the text
    format: also for a header that allows neither, so that whoever asks sees something.
    """
    if not _prefers_openmetrics(accept):
        return generate_latest(source), CONTENT_TYPE_PLAIN_0_0_4
    # All names are legacy names, which this escaping leaves alone in half the time.
    body: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
        source, escaping=openmetrics.ALLOWUTF8
    )
    return body, openmetrics.CONTENT_TYPE_LATEST


def answer(
    source: CollectorRegistry, accept: str, accept_encoding: str
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer and its header fields, compressed if that is accepted."""
    body, content_type = render(source, accept)
    fields = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if _accepts_gzip(accept_encoding):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        fields["Content-Encoding"] = "gzip"
    return body, fields


_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def _preferences(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, parameters and quality of each item of an Accept header (RFC 9110 §12.4.2)."""
    for item in header.lower().split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        pairs = {
            key.strip(): value.strip().strip('"')
            for key, _, value in (parameter.partition("=") for parameter in parameters)
        }
        quality = pairs.pop("q", "1")
        yield name, pairs, float(quality) if _QUALITY.fullmatch(quality) else 0.0


def _prefers_openmetrics(accept: str) -> bool:
    best = text = 0.0
    for name, parameters, quality in _preferences(accept):
        version = parameters.get("version")
        if name == "application/openmetrics-text" and version in (None, "1.0.0"):
            best = max(best, quality)
        elif name == "text/plain" and version in (None, "0.0.4"):
            text = max(text, quality)
    return best > 0.0 and best >= text


def _accepts_gzip(accept_encoding: str) -> bool:
    qualities = {name: quality for name, _, quality in _preferences(accept_encoding)}
    found = qualities.get("gzip", qualities.get("*", 0.0))
    return found > 0.0 and found >= qualities.get("identity", 0.0)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _info(name: str, documentation: str, labels: Mapping[str, str]) -> Metric:
    """Return a gauge that is always 1 and tells something by its labels."""
    family = GaugeMetricFamily(name, documentation, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _states(name: str, documentation: str, states: Iterable[str], now: str) -> Metric:
    """Return a gauge with a series for each state, 1 for the one that holds."""
    family = GaugeMetricFamily(name, documentation, labels=["state"])
    for state in states:
        family.add_metric([state], int(state == now))
    return family


def _sum(blocks: Sequence[memoryview[int]]) -> memoryview[int]:
    """Add the same block of several workers cell by cell."""
    if len(blocks) == 1:
        return blocks[0]
    total = memoryview(bytearray(8 * len(blocks[0]))).cast("Q")
    for index, parts in enumerate(zip(*blocks, strict=True)):
        total[index] = sum(parts)
    return total


def _add_histogram(
    family: HistogramMetricFamily,
    variant: str,
    cells: memoryview[int],
    offset: int,
    exemplars: Sequence[memoryview[int]],
) -> None:
    """Add the histogram at ``offset`` of a variant; ``exemplars`` are those of each worker."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    counts = cells[offset : offset + histogram.BUCKETS].tolist()
    for at, total in enumerate(accumulate(counts)):
        found = _exemplar(exemplars, offset, at) if counts[at] else None
        bucket = (_BOUNDS[at], float(total))
        buckets.append(bucket if found is None else (*bucket, found))
    family.add_metric([variant], buckets, sum_value=cells[offset + histogram.SUM] / 1e6)


def _exemplar(workers: Sequence[memoryview[int]], offset: int, bucket: int) -> Exemplar | None:
    """Return the newest exemplar of a bucket."""
    kept = [counters.exemplar(cells, offset, bucket) for cells in workers]
    newest = max((one for one in kept if one is not None), key=lambda one: one.time, default=None)
    if newest is None:
        return None
    return Exemplar({"trace_id": newest.trace_id}, newest.seconds, newest.time)
