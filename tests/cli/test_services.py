"""Commands on a file with several services: ``check``, ``plan`` and the id of a new release."""

from __future__ import annotations

import json
from pathlib import Path
from time import time
from typing import Any

import pytest
from click.testing import CliRunner

from canaryproxy.cli.begin import NewRelease
from canaryproxy.cli.check import check
from canaryproxy.cli.offline import plan
from canaryproxy.config.yaml_reader import read
from canaryproxy.control.state_file import StateFile
from canaryproxy.measure.routing import STABLE
from canaryproxy.release.capacity import Carried, Load

FILE = """
variants:
  stable: {{endpoints: ["http://127.0.0.1:1"]}}
  canary: {{endpoints: ["http://127.0.0.1:2"]}}
state: {folder}/state.json
release: {{id: all-1, steps: [{{weight: 1, bake: 5m}}, {{weight: 100}}]}}
services:
  cart:
    hosts: [shop.example.com, "*.shop.example.com", a.example, b.example]
    paths: [/cart]
    release: {{id: cart-1, steps: [{{weight: 5, bake: 5m}}, {{weight: 50, bake: 5m}}, {{weight: 100}}]}}
  search: {{hosts: shop.example.com, release: , split: {{weight: 3}}}}
  web: {{}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(FILE.format(folder=tmp_path))
    return path


def test_check_prints_each_service(path: Path) -> None:
    found = CliRunner().invoke(check, ["-c", str(path)])
    assert found.exit_code == 0
    assert found.output.splitlines() == [
        "cart    shop.example.com, *.shop.example.com, a.example and 1 more  /cart  cart-1 (3 steps)",
        "search  shop.example.com                                                   no release, 3% canary",
        "web     everything else                                                    all-1 (2 steps)",
        f"{path}: ok",
    ]


def test_check_names_the_cohorts_of_a_release(path: Path) -> None:
    steps = "[{cohort: staff, weight: 9, bake: 5m}, {cohort: staff, weight: 50, bake: 5m}, {weight: 100}]"
    path.write_text(
        path.read_text()
        + f"""
  pay:
    hosts: pay.example
    split: {{cohorts: {{staff: {{header: {{name: X-Staff, equals: "yes"}}}}}}}}
    release: {{id: pay-1, steps: {steps}}}
"""
    )
    found = CliRunner().invoke(check, ["-c", str(path)]).output.splitlines()
    (line,) = (one for one in found if one.startswith("pay "))
    assert line.split("  ")[-1].strip() == "pay-1 (3 steps, first staff)"
    as_json = json.loads(CliRunner().invoke(check, ["-c", str(path), "--json"]).output)
    assert [one["cohorts"] for one in as_json["services"]] == [[], [], [], ["staff"]]


def test_check_lists_services_as_json_where_a_file_has_several(path: Path, tmp_path: Path) -> None:
    found = json.loads(CliRunner().invoke(check, ["-c", str(path), "--json"]).output)
    assert [one["name"] for one in found["services"]] == ["cart", "search", "web"]
    assert found["services"][1] == {
        "name": "search",
        "hosts": ["shop.example.com"],
        "paths": [],
        "release": None,
        "steps": 0,
        "cohorts": [],
        "weight": 3.0,
    }
    single = tmp_path / "single.yaml"
    single.write_text('variants: {stable: {endpoints: ["http://127.0.0.1:1"]}}')
    found = json.loads(CliRunner().invoke(check, ["-c", str(single), "--json"]).output)
    assert "services" not in found


def save(folder: Path, name: str, **document: Any) -> None:
    (folder / "services").mkdir(exist_ok=True)
    StateFile(folder / "services" / f"{name}.json").save(document)


def test_check_knows_the_state_of_each_service(path: Path, tmp_path: Path) -> None:
    carried = Carried()
    carried.take(STABLE, Load(time() - 7300, 420.0, 9, 2, 0.04))
    save(tmp_path, "cart", release=None, capacity=carried.to_dict())
    found = CliRunner().invoke(check, ["-c", str(path)])
    assert found.exit_code == 0
    assert f"{path}: warning: service cart: release.steps: " in found.output
    assert "service web" not in found.output


@pytest.mark.parametrize(
    ("service", "where"), [("cart", "services.cart.release.id"), ("web", "release.id")]
)
def test_check_refuses_an_ended_id_at_its_service(
    path: Path, tmp_path: Path, service: str, where: str
) -> None:
    release = {"cart": "cart-1", "web": "all-1"}[service]
    ended = {release: {"state": "promoted", "time": 1.0, "canary": ["http://127.0.0.1:9"]}}
    save(tmp_path, service, release="other", ended=ended)
    found = CliRunner().invoke(check, ["-c", str(path)])
    assert found.exit_code == 2
    assert f": {where}: service {service}: {release} was promoted" in found.output


def test_plan_is_of_one_service(path: Path) -> None:
    traffic = ["--rps", "100", "--error-rate", "0.01"]
    found = CliRunner().invoke(plan, ["-c", str(path), *traffic])
    assert found.exit_code == 2
    assert "has 3 services: say which one with --service (cart, search, web)" in found.output
    found = CliRunner().invoke(plan, ["-c", str(path), *traffic, "--service", "cart", "--json"])
    assert len(json.loads(found.output)["steps"]) == 3
    found = CliRunner().invoke(plan, ["-c", str(path), *traffic, "--service", "search"])
    assert (found.exit_code, "the service search has no release" in found.output) == (2, True)
    found = CliRunner().invoke(plan, ["-c", str(path), *traffic, "--service", "pay"])
    assert (found.exit_code, "has no service 'pay', only cart" in found.output) == (2, True)


def edited(text: str, service: str | None) -> Any:
    new = NewRelease("next-1", "anna", None, service)
    return read(new._edited({"text": text, "file": "c.yaml"}), "").value


def test_a_new_id_is_that_of_one_service(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text()
    value = edited(text, "cart")
    assert value["services"]["cart"]["release"]["id"] == "next-1"
    assert value["release"]["id"] == "all-1"
    for service, says in (
        ("web", "c.yaml has no services.web.release.id: the service takes over the release"),
        (None, "c.yaml has several services: say whose release begins with --service"),
    ):
        with pytest.raises(SystemExit):
            edited(text, service)
        assert says in capsys.readouterr().err
    release = "release: {id: a, steps: [{weight: 1}]}"
    one = f'services: {{cart: {{variants: {{stable: {{endpoints: ["http://a:1"]}}}}, {release}}}}}'
    assert edited(one, None)["services"]["cart"]["release"]["id"] == "next-1"
