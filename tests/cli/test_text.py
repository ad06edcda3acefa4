"""Figures in words."""

from __future__ import annotations

import time
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.client import text as words
from tests.cli.fake import document

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats(), max_size=3)
)  # fmt: skip


@given(ANYTHING)
def test_whatever_comes_is_one_printable_line(value: object) -> None:
    for say in (
        words.clean, words.count, words.weight, words.percent, words.rate, words.latency, words.duration,
        words.odds, words.interval, words.noun,
    ):  # fmt: skip
        assert say(value).isprintable()
    assert words.moment(value, 0.0).isprintable()
    line = words.record({"time": value, "what": value, "cause": value}, 0.0)
    assert line.isprintable()


@pytest.mark.parametrize(
    ("edges", "said"),
    [
        ([0.6, 1.4], "0.6× to 1.4× stable's rate"),
        ([None, 1.4], "at most 1.4× stable's rate"),
        ([0, 1.4], "at most 1.4× stable's rate"),
        ([1.08, None], "at least 1.1× stable's rate"),
        ([12.34, 340], "12.3× to 340× stable's rate"),
        ([None, None], "not known yet"),
        ([0, None], "not known yet"),
        ([nan, inf], "not known yet"),
        (None, "not known yet"),
    ],
)
def test_an_interval_reads_as_a_ratio_to_stable(edges: object, said: str) -> None:
    assert words.interval(edges) == said


def test_a_drill_says_when_the_last_tunnel_left() -> None:
    figures = {"seconds_to_last_request": 0.0, "requests_after": 0, "connections": 1}
    gone = {**figures, "seconds_to_last_connection": 5.25}
    assert words.drill_result(gone).endswith(
        "; the last of 1 tunnel or stream left it after 5.25 s"
    )
    stuck = words.drill_result({**figures, "connections": 9, "connections_left": 2})
    assert stuck.startswith("2 of 9 tunnels and streams had not left the canary")
    assert "canaryproxy reset" in stuck


def test_a_drill_whose_requests_did_not_end_says_what_to_do() -> None:
    assert "canaryproxy reset" in words.drill_result({"seconds_to_last_request": None})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"state": "idle", "weight": 10.0}, "10% of users go to the canary (no release configured)"),
        ({"state": "tripped", "weight": 0.0}, "tripped, all users go to stable (no release configured)"),
        (
            {"release": "r", "state": "tripped", "weight": 0},
            "r is tripped (step 2 of 5), all users on stable",
        ),
        ({"release": "r", "state": "promoted", "weight": 100.0}, "r is promoted, all users on the canary"),
    ],
)  # fmt: skip
def test_an_outcome_says_what_is(changed: dict[str, Any], said: str) -> None:
    assert words.outcome(document(**{"release": None, **changed})) == said


def test_a_time_has_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        assert words.moment(1_790_000_000.0, 1_790_000_000.0) == "16:13:20 CEST"
        assert words.moment(1_770_000_000.0, 1_790_000_000.0) == "2026-02-02 03:40:00 CET"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_percentiles_say_their_unit_once_where_it_is_one() -> None:
    def edges(*found: float) -> dict[str, float]:
        return dict(zip(("value", "low", "high"), found, strict=True))

    both = {"quantile": 0.95, "canary": edges(0.048, 0.044, 0.053), "stable": edges(0.9, 0.8, 1.2)}
    assert words.timing(both) == "canary P95 48 ms (44 to 53), stable 900 ms (800 ms to 1.2 s)"
    assert words.timing({**both, "canary": None}) == words.timing(None) == ""
