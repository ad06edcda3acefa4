"""The view of ``GET /v1/endpoints``: each endpoint of both variants, as one row of a table."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from canaryproxy.control.endpoint_figures import EndpointReading, Recent
from canaryproxy.control.release_view import AtFault, Count, Unresolved, View
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import EndpointCounts
from canaryproxy.measure.failures import describe, errno_text

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""Names of the classes of statuses."""
REASONS = tuple(reason for reason in Reason if reason is not Reason.NO_ENDPOINT)
"""Why an attempt at an endpoint gets no complete response."""


class EndpointCount(View):
    """Attempts of requests at an endpoint that have ended; one whose client went away is not counted."""

    requests: Count = Field(description="All of them, retries included.")
    failed: Count = Field(
        description="Those without a complete response, and errors as judge.metrics.errors defines them."
    )
    codes: dict[str, int] = Field(
        description="Responses by status class.", examples=[{"2xx": 950, "5xx": 48}]
    )
    errors: dict[str, int] = Field(
        description="Attempts without a complete response, by reason.", examples=[{"reset": 2}]
    )


class RecentEndpointCount(EndpointCount):
    """The same over the last seconds."""

    seconds: float = Field(
        description="How long that is: a minute, up to ten seconds more, or less after a start."
    )
    p95: float | None = Field(
        description="95% quantile of the seconds to the first byte; null: no response. Requests that had "
        "failed on another endpoint before are left out."
    )


class EndpointRow(View):
    """One endpoint."""

    variant: str = Field(json_schema_extra={"enum": ["stable", "canary"]})
    url: str = Field(description="Its address; or how many more endpoints the row stands for.")
    state: str = Field(
        description="up; starting: it has come back, and its share of the requests grows; standby: its"
        " SRV record has a lower priority than one with an endpoint that is up; down; panic: down,"
        " and tried all the same, because no endpoint of its variant is up.",
        json_schema_extra={"enum": ["up", "starting", "standby", "down", "panic"]},
    )
    up: bool = Field(description="Every worker sends it requests.")
    workers: Count = Field(description="Workers that run.")
    out: str | None = Field(
        description="Why no worker sends it any, though it may take connections; null: it is in service.",
        examples=["check failed: status 503, wanted 2xx"],
    )
    ejected_by: Count = Field(
        description="Workers that send it none, because it took no connections; they probe it."
    )
    in_flight: Count = Field(description="Requests in flight at it, tunnels and streams included.")
    last_error: str | None = Field(
        description="Why an attempt failed last.", examples=["connection refused"]
    )
    total: EndpointCount = Field(description="Since the proxy started.")
    recent: RecentEndpointCount


class Endpoints(View):
    """All endpoints."""

    time: float = Field(description="Now, in seconds since the epoch.")
    endpoints: list[EndpointRow] = Field(
        description="Stable's first, in the configuration's order."
    )
    at_fault: AtFault
    unresolved: Unresolved = Field(default=[])


def by_class(counts: Iterable[int]) -> dict[str, int]:
    """Return responses from 1xx to 5xx by the names of the classes, without those that had none."""
    return {name: number for name, number in zip(CLASSES, counts, strict=True) if number}


def row(variant: str, one: EndpointReading, recent: Recent) -> EndpointRow:
    """Return the row of an endpoint."""
    errs = one.counts.errors
    return EndpointRow(
        variant=variant,
        url=one.url,
        state=one.state,
        up=one.up,
        workers=one.workers,
        out=one.out or None,
        ejected_by=one.ejected_by,
        in_flight=one.in_flight,
        last_error=describe(one.reason, errno_text(one.errno)) if errs or one.ejected_by else None,
        total=EndpointCount(**_counted(one.counts)),
        recent=RecentEndpointCount(
            **_counted(recent.counts),
            seconds=round(recent.seconds, 1),
            p95=recent.counts.quantile(0.95),
        ),
    )


def _counted(counts: EndpointCounts) -> dict[str, object]:
    return {
        "requests": counts.requests,
        "failed": counts.failed,
        "codes": by_class(counts.classes),
        "errors": {r.label: counts.error(r) for r in REASONS if counts.error(r)},
    }
