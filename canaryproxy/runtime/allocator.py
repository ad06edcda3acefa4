"""Settings of the C library's allocator and of the garbage collector."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_KEPT = 16 << 20
_STEP = 1 << 20
_OWN_MAPPING = 4 << 20
_YOUNG: Final = 1000
"""New objects until the young ones are looked through: some half a millisecond."""
_PER_MIDDLE: Final = 2
"""After so many times those that were left are, too."""
_NEVER: Final = 1_000_000_000
_ALL_EVERY: Final = 600.0
"""Seconds."""


def keep_freed() -> None:
    """Keep up to 16 MiB of freed memory for the next bodies, where the C library is glibc.

    A body is read in pieces of up to 256,000 bytes. By default glibc may return such a piece to the kernel
    when it is freed, and each page of the next piece is a page fault: 115 for a response of 1 MiB.
    Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return
    mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_TOP_PAD, _STEP)


def settle() -> None:
    """Exempt all objects that exist now from garbage collection: they live as long as the process."""
    gc.collect()
    gc.freeze()


def collect_briefly(loop: asyncio.AbstractEventLoop, every: float = _ALL_EVERY) -> None:
    """Let garbage collection hold up the event loop for a short time only.

    Young objects are looked through a thousand at a time. All of them are every ``every`` seconds: each
    connection is a dozen objects, and Python would do that again whenever there are a quarter more.
    """
    gc.set_threshold(_YOUNG, _PER_MIDDLE, _NEVER)
    loop.call_later(every, _collect_all, loop, every)


def _collect_all(loop: asyncio.AbstractEventLoop, every: float) -> None:
    gc.collect()
    loop.call_later(every, _collect_all, loop, every)
