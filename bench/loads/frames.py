"""The little of WebSocket frames (RFC 6455) that an echo needs: short binary frames. Pure."""

from __future__ import annotations

_FINAL_BINARY = 0x82
_MASKED = 0x80
_LONGEST = 125


def frame(payload: bytes, mask: bytes = b"") -> bytes:
    """Return a final binary frame of at most 125 bytes; clients give four bytes of mask."""
    if len(payload) > _LONGEST:
        raise ValueError(f"{len(payload)} bytes, at most {_LONGEST} fit into a short frame")
    if mask:
        return bytes((_FINAL_BINARY, _MASKED | len(payload))) + mask + masked(payload, mask)
    return bytes((_FINAL_BINARY, len(payload))) + payload


def masked(payload: bytes, mask: bytes) -> bytes:
    """Apply the mask, or take it off."""
    length = len(payload)
    pattern = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload) ^ int.from_bytes(pattern)).to_bytes(length)


class Echo:
    """Turns the frames of a client into those of a server with the same payloads."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is to be sent back for what has arrived."""
        data = self._rest + data
        replies = []
        while len(data) >= 6 and len(data) >= (size := 6 + (data[1] & 0x7F)):
            replies.append(frame(masked(data[6:size], data[2:6])))
            data = data[size:]
        self._rest = data
        return b"".join(replies)
