"""Admission policy of bounded dictionaries."""

from __future__ import annotations

from typing import Any, Final

ONE_IN: Final = 8
"""When there is no more room, one in so many that were not known takes the place of the oldest.

Who comes again is soon known; a million users who come once each do not push out those who come often.
"""


class SampledFifo:
    """Admission policy of a bounded dict: once full, one new key in eight evicts the oldest.

    So keys that come once do not push out those that come often.
    """

    __slots__ = ("_keys", "_most", "_oldest", "_refused")

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: list[bytes] = []
        """A ring, once it is full, with the oldest at ``_oldest``."""
        self._oldest = 0
        self._refused = 0

    def admit(self, key: bytes, known: dict[bytes, Any]) -> bool:
        """Tell whether a new key is to be put into ``known``, and take out the one that gives way."""
        keys = self._keys
        if len(keys) < self._most:
            keys.append(key)
            return True
        self._refused += 1
        if self._refused % ONE_IN:
            return False
        at = self._oldest
        # Neither all at once, which would be a stall, nor by a walk over a dictionary's holes.
        del known[keys[at]]
        keys[at] = key
        self._oldest = (at + 1) % self._most
        return True
