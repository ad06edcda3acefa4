"""Flat arrays of machine integers, one element after the other in memory.

``vec`` and its functions are those of ``librt``: in a compiled module an element is read or written in two
nanoseconds, without an object. In plain Python ``array`` does the same, at a third of what a ``vec`` costs
there. So this module is not compiled, and those that are take the names from here. As with ``vec``, what
makes an array longer returns it, and an attribute that held the old one is set to the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from librt.vecs import append, vec
    from mypy_extensions import i32, i64, u8
else:
    from array import array
    from functools import partial

    u8, i32, i64 = "B", "i", "q"

    class _Arrays:
        def __getitem__(self, code):
            return partial(array, code)

    vec = _Arrays()

    def append(values, value):
        values.append(value)
        return values


__all__ = ["append", "has_cleared", "has_grown", "i32", "i64", "u8", "vec"]

_WITHOUT: Final = [bytes(value & ~(1 << bit) for value in range(256)) for bit in range(8)]


def has_grown(values: vec[u8] | vec[i32] | vec[i64], more: int) -> bool:
    """Append so many zeros to an ``array`` at once. False: it is a ``vec``, see ``growth``."""
    if TYPE_CHECKING or not isinstance(values, array):
        return False
    values.frombytes(bytes(more * values.itemsize))
    return True


def has_cleared(values: vec[u8], bit: int) -> bool:
    """Clear a bit, given by its value, in every element of an ``array`` at once.

    False: it is a ``vec``, whose memory only a compiled module can write to.
    """
    view = memoryview(values)
    if view.readonly:
        return False
    view[:] = bytes(view).translate(_WITHOUT[bit.bit_length() - 1])
    return True
