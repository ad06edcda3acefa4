"""Flat arrays of machine integers and floats, one element after the other in memory.

``vec`` and its functions are those of ``librt``: in a compiled module an element is read or written in two
nanoseconds, without an object. In plain Python ``array`` does the same, at a third of what a ``vec`` costs
there. So this module is not compiled, and those that are take the names from here. As with ``vec``, what
makes an array longer returns it, and an attribute that held the old one is set to the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from librt.vecs import append, extend, vec
    from mypy_extensions import i32, i64, u8
else:
    from array import array
    from functools import partial

    u8, i32, i64 = "B", "i", "q"

    class _Arrays:
        def __getitem__(self, code):
            return partial(array, "d" if code is float else code)

    vec = _Arrays()

    def append(values, value):
        values.append(value)
        return values

    def extend(values, more):
        values.frombytes(bytes(more))
        return values


__all__ = ["append", "extend", "i32", "i64", "u8", "vec"]
