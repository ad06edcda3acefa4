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

from canaryproxy.measure.outcomes import BodyReader

BODIES_A_TICK: Final = 20
"""Bodies that are chosen in each tick of the judge: those of the requests that are routed first."""
TIME_A_TICK: Final = 0.025
"""CPU seconds for looking into bodies in each tick. What exceeds them is taken from the next ticks."""
MOST_WAITING: Final = 16 * 1024 * 1024
"""Bytes of bodies that may wait for their turn."""


class SampledBody:
    """A body that was chosen, read as it comes and as there is time."""

    __slots__ = ("_sampler", "_then", "_waits", "reader")

    def __init__(self, sampler: BodySampler, reader: BodyReader) -> None:
        self._sampler = sampler
        self.reader = reader
        self._waits = False
        """It is in the sampler's backlog."""
        self._then: Callable[[], None] | None = None

    def add(self, data: bytes) -> None:
        """Take more of the body as sent."""
        reader, sampler = self.reader, self._sampler
        if reader.done:
            return
        enough = reader.add(data)
        if self._waits:
            sampler.waiting += len(data)
            if sampler.waiting > MOST_WAITING:
                sampler.waiting -= reader.pending
                reader.give_up()
        elif enough:
            self._run()

    def close(self, then: Callable[[], None], *, whole: bool) -> None:
        """Take note that nothing more comes, and call ``then`` when the rules are decided, perhaps at once.

        ``whole``: the response did not break off.
        """
        self._then = then
        self.reader.close(whole=whole)
        if self.reader.done and not self._waits:
            then()
        elif not self._waits:
            self._run()

    def _run(self) -> None:
        if not self._sampler.run(self._look):
            self._waits = True
            self._sampler.waiting += self.reader.pending

    def _look(self) -> bool:
        reader = self.reader
        before = reader.pending
        more = reader.read()
        if self._waits:
            self._sampler.waiting -= before - reader.pending
        if not more:
            self._waits = False
            if self._then is not None:
                self._then()
        return more


class BodySampler:
    """One for all connections of a worker, and for all its configurations."""

    __slots__ = ("_backlog", "_left", "_spent", "waiting")

    def __init__(self) -> None:
        self._left = BODIES_A_TICK
        self._spent = 0.0
        self._backlog: deque[Callable[[], bool]] = deque()
        self.waiting = 0
        """Bytes of bodies that wait for their turn."""

    def choose(self) -> bool:
        """Decide, when a request is routed, whether the body of its response will be looked into."""
        if self._left <= 0 or self._spent >= TIME_A_TICK:
            return False
        self._left -= 1
        return True

    def run(self, look: Callable[[], bool]) -> bool:
        """Look into a body that was chosen, as long as ``look`` says that there is more to do.

        Returns whether that is done. If not, because the time is used up, ``look`` goes on in the next ticks.
        """
        if self._go_on(look):
            return True
        self._backlog.append(look)
        return False

    def tick(self) -> None:
        """Begin a tick with the backlog. Until that is empty no body is chosen."""
        self._spent = max(0.0, self._spent - TIME_A_TICK)
        while self._backlog and self._go_on(self._backlog[0]):
            self._backlog.popleft()
        self._left = 0 if self._backlog else BODIES_A_TICK

    def _go_on(self, look: Callable[[], bool]) -> bool:
        more = True
        while more and self._spent < TIME_A_TICK:
            began = thread_time()
            more = look()
            self._spent += thread_time() - began
        return not more
