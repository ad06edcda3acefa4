"""Frames (RFC 9113 §4, §6): how they are written, and what their payloads say."""

from __future__ import annotations

from typing import Final

from canaryproxy.http2.errors import FRAME_SIZE_ERROR, PROTOCOL_ERROR, ConnectionFault, StreamFault

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends before its first frame (§3.4)."""
HEAD_SIZE: Final = 9
MAX_FRAME: Final = 16_384
"""Largest payload without SETTINGS_MAX_FRAME_SIZE, and the largest that we receive."""
HIGHEST: Final = 2**31 - 1
"""Of stream identifiers and windows."""

_PRIORITY_SIZE: Final = 5


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return frame_head(len(payload), kind, flags, stream) + payload


def frame_head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the head of a frame whose payload has so many bytes."""
    return (size << 16 | kind << 8 | flags).to_bytes(5, "big") + stream.to_bytes(4, "big")


def headers(stream: int, block: bytes, *, end_stream: bool, max_frame: int) -> bytes:
    """Return a field block as HEADERS, with CONTINUATION frames where one frame is too small."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [frame(HEADERS, flags, stream, block[:max_frame])]
    for at in range(max_frame, len(block), max_frame):
        last = at + max_frame >= len(block)
        parts.append(
            frame(CONTINUATION, END_HEADERS if last else 0, stream, block[at : at + max_frame])
        )
    return b"".join(parts)


def settings(values: list[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(
        [number.to_bytes(2, "big") + value.to_bytes(4, "big") for number, value in values]
    )
    return frame(SETTINGS, 0, 0, payload)


def number_frame(kind: int, stream: int, number: int) -> bytes:
    """Return RST_STREAM with an error code, or WINDOW_UPDATE with an increment."""
    return frame(kind, 0, stream, number.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, reason: str) -> bytes:
    """Return GOAWAY; ``reason`` is for people who read a trace."""
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode()
    return frame(GOAWAY, 0, 0, payload)


# What payloads say


def unpadded(payload: bytes, flags: int) -> bytes:
    """Return the payload of DATA or HEADERS without its padding (§6.1)."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "padded frame without the length of its padding")
    end = len(payload) - payload[0]
    if end < 1:
        raise ConnectionFault(PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1:end]


def fragment(payload: bytes, flags: int) -> bytes:
    """Return the part of a field block that HEADERS carries (§6.2). Its priority says nothing any more."""
    payload = unpadded(payload, flags)
    if flags & HAS_PRIORITY:
        if len(payload) < _PRIORITY_SIZE:
            raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        return payload[_PRIORITY_SIZE:]
    return payload


def check_priority(stream: int, payload: bytes, *, is_open: bool) -> None:
    """Check a PRIORITY frame (§6.3), which says nothing any more."""
    if not stream:
        raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY on stream 0")
    if len(payload) != _PRIORITY_SIZE:
        if is_open:
            raise StreamFault(FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes long")
        raise ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes long")


def number(kind: str, payload: bytes) -> int:
    """Return the number that is the whole payload of RST_STREAM (§6.4) or WINDOW_UPDATE (§6.9)."""
    if len(payload) != 4:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"{kind} is not 4 bytes long")
    return int.from_bytes(payload, "big")


def setting_values(stream: int, flags: int, payload: bytes) -> list[tuple[int, int]]:
    """Return the settings of a SETTINGS frame in their order (§6.5); of an acknowledgement none."""
    if stream:
        raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
    if len(payload) % 6 or (flags & ACK and payload):
        raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
    return [
        (
            int.from_bytes(payload[at : at + 2], "big"),
            int.from_bytes(payload[at + 2 : at + 6], "big"),
        )
        for at in range(0, len(payload), 6)
    ]


def check_ping(stream: int, payload: bytes) -> None:
    """Check a PING frame (§6.7)."""
    if stream:
        raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
    if len(payload) != 8:
        raise ConnectionFault(FRAME_SIZE_ERROR, "PING is not 8 bytes long")


def last_stream_and_code(stream: int, payload: bytes) -> tuple[int, int]:
    """Return what a GOAWAY frame says (§6.8)."""
    if stream:
        raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
    if len(payload) < 8:
        raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY too short")
    return int.from_bytes(payload[:4], "big") & HIGHEST, int.from_bytes(payload[4:8], "big")
