"""Route templates: which requests are one group, and that their names are announced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.records import LONGEST_NAME, NameRing, template_of
from canaryproxy.measure.route_names import RouteNames, route_name

UUID = b"0d8f7a1e-4B3c-4d2a-9e8f-001122334455"


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        (b"GET", b"/", b"GET /"),
        (b"HEAD", b"/search", b"GET /search"),
        (b"OPTIONS", b"*", b"GET *"),
        (b"POST", b"/cart/items", b"POST /cart/items"),
        (b"DELETE", b"/users/1234", b"DELETE /users/*"),
        (b"GET", b"/users/1234/", b"GET /users/*/"),
        (b"GET", b"/users/1234/orders/77", b"GET /users/*/orders"),
        (b"GET", b"/a/b/c/d/e", b"GET /a/b/c"),
        (b"GET", b"/v2/items/" + UUID, b"GET /v2/items/*"),
        (b"GET", b"/blob/DEADbeef01/x", b"GET /blob/*/x"),
        (b"GET", b"/decade/facade1", b"GET /decade/facade1"),
        (b"GET", b"/1/22/333", b"GET /*/*/*"),
        (b"GET", b"/main.css", b"GET /main.css"),
        (b"GET", b"/~user/a_b-c.d", b"GET /~user/a_b-c.d"),
        (b"GET", b"/caf%C3%A9/menu", b"GET /*/menu"),
        (b"GET", b"/caf\xc3\xa9/menu", b"GET /*/menu"),
        (b"GET", b"/a:b/c@d/e;f", b"GET /*/*/*"),
        (b"GET", b"/t/" + b"x" * 33, b"GET /t/*"),
        (b"GET", b"//x//", b"GET //x/"),
        (
            b"PROPFIND",
            b"/" + b"x" * 30 + b"/" + b"y" * 30,
            b"PROPFIND /" + b"x" * 30 + b"/" + b"y" * 15,
        ),
    ],
)
def test_the_name_of_a_route(method: bytes, path: bytes, name: bytes) -> None:
    assert route_name(method, path) == name


@given(st.binary(max_size=300), st.sampled_from((b"GET", b"M" * 200)))
def test_a_name_is_short_and_ascii(path: bytes, method: bytes) -> None:
    name = route_name(method, b"/" + path)
    assert len(name) <= LONGEST_NAME
    assert name.isascii()


def test_long_paths_take_no_long_time() -> None:
    for path in (b"/" * 8000, b"/" + b"a" * 8000, b"/" + b"a%" * 4000, b"/" + b"a-" * 4000 + b"/"):
        for _ in range(20):
            route_name(b"GET", path)


def test_a_name_is_announced_once_until_many_others_came() -> None:
    ring = NameRing()
    routes = RouteNames(ring)
    for _ in range(3):
        for number in range(50):
            template = routes.find((b"GET", b"/users/%d" % number))
            assert template == template_of(b"GET /users/*")
    assert ring.since(0) == (1, {template: "GET /users/*"})
    for number in range(5000):
        routes.find((b"GET", b"/x%d-%s" % (number, b"y" * (number % 300))))
    read = ring.since(0)[0]
    routes.find((b"GET", b"/users/7"))
    for number in range(2000):
        routes.find((b"GET", b"/users/%d" % number))
    assert ring.since(read)[1] == {template: "GET /users/*"}
    assert len(routes._templates) <= 1024
    assert len(routes._announced) <= 1024
