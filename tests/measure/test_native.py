"""The extension ``native_bytes``: each function finds what Python finds."""

from __future__ import annotations

import mmh3
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

native_bytes = pytest.importorskip("canaryproxy.measure.native_bytes", reason="not built")

_values = st.binary(max_size=40) | st.text(st.characters(codec="ascii"), max_size=40).map(
    str.encode
)
_cookies = st.lists(
    st.sampled_from([b"id=", b"id", b"=", b"a", b"b1", b";", b"; ", b" ", b"\t", b'"', b"\xe4"]),
    max_size=12,
).map(b"".join)


def is_plain(value: bytes) -> bool:
    return bool(value) and value == value.strip() and all(0x20 <= byte <= 0x7E for byte in value)


@given(st.binary(max_size=700), st.binary(max_size=700))
@settings(max_examples=500)
def test_a_hash_is_that_of_both_in_a_row(salt: bytes, key: bytes) -> None:
    assert native_bytes.hash_of(salt, key) == mmh3.mmh3_32_uintdigest(salt + key)


@given(_values)
@example(b" a")
@example(b"a ")
@example(b"")
@example(b"a\x7f")
def test_plain_is_visible_ascii_with_blanks_inside_only(value: bytes) -> None:
    assert native_bytes.plain(value) is is_plain(value)


@given(_values, st.binary(max_size=9), st.binary(max_size=9), _values)
@example(b"aba", b"ab", b"ba", b"aba")
def test_what_is_between_two_parts(value: bytes, first: bytes, last: bytes, other: bytes) -> None:
    found = native_bytes.plain_between(first + value + last, first, last)
    assert found == (value if is_plain(value) else None)
    found = native_bytes.plain_between(other, first, last)
    size = len(other) - len(first) - len(last)
    inside = other[len(first) :][:size] if size > 0 else b""
    is_there = other.startswith(first) and other.endswith(last) and is_plain(inside)
    assert found == (inside if is_there else None)


@given(_cookies)
@example(b"xid=a")
@settings(max_examples=2000)
def test_a_plain_cookie_is_found_by_its_name(cookies: bytes) -> None:
    found = native_bytes.plain_cookie(cookies, b"id=")
    before, begin, value = cookies.partition(b"id=")
    value = value.partition(b";")[0]
    if not begin:
        assert found is None
    elif (before and not before.endswith(b"; ")) or {*value} & {*b' "\t'}:
        assert found == b""
    else:
        assert found == value


@given(st.binary(), st.binary(), st.binary())
def test_three_parts_become_one(first: bytes, second: bytes, third: bytes) -> None:
    assert native_bytes.joined(first, second, third) == first + second + third


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("joined", (b"", b"", bytearray())),
        ("hash_of", (b"",)),
        ("hash_of", ("", b"")),
        ("plain", (None,)),
        ("plain_between", (b"", b"", "")),
        ("plain_cookie", (b"a", b"a", b"a")),
    ],
)
def test_other_arguments_are_refused(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="bytes objects"):
        getattr(native_bytes, name)(*arguments)
