"""The body of a request in flight, kept so that the request can be sent again."""

from __future__ import annotations


class ReplayBuffer:
    """The part of a request's body received so far, up to ``limit`` bytes.

    The part that exceeds the limit is kept too until there is a connection to write it to; the body is
    dropped then, and the request cannot be sent again.
    """

    __slots__ = ("_limit", "_parts", "size", "trailers", "whole")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self.size = 0
        """Bytes that were added."""
        self.whole = True
        """Everything that came is still here."""
        self.trailers = b""
        """The lines that follow the body."""

    @property
    def overflows(self) -> bool:
        """Whether it holds more than the limit."""
        return self.size > self._limit

    def add(self, data: bytes) -> None:
        """Keep more of the body."""
        self._parts.append(data)
        self.size += len(data)

    def content(self) -> bytes:
        """Return the body as far as it came."""
        return b"".join(self._parts)

    def drop(self) -> None:
        """Let go of the body."""
        self.whole = False
        self._parts.clear()
