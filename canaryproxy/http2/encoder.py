"""The encoder of HPACK (RFC 7541): fields in, a field block out.

What it indexes. A field that was sent before is worth a place in the dynamic table: it is inserted when it
comes for the second time, Huffman-coded once. So values that come once (identifiers, dates) never push out
those that return, and after a few messages the table rests. As long as it does, equal fields make equal
blocks, and they are remembered by the caller's key. Values that differ by nature are not indexed, and what
may be guessed by a peer that sees lengths is marked as never to be indexed (§7.1.3).
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.fields import Field
from canaryproxy.http2 import huffman
from canaryproxy.http2.tables import DEFAULT_SIZE, OVERHEAD, STATIC, STATIC_LENGTH

_VARYING: Final = frozenset(
    (
        b":path",
        b"age",
        b"content-length",
        b"content-range",
        b"date",
        b"etag",
        b"if-modified-since",
        b"if-none-match",
        b"last-modified",
        b"location",
        b"traceparent",
        b"x-request-id",
    )
)
"""Names of fields whose values differ from message to message."""
_SECRET: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))
_MAX_SEEN: Final = 64
"""Fields that were sent once and are remembered for that."""
_MAX_BLOCKS: Final = 16
"""Blocks that are remembered."""
_LONGEST_KEY: Final = 2048
"""Bytes of a key by which a block is remembered."""
_NOTHING_SECRET: Final[frozenset[bytes]] = frozenset()

_STATIC_FIELDS: Final[dict[Field, int]] = {
    field: number for number, field in enumerate(STATIC, 1) if field[1]
}
_STATIC_NAMES: Final[dict[bytes, int]] = {
    field[0]: STATIC_LENGTH - number for number, field in enumerate(reversed(STATIC))
}
"""By name: the lowest index."""


class Encoder:
    """Encodes the fields of one connection's messages.

    ``most``: bytes that its dynamic table may have; 0 for none. With several users behind one connection
    none is safest: the length of a block then tells one user nothing about another's fields (§7.1).
    """

    __slots__ = (
        "_blocks",
        "_entries",
        "_first",
        "_indices",
        "_last_block",
        "_last_key",
        "_max_size",
        "_most",
        "_next",
        "_resized",
        "_seen",
        "_size",
        "_smallest",
    )

    def __init__(self, most: int = DEFAULT_SIZE) -> None:
        self._most = most
        self._max_size = DEFAULT_SIZE
        self._size = 0
        self._entries: dict[int, Field] = {}
        """By serial number, those from ``_first`` to before ``_next``."""
        self._indices: dict[Field, int] = {}
        """The serial number of each entry."""
        self._first = self._next = 0
        self._seen: dict[Field, None] = {}
        self._blocks: dict[bytes, bytes] = {}
        self._last_key = b""
        """The key that was found last: most often it comes again, and to compare costs less than to hash."""
        self._last_block: bytes | None = None
        self._resized = False
        """The next block begins with the size of the table."""
        self._smallest = DEFAULT_SIZE
        """The smallest size since the last block."""
        if most < DEFAULT_SIZE:
            self.limit(DEFAULT_SIZE)

    def limit(self, size: int) -> None:
        """Take the peer's SETTINGS_HEADER_TABLE_SIZE (§4.2)."""
        size = min(size, self._most)
        if size == self._max_size:
            return
        self._smallest = min(size, self._smallest) if self._resized else size
        self._max_size = size
        self._resized = True
        self._forget_blocks()
        self._evict(size)

    def known(self, key: bytes) -> bytes | None:
        """Return the block that was encoded by this key, if it would be the same again."""
        if key != self._last_key:
            block = self._blocks.get(key)
            if block is None:
                return None
            self._last_key, self._last_block = key, block
        return self._last_block

    def encode(
        self, fields: list[Field], key: bytes = b"", secret: frozenset[bytes] = _NOTHING_SECRET
    ) -> bytes:
        """Return the block of these fields, whose names are in lower case.

        ``key`` stands for all of them: a caller that finds it ``known`` needs no fields. ``secret`` are names
        that the peer before us marked as never to be indexed.
        """
        parts: list[bytes] = []
        changed = self._resized
        if self._resized:
            if self._smallest < self._max_size:
                parts.append(_integer(self._smallest, 0x1F, 0x20))
            parts.append(_integer(self._max_size, 0x1F, 0x20))
            self._resized = False
        for field in fields:
            name = field[0]
            index = _STATIC_FIELDS.get(field, 0)
            if not index:
                serial = self._indices.get(field, -1)
                if serial >= 0:
                    index = STATIC_LENGTH + self._next - serial
            if name in _SECRET or name in secret:
                parts.append(_literal(field, 0x0F, 0x10, coded=False))
            elif index:
                parts.append(_integer(index, 0x7F, 0x80))
            elif name not in _VARYING and self._is_worth_an_entry(field):
                parts.append(_literal(field, 0x3F, 0x40, coded=True))
                self._insert(field)
                changed = True
            else:
                parts.append(_literal(field, 0x0F, 0x00, coded=False))
        block = b"".join(parts)
        if changed:
            self._forget_blocks()
        elif key and len(key) <= _LONGEST_KEY:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[key] = block
        return block

    def _forget_blocks(self) -> None:
        self._blocks.clear()
        self._last_key, self._last_block = b"", None

    def _is_worth_an_entry(self, field: Field) -> bool:
        """Tell whether a field was sent before and has a place in the table."""
        size = len(field[0]) + len(field[1]) + OVERHEAD
        if size > self._max_size // 4:
            return False
        if field in self._seen:
            del self._seen[field]
            return True
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen[field] = None
        return False

    def _insert(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + OVERHEAD
        self._evict(self._max_size - size)
        self._entries[self._next] = field
        self._indices[field] = self._next
        self._next += 1
        self._size += size

    def _evict(self, most: int) -> None:
        while self._size > most:
            field = self._entries.pop(self._first)
            del self._indices[field]
            self._first += 1
            self._size -= len(field[0]) + len(field[1]) + OVERHEAD


def _integer(value: int, mask: int, pattern: int) -> bytes:
    """Return an integer with its prefix (§5.1); ``pattern`` are the bits before it."""
    if value < mask:
        return bytes((pattern | value,))
    octets = [pattern | mask]
    value -= mask
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _literal(field: Field, mask: int, pattern: int, *, coded: bool) -> bytes:
    """Return a literal field (§6.2)."""
    name, value = field
    index = _STATIC_NAMES.get(name, 0)
    start = _integer(index, mask, pattern)
    if not index:
        start += _string(name, coded=coded)
    return start + _string(value, coded=coded)


def _string(text: bytes, *, coded: bool) -> bytes:
    """Return a string, Huffman-coded if that is wanted and shorter (§5.2)."""
    if coded:
        short = huffman.encode(text)
        if len(short) < len(text):
            return _integer(len(short), 0x7F, 0x80) + short
    return _integer(len(text), 0x7F, 0x00) + text
