"""What is remembered is bounded, and the oldest gives way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.head_cache import ONE_IN, SampledFifo


@given(st.integers(1, 8), st.lists(st.integers(0, 40), max_size=300))
def test_one_in_so_many_new_keys_replaces_the_oldest(most: int, asked: list[int]) -> None:
    room, known = SampledFifo(most), dict[bytes, int]()
    order: list[bytes] = []
    refused = 0
    for number in asked:
        key = b"%d" % number
        if key in known:
            continue
        full = len(known) == most
        if room.admit(key, known):
            known[key] = number
            order.append(key)
            if full:
                assert refused == ONE_IN - 1
                refused = 0
        else:
            assert full
            refused += 1
        assert list(known) == order[-most:]  # in the order in which they came
