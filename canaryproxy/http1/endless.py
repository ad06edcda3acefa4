"""Responses that have no end of their own, and where they may be ended. Without I/O."""

from __future__ import annotations

import re
from typing import Final

ENDS: Final = 0
"""The response ends by itself."""
EVENTS: Final = 1
"""Server-sent events: an empty line ends each of them."""
LINES: Final = 2
"""A record a line."""
ENCODED: Final = 3
"""Either of them in a content coding: boundaries are not visible."""

_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
"""The end of a line and an empty line; a line ends in CRLF, LF or CR (HTML Standard §9.2.5)."""
_COMMENT: Final = re.compile(rb":(?<=[\r\n]:)[^\r\n]*(?:\r\n|\n|\r(?!\n|\Z))")
"""A line that belongs to no event, such as the heartbeat of a silent stream."""
_LONGEST_COMMENT: Final = 256
_BLANK_ENDS: Final = (b"\n\n", b"\r\r", b"\n\r", b"\n\r\n", b"\r\r\n")
_LONGEST_BLANK: Final = 4


class BoundaryReader:
    """Reads an endless body as it is forwarded, in pieces of any size."""

    __slots__ = ("_kind", "_tail")

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._tail = b"\n\n"
        """The last bytes of the body; at its beginning nothing is cut."""

    @property
    def at_boundary(self) -> bool:
        """Whether the body can be ended here."""
        if self._kind == EVENTS:
            return self._tail.endswith(_BLANK_ENDS)
        return self._kind == ENCODED or self._tail.endswith(b"\n")

    def feed(self, data: bytes) -> None:
        """Read on."""
        recent = (self._tail + data[-_LONGEST_COMMENT:])[-_LONGEST_COMMENT:]
        if self._kind == EVENTS:
            recent = _COMMENT.sub(b"", recent)
        self._tail = recent[1 - _LONGEST_BLANK :]

    def feed_record(self, data: bytes) -> int:
        """Read on to the first boundary; return how many bytes of ``data`` come before it, or -1."""
        if self.at_boundary:
            return 0
        had = len(self._tail)
        end = -1
        if self._kind == EVENTS:
            ends = [m.end() - had for m in _BLANK.finditer(self._tail + data) if m.end() > had]
            end = ends[0] if ends else -1
        elif b"\n" in data:
            end = data.index(b"\n") + 1
        self.feed(data)
        return end
