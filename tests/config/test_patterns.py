"""Regular expressions: found where they should be, and never at a cost that explodes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config.patterns import searcher
from canaryproxy.measure.outcomes import INSPECTED


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^/v[0-9]+/", b"/v12/x", True),
        ("^/v[0-9]+/", b"/va/x", False),
        ("(?i)ERROR", b"an error", True),
        ("käse", "käse".encode(), True),
        (".", b"\xff", True),
        ("", b"", True),
        ("a$", b"a\n", False),
    ],
)
def test_a_searcher_finds_its_pattern_in_bytes(pattern: str, text: bytes, expected: bool) -> None:
    assert searcher(pattern)(text) is expected


@given(
    st.text("ab|()*+?.[]^", max_size=12),
    st.binary(max_size=30) | st.text("ab", max_size=20).map(str.encode),
)
def test_what_both_take_means_what_it_means_in_python(pattern: str, text: bytes) -> None:
    try:
        found = searcher(pattern)
        expected = re.compile(pattern.encode())
    except (ValueError, re.error, FutureWarning):
        return
    assert found(text) == (expected.search(text) is not None)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a+)+$", b"a" * INSPECTED + b"b"),
        ("(a|aa)+$", b"a" * INSPECTED + b"b"),
        ("(.*)*x", b"y" * INSPECTED),
        ("(x+x+)+y", b"x" * INSPECTED),
        ("[a-q][^u-z]{400}x", b"abcdefghijk" * 6000),
        ("(?:a?){200}a{200}", b"a" * 199),
    ],
)
def test_a_pattern_that_makes_others_backtrack_for_hours_ends(pattern: str, text: bytes) -> None:
    assert searcher(pattern)(text) is False


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "(?=a)",
        "(?<!a)b",
        r"(a)\1",
        "a{1001}",
        "((a{100}){100}){100}",
        "a.{0,400}b",
        "a{600}b{600}",
        ".*a.{900}.*b.{900}z",
    ],
)
def test_what_cannot_be_bounded_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        searcher(pattern)
    assert "b'" not in str(raised.value)
