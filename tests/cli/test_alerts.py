"""``canaryproxy alerts``: rules that a person can act on, with the addresses that were given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from canaryproxy.cli import main

RULES = Path(__file__).parents[2] / "config" / "alerts.yml"
RUNBOOK = "https://wiki.example.com/canaryproxy/runbook"


def alerts(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["alerts", *arguments], prog_name="canaryproxy")


def test_the_rules_of_config_are_the_output() -> None:
    """``canaryproxy alerts --runbook https://wiki.example.com/canaryproxy/runbook`` mends them."""
    assert alerts("--runbook", RUNBOOK).stdout == RULES.read_text()


def test_every_alert_has_the_given_addresses() -> None:
    done = alerts("--runbook", "http://[::1]/r?a=1&b='2'", "--dashboard", "https://canary.example/")
    assert done.exit_code == 0
    assert not re.search(r"<\w", done.stdout), "a macro is left"
    groups = yaml.safe_load(done.stdout)["groups"]
    found = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert len(found) > 20
    for rule in found:
        told = rule["annotations"]
        assert told["runbook_url"] == f"http://[::1]/r?a=1&b='2'#{rule['alert'].lower()}"
        assert told.get("dashboard", "https://canary.example/") == "https://canary.example/"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--runbook"),
        (["--runbook", "wiki/runbook"], "--runbook must be an absolute http(s) URL, found"),
        (["--runbook", 'https://a/"'], "--runbook must be an absolute http(s) URL, found"),
        (["--runbook", "https://a/\\"], "--runbook must be an absolute http(s) URL, found"),
        (["--runbook", RUNBOOK, "--dashboard", "/"], "--dashboard must be an absolute http(s) URL"),
    ],
)
def test_an_address_that_nobody_can_open_is_refused(arguments: list[str], says: str) -> None:
    done = alerts(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert says in said
