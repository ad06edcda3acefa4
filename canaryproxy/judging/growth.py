"""Zeros at the end of flat arrays: in plain Python all at once, compiled one by one, which is as fast."""

from __future__ import annotations

from canaryproxy.judging.flat import append, has_grown, i32, i64, u8, vec


def with_bytes(values: vec[u8], more: int) -> vec[u8]:
    """Return an array with so many zeros more."""
    if not has_grown(values, more):
        for _ in range(more):
            values = append(values, 0)
    return values


def with_ints(values: vec[i32], more: int) -> vec[i32]:
    """Return an array with so many zeros more."""
    if not has_grown(values, more):
        for _ in range(more):
            values = append(values, 0)
    return values


def with_longs(values: vec[i64], more: int) -> vec[i64]:
    """Return an array with so many zeros more."""
    if not has_grown(values, more):
        for _ in range(more):
            values = append(values, 0)
    return values
