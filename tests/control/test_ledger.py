"""The ledger: every record is in the log once, as loud as it is grave."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from canaryproxy.control.ledger import Ledger
from canaryproxy.release.circuit import Record
from canaryproxy.release.rollout import Rollout
from canaryproxy.runtime.logs import JsonLines, TextLines


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
    assert "why" in entry.getMessage()


ON, OFF = "5% of users on the canary", "all users go to stable"
PLACE: dict[str, Any] = {"step": 2, "steps": 3, "weight": 5.0}


@pytest.mark.parametrize(
    ("what", "cause", "figures", "line"),
    [
        ("started", "by ann", {**PLACE, "step": 0}, f"started by ann; before step 1 of 3, {ON}"),
        ("step", "no regression", PLACE, f"next step: no regression; step 2 of 3, {ON}"),
        ("tripped", "rate 9%", {"weight": 20.0}, f"tripped at 20%: rate 9%; {OFF}"),
        ("tripped", "manually by ann", {"weight": 2.0}, f"tripped at 2% manually by ann; {OFF}"),
        ("tripped", "bad state file", {"weight": 0.0}, "tripped: bad state file"),
        ("reset", "by ann: fixed", {}, f"reset by ann: fixed; {ON} again"),
        ("aborted", "by ann", PLACE, f"aborted by ann; {ON}"),
        ("suspect", "error rate 3%", {}, "suspect: error rate 3%"),
        ("gate", "refused", {**PLACE, "passed": False}, "gate: refused"),
        ("weight", "1% to 5% by ann", {**PLACE, "steps": 0}, "weight: 1% to 5% by ann"),
    ],
)
def test_line_says_where_the_release_is_now(
    what: str, cause: str, figures: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Ledger(Rollout(weight=5.0), lambda: 5.0).note(what, cause, figures)
    assert [entry.getMessage() for entry in caplog.records] == [line]


@pytest.mark.parametrize("pair", [("tripped", "stopped"), ("reset", "restored")])
def test_what_a_trip_or_a_reset_does_to_the_release_is_no_second_line(
    pair: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = Ledger(Rollout(), lambda: 5.0)
    ledger.write(tuple(Record(5.0, what, "why", {}) for what in pair))
    assert [entry.__dict__["record"]["what"] for entry in caplog.records] == [pair[0]]
    assert [record.what for record in ledger.history] == list(pair)


def test_line_and_its_fields_name_the_service_where_there_are_several(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    Ledger(Rollout(), lambda: 5.0, "cart").note("step", "why", {})
    Ledger(Rollout(), lambda: 5.0).note("step", "why", {})
    named, plain = caplog.records
    assert " INFO service=cart next step: why" in TextLines().format(named)
    assert json.loads(JsonLines().format(named))["service"] == "cart"
    assert "service" not in TextLines().format(plain)
    assert "service" not in json.loads(JsonLines().format(plain))
