"""The clock of a control plane: one tick for the worker beside it and for all controllers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from canaryproxy.control.controller import TICK_SECONDS, Controller

_log = logging.getLogger(__name__)


class Ticker:
    """Ticks ten times a second from ``start`` to ``stop``.

    ``first`` is called before the controllers: it is the tick of a worker in this process. An error in one
    controller keeps no other from its tick.
    """

    def __init__(
        self, first: Callable[[], None], controllers: Callable[[], Iterable[Controller]]
    ) -> None:
        self._first = first
        self._controllers = controllers
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
        """Let the worker tick, then each controller."""
        self._first()
        for controller in self._controllers():
            try:
                controller.tick()
            except Exception:  # noqa: BLE001 - as the event loop does for each callback
                _log.exception("a tick failed")
