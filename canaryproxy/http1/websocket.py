"""Where the frames and messages of a WebSocket begin, and Close frames (RFC 6455 §5.2, §5.5.1). Without I/O.

The proxy forwards the bytes as they are. It reads the heads of frames only to know where a Close frame of its
own may stand.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Final

_CONTINUATION: Final = 0x0
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PONG: Final = 0xA
_FINAL: Final = 0x80
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_MASK_SIZE: Final = 4
_LONGEST_HEAD: Final = 2 + 8 + _MASK_SIZE
_LONGEST_CONTROL: Final = 125
_LONGEST_CLOSE: Final = 2 + _MASK_SIZE + _LONGEST_CONTROL
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NO_CODE: Final = 1005
"""Stands for a Close frame without a code (RFC 6455 §7.1.5)."""


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept by which a server proves that it has read a key (§4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


class FrameReader:
    """Reads one direction of a WebSocket as it is forwarded, in pieces of any size."""

    __slots__ = ("_head", "_in_message", "_left", "close_code", "unreadable")

    def __init__(self) -> None:
        self._head = b""
        """The head of a frame, as far as it has come; of a Close frame all of it."""
        self._left = 0
        """Bytes of the frame's payload that are to come."""
        self._in_message = False
        """The first fragment of a message has begun, its final one has not."""
        self.close_code = 0
        """The code of the Close frame, once that has come; nothing follows it. 1005: it has none."""
        self.unreadable = False
        """The bytes are no frames, so nothing is known of them any more."""

    @property
    def between_frames(self) -> bool:
        """A control frame may stand here."""
        return not (self._left or self._head or self.unreadable or self.close_code)

    @property
    def between_messages(self) -> bool:
        """A control frame may stand here, and no message is cut by it."""
        return self.between_frames and not self._in_message

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._read(data, stop=False)

    def feed_message(self, data: bytes) -> int:
        """Read on to the end of a message.

        Returns how many bytes of ``data`` belong to it, -1 if it does not end in them. The rest is not read.
        """
        return self._read(data, stop=True)

    def _read(self, data: bytes, *, stop: bool) -> int:
        at, size = 0, len(data)
        while at < size and not self.close_code and not self.unreadable:
            if self._left:
                skipped = min(self._left, size - at)
                self._left -= skipped
                at += skipped
            else:
                at += self._read_head(data, at)
            if stop and self.between_messages:
                return at
        return -1

    def _read_head(self, data: bytes, at: int) -> int:
        """Read the head of a frame from there on; return how many bytes of ``data`` belong to it."""
        had = len(self._head)
        head = self._head + data[at : at + _LONGEST_HEAD - min(had, _LONGEST_HEAD)]
        opcode = head[0] & _OPCODE
        if opcode == _CLOSE:
            head = self._head + data[at : at + _LONGEST_CLOSE - had]
        if len(head) < 2:
            self._head = head
            return len(head) - had
        short = head[1] & ~_MASKED
        length = 2 + (_MASK_SIZE if head[1] & _MASKED else 0)
        payload = short
        if short > _LONGEST_CONTROL:
            extended = 2 if short == 126 else 8
            length += extended
            payload = int.from_bytes(head[2 : 2 + extended], "big")
        elif opcode == _CLOSE:
            length += short
        if not self._is_valid(head[0], short):
            self.unreadable = True
            return len(head) - had
        if len(head) < length:
            self._head = head
            return len(head) - had
        self._head = b""
        if opcode == _CLOSE:
            self.close_code = _code_of(head[:length], short)
        else:
            self._left = payload
            if opcode <= _BINARY:
                self._in_message = not head[0] & _FINAL
        return length - had

    def _is_valid(self, first: int, short: int) -> bool:
        """Tell whether a frame may begin so after what was read (RFC 6455 §5.4, §5.5)."""
        opcode = first & _OPCODE
        if opcode <= _BINARY:
            return self._in_message == (opcode == _CONTINUATION)
        is_control = _CLOSE <= opcode <= _PONG
        return is_control and bool(first & _FINAL) and short <= _LONGEST_CONTROL


def _code_of(frame: bytes, size: int) -> int:
    """Return the code of a whole Close frame with a payload of ``size`` bytes."""
    if size < 2:
        return _NO_CODE
    code = frame[-size : len(frame) - size + 2]
    if frame[1] & _MASKED:
        mask = frame[2:4]
        code = bytes((code[0] ^ mask[0], code[1] ^ mask[1]))
    return int.from_bytes(code, "big") or _NO_CODE


def close_frame(code: int, mask: bytes = b"") -> bytes:
    """Return a Close frame. With ``mask``, four random bytes, it is a client's (RFC 6455 §5.3)."""
    payload = code.to_bytes(2, "big")
    if not mask:
        return bytes((_FINAL | _CLOSE, len(payload))) + payload
    masked = bytes((payload[0] ^ mask[0], payload[1] ^ mask[1]))
    return bytes((_FINAL | _CLOSE, _MASKED | len(payload))) + mask + masked
