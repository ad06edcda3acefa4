"""Settings of the C library's allocator and of the garbage collector."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_KEPT = 16 << 20
_STEP = 1 << 20
_OWN_MAPPING = 4 << 20


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
