"""The rules of rescue: which requests the other variant may answer, how many, and after which wait.

Pure; time is an argument, in monotonic seconds.

A rescued request is load for stable that its own users do not make. While a canary is dead at 50%, rescuing
all of its requests would double stable's load. So there is a budget: in any ten seconds stable takes over at
most a share of its own requests, and a few a second more. What is over it fails as it would without rescue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final

from canaryproxy.config import Rescue, RetryBudget
from canaryproxy.measure import histogram
from canaryproxy.measure.conditions import text_test
from canaryproxy.measure.counters import FIRST_BYTE
from canaryproxy.measure.outcomes import status_table

NOT_SERVED: Final = frozenset((502, 503, 504))
"""Statuses that say that the service has not taken the request."""
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
"""Methods that change nothing (RFC 9110 §9.2.1), as far as they are forwarded."""
_FILE_METHODS: Final = frozenset((b"GET", b"HEAD"))


class RescueRules:
    """The rules for single requests, and the budget of all, compiled from ``rescue``."""

    __slots__ = (
        "_assets",
        "_statuses",
        "budget",
        "enabled",
        "header",
        "methods",
        "replay_buffer",
        "reversible",
    )

    def __init__(self, rescue: Rescue, *, reversible: bool = True, workers: int = 1) -> None:
        self.reversible = reversible
        """Stable can serve the canary's users; if not, it answers none of their requests."""
        self.enabled = rescue.enabled and reversible
        self.header = rescue.header
        """A response of the other variant says so."""
        self.methods = frozenset(method.encode() for method in rescue.methods)
        """Methods that stable may repeat although the canary has the request."""
        self.replay_buffer = rescue.replay_buffer
        """Bytes of a request's body that are kept so that it can be sent again."""
        self.budget = Budget(rescue.budget, workers)
        self._statuses = status_table(rescue.statuses)
        self._assets = tuple(text_test(one.path) for one in rescue.assets)

    def is_failure(self, method: bytes, status: int) -> bool:
        """Tell whether stable answers in place of this response of the canary.

        Behind any status but ``NOT_SERVED`` the canary may have acted on the request: then only safe methods.
        """
        return (
            self.enabled
            and self._statuses[status] == 1
            and method in self.methods
            and (status in NOT_SERVED or method in SAFE)
        )

    def is_asset(self, method: bytes, path: bytes) -> bool:
        """Tell whether the other variant is asked for what one does not have (404)."""
        if not self._assets or method not in _FILE_METHODS:
            return False
        text = path.decode("latin-1")
        return any(test(text) for test in self._assets)


class Budget:
    """How many requests of the canary one worker lets stable take over; see ``RetryBudget``.

    Counts are kept by whole seconds, for ``WINDOW`` of them. Its methods are given the running total of the
    requests routed to stable; ``observe`` wants it at least once a second.
    """

    WINDOW: Final = 10

    __slots__ = ("_share", "_slots", "_sum", "_unconditional")

    def __init__(self, budget: RetryBudget | None, workers: int = 1) -> None:
        """``None``: without bound. ``workers`` share ``min_per_second``."""
        self._share = 0.0 if budget is None else budget.share
        self._unconditional = (
            inf if budget is None else budget.min_per_second * self.WINDOW / workers
        )
        self._slots: deque[list[int]] = deque()
        """Second, total of stable's requests when it began, rescues in it."""
        self._sum = 0
        """Rescues within the window."""

    def observe(self, now: float, total: int) -> None:
        """Take note of the total, and forget what is older than the window."""
        second, slots = int(now), self._slots
        if not slots or slots[-1][0] < second:
            slots.append([second, total, 0])
        while slots[0][0] <= second - self.WINDOW:
            self._sum -= slots.popleft()[2]

    def allows(self, now: float, total: int) -> bool:
        """Tell whether one more request may be rescued."""
        self.observe(now, total)
        return self._sum + 1 <= self._share * (total - self._slots[0][1]) + self._unconditional

    def take(self, now: float, total: int) -> bool:
        """Tell the same, and count the request if it may."""
        if not self.allows(now, total):
            return False
        self._slots[-1][2] += 1
        self._sum += 1
        return True


class Patience:
    """How long a request waits for the first byte from the canary, derived from stable's own times.

    Three times the 99.9th percentile of the last five minutes: of stable's requests hardly one takes longer,
    so a canary that is as good as stable is hardly ever taken for failed.
    """

    EVERY: Final = 10.0
    """Seconds between two looks at the counts."""
    LOOKS: Final = 30
    LEAST_REQUESTS: Final = 500
    QUANTILE: Final = 0.999
    FACTOR: Final = 3.0
    SHORTEST: Final = 1.0

    __slots__ = ("_looks", "_next", "seconds")

    def __init__(self, now: float = 0.0) -> None:
        self._looks: deque[list[int]] = deque(maxlen=self.LOOKS + 1)
        self._next = now
        self.seconds = inf
        """``inf`` while stable has had too few requests."""

    def observe(self, now: float, cells: Sequence[int]) -> None:
        """Look at stable's counters, if it is time."""
        if now < self._next:
            return
        self._next = now + self.EVERY
        last = list(cells[FIRST_BYTE : FIRST_BYTE + histogram.BUCKETS])
        if self._looks and last == self._looks[-1]:
            last = self._looks[-1]  # five minutes of a service without requests are one list
        self._looks.append(last)
        first = self._looks[0]
        recent = [after - before for before, after in zip(first, last, strict=True)]
        found = histogram.quantile(recent, self.QUANTILE)
        known = found is not None and sum(recent) >= self.LEAST_REQUESTS
        self.seconds = max(self.FACTOR * found, self.SHORTEST) if known and found else inf
