"""Items of structured fields: RFC 9651 as its text has it, and what is read is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.structured import (
    LARGEST,
    Bare,
    Date,
    Decimal,
    Display,
    Item,
    NotStructured,
    Token,
    parse_item,
    write_item,
)

_FIRST = "abcdefghijklmnopqrstuvwxyz*"
keys = st.builds(
    str.__add__, st.sampled_from(_FIRST), st.text(_FIRST + "0123456789_-.", max_size=8)
)
tokens = st.builds(
    str.__add__,
    st.sampled_from("abzABZ*"),
    st.text("abzABZ019!#$%&'*+-.^_`|~:/", max_size=12),
).map(Token)
bare: st.SearchStrategy[Bare] = st.one_of(
    st.integers(-LARGEST, LARGEST),
    st.integers(-(10**15) + 1, 10**15 - 1).map(Decimal),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
    tokens,
    st.binary(max_size=20),
    st.booleans(),
    st.integers(-LARGEST, LARGEST).map(Date),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(Display),
)
items = st.builds(Item, bare, st.dictionaries(keys, bare, max_size=4))


@given(items)
def test_an_item_is_read_as_it_was_written(item: Item) -> None:
    text = write_item(item)
    found = parse_item(text)
    assert found == item
    assert list(found.parameters) == list(item.parameters)
    assert [type(one) for one in found.parameters.values()] == [
        type(one) for one in item.parameters.values()
    ]
    assert parse_item(b"  " + text + b" ") == item
    assert write_item(found) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_an_item_or_refused(value: bytes) -> None:
    try:
        found = parse_item(value)
    except NotStructured:
        return
    assert parse_item(write_item(found)) == found


@pytest.mark.parametrize(
    ("text", "item"),
    [
        (b"42", Item(42)),
        (b"-0", Item(0)),
        (b"4.5", Item(Decimal(4500))),
        (b"-0.125", Item(Decimal(-125))),
        (b'"hello \\"world\\\\"', Item('hello "world\\')),
        (b"foo123/456", Item(Token("foo123/456"))),
        (b":cHJldGVuZCB0aGlz:", Item(b"pretend this")),
        (b":aGVsbG8:", Item(b"hello")),
        (b"?1", Item(value=True)),
        (b"@1659578233", Item(Date(1659578233))),
        (b'%"display to %c3%bcsers."', Item(Display("display to üsers."))),
        (b"5; foo=bar", Item(5, {"foo": Token("bar")})),
        (b"abc;a=1;b;a=2", Item(Token("abc"), {"a": 2, "b": True})),
        (b"1;q=?0", Item(1, {"q": False})),
    ],
)  # fmt: skip
def test_what_the_rfc_shows(text: bytes, item: Item) -> None:
    assert parse_item(text) == item


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" ", b"-", b"1.", b".5", b"1.2345", b"1234567890123456", b"1234567890123.1", b"1.2.3"),
        *(b'"open', b'"a\\b"', b'"tab\t"', b'"\x7f"', b'"\xc3\xa9"', b":a:", b":_-8:", b":ab"),
        *(b"@1.5", b"@", b'%"%C3%BC"', b'%"%ff"', b'%"open', b"%x", b"a;", b"a;A=1"),
        *(b"a;=1", b"a;b=", b"?2", b"?"),
        *(b"a b", b"a ;b", b"a,b", b"canary, canary", b"a;b =1", b"a\t", b"(a b)", b"a;b=(1)"),
        *(b"\na", b"a\x00"),
    ],
)  # fmt: skip
def test_what_is_no_item_has_no_value(text: bytes) -> None:
    with pytest.raises(NotStructured):
        parse_item(text)


@pytest.mark.parametrize(
    "item",
    [
        *(Item("é"), Item("a\n"), Item(Token("a b")), Item(Token("")), Item(10**15)),
        *(Item(Decimal(10**15)), Item(Date(-(10**15))), Item(Display("\ud800")), Item(1, {"A": 1})),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(item: Item) -> None:
    with pytest.raises(NotStructured):
        write_item(item)
