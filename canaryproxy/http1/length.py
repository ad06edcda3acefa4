"""Bodies with a Content-Length."""

from __future__ import annotations


class LengthDecoder:
    """Cuts a body of known length (above zero) off what follows it; used like ``ChunkedDecoder``."""

    __slots__ = ("_left", "done", "rest", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        """Bytes that are to come."""
        self.done = False
        """The whole body came."""
        self.rest = b""
        """What followed it."""
        self.trailers = b""
        """Nothing: only a chunked body can have trailers."""

    def feed(self, data: bytes) -> bytes:
        """Return the part of ``data`` that belongs to the body."""
        left = self._left
        if len(data) > left:
            self.rest = data[left:]
            data = data[:left]
        self._left = left = left - len(data)
        self.done = not left
        return data
