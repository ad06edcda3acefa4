"""Bytes of a client that belong to no request yet."""

from __future__ import annotations

import re
from typing import Final

from canaryproxy.http1.fields import find_head_end
from canaryproxy.http1.request import check_partial

_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)*+")


class RequestBuffer:
    """Collects what a client sent, and cuts whole heads off it."""

    __slots__ = ("data", "searched")

    def __init__(self) -> None:
        self.data = b""
        self.searched = 0
        """Bytes of an unfinished head that were searched for its end; 0 before the first search."""

    def add(self, data: bytes) -> None:
        """Append what came."""
        self.data = self.data + data if self.data else data

    def put(self, data: bytes) -> None:
        """Replace the content by bytes that were not searched yet."""
        self.data = data
        self.searched = 0

    def take(self) -> bytes:
        """Take out everything."""
        data, self.data = self.data, b""
        self.searched = 0
        return data

    def next_head(self) -> bytes | None:
        """Take out one head with its empty line; ``None`` if more bytes are needed.

        Raises ``Refusal`` if no further byte can make an unfinished head valid.
        """
        data = self.data
        if data[0] in b"\r\n":  # RFC 9112 §2.2: an empty line before the request line is ignored
            lines = _EMPTY_LINES.match(data)
            self.data = data = data[lines.end() if lines else 0 :]
            self.searched = 0
            if not data or data == b"\r":
                return None
        end = find_head_end(data, self.searched)
        if end < 0:
            check_partial(data, self.searched)
            self.searched = len(data)
            return None
        self.searched = 0
        if end == len(data):
            self.data = b""
            return data
        self.data = data[end:]
        return data[:end]
