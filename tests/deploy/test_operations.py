"""docs/metrics.md and docs/operations.md leave out no metric, alert or record, and name no unknown one."""

from __future__ import annotations

import re
from typing import get_args

import yaml

from canaryproxy.config.model import EventName
from tests.admin.test_collector import OPENMETRICS, our_families
from tests.deploy.dockerfile import ROOT

METRICS = (ROOT / "docs" / "metrics.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def rows(page: str, head: str) -> dict[str, list[str]]:
    """Return the rows of every table under a head: the first cell without code marks, and the others."""
    found: dict[str, list[str]] = {}
    for table in page.split(head)[1:]:
        for line in table.partition("\n\n")[0].splitlines()[2:]:
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            name = name.strip("`")
            assert name not in found, f"{name} is described twice"
            found[name] = cells
    return found


def test_every_metric_says_what_it_means_and_what_to_look_for() -> None:
    exposed = {
        family.name + "_total" * (family.type == "counter") for family in our_families(OPENMETRICS)
    }
    listed = rows(METRICS, "| metric | labels | meaning | look for |")
    assert set(listed) == exposed, "docs/metrics.md"
    for name, (_labels, meaning, look_for) in listed.items():
        assert meaning, name
        assert look_for, name


def test_every_alert_says_what_to_do() -> None:
    groups = yaml.safe_load((ROOT / "config" / "alerts.yml").read_text())["groups"]
    known = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    sections = re.findall(r"^### (\w+)\n\n\w+\. (.+)", RUNBOOK, re.MULTILINE)
    assert [name for name, _ in sections] == known, "docs/runbook.md"


def test_every_record_of_the_history_is_explained() -> None:
    listed = rows(OPERATIONS, "| record | sent by default | means | do |")
    assert sorted(listed) == sorted(get_args(EventName)), "docs/operations.md"
    for name, (_sent, means, do) in listed.items():
        assert means, name
        assert do, name


def test_nothing_is_described_in_both_pages() -> None:
    assert not re.findall(r"^\| `canaryproxy_", OPERATIONS, re.MULTILINE)
    assert not re.findall(r"^\| `?Canaryproxy", OPERATIONS, re.MULTILINE)
