"""Tells the fleet of a front how the proxies behind it fare (``split.follow.tell``).

What it says fades within ``redis_store.HEARD`` seconds, so it is said every few seconds, and at once when it
changes. Without Redis nothing is said, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from canaryproxy.config import Tell
from canaryproxy.control.controller import Status
from canaryproxy.fleet.behind import Behind
from canaryproxy.fleet.redis_store import RedisStore, StoreUnavailable

_log = logging.getLogger(__name__)

_AGAIN = 3.0
"""Seconds after which it is said again."""


class Store(Protocol):
    """The store of the front's fleet, as a teller uses it."""

    async def tell(self, service: str, said: Behind) -> None:
        """Say something. Raises ``StoreUnavailable``."""

    async def close(self) -> None:
        """Close the connections."""


class FrontTeller:
    """Tells one front; ``status`` is that of the release here."""

    def __init__(
        self, settings: Tell, status: Callable[[], Status], store: Store | None = None
    ) -> None:
        self._settings = settings
        self._status = status
        self._store = store or RedisStore(settings, settings.service)
        self._said: Behind | None = None
        self._said_at = float("-inf")
        self._is_lost = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell until ``stop``."""
        self._task = asyncio.get_running_loop().create_task(self._tell())

    async def stop(self) -> None:
        """Say nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._store.close()

    async def _tell(self) -> None:
        while True:
            await self.say()
            await asyncio.sleep(self._settings.interval)

    async def say(self) -> None:
        """Say how the release fares, if that is new or fades."""
        status = self._status()
        if status.front is None:
            return
        said = Behind.of(status.front.release, status.circuit, status.assessment)
        if said == self._said and monotonic() - self._said_at < _AGAIN:
            return
        try:
            await self._store.tell(self._settings.service, said)
        except StoreUnavailable as error:
            if not self._is_lost:
                _log.warning("the front's fleet %s: %s", self._settings.group, error)
            self._is_lost = True
            return
        self._said, self._said_at, self._is_lost = said, monotonic(), False
