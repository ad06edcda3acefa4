"""The functions of the extension ``native_bytes``, each ``None`` where that was not built.

It is optional, and part of the compiled wheel. Without it the callers do the same by themselves.
"""

from __future__ import annotations

from collections.abc import Callable

hash_of: Callable[[bytes, bytes], int] | None = None
"""Hashes a salt and a key: MurmurHash3 x86 32-bit of both in a row, with seed 0."""
joined: Callable[[bytes, bytes, bytes], bytes] | None = None
"""Makes three parts one."""
plain: Callable[[bytes], bool] | None = None
"""Tells whether a value is visible ASCII, with blanks inside only, and not empty."""
plain_between: Callable[[bytes, bytes, bytes], bytes | None] | None = None
"""Finds what is between a first and a last part, if it is plain; ``None`` if not, or without these parts."""
plain_cookie: Callable[[bytes, bytes], bytes | None] | None = None
"""Finds the value of the cookie that begins like this; ``None`` without one, empty if it is unusual."""

try:
    from canaryproxy.measure import native_bytes
except ImportError:
    pass
else:
    hash_of, joined, plain = native_bytes.hash_of, native_bytes.joined, native_bytes.plain
    plain_between, plain_cookie = native_bytes.plain_between, native_bytes.plain_cookie
