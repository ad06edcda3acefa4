"""The status screen as lines: what it says, and that it fits."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from canaryproxy.client.screen import Ascii, View, has_unicode, screen
from tests.cli.fake import document

NOW = 1_790_000_000.0
RECORDS = [
    {"id": number, "time": NOW - 60, "what": "step", "cause": f"cause {number}", "figures": {}}
    for number in range(1, 9)
]


def lines(
    view: View,
    width: int = 80,
    height: int | None = None,
    *,
    ascii_only: bool = False,
    every: bool = False,
) -> list[str]:
    """Return the screen as a terminal shows it."""
    to = Console(
        file=io.StringIO(), width=width, height=height or 100, force_terminal=False, color_system=None,
        _environ={},
    )  # fmt: skip
    shown = screen(view, width, height, every_metric=every)
    to.print(Ascii(shown) if ascii_only else shown)
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue().splitlines()


def text(
    records: list[dict[str, Any]] | None = None, *, every: bool = False, **changed: Any
) -> str:
    view = View(document(**changed), records or [], NOW)
    return "\n".join(lines(view, 120, every=every))


def test_what_was_needed_and_is_there_is_no_share_of_more_than_one() -> None:
    steps = [{"weight": 5, "bake": 300, "min_requests": 100, "min_users": 10}]
    found = text(step=1, steps=steps, requests=92, users=25)
    assert "92 of 100 requests  ·  25 users (10 needed)" in found


def test_it_says_everything() -> None:
    shown = text(RECORDS, every=True)
    for part in (
        "cart-2.4", "RUNNING", "5% of users on the canary", "for 3 min 10 s",
        "✓ 1% ── ▶ 5% ── 25% ── 50% ── 100%", "12 s of 5 min", "130 of 1,000 requests",
        "next step waiting: 130 of 1000 requests", "circuit   closed",
        "195", "0.50%", "12 ms", "50 ms", "90 ms", "1 usable",
        "canary errors 0.6× to 1.4× stable's rate", "canary slow responses at least 1.1× stable's rate",
        "canary stalls at most 2.5× stable's rate", "canary 0.59%, stable 0.50%", "0.8:1",
        "cause 4", "cause 8",
        "verdict   the judge sees no regression in 512 canary requests since it began",
        "canary's rate, this step (12 s)",
    ):  # fmt: skip
        assert part in shown, part
    assert "cause 3" not in shown


@pytest.mark.parametrize(
    ("left", "end"), [(24.5, "the last one is closed within 24 s"), (-3.0, "overdue")]
)
def test_connections_that_leave_are_counted_with_the_time_that_is_left(
    left: float, end: str
) -> None:
    variants = document()["variants"]
    canary = variants["canary"]
    canary["long_lived"] = {"tunnels": 9, "streams": 3, "leaving": 12, "until": NOW + left}
    shown = text(variants=variants, time=NOW)
    assert f"leaving   12 tunnels and streams on canary whose users have moved: {end}" in shown
    assert "on stable whose" not in shown


def test_what_is_wrong_is_loud() -> None:
    shown = text(
        state="tripped",
        weight=0.0,
        unsaved="No space left on device",
        circuit={
            "state": "open", "cause": "errors: canary 12 of 40", "trips": 2, "since": 1.0,
            "cooldown_left": 40.0,
        },
        config={"error": "c.yaml:3:1: listen: no address", "restart_needed": ["listen", "workers"]},
        gate={"state": "refused", "cause": "status 503"},
        at_fault=["1 of 2 canary endpoints fails: http://bad (48 of 50 requests failed)"],
        unresolved=["http://cart has not been resolved for 2 min: SERVFAIL"],
        variants={"stable": {"endpoints": [{"url": "http://dead:1", "usable": False}]}, "canary": None},
    )  # fmt: skip
    for part in (
        "TRIPPED", "NOT SAVED  No space left on device",
        "next probe in 40 s (2 trips): errors: canary 12 of 40",
        "the previous one stays in force: c.yaml:3:1: listen: no address",
        "restart needed to apply listen, workers",
        "refused: status 503", "0 of 1", "not usable: http://dead:1", "not configured",
        "endpoints http://cart has not been resolved for 2 min: SERVFAIL",
        "endpoints 1 of 2 canary endpoints fails: http://bad (48 of 50 requests failed)",
    ):  # fmt: skip
        assert part in shown, part


def test_what_is_known_by_user_what_holds_and_what_is_accepted() -> None:
    steps = [{"weight": 5.0, "bake": 300.0, "min_requests": 1000, "min_users": 10}] * 2
    plain = document()["metrics"][0]
    held = ["looks worse: 4 of 41 requests", "small is blind", "stable fails too"]
    shown = text(
        steps=steps,
        users=7,
        hold="looks worse: 4 of 41 requests; small is blind; and 1 more",
        holds=held,
        accepted=["client_errors"],
        placebo={"said": "0 of 20 virtual canaries would have tripped; evidence at most 12:1"},
        metrics=[
            {**plain, "users": {"canary": 40}, "known": "3 of 40 users, 12 of 410 requests"},
            {**plain, "route": "GET /checkout", "worse": True},
            {**plain, "metric": "client_errors", "accepted": True, "level": "suspect"},
        ],
    )
    for part in (
        "7 of 10 users", "held (looks worse: 4 of 41 requests; small is blind; and 1 more)",
        "stable fails too", "accepted  client_errors (neither holds nor trips in this release)",
        "3 of 40 users, 12 of 410 requests", "worse     on GET /checkout",
        "placebo: 0 of 20 virtual canaries would have tripped; evidence at most 12:1",
    ):  # fmt: skip
        assert part in shown, part


def test_the_overview_shows_the_metrics_that_matter_and_names_the_others() -> None:
    plain = document()["metrics"][0]
    quiet = [
        {**plain, "metric": f"m{one}", "log_evidence": one / 10, "proven": one == 2}
        for one in range(4)
    ] + [{**plain, "metric": "m4", "log_evidence": plain["hold_limit"] / 2}]
    bad = [
        {**plain, "metric": "errors", "level": "breach", "reason": "why it is one"},
        {**plain, "metric": "latency", "level": "suspect"},
        {**plain, "metric": "size", "worse": True},
        {**plain, "metric": "redirects", "comparable": False},
    ]
    shown = text(metrics=[*quiet, *bad], level="breach")
    assert "breach    why it is one" in shown, "no figure beside that of the cause"
    rows = [line.split()[0] for line in shown.splitlines() if "━" in line or "─" * 9 in line]
    assert rows == ["errors", "latency", "size", "m4"], (
        "the worst first, and what is on its way to a hold"
    )
    assert " ok        3 metrics (--all): m0, m1, m3" in shown
    assert " proven    1 metric (--all): m2" in shown
    assert " no data   1 metric (--all): redirects" in shown
    everything = text(every=True, metrics=[*quiet, *bad], level="breach")
    assert "--all" not in everything
    assert all(f" {one['metric']} " in everything for one in (*quiet, *bad))


def test_where_all_is_well_the_headlines_are_shown() -> None:
    """A metric without data does not stand for the others."""
    plain = document()["metrics"][0]
    names = ("size", "errors", "latency", "latency_p99", "business")
    metrics = [{**plain, "metric": name, "log_evidence": -1.0} for name in names]
    blind = {**plain, "metric": "connections", "comparable": False, "log_evidence": 0.0}
    shown = text(metrics=[blind, *metrics])
    rows = [line.split()[0] for line in shown.splitlines() if "━" in line or "─" * 9 in line]
    assert rows == ["errors", "latency", "business"]


def test_a_warm_up_is_waited_for_and_what_holds_is_said_once() -> None:
    warming = "warming up: 21 s of 30 s; slow responses do not count yet"
    shown = text(hold=warming, holds=[warming])
    assert " next step waiting: warming up: 21 s of 30 s" in shown
    worse = "errors look worse: 4 of 41 requests"
    verdict = {"kind": "held", "said": f"the judge holds the step: {worse}"}
    shown = text(hold=worse, holds=[worse], verdict=verdict)
    assert (shown.count(worse), "next step held: see the verdict" in shown) == (1, True)


def test_a_trip_is_one_line_of_the_history() -> None:
    records = [
        {"time": 1.0, "what": what, "cause": "error rate 20%"} for what in ("tripped", "stopped")
    ]
    shown = text(records)
    assert shown.count("error rate 20%") == 1


def test_tunnels_and_streams_have_a_column_where_there_are_any() -> None:
    side = document()["variants"]["stable"]
    some = {**side, "long_lived": {"tunnels": 1200, "streams": 53, "leaving": 0, "until": None}}
    shown = text(variants={"stable": some, "canary": side})
    (head,) = [line for line in shown.splitlines() if line.startswith(" last 10 s")]
    assert "long-lived" in head
    assert "1,253" in shown
    assert "long-lived" not in text()


def test_what_other_replicas_have_left_is_said() -> None:
    fleet = {
        "group": "shop", "connected": True, "leads": True, "replicas": 3, "conflict": None,
        "leaving": {"stable": 0, "canary": 41}, "shed": {"stable": 7, "canary": 0},
    }  # fmt: skip
    shown = text(fleet=fleet)
    shed = "7 requests found stable over its measured limit at all replicas, 0 here since the start"
    assert f" shed      {shed}" in shown
    assert "shop: 3 replicas, this replica leads; traffic and percentiles are of this" in shown
    assert " leaving   41 tunnels and streams on canary at all replicas, 0 here" in shown


def test_what_never_began_has_no_age() -> None:
    head = text(state="idle", since=0.0, circuit={}).splitlines()[0]
    assert "IDLE" in head
    assert " for " not in head


def test_the_bar_shows_evidence_up_to_the_limit() -> None:
    """Evidence from 1 to the limit, logarithmic, with a tick where the step is held."""
    metric = document()["metrics"][0]

    def bar(**changed: Any) -> str:
        shown = text(metrics=[{**metric, **changed}]).splitlines()
        (found,) = [line for line in shown if line.startswith(" errors ")]
        return found.split()[1]

    quiet, half = bar(log_evidence=-3.0), bar(log_evidence=4.0)
    tripped = bar(log_evidence=9.0, level="breach")
    assert "━" not in quiet
    assert quiet.endswith("┃")
    wide = len(quiet) - 1
    assert abs(quiet.index("┼") - wide * 4.1 / 8.0) <= 1
    assert abs(half.count("━") - wide / 2) <= 1
    assert tripped == "━" * tripped.index("╋") + "╋" + "━" * (wide - tripped.index("╋") - 1) + "┃"
    assert bar(log_evidence=None, level="breach", limit=8.0) == tripped
    assert bar(limit=None).endswith("┊")


def test_of_a_long_plan_the_steps_around_the_current_one_are_shown() -> None:
    steps = [{"weight": float(one), "bake": 1.0, "min_requests": 0} for one in range(1, 61)]
    (track,) = [line for line in lines(View(document(steps=steps, step=30))) if "steps " in line]
    assert "▶ 30%" in track
    assert track.count("…") == 2
    assert "✓ 29%" in track
    assert "── 31%" in track


def test_a_lost_connection_keeps_the_figures() -> None:
    now = document()["time"]
    view = View(document(time=now - 12), RECORDS, now, "Connection refused")
    shown = lines(view, 80, 24)
    assert shown[0].startswith(
        " connection lost, reconnecting (Connection refused); figures are 12 s old"
    )
    assert "cart-2.4" in shown[1]
    renderables = screen(view, 80, 24).renderables
    assert all(getattr(one, "style", None) == "dim" for one in renderables[1:])


HOSTILE = st.text(
    st.characters() | st.sampled_from("\x1b\x9b\x07[]/漢字👩‍👩‍👧‍👦\u202e\n"), max_size=400
)
VALUE = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), HOSTILE, st.lists(st.none(), max_size=2),
    st.dictionaries(st.sampled_from(["state", "cause", "error"]), HOSTILE, max_size=3),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(document())), VALUE, max_size=12),
    st.integers(0, 30),
    st.integers(60, 140),
    st.integers(10, 40),
    st.lists(HOSTILE, max_size=7),
    st.none() | HOSTILE,
)
def test_it_fits_whatever_the_server_says(
    changed: dict[str, Any],
    metrics: int,
    width: int,
    height: int,
    causes: list[str],
    lost: str | None,
) -> None:
    shown = document()
    shown["metrics"] = [{**shown["metrics"][0], "metric": f"m{one}"} for one in range(metrics)]
    records = [{"id": 1, "time": NOW, "what": cause, "cause": cause} for cause in causes]
    view = View({**shown, **changed}, records, NOW, lost)
    found = lines(view, width, height)
    assert len(found) <= height
    for line in found:
        assert cell_len(line) <= width
        assert line.isprintable()
    for line in lines(view, width):
        assert cell_len(line) <= width
        assert line.isprintable()


def test_80_by_24_shows_a_usual_release_whole() -> None:
    shown = lines(View(document(), RECORDS, NOW), 80, 24)
    assert len(shown) <= 24
    assert "cause 8" in shown[-1]
    assert "cause 4" in "\n".join(shown)
    assert "canary's rate" in "\n".join(shown)


def test_markup_is_text() -> None:
    assert "[bold red]x[/]" in text(hold="[bold red]x[/]")


@pytest.mark.parametrize(
    ("encoding", "environment", "able"),
    [
        ("utf-8", {}, True),
        ("UTF-8", {"LANG": "en_US.UTF-8"}, True),
        ("utf8", {"LC_CTYPE": "C.UTF-8"}, True),
        ("utf-8", {"LC_CTYPE": "C.UTF-8", "LANG": "C"}, False),
        ("utf-8", {"LC_ALL": "C"}, False),
        ("utf-8", {"LC_ALL": "C.UTF-8", "LANG": "C"}, True),
        ("utf-8", {"LANG": "POSIX"}, False),
        ("iso8859-1", {"LANG": "de_DE"}, False),
        ("ascii", {}, False),
    ],
)
def test_what_terminals_can(encoding: str, environment: dict[str, str], able: bool) -> None:
    assert has_unicode(encoding, environment) is able


def test_an_ascii_screen_has_the_same_lines() -> None:
    shown = lines(View(document(), RECORDS, NOW), 80, 24, ascii_only=True)
    assert "\n".join(shown).isascii()
    assert len(shown) == len(lines(View(document(), RECORDS, NOW), 80, 24))
