"""When bodies are looked into for outcomes: all that were chosen, in at most a quarter of the loop's time.

Which bodies is settled when their requests are routed, by what was looked into before. Were it settled when
they have come, quick answers would be looked into more often than slow ones, and a canary that is only slower
would seem to answer something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import thread_time
from typing import Final

BODIES_A_TICK: Final = 20
"""Bodies that are chosen in each tick of the judge: the first ones to be routed, whatever they are."""
TIME_A_TICK: Final = 0.025
"""CPU seconds for looking in each tick. What is over is taken from the next ticks."""


class BodySampler:
    """One for all connections of a worker, and for all its configurations."""

    __slots__ = ("_left", "_spent", "_waiting")

    def __init__(self) -> None:
        self._left = BODIES_A_TICK
        self._spent = 0.0
        self._waiting: deque[Callable[[], None]] = deque()

    def chosen(self) -> bool:
        """Tell, when a request is routed, whether the body of its answer will be looked into."""
        if self._left <= 0 or self._spent >= TIME_A_TICK:
            return False
        self._left -= 1
        return True

    def look(self, look: Callable[[], None]) -> None:
        """Look into a body that was chosen: now, or in one of the next ticks if the time is over."""
        if self._spent >= TIME_A_TICK:
            self._waiting.append(look)
        else:
            self._timed(look)

    def tick(self) -> None:
        """Begin a tick of the judge, with what waits. Until nothing does none is chosen."""
        self._spent = max(0.0, self._spent - TIME_A_TICK)
        while self._waiting and self._spent < TIME_A_TICK:
            self._timed(self._waiting.popleft())
        self._left = 0 if self._waiting else BODIES_A_TICK

    def _timed(self, look: Callable[[], None]) -> None:
        began = thread_time()
        look()
        self._spent += thread_time() - began
