"""A real Prometheus scrapes a real proxy: figures, exemplars, dashboard, alerts."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port

from .processes import HERE, Process, Proxy, proxy, until, upstream, variants

ROOT = HERE.parents[1]
ALERTS = ROOT / "config" / "alerts.yml"
SCRAPING = ROOT / "config" / "prometheus.yml"
DASHBOARD = ROOT / "config" / "grafana.json"
DOCS = ROOT / "docs" / "metrics.md"

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed",
)


def promtool(*arguments: str, stdin: str | None = None) -> str:
    """Run it; fails with what it says."""
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass
class Prometheus:
    """The HTTP API of a running server."""

    port: int

    @property
    def ready(self) -> bool:
        """Whether it has started."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False  # it does not listen yet
        finally:
            connection.close()

    def get(self, path: str, **parameters: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert answer["status"] == "success", (parameters, answer)
        assert not answer.get("warnings"), (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Return the values of an instant query by the values of their labels, sorted by label."""
        found = self.get("query", query=expression)["result"]
        return {
            tuple(value for _, value in sorted(one["metric"].items())): float(one["value"][1])
            for one in found
        }

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        found = self.get("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}


@contextlib.contextmanager
def prometheus(folder: Path, admin: int) -> Iterator[Prometheus]:
    """Run a server with the configuration of config/, scraping ``admin`` each second."""
    config = yaml.safe_load(SCRAPING.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ALERTS)]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{admin}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        server = Prometheus(port)
        until(lambda: server.ready or child.poll() is not None, "prometheus")
        assert child.poll() is None, log.read_text()
        yield server
    finally:
        child.kill()
        child.wait()


@dataclass
class World:
    """A proxy, what was sent through it, and a Prometheus that watches it."""

    proxy: Proxy
    admin: int
    canary: Process
    prometheus: Prometheus
    users: int = 0
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by variant and status."""
    traces: set[str] = field(default_factory=set)

    def ask(self, path: str = "/") -> None:
        """Send a request of a new user, as part of a trace."""
        self.users += 1
        trace = f"{self.users:032x}"
        self.traces.add(trace)
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=60)
        try:
            connection.request(
                "GET",
                path,
                headers={
                    "Cookie": f"canary_id=user{self.users}",
                    "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
                },
            )
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        self.seen[answer.headers["X-Variant"], answer.status] += 1

    def scrape(self, accept: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=60)
        try:
            connection.request("GET", "/metrics", headers={"Accept": accept})
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()
        finally:
            connection.close()


MORE = """
workers: 2
state: {folder}/state.json
split: {{variant_header: X-Variant}}
release: {{id: r1, steps: [{{weight: 50, bake: 1h, min_requests: 9}}, {{weight: 100}}]}}
judge:
  baseline: 0s
  metrics: {{errors: {{}}, latency: {{}}, throughput: {{}}, business: {{outcome: home}}}}
  outcomes: {{home: {{match: {{path: {{prefix: /}}}}, when: {{status: 2xx}}}}}}
notify: [{{webhook: "http://127.0.0.1:{webhook}/hook"}}]
access_log: {{path: {folder}/access.log}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("prometheus")
    admin = free_port()
    with (
        upstream(folder, "v1") as (_, stable),
        upstream(folder, "v2") as (canary, canary_port),
        proxy(
            folder,
            variants([stable], [canary_port]),
            MORE.format(folder=folder, webhook=free_port()),
            admin=admin,
        ) as front,
        prometheus(folder, admin) as server,
    ):
        yield World(front, admin, canary, server)


def test_counters_are_the_requests_sent(world: World) -> None:
    weight = "canaryproxy_weight_ratio == 0.5"
    until(lambda: world.prometheus.query(weight), "the first step")
    for _ in range(200):
        world.ask()
    assert {variant for variant, _ in world.seen} == {"stable", "canary"}
    sent = {key: float(count) for key, count in world.seen.items()}

    def counted() -> dict[tuple[str, int], float]:
        found = world.prometheus.query("sum by (variant, code) (canaryproxy_requests_total)")
        return {(variant, int(code)): value for (code, variant), value in found.items()}

    until(lambda: sum(counted().values()) >= 200, "all requests in Prometheus")
    assert counted() == sent
    routed = world.prometheus.query("sum by (variant) (canaryproxy_routed_requests_total)")
    assert routed == {(variant,): value for (variant, _), value in sent.items()}
    timed = "sum by (variant) (canaryproxy_request_duration_seconds_count)"
    assert world.prometheus.query(timed) == routed
    in_flight = world.prometheus.query("sum(canaryproxy_inflight_requests)")
    assert in_flight == {(): 0.0}


def test_exemplars_lead_to_traces(world: World) -> None:
    def kept() -> list[Any]:
        found: list[Any] = world.prometheus.get(
            "query_exemplars",
            query="canaryproxy_request_duration_seconds_bucket",
            start="0",
            end="4102444800",
        )
        return found

    until(kept, "exemplars in Prometheus")
    traces = {one["labels"]["trace_id"] for series in kept() for one in series["exemplars"]}
    assert traces
    assert traces <= world.traces


def documented() -> set[str]:
    return set(re.findall(r"^\| `(canaryproxy_\w+)`", DOCS.read_text(), re.MULTILINE))


def families(text: str) -> set[str]:
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


def test_the_scrape_is_what_is_documented(world: World) -> None:
    text = world.scrape("text/plain")
    assert {name for name in families(text) if name.startswith("canaryproxy_")} == documented()
    assert promtool("check", "metrics", stdin=text) == ""


def series(text: str) -> set[str]:
    """Return the names of the series of a scrape, and those that Prometheus adds."""
    names = families(text)
    histograms = set(re.findall(r"^# TYPE (\w+) histogram", text, re.MULTILINE))
    parts = {name + part for name in histograms for part in ("_bucket", "_sum", "_count")}
    return names | parts | {"up"}


def names_in(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', "", expression)
    return set(re.findall(r"\b(?:(?:canaryproxy|process|python)_\w+|\w+:[\w:]+|up)\b", bare))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """Yield title and expression, with the values that Grafana would put in."""
    board = json.loads(DASHBOARD.read_text())
    found = [
        (one["title"], target["expr"]) for one in panels() for target in one.get("targets", ())
    ]
    found += [
        (one["name"], one["expr"]) for one in board["annotations"]["list"] if not one.get("builtIn")
    ]
    values = {
        "$__rate_interval": "1m",
        "$__range": "5m",
        "$job": "canaryproxy",
        "$instance": ".+",
        "$service": ".*",
    }
    for title, expression in found:
        for variable, value in values.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        yield title, expression


def test_metrics_named_by_dashboard_and_alerts_exist(world: World) -> None:
    known = series(world.scrape("text/plain")) | {
        rule["record"] for rule in rules() if "record" in rule
    }
    expressions = [expression for _, expression in dashboard_expressions()]
    expressions += [rule["expr"] for rule in rules()]
    expressions += recipes()
    for expression in expressions:
        assert names_in(expression), expression
        assert names_in(expression) <= known, expression
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            assert "canaryproxy_build_info" in known


def recipes() -> list[str]:
    """Return the queries of docs/metrics.md."""
    blocks = re.findall(r"^```promql\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    queries = [query for block in blocks for query in block.split("\n\n")]
    return [re.sub(r"^#.*\n", "", query, flags=re.MULTILINE).strip() for query in queries]


def test_a_canary_that_dies_shows_in_every_panel_and_raises_the_alarm(world: World) -> None:
    """Everything is found where the dashboard looks for it once something has happened."""
    world.canary.kill()

    def tripped() -> bool:
        world.ask()
        return "CanaryproxyTripped" in world.prometheus.firing()

    until(tripped, "the alert")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", world.proxy.port)) as client:
        client.putrequest("GET", "/", skip_host=True)
        client.endheaders()
        assert client.getresponse().status == 400
    assert sum(count for (_, status), count in world.seen.items() if status != 200) == 0, (
        "users saw what stable should have answered for"
    )

    def all_but_one_show_something() -> bool:
        found = {title for title, query in dashboard_expressions() if world.prometheus.query(query)}
        shown.update(found)
        return {title for title, _ in dashboard_expressions()} - shown <= {"Steps"}

    shown: set[str] = set()
    until(all_but_one_show_something, "every panel, but Steps: nothing has moved the release")
    assert world.prometheus.query("canaryproxy_circuit_trips_total") == {
        (*("canaryproxy_circuit_trips_total",), f"127.0.0.1:{world.admin}", "canaryproxy"): 1.0
    }
    assert world.prometheus.query('canaryproxy_events_total{event="tripped"} == 1')
    assert world.prometheus.query("sum(canaryproxy_rescued_total) > 0")


def test_alerts_and_recipes_can_be_asked(world: World) -> None:
    expressions = [rule["expr"] for rule in rules()] + recipes()
    assert len(recipes()) >= 8
    for expression in expressions:
        world.prometheus.query(expression)
    states = world.prometheus.get("rules")["groups"]
    assert {rule["health"] for group in states for rule in group["rules"]} == {"ok"}


def test_every_recipe_finds_something(world: World) -> None:
    for expression in recipes():
        assert world.prometheus.query(expression), expression


def test_promtool_accepts_rules_and_configuration() -> None:
    promtool("check", "rules", "--lint-fatal", str(ALERTS))
    promtool("check", "config", str(SCRAPING))


def test_alerts_fire_when_they_should() -> None:
    tests = ROOT / "tests" / "prometheus" / "alerts_test.yml"
    promtool("test", "rules", str(tests))
    tried = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml.safe_load(tests.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    }
    names = [rule["alert"] for rule in rules() if "alert" in rule]
    assert tried == {(name, fires) for name in names for fires in (False, True)}
