"""Flat arrays as a whole: words of records, zeros at the end, a bit cleared everywhere. Each copies."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.flat import append, extend, i32, i64, sum64, u8, vec

_WITHOUT: Final = [bytes(value & ~(1 << bit) for value in range(256)) for bit in range(8)]


def with_bytes(values: vec[u8], more: int) -> vec[u8]:
    """Return an array with so many zeros more."""
    return extend(values, bytes(more))


def with_ints(values: vec[i32], more: int) -> vec[i32]:
    """Return an array with so many zeros more."""
    return extend(values, array("i", bytes(4 * more)))


def with_longs(values: vec[i64], more: int) -> vec[i64]:
    """Return an array with so many zeros more."""
    return extend(values, array("q", bytes(8 * more)))


def with_sums(values: vec[sum64], more: int) -> vec[sum64]:
    """Return an array with so many zeros more."""
    for _ in range(more):
        values = append(values, 0)
    return values


def flat_words(words: Sequence[int]) -> vec[sum64]:
    """Return words of records as signed numbers where this is compiled, else as they are."""
    if not COMPILED:
        return vec[sum64](words)
    flat = words if isinstance(words, array) else array("Q", words)
    return extend(vec[sum64](), memoryview(flat).cast("B").cast("q"))


def without(values: vec[u8], bit: int) -> vec[u8]:
    """Return an array without a bit, given by its value."""
    cleared = bytes(memoryview(values)).translate(_WITHOUT[bit.bit_length() - 1])
    return extend(vec[u8](), cleared)
