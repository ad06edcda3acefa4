"""What ends the heads that we send: Date where it is missing, the variant's line, Via, the empty line.

All are made in advance, once a second, because a response without Date would cost more otherwise.
"""

from __future__ import annotations

from email.utils import formatdate
from time import time

from canaryproxy.http1.response import MINORS
from canaryproxy.http1.via import in_version


class HeadEnds:
    """The ends of responses' heads, for the current second."""

    __slots__ = ("_second", "_undated", "date", "responses")

    def __init__(self) -> None:
        self._undated: list[bytes] = []
        self._second = 0
        self.date = b""
        """The Date line of the current second."""
        self.responses: list[bytes] = []
        """By ``Response.end`` and the number of the variant that responded, added up."""

    def configure(self, variant_lines: tuple[bytes, ...], head_end: bytes) -> None:
        """Use these lines from now on. ``head_end`` is our Via line or nothing, and the empty line."""
        self._undated = [
            line + in_version(head_end, b"%c" % minor) for minor in MINORS for line in variant_lines
        ]
        self._second = 0
        self.renew()

    def renew(self) -> None:
        """Take note of the time, at least every second."""
        now = int(time())
        if now == self._second:
            return
        self._second = now
        self.date = b"Date: %b\r\n" % formatdate(now, usegmt=True).encode()
        variants = len(self._undated) // len(MINORS)
        ends: list[bytes] = []
        for at in range(0, len(self._undated), variants):
            plain = self._undated[at : at + variants]
            ends += plain
            ends += [self.date + end for end in plain]
        self.responses[:] = ends
