"""The split: formula, monotone weights, even shares, agreement of replicas."""

from __future__ import annotations

import random
import subprocess
import sys

import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.routing import (
    CANARY,
    NO_KEY_BUCKET,
    STABLE,
    RouteTable,
    bucket_of,
    release_tag,
)

keys = st.binary(min_size=1, max_size=64)
weights = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)


def test_buckets_are_what_the_formula_says() -> None:
    assert bucket_of(b"cart-2.4", b"alice") == mmh3.hash(b"cart-2.4alice", signed=False) % 10_000
    # MurmurHash3 x86 32 of "foo" is 4138058784 in every implementation.
    assert bucket_of(b"", b"foo") == bucket_of(b"f", b"oo") == 8784


@given(keys, st.binary(max_size=20), weights, weights)
def test_raising_the_weight_moves_only_from_stable_to_canary(
    key: bytes, salt: bytes, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    before = RouteTable(low, salt).variant_of(key)
    after = RouteTable(high, salt).variant_of(key)
    assert before <= after  # STABLE is 0


@given(keys, st.binary(max_size=20), weights)
def test_a_user_is_on_the_canary_if_the_bucket_is_below_the_weight(
    key: bytes, salt: bytes, weight: float
) -> None:
    expected = CANARY if bucket_of(salt, key) < weight * 100 - 1e-6 else STABLE
    assert RouteTable(weight, salt).variant_of(key) == expected


@given(keys, weights)
def test_everybody_is_on_stable_while_the_circuit_is_open(key: bytes, weight: float) -> None:
    assert RouteTable(weight, circuit_open=True).variant_of(key) == STABLE
    assert RouteTable(100).variant_of(key) == CANARY
    assert RouteTable(0).variant_of(key) == STABLE


def test_a_user_without_a_key_is_the_last_to_move() -> None:
    assert RouteTable(99.99).variant_of(None) == STABLE
    assert RouteTable(100).variant_of(None) == CANARY
    assert NO_KEY_BUCKET == 9999


def test_only_new_sessions() -> None:
    table = RouteTable(100, b"r2", new_sessions_only=True)
    assert table.variant_of(b"old") == STABLE
    assert table.variant_of(b"x." + release_tag(b"r1")) == STABLE
    assert table.variant_of(b"x." + release_tag(b"r2")) == CANARY


def test_shares_are_even_over_a_million_users() -> None:
    source = random.Random(1)
    counts = [0] * 10_000
    for _ in range(1_000_000):
        counts[bucket_of(b"release-7", b"%032x" % source.getrandbits(128))] += 1
    share = 0
    for bucket, count in enumerate(counts):
        assert abs(share / 1e6 - bucket / 10_000) < 0.001, f"at weight {bucket / 100}"
        share += count


def test_another_salt_draws_other_users() -> None:
    users = [b"%d" % n for n in range(10_000)]
    first = {user for user in users if bucket_of(b"a", user) < 1000}
    second = {user for user in users if bucket_of(b"b", user) < 1000}
    assert len(first & second) / len(first) == pytest.approx(0.1, abs=0.03)


def test_two_processes_agree() -> None:
    code = (
        "from canaryproxy.measure.routing import RouteTable\n"
        "table = RouteTable(37.5, b'r')\n"
        "print(''.join(str(table.variant_of(b'%d' % n)) for n in range(2000)))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    table = RouteTable(37.5, b"r")
    assert runs == {"".join(str(table.variant_of(b"%d" % n)) for n in range(2000)) + "\n"}
