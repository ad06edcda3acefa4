"""The ledger: every record is in the log once, as loud as it is grave."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from canaryproxy.control.ledger import Ledger
from canaryproxy.release.rollout import Rollout


@pytest.mark.parametrize(
    ("what", "figures", "level"),
    [
        ("tripped", {}, logging.ERROR),
        ("tripped", {"drill": True}, logging.WARNING),
        ("reload_failed", {}, logging.ERROR),
        ("upgrade_failed", {}, logging.ERROR),
        ("suspect", {}, logging.WARNING),
        ("gate", {"passed": False}, logging.WARNING),
        ("gate", {"passed": True}, logging.INFO),
        ("step", {}, logging.INFO),
    ],
)
def test_record_is_logged_once_at_its_level(
    what: str, figures: dict[str, Any], level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Ledger(Rollout(), lambda: 5.0).note(what, "why", figures)
    (entry,) = caplog.records
    assert entry.levelno == level
    assert entry.__dict__["record"]["what"] == what
    assert entry.getMessage().endswith("why")
