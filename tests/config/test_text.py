"""Numbers as people read them."""

from __future__ import annotations

from math import inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import text

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats(), max_size=3)
)  # fmt: skip


@given(ANYTHING)
def test_any_value_becomes_one_printable_line(value: object) -> None:
    for say in (text.count, text.weight, text.percent, text.odds, text.latency, text.duration):
        assert say(value).isprintable()


@pytest.mark.parametrize("value", [None, nan, inf, True, "1", [1]])
def test_only_a_finite_number_is_a_number(value: object) -> None:
    assert text.count(value) == text.odds(value) == text.duration(value) == text.NONE


def test_counts_weights_and_shares() -> None:
    assert [text.count(one) for one in (0, 1336, 1e6)] == ["0", "1,336", "1,000,000"]
    assert [text.weight(one) for one in (5.0, 0.25, 100)] == ["5%", "0.25%", "100%"]
    assert [text.percent(one) for one in (0, 0.00001, 0.0236, 0.5, 1)] == [
        "0%", "<0.01%", "2.36%", "50.0%", "100%",
    ]  # fmt: skip


def test_odds_have_three_digits_at_most() -> None:
    assert [text.odds(log(one)) for one in (0.001, 0.63, 2.5, 122, 7741, 120_000)] == [
        "<0.01:1", "0.63:1", "2.5:1", "122:1", "7,740:1", "120,000:1",
    ]  # fmt: skip
    assert [text.odds(log(one)) for one in (2.44e6, 31e6, 999e6, 7.2e9)] == [
        "2.4 million:1", "31 million:1", "999 million:1", "7.2 billion:1",
    ]  # fmt: skip
    assert text.odds(50) == text.BEYOND


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0482, "48 ms"), (0.0012, "1.2 ms"), (1.25, "1.25 s"), (0.99999, "1 s"), (0, "0 ms")],
)
def test_a_latency_reads_in_its_natural_unit(seconds: float, said: str) -> None:
    assert text.latency(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "0 s"), (0.25, "0.25 s"), (1.5, "1.5 s"), (12.9, "12 s"), (60, "1 min")),
        *((288, "4 min 48 s"), (3600 * 26, "1 d 2 h"), (86400 * 3, "3 d")),
    ],
)
def test_a_duration_reads_in_its_largest_units(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said
