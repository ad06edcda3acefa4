"""Flat arrays as a whole: zeros at the end, a bit cleared everywhere. Each copies a block of memory."""

from __future__ import annotations

from array import array
from typing import Final

from canaryproxy.measure.flat import extend, i32, i64, u8, vec

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


def without(values: vec[u8], bit: int) -> vec[u8]:
    """Return an array without a bit, given by its value."""
    cleared = bytes(memoryview(values)).translate(_WITHOUT[bit.bit_length() - 1])
    return extend(vec[u8](), cleared)
