"""Writes of HTTP/2 connections, collected while received bytes are acted on.

Bytes that one connection receives make others write: sixteen requests in one read are sixteen streams of one
connection to an upstream, and their responses come back as one read, too. Each connection then writes once,
when all that came is acted on, and not a few bytes a time.
"""

from __future__ import annotations

from collections.abc import Callable


class Outbox:
    """Writes of one worker, put off until ``end``."""

    __slots__ = ("_writes", "collects")

    def __init__(self) -> None:
        self.collects = False
        """Received bytes are acted on: writes are to be put off."""
        self._writes: list[Callable[[], None]] = []

    def begin(self) -> bool:
        """Put writes off; tell whether the caller is the one who has to call ``end``."""
        if self.collects:
            return False
        self.collects = True
        return True

    def put_off(self, write: Callable[[], None]) -> None:
        """Call this in ``end``."""
        self._writes.append(write)

    def end(self) -> None:
        """Write all that was put off."""
        self.collects = False
        writes, self._writes = self._writes, []
        for write in writes:
            write()
