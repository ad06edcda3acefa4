"""``services``: what each service has of its own, what it takes over, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from canaryproxy import config
from canaryproxy.config import Config, ConfigError
from canaryproxy.config.model.service import MOST, MOST_PLACES, SECTIONS
from canaryproxy.config.places import host_pattern, path_prefix

STABLE = 'stable: {endpoints: ["http://127.0.0.1:9001"]}'
TWO = f"""
variants: {{{STABLE}}}
judge: {{alpha: 0.01, min_users: 7}}
release: {{id: all-1, steps: [{{weight: 5}}]}}
state: ./run/state.json
services:
  cart:
    hosts: [Shop.example.com., "*.shop.example.com"]
    paths: /cart/
    variants: {{stable: {{endpoints: ["http://127.0.0.1:9002"]}}}}
    judge: {{alpha: 0.002}}
    release:
    notify: []
  web: {{}}
"""


def parse(text: str) -> Config:
    return config.parse(text, file="f.yaml")


def test_a_service_has_its_own_sections_and_takes_over_the_others() -> None:
    found = parse(TWO)
    cart, web = found.by_service().values()
    assert (cart.service, web.service, found.service) == ("cart", "web", None)
    assert cart.variants.stable.endpoints[0].port == 9002
    assert web.variants is found.variants
    assert cart.release is None
    assert web.release_id == "all-1"
    for section in SECTIONS:
        if section not in ("variants", "judge", "release", "notify"):
            assert getattr(cart, section) is getattr(found, section)
    assert cart.limits is found.limits
    assert cart.services == {}


def test_a_section_of_a_service_replaces_the_whole_section() -> None:
    cart = parse(TWO).by_service()["cart"]
    assert (cart.judge.alpha, cart.judge.min_users) == (0.002, 10)


def test_hosts_and_paths_are_as_requests_have_them() -> None:
    cart = parse(TWO).services["cart"]
    assert cart.hosts == ("shop.example.com", "*.shop.example.com")
    assert cart.paths == ("/cart",)
    assert not cart.is_default
    assert parse(TWO).services["web"].is_default


def test_each_service_has_a_state_file_and_a_group_of_its_own() -> None:
    found = parse(TWO + "fleet: {redis: 'redis://r', group: shops, lease: 9s}\n").by_service()
    assert Path(found["cart"].state) == Path("run/services/cart.json")
    assert Path(found["web"].state) == Path("run/services/web.json")
    fleets = [one.fleet for one in found.values()]
    assert [(one.group, one.lease) for one in fleets if one] == [
        ("shops/cart", 9),
        ("shops/web", 9),
    ]


def test_a_file_with_one_service_is_its_own_configuration() -> None:
    found = parse(f"variants: {{{STABLE}}}")
    assert list(found.by_service().items()) == [("default", found)]
    assert found.by_service()["default"] is found
    assert found.service is None


def test_equal_services_have_equal_configurations_in_two_readings() -> None:
    one, other = parse(TWO).by_service(), parse(TWO + "workers: 1\n").by_service()
    assert one["cart"].judge == other["cart"].judge
    assert one == parse(TWO).by_service()
    assert one["cart"] != one["web"]


def test_variants_of_services_alone_are_no_variants_of_the_file() -> None:
    found = parse(f"services: {{cart: {{variants: {{{STABLE}}}}}}}")
    with pytest.raises(LookupError, match="by_service"):
        _ = found.variants
    assert found.by_service()["cart"].variants.stable.endpoints == found.endpoints


def test_endpoints_are_those_of_all_services_and_of_no_one_else() -> None:
    found = parse(TWO)
    assert sorted(one.port for one in found.endpoints) == [9001, 9002]
    alone = parse(
        TWO.replace("web: {}", f"web: {{variants: {{{STABLE.replace('9001', '9003')}}}}}")
    )
    assert sorted(one.port for one in alone.endpoints) == [9002, 9003]
    assert [path for path, _ in alone.in_use("variants")] == [
        ("services", "cart", "variants"),
        ("services", "web", "variants"),
    ]


def test_variables_are_replaced_in_services_as_at_the_top() -> None:
    text = "services: {cart: {variants: {stable: {endpoints: ['http://${A}:1']}}, paths: '/${A}'}}"
    with pytest.raises(ConfigError) as caught:
        config.parse(text, file="f.yaml", environment={"A": "cart"})
    (problem,) = caught.value.problems
    assert "variables are replaced only in release.id" in problem.message
    found = config.parse(text.replace("'/${A}'", "/a"), file="f.yaml", environment={"A": "cart"})
    assert found.endpoints[0].host == "cart"


def many(count: int, more: str = "") -> str:
    services = "".join(
        f"  s{at}: {{hosts: s{at}.example.com{more % at if more else ''}}}\n" for at in range(count)
    )
    return f"variants: {{{STABLE}}}\nservices:\n{services}"


def test_there_are_as_many_services_as_slots_and_no_more() -> None:
    assert len(parse(many(MOST)).by_service()) == MOST
    with pytest.raises(ConfigError, match="found 1,025 services, at most 1,024 are allowed"):
        parse(many(MOST + 1))


def test_pairs_of_hosts_and_paths_are_bounded() -> None:
    hosts = [f"h{at}" for at in range(200)]
    paths = [f"/p{at}" for at in range(MOST_PLACES // 200 + 1)]
    with pytest.raises(ConfigError, match="found 20,200 pairs of a host and a path"):
        parse(f"variants: {{{STABLE}}}\nservices: {{a: {{hosts: {hosts}, paths: {paths}}}}}")


def test_services_share_what_they_take_over() -> None:
    """An idle service costs what it has of its own."""
    found = list(parse(many(50)).by_service().values())
    for one in found[1:]:
        values, first = vars(one), vars(found[0])
        assert [name for name in values if values[name] is not first[name]] == ["services", "state"]


@pytest.mark.parametrize(
    ("written", "means"),
    [("A.Example.", "a.example"), ("a.", "a"), ("*.A.example", "*.a.example"), ("10.0.0.1", "10.0.0.1"),
     ("[::1]", "[::1]"), ("[2001:DB8:0::1]", "[2001:db8::1]"), ("xn--kse-qla.example", "xn--kse-qla.example"),
     ("a_b", "a_b"), ("*.com", "*.com")],
)  # fmt: skip
def test_a_host_is_as_in_requests(written: str, means: str) -> None:
    assert host_pattern(written) == means


@pytest.mark.parametrize(
    "written",
    ["", "*", "*.", ".", ".a", "a..b", "a..", "-a", "a b", "a:80", "[::1]:80", "[::1", "::1]", "[1.2.3.4]",
     "[v1.a]", "*a", "*.*.a", "a.*", "1.2.3", "1.2.3.256", "01.2.3.4", "http://a", "a/b", "a,b", "a\n",
     "\u00e4", "a\x00", "a" * 64, ".".join(["a" * 63] * 4), 5, None, True, ("a",)],
)  # fmt: skip
def test_other_hosts_are_refused_with_what_is_allowed(written: Any) -> None:
    with pytest.raises(ValueError, match=r"a host name without port|an IPv[46] address"):
        host_pattern(written)


@pytest.mark.parametrize(
    ("written", "means"),
    [("/", "/"), ("//", "/"), ("/cart/", "/cart"), ("/a//b", "/a//b"), ("/k%C3%A4se", "/k%C3%A4se"),
     ("/a.b/..c", "/a.b/..c"), ("/*", None), ("/a/*", None), ("/..", None), ("/a/%2E", None), ("/%2", None),
     ("a", None), ("", None), ("/a?b", None), ("/a#b", None), ("/a b", None), ("/\u00e4", None), (5, None)],
)  # fmt: skip
def test_a_path_is_a_prefix_of_whole_segments(written: Any, means: str | None) -> None:
    if means is not None:
        assert path_prefix(written) == means
        return
    with pytest.raises(ValueError, match="a path that begins with /"):
        path_prefix(written)


# Cookies of services that share hosts

SIGNED = "split: {sticky: {sign: {key_file: k}}}"
PLAIN = "split: {weight: 0}"


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (f"{{hosts: a.b, paths: /x, {SIGNED}}}", f"{{hosts: a.b, paths: /y, {PLAIN}}}", True),
        (f"{{hosts: a.b, {SIGNED}}}", f"{{hosts: c.b, {PLAIN}}}", False),
        (f"{{hosts: a.b, paths: /x, {SIGNED}}}", f"{{hosts: '*.b', {PLAIN}}}", True),
        (f"{{hosts: a.b, {SIGNED}}}", f"{{hosts: '*.b', {PLAIN}}}", False),
        (f"{{hosts: a.b, {SIGNED}}}", f"{{{PLAIN}}}", False),
        (f"{{paths: /x, {SIGNED}}}", f"{{{PLAIN}}}", True),
        (f"{{hosts: '*.c.b', paths: /x, {SIGNED}}}", f"{{hosts: '*.b', {PLAIN}}}", True),
        (
            "{hosts: a.b, split: {sticky: {domain: b, forward: false}}}",
            "{hosts: c.b, split: {sticky: {domain: .B}}}",
            True,
        ),
        (
            f"{{hosts: a.b, paths: /x, {SIGNED}}}",
            "{hosts: a.b, paths: /y, split: {sticky: {cookie: other}}}",
            False,
        ),
        (
            f"{{hosts: a.b, paths: /x, {SIGNED}}}",
            "{hosts: a.b, paths: /y, split: {sticky: {header: X-User}}}",
            False,
        ),
        (
            "{hosts: a.b, paths: /x, split: {sticky: {max_age: 1h}}}",
            f"{{hosts: a.b, paths: /y, {PLAIN}}}",
            False,
        ),
    ],
)  # fmt: skip
def test_services_whose_users_send_both_the_same_cookie_agree_on_it(
    one: str, other: str, conflict: bool
) -> None:
    for first, second in ((one, other), (other, one)):
        text = f"variants: {{{STABLE}}}\nservices:\n  a: {first}\n  b: {second}\n"
        if conflict:
            with pytest.raises(
                ConfigError, match=r"cookie canary_id on .* with another (sign|forward)"
            ):
                parse(text)
        else:
            parse(text)


# Warnings


def test_warnings_name_the_services_that_they_are_about() -> None:
    found = config.warnings(parse(TWO + "circuit: {spread: 5s}\n"))
    assert "service web: release has no effect without variants.canary" in found
    assert not any("cart" in line for line in found)
    shared = f"variants: {{{STABLE}}}\nsplit: {{weight: 5}}\nservices: {{a: {{paths: /a}}, b: {{paths: /b}}}}"
    assert config.warnings(parse(shared)) == (
        "every service: split.weight has no effect without variants.canary",
    )


def test_sections_and_paths_in_vain_are_warned_of() -> None:
    own = f"variants: {{{STABLE}}}, mirror: {{percent: 0}}"
    found = parse(
        f"variants: {{{STABLE}}}\nmirror: {{percent: 0}}\nrescue: {{header: true}}\n"
        f"services: {{a: {{paths: [/a, /a/b, /ab], {own}}}, b: {{{own}}}}}"
    )
    assert config.warnings(found) == (
        "variants has no effect: every service has its own",
        "mirror has no effect: every service has its own",
        "services.a.paths: /a/b has no effect beside /a",
    )
