"""docs/operations.md leaves out no metric, alert or kind of record, and names none that is not there."""

from __future__ import annotations

import re
from typing import get_args

import yaml

from canaryproxy.config.model import EventName
from tests.admin.test_collector import OPENMETRICS, our_families
from tests.deploy.dockerfile import ROOT

TEXT = (ROOT / "docs" / "operations.md").read_text()


def rows(head: str) -> list[str]:
    """The first cells of the table under a head, without their code marks."""
    table = TEXT.partition(head)[2].partition("\n\n")[0]
    cells = re.findall(r"^\| `?(\w+)`? \|(.*)\|$", table, re.MULTILINE)
    for name, rest in cells:
        assert rest.partition("|")[0].strip(), f"docs/operations.md says nothing of {name}"
    return [name for name, _ in cells]


def test_every_metric() -> None:
    exposed = {
        family.name + "_total" * (family.type == "counter") for family in our_families(OPENMETRICS)
    }
    listed = rows("| metric | look at it when | wrong is |")
    assert len(listed) == len(set(listed))
    assert set(listed) == exposed, "docs/operations.md"


def test_every_alert() -> None:
    groups = yaml.safe_load((ROOT / "config" / "alerts.yml").read_text())["groups"]
    known = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert sorted(rows("| alert | first |")) == sorted(known), "docs/operations.md"


def test_every_kind_of_record() -> None:
    assert sorted(rows("| record | means | do |")) == sorted(get_args(EventName)), (
        "docs/operations.md"
    )
