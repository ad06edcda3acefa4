"""TLS on a connection: the protocol of the transport below, the transport of the protocol above.

OpenSSL works on memory here; sockets, flow control and closing are those of the transport below, so that all
above behaves as it does over plain TCP. Why not the loop's own TLS: docs/decisions/0004-tls.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

_RECORD: Final = 16384
"""Bytes of the largest record (RFC 8446 §5.1)."""
_AT_ONCE: Final = 16
"""Records that are handed on together."""
_MOST_REPLIES: Final = 4096
"""Bytes that OpenSSL may reply by itself (alerts, key updates) before something of ours is written."""
_NOBODY: Final = asyncio.Protocol()
"""Who hears of a connection that is over."""


class Truncated(ConnectionError):
    """The connection ended without ``close_notify``: what came may not be all (RFC 8446 §6.1)."""


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """One connection.

    ``ready`` is called once, when the handshake has succeeded (with ``None``) or failed (with the error; then
    the connection is closed). On success it gives the connection its protocol by ``set_protocol``, and calls
    the protocol's ``connection_made``.
    """

    __slots__ = (
        "_cause",
        "_closing",
        "_ended",
        "_held",
        "_incoming",
        "_notified",
        "_outgoing",
        "_paused",
        "_protocol",
        "_raw",
        "_raw_ended",
        "_ready",
        "_said_end",
        "_ssl",
    )

    _protocol: asyncio.Protocol
    _raw: asyncio.Transport

    def __init__(
        self,
        context: ssl.SSLContext,
        ready: Callable[[Exception | None], None],
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._ready: Callable[[Exception | None], None] | None = ready
        """Until the handshake is over."""
        self._held = b""
        """Plaintext that the protocol has not got yet, because it does not read."""
        self._paused = False
        self._closing = False
        self._said_end = False
        """Our ``close_notify`` is sent."""
        self._notified = False
        """The peer's ``close_notify`` came, and the protocol knows."""
        self._ended: Exception | bool = False
        """What came after the last plaintext: the end (``True``), or an error."""
        self._raw_ended = False
        """The peer closed its side of the connection below."""
        self._cause: Exception | None = None
        """Why we cut the connection."""

    # As the protocol of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        if not self._ssl.server_side:
            self._handshake()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return  # nothing counts after the end
        self._incoming.write(data)
        if self._ready is not None:
            self._handshake()
        elif not self._paused:
            self._deliver()

    def eof_received(self) -> bool:
        self._raw_ended = True
        if self._ready is not None:
            self._fail(ConnectionResetError("closed during the handshake"))
            return False
        if not self._paused:
            self._deliver()
        return True  # what is held is for the protocol still; closing is up to us

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._ready is not None:
            self._fail(exc or ConnectionResetError("closed during the handshake"))
        # Nothing leads back here from now on: what is over is to be freed at once.
        protocol, self._protocol = self._protocol, _NOBODY
        cause, self._cause = self._cause, None
        protocol.connection_lost(cause or exc)

    def pause_writing(self) -> None:
        if self._ready is None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._ready is None:
            self._protocol.resume_writing()

    # Inside

    def _handshake(self) -> None:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, ValueError) as error:
            self._fail(error)
            return
        self._flush()
        ready, self._ready = self._ready, None
        assert ready is not None
        ready(None)
        if not self._paused:
            self._deliver()

    def _fail(self, error: Exception) -> None:
        """The handshake failed: tell the peer why, and the one who waits for it."""
        ready, self._ready = self._ready, None
        assert ready is not None
        cause = error if isinstance(error, OSError) else ConnectionError(str(error))
        self._cause = cause.with_traceback(None)  # which leads back here
        self._closing = True
        self._protocol = _NOBODY
        if not self._raw.is_closing():
            self._flush()
        ready(cause)
        self._raw.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _read(self) -> bytes:
        """Return the plaintext of what came, up to some records; ``_ended`` tells what is behind it."""
        if self._held:
            data, self._held = self._held, b""
            return data
        if self._ended:
            return b""
        parts: list[bytes] = []
        try:
            while len(parts) < _AT_ONCE:
                part = self._ssl.read(_RECORD)
                if not part:
                    self._ended = True
                    break
                parts.append(part)
                if not self._incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._ended = error.with_traceback(None)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _deliver(self) -> None:
        """Hand on what came, as long as the protocol reads."""
        while not self._paused and not self._closing:
            data = self._read()
            if not data:
                break
            self._protocol.data_received(data)
            if not self._incoming.pending and not self._ended and not self._held:
                break
        if self._outgoing.pending > _MOST_REPLIES:
            # They go with our next write; who makes more of them is after our memory.
            self._cut(ConnectionAbortedError("too many messages of TLS itself"))
            return
        if self._paused or self._closing or self._held:
            return
        if isinstance(self._ended, Exception):
            self._flush()  # the alert
            self._cut(self._ended)
        elif self._ended:
            if not self._notified:
                self._notified = True
                if not self._protocol.eof_received():
                    self.close()
        elif self._raw_ended and not self._incoming.pending:
            self._cut(Truncated("closed without close_notify"))

    def _cut(self, cause: Exception) -> None:
        self._cause = cause.with_traceback(None)
        self.abort()

    def _say_end(self) -> None:
        """Send ``close_notify``, once. What the peer sends may go on."""
        if self._said_end:
            return
        self._said_end = True
        while self._incoming.pending and not self._ended:
            # OpenSSL looks for the peer's close_notify now, and would stumble over data.
            self._held = self._read_on()
        with contextlib.suppress(ssl.SSLError):  # the peer's may never come: ours is written
            self._ssl.unwrap()
        self._flush()

    def _read_on(self) -> bytes:
        held, self._held = self._held, b""
        return held + self._read()

    # As the transport of the protocol above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._ssl.context
        if name == "ssl_object":
            return self._ssl
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True
        if not self._raw_ended and not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if not self._raw_ended and not self._raw.is_closing():
            self._raw.resume_reading()
        if self._held or self._incoming.pending or self._ended or self._raw_ended:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._paused:
            self._deliver()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._said_end or self._closing or not data:
            return
        try:
            sent = self._ssl.write(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self._ssl.write(rest) :]
        except ssl.SSLError as error:
            self._cut(error)
            return
        self._raw.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send ``close_notify`` and close our side of the connection below; the peer may go on."""
        if not self._closing:
            self._say_end()
            self._raw.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def close(self) -> None:
        """Send ``close_notify`` and close, once everything is written."""
        if self._closing:
            return
        if self._ready is not None:
            self.abort()
            return
        self._closing = True
        self._say_end()
        self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()
