"""Load shedding: when a variant is over its measured limit, and whom it refuses then.

Pure; time is an argument, in monotonic seconds. Each worker sheds by what it has measured itself.

Theory of operation. An overloaded server answers all of its users too late: its queue grows until clients
give up, and it works on for those who have left. What helps is a short queue. By Little's law a variant that
answers R requests a second within a time holds R times that time in flight; hence

    limit = R * patience / 4

``patience`` is ``limits.shed_after``: a response that takes longer comes too late. R is the most that an
endpoint has answered in time in any second of the last hour, times the endpoints that are usable. So it grows
while the requests let through are answered in time, and a limit that was too low mends itself.

It begins where three seconds in a row were overloaded: more in flight than the limit, and more than half of
the responses too late (or none at all, for as long as the patience). While half of the responses come in
time, nothing is shed, whatever the load. It ends when nothing had to be refused for ten seconds. It is given
up for a minute where it does not help: the queue is short, and responses are late all the same.

New users, those without a sticky key, get three quarters of the limit; a user who comes back gets more, by a
rank that is drawn from his bucket anew each minute. So of the users who come back some are served and others
not, for a minute: if each request was refused at random, no page of twenty requests would ever be complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final

from canaryproxy.measure import histogram
from canaryproxy.measure.counters import (
    ERRORS,
    FAILED,
    FINISHED,
    FIRST_BYTE,
    ROUTED,
    SHED,
    STREAMS_CLOSED,
    STREAMS_OPENED,
    Reason,
)
from canaryproxy.measure.routing import BUCKETS, NOT_SHARED, Routing

WINDOW: Final = 1.0
"""Seconds that are judged as one."""
WINDOWS: Final = 3
"""Overloaded windows in a row after which requests are shed."""
CALM: Final = 10.0
"""Seconds without a refusal after which nothing is shed any more."""
PAUSE: Final = 60.0
"""Seconds for which nothing is shed after it did not help."""
LEAST: Final = 8
"""Requests in flight of each endpoint that are never too many."""
_SHARE: Final = 4.0
"""The queue may take this part of the patience."""
_FOR_ALL: Final = 0.75
"""Share of the limit that is for new users, too."""
_SLOT: Final = 600.0
_SLOTS: Final = 6
_TURN: Final = 60.0
"""Seconds for which a user keeps his rank."""
_FACTOR: Final = 7919
"""Coprime to ``BUCKETS``: neighbours get ranks that lie apart."""
_STEP: Final = 6181
_SHED: Final = ERRORS + Reason.SHED


class LoadLimit:
    """Number of requests that one variant may have in flight on one worker."""

    __slots__ = (
        "_calm_since",
        "_counts",
        "_ends",
        "_late_at",
        "_most",
        "_not_before",
        "_overloaded",
        "_patience",
        "_refused",
        "_silent_since",
        "_streams",
        "_turn",
        "_useless",
        "limit",
        "sheds",
        "was_late",
    )

    def __init__(self, patience: float | None = None) -> None:
        self.limit = 0
        """Requests in flight, streams left out."""
        self.sheds = False
        """Requests over the limit are refused."""
        self._ends = 0.0
        """When the window ends."""
        self._counts: tuple[int, ...] = ()
        self._most: deque[tuple[int, float]] = deque()
        """Ten minutes by number, and the most responses in time of an endpoint in a second of them."""
        self._late_at = -inf
        """When the last window ended in which most responses came too late, or none came."""
        self.was_late = False
        """That was within the last minute, or it sheds. Then it is no wonder if the other variant does."""
        self._overloaded = self._useless = 0
        """Windows in a row."""
        self._silent_since = self._calm_since = 0.0
        self._not_before = 0.0
        self._refused = self._streams = self._turn = 0
        self.configure(patience)

    def configure(self, patience: float | None) -> None:
        """Continue with another patience in seconds; ``None``: nothing is ever shed."""
        self._patience = patience
        if patience is None:
            self._late_at, self.was_late = -inf, False
            self._stop()

    def take(self, other: LoadLimit) -> None:
        """Go by what another variant has answered, whose version this one runs now."""
        if other._most:
            self._most = deque(other._most)

    def forget(self) -> None:
        """Begin anew: the variant is another version."""
        self._most.clear()
        self._late_at, self.was_late = -inf, False
        self._stop()

    def observe(self, now: float, cells: Sequence[int], endpoints: int) -> None:
        """Look at the variant's counters, if a window has ended; ``endpoints`` are usable."""
        if self._patience is None or now < self._ends:
            return
        begins, self._ends = self._ends - WINDOW, now + WINDOW
        last_in = histogram.bucket_index(self._patience) + 1
        counts = cells[FIRST_BYTE : FIRST_BYTE + histogram.BUCKETS]
        before, self._counts = (
            self._counts,
            (
                sum(counts[:last_in]),
                sum(counts[last_in:]),
                cells[FAILED] + cells[SHED],
                cells[_SHED],
            ),
        )
        self._turn = int(now / _TURN)
        self._streams = cells[STREAMS_OPENED] - cells[STREAMS_CLOSED]
        if not before:
            self._silent_since = self._calm_since = now
            return
        quick, late, failed, shed = (
            after - was for after, was in zip(self._counts, before, strict=True)
        )
        quick = max(quick - shed, 0)  # a refusal is no response of the variant
        failed = max(failed - shed, 0)
        self._carry(now, max(quick - failed, 0) / max(now - begins, WINDOW), endpoints)
        in_flight = cells[ROUTED] - cells[FINISHED] - self._streams
        self._judge(now, in_flight, quick, late)

    def _carry(self, now: float, rate: float, endpoints: int) -> None:
        """Take note of the responses in time, and derive the limit."""
        slot, most, each = int(now / _SLOT), self._most, rate / max(endpoints, 1)
        while most and most[0][0] <= slot - _SLOTS:
            most.popleft()
        if most and most[-1][0] == slot:
            each = max(each, most.pop()[1])
        most.append((slot, each))
        best = max(rate for _, rate in most)
        assert self._patience is not None
        self.limit = int(max(best * self._patience / _SHARE, LEAST) * max(endpoints, 1))

    def _judge(self, now: float, in_flight: int, quick: int, late: int) -> None:
        assert self._patience is not None
        over = in_flight > self.limit
        if quick + late or not over:
            self._silent_since = now
        is_late = late > quick or now - self._silent_since > self._patience
        if is_late or self.sheds:
            self._late_at = now
        self.was_late = now - self._late_at < PAUSE
        if not self.sheds:
            self._overloaded = self._overloaded + 1 if is_late and over else 0
            if self._overloaded >= WINDOWS and now >= self._not_before:
                self.sheds = True
                self._calm_since, self._refused, self._useless = now, 0, 0
            return
        if self._refused:
            self._calm_since, self._refused = now, 0
        self._useless = self._useless + 1 if is_late and not over else 0
        if self._useless * WINDOW > 2.0 * self._patience + WINDOWS:
            self._not_before = now + PAUSE
            self._stop()
        elif now - self._calm_since >= CALM:
            self._stop()

    def _stop(self) -> None:
        self.sheds = False
        self._overloaded = self._useless = 0

    def refuses(self, in_flight: int, routing: Routing) -> bool:
        """Tell whether a request is refused; ``in_flight`` counts it."""
        if not self.sheds or in_flight - self._streams <= self._room(routing):
            return False
        if routing.forced and routing.cookie == NOT_SHARED:
            return False  # a load balancer whose probes fail takes the whole proxy out of service
        self._refused += 1
        return True

    def has_room(self, in_flight: int) -> bool:
        """Tell whether a request may come that is not the variant's own."""
        return not self.sheds or in_flight - self._streams < int(self.limit * _FOR_ALL)

    def _room(self, routing: Routing) -> int:
        """Return how many may be in flight with a request of this user."""
        least = int(self.limit * _FOR_ALL)
        if routing.key is None or is_new(routing):
            return least
        rank = (routing.bucket * _FACTOR + self._turn * _STEP) % BUCKETS
        return least + (self.limit - least) * (rank + 1) // BUCKETS


class LoadLimits:
    """Limits of stable and of the canary on one worker."""

    __slots__ = ("of", "sheds")

    def __init__(self) -> None:
        self.of = (LoadLimit(), LoadLimit())
        """By variant."""
        self.sheds = False
        """One of them is exceeded. Nothing else is read with a request while none is."""

    def configure(self, patience: float | None) -> None:
        """Continue with another patience, as ``LoadLimit.configure`` does."""
        for limit in self.of:
            limit.configure(patience)
        self.sheds = any(limit.sheds for limit in self.of)

    def begin(self, *, promoted: bool) -> None:
        """Begin another release: the canary is another version now.

        ``promoted``: the release before was, so stable runs what was the canary then.
        """
        stable, canary = self.of
        if promoted:
            stable.take(canary)
        canary.forget()

    def observe(self, now: float, cells: Sequence[Sequence[int]], endpoints: Sequence[int]) -> None:
        """Look at the counters and the usable endpoints of both variants."""
        for limit, of_variant, usable in zip(self.of, cells, endpoints, strict=True):
            limit.observe(now, of_variant, usable)
        self.sheds = any(limit.sheds for limit in self.of)


def is_new(routing: Routing) -> bool:
    """Tell whether a user comes for the first time: the response is to set his sticky cookie."""
    return bool(routing.cookie) and routing.mark < 0


def retry_after(routing: Routing) -> int:
    """Return after how many seconds a refused user may try again: not all at once."""
    return 2 + routing.bucket % 8
