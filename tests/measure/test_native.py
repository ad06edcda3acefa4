"""The extension ``native_bytes``: each function finds what Python finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import mmh3
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.header_template import (
    COOKIE,
    CREDENTIALS,
    FORWARDED_FOR,
    OPAQUE,
    TRACEPARENT,
)
from canaryproxy.measure import native

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


class Template(NamedTuple):
    """Heads of a form: kinds of their values, what is around them, and what is forwarded around them."""

    kinds: list[int]
    parts: list[bytes]
    forwarded: list[bytes]

    @property
    def form(self) -> tuple[bytes, ...]:
        first, *rests = self.parts
        forwarded_first, *forwarded = self.forwarded
        return native.form(bytes(self.kinds), first, forwarded_first, rests, forwarded)

    def head(self, values: Sequence[bytes], parts: Sequence[bytes]) -> bytes:
        return parts[0] + b"".join(
            value + part for value, part in zip(values, parts[1:], strict=True)
        )

    def sent(self, values: Sequence[bytes]) -> bytes:
        left_out = [
            b"" if kind == FORWARDED_FOR else value
            for kind, value in zip(self.kinds, values, strict=True)
        ]
        return self.head(left_out, self.forwarded)


_lines = st.binary(max_size=9).map(lambda line: b"\r\n" + line)
_any_value = st.sampled_from(
    [
        *(b"00-" + b"0" * 31 + b"1-" + b"0" * 15 + b"a-00", b"00-" + b"f" * 32 + b"-" + b"0" * 16 + b"-01"),
        *(b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01", b"00-" + b"F" * 32 + b"-" + b"1" * 16 + b"-01"),
        *(b"01-" + b"1" * 32 + b"-" + b"1" * 16 + b"-01", b"00-" + b"1" * 32 + b"-" + b"1" * 16 + b"-0g"),
        *(b"Bearer a", b"Bearer a,b", b"Basic Yg==", b"Digest a", b"Bearer ", b"Bearer", b"basic a"),
    ]
)  # fmt: skip


@st.composite
def _templates(draw: st.DrawFn) -> Template:
    kinds = draw(st.lists(st.sampled_from(range(5)), min_size=1, max_size=5))
    parts = draw(st.lists(_lines, min_size=len(kinds) + 1, max_size=len(kinds) + 1))
    forwarded = draw(st.lists(st.binary(max_size=9), min_size=len(parts), max_size=len(parts)))
    return Template(kinds, parts, forwarded)


def may_be(kind: int, value: bytes) -> bool:
    if kind == TRACEPARENT:
        found = re.fullmatch(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", value)
        return found is not None and all(found[at].strip(b"0") for at in (1, 2))
    if kind == CREDENTIALS and (not value.startswith((b"Bearer ", b"Basic ")) or b"," in value):
        return False
    return is_plain(value)


@given(_templates(), st.data())
@settings(max_examples=1000)
def test_the_values_of_a_head_are_found_and_it_is_forwarded(
    template: Template, data: st.DataObject
) -> None:
    values = [data.draw(_any_value | _values) for _ in template.kinds]
    head = template.head(values, template.parts)
    requests = native_bytes.request_values(head, template.form, None, b"")
    line, ending = data.draw(st.binary(max_size=20)), data.draw(st.binary(max_size=20))
    whole = line + b"\r\n" + head
    in_whole = native_bytes.request_values(whole, template.form, line, ending)
    responses = native_bytes.response_values(head, template.form)
    if not all(map(may_be, template.kinds, values)):
        assert requests is in_whole is responses is None
        return
    sent, by_kind = template.sent(values), dict(zip(template.kinds, values, strict=True))
    assert responses == (sent, *values)
    trace = by_kind.get(TRACEPARENT)
    own = (
        by_kind.get(COOKIE, b""),
        trace and trace[3:35],
        trace is not None and int(trace[-2:], 16) % 2 == 1,
        by_kind.get(FORWARDED_FOR),
    )
    assert requests == (sent, *own)
    assert in_whole == (line + sent + ending, *own)
    for other in (head[:-1], head + b"a", head[1:], b"a" + head, b""):
        assert native_bytes.request_values(other, template.form, None, b"") is None
        other = line + b"\r\n" + other
        assert native_bytes.request_values(other, template.form, line, ending) is None
    assert native_bytes.request_values(line, template.form, line, ending) is None


def test_a_head_may_have_as_many_values_as_python_asks_for() -> None:
    around = [b"\r\n"] * (native.MOST_VALUES + 1)
    template = Template([OPAQUE] * native.MOST_VALUES, around, around)
    values = [b"a"] * native.MOST_VALUES
    found = native_bytes.response_values(template.head(values, around), template.form)
    assert found == (template.sent(values), *values)


@given(_templates(), st.binary(max_size=40))
def test_other_heads_have_no_values(template: Template, head: bytes) -> None:
    assert native_bytes.response_values(head, template.form) is None


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
        *[("request_values", (b"", (), *rest)) for rest in [("", b""), (b"", None), (None,)]],
        ("plain_cookie", (b"a", b"a", b"a")),
    ],
)
def test_other_arguments_are_refused(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="bytes objects"):
        getattr(native_bytes, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "rest"), [("request_values", (None, b"")), ("response_values", ())]
)
@pytest.mark.parametrize(
    "form",
    [
        *(None, (), (b"",), (b"", b"", b""), (b"\4", b"a", b"a", b"\r"), (b"", b"a", b"a", b"\r", b"")),
        *((b"\4", b"a", b"a", "\r", b""), [b"\4", b"a", b"a", b"\r", b""], (b"\4\4", b"", b"", b"\r", b"")),
        (b"\4" * 17, b"", b"", *([b"\r"] * 34)),
    ],
)  # fmt: skip
def test_other_forms_are_refused(name: str, rest: tuple[object, ...], form: object) -> None:
    with pytest.raises(TypeError, match="bytes objects"):
        getattr(native_bytes, name)(b"a", form, *rest)
    with pytest.raises(TypeError, match="bytes objects"):
        getattr(native_bytes, name)(b"a")
