"""Several splits of a source become services, each with its hosts and paths, and split as the source says."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import mmh3
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from canaryproxy import config
from canaryproxy.config import ConfigError
from canaryproxy.importing import Imported, convert
from canaryproxy.importing.convert import MOST_SPLITS, service_names
from canaryproxy.importing.shares import Wanted
from canaryproxy.measure.service_table import ServiceTable
from tests.importing.cases import EXPECTED, SOURCES, read_files
from tests.ports import free_port
from tests.system.processes import Process

USERS = 100


@dataclass(frozen=True)
class Part:
    """One service of a source."""

    name: str
    host: str
    path: str
    weight: float
    """Percent on the canary; with steps, at the first one."""
    key: str = "canary_id"
    """The cookie that identifies a user."""
    salt: str = ""
    forced: tuple[tuple[dict[str, str], str], ...] = ()
    """Header fields, and the version that the source forces by them."""


SERVICES = {
    "nginx-services.conf": (
        Part("cart-example-com", "cart.example.com", "/", 10, key="uid"),
        Part("cart-example-com", "de.cart.example.org", "/x", 10, key="uid"),
        Part("search-example-com", "search.example.com:8080", "/", 25),
    ),
    "ingress-services.yaml": (
        Part("cart", "shop.example.com", "/cart/1", 20),
        Part("search", "shop.example.com", "/search", 50),
        Part("search", "shop.example.com", "/suggest?q=a", 50),
    ),
    "flagger-services.yaml": (
        Part("cart", "shop.example.com", "/", 5, salt="cart-1"),
        Part("search", "search.shop.svc.cluster.local", "/", 10, salt="search-1"),
    ),
    "argo-services.yaml": (
        Part("cart", "www.cart.example.com", "/", 10, salt="cart-2.4"),
        Part(
            "pay",
            "pay.example.com",
            "/",
            25,
            "canary_id",
            "pay-1",
            (({"X-Tester": "1"}, "canary"),),
        ),
        Part("mail", "mail.shop", "/", 40, salt="mail-1"),
    ),
    "traefik-services.yaml": (
        Part("cart", "shop.example.com", "/cart", 20, forced=(({"X-Beta": "yes"}, "canary"),)),
        Part("cart", "www.example.com", "/cart/1", 20),
        Part("search", "search.example.com", "/", 50),
        Part("web", "other.example.com", "/", 0),
        Part("web", "shop.example.com", "/", 0),
    ),
    "envoy-services.yaml": (
        Part(
            "shop-cart",
            "shop.example.com:8080",
            "/cart",
            30,
            forced=(({"X-Beta": "yes"}, "canary"),),
        ),
        Part("shop-cart", "de.shop.example.com", "/cart/1", 30),
        Part(
            "shop-web", "shop.example.com", "/cartoon", 0, forced=(({"X-Beta": "yes"}, "stable"),)
        ),
        Part("search", "search.example.com", "/", 60),
    ),
}


def imported(file: str, wanted: Wanted | None = None) -> Imported:
    path = SOURCES / file
    return convert([(str(path), path.read_text())], read_files, wanted=wanted or Wanted())


def expected(file: str) -> Path:
    return EXPECTED / f"{Path(file).stem}.yaml"


@pytest.mark.parametrize("file", SERVICES)
def test_import_has_the_expected_services(file: str) -> None:
    done = imported(file)
    assert done.text == expected(file).read_text()
    found = config.parse(done.text, file=file)
    table = ServiceTable(found.services.values())
    for part in SERVICES[file]:
        at = table.find(part.host.encode(), part.path.partition("?")[0].encode())
        assert list(found.services)[at] == part.name
        one = found.by_service()[part.name]
        weight = one.split.weight if one.release is None else one.release.steps[0].weight
        assert weight == part.weight
        assert one.release_id == (part.salt or None)


@pytest.mark.parametrize("file", SERVICES)
def test_every_line_says_where_it_is_from(file: str) -> None:
    lines = expected(file).read_text().splitlines()
    for line in lines:
        if line.startswith("#") or line.rstrip().endswith(":"):
            continue
        source, number, _ = line.rpartition("  # ")[2].split(":", 2)
        assert 1 <= int(number) <= len((SOURCES / source).read_text().splitlines()), line


def test_nginx_takes_the_source(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    done = subprocess.run(
        ["nginx", "-t", "-c", SOURCES / "nginx-services.conf", "-p", tmp_path,
         "-g", f"pid {tmp_path}/pid; error_log {tmp_path}/log;"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def answering(text: str) -> web.Application:
    """Return a service that says which version of which service it is."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@pytest.mark.parametrize("file", SERVICES)
async def test_proxy_splits_each_service_as_the_source_says(file: str, tmp_path: Path) -> None:
    port = free_port()
    tree = yaml.safe_load(expected(file).read_text())
    tree |= {
        "listen": f"127.0.0.1:{port}",
        "admin": {"socket": f"{tmp_path}/admin.sock"},
        "state": f"{tmp_path}/state.json",
        "judge": {"baseline": "0s"},
    }
    async with AsyncExitStack() as stack:
        for name, service in tree["services"].items():
            service.get("release", {}).pop("gates", None)
            for variant, one in service["variants"].items():
                server = await stack.enter_async_context(TestServer(answering(f"{name} {variant}")))
                one["endpoints"] = [f"http://127.0.0.1:{server.port}"]
        path = tmp_path / "canaryproxy.yaml"
        path.write_text(json.dumps(tree))
        process = Process("-m", "canaryproxy", "run", "-c", str(path), folder=tmp_path)
        try:
            await at_weights({part.name: part.weight for part in SERVICES[file]}, tmp_path, process)
            for part in SERVICES[file]:
                await check(part, port)
        finally:
            process.end()


async def at_weights(weights: dict[str, float], folder: Path, process: Process) -> None:
    """Wait until each service runs at its weight."""
    connector = aiohttp.UnixConnector(f"{folder}/admin.sock")
    async with asyncio.timeout(60), aiohttp.ClientSession(connector=connector) as session:
        while True:
            assert process.child.poll() is None, process.log.read_text()
            try:
                async with session.get("http://localhost/v1/services") as answer:
                    found = (await answer.json())["services"]
                    if {one["name"]: one["weight"] for one in found} == weights:
                        return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.02)


async def check(part: Part, port: int) -> None:
    """Compare the version of each user with the source."""
    on_canary = 0
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def version(number: int, more: dict[str, str]) -> str:
            headers = {"Host": part.host, "Cookie": f"{part.key}=user-{number}", **more}
            url = f"http://127.0.0.1:{port}{part.path}"
            async with session.get(url, headers=headers) as answer:
                assert answer.status == 200
                name, _, found = (await answer.text()).partition(" ")
                assert name == part.name
                return found

        for number in range(USERS):
            bucket = mmh3.hash(f"{part.salt}user-{number}", signed=False) % 10_000
            drawn = "canary" if bucket < round(part.weight * 100) else "stable"
            on_canary += drawn == "canary"
            assert await version(number, {}) == drawn, number
        for more, wanted in part.forced:
            assert {await version(number, more) for number in range(10)} == {wanted}
    assert (0 < on_canary < USERS) == (part.weight > 0)


# What is said, and what is refused


def test_only_still_imports_one_split_as_one_service() -> None:
    done = imported("ingress-services.yaml", Wanted("cart-canary"))
    found = config.parse(done.text, file="import")
    assert found.services == {}
    assert found.split.weight == 20


def test_comments_name_what_no_split_uses_once_and_what_one_uses_not_at_all() -> None:
    for file, unused, used in (
        ("nginx-services.conf", "the server docs.example.com", "the server search.example.com"),
        ("ingress-services.yaml", "shop.example.com/ of shop", "shop.example.com/cart of shop"),
    ):
        text = " ".join(
            line.strip("# ") for line in imported(file).text.splitlines() if line[0] == "#"
        )
        assert text.count(f"no equivalent: {unused} (") == 1
        assert used not in text


def test_a_limit_of_one_service_is_the_longest_of_all() -> None:
    done = imported("nginx-services.conf")
    assert config.parse(done.text, file="import").limits.first_byte_timeout == 40
    assert "is one for all services: the longest holds" in done.text.replace("\n#  ", "")


def ingress(name: str, hosts_and_paths: str, *, canary: bool = False) -> str:
    rules = "".join(
        f"    - host: {host}\n      http: {{paths: [{{path: {path}, pathType: Prefix, backend: {{service:"
        f" {{name: {name}, port: {{number: 80}}}}}}}}]}}\n"
        for host, _, path in (one.partition("|") for one in hosts_and_paths.split())
    )
    notes = 'annotations: {nginx.ingress.kubernetes.io/canary: "true"}' if canary else ""
    return (
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n"
        f"  name: {name}\n  {notes}\nspec:\n  rules:\n{rules}---\n"
    )


def test_hosts_of_a_service_that_have_other_paths_are_refused() -> None:
    text = (
        ingress("a", "x.example|/a y.example|/b")
        + ingress("a-canary", "x.example|/a y.example|/b", canary=True)
        + ingress("b", "z.example|/")
        + ingress("b-canary", "z.example|/", canary=True)
    )
    with pytest.raises(ConfigError, match="the same paths with a canary for each host"):
        convert([("source", text)], read_files)


def test_two_splits_for_the_same_place_are_refused() -> None:
    text = (
        ingress("a", "x.example|/a")
        + ingress("a-canary", "x.example|/a", canary=True)
        + ingress("b-canary", "x.example|/a", canary=True)
    )
    with pytest.raises(
        ConfigError, match=r"services.a takes x.example, path /a already.*--only NAME"
    ):
        convert([("source", text)], read_files)


def test_more_splits_than_are_sensible_are_refused() -> None:
    text = "".join(
        ingress(f"s{at}", f"s{at}.example|/")
        + ingress(f"s{at}-canary", f"s{at}.example|/", canary=True)
        for at in range(MOST_SPLITS + 1)
    )
    with pytest.raises(ConfigError, match=f"found {MOST_SPLITS + 1} splits"):
        convert([("source", text)], read_files)


def test_names_of_splits_become_names_of_services() -> None:
    names = ["Cart_v2", "cart-v2-canary", "*.example.com", "---", "a" * 80, "cart-v2"]
    assert service_names(names) == [
        "cart-v2",
        "cart-v2-2",
        "example-com",
        "service",
        "a" * 57,
        "cart-v2-3",
    ]


def test_envoy_takes_the_source() -> None:
    envoy = Path(sys.executable).with_name("envoy")
    if not envoy.exists():
        pytest.skip("envoy is not installed")
    done = subprocess.run(
        [envoy, "--mode", "validate", "-c", SOURCES / "envoy-services.yaml", "-l", "error"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


TWO_WEIGHTED = """\
http:
  routers:
    a: {rule: "%s", service: a%s}
    b: {rule: "Host(`b.example`)", service: b}
  services:
    a: {weighted: {services: [{name: x, weight: 1}, {name: y, weight: 1}]}}
    b: {weighted: {services: [{name: x, weight: 3}, {name: y, weight: 1}]}}
    x: {loadBalancer: {servers: [{url: "http://127.0.0.1:1"}]}}
    y: {loadBalancer: {servers: [{url: "http://127.0.0.1:2"}]}}
"""


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("Host(`a.example`) && Header(`X-A`, `1`)", "a service has hosts and prefixes of paths"),
        ("HostRegexp(`^.+[.]example$`)", "a service has hosts and prefixes of paths"),
        ("PathRegexp(`^/a`)", "a service has hosts and prefixes of paths"),
        ("!PathPrefix(`/`)", "it negates what every request has"),
    ],
)
def test_a_split_for_some_requests_of_a_place_is_refused_among_several(rule: str, why: str) -> None:
    text = TWO_WEIGHTED % (rule, "")
    with pytest.raises(ConfigError, match=rf"the router a is for .*{why}.*--only NAME"):
        convert([("source", text)], read_files)
    found = config.parse(convert([("source", text)], read_files, wanted=Wanted("b")).text, file="x")
    assert (found.services, found.split.weight) == ({}, 25)


def test_priorities_of_traefik_that_places_do_not_have_are_said() -> None:
    text = convert(
        [("source", TWO_WEIGHTED % ("Host(`a.example`)", ", priority: 9"))], read_files
    ).text
    assert "priority of the router a: here the exact host comes first" in text
    services = config.parse(text, file="x").services
    assert {name: one.hosts for name, one in services.items()} == {
        name: (f"{name}.example",) for name in "ab"
    }


def routes(*hosts: str) -> str:
    """Return a route configuration of Envoy: names, domains and routes of virtual hosts."""
    return "virtual_hosts:\n" + "".join(f"  - {one}\n" for one in hosts)


SPLIT = (
    "route: {weighted_clusters: {clusters: [{name: %s, weight: 1}, {name: %s-next, weight: 1}]}}"
)


def test_domains_of_envoy_become_hosts() -> None:
    text = routes(
        "{name: a, domains: ['A.example:8080', '*.a.example', 'a.*'], routes: ["
        f"{{match: {{prefix: /}}, {SPLIT % ('a', 'a')}}}]}}",
        f"{{name: b, domains: ['*'], routes: [{{match: {{prefix: /b}}, {SPLIT % ('b', 'b')}}}]}}",
    )
    done = convert([("source", text)], read_files).text
    found = config.parse(done, file="x").services
    assert (found["a"].hosts, found["a"].paths) == (("a.example", "*.a.example"), ())
    assert (found["b"].hosts, found["b"].paths) == ((), ("/b",))
    assert "the domain a.*" in done
    assert "the path /b is a prefix of whole segments here" in done
    with pytest.raises(ConfigError, match="expected a domain that is a name"):
        convert([("source", text.replace("'A.example:8080', '*.a.example', ", ""))], read_files)


def test_a_route_of_envoy_behind_one_for_every_request_is_no_split() -> None:
    text = routes(
        f"{{name: a, domains: ['*'], routes: [{{match: {{prefix: /}}, {SPLIT % ('a', 'a')}}},"
        f" {{match: {{prefix: /b}}, {SPLIT % ('b', 'b')}}}]}}"
    )
    assert config.parse(convert([("source", text)], read_files).text, file="x").services == {}


def test_certificates_of_all_filter_chains_of_a_listener_are_imported() -> None:
    chain = (
        "{filter_chain_match: {server_names: [%s.example]}, transport_socket: {name: tls, typed_config:"
        " {common_tls_context: {tls_certificates: [{certificate_chain: {filename: /%s.pem}, private_key:"
        " {filename: /%s.key}}]}}}, filters: [{name: hcm, typed_config: {route_config: {virtual_hosts:"
        " [{name: %s, domains: [%s.example], routes: [{match: {prefix: /}, " + SPLIT + "}]}]}}}]}"
    )
    chains = ", ".join(chain % ((name,) * 7) for name in ("a", "b"))
    address = "{socket_address: {address: 127.0.0.1, port_value: 8443}}"
    text = f"static_resources: {{listeners: [{{address: {address}, filter_chains: [{chains}]}}]}}"
    found = config.parse(convert([("source", text)], read_files).text, file="x")
    (listener,) = found.listen
    assert listener.tls is not None
    assert [one.cert for one in listener.tls.certificates] == ["/a.pem", "/b.pem"]
    assert [found.services[name].hosts for name in "ab"] == [("a.example",), ("b.example",)]
