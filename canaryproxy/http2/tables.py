"""The tables of HPACK (RFC 7541 §2.3): the static one, and the dynamic one of a decoder."""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.fields import Field

DEFAULT_SIZE: Final = 4096
"""Bytes of a dynamic table that hold without SETTINGS_HEADER_TABLE_SIZE."""
OVERHEAD: Final = 32
"""Bytes that an entry counts more than its name and value have (§4.1)."""

STATIC: Final[list[Field]] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
]
"""Appendix A; the first entry has index 1."""
STATIC_LENGTH: Final = 61


class DynamicTable:
    """Entries in the order of their insertion, the newest with the lowest index; the oldest are evicted."""

    __slots__ = ("_entries", "max_size", "size")

    def __init__(self, max_size: int = DEFAULT_SIZE) -> None:
        self._entries: list[Field] = []
        """The newest is the last."""
        self.max_size = max_size
        self.size = 0
        """Bytes of all entries, with their overhead."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, index: int) -> Field:
        """Return the entry with this index, 0 being the newest. Raises ``IndexError``."""
        entries = self._entries
        at = len(entries) - 1 - index
        if at < 0:
            raise IndexError("index beyond the dynamic table")
        return entries[at]

    def add(self, field: Field) -> None:
        """Insert an entry. One that is larger than the table empties it, and is not inserted (§4.4)."""
        size = len(field[0]) + len(field[1]) + OVERHEAD
        self._shrink(self.max_size - size)
        if size <= self.max_size:
            self._entries.append(field)
            self.size += size

    def resize(self, max_size: int) -> None:
        """Change the maximum size, and evict what exceeds it (§4.3)."""
        self.max_size = max_size
        self._shrink(max_size)

    def _shrink(self, most: int) -> None:
        """Evict entries until at most this many bytes are left."""
        entries = self._entries
        evicted = 0
        while self.size > most and evicted < len(entries):
            name, value = entries[evicted]
            self.size -= len(name) + len(value) + OVERHEAD
            evicted += 1
        if evicted:
            del entries[:evicted]
