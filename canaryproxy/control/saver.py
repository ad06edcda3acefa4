"""The saver: which version of the release is on disk, and which changes wait for it.

A save that fails is retried every second. Until it succeeds, a split with more users on the canary is not
published (``has_split``), and ``saved`` fails for everyone who waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from canaryproxy.control.ledger import Ledger
from canaryproxy.control.state_file import StateError, StateFile
from canaryproxy.measure.exposure import NONE_REACHED, Cohorts, Exposure

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class Unsaved(Exception):
    """The requested change is not on disk; the text says whether it is in force meanwhile."""


@dataclass(frozen=True, slots=True)
class Split:
    """The part of a route table that must be on disk before it brings more users to the canary."""

    weight: float
    """Percent of all users."""
    circuit_open: bool
    salt: bytes
    cohorts: Cohorts = NONE_REACHED
    """Cohorts with users on the canary besides."""

    @property
    def users(self) -> Exposure:
        """The users on the canary."""
        if self.circuit_open:
            return Exposure()
        return Exposure(self.weight, self.cohorts.reached, self.cohorts.drawn)

    def raises(self, before: Split) -> bool:
        """Whether it puts users on the canary who are not there ``before``."""
        return self.users.raises(before.users)

    def meet(self, other: Split) -> Split:
        """Return the split of which every user is on the canary by both, with this one's salt."""
        users = self.users.meet(other.users)
        return replace(self, weight=users.weight, cohorts=users.of_cohorts)


class Saver:
    """Writes the newest version of the ledger until the disk has it.

    ``document`` returns the values to write; ``on_saved`` is called after each save, before waiters are
    woken.
    """

    def __init__(
        self,
        file: StateFile,
        ledger: Ledger,
        document: Callable[[], dict[str, Any]],
        on_saved: Callable[[], None],
        split: Split,
    ) -> None:
        self.file = file
        self.saved = 0
        """The newest version of the ledger that is on disk."""
        self.error: str | None = None
        """Why the last save failed, until one succeeds."""
        self._ledger = ledger
        self._document = document
        self._on_saved = on_saved
        self._split = split
        self._split_version = 0
        """The version of the ledger since which this split is wanted."""
        self._task: asyncio.Task[None] | None = None
        self._waiters: list[tuple[int, asyncio.Future[str | None]]] = []
        self._stopped = False
        self._writing = Lock()
        self._written = -1
        """The newest version that a thread has begun to write; for the holder of ``_writing``."""

    @property
    def busy(self) -> bool:
        """Whether a save is under way or waits for its retry."""
        return self._task is not None

    def want(self, split: Split) -> None:
        """Note the split that the release wants now."""
        if split != self._split:
            self._split, self._split_version = split, self._ledger.version

    @property
    def has_split(self) -> bool:
        """Whether the disk has the reason for the wanted split, so that a crash would not forget it."""
        return self.saved >= self._split_version

    def save_soon(self) -> None:
        """Start saving if the disk is behind the ledger."""
        if self.saved < self._ledger.version and self._task is None and not self._stopped:
            self._task = asyncio.ensure_future(self._save())

    async def _save(self) -> None:
        """Write until the disk has the newest version."""
        try:
            while self.saved < self._ledger.version and not self._stopped:
                version, document = self._ledger.version, self._document()
                try:
                    await asyncio.to_thread(self._write, version, document)
                except StateError as error:
                    if self.error is None:
                        _log.error(
                            "%s; the weight will not rise until the state file can be written",
                            error,
                        )
                    self.error = str(error)
                    self._wake(self.error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                self.saved = version
                if self.error is not None:
                    _log.info("the state file %s is written again", self.file.path)
                self.error = None
                self._on_saved()  # a change that is acknowledged is in force
                self._wake(None)
        finally:
            self._task = None

    def _write(self, version: int, document: dict[str, Any]) -> None:
        """Write a document unless a newer one has been written. Raises ``StateError``."""
        with self._writing:
            if version >= self._written:
                self._written = version
                self.file.save(document)

    async def wait(self, in_force: Callable[[], bool]) -> None:
        """Return when everything up to now is on disk. Raises ``Unsaved`` if a save fails.

        ``in_force`` tells whether the change is published meanwhile; only the text depends on it.
        """
        if self.saved >= self._ledger.version:
            return
        waiter: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._ledger.version, waiter))
        why = await waiter
        if why is not None:
            meanwhile = (
                "it is in force, but a restart would forget it"
                if in_force()
                else "the weight will not rise until the state file can be written"
            )
            raise Unsaved(f"{why}; {meanwhile}")

    def _wake(self, why: str | None) -> None:
        """Wake the waiters whose version is on disk; with ``why``, fail all the others."""
        left = []
        for version, waiter in self._waiters:
            if why is None and version > self.saved:
                left.append((version, waiter))
            elif not waiter.done():
                waiter.set_result(None if version <= self.saved else why)
        self._waiters = left

    async def stop(self) -> None:
        """Save a last time, and no more after that."""
        self._stopped = True
        if self._task is not None:
            await self._task
        self._wake("the proxy stops")
        try:
            await asyncio.to_thread(self.file.save, self._document())
        except StateError as error:
            _log.error("%s", error)

    def stop_at_once(self) -> None:
        """Save a last time before this returns, and no more after that: another saver may follow.

        Blocks while the disk writes.
        """
        self._stopped = True
        try:
            self._write(self._ledger.version, self._document())
        except StateError as error:
            _log.error("%s", error)
        else:
            self.saved = self._ledger.version
        self._wake("the service has been removed from the configuration")
