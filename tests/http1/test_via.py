"""Via: the version of a message, and how often it has passed proxies of a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.via import in_version, name_in, passes, via_line

entries = st.tuples(
    st.sampled_from([b"1.1", b"1.0", b"HTTP/1.1", b"2"]),
    st.sampled_from([b"us", b"US", b"us2", b"them", b"us:80"]),
    st.sampled_from([b"", b" (us)", b"\t(x 1.1 us)"]),
)


@given(st.lists(st.lists(entries, min_size=1, max_size=4), max_size=4))
def test_entries_of_a_name_are_counted_over_all_fields(
    fields: list[list[tuple[bytes, ...]]],
) -> None:
    values = [b" , ".join(b"%b %b%b" % one for one in field) for field in fields]
    names = [name.lower() for field in fields for _, name, _ in field]
    assert passes(values, b"us") == names.count(b"us")


@pytest.mark.parametrize("value", [b"", b",", b"us", b"1.1", b" , ,", b"1.1 (us)", b'1.1 "us"'])
def test_what_names_no_proxy_counts_for_none(value: bytes) -> None:
    assert passes([value], b"us") == 0


def test_the_line_has_the_name_and_the_version() -> None:
    end = via_line("Edge-1") + b"\r\n"
    assert end == b"Via: 1.1 Edge-1\r\n\r\n"
    assert name_in(end) == b"edge-1"
    assert in_version(end, b"0") == b"Via: 1.0 Edge-1\r\n\r\n"


def test_without_a_name_there_is_no_line() -> None:
    assert via_line("") == b""
    assert name_in(b"\r\n") == b""
    assert in_version(b"\r\n", b"0") == b"\r\n"
