"""Error codes (RFC 9113 §7), and the two kinds of errors that carry them (§5.4)."""

from __future__ import annotations

from typing import Final

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC
HTTP_1_1_REQUIRED: Final = 0xD

_NAMES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)


def name_of(code: int) -> str:
    """Return the name of an error code; of an unknown one, its number in hex."""
    return _NAMES[code] if code < len(_NAMES) else f"0x{code:x}"


class ConnectionFault(Exception):
    """A connection error (§5.4.1): the connection ends with GOAWAY and this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{name_of(code)}: {reason}")
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    """A stream error (§5.4.2): the stream ends with RST_STREAM and this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{name_of(code)}: {reason}")
        self.code = code
        self.reason = reason
