"""``/metrics``: the counters as Prometheus metrics, put together only when somebody asks."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import canaryproxy
from canaryproxy import counters, histogram, rollout
from canaryproxy.circuit import State
from canaryproxy.controller import Status
from canaryproxy.counters import Counters, Reason
from canaryproxy.evidence import as_float
from canaryproxy.routing import VARIANTS, RouteTable

_BOUNDS = [*(f"{bound:g}" for bound in histogram.BOUNDS), "+Inf"]


class CounterCollector(Collector):
    """Reads the counters of all workers and the route table at the moment of a scrape.

    Every series exists from the start, at zero, but those per status code: rates and alerts need no
    special case for a proxy that was just started.
    """

    def __init__(
        self,
        workers: Sequence[Counters],
        table: Callable[[], RouteTable],
        status: Callable[[], Status],
    ) -> None:
        self._workers = workers
        self._table = table
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families."""
        cells = [
            _sum([worker.variants[v] for worker in self._workers]) for v in range(len(VARIANTS))
        ]
        proxy = _sum([worker.proxy for worker in self._workers])
        yield from self._requests(cells)
        yield from self._upstreams(cells)
        yield from self._proxy(proxy)
        yield from self._routing()
        yield from self._release()

    def _requests(self, cells: Sequence[memoryview[int]]) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "canaryproxy_requests",
            "Requests by the variant they were routed to and the status code that it gave,"
            " or that the proxy gave in its place.",
            labels=["variant", "code"],
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
        for variant, here in zip(VARIANTS, cells, strict=True):
            for code, count in counters.codes(here):
                requests.add_metric([variant, str(code)], count)
            in_flight.add_metric([variant], counters.in_flight(here))
            client_closed.add_metric([variant], here[counters.CLIENT_CLOSED])
            _add_histogram(duration, variant, here[counters.DURATION :])
            _add_histogram(first_byte, variant, here[counters.FIRST_BYTE :])
            tunnels.add_metric(
                [variant], here[counters.TUNNELS_OPENED] - here[counters.TUNNELS_CLOSED]
            )
        yield from (requests, in_flight, client_closed, duration, first_byte, tunnels)

    def _upstreams(self, cells: Sequence[memoryview[int]]) -> Iterable[Metric]:
        errors = CounterMetricFamily(
            "canaryproxy_upstream_errors",
            "Attempts that failed to get an answer from the variant, by reason.",
            labels=["variant", "reason"],
        )
        for variant, here in zip(VARIANTS, cells, strict=True):
            for reason in Reason:
                errors.add_metric([variant, reason.label], here[counters.ERRORS + reason])
        rescued = CounterMetricFamily(
            "canaryproxy_rescued",
            "Requests that failed on the canary and were answered by stable.",
            value=sum(here[counters.RESCUED] for here in cells),
        )
        yield from (errors, rescued)

    def _proxy(self, proxy: memoryview[int]) -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "canaryproxy_refused",
            "Requests that the proxy refused before routing them, by status code.",
            labels=["code"],
        )
        for code, count in counters.refused(proxy):
            refused.add_metric([str(code)], count)
        yield refused
        yield CounterMetricFamily(
            "canaryproxy_connections",
            "Downstream connections accepted.",
            value=proxy[counters.CONNECTIONS_OPENED],
        )
        yield CounterMetricFamily(
            "canaryproxy_connections_refused",
            "Downstream connections closed for being over the limit.",
            value=proxy[counters.CONNECTIONS_REFUSED],
        )
        yield GaugeMetricFamily(
            "canaryproxy_open_connections",
            "Downstream connections open.",
            value=proxy[counters.CONNECTIONS_OPENED] - proxy[counters.CONNECTIONS_CLOSED],
        )

    def _routing(self) -> Iterable[Metric]:
        table = self._table()
        yield GaugeMetricFamily(
            "canaryproxy_weight_ratio",
            "Share of users routed to the canary, 0..1; 0 while the circuit is open.",
            value=table.limit / 10_000,
        )
        build = GaugeMetricFamily(
            "canaryproxy_build_info", "Versions of what runs.", labels=["version", "python"]
        )
        build.add_metric([canaryproxy.__version__, platform.python_version()], 1)
        yield build

    def _release(self) -> Iterable[Metric]:
        status = self._status()
        circuit = GaugeMetricFamily(
            "canaryproxy_circuit_state",
            "1 for the state that the circuit is in.",
            labels=["state"],
        )
        for circuit_state in State:
            here = status.circuit.state is circuit_state
            circuit.add_metric([circuit_state.value], int(here))
        yield circuit
        release = GaugeMetricFamily(
            "canaryproxy_release_state",
            "1 for the state that the release is in.",
            labels=["state"],
        )
        for release_state in rollout.State:
            release.add_metric([release_state.value], int(status.rollout.state is release_state))
        yield release
        yield GaugeMetricFamily(
            "canaryproxy_release_step",
            "Index of the step that the release is on, from 0.",
            value=status.rollout.step,
        )
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
        for verdict in status.assessment.verdicts if status.assessment else ():
            evidence.add_metric([verdict.metric], as_float(verdict.log_evidence))
            limit.add_metric([verdict.metric], as_float(verdict.limit))
        yield evidence
        yield limit
        yield GaugeMetricFamily(
            "canaryproxy_state_unsaved",
            "1 while the state file cannot be written.",
            value=int(status.unsaved is not None),
        )


def registry(collector: Collector) -> CollectorRegistry:
    """Return a registry with the collector and the usual metrics of the process and the platform."""
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def render(source: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its Content-Type for an Accept header (text format or OpenMetrics)."""
    encoder, content_type = choose_encoder(accept)
    return encoder(source), content_type


def _sum(blocks: Sequence[memoryview[int]]) -> memoryview[int]:
    """Add the same block of several workers cell by cell."""
    if len(blocks) == 1:
        return blocks[0]
    total = memoryview(bytearray(8 * len(blocks[0]))).cast("Q")
    for index, parts in enumerate(zip(*blocks, strict=True)):
        total[index] = sum(parts)
    return total


def _add_histogram(family: HistogramMetricFamily, variant: str, cells: memoryview[int]) -> None:
    counts = accumulate(cells[: histogram.BUCKETS])
    buckets = list(zip(_BOUNDS, map(float, counts), strict=True))
    family.add_metric([variant], buckets, sum_value=cells[histogram.SUM] / 1e6)
