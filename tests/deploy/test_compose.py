"""config/compose: valid by the Compose Specification, and true about image, proxy and configurations."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from canaryproxy import config
from tests.deploy.dockerfile import ROOT, stages
from tests.ports import free_port
from tests.system.processes import DEADLINE, Process, answers, until

FOLDER = ROOT / "config" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIG = config.parse(
    (FOLDER / "canaryproxy" / "canaryproxy.yaml").read_text(), file="canaryproxy.yaml"
)


def mounts(service: str) -> dict[str, str]:
    """Targets to sources."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, target, *_ = volume.split(":")
        found[target] = source
    return found


def published(service: str) -> dict[int, str]:
    """Ports in the container to where they are published."""
    found = {}
    for port in SERVICES[service]["ports"]:
        outside, _, inside = port.rpartition(":")
        found[int(inside)] = outside
    return found


def test_the_specification_takes_it() -> None:
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((vendored / "compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)


def test_every_file_and_volume_that_it_names_exists() -> None:
    for name, service in SERVICES.items():
        for source in mounts(name).values() if "volumes" in service else ():
            if source.startswith("."):
                assert (FOLDER / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]
    context = FOLDER / SERVICES["proxy"]["build"]["context"]
    assert (context / "Dockerfile").samefile(ROOT / "Dockerfile")


def test_the_proxy_gets_what_the_image_expects() -> None:
    final = {line.name: line.value for line in stages()[1]}
    path = Path(json.loads(final["CMD"])[2])
    assert (FOLDER / mounts("proxy")[str(path.parent)] / path.name).is_file()
    assert mounts("proxy")[final["WORKDIR"]] == "state"
    assert SERVICES["proxy"]["read_only"]
    assert SERVICES["proxy"]["cap_drop"] == ["ALL"]
    grace = SERVICES["proxy"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) >= CONFIG.limits.drain_timeout + 25
    assert CONFIG.admin.token_env in SERVICES["proxy"]["environment"]


def test_ports_are_those_of_the_configurations() -> None:
    assert CONFIG.admin.listen is not None
    ports = published("proxy")
    assert {one.address.port for one in CONFIG.listen} < ports.keys()  # type: ignore[union-attr]
    assert ports[CONFIG.admin.listen.port].startswith(
        "127.0.0.1:"
    )  # the dashboard is for this machine
    assert CONFIG.variants.canary is not None
    for variant in (CONFIG.variants.stable, CONFIG.variants.canary):
        (endpoint,) = variant.endpoints
        service = SERVICES[endpoint.host]
        assert service["entrypoint"][-1] == "canaryproxy.demo.service"
        assert service["command"][1:] == [str(endpoint.port), "0.0.0.0"]
    scraped = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": [f"proxy:{CONFIG.admin.listen.port}"]}]
    source = yaml.safe_load((FOLDER / "grafana" / "datasources.yml").read_text())["datasources"][0]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert int(port) in published(host)


def test_grafana_finds_the_dashboard() -> None:
    provider = yaml.safe_load((FOLDER / "grafana" / "dashboards.yml").read_text())["providers"][0]
    folder = provider["options"]["path"]
    shown = [source for target, source in mounts("grafana").items() if target.startswith(folder)]
    assert [(FOLDER / source).resolve() for source in shown] == [ROOT / "config" / "grafana.json"]
    dashboard = json.loads((ROOT / "config" / "grafana.json").read_text())
    kinds = {one["name"]: one.get("query") for one in dashboard["templating"]["list"]}
    assert kinds["datasource"] == "prometheus"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    for target, source in mounts("prometheus").items():
        if target.startswith("/etc/prometheus/"):
            shutil.copy(FOLDER / source, tmp_path / Path(target).name)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


def test_the_configuration_is_valid_and_safe() -> None:
    assert not config.warnings(CONFIG)
    assert CONFIG.reload.watch
    assert (
        mounts("proxy")["/etc/canaryproxy"] == "./canaryproxy"
    )  # the folder: a replaced file is seen


def test_the_services_run_and_can_be_made_to_fail_as_the_guide_says(tmp_path: Path) -> None:
    port = free_port()
    service = SERVICES["canary"]
    words = [*service["entrypoint"][1:], *service["command"]]
    process = Process(*(str(port) if word == "8000" else word for word in words), folder=tmp_path)
    try:
        until(lambda: answers(port), "service")
        # On every address, not only on 127.0.0.1.
        with urllib.request.urlopen(f"http://127.0.0.2:{port}/") as answer:
            assert json.load(answer)["version"] == service["command"][0]
        guide = (ROOT / "docs" / "deploy.md").read_text()
        (line,) = re.findall(r"exec canary python -c '(.*)'$", guide, re.MULTILINE)
        switch = [sys.executable, "-c", line.replace("8000", str(port))]
        subprocess.run(switch, check=True, timeout=DEADLINE)
        statuses = set()
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                    statuses.add(answer.status)
            except urllib.error.HTTPError as error:
                statuses.add(error.code)
                error.close()
        assert statuses == {200, 500}
    finally:
        process.end()
