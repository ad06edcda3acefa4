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
plain_between: Callable[[bytes, bytes, bytes], bytes | None] | None = None
"""Finds what is between a first and a last part, if it is plain; ``None`` if not, or without these parts."""
plain_cookie: Callable[[bytes, bytes], bytes | None] | None = None
"""Finds the value of the cookie that begins like this; ``None`` without one, empty if it is unusual."""
request_values: (
    Callable[[bytes, tuple[bytes, ...]], tuple[bytes, bytes, bytes, bytes] | None] | None
) = None
"""Finds what is forwarded of a head of a form, its Cookie, traceparent and X-Forwarded-For; else ``None``."""
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
    plain_between, plain_cookie = native_bytes.plain_between, native_bytes.plain_cookie
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
