"""Commands on a file with several services: ``check``, ``plan`` and the id of a new release."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from time import time
from typing import Any

import pytest
from click.testing import CliRunner

from canaryproxy import config
from canaryproxy.cli.begin import NewRelease
from canaryproxy.cli.check import check
from canaryproxy.cli.condition_text import in_words
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


def checked(path: Path) -> list[str]:
    found = CliRunner().invoke(check, ["-c", str(path)])
    assert found.exit_code == 0
    return found.stdout.splitlines()


def test_check_prints_what_each_service_does(path: Path) -> None:
    assert checked(path) == [
        "cart    shop.example.com, *.shop.example.com, a.example and 1 more  /cart"
        "  cart-1: 5% of users for 5m, 50% for 5m, 100%",
        "search  shop.example.com                                                   no release: 3% of users",
        "web     everything else"
        "                                                    all-1: 1% of users for 5m, 100%",
        f"{path}: ok",
    ]


COHORTS = """
    split:
      eligible: {header: {name: X-Plan, equals: beta}}
      cohorts: {staff: {header: {name: X-Staff, present: true}, not: {path: {prefix: /admin}}}}
    release:
      id: pay-1
      steps: [{cohort: staff, weight: 9, bake: 5m}, {cohort: staff, weight: 50, bake: 90s}, {weight: 100}]
"""
OTHERS = """
    variants:
      stable: {endpoints: ["http://127.0.0.1:1"]}
      canary: {endpoints: ["http://127.0.0.1:2"]}
      others:
        v3:
          endpoints: ["http://127.0.0.1:3"]
          share: 20
          release: {id: v3-1, steps: [{weight: 5, bake: 5m}, {weight: 50}]}
        holdout: {endpoints: ["http://127.0.0.1:4"], share: 4, weight: 50}
"""


def test_check_says_who_is_drawn_and_who_has_other_versions(path: Path) -> None:
    path.write_text(f"{path.read_text()}\n  pay:\n    hosts: pay.example{COHORTS}{OTHERS}")
    lines = checked(path)
    at = next(n for n, one in enumerate(lines) if one.startswith("pay "))
    assert [one.split("  ")[-1].strip() for one in lines[at:]] == [
        "pay-1: 9% of staff for 5m, 50% for 90s, 100% of users",
        "only users with: header X-Plan is beta",
        "staff: a header X-Staff and not (path begins with /admin)",
        "v3-1, for 20% of users: 5% of them for 5m, 50%",
        "no release, for 4% of users: 50% of them",
        f"{path}: ok",
    ]
    as_json = json.loads(CliRunner().invoke(check, ["-c", str(path), "--json"]).output)
    assert [one["cohorts"] for one in as_json["services"]] == [[], [], [], ["staff"], [], []]


def test_check_says_the_same_of_a_file_with_one_service(tmp_path: Path) -> None:
    path = tmp_path / "single.yaml"
    path.write_text(textwrap.dedent(COHORTS + OTHERS))
    assert checked(path) == [
        "release          pay-1: 9% of staff for 5m, 50% for 90s, 100% of users",
        "users            by the cookie canary_id",
        "only users with  header X-Plan is beta",
        "staff            a header X-Staff and not (path begins with /admin)",
        "v3               v3-1, for 20% of users: 5% of them for 5m, 50%",
        "holdout          no release, for 4% of users: 50% of them",
        f"{path}: ok",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no release, no canary"),
        ("split: {weight: 2.5}", "no release: 2.5% of users"),
        ("split: {follow: {from: [10.0.0.0/8]}}", "no release, follows X-Canary"),
        (
            "release: {id: a, promote: manual, steps: [{weight: 1}, {weight: 100}],"
            " hold_back: {share: 1%, bake: 24h}}",
            "a: 1% of users, 99% for 1d, 100%; canaryproxy resume begins each next one",
        ),
        (
            f"release: {{id: a, steps: {json.dumps([{'weight': at} for at in range(1, 13)])}}}",
            "a: 1% of users, 2%, 3%, 4%, 5%, 6%, ..., 12% (12 steps)",
        ),
    ],
)
def test_check_says_what_a_split_does(tmp_path: Path, text: str, says: str) -> None:
    canary = ', canary: {endpoints: ["http://127.0.0.1:2"]}' if text else ""
    path = tmp_path / "c.yaml"
    path.write_text(f'variants: {{stable: {{endpoints: ["http://127.0.0.1:1"]}}{canary}}}\n{text}')
    assert checked(path)[0] == f"release  {says}"


@pytest.mark.parametrize(
    ("sticky", "says"),
    [("{header: X-User}", "by the header X-User"), ("{address: true}", "by address")],
)
def test_check_says_what_identifies_a_user(tmp_path: Path, sticky: str, says: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f'variants: {{stable: {{endpoints: ["http://127.0.0.1:1"]}}}}\nsplit: {{sticky: {sticky}}}'
    )
    assert checked(path)[1] == f"users    {says}"


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("{cookie: {name: plan, prefix: be}}", "cookie plan begins with be"),
        ("{query: {name: v, regex: ^2}}", "query v matches ^2"),
        ("{header: {name: X-A, present: false}}", "no header X-A"),
        ("{path: {equals: /x}, method: [GET, HEAD]}", "path is /x and method GET or HEAD"),
        (
            "{any: [{host: a.example}, {network: 10.0.0.0/8, host: b.example}]}",
            "(host a.example or (host b.example and client in 10.0.0.0/8))",
        ),
        ("{all: [{host: a}, {not: {host: b}}]}", "host a and not (host b)"),
        ("{host: [a, b, c, d, e, f, g]}", "host a or b or c or d or e or 2 more"),
    ],
)
def test_conditions_are_said_in_words(condition: str, words: str) -> None:
    text = f'variants: {{stable: {{endpoints: ["http://a:1"]}}}}\nsplit: {{eligible: {condition}}}'
    found = config.parse(text, file="c.yaml").split.eligible
    assert found is not None
    assert in_words(found) == words


def test_check_lists_services_as_json(path: Path, tmp_path: Path) -> None:
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
        "split": "no release: 3% of users",
        "users": "by the cookie canary_id",
        "drawn": {},
    }
    single = tmp_path / "single.yaml"
    single.write_text('variants: {stable: {endpoints: ["http://127.0.0.1:1"]}}')
    found = json.loads(CliRunner().invoke(check, ["-c", str(single), "--json"]).output)
    assert [one["name"] for one in found["services"]] == ["default"]


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
