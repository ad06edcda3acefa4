"""The variant of a user: sticky key to bucket to variant, and the route table.

The split is a threshold on a hash, so it is monotone: raising the weight moves only users from stable to
canary, lowering it only back, and two replicas with the same table agree without talking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import mmh3
from mmh3 import mmh3_32_uintdigest

from canaryproxy.measure.records import pack_first
from canaryproxy.measure.slowness import NEVER

STABLE: Final = 0
CANARY: Final = 1
VARIANTS: Final = ("stable", "canary")
"""Names of the variants; ``STABLE`` and ``CANARY`` index it."""

BUCKETS: Final = 10_000
"""Number of buckets that users are hashed into: a resolution of 0.01 percent."""

NO_KEY_BUCKET: Final = BUCKETS - 1
"""Bucket of a request without a sticky key: the last to move to the canary and the first to move back."""

NOT_SHARED: Final = b"Cache-Control: private\r\n"
"""For responses without a known user: from a cache, new users would get them, and no cookie."""

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields as received: pairs of name and value."""


FINE: Final = 128
"""Fine positions of a bucket."""
POSITIONS: Final = BUCKETS * FINE
"""Number of fine positions: units of the judge, nearly one for each user. They nest in the buckets."""


def position_of(salt: bytes, key: bytes) -> int:
    """Return the fine position (0..1,279,999) of a sticky key; its bucket is ``position // FINE``."""
    found = mmh3_32_uintdigest(salt + key)
    return found % BUCKETS * FINE + found // BUCKETS % FINE


def bucket_of(salt: bytes, key: bytes) -> int:
    """Return the bucket (0..9999) of a sticky key in the release with this salt.

    MurmurHash3 x86 32-bit of ``salt + key`` with seed 0, modulo 10,000.
    """
    return mmh3_32_uintdigest(salt + key) % BUCKETS


def release_tag(salt: bytes) -> bytes:
    """Return eight hex digits that mark a sticky cookie as first seen in the release with this salt."""
    return b"%08x" % mmh3.hash(b"release:" + salt, signed=False)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """How requests are routed. Replaced as a whole, never changed."""

    weight: float = 0.0
    """Percent of users on the canary, 0..100, resolution 0.01."""
    salt: bytes = b""
    """Each release id salts the hash, so each release starts with a fresh set of users."""
    circuit_open: bool = False
    """While open, every user goes to stable."""
    new_sessions_only: bool = False
    """Only users whose cookie carries ``tag`` may enter the canary."""
    late: float = 0.0
    """Seconds to the first byte above which a response is late; 0: unknown yet."""
    stall_after: float = 0.0
    """Seconds to the last byte above which a request is stalled; 0: unknown yet."""
    slow: tuple[int, int] = (NEVER, NEVER)
    """By variant: the bucket of the time to the first byte from which a response is slow (``slowness``)."""
    limit: int = field(init=False, default=0)
    """Derived: buckets below this one are on the canary; 0 while the circuit is open."""
    tag: bytes = field(init=False, default=b"")
    """Derived: ``release_tag(salt)``."""
    epoch: int = field(init=False, default=0)
    """Derived: a hash (0..255) of the split, so that records tell which one they were routed by."""
    _marks: tuple[int, int] = field(init=False, repr=False, compare=False, default=(0, 0))
    """By variant: the first word of a record without its position."""

    def __post_init__(self) -> None:
        limit = 0 if self.circuit_open else round(self.weight * 100)
        split = b"%d %d " % (limit, self.new_sessions_only) + self.salt
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "tag", release_tag(self.salt))
        epoch = crc32(split) & 0xFF
        marks = tuple(pack_first(0, variant, epoch, 0, 0, 0) for variant in (STABLE, CANARY))
        object.__setattr__(self, "epoch", epoch)
        object.__setattr__(self, "_marks", marks)

    @property
    def everyone(self) -> int | None:
        """The variant that all users get, match rules apart; ``None`` while they are divided."""
        if not self.limit:
            return STABLE
        return CANARY if self.limit == BUCKETS and not self.new_sessions_only else None

    def variant_of(self, key: bytes | None) -> int:
        """Return the variant of a user by sticky key; ``None`` means that the user has none."""
        return self.route(key).variant

    def route(self, key: bytes | None, cookie: bytes = b"", *, sent: bool = True) -> Routing:
        """Return where a user goes by sticky key; ``cookie`` is the ``Set-Cookie`` line for the response.

        ``sent``: the client sent the key, it was not minted for this request. Such a user is randomised,
        unless only new users may enter the canary and the key was first seen in another release.
        """
        if key is None:
            variant = CANARY if self.limit > NO_KEY_BUCKET else STABLE
            return Routing(self, key, NO_KEY_BUCKET, variant, cookie)
        found = mmh3_32_uintdigest(self.salt + key)  # ``position_of``, written out
        bucket = found % BUCKETS
        if self.new_sessions_only and not key.endswith(self.tag):
            return Routing(self, key, bucket, STABLE, cookie)
        variant = CANARY if bucket < self.limit else STABLE
        mark = -1
        if sent:
            mark = bucket * FINE + found // BUCKETS % FINE | self._marks[variant]
        return Routing(self, key, bucket, variant, cookie, mark)

    def without_user(self, lines: bytes) -> Routing:
        """Return where a request goes that no user has made: to stable, but to the canary if all users do."""
        variant = CANARY if self.limit > NO_KEY_BUCKET else STABLE
        return Routing(self, None, NO_KEY_BUCKET, variant, lines, forced=True)


class Routing:
    """Where one request goes, and why. Requests with the same headers share it while ``table`` is in force.

    Never changed once made; not a frozen dataclass, which takes longer to make.
    """

    __slots__ = ("bucket", "cookie", "forced", "key", "mark", "table", "variant")

    def __init__(
        self,
        table: RouteTable,
        key: bytes | None,
        bucket: int,
        variant: int,
        cookie: bytes = b"",
        mark: int = -1,
        forced: bool = False,
    ) -> None:
        self.table = table
        """The table that the request was routed by."""
        self.key = key
        """The sticky key, ``None`` without one."""
        self.bucket = bucket
        self.variant = variant
        self.cookie = cookie
        """The ``Set-Cookie`` line for the response, or what else it is to say; empty for nothing."""
        self.mark = mark
        """Fine position, variant and epoch as the first word of a record has them; -1: the request was not
        randomised, so it is not compared."""
        self.forced = forced
        """A match rule chose the variant, whatever the bucket, or the request is a probe."""

    def forced_to(self, variant: int) -> Routing:
        """Return the same with the variant that a match rule chose."""
        return Routing(self.table, self.key, self.bucket, variant, self.cookie, forced=True)

    def without_record(self) -> Routing:
        """Return the same for a request that leaves no more records."""
        return Routing(
            self.table, self.key, self.bucket, self.variant, self.cookie, forced=self.forced
        )
