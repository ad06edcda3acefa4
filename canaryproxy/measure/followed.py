"""The split of a front, as the proxies behind it that follow it see it (``split.follow``).

A worker learns of it from the requests: each says which release and which weight it was routed by. Ten times
a second the worker writes a record for each split that it has met since, so that the control plane knows what
the epochs in the other records mean. ``SPLIT`` marks such a record:

==========  ==================================================================================================
word        bits, from the lowest
==========  ==================================================================================================
0           epoch and flags where all records have them, the rest 0
1           hash of the release's name (``records.template_of``) 32, buckets on the canary 32
2           0
==========  ==================================================================================================

The release's name itself follows by the ring of names.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from zlib import crc32

from canaryproxy.measure.records import EPOCH_SHIFT, FLAGS_SHIFT, LONGEST_NAME, SPLIT, template_of

_LIMIT_SHIFT: Final = 32
_HASH_MASK: Final = (1 << 32) - 1
_TAIL: Final = 8


class FrontSplit(NamedTuple):
    """A split that a front routes by."""

    release: int
    """The hash of its release's name."""
    limit: int
    """Buckets on its canary."""


def epoch_of(release: str, limit: int) -> int:
    """Return what marks the records of a front's split (0..255), like ``RouteTable.epoch``."""
    return crc32(b"followed %d %b" % (limit, release.encode())) & 0xFF


def name_of(release: str) -> bytes:
    """Return a release's name as the ring of names has it: of a long one the end is a hash."""
    name = release.encode()
    if len(name) <= LONGEST_NAME:
        return name
    return name[: LONGEST_NAME - _TAIL - 1] + b"~%08x" % crc32(name)


def pack(release: str, limit: int) -> tuple[int, int, int]:
    """Return the record of a front's split."""
    first = epoch_of(release, limit) << EPOCH_SHIFT | SPLIT << FLAGS_SHIFT
    return first, template_of(name_of(release)) | limit << _LIMIT_SHIFT, 0


def unpack(second: int) -> FrontSplit:
    """Return the split in the second word of its record."""
    return FrontSplit(second & _HASH_MASK, second >> _LIMIT_SHIFT)
