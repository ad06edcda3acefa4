"""The decoder of HPACK (RFC 7541 §3): a field block in, its fields out.

Theory. The meaning of a block depends on its bytes and on the dynamic table. As long as no block changes the
table, equal bytes have an equal meaning: blocks that read the table are remembered until it changes. A client
that repeats itself sends, from its second request on, blocks of indices only. A block that does not read the
table has one meaning for ever, and inserts the same entries each time. Some servers (nginx) send no others.

Bounds. A block is read once from its beginning to its end, in steps that take constant time but for the
bytes that they copy. The fields kept of a block are bounded by ``max_list``; beyond it the block is still
read, so that the table stays that of the peer, and marked as too large.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.fields import Field
from canaryproxy.http2 import huffman
from canaryproxy.http2.errors import COMPRESSION_ERROR, ConnectionFault
from canaryproxy.http2.tables import DEFAULT_SIZE, OVERHEAD, STATIC, STATIC_LENGTH, DynamicTable

MAX_BLOCKS: Final = 16
"""Blocks of each kind that are remembered."""
_LONGEST_BLOCK: Final = 1024
"""Bytes of a block that is remembered."""
_LARGEST_LIST: Final = 2048
"""Bytes of the fields of a block that is remembered."""
_MOST_OCTETS: Final = 5
"""Octets after the prefix of an integer: 35 bits are more than any length or index needs (§5.1)."""


class FieldBlock:
    """The fields of a block. Equal blocks share one object, so it never changes.

    ``meaning`` is for what the fields mean as a message, once that was found out.
    """

    __slots__ = ("fields", "inserts", "meaning", "never_indexed", "too_large")

    def __init__(
        self, fields: list[Field], never_indexed: frozenset[bytes], *, too_large: bool
    ) -> None:
        self.fields = fields
        self.inserts: list[Field] = []
        """What the block adds to the dynamic table."""
        self.never_indexed = never_indexed
        """Names of fields that no hop may put into a table (§6.2.3)."""
        self.too_large = too_large
        """There were more bytes of fields than ``max_list``; the fields are not kept."""
        self.meaning: object | None = None


class Decoder:
    """Decodes the field blocks of one connection, in their order.

    ``max_list``: bytes of fields that a block may have (SETTINGS_MAX_HEADER_LIST_SIZE).
    """

    __slots__ = ("_blocks", "_fixed", "_limit", "_max_list", "_table")

    def __init__(self, max_list: int, limit: int = DEFAULT_SIZE) -> None:
        self._max_list = max_list
        self._limit = limit
        """Our SETTINGS_HEADER_TABLE_SIZE."""
        self._table = DynamicTable(limit)
        self._blocks: dict[bytes, FieldBlock] = {}
        """What holds for the table as it is."""
        self._fixed: dict[bytes, FieldBlock] = {}
        """What holds for any table."""

    def decode(self, block: bytes) -> FieldBlock:
        """Return the fields of a block. Raises ``ConnectionFault`` with COMPRESSION_ERROR."""
        known = self._blocks.get(block)
        if known is not None:
            return known
        known = self._fixed.get(block)
        if known is not None:
            if known.inserts:
                for field in known.inserts:
                    self._table.add(field)
                self._blocks.clear()
            return known
        try:
            return self._decode(block)
        except IndexError:
            raise ConnectionFault(COMPRESSION_ERROR, "field block ends too early") from None

    def _decode(self, block: bytes) -> FieldBlock:
        table = self._table
        most = self._max_list
        fields: list[Field] = []
        secret: list[bytes] = []
        inserts: list[Field] = []
        at = size = 0
        end = len(block)
        highest = 0  # of the indices
        resized = False
        while at < end:
            first = block[at]
            if first & 0x80:  # §6.1: an indexed field
                index = first & 0x7F
                at += 1
                if index == 0x7F:
                    index, at = _integer(block, at, index)
                highest = max(highest, index)
                field = self._indexed(index)
            elif first & 0xE0 == 0x20:  # §6.3: a new size of the dynamic table
                if fields or size:
                    raise ConnectionFault(COMPRESSION_ERROR, "table size update after a field")
                value, at = _prefixed(block, at, 0x1F)
                if value > self._limit:
                    raise ConnectionFault(COMPRESSION_ERROR, "table size above the limit")
                table.resize(value)
                resized = True
                continue
            else:
                indexes = first & 0x40 != 0
                index, at = _prefixed(block, at, 0x3F if indexes else 0x0F)
                if index:
                    highest = max(highest, index)
                    name = self._indexed(index)[0]
                else:
                    name, at = _string(block, at)
                text, at = _string(block, at)
                field = (name, text)
                if indexes:  # §6.2.1
                    table.add(field)
                    inserts.append(field)
                elif first & 0x10:  # §6.2.3
                    secret.append(name)
            size += len(field[0]) + len(field[1]) + OVERHEAD
            if size <= most:
                fields.append(field)
        result = FieldBlock(fields, frozenset(secret), too_large=size > most)
        result.inserts = inserts
        if resized or inserts:
            self._blocks.clear()
        is_fixed = highest <= STATIC_LENGTH and not resized
        is_small = end <= _LONGEST_BLOCK and size <= _LARGEST_LIST
        if is_small and (is_fixed or not (resized or inserts)):
            blocks = self._fixed if is_fixed else self._blocks
            if len(blocks) >= MAX_BLOCKS:
                blocks.clear()
            blocks[block] = result
        return result

    def _indexed(self, index: int) -> Field:
        if index > STATIC_LENGTH:
            index -= STATIC_LENGTH + 1
            if index >= len(self._table):
                raise ConnectionFault(COMPRESSION_ERROR, "index beyond the tables")
            return self._table.get(index)
        if index == 0:
            raise ConnectionFault(COMPRESSION_ERROR, "index 0")
        return STATIC[index - 1]


def _prefixed(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return the integer whose prefix is in the byte at ``at``, and the offset behind it."""
    value = block[at] & mask
    return (value, at + 1) if value < mask else _integer(block, at + 1, value)


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """Return an integer that goes on at ``at`` after a full prefix, and the offset behind it (§5.1)."""
    shift = 0
    for _ in range(_MOST_OCTETS):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
    raise ConnectionFault(COMPRESSION_ERROR, "integer too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Return the string at ``at``, and the offset behind it (§5.2)."""
    coded = block[at] & 0x80 != 0
    length, at = _prefixed(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise ConnectionFault(COMPRESSION_ERROR, "string longer than its block")
    text = block[at:end]
    if coded:
        try:
            text = huffman.decode(text)
        except ValueError as error:
            raise ConnectionFault(COMPRESSION_ERROR, str(error)) from None
    return text, end
