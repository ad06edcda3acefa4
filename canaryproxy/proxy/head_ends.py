"""The last lines of heads: Date where it is missing, the variant's line, Via, and the empty line.

All are made in advance, once a second, because a response without Date would cost more otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from email.utils import formatdate
from time import time

from canaryproxy.http1.response import MINORS
from canaryproxy.http1.via import in_version, via_line
from canaryproxy.measure.routing import VARIANTS


class VariantEnds:
    """The ends of responses that name their variant in one header, or in none, for the current second."""

    __slots__ = ("_undated", "responses", "variant_lines")

    def __init__(self, header: str | None) -> None:
        self.variant_lines = tuple(
            f"{header}: {name}\r\n".encode("latin-1") if header else b"" for name in VARIANTS
        )
        """By variant: the header lines that are configured for its responses, or nothing."""
        self._undated: list[tuple[bytes, ...]] = []
        """By minor version: the ends of heads that have a Date, by variant."""
        self.responses: list[bytes] = []
        """By ``Response.end`` and the number of the variant that responded, added up."""

    def end_with(self, end: bytes) -> None:
        """Let heads end with this Via line, if there is one, and the empty line."""
        self._undated = [
            tuple(line + in_version(end, b"%c" % minor) for line in self.variant_lines)
            for minor in MINORS
        ]

    def renew(self, date: bytes) -> None:
        """Make the ends with this Date line."""
        responses: list[bytes] = []
        for ends in self._undated:
            responses += [*ends, *(date + end for end in ends)]
        self.responses[:] = responses


class HeadEnds:
    """The ends of heads by a configuration, for the current second."""

    __slots__ = ("_by_header", "_second", "date", "requests")

    def __init__(self) -> None:
        self._by_header: dict[str | None, VariantEnds] = {}
        """By the header that names the variant: most services have the same one."""
        self._second = 0
        self.date = b""
        """The Date line of the current second."""
        self.requests = b""
        """Our Via line, if there is one, and the empty line."""

    def configure(self, via: str, headers: Collection[str | None]) -> None:
        """Work by ``forwarded.via`` and these ``split.variant_header`` from now on."""
        self.requests = end = via_line("" if via == "off" else via) + b"\r\n"
        known = self._by_header
        self._by_header = {one: known.get(one) or VariantEnds(one) for one in headers}
        for ends in self._by_header.values():
            ends.end_with(end)
        self._second = 0
        self.renew()

    def of(self, header: str | None) -> VariantEnds:
        """Return those of one of the headers."""
        return self._by_header[header]

    def renew(self) -> None:
        """Take note of the time; to be called at least every second."""
        now = int(time())
        if now == self._second:
            return
        self._second = now
        self.date = b"Date: %b\r\n" % formatdate(now, usegmt=True).encode()
        for ends in self._by_header.values():
            ends.renew(self.date)
