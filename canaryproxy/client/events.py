"""A parser of server-sent events (WHATWG HTML §9.2). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

LARGEST = 8 * 1024 * 1024
"""Upper bound of one event, in bytes."""

_END = re.compile(rb"\r\n|\n|\r(?!$)")


class TooLong(Exception):
    """An event exceeds ``LARGEST``."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event: its name, its data, and its id if it has one."""

    event: str
    data: str
    id: str | None = None


class Parser:
    """An incremental parser; chunks may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._size = 0
        self._event = ""
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the events that ``chunk`` completes. Raises ``TooLong``."""
        *lines, self._rest = _END.split(self._rest + chunk)
        found = []
        for line in lines:
            if line:
                self._field(line)
                self._size += len(line)
            else:
                if self._data:
                    found.append(Message(self._event or "message", "\n".join(self._data), self._id))
                self._event, self._id, self._data, self._size = "", None, [], 0
        if self._size + len(self._rest) > LARGEST:
            raise TooLong("an event of more than 8 MiB")
        return found

    def _field(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value
