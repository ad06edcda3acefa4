"""Settings (RFC 9113 §6.5.2): what the peer has said, and our own bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from canaryproxy.http2.errors import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, ConnectionFault
from canaryproxy.http2.frames import HIGHEST, MAX_FRAME
from canaryproxy.http2.tables import DEFAULT_SIZE

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8
"""RFC 8441 §3."""

DEFAULT_WINDOW: Final = 65_535
_LARGEST_FRAME: Final = 2**24 - 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on what a peer may make us hold.

    The memory of a connection is bounded by ``max_streams`` times ``stream_window``, as the bytes of a
    stream are only acknowledged once they were passed on. The window of the connection never holds up a
    stream because of another: it is acknowledged on receipt.
    """

    max_streams: int = 100
    """Streams of the peer that are open at a time."""
    stream_window: int = 128 * 1024
    connection_window: int = 1024 * 1024
    max_list: int = 36 * 1024
    """Bytes of the fields of a message, each with 32 more: all that http1 takes fits in."""
    max_block: int = 64 * 1024
    """Bytes of a field block as it is sent."""
    points: int = 2000
    """See ``floods``."""
    resets: int = 200
    """Requests that a peer may give up, or make us reset, beyond those that came to their end."""


class PeerSettings:
    """The settings of the peer, which bound what we send."""

    __slots__ = ("connect_protocol", "initial_window", "max_frame", "max_streams", "table_size")

    def __init__(self) -> None:
        self.table_size = DEFAULT_SIZE
        self.max_streams = HIGHEST
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = MAX_FRAME
        self.connect_protocol = False
        """It takes extended CONNECT (RFC 8441)."""

    def take(self, number: int, value: int, *, from_server: bool) -> None:
        """Take one setting. Raises ``ConnectionFault`` where its value is not allowed."""
        if number == HEADER_TABLE_SIZE:
            self.table_size = value
        elif number == ENABLE_PUSH:
            if value > 1 or (value and from_server):
                raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is not allowed")
        elif number == MAX_CONCURRENT_STREAMS:
            self.max_streams = value
        elif number == INITIAL_WINDOW_SIZE:
            if value > HIGHEST:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE too large")
            self.initial_window = value
        elif number == MAX_FRAME_SIZE:
            if not MAX_FRAME <= value <= _LARGEST_FRAME:
                raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
            self.max_frame = value
        elif number == ENABLE_CONNECT_PROTOCOL:
            if value > 1:
                raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_ENABLE_CONNECT_PROTOCOL over 1")
            self.connect_protocol = value == 1


def own_settings(bounds: Bounds, *, client: bool) -> list[tuple[int, int]]:
    """Return the settings that we announce."""
    both = [
        (INITIAL_WINDOW_SIZE, bounds.stream_window),
        (MAX_HEADER_LIST_SIZE, bounds.max_list),
    ]
    if client:
        return [(ENABLE_PUSH, 0), *both]
    return [(MAX_CONCURRENT_STREAMS, bounds.max_streams), *both, (ENABLE_CONNECT_PROTOCOL, 1)]
