"""Flat arrays of machine integers and floats, one element after the other in memory.

``vec`` and its functions are those of ``librt``: in a compiled module an element is read or written in two
nanoseconds, without an object. In plain Python ``array`` does the same, at a third of what a ``vec`` costs
there. ``sum64`` is for a few sums that are added to all the time: in plain Python they are lists, which is
quicker there. So this module is not compiled, and those that are take the names from here. As with ``vec``,
what makes an array longer returns it, and an attribute that held the old one is set to the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from librt.vecs import append, extend, vec
    from mypy_extensions import i32, i64, u8
    from mypy_extensions import i64 as sum64
else:
    from array import array
    from functools import partial

    u8, i32, i64, sum64 = "B", "i", "q", "list"

    class _Arrays:
        def __getitem__(self, code):
            return list if code is sum64 else partial(array, "d" if code is float else code)

    vec = _Arrays()

    def append(values, value):
        values.append(value)
        return values

    def extend(values, more):
        if isinstance(values, list):
            values.extend(more)
        else:
            values.frombytes(bytes(more))
        return values


__all__ = ["append", "extend", "i32", "i64", "sum64", "u8", "vec"]
