"""Cuts received bytes into frames (RFC 9113 §3.4, §4), and puts field blocks together (§4.3, §6.10)."""

from __future__ import annotations

from typing import Final

from canaryproxy.http2 import frames
from canaryproxy.http2.errors import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    ConnectionFault,
)
from canaryproxy.http2.floods import IGNORED, Points
from canaryproxy.http2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    MAX_FRAME,
    PREFACE,
    SETTINGS,
)

_NOTHING: Final = 0
"""What was read: nothing yet."""
_PREFACE_READ: Final = 1
_SETTINGS_READ: Final = 2


class FrameReader:
    """Reads the frames of one connection.

    After ``next`` has returned true, ``kind``, ``flags``, ``number`` and ``payload`` are those of a frame.
    HEADERS come with the whole field block as their payload: without padding, and with what CONTINUATION
    frames added.
    """

    __slots__ = (
        "_at",
        "_block",
        "_block_flags",
        "_block_number",
        "_data",
        "_max_block",
        "_points",
        "_seen",
        "_size",
        "flags",
        "kind",
        "number",
        "payload",
    )

    def __init__(self, points: Points, max_block: int, *, client: bool) -> None:
        self._points = points
        self._max_block = max_block
        self._data = b""
        """What was received and not yet returned, from ``_at`` on."""
        self._at = 0
        self._seen = _PREFACE_READ if client else _NOTHING
        self._block: list[bytes] | None = None
        """The fragments of a field block that goes on in CONTINUATION frames."""
        self._block_flags = self._block_number = 0
        """The flags of its HEADERS, and its stream."""
        self._size = 0
        """The bytes of its fragments."""
        self.kind = 0
        self.flags = 0
        self.number = 0
        """The identifier of the stream."""
        self.payload = b""

    @property
    def has_preface(self) -> bool:
        """The whole preface of the peer was read, its SETTINGS included."""
        return self._seen == _SETTINGS_READ

    def feed(self, data: bytes) -> None:
        """Add bytes that were received."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def next(self) -> bool:
        """Read the next frame; false if it has not come whole. Raises ``ConnectionFault``."""
        if self._seen == _NOTHING and not self._preface():
            return False
        while self._cut():
            if self._block is not None:
                self._continuation(self._block)
            elif self.kind == HEADERS:
                self._headers()
            if self._block is None:
                return True
        return False

    def _preface(self) -> bool:
        data = self._data
        if data[: len(PREFACE)] != PREFACE[: len(data)]:
            raise ConnectionFault(PROTOCOL_ERROR, "no connection preface")
        if len(data) < len(PREFACE):
            return False
        self._at = len(PREFACE)
        self._seen = _PREFACE_READ
        return True

    def _cut(self) -> bool:
        data, at = self._data, self._at
        left = len(data) - at
        if left < frames.HEAD_SIZE:
            return self._keep()
        length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        if length > MAX_FRAME:
            raise ConnectionFault(FRAME_SIZE_ERROR, "frame too large")
        stop = at + frames.HEAD_SIZE + length
        if stop > len(data):
            return self._keep()
        self.kind = kind = data[at + 3]
        self.flags = flags = data[at + 4]
        self.number = (
            (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
        )
        self.payload = data[at + frames.HEAD_SIZE : stop]
        self._at = stop
        if self._seen != _SETTINGS_READ:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the preface has no SETTINGS")
            self._seen = _SETTINGS_READ
        return True

    def _keep(self) -> bool:
        """Keep what is left and nothing before it: a connection may wait for long. Returns false."""
        if self._at:
            self._data = self._data[self._at :]
            self._at = 0
        return False

    @property
    def in_frame(self) -> bool:
        """Some of a frame came, and not all; or some of what a connection begins with."""
        return self._at < len(self._data) or self._seen != _SETTINGS_READ

    @property
    def in_block(self) -> bool:
        """Some of a field block came, and not all."""
        return self._block is not None

    def _headers(self) -> None:
        if not self.number:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS on stream 0")
        self.payload = fragment = frames.fragment(self.payload, self.flags)
        if not self.flags & END_HEADERS:
            self._block = [fragment]
            self._block_flags, self._block_number = self.flags, self.number
            self._size = len(fragment)

    def _continuation(self, block: list[bytes]) -> None:
        if self.kind != CONTINUATION or self.number != self._block_number:
            raise ConnectionFault(PROTOCOL_ERROR, "frame inside a field block")
        self._points.spend(IGNORED, "CONTINUATION frames")
        block.append(self.payload)
        self._size += len(self.payload)
        if self._size > self._max_block:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "field block too large")
        if self.flags & END_HEADERS:
            self.kind = HEADERS
            self.flags = self._block_flags
            self.payload = b"".join(block)
            self._block = None
