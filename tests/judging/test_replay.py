"""The offline judge: its numbers, its verdicts, and the mistakes it names."""

from __future__ import annotations

import json
from math import exp, fsum, inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.replay import FIELDS, Row, RowError, Time, read_rows, replay

HEADER = ",".join(FIELDS)


def row(t: Time, n_s: int, e_s: int, n_c: int, e_c: int) -> Row:
    return Row(t, n_s, e_s, n_c, e_c)


def counts() -> st.SearchStrategy[Row]:
    def events(trials: tuple[int, int]) -> st.SearchStrategy[Row]:
        n_s, n_c = trials
        return st.builds(
            Row,
            t=st.integers(0, 10**6),
            stable_trials=st.just(n_s),
            stable_events=st.integers(0, n_s),
            canary_trials=st.just(n_c),
            canary_events=st.integers(0, n_c),
        )

    return st.tuples(st.integers(0, 500), st.integers(0, 60)).flatmap(events)


def independent(rows: list[Row], direction: Direction) -> float:
    """ln E written from the design, in another way than the engine's."""
    logs = []
    for k in (1.5, 2, 3, 5, 10, 30, 100):
        k = k if direction == "increase" else 1 / k
        terms = []
        for one in rows:
            n_c, n_s = one.canary_trials, one.stable_trials
            if n_c == 0 or n_s == 0:
                continue
            rho = n_c / (n_c + n_s)
            theta = k * n_c / (k * n_c + n_s)
            terms.append(one.canary_events * (log(theta) - log(rho)))
            terms.append(one.stable_events * (log(1 - theta) - log(1 - rho)))
        logs.append(fsum(terms))
    top = max(logs)
    return top + log(fsum(exp(x - top) for x in logs) / 7)


@given(st.lists(counts(), max_size=30), st.sampled_from(["increase", "decrease"]))
@settings(max_examples=150, deadline=None)
def test_log_evidence_agrees_with_an_independent_computation(
    rows: list[Row], direction: Direction
) -> None:
    result = replay(rows, direction=direction)
    expected = independent(rows, direction)
    assert abs(result.log_evidence - expected) <= 1e-9 * max(abs(expected), 1.0)
    running = [independent(rows[: at + 1], direction) for at in range(len(rows))]
    assert abs(result.max_log_evidence - max([0.0, *running])) <= 1e-9 * max(
        [1.0, *map(abs, running)]
    )
    tripped = next((one.t for one, e in zip(rows, running, strict=True) if e >= log(1000)), None)
    assert result.tripped_at == tripped
    assert (result.verdict == "breach") == (tripped is not None)


def test_a_broken_canary_trips_where_it_should() -> None:
    rows = [row(at / 10, 99, 0, 1, 1) for at in range(10)]
    result = replay(rows)
    assert result.verdict == "breach"
    assert result.tripped_at == 0.2
    assert result.canary_trials_at_trip == 3
    assert result.rate_ratio_interval[0] > 10
    assert result.rate_ratio_interval[1] == inf


def test_a_healthy_canary_is_ok() -> None:
    result = replay([row(at, 900, 9, 100, 1) for at in range(50)])
    assert result.verdict == "ok"
    assert result.tripped_at is result.canary_trials_at_trip is None
    low, high = result.rate_ratio_interval
    assert low < 1 < high


def test_between_the_two_limits_it_is_suspect_and_stays_so() -> None:
    rows = [row(1, 99, 0, 1, 1), row(2, 99, 0, 1, 1)]
    suspect = replay(rows)
    assert suspect.verdict == "suspect"
    calmed = replay([*rows, *(row(at, 990, 10, 10, 0) for at in range(100))])
    assert calmed.log_evidence < log(20) <= calmed.max_log_evidence
    assert calmed.verdict == "suspect"


def test_a_margin_needs_the_difference_over_all_rows() -> None:
    rows = [row(at, 1000, 5, 1000, 9) for at in range(200)]
    assert replay(rows).verdict == "breach"
    assert replay(rows, margin=0.0039).verdict == "breach"
    assert replay(rows, margin=0.01).verdict == "suspect"
    late = replay(
        [row(0, 1000, 0, 1000, 0), *(row(at, 10, 0, 10, 10) for at in range(1, 9))], margin=0.03
    )
    assert late.tripped_at == 4  # 1040 canary trials with 40 events are the first above 3 %


def test_a_drop_is_the_mirror() -> None:
    rows = [row(at, 1000, 50, 1000, 20) for at in range(20)]
    assert replay(rows, direction="increase").verdict == "ok"
    drop = replay(rows, direction="decrease", margin=0.02)
    assert drop.verdict == "breach"
    assert drop.rate_ratio_interval[1] < 1
    assert replay(rows, direction="decrease", margin=0.04).verdict == "suspect"


def test_json_has_the_fields_and_no_number_that_readers_refuse() -> None:
    record = replay([row(0, 10**6, 0, 10**6, 10**6)]).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["evidence"] == record["max_evidence"] == 1.7976931348623157e308
    assert record["log_evidence"] > 1000
    assert list(record)[:6] == [
        "verdict",
        "evidence",
        "max_evidence",
        "tripped_at",
        "canary_trials_at_trip",
        "rate_ratio_interval",
    ]
    nothing = replay([]).to_dict()
    assert nothing["rate_ratio_interval"] == [0.0, None]
    assert (nothing["verdict"], nothing["max_evidence"]) == ("ok", 1.0)
    assert abs(nothing["evidence"] - 1.0) < 1e-12


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_alpha_must_be_a_chance(value: float) -> None:
    with pytest.raises(ValueError, match="alpha must lie"):
        replay([], alpha=value)
    with pytest.raises(ValueError, match="alpha_hold must lie"):
        replay([], alpha_hold=value)


def test_margin_must_be_a_rate() -> None:
    with pytest.raises(ValueError, match="margin must lie"):
        replay([], margin=-0.1)


def test_reads_what_tools_write() -> None:
    text = (
        "\ufeff canary_events,t,stable_trials,stable_events,canary_trials\r\n"
        "\r\n"
        '1,0, 99,0,"2"\r\n'
        ",,,,\n"
        "0,1.5,99.0,1,0\n"
        "0,2026-01-31T12:00:00Z,1,0,0"
    )
    rows = list(read_rows(text.splitlines(keepends=True)))
    assert rows == [
        row(0, 99, 0, 2, 1),
        row(1.5, 99, 1, 0, 0),
        row("2026-01-31T12:00:00Z", 1, 0, 0, 0),
    ]
    assert isinstance(rows[0].t, int)
    assert list(read_rows([HEADER, "5,1,0,1,0", "3,1,0,1,0"]))[1].t == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: found no header"),
        (["\n", "\n"], "line 1: found no header"),
        (["t,stable_trials"], "line 1: found no column 'stable_events', expected the columns t,"),
        ([HEADER + ",note"], "line 1: found the column 'note'"),
        ([HEADER + ",t"], "line 1: found the column 't' twice"),
        ([HEADER, "0,1,0,1"], "line 2: found 4 values, expected 5"),
        (
            [HEADER, "0,1,0,1,0", "1,-1,0,1,0"],
            "line 3, stable_trials: found '-1', expected a whole",
        ),
        ([HEADER, "0,1,0,nan,0"], "line 2, canary_trials: found 'nan', expected a whole number"),
        ([HEADER, "0,1,0,inf,0"], "line 2, canary_trials: found 'inf'"),
        ([HEADER, "0,1,0,1.5,0"], "line 2, canary_trials: found '1.5'"),
        ([HEADER, "0,1,0,,0"], "line 2, canary_trials: found ''"),
        ([HEADER, "0,1_0,0,1,0"], "line 2, stable_trials: found '1_0'"),
        ([HEADER, f"0,1{'0' * 400},0,1,0"], "line 2, stable_trials: found '1000"),
        ([HEADER, "0,1e400,0,1,0"], "line 2, stable_trials: found '1e400'"),
        ([HEADER, "0,1,0,x,0"], "line 2, canary_trials: found 'x'"),
        ([HEADER, "0,1,2,1,0"], "line 2, stable_events: found 2, expected at most stable_trials"),
        ([HEADER, "0,1,0,1,2"], "line 2, canary_events: found 2, expected at most canary_trials"),
        ([HEADER, "nan,1,0,1,0"], "line 2, t: found 'nan', expected a number"),
        ([HEADER, ",1,0,1,0"], "line 2, t: found ''"),
        ([HEADER, '0,1,0,1,"0'], "line 2"),
    ],
)
def test_mistakes_are_named(lines: list[str], message: str) -> None:
    with pytest.raises(RowError) as caught:
        list(read_rows(lines))
    assert str(caught.value).startswith(message)
