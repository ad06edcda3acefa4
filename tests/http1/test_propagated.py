"""The field that says which version a request gets: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.propagated import (
    LONGEST,
    MOST_BAGGAGE,
    MOST_MEMBERS,
    Malformed,
    Names,
    Propagated,
    member,
    read,
    with_member,
    without_member,
    write,
)
from canaryproxy.measure.routing import BUCKETS, CANARY, FINE, POSITIONS, STABLE, RouteTable

releases = st.from_regex(r"\A(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?\Z")
said = st.builds(
    Propagated,
    st.sampled_from([STABLE, CANARY]),
    releases,
    st.integers(-1, POSITIONS - 1),
    st.integers(-1, BUCKETS),
    st.booleans(),
    releases,
)


@given(said, st.binary(min_size=0, max_size=32))
def test_it_is_read_as_it_was_written(one: Propagated, signature: bytes) -> None:
    value = write(one, signature)
    assert read(value) == (one, signature)
    assert len(value) <= LONGEST
    rest, found = without_member(b"k", b"a=1,%b, b=2" % member(b"k", value))
    assert (rest, found) == (b"a=1, b=2", [value])


@given(st.binary(max_size=60).map(lambda tail: b"canary;" + tail))
def test_anything_else_is_malformed_or_says_something_that_can_be_written(value: bytes) -> None:
    try:
        one, signature = read(value)
    except Malformed:
        return
    assert read(write(one, signature)) == (one, signature)


@given(st.binary(min_size=1, max_size=8), st.floats(0, 100).map(lambda one: round(one, 2)))
def test_what_the_split_draws_is_randomised(key: bytes, weight: float) -> None:
    table = RouteTable(weight, b"s")
    routing = table.route(key)
    unit = routing.mark & (1 << 21) - 1
    assert Propagated(routing.variant, "r", unit, table.limit).randomised
    assert not Propagated(1 - routing.variant, "r", unit, table.limit).randomised


@pytest.mark.parametrize(
    "one",
    [Propagated(CANARY), Propagated(CANARY, "r", 5), Propagated(STABLE, "r", -1, 100)],
)
def test_without_unit_and_weight_nothing_was_randomised(one: Propagated) -> None:
    assert not one.randomised


def test_a_position_below_the_weight_is_on_the_canary() -> None:
    for limit in (0, 1, 125, BUCKETS):
        for unit in {0, max(limit * FINE - 1, 0), min(limit * FINE, POSITIONS - 1), POSITIONS - 1}:
            variant = CANARY if unit < limit * FINE else STABLE
            assert Propagated(variant, "", unit, limit).randomised


def test_baggage_keeps_the_members_of_others_byte_for_byte() -> None:
    assert without_member(b"k", b"a=1;k=2, kk=3,k2=4 ") == (b"a=1;k=2, kk=3,k2=4 ", [])
    assert without_member(b"k", b"k=1 ; p , a=%20 ,\tk = 2") == (b"a=%20", [b"1", b"2"])
    assert without_member(b"k", b"k") == (b"k", [])


def test_a_member_of_ours_gives_way_where_baggage_is_full() -> None:
    full = b",".join(b"m%d=1" % number for number in range(MOST_MEMBERS - 1))
    assert with_member([full], b"k=1") == full + b",k=1"
    assert with_member([full + b",z=1"], b"k=1") == full + b",z=1"
    long = b"a=" + b"b" * (MOST_BAGGAGE - 6)
    assert with_member([long], b"k=1") == long + b",k=1"
    assert with_member([long + b"b"], b"k=1") == long + b"b"
    assert with_member([], b"k=1") == b"k=1"


def test_trailers_lose_the_field_in_every_spelling() -> None:
    names = Names(frozenset([b"x-canary"]), frozenset([b"x-canary"]))
    lines = b"A: 1\r\nX-Canary: canary\r\nx_CANARY:canary\r\nbaggage: a=1\r\nX-Canary2: 1\r\n"
    assert names.without_trailers(lines) == b"A: 1\r\nX-Canary2: 1\r\n"
