"""Chooses the bodies that outcomes look into: in at most a quarter of the event loop's time.

Bodies are chosen when their requests are routed. If they were chosen when they have come, quick responses
would be looked into more often than slow ones, and a canary that is only slower would seem to respond
differently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import thread_time
from typing import Final

BODIES_A_TICK: Final = 20
"""Bodies that are chosen in each tick of the judge: those of the requests that are routed first."""
TIME_A_TICK: Final = 0.025
"""CPU seconds for looking into bodies in each tick. What exceeds them is taken from the next ticks."""


class BodySampler:
    """One for all connections of a worker, and for all its configurations."""

    __slots__ = ("_backlog", "_left", "_spent")

    def __init__(self) -> None:
        self._left = BODIES_A_TICK
        self._spent = 0.0
        self._backlog: deque[Callable[[], None]] = deque()

    def choose(self) -> bool:
        """Decide, when a request is routed, whether the body of its response will be looked into."""
        if self._left <= 0 or self._spent >= TIME_A_TICK:
            return False
        self._left -= 1
        return True

    def run(self, look: Callable[[], None]) -> None:
        """Look into a body that was chosen: now, or in one of the next ticks if the time is used up."""
        if self._spent >= TIME_A_TICK:
            self._backlog.append(look)
        else:
            self._timed(look)

    def tick(self) -> None:
        """Begin a tick with the backlog. Until that is empty no body is chosen."""
        self._spent = max(0.0, self._spent - TIME_A_TICK)
        while self._backlog and self._spent < TIME_A_TICK:
            self._timed(self._backlog.popleft())
        self._left = 0 if self._backlog else BODIES_A_TICK

    def _timed(self, look: Callable[[], None]) -> None:
        began = thread_time()
        look()
        self._spent += thread_time() - began
