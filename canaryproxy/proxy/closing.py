"""How a client's connection ends without destroying what the client has not read yet."""

from __future__ import annotations

import asyncio
import socket
import struct
from time import monotonic
from typing import Final, cast

from canaryproxy.measure import counters
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.interfaces import Connection

_LINGER_SECONDS: Final = 2.0
"""How long a client may be silent."""
_MOST_LINGER_TURNS: Final = 15
"""How many times that long it may go on sending: 30 s in all, as with nginx."""
_SO_LINGER_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing sends a reset instead of an end."""


def reset(transport: asyncio.Transport) -> None:
    """Close with a reset, so that the client cannot take a response without a length for complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _SO_LINGER_RESET)
    transport.abort()


class LingeringClose(Connection):
    """Takes over a connection whose last response was written, and discards what the client still sends.

    Closing at once would send a reset if there is unread input, and a reset can destroy the response on its
    way (RFC 9112 §9.6). An ``asyncio.Protocol`` by its methods only.
    """

    __slots__ = ("_active", "_context", "_transport", "_turns", "_unsent")

    def __init__(
        self, context: WorkerContext, transport: asyncio.Transport, unsent: int = 0
    ) -> None:
        self._context = context
        self._transport = transport
        self._active = False
        """Something moved since the last ``sweep``."""
        self._turns = _MOST_LINGER_TURNS
        """How many times the deadline may still be extended for a client that sends."""
        self._unsent = unsent
        """Bytes that waited to be written at the last ``sweep``."""
        self.deadline = monotonic() + _LINGER_SECONDS

    def start(self) -> None:
        """Take over the connection and send the end of our side. Reading must be on."""
        transport = self._transport
        self._context.connections.add(self)
        transport.set_protocol(cast(asyncio.Protocol, self))
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    # asyncio's side

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._context.connections.discard(self)
        self._context.proxy_tally.add(counters.CONNECTIONS_CLOSED)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        self._active = True

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """Do nothing: nothing more is written."""

    def resume_writing(self) -> None:
        self._active = True

    # The worker's side

    def sweep(self, now: float) -> None:
        """Extend the deadline while the client reads, or for a while if it sends; else abort."""
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent = unsent
            self._active = True
        if self._active and unsent:
            self._active = False
            self.deadline = now + self._context.body_timeout
        elif self._active and self._turns:
            self._active = False
            self._turns -= 1
            self.deadline = now + _LINGER_SECONDS
        else:
            self._transport.abort()

    def drain(self, until: float | None) -> None:
        """Do nothing: it closes by itself."""

    def abort(self) -> None:
        self._transport.abort()
