"""The clock of a control plane: one tick for the worker beside it and for all controllers."""

from __future__ import annotations

import asyncio
import logging
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

    ``first`` is called before the services: it is the tick of a worker in this process. An error in one
    service keeps no other from its tick.
    """

    def __init__(
        self, first: Callable[[], None], services: Callable[[], Iterable[Service]]
    ) -> None:
        self._first = first
        self._services = services
        self._turn = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick until ``stop``. Needs a running loop."""
        self._handle = asyncio.get_running_loop().call_later(TICK_SECONDS, self._ticked)

    def stop(self) -> None:
        """Tick no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ticked(self) -> None:
        self.start()
        self.tick()

    def tick(self) -> None:
        """Let the worker tick, then each service that is due."""
        self._first()
        self._turn += 1
        for at, service in enumerate(self._services(), self._turn):
            if at % IDLE_TICKS and not service.is_due:
                continue
            try:
                service.tick()
            except Exception:  # noqa: BLE001 - as the event loop does for each callback
                _log.exception("a tick failed")
