"""The last lines of heads: Date where it is missing, the variant's line, Via, and the empty line.

All are made in advance, once a second, because a response without Date would cost more otherwise.
"""

from __future__ import annotations

from email.utils import formatdate
from time import time

from canaryproxy.config import Config
from canaryproxy.http1.response import MINORS
from canaryproxy.http1.via import in_version, via_line
from canaryproxy.measure.routing import VARIANTS


class HeadEnds:
    """The ends of heads by a configuration, for the current second."""

    __slots__ = ("_second", "_undated", "date", "requests", "responses", "variant_lines")

    def __init__(self) -> None:
        self._undated: list[tuple[bytes, ...]] = []
        """By minor version: the ends of heads that have a Date, by variant."""
        self._second = 0
        self.date = b""
        """The Date line of the current second."""
        self.requests = b""
        """Our Via line, if there is one, and the empty line."""
        self.responses: list[bytes] = []
        """By ``Response.end`` and the number of the variant that responded, added up."""
        self.variant_lines: tuple[bytes, ...] = ()
        """By variant: the header lines that are configured for its responses, or nothing."""

    def configure(self, config: Config) -> None:
        """Work by this configuration from now on."""
        via, header = config.forwarded.via, config.split.variant_header
        self.requests = end = via_line("" if via == "off" else via) + b"\r\n"
        self.variant_lines = lines = tuple(
            f"{header}: {name}\r\n".encode("latin-1") if header else b"" for name in VARIANTS
        )
        self._undated = [
            tuple(line + in_version(end, b"%c" % minor) for line in lines) for minor in MINORS
        ]
        self._second = 0
        self.renew()

    def renew(self) -> None:
        """Take note of the time; to be called at least every second."""
        now = int(time())
        if now == self._second:
            return
        self._second = now
        self.date = b"Date: %b\r\n" % formatdate(now, usegmt=True).encode()
        responses: list[bytes] = []
        for ends in self._undated:
            responses += [*ends, *(self.date + end for end in ends)]
        self.responses[:] = responses
