"""Figures of routes: from the judge's records, of the last minute, bounded."""

from __future__ import annotations

import pytest

from canaryproxy.config import PathMatch
from canaryproxy.control.route_figures import MOST, RouteFigures
from canaryproxy.judging.metrics import BUSIEST
from canaryproxy.judging.step import OTHERS
from canaryproxy.measure import records
from canaryproxy.measure.records import pack_first, pack_second, pack_third, template_of
from canaryproxy.measure.routing import CANARY, STABLE


def record(
    route: str, variant: int, status: int = 200, seconds: float | None = 0.01, flags: int = 0
) -> list[int]:
    return [
        pack_first(1, variant, 0, status, 0, records.ENDED | flags),
        pack_second(template_of(route.encode()), 0, 0),
        pack_third(seconds, 10),
    ]


def names(*routes: str) -> dict[int, str]:
    return {template_of(route.encode()): route for route in routes}


def test_a_route_has_the_figures_of_both_variants() -> None:
    figures = RouteFigures(())
    words = [
        *record("GET /a", STABLE) * 3,
        *record("GET /b", STABLE),
        *record("GET /a", CANARY, 500, 0.2, records.FAILED),
        *record("GET /a", CANARY, 502, None, records.FAILED),
        *record("GET /a", CANARY, 0, None, records.CLIENT_GONE),
        *record("GET /a", CANARY, 0, None, records.CLIENT_GONE | records.ABANDONED),
    ]
    figures.take(0.0, words, names("GET /a", "GET /b"))
    found = figures.rows(1.0)
    assert (found.seconds, found.share) == (1.0, 1.0)
    (first, stable, canary), (second, *_) = found.routes
    assert (first, second) == ("GET /a", "GET /b")
    assert (stable.requests, stable.failed, stable.classes) == (3, 0, [0, 3, 0, 0, 0])
    assert (canary.requests, canary.failed, canary.classes) == (3, 3, [0, 0, 0, 0, 2])
    assert stable.p95 == pytest.approx(0.01, rel=0.1)
    assert canary.p95 == pytest.approx(0.2, rel=0.1)


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    figures = RouteFigures(())
    for second in range(200):
        figures.take(float(second), record("GET /a", STABLE), names("GET /a"))
        found = figures.rows(float(second + 1))
        (_, stable, _), *_ = found.routes
        assert stable.requests == found.seconds <= 81
    assert found.seconds > 60


def test_of_many_records_some_are_counted_and_the_share_is_said() -> None:
    figures = RouteFigures(())
    figures.take(0.0, record("GET /a", STABLE) * (4 * MOST), names("GET /a"))
    found = figures.rows(1.0)
    assert found.share == 0.25
    assert found.routes[0][1].requests == MOST


def test_many_routes_are_bounded() -> None:
    figures = RouteFigures(())
    for number in range(500):
        route = f"GET /{number}"
        figures.take(number / 10, record(route, STABLE), names(route))
    rows = figures.rows(50.0).routes
    assert len(rows) == BUSIEST + 1
    assert rows[-1][0] == OTHERS
    assert sum(stable.requests for _, stable, _ in rows) == 500
    assert all(len(bucket.routes) <= 129 for bucket in figures._buckets)


def test_routes_of_the_configuration_keep_their_names() -> None:
    figures = RouteFigures((("cart", PathMatch(prefix="/cart")),))
    words = [
        *record("GET /cart/*", STABLE),
        *record("POST /cart", CANARY),
        *record("GET /", STABLE),
    ]
    figures.take(0.0, words, names("GET /cart/*", "POST /cart", "GET /"))
    (name, stable, canary), (rest, *_) = figures.rows(1.0).routes
    assert (name, stable.requests, canary.requests, rest) == ("cart", 1, 1, OTHERS)
