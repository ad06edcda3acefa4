"""Routes by name: which templates belong to which."""

from __future__ import annotations

from canaryproxy.config import PathMatch
from canaryproxy.judging.metrics import OTHER
from canaryproxy.judging.named_routes import NamedRoutes
from canaryproxy.measure.records import template_of


def test_template_belongs_to_the_first_route_that_it_meets() -> None:
    routes = NamedRoutes(
        [
            ("pay", PathMatch(regex="^/v[12]/pay")),
            ("users", PathMatch(prefix="/users")),
            ("rest", PathMatch(prefix="/v1")),
        ]
    )
    names = ("POST /v1/pay/*", "GET /v2/pay", "GET /users/*", "GET /v1/x", "GET /")
    known = {template_of(name.encode()): name for name in names}
    found = routes.learn(known)
    assert sorted(found.values()) == ["pay", "rest", "users"]
    groups = [routes.of(template_of(name.encode())) for name in names]
    assert [found.get(group) for group in groups] == ["pay", "pay", "users", "rest", None]
    assert groups[-1] == routes.of(12345) == OTHER


def test_templates_without_end_are_not_remembered() -> None:
    routes = NamedRoutes([("all", PathMatch(prefix="/"))])
    for at in range(10):
        routes.learn({at * 1000 + k: f"GET /{k}" for k in range(1000)})
    assert len(routes._groups) <= 4096
    assert routes.of(9999) == template_of(b"all")
