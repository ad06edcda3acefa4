"""The scanner finds what ``json.loads`` would, however the document is cut, and keeps next to nothing."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canaryproxy.measure.json_stream import (
    FOUND,
    INVALID,
    LONG_TEXT,
    LONGEST,
    MISSING,
    PENDING,
    PointerScanner,
    steps_of,
)

ABSENT = object()

KEYS = st.one_of(
    st.sampled_from(["a", "b", "", "0", "1", "é", "\U0001f600", 'q"\\', "{", "a/b"]), st.text()
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=30,
)


def scan(document: bytes, steps: tuple[str, ...], sizes: list[int]) -> tuple[int, Any]:
    """Feed a document in pieces of these sizes, again and again."""
    scanner, at = PointerScanner(steps), 0
    while at < len(document):
        for size in sizes:
            scanner.feed(document[at : at + size])
            at += size
    scanner.finish()
    return scanner.result, scanner.value


def follow(document: Any, steps: tuple[str, ...]) -> Any:
    """Return the value at a pointer as RFC 6901 says, of the whole document."""
    for step in steps:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and step.isascii():
            if str(int(step)) != step or int(step) >= len(document):
                return ABSENT
            document = document[int(step)]
        else:
            return ABSENT
    return document


def first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object in which the first of duplicate keys counts."""
    return dict(reversed(pairs))


def same(found: Any, wanted: Any) -> bool:
    """Compare a value found with the real one; of containers only whether they are empty is known."""
    if isinstance(wanted, (list, dict)):
        return type(found) is type(wanted) and bool(found) == bool(wanted)
    return type(found) is type(wanted) and bool(found == wanted)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@st.composite
def pointers(draw: st.DrawFn, document: Any) -> tuple[str, ...]:
    """Return a pointer that often leads somewhere."""
    steps: list[str] = []
    while draw(st.booleans()):
        if isinstance(document, dict) and document and draw(st.integers(0, 4)):
            step = draw(st.sampled_from(sorted(document)))
            document = document[step]
        elif isinstance(document, list) and document and draw(st.integers(0, 4)):
            at = draw(st.integers(0, len(document) - 1))
            step, document = str(at), document[at]
        else:
            step, document = draw(KEYS | st.sampled_from(["-", "01", "7"])), None
        steps.append(step)
    return tuple(steps)


@given(st.data(), VALUES, SIZES, st.booleans(), st.sampled_from([None, 1]))
def test_scanner_finds_what_the_whole_document_has(
    data: st.DataObject, document: Any, sizes: list[int], plain: bool, indent: int | None
) -> None:
    steps = data.draw(pointers(document))
    text = json.dumps(document, ensure_ascii=not plain, indent=indent)
    result, value = scan(text.encode("utf-8", "surrogatepass"), steps, sizes)
    wanted = follow(document, steps)
    if wanted is ABSENT:
        assert result == MISSING
    else:
        assert result == FOUND
        assert same(value, wanted)


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f'"{key}":{value}' for key, value in members) + "}"


DUPLICATES = st.recursive(
    st.sampled_from(["1", "{}", "[]"]),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(["a", "\\u0061", "b", "c"]), inner), max_size=6
    ).map(_object),
)
"""Objects in which keys come again."""


@given(DUPLICATES, st.lists(st.sampled_from("abc"), max_size=3).map(tuple), SIZES)
def test_of_duplicate_keys_the_first_counts(
    text: str, steps: tuple[str, ...], sizes: list[int]
) -> None:
    wanted = follow(json.loads(text, object_pairs_hook=first_of_each), steps)
    result, value = scan(text.encode(), steps, sizes)
    assert result == (MISSING if wanted is ABSENT else FOUND)
    assert wanted is ABSENT or same(value, wanted)


TOKENS = (
    b"""{ } [ ] " \\ , : a "a" "a": 1 - e tru null <p> \\u12 \xff \xed\xa0\x80 \xef\xbb\xbf \x00"""
)
HOSTILE = st.lists(st.sampled_from([*TOKENS.split(), b" ", b"\n"]), max_size=40).map(b"".join)


@given(
    HOSTILE | st.binary(),
    st.lists(st.sampled_from(["a", "0", "1", ""]), max_size=3).map(tuple),
    SIZES,
)
@example(b"", (), [1])
@example(b'{"a":1,', ("a",), [1])
@example(b"\xef\xbb", (), [1])
def test_the_result_does_not_depend_on_how_the_document_is_cut(
    document: bytes, steps: tuple[str, ...], sizes: list[int]
) -> None:
    whole = scan(document, steps, [len(document) + 1])
    cut = scan(document, steps, sizes)
    assert whole[0] == cut[0]
    assert repr(whole[1]) == repr(cut[1])


@given(VALUES, SIZES, st.data())
def test_a_document_that_is_cut_off_is_never_missing_anything(
    document: Any, sizes: list[int], data: st.DataObject
) -> None:
    """What came until then may have the value; else nothing is known."""
    steps = data.draw(pointers(document))
    text = json.dumps(document).encode()
    result, _ = scan(text[: data.draw(st.integers(1, len(text)))], steps, sizes)
    wanted = follow(document, steps)
    if result == FOUND:
        assert wanted is not ABSENT
    elif result == MISSING:
        assert wanted is ABSENT


@pytest.mark.parametrize(
    ("document", "pointer", "expected"),
    [
        (b"<html><body>", "/results", INVALID),
        (b"Internal error", "/results", INVALID),
        (b"", "/results", INVALID),
        (b"  \r\n", "", INVALID),
        (b"{results: []}", "/results", INVALID),
        (b'{"a" []}', "/results", INVALID),
        (b'{"a": 1 "results": []}', "/results", INVALID),
        (b'{"a": 1]', "/results", INVALID),
        (b'{"a": 1,}', "/results", INVALID),
        (b'{"a":,"results":1}', "/results", INVALID),
        (b"[1,]", "/7", INVALID),
        (b"[,1]", "/1", INVALID),
        (b'{"results": tru}', "/results", INVALID),
        (b'{"results": "\x01"}', "/results", INVALID),
        (b'{"results": "\xff"}', "/results", INVALID),
        (b'{"results": [}', "/results", INVALID),
        (b'{"results": {1: 2}}', "/results", INVALID),
        (b'{"a": [1, 2', "/results", PENDING),
        (b'{"results": "abc', "/results", PENDING),
        (b'{"results": [', "/results", PENDING),
        (b'{"results": [], and so on', "/results", FOUND),
        (b'{"a": [}], "results": []}', "/results", INVALID),
        (b'{"a": [nonsense], "results": []}', "/results", FOUND),
        (b"12", "", FOUND),
        (b"12", "/a", MISSING),
        (b"\xef\xbb\xbf[]", "", FOUND),
        (b"[0]", "/-", MISSING),
        (b"[0]", "/00", MISSING),
        (b"[0]", "/99999999999999", MISSING),
        (b'{"a": ' + b"9" * 10_000 + b"}", "/a", INVALID),
    ],
)
def test_what_is_not_json_and_what_is_cut_off(document: bytes, pointer: str, expected: int) -> None:
    for sizes in ([1], [3], [1000]):
        assert scan(document, steps_of(pointer), sizes)[0] == expected


def test_steps_are_unescaped() -> None:
    assert steps_of("") == ()
    assert steps_of("/") == ("",)
    assert steps_of("/a~1b/m~0n/~01") == ("a/b", "m~n", "~1")


def test_nesting_costs_nothing() -> None:
    deep = b'{"x": ' + b"[" * 2_000_000 + b"]" * 2_000_000 + b', "y": {"y": 1}}'
    assert scan(deep, ("y", "y"), [65536]) == (FOUND, 1)
    deep = b'{"y":' * 100_000 + b"1"
    assert scan(deep, ("y",) * 100_000, [65536]) == (FOUND, 1)


@pytest.mark.parametrize(
    "endless",
    [
        b'{"x": "' + b"a" * 4_000_000,
        b'{"x": "' + b'\\"' * 2_000_000,
        b'{"' + b"a" * 4_000_000,
        b'{"results": "' + b"a" * 4_000_000,
        b'{"x": ' + b"1" * 4_000_000,
        b'{"results": ' + b"1" * 4_000_000,
        b" " * 4_000_000,
        b'{"x": ' + b'[{"' * 1_300_000,
    ],
    ids=["text", "escapes", "key", "result", "number", "number found", "blanks", "nesting"],
)
def test_what_is_kept_is_bounded(endless: bytes) -> None:
    scanner = PointerScanner(("results",))
    for at in range(0, len(endless), 16_384):
        scanner.feed(endless[at : at + 16_384])
        assert len(scanner._kept) <= LONGEST
    scanner.finish()
    assert scanner.result in (PENDING, INVALID) or scanner.value is LONG_TEXT


def test_a_long_text_is_not_empty_and_equals_nothing() -> None:
    document = json.dumps({"results": "x" * (LONGEST + 10)}).encode()
    assert scan(document, ("results",), [1000]) == (FOUND, LONG_TEXT)
    text = "x" * (LONGEST - 10)
    assert scan(json.dumps({"results": text}).encode(), ("results",), [1000]) == (FOUND, text)


def test_a_large_document_is_followed_to_its_end() -> None:
    source = Random(1)
    items = [
        {"id": n, "name": f"{{name}} {n}", "tags": ["[", '"', {"a": []}]} for n in range(20_000)
    ]
    source.shuffle(items)
    document = json.dumps({"items": items, "page": {"results": []}}).encode()
    assert scan(document, ("page", "results"), [65536]) == (FOUND, [])
    assert scan(document, ("items", "19999", "tags", "2", "a"), [65536]) == (FOUND, [])
    assert scan(document, ("page", "result"), [65536])[0] == MISSING
