"""The metrics of ``/metrics``, read at the moment of a scrape.

To add a metric, add a row to ``METRICS``. Every series exists from the start, at zero, except those by status
code: rates and alerts need no special case for a proxy that has just started. Of several services, those
without requests have fewer series (``Row.traffic``). The code or the configuration bounds the values of every
label; clients and upstreams never do (a status has three digits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from canaryproxy.admin import readers
from canaryproxy.admin.readers import Histogram, ProcessSources, Sample, Scrape, Sources
from canaryproxy.judging.evidence import as_float
from canaryproxy.measure import counters
from canaryproxy.measure.routing import CANARY, VARIANTS

Kind = Literal["counter", "gauge", "histogram"]
Owner = Literal["process", "service"]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric: its name as exposed, HELP text, type, labels, and the function that reads its samples."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...]
    read: readers.Reader
    of: Owner = "service"
    """Whose value it is: those of a service have the label ``service`` where there are several."""
    traffic: bool = False
    """Whether it counts what requests do. Where there are several services, its series at zero are left out
    while its variant, or for a metric without variant its service, has had no request."""
    judge: bool = False
    """Whether the judge says it. Where there are several services, it is left out while the canary of the
    service has had no request: there is nothing to judge."""


# A scrape reads the rows in their order. Events come before trials: workers count a trial before its event,
# so no scrape sees more events than trials.
METRICS: Final = (
    # Requests
    Row(
        "canaryproxy_requests_total",
        "Requests that ended, by the variant they were routed to and the status code of the "
        "response.",
        "counter",
        ("variant", "code"),
        readers.requests,
    ),
    Row(
        "canaryproxy_grpc_requests_total",
        "Requests of gRPC that ended, by the variant they were routed to and the status of gRPC. They are in"
        " canaryproxy_requests_total, too.",
        "counter",
        ("variant", "grpc_status"),
        readers.grpc_requests,
    ),
    Row(
        "canaryproxy_routed_requests_total",
        "Requests routed to the variant, ended or in flight.",
        "counter",
        ("variant",),
        readers.by_variant(lambda cells: cells[counters.ROUTED]),
    ),
    Row(
        "canaryproxy_forced_requests_total",
        "Requests that a match rule (split.match) routed to the variant, and probes (split.probes).",
        "counter",
        ("variant",),
        readers.by_variant(lambda cells: cells[counters.FORCED]),
        traffic=True,
    ),
    Row(
        "canaryproxy_inflight_requests",
        "Requests in flight.",
        "gauge",
        ("variant",),
        readers.by_variant(readers.in_flight),
        traffic=True,
    ),
    Row(
        "canaryproxy_client_closed_total",
        "Requests whose client disconnected before the response was complete.",
        "counter",
        ("variant",),
        readers.by_variant(lambda cells: cells[counters.CLIENT_CLOSED]),
        traffic=True,
    ),
    Row(
        "canaryproxy_request_duration_seconds",
        "Time from the request head to the last byte of the response.",
        "histogram",
        ("variant",),
        readers.buckets(counters.DURATION),
        traffic=True,
    ),
    Row(
        "canaryproxy_first_byte_seconds",
        "Time from the complete request to the first byte of the response.",
        "histogram",
        ("variant",),
        readers.buckets(counters.FIRST_BYTE),
        traffic=True,
    ),
    Row(
        "canaryproxy_open_tunnels",
        "Open upgraded connections, such as WebSockets.",
        "gauge",
        ("variant",),
        readers.by_variant(
            lambda cells: cells[counters.TUNNELS_OPENED] - cells[counters.TUNNELS_CLOSED]
        ),
        traffic=True,
    ),
    Row(
        "canaryproxy_open_streams",
        "Open responses to GET without an end of their own: event streams, and those of circuit.streams.",
        "gauge",
        ("variant",),
        readers.by_variant(
            lambda cells: cells[counters.STREAMS_OPENED] - cells[counters.STREAMS_CLOSED]
        ),
        traffic=True,
    ),
    Row(
        "canaryproxy_leaving_connections",
        "Tunnels and streams that are still on the variant although their users have moved.",
        "gauge",
        ("variant",),
        readers.by_variant(counters.leaving),
        traffic=True,
    ),
    Row(
        "canaryproxy_ended_connections_total",
        "Tunnels and streams that the proxy ended because their users had moved, or at shutdown: clean "
        "(between two messages or events) or rough (within one, or without any).",
        "counter",
        ("variant", "how"),
        readers.ended_connections,
        traffic=True,
    ),
    Row(
        "canaryproxy_upstream_errors_total",
        "Attempts that got no complete response from the variant, by reason.",
        "counter",
        ("variant", "reason"),
        readers.upstream_errors,
        traffic=True,
    ),
    Row(
        "canaryproxy_rescued_total",
        "Requests that failed on the canary and were retried on stable.",
        "counter",
        (),
        readers.one(lambda scrape: sum(cells[counters.RESCUED] for cells in scrape.variants)),
        traffic=True,
    ),
    Row(
        "canaryproxy_rescues_over_budget_total",
        "Requests that failed on the canary and were not retried: rescue.budget was spent.",
        "counter",
        (),
        readers.one(lambda scrape: sum(cells[counters.OVER_BUDGET] for cells in scrape.variants)),
        traffic=True,
    ),
    Row(
        "canaryproxy_asset_lookups_total",
        "Requests for files that the variant does not have (rescue.assets), by whether the other one has"
        " them.",
        "counter",
        ("variant", "result"),
        readers.asset_lookups,
        traffic=True,
    ),
    Row(
        "canaryproxy_refused_total",
        "Requests that the proxy handled itself before routing, by status code: refused "
        "ones, and 200 for OPTIONS *.",
        "counter",
        ("code",),
        readers.refused,
        of="process",
    ),
    Row(
        "canaryproxy_equal_sticky_keys",
        "How many equally busy sticky keys would concentrate the requests as the present ones do, over the "
        "last 2,000 sampled requests; below 20 many users may share a key (split.sticky, "
        "forwarded.trust). Absent until then.",
        "gauge",
        (),
        readers.equal_keys,
    ),
    Row(
        "canaryproxy_tolerated_total",
        "Requests that strict: report mended and forwarded, and strict: enforce would refuse: raw_target "
        "(bytes that should be percent-encoded) or no_host (HTTP/1.1 without Host, or an empty one).",
        "counter",
        ("reason",),
        readers.tolerated,
        of="process",
    ),
    Row(
        "canaryproxy_unidentified_total",
        "Requests of no known user, which get no sticky cookie and are not compared: probe (a health "
        "check or monitor, split.probes) or cookie_withheld (the browser may have a sticky cookie that "
        "it did not send).",
        "counter",
        ("reason",),
        readers.unidentified,
        traffic=True,
    ),
    Row(
        "canaryproxy_followed_total",
        "Requests that followed the version that the proxy before this one had chosen (split.follow).",
        "counter",
        (),
        readers.followed,
        traffic=True,
    ),
    Row(
        "canaryproxy_not_followed_total",
        "Requests that named a version and were not believed: untrusted (not of split.follow.from, or"
        " nothing is followed), malformed, or signature (missing, or of no known key).",
        "counter",
        ("reason",),
        readers.not_followed,
        traffic=True,
    ),
    Row(
        "canaryproxy_mirrored_total",
        "Copies of stable's requests sent to the canary (mirror.percent): status class of the"
        " response, failed (no complete response) or dropped (not sent: no capacity, or no "
        "endpoint).",
        "counter",
        ("result",),
        readers.mirrored,
        traffic=True,
    ),
    # Connections
    Row(
        "canaryproxy_connections_total",
        "Client connections accepted.",
        "counter",
        (),
        readers.proxy(counters.CONNECTIONS_OPENED),
        of="process",
    ),
    Row(
        "canaryproxy_connections_refused_total",
        "Client connections closed because limits.max_connections was reached.",
        "counter",
        (),
        readers.proxy(counters.CONNECTIONS_REFUSED),
        of="process",
    ),
    Row(
        "canaryproxy_open_connections",
        "Open client connections.",
        "gauge",
        (),
        readers.one(
            lambda scrape: (
                scrape.proxy[counters.CONNECTIONS_OPENED]
                - scrape.proxy[counters.CONNECTIONS_CLOSED]
            )
        ),
        of="process",
    ),
    Row(
        "canaryproxy_handshakes_failed_total",
        "Client connections that ended before their first request: tls, proxy_protocol "
        "(header malformed or missing), timeout (limits.handshake_timeout) or closed (by the "
        "client).",
        "counter",
        ("reason",),
        readers.handshakes_failed,
        of="process",
    ),
    Row(
        "canaryproxy_http2_connections_total",
        "Client connections that turned out to be of HTTP/2; all others are of HTTP/1.",
        "counter",
        (),
        readers.proxy(counters.HTTP2_OPENED),
        of="process",
    ),
    Row(
        "canaryproxy_http2_open_connections",
        "Open client connections of HTTP/2.",
        "gauge",
        (),
        readers.one(lambda scrape: counters.http2_connections(scrape.proxy)),
        of="process",
    ),
    Row(
        "canaryproxy_http2_requests_total",
        "Requests routed to the variant that came over HTTP/2, ended or in flight.",
        "counter",
        ("variant",),
        readers.by_variant(lambda cells: cells[counters.HTTP2]),
        traffic=True,
    ),
    Row(
        "canaryproxy_http2_stream_resets_total",
        "Streams of HTTP/2 clients that ended with RST_STREAM: from the client, or from the proxy, "
        "for an error or in place of a response that broke off.",
        "counter",
        ("by",),
        readers.http2_resets,
        of="process",
    ),
    Row(
        "canaryproxy_http2_connection_errors_total",
        "Connections of HTTP/2 clients that the proxy ended for an error of the client, by the code of "
        "its GOAWAY (RFC 9113); enhance_your_calm is a flood.",
        "counter",
        ("code",),
        readers.http2_failed,
        of="process",
    ),
    Row(
        "canaryproxy_certificate_expiry_timestamp_seconds",
        "When a certificate of the proxy expires, in seconds since the epoch, by its first "
        "server name.",
        "gauge",
        ("name",),
        readers.certificates,
        of="process",
    ),
    Row(
        "canaryproxy_tasks",
        "Tasks in the workers' event loops: some per process, and one per connection being "
        "opened to an endpoint; requests need none.",
        "gauge",
        (),
        readers.one(lambda scrape: scrape.process.tasks()),
        of="process",
    ),
    Row(
        "canaryproxy_endpoint_up",
        "Fraction of the workers that send the endpoint requests: 1 while all do, 0 while none does. "
        "Each worker ejects it after failed connects, until its probe succeeds; health checks and outlier "
        "ejection take it from all of them.",
        "gauge",
        ("variant", "endpoint"),
        readers.endpoints(readers.endpoint_up),
    ),
    Row(
        "canaryproxy_health_checks_total",
        "Active health checks of the endpoints (variants.*.health), by result.",
        "counter",
        ("variant", "result"),
        readers.health_checks,
    ),
    Row(
        "canaryproxy_panic",
        "1 while no endpoint of the variant is up and its requests are tried all the same.",
        "gauge",
        ("variant",),
        readers.panic,
    ),
    Row(
        "canaryproxy_name_addresses",
        "Addresses in use of a name of endpoints; 0: none has been found yet.",
        "gauge",
        ("name",),
        readers.names(lambda name: name.addresses),
        of="process",
    ),
    Row(
        "canaryproxy_name_answer_age_seconds",
        "Seconds since the last look-up of the name that found addresses, or since the first look-up if "
        "none has.",
        "gauge",
        ("name",),
        readers.names(lambda name: name.age),
        of="process",
    ),
    Row(
        "canaryproxy_name_lookup_failures_total",
        "Look-ups of the name that failed or found nothing; the last addresses stay in use.",
        "counter",
        ("name",),
        readers.names(lambda name: name.failures),
        of="process",
    ),
    Row(
        "canaryproxy_endpoint_inflight_requests",
        "Requests in flight to the endpoint.",
        "gauge",
        ("variant", "endpoint"),
        readers.endpoints(lambda endpoint: endpoint.in_flight),
        traffic=True,
    ),
    Row(
        "canaryproxy_endpoint_responses_total",
        "Complete responses of the endpoint, by class of the status.",
        "counter",
        ("variant", "endpoint", "class"),
        readers.endpoint_responses,
        traffic=True,
    ),
    Row(
        "canaryproxy_endpoint_errors_total",
        "Attempts at the endpoint that got no complete response, by reason.",
        "counter",
        ("variant", "endpoint", "reason"),
        readers.endpoint_errors,
        traffic=True,
    ),
    Row(
        "canaryproxy_endpoint_failed_total",
        "Attempts at the endpoint that failed: without a complete response, or with an error as "
        "judge.metrics.errors defines it.",
        "counter",
        ("variant", "endpoint"),
        readers.endpoints(lambda endpoint: endpoint.total.failed),
        traffic=True,
    ),
    Row(
        "canaryproxy_endpoint_first_byte_p95_seconds",
        "95% quantile of the time to the first byte of the endpoint's responses over the last minute; "
        "absent without responses.",
        "gauge",
        ("variant", "endpoint"),
        readers.endpoints(lambda endpoint: endpoint.recent.p95),
    ),
    # Release
    Row(
        "canaryproxy_weight_ratio",
        "Fraction of users routed to the canary, 0 to 1; 0 while the circuit is open.",
        "gauge",
        (),
        readers.one(lambda scrape: scrape.table.limit / 10_000),
    ),
    Row(
        "canaryproxy_cohort_weight_ratio",
        "Fraction of a cohort's users routed to the canary, 0 to 1; absent without cohorts and while the "
        "circuit is open. The users of no cohort are in canaryproxy_weight_ratio.",
        "gauge",
        ("cohort",),
        readers.cohorts,
    ),
    Row(
        "canaryproxy_circuit_state",
        "1 for the current state of the circuit: closed, open or half_open.",
        "gauge",
        ("state",),
        readers.circuit_state,
    ),
    Row(
        "canaryproxy_circuit_trips_total",
        "Times that the circuit opened since the process started.",
        "counter",
        (),
        readers.one(lambda scrape: scrape.events.get("tripped", 0)),
    ),
    Row(
        "canaryproxy_release_state",
        "1 for the current state of the release: idle, running, paused, tripped, probing, "
        "promoted, aborting or aborted.",
        "gauge",
        ("state",),
        readers.release_state,
    ),
    Row(
        "canaryproxy_release_breached",
        "1 while a regression is known and release.reversible keeps users on the canary.",
        "gauge",
        (),
        readers.view(lambda view: view.breach is not None),
    ),
    Row(
        "canaryproxy_release_state_timestamp_seconds",
        "When the state or step began, in seconds since the epoch; 0 before a release.",
        "gauge",
        (),
        readers.view(lambda view: view.since),
    ),
    Row(
        "canaryproxy_release_info",
        "Always 1; labels: id of the release, what completes a step, and the environment.",
        "gauge",
        ("release", "promote", "environment"),
        readers.release_info,
    ),
    Row(
        "canaryproxy_release_step",
        "Number of the current step, from 1; 0 without a plan.",
        "gauge",
        (),
        readers.view(lambda view: view.step),
    ),
    Row(
        "canaryproxy_release_steps",
        "Number of steps in the plan.",
        "gauge",
        (),
        readers.view(lambda view: len(view.steps)),
    ),
    Row(
        "canaryproxy_release_bake_seconds",
        "Bake time of the current step.",
        "gauge",
        (),
        readers.view(lambda view: readers.step(view).bake),
    ),
    Row(
        "canaryproxy_release_baked_seconds",
        "Bake time of the current step that has counted so far.",
        "gauge",
        (),
        readers.view(lambda view: view.baked),
    ),
    Row(
        "canaryproxy_release_min_requests",
        "Minimum canary requests judged on the current step.",
        "gauge",
        (),
        readers.view(lambda view: readers.step(view).min_requests),
    ),
    Row(
        "canaryproxy_release_requests",
        "Canary requests judged on the current step so far.",
        "gauge",
        (),
        readers.view(lambda view: view.requests),
    ),
    Row(
        "canaryproxy_release_min_users",
        "Minimum canary users compared on the current step.",
        "gauge",
        (),
        readers.view(lambda view: readers.step(view).min_users),
    ),
    Row(
        "canaryproxy_release_users",
        "Canary users compared on the current step so far.",
        "gauge",
        (),
        readers.view(lambda view: view.users),
    ),
    Row(
        "canaryproxy_release_holds",
        "Reasons for which the judge holds the step, whatever the evidence.",
        "gauge",
        (),
        readers.view(lambda view: len(view.holds)),
    ),
    Row(
        "canaryproxy_release_accepted",
        "Metrics (or metrics of a route) that operators accepted in this release.",
        "gauge",
        (),
        readers.view(lambda view: len(view.accepted)),
    ),
    Row(
        "canaryproxy_release_ready",
        "1 while a step with promote: manual waits only for an operator's resume.",
        "gauge",
        (),
        readers.view(lambda view: view.ready),
    ),
    Row(
        "canaryproxy_release_comparable",
        "1 while requests of both variants end, so that the judge can compare them.",
        "gauge",
        (),
        readers.one(readers.comparable),
    ),
    # Judge
    Row(
        "canaryproxy_judge_events_total",
        "Of the requests compared on the current step, those that count against (or, for business, in"
        " favour of) the variant: errors, slow responses, stalls, conversions, outcomes.",
        "counter",
        ("variant", "metric"),
        readers.judged(event=True),
        judge=True,
    ),
    Row(
        "canaryproxy_judge_trials_total",
        "Requests of randomised users that the judge compares on the current step, by metric.",
        "counter",
        ("variant", "metric"),
        readers.judged(event=False),
        judge=True,
    ),
    Row(
        "canaryproxy_judge_records_total",
        "Records of randomised requests on their way to the judge: taken, left_out (a tick takes 4,000) or"
        " dropped (the control plane was late).",
        "counter",
        ("result",),
        readers.records,
        judge=True,
    ),
    Row(
        "canaryproxy_outcome_events_total",
        "Responses for which an outcome holds.",
        "counter",
        ("variant", "outcome"),
        readers.outcomes(event=True),
        traffic=True,
    ),
    Row(
        "canaryproxy_outcome_trials_total",
        "Responses that an outcome has evaluated.",
        "counter",
        ("variant", "outcome"),
        readers.outcomes(event=False),
        traffic=True,
    ),
    Row(
        "canaryproxy_outcome_blind_total",
        "Responses that an outcome applies to and could not look into, by reason.",
        "counter",
        ("variant", "outcome", "reason"),
        readers.blind,
        traffic=True,
    ),
    Row(
        "canaryproxy_outcome_pointers_followed_total",
        "Responses in which an outcome's JSON pointer was followed to its end.",
        "counter",
        ("variant", "outcome"),
        readers.pointers(found=False),
        traffic=True,
    ),
    Row(
        "canaryproxy_outcome_pointers_found_total",
        "Of these, responses that have something there.",
        "counter",
        ("variant", "outcome"),
        readers.pointers(found=True),
        traffic=True,
    ),
    Row(
        "canaryproxy_evidence",
        "E-value that the canary is worse, by metric; +Inf above 1e308.",
        "gauge",
        ("metric",),
        readers.verdicts(lambda verdict: as_float(verdict.log_evidence)),
        judge=True,
    ),
    Row(
        "canaryproxy_evidence_limit",
        "E-value that trips the circuit, by metric; +Inf for a metric that never trips.",
        "gauge",
        ("metric",),
        readers.verdicts(lambda verdict: as_float(verdict.limit)),
        judge=True,
    ),
    Row(
        "canaryproxy_evidence_hold_limit",
        "E-value from which the metric is suspect and holds the release, by metric.",
        "gauge",
        ("metric",),
        readers.verdicts(lambda verdict: as_float(verdict.hold_limit)),
        judge=True,
    ),
    Row(
        "canaryproxy_metric_level",
        "1 for the current level of the metric: ok, suspect or breach.",
        "gauge",
        ("metric", "level"),
        readers.metric_level,
        judge=True,
    ),
    Row(
        "canaryproxy_metric_worse",
        "1 while the metric's difference reaches its margin, whatever the evidence: the step is held.",
        "gauge",
        ("metric",),
        readers.verdicts(lambda verdict: verdict.worse),
        judge=True,
    ),
    Row(
        "canaryproxy_route_levels",
        "Routes that are compared one by one, by the worst level of their metrics.",
        "gauge",
        ("level",),
        readers.route_levels,
        judge=True,
    ),
    Row(
        "canaryproxy_judge_users",
        "Users that were compared on the current step; 0 for a metric that is not compared by user.",
        "gauge",
        ("variant", "metric"),
        readers.judged_users,
        judge=True,
    ),
    Row(
        "canaryproxy_judge_users_hurt",
        "Canary users with an event of the metric on the current step.",
        "gauge",
        ("metric",),
        readers.verdicts(lambda verdict: verdict.hurt),
        judge=True,
    ),
    Row(
        "canaryproxy_placebos",
        "Virtual canaries, randomised from stable's users and judged like the real one.",
        "gauge",
        (),
        readers.placebo(lambda placebo: placebo.of),
        judge=True,
    ),
    Row(
        "canaryproxy_placebos_tripped",
        "Virtual canaries that would have tripped; their version is stable's, so none should.",
        "gauge",
        (),
        readers.placebo(lambda placebo: placebo.tripped),
        judge=True,
    ),
    Row(
        "canaryproxy_placebo_evidence",
        "Strongest evidence (E-value) against a virtual canary.",
        "gauge",
        (),
        readers.placebo(lambda placebo: as_float(placebo.log_evidence)),
        judge=True,
    ),
    # Operation
    Row(
        "canaryproxy_config_last_reload_successful",
        "1 if the last configuration read was loaded, 0 if it was rejected.",
        "gauge",
        (),
        readers.view(lambda view: view.config.error is None),
        of="process",
    ),
    Row(
        "canaryproxy_config_last_reload_success_timestamp_seconds",
        "When a configuration was last loaded, in seconds since the epoch.",
        "gauge",
        (),
        readers.view(lambda view: view.config.loaded_at),
        of="process",
    ),
    Row(
        "canaryproxy_config_restart_needed",
        "Changed fields of the configuration that need a restart.",
        "gauge",
        (),
        readers.view(lambda view: len(view.config.restart_needed)),
        of="process",
    ),
    Row(
        "canaryproxy_events_total",
        "Records of the history since the process started, by event.",
        "counter",
        ("event",),
        readers.events,
        traffic=True,
    ),
    Row(
        "canaryproxy_notifications_total",
        "Notifications by position of the webhook in notify, from 0: sent, failed (given up) "
        "or dropped (too many pending).",
        "counter",
        ("webhook", "result"),
        readers.notifications,
    ),
    Row(
        "canaryproxy_access_log_dropped_total",
        "Access-log lines dropped because the queue was full.",
        "counter",
        (),
        readers.one(lambda scrape: scrape.process.log_lines_dropped()),
        of="process",
    ),
    Row(
        "canaryproxy_tick_seconds",
        "Duration of the control plane's last tick, with the requests served between its parts.",
        "gauge",
        (),
        readers.one(lambda scrape: scrape.process.tick()),
        of="process",
    ),
    Row(
        "canaryproxy_ticks_late_total",
        "Ticks of the control plane that were left out because the one before had not ended.",
        "counter",
        (),
        readers.one(lambda scrape: scrape.process.late_ticks()),
        of="process",
    ),
    Row(
        "canaryproxy_state_unsaved",
        "1 while the state file cannot be written.",
        "gauge",
        (),
        readers.view(lambda view: view.unsaved is not None),
    ),
    Row(
        "canaryproxy_build_info",
        "Always 1; labels: versions, and whether the data path is compiled.",
        "gauge",
        ("version", "python", "compiled"),
        readers.build_info,
        of="process",
    ),
    # Fleet: no series without one
    Row(
        "canaryproxy_fleet_connected",
        "1 while this replica reaches Redis; without fleet, none of these metrics has a series.",
        "gauge",
        (),
        readers.fleet(lambda fleet: fleet.connected),
    ),
    Row(
        "canaryproxy_fleet_replicas",
        "Replicas heard from within a lease.",
        "gauge",
        (),
        readers.fleet(lambda fleet: fleet.replicas),
    ),
    Row(
        "canaryproxy_fleet_leader",
        "1 while this replica leads, that is, takes the steps.",
        "gauge",
        (),
        readers.fleet(lambda fleet: fleet.leads),
    ),
    Row(
        "canaryproxy_fleet_conflict",
        "1 while this replica's configuration differs from the one in force.",
        "gauge",
        (),
        readers.fleet(lambda fleet: fleet.conflict is not None),
    ),
    Row(
        "canaryproxy_fleet_propagation_seconds",
        "Time from the last act of another replica to its taking effect here, by Redis' clock.",
        "gauge",
        (),
        readers.fleet(lambda fleet: fleet.propagation),
    ),
)


class CounterCollector(Collector):
    """Collects ``METRICS`` from ``process`` and from each service.

    ``services`` returns the services of the moment, the same object for a service as long as it exists; one
    without a name where the configuration has none.
    """

    def __init__(self, process: ProcessSources, services: Callable[[], Sequence[Sources]]) -> None:
        self._process = process
        self._services = services

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families."""
        for row, samples in self._read():
            if row is not None:
                yield _family(row, samples)

    def steps(self) -> Iterator[Metric | None]:
        """Yield all metric families, large ones in several pieces, and ``None`` after other pieces of work.

        A scrape of many services takes long. Whoever iterates may let others run after each step: a service
        is read within one, so one that is removed meanwhile is shown as it was, or not at all.
        """
        for row, samples in self._read():
            if row is None:
                yield None
                continue
            most = _LARGEST_PIECE[row.kind]
            for at in range(0, max(len(samples), 1), most):
                yield _family(row, samples[at : at + most])

    def _read(self) -> Iterator[tuple[Row | None, Sequence[Sample]]]:
        """Read each service, with a row of ``None`` after it, then yield each row with its samples."""
        found: list[list[Sample]] = [[] for _ in METRICS]
        rows: Sequence[Row] = METRICS
        for sources in tuple(self._services()):
            if sources not in self._services():
                continue
            scrape = Scrape.take(self._process, sources)
            if sources.service is not None:
                rows = _NAMED
            for row, samples in zip(METRICS, found, strict=True):
                if row.of == "process":
                    samples.extend(() if samples else row.read(scrape))
                elif sources.service is None:
                    samples.extend(row.read(scrape))
                else:
                    samples.extend(_of_service(row, scrape, sources.service))
            yield None, ()
        yield from zip(rows, found, strict=True)


_NAMED: Final = tuple(
    replace(row, labels=("service", *row.labels)) if row.of == "service" else row for row in METRICS
)
"""``METRICS`` of several services."""
_LARGEST_PIECE: Final = {"counter": 500, "gauge": 500, "histogram": 12}
"""Samples of a piece of ``CounterCollector.steps``: a few milliseconds of work."""


def _of_service(row: Row, scrape: Scrape, service: str) -> Iterator[Sample]:
    """Yield the samples of a row with the service's name, as far as it has had requests for them."""
    began = [cells[counters.ROUTED] > 0 for cells in scrape.variants]
    if row.judge and not began[CANARY]:
        return
    for labels, value in row.read(scrape):
        if row.traffic and not value:
            by_variant = row.labels[:1] == ("variant",)
            if not (began[VARIANTS.index(labels[0])] if by_variant else any(began)):
                continue
        yield (service, *labels), value


def _family(row: Row, samples: Iterable[Sample]) -> Metric:
    if row.kind == "histogram":
        histograms = HistogramMetricFamily(row.name, row.help, labels=row.labels)
        for labels, value in samples:
            assert isinstance(value, Histogram)
            histograms.add_metric(labels, value.buckets, sum_value=value.sum)
        return histograms
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    family = kind(row.name, row.help, labels=row.labels)
    for labels, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


class EventCounts:
    """Counts the records of the history, as a listener of ``Control.subscribe``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __call__(self, kind: str, value: Mapping[str, Any]) -> None:
        """Count a record; points are ignored."""
        if kind == "record":
            self._counts[value["what"]] += 1

    def counts(self) -> Mapping[str, int]:
        """Return the number of records by event."""
        return self._counts
