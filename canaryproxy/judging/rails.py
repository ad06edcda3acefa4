"""Guard rails: simple limits to the canary's raw requests. Not part of α, and not fooled by few users.

They look at the last requests: two blocks, each of ``min_requests`` or ten seconds. A rail is hit when half
of at least twenty canary requests failed (or were answered 4xx) while stable's share is far lower. Two things
speak against the version being at fault, and both are heard:

* at least three users were seen, and less than half of them have half of their requests fail: one client that
  fails again and again says nothing of the others;
* the users that fail have failed on stable before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from canaryproxy.config.text import count, duration, percent, plural
from canaryproxy.config.units import ratio_text
from canaryproxy.judging.settings import GuardRails

_BLOCK = 10.0
_MOST_OF_STABLE = 0.2
"""Share of stable's failures up to which the canary's can be called far higher."""
_FEW = 3
"""Users from which on the share of users counts."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Requests of one side that ended since the last tick."""

    ended: int = 0
    failed: int = 0
    refused: int = 0
    """Answered 4xx."""

    def __add__(self, other: Raw) -> Raw:
        return Raw(
            self.ended + other.ended, self.failed + other.failed, self.refused + other.refused
        )


NONE: Final = Raw()
"""No request."""


class _Block:
    """Requests of a while: raw by side, and of the canary's randomised users by user."""

    __slots__ = ("began", "canary", "stable", "users")

    def __init__(self, began: float | None = None) -> None:
        self.began = began
        self.stable = self.canary = Raw()
        self.users: dict[int, list[int]] = {}
        """Of each: ended, failed, refused."""


class Rails:
    """Watches the raw requests of both sides; ``tick`` returns the cause when a rail is hit."""

    def __init__(self, rule: GuardRails, was_failing: Callable[[int], bool]) -> None:
        """``was_failing`` tells whether a position's requests failed on stable, before it was moved."""
        self._rule = rule
        self._was_failing = was_failing
        self.begin()
        self._seen_at = 0.0

    def begin(self) -> None:
        """Look at nothing that was before."""
        self._before, self._now = _Block(), _Block()

    def add(self, position: int, *, failed: bool, refused: bool) -> None:
        """Take a randomised canary request that ended."""
        users = self._now.users
        seen = users.get(position)
        if seen is None:
            seen = users[position] = [0, 0, 0]
        seen[0] += 1
        seen[1] += failed
        seen[2] += refused

    def tick(self, now: float, stable: Raw, canary: Raw) -> str | None:
        """Take the raw growth of both sides; return the cause in words if a rail is hit."""
        if self._now.began is None:
            self._now.began = now
        if stable is not NONE:
            self._now.stable += stable
        if canary is not NONE:
            self._now.canary += canary
        self._seen_at = now
        cause = self._failures() or self._refusals()
        if self._now.canary.ended >= self._rule.min_requests and now - self._now.began >= _BLOCK:
            self._before, self._now = self._now, _Block(now)
        return cause

    @property
    def _canary(self) -> Raw:
        return self._before.canary + self._now.canary

    @property
    def _stable(self) -> Raw:
        return self._before.stable + self._now.stable

    @property
    def _when(self) -> str:
        """How far the two blocks look back."""
        first = self._now.began if self._before.began is None else self._before.began
        seconds = 0.0 if first is None else self._seen_at - first
        return f" in {duration(seconds)}" if seconds >= 1.0 else ""

    @property
    def outage(self) -> str | None:
        """Why nothing can be learnt now: stable itself is over the rail."""
        limit, seen = self._rule.errors or 0.5, self._stable
        if seen.ended < self._rule.min_requests or seen.failed < limit * seen.ended:
            return None
        share = f"{percent(seen.failed / seen.ended)} of {plural(seen.ended, 'request')}"
        return f"stable itself fails {share}{self._when}: the variants cannot be told apart"

    def _failures(self) -> str | None:
        limit = self._rule.errors
        canary, stable = self._canary, self._stable
        if limit is None or canary.ended < self._rule.min_requests:
            return None
        if canary.failed < limit * canary.ended:
            return None
        if not self._rule.absolute and (
            not _far_lower(stable.failed, stable.ended, canary.failed / canary.ended)
            or self._excused({user: (raw.ended, raw.failed) for user, raw in self._users().items()})
        ):
            return None
        hurt = [raw.failed for raw in self._users().values()]
        return _words(
            f"failed{self._when}",
            canary.failed,
            canary.ended,
            limit,
            hurt,
            stable.failed,
            stable.ended,
        )

    def _refusals(self) -> str | None:
        limit = self._rule.client_errors
        canary, stable = self._canary, self._stable
        if limit is None or canary.ended < self._rule.min_requests:
            return None
        if canary.refused < limit * canary.ended:
            return None
        if not _far_lower(stable.refused, stable.ended, canary.refused / canary.ended):
            return None
        if self._excused({user: (raw.ended, raw.refused) for user, raw in self._users().items()}):
            return None
        return _words(
            f"were answered 4xx{self._when}",
            canary.refused,
            canary.ended,
            limit,
            [raw.refused for raw in self._users().values()],
            stable.refused,
            stable.ended,
        )

    def _users(self) -> dict[int, Raw]:
        users: dict[int, Raw] = {}
        for block in (self._before, self._now):
            for user, (ended, failed, refused) in block.users.items():
                users[user] = users.get(user, Raw()) + Raw(ended, failed, refused)
        return users

    def _excused(self, users: dict[int, tuple[int, int]]) -> bool:
        """Whether the events are those of a few users among many, or of users that always had them."""
        if not users:
            return False
        bad = [user for user, (ended, events) in users.items() if 2 * events >= ended]
        fresh = [user for user in bad if not self._was_failing(user)]
        if len(users) < _FEW:
            return not fresh
        return 2 * len(fresh) < len(users)


def _far_lower(events: int, ended: int, share: float) -> bool:
    """Whether stable's share is far lower than the canary's ``share``, or stable has no requests at all."""
    return events <= min(_MOST_OF_STABLE, share / 2) * ended


def _words(
    what: str,
    events: int,
    ended: int,
    limit: float,
    hurt: list[int],
    events_s: int,
    ended_s: int,
) -> str:
    """``hurt``: the events of each user of the canary."""
    of = f" of {plural(len(hurt), 'user')}" if hurt else ""
    users = f", {count(sum(1 for one in hurt if one))}{of}" if hurt else ""
    stable = "no requests on stable"
    if ended_s:
        stable = f"{percent(events_s / ended_s)} on stable ({count(events_s)} of {count(ended_s)})"
    return (
        f"guard rail: {count(events)} of the last {count(ended)} canary requests {what} "
        f"({percent(events / ended)}, limit {ratio_text(limit)}{users}) vs {stable}"
    )
