"""The clock of a control plane: one tick for the worker beside it and for all controllers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from canaryproxy.control.controller import TICK_SECONDS

_log = logging.getLogger(__name__)


IDLE_TICKS: Final = 10
"""An idle service is due at every tenth tick: once a second. The services take turns."""


class Service(Protocol):
    """A service, as its clock knows it."""

    @property
    def is_due(self) -> bool:
        """Whether it needs every tick for now."""

    def tick(self) -> None:
        """Read the counters, and act on the verdict."""


class Ticker:
    """Ticks ten times a second from ``start`` to ``stop``.

    ``first`` is called before the services: it is the tick of a worker in this process. Between the ticks of
    two services the loop turns, so that a request waits for one or two of them and not for all. An error in
    one service keeps no other from its tick.
    """

    def __init__(
        self, first: Callable[[], None], services: Callable[[], Iterable[Service]]
    ) -> None:
        self._first = first
        self._services = services
        self._turn = 0
        self._due: deque[Service] = deque()
        """Services that are to tick yet in this turn."""
        self._handles: list[asyncio.Handle] = []
        """The next turn, and the next service of this one."""

    def start(self) -> None:
        """Tick until ``stop``. Needs a running loop."""
        self._handles = [asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)]

    def stop(self) -> None:
        """Tick no more, not even those whose turn it is."""
        for handle in self._handles:
            handle.cancel()
        self._handles = []
        self._due.clear()

    def _ticked(self) -> None:
        self._finish()  # a loop that is busy has not come round to all of them
        self.stop()
        self.start()
        self._begin()
        self._go_on()

    def tick(self) -> None:
        """Let the worker tick, then each service that is due, at once."""
        self._begin()
        self._finish()

    def _begin(self) -> None:
        """Let the worker tick, and see which services are due."""
        self._first()
        self._turn += 1
        for at, service in enumerate(self._services(), self._turn):
            if at % IDLE_TICKS == 0 or service.is_due:
                self._due.append(service)

    def _go_on(self) -> None:
        """Let the next service tick, and leave the others to the next turns of the loop."""
        del self._handles[1:]
        self._tick_next()
        if self._due:
            self._handles.append(asyncio.get_running_loop().call_soon(self._go_on))

    def _finish(self) -> None:
        while self._due:
            self._tick_next()

    def _tick_next(self) -> None:
        """Let the next service tick, unless it has been removed meanwhile."""
        if not self._due or (service := self._due.popleft()) not in self._services():
            return
        try:
            service.tick()
        except Exception:  # noqa: BLE001 - as the event loop does for each callback
            _log.exception("a tick failed")
