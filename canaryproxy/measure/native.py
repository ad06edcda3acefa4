"""The functions of the extension ``native_bytes``, each ``None`` where that was not built.

It is optional, and part of the compiled wheel. Without it the callers do the same by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

hash_of: Callable[[bytes, bytes], int] | None = None
"""Hashes a salt and a key: MurmurHash3 x86 32-bit of both in a row, with seed 0."""
joined: Callable[[bytes, bytes, bytes], bytes] | None = None
"""Makes three parts one."""
plain_cookie: Callable[[bytes, bytes], bytes | None] | None = None
"""Finds the value of the cookie that begins like this; ``None`` without one, empty if it is unusual."""
RequestValues = tuple[bytes, bytes, bytes | None, bool, bytes | None]
"""What is forwarded, the Cookie (empty without), the trace id, whether that is sampled, X-Forwarded-For."""
request_values: (
    Callable[[bytes, tuple[bytes, ...], bytes | None, bytes], RequestValues | None] | None
) = None
"""Finds the values of a block of fields of a form; ``None`` if it is another block.

With a request line, which is known to be right, they are those of the head that begins with it, and line and
ending (the last argument) are forwarded, too.
"""
response_values: Callable[[bytes, tuple[bytes, ...]], tuple[bytes, ...] | None] | None = None
"""Finds what is forwarded of a head of a form, and each of its values; ``None`` if it is another head."""

MOST_VALUES: Final = 16
"""Most values of their own that a head of a form has."""

try:
    from canaryproxy.measure import native_bytes
except ImportError:
    pass
else:
    hash_of, joined = native_bytes.hash_of, native_bytes.joined
    plain_cookie = native_bytes.plain_cookie
    request_values, response_values = native_bytes.request_values, native_bytes.response_values


def form(
    kinds: bytes,
    first: bytes,
    forwarded_first: bytes,
    rests: Sequence[bytes],
    forwarded: Sequence[bytes],
) -> tuple[bytes, ...]:
    """Return the form of heads that differ in values of their own, as ``native_bytes`` takes it.

    ``kinds`` are those of ``header_template``, a byte for each value; ``first`` is what heads have before the
    first value, ``rests`` what follows each value; and the same of what is forwarded.
    """
    parts = [part for pair in zip(rests, forwarded, strict=True) for part in pair]
    return (kinds, first, forwarded_first, *parts)
