"""Business events that a service posts: of single users, by sticky key, or counts of a variant.

Of a key nothing is kept but its position, as a record like those of requests (``measure.records``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from canaryproxy.control.record_reader import MOST_RECORDS, thinned
from canaryproxy.measure.exposure import NO_COHORTS
from canaryproxy.measure.records import FLAGS_SHIFT, POSTED, WORDS
from canaryproxy.measure.routing import VARIANTS, RouteTable
from canaryproxy.release.rollout import Refused

_SIGNATURE: Final = 22
"""Characters of the signature of a sticky cookie, after the last dot."""
_MOST_WORDS: Final = 4 * MOST_RECORDS * WORDS


@dataclass(frozen=True, slots=True)
class PostedEvent:
    """Business events of one user or of a variant's users."""

    count: int = 1
    variant: Literal["stable", "canary"] | None = None
    """Not needed with a key: the split decides then."""
    key: str | None = field(default=None, repr=False)
    """The user's sticky key."""


class EventInbox:
    """Events since the last tick, and counts since the proxy was started."""

    def __init__(self) -> None:
        self.counts = {"stable": 0, "canary": 0}
        """Events without a key, by variant."""
        self._words: list[int] = []

    def post(self, events: Sequence[PostedEvent], table: RouteTable, *, signed: bool) -> int:
        """Take all of the events, or none: raises ``Refused``. Return how many name a randomised user.

        ``table`` is in force. ``signed``: sticky cookies are, so that keys come with their signatures.
        """
        words: list[int] = []
        by_user = 0
        # A key does not say to which cohorts its user belongs. In a cohort's step all count as members: the
        # judge takes the events of those who have sent a request as one.
        members = NO_COHORTS if table.drawn_cohort is None else frozenset({table.drawn_cohort})
        for number, event in enumerate(events, 1):
            if event.key is None:
                continue
            key = event.key.encode()
            if signed:
                key, dot, signature = key.rpartition(b".")
                if not dot or len(signature) != _SIGNATURE:
                    raise Refused(
                        f"event {number}: key is not a signed cookie; "
                        "post the cookie's value as the service receives it"
                    )
            routing = table.route(key, members=members)
            side = VARIANTS[routing.variant]
            if event.variant not in (None, side) and not table.groups:
                raise Refused(
                    f"event {number}: the split has the user of this key on {side} now, not on "
                    f"{event.variant} (a match rule or an earlier weight may have); leave variant out"
                )
            if routing.mark >= 0:
                words += (routing.mark | POSTED << FLAGS_SHIFT, 0, 0)
                by_user += event.count
        for event in events:
            if event.key is None and event.variant is not None:
                self.counts[event.variant] += event.count
        self._words += words
        del self._words[:-_MOST_WORDS]
        return by_user

    @property
    def has_words(self) -> bool:
        """Whether there are events of users since the last tick."""
        return bool(self._words)

    def take(self) -> list[int]:
        """Return the records of the events of users since the last call."""
        words, self._words = self._words, []
        return thinned(words)
