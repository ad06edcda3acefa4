"""How a process keeps its memory: what the C library's allocator and the garbage collector are told."""

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

    A body is read in pieces of up to 256,000 bytes. By default glibc may give such a piece back to the kernel
    when it is freed, and then each page of the next one is a fault: 115 for an answer of 1 MiB.
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
    """What lives as long as the process need not be looked at by the collector again."""
    gc.collect()
    gc.freeze()
