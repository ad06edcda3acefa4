"""The view of ``GET /v1/routes``: each route, stable and canary side by side, as one row of a table."""

from __future__ import annotations

from pydantic import Field

from canaryproxy.control.endpoint_view import by_class
from canaryproxy.control.release_view import Count, View
from canaryproxy.control.route_figures import RouteCounts
from canaryproxy.control.route_figures import Routes as Found
from canaryproxy.judging.verdict import Assessment, Level


class RouteTraffic(View):
    """The requests of one route to one variant; those whose client went away are not counted."""

    requests: Count = Field(description="Requests that were counted.")
    failed: Count = Field(description="Those that failed, as judge.metrics.errors defines it.")
    codes: dict[str, int] = Field(
        description="Those with a status, by its class.", examples=[{"2xx": 950, "5xx": 48}]
    )
    p95: float | None = Field(
        description="95% quantile of the seconds to the first byte; null: no response."
    )


class RouteRow(View):
    """One route."""

    route: str = Field(
        description="Method and path template, a name of judge.routes, or `other routes`.",
        examples=["GET /cart/*"],
    )
    level: Level = Field(description="The judge's worst verdict on the route, on this step.")
    stable: RouteTraffic
    canary: RouteTraffic


class Routes(View):
    """The busiest routes."""

    time: float = Field(description="Now, in seconds since the epoch.")
    seconds: float = Field(
        description="The figures are of so many seconds: a minute, up to ten seconds more, or less after"
        " a start."
    )
    share: float = Field(
        ge=0,
        le=1,
        description="Fraction of the requests that was counted: all, unless there are many.",
    )
    routes: list[RouteRow] = Field(
        description="The busiest first. Requests of randomised users, as the judge has them."
    )


def routes(now: float, found: Found, seen: Assessment | None) -> Routes:
    """Return the view of the routes; ``seen`` has the verdicts."""
    levels: dict[str, Level] = {}
    for verdict in () if seen is None else seen.verdicts:
        if levels.get(verdict.scope) != "breach" and verdict.level != "ok":
            levels[verdict.scope] = verdict.level
    return Routes(
        time=now,
        seconds=round(found.seconds, 1),
        share=found.share,
        routes=[
            RouteRow(
                route=name,
                level=levels.get(name, "ok"),
                stable=_traffic(stable),
                canary=_traffic(canary),
            )
            for name, stable, canary in found.routes
        ],
    )


def _traffic(counts: RouteCounts) -> RouteTraffic:
    return RouteTraffic(
        requests=counts.requests,
        failed=counts.failed,
        codes=by_class(counts.classes),
        p95=counts.p95,
    )
