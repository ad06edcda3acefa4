"""Kinds of fields, and cutting them out of a head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.fields import (
    HARMLESS,
    REQUEST_KINDS,
    Names,
    binds,
    find_head_end,
    nominated,
    tokens,
    without,
)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_find_head_end_resumes_at_any_offset(data: bytes, start: int) -> None:
    head = data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n" + data
    end = find_head_end(head)
    assert head[:end].endswith(b"\r\n\r\n")
    assert find_head_end(head[: end - 1]) == -1
    assert find_head_end(head, min(start, end - 1)) == end


def test_names_use_bounded_memory() -> None:
    known = Names(REQUEST_KINDS)
    for number in range(5000):
        assert known.kind(b"X-%d" % number) == 0
    assert len(known._cache) <= 512
    for name, kind in REQUEST_KINDS.items():
        assert known.kind(name) == known.kind(name.upper()) == known.kind(name.title()) == kind
        if b"-" in name and kind not in HARMLESS:
            assert known.kind(name.replace(b"-", b"_")) not in (0, kind)


def test_tokens_are_split_and_lowered() -> None:
    assert tokens(b" A , ,b,\tC ,") == [b"a", b"b", b"c"]
    assert tokens(b"") == []


def test_nominated_never_drops_fields_that_frame_or_route() -> None:
    raw = [(b"Host", b"h"), (b"Content-Length", b"1"), (b"A", b"1"), (b"a", b"2"), (b"B", b"3")]
    dropped = nominated(raw, [], [b"host", b"content-length", b"a", b"close"])
    assert dropped == [(b"A", b"1"), (b"a", b"2")]


def test_without_cuts_whole_lines_and_each_once() -> None:
    raw = [(b"A", b"1"), (b"AA", b"1"), (b"A", b"1"), (b"A", b"11")]
    block = b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in raw)
    assert without(block, [(b"A", b"1")] * 2, raw) == b"\r\nAA: 1\r\nA: 11\r\n"
    assert without(block, raw, raw) == b"\r\n"
    assert without(block, [], raw) == block


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"NTLM", True), (b"Negotiate", True), (b"negotiate YII=", True), (b"Basic realm=x, NTLM", True),
        (b"Basic realm=x,\tNegotiate , x", True), (b"Basic", False), (b"NTLMx", False), (b"xNTLM", False),
        (b"Basic NTLM", False), (b"Bearer negotiate", False), (b"", False), (b"NTLM=x", False),
    ],
)  # fmt: skip
def test_schemes_that_authenticate_the_connection(value: bytes, expected: bool) -> None:
    assert binds(value) is expected
