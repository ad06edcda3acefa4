"""The variant of a user: sticky key to bucket to variant, and the route table.

The split is a threshold on a hash, so it is monotone: raising the weight moves only users from stable to
canary, lowering it only back, and two replicas with the same table agree without talking. The members of a
cohort have a threshold on a hash of their own besides (``exposure``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import mmh3
from mmh3 import mmh3_32_uintdigest
from mypy_extensions import i64, mypyc_attr

from canaryproxy.measure import native
from canaryproxy.measure.exposure import NO_COHORTS, Exposure, Members, cohort_salt
from canaryproxy.measure.records import pack_first
from canaryproxy.measure.slowness import NEVER

_hash_of: Final = native.hash_of

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
class Group:
    """A cohort in a route table."""

    name: str
    salt: bytes
    """Salt of its hash."""
    limit: int
    """Buckets of its hash below this one are on the canary."""


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
    cohorts: tuple[tuple[str, float], ...] = ()
    """Cohorts with users on the canary, in the order of the plan, and percent of the users of each."""
    cohort: str | None = None
    """The cohort whose users are compared; ``None``: all users, but for those of ``cohorts``."""
    limit: int = field(init=False, default=0)
    """Derived: buckets of all users below this one are on the canary; 0 while the circuit is open."""
    groups: tuple[Group, ...] = field(init=False, default=())
    """Derived: ``cohorts`` with their hashes; none while the circuit is open."""
    drawn: int = field(init=False, default=0)
    """Derived: of the users that are compared, those below this bucket are on the canary."""
    drawn_cohort: str | None = field(init=False, default=None)
    """Derived: the cohort whose users are compared, if it is one of ``groups``."""
    tag: bytes = field(init=False, default=b"")
    """Derived: ``release_tag(salt)``."""
    epoch: int = field(init=False, default=0)
    """Derived: a hash (0..255) of the split, so that records tell which one they were routed by."""
    _marks: tuple[int, int] = field(init=False, repr=False, compare=False, default=(0, 0))
    """By variant: the first word of a record without its position."""

    def __post_init__(self) -> None:
        limit = 0 if self.circuit_open else round(self.weight * 100)
        split = b"%d %d " % (limit, self.new_sessions_only) + self.salt
        drawn = limit
        if self.cohorts and not self.circuit_open:
            groups = tuple(
                Group(name, cohort_salt(self.salt, name), round(percent * 100))
                for name, percent in self.cohorts
            )
            for group in groups:
                split += b"\0%s %d" % (group.name.encode(), group.limit)
                if group.name == self.cohort:
                    drawn = group.limit
                    split += b" drawn"
                    object.__setattr__(self, "drawn_cohort", self.cohort)
            object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "drawn", drawn)
        object.__setattr__(self, "tag", release_tag(self.salt))
        epoch = crc32(split) & 0xFF
        marks = tuple(pack_first(0, variant, epoch, 0, 0, 0) for variant in (STABLE, CANARY))
        object.__setattr__(self, "epoch", epoch)
        object.__setattr__(self, "_marks", marks)

    @property
    def everyone(self) -> int | None:
        """The variant that all users get, match rules apart; ``None`` while they are divided."""
        if self.limit == BUCKETS and not self.new_sessions_only:
            return CANARY
        return None if self.limit or self.groups else STABLE

    @property
    def exposure(self) -> Exposure:
        """The split of a closed circuit."""
        return Exposure(self.weight, self.cohorts, self.cohort)

    @property
    def split(self) -> tuple[object, ...]:
        """All that users' variants depend on: equal while none of them moves."""
        groups = tuple((group.name, group.limit) for group in self.groups)
        return self.limit, self.salt, self.new_sessions_only, groups

    @property
    def has_users(self) -> bool:
        """Whether users are on the canary, match rules apart."""
        return self.limit > 0 or any(group.limit > 0 for group in self.groups)

    def variant_of(self, key: bytes | None, members: Members = NO_COHORTS) -> int:
        """Return the variant of a user by sticky key; ``None`` means that the user has none."""
        return self.route(key, members=members).variant

    def route(
        self,
        key: bytes | None,
        cookie: bytes = b"",
        *,
        sent: bool = True,
        members: Members = NO_COHORTS,
    ) -> Routing:
        """Return where a user goes by sticky key; ``cookie`` is the ``Set-Cookie`` line for the response.

        ``sent``: the client sent the key, it was not minted for this request. Such a user is randomised,
        unless only new users may enter the canary and the key was first seen in another release.
        ``members``: the cohorts that the request belongs to.
        """
        if key is None:
            variant = CANARY if self.limit > NO_KEY_BUCKET else STABLE
            return Routing(self, key, NO_KEY_BUCKET, variant, cookie, members=members)
        # ``position_of``, written out
        found: i64 = (
            mmh3_32_uintdigest(self.salt + key) if _hash_of is None else _hash_of(self.salt, key)
        )
        bucket = found % BUCKETS
        if self.new_sessions_only and not key.endswith(self.tag):
            return Routing(self, key, bucket, STABLE, cookie, members=members)
        variant = CANARY if bucket < self.limit else STABLE
        mark = -1
        if self.groups:
            position = bucket * FINE + found // BUCKETS % FINE
            variant, position = self._among_cohorts(key, variant, position, members)
            if sent and position >= 0:
                mark = position | self._marks[variant]
        elif sent:
            stable, canary = self._marks
            mark = bucket * FINE + found // BUCKETS % FINE
            mark |= stable if variant == STABLE else canary
        return Routing(self, key, bucket, variant, cookie, mark, False, members)

    def _among_cohorts(
        self, key: bytes, variant: int, position: int, members: Members
    ) -> tuple[int, int]:
        """Return the variant of a user, and the position by which it is compared; -1: it is not.

        ``variant`` and ``position`` are those by the hash of all users. Compared are users whose variant
        nothing but the present draw decides: of the cohort that is drawn those whom neither the hash of all
        users nor another cohort may have put on the canary; without one, those of no cohort.
        """
        drawn = self.drawn_cohort
        others = variant == CANARY and drawn is not None
        own = -1
        for group in self.groups:
            if group.name not in members:
                continue
            found = mmh3_32_uintdigest(group.salt + key)
            if found % BUCKETS < group.limit:
                variant = CANARY
            if group.name == drawn:
                own = found % BUCKETS * FINE + found // BUCKETS % FINE
            else:
                others = True
        if others:
            return variant, -1
        return variant, position if drawn is None else own

    def without_user(self, lines: bytes) -> Routing:
        """Return where a request goes that no user has made: to stable, but to the canary if all users do."""
        variant = CANARY if self.limit > NO_KEY_BUCKET else STABLE
        return Routing(self, None, NO_KEY_BUCKET, variant, lines, forced=True)


@mypyc_attr(acyclic=True, free_list_len=1)
class Routing:
    """Where one request goes, and why. Requests with the same headers share it while ``table`` is in force.

    Never changed once made; not a frozen dataclass, which takes longer to make.
    """

    __slots__ = ("bucket", "cookie", "forced", "key", "mark", "members", "table", "variant")

    def __init__(
        self,
        table: RouteTable,
        key: bytes | None,
        bucket: int,
        variant: int,
        cookie: bytes = b"",
        mark: int = -1,
        forced: bool = False,
        members: Members = NO_COHORTS,
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
        self.members = members
        """The cohorts that the request belongs to."""

    def forced_to(self, variant: int) -> Routing:
        """Return the same with the variant that a match rule chose."""
        return Routing(self.table, self.key, self.bucket, variant, self.cookie, forced=True)

    def without_record(self) -> Routing:
        """Return the same for a request that leaves no more records."""
        return Routing(
            *(self.table, self.key, self.bucket, self.variant, self.cookie),
            forced=self.forced,
            members=self.members,
        )
