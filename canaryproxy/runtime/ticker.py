"""The clock of a control plane: one tick for the worker beside it and for all controllers.

In the one process of ``workers: 1`` the event loop serves requests, too, and a tick in one piece would be a
silence for all of them. So a tick is done in slices, and the loop turns between two of them: a slice takes
``SLICE`` seconds and the part that it is in, so that a request waits for one or two slices and not for all
services. Where a turn of the loop takes long because requests are many, a slice may take a third of that:
requests come first, and the judge gets a quarter of the core all the same, up to ``LONGEST_SLICE`` at a time.

A tick that has not ended when the next is due delays that one: it takes the records of both. The worker ticks
on time in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Final, Protocol

from canaryproxy.control.controller import TICK_SECONDS

_log = logging.getLogger(__name__)


IDLE_TICKS: Final = 10
"""An idle service is due at every tenth tick: once a second. The services take turns."""
QUIET_TICKS: Final = 5
"""One whose release has no requests is due twice a second, and at the next tick once it has one."""
SLICE: Final = 0.000_5
LONGEST_SLICE: Final = 0.02
_SHARE: Final = 1 / 3
"""Most of a slice, as a part of the turn of the loop before it."""


class Service(Protocol):
    """A service, as its clock knows it."""

    @property
    def period(self) -> int:
        """Of how many ticks it needs one for now."""

    def parts(self) -> Iterator[None]:
        """Read the counters, and act on the verdict, in parts."""


class Ticker:
    """Ticks ten times a second from ``start`` to ``stop``.

    ``first`` is called before the services: it is the tick of a worker in this process. An error in one
    service keeps no other from its tick. ``clock`` gives seconds.
    """

    def __init__(
        self,
        first: Callable[[], None],
        services: Callable[[], Iterable[Service]],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._first = first
        self._services = services
        self._clock = clock
        self._turn = 0
        self._due: deque[Service] = deque()
        """Services that are to tick yet in this turn."""
        self._current: Service | None = None
        self._parts: Iterator[None] | None = None
        """What is left of its tick."""
        self._began = self._paused = 0.0
        self._handles: list[asyncio.Handle] = []
        """The next turn, and the next slice of this one."""
        self.late = 0
        """Ticks that were not begun, because the one before had not ended."""
        self.seconds = 0.0
        """How long the last tick took that has ended, with the requests that were served meanwhile."""

    def start(self) -> None:
        """Tick until ``stop``. Needs a running loop."""
        self._handles = [asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)]

    def stop(self) -> None:
        """Tick no more, not even those whose turn it is.

        What is in the middle of its tick can finish it by itself (``Controller.stop``).
        """
        for handle in self._handles:
            handle.cancel()
        self._handles = []
        self._due.clear()
        self._current = self._parts = None

    def drop(self, service: Service) -> None:
        """Let a service tick no more in this turn: it is removed."""
        if service in self._due:
            self._due.remove(service)
        if service is self._current:
            self._current = self._parts = None

    @property
    def _is_busy(self) -> bool:
        return self._parts is not None or bool(self._due)

    def _ticked(self) -> None:
        self._handles[:1] = [asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)]
        self._first()
        if self._is_busy:
            self.late += 1
            return
        self._begin()
        self._go_on()

    def tick(self) -> None:
        """Let the worker tick, then each service that is due, at once."""
        self._first()
        self._begin()
        while self._is_busy:
            self._do_part()

    def _begin(self) -> None:
        """See which services are due."""
        self._turn += 1
        self._began = self._paused = self._clock()
        for at, service in enumerate(self._services(), self._turn):
            if at % service.period == 0:
                self._due.append(service)

    def _go_on(self) -> None:
        """Do the next slice, and leave the others to the next turns of the loop."""
        del self._handles[1:]
        now = self._clock()
        turn = min((now - self._paused) * _SHARE, LONGEST_SLICE)
        end = now + max(SLICE, turn)
        while self._is_busy:
            self._do_part()
            now = self._clock()
            if now >= end:
                break
        self._paused = now
        if self._is_busy:
            self._handles.append(asyncio.get_running_loop().call_soon(self._go_on))
        else:
            self.seconds = now - self._began

    def _do_part(self) -> None:
        """Do the next part of the tick of a service, or let the next service begin."""
        try:
            if self._parts is None:
                self._current = self._due.popleft()
                self._parts = self._current.parts()
            next(self._parts)
        except StopIteration:
            self._current = self._parts = None
        except Exception:  # noqa: BLE001 - as the event loop does for each callback
            _log.exception("a tick failed")
            self._current = self._parts = None
