"""Locks, so that the state of a release has one writer.

A proxy holds that of its state file, and with services or versions beside a canary also that of the folder in
which each of them has a file: another proxy with another ``state`` in the same place would share that folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from time import monotonic, sleep

from canaryproxy.config import Config
from canaryproxy.control.state_file import StateError

_log = logging.getLogger(__name__)

_LOOK_EVERY = 0.01


class StateLock:
    """A lock on a file beside ``path``, so that only one process at a time writes the state there.

    ``path`` is a state file, or with ``is_folder`` a folder of them. The kernel releases the lock when its
    holder ends, however that happens (flock(2)). The file stays.
    """

    def __init__(self, path: Path, *, is_folder: bool = False) -> None:
        self._what = f"folder of state files {path}" if is_folder else f"state file {path}"
        self._instead = (
            "Give each proxy a `state:` in a folder of its own."
            if is_folder
            else "Set a different `state:` for each proxy."
        )
        self.path = path.with_name(f".{path.name}.lock")
        self._descriptor: int | None = None

    def acquire(self, patience: float) -> None:
        """Take the lock. Raises ``StateError`` if another process keeps it for ``patience`` seconds.

        Where the lock file cannot be created there is no lock: no state can be written there either, which
        the saver logs.
        """
        if self._descriptor is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.debug("%s cannot be created: %s", self.path, error.strerror)
            return
        end = monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= end:
                    holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                    os.close(descriptor)
                    raise StateError(
                        f"already in use: {self._what} (by pid {holder or 'unknown'}). {self._instead}"
                    ) from None
                sleep(_LOOK_EVERY)
            except OSError as error:  # a file system without locks
                os.close(descriptor)
                _log.warning("%s cannot be locked: %s", self.path, error.strerror)
                return
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:  # only the message to others suffers
            _log.warning("%s cannot be written: %s", self.path, error.strerror)
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock, for another process to take."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class StateLocks:
    """The locks of all state files of a configuration."""

    def __init__(self, config: Config) -> None:
        self._locks: dict[Path, StateLock] = {}
        self._add(config)

    def acquire(self, patience: float) -> None:
        """Take those that are not held yet. Raises ``StateError`` as ``StateLock.acquire`` does."""
        for lock in self._locks.values():
            lock.acquire(patience)

    def extend(self, config: Config) -> None:
        """Take at once what another configuration needs besides. Raises ``StateError``."""
        self._add(config)
        self.acquire(0.0)

    def release(self) -> None:
        """Release all of them, for another process to take."""
        for lock in self._locks.values():
            lock.release()

    def _add(self, config: Config) -> None:
        own = Path(config.state)
        self._locks.setdefault(own, StateLock(own))
        for one in config.by_service().values():
            folder = Path(one.state).parent
            if Path(one.state) != own and folder not in self._locks:
                self._locks[folder] = StateLock(folder, is_folder=True)
