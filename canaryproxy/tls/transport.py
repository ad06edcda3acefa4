"""TLS between a transport and a protocol: the protocol of the one, the transport of the other.

OpenSSL works in memory; the transport below keeps its socket, flow control and closing, so the protocol above
behaves as over plain TCP. Why not the event loop's own TLS: docs/decisions/0004-tls.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from canaryproxy.tls.errors import Truncated

_MAX_RECORD: Final = 16384
"""Maximum size of a record in bytes (RFC 8446 §5.1)."""
_MAX_BATCH: Final = 16
"""Maximum number of records delivered in one call."""
_MAX_REPLIES: Final = 4096
"""Maximum size in bytes of OpenSSL's own replies (alerts, key updates) before the protocol writes."""
_CLOSED: Final = asyncio.Protocol()
"""The protocol of a connection that is over."""


class TlsConnection:
    """One TLS connection: an ``asyncio.Protocol`` and an ``asyncio.Transport`` by its methods.

    ``ready`` is called once: with ``None`` after the handshake, or with the error if it failed, and then the
    connection closes. After a handshake, ``ready`` must call ``set_protocol`` and the protocol's
    ``connection_made``.
    """

    __slots__ = (
        "_cause",
        "_closing",
        "_decrypt",
        "_encrypt",
        "_ended",
        "_held",
        "_incoming",
        "_more",
        "_notified",
        "_outgoing",
        "_paused",
        "_protocol",
        "_raw",
        "_raw_ended",
        "_ready",
        "_sent_close",
        "_ssl",
        "_take_encrypted",
        "_unread",
        "_write_raw",
    )

    _protocol: asyncio.Protocol
    _raw: asyncio.Transport
    _write_raw: Callable[[bytes], None]

    def __init__(
        self,
        context: ssl.SSLContext,
        ready: Callable[[Exception | None], None],
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        # ``SSLObject`` only passes reads and writes on, in Python, which is a tenth of what they cost.
        core: Any = getattr(self._ssl, "_sslobj", self._ssl)
        self._decrypt: Callable[[int], bytes] = core.read
        self._encrypt: Callable[[bytes | bytearray | memoryview], int] = core.write
        self._take_encrypted: Callable[[], bytes] = self._outgoing.read
        self._unread = 0
        """At most so many bytes have come that OpenSSL has not made plaintext of."""
        self._more = False
        """Something was left to read when the last record was."""
        self._ready: Callable[[Exception | None], None] | None = ready
        """``None`` once the handshake is over."""
        self._held = b""
        """Plaintext that is not delivered yet because the protocol has paused reading."""
        self._paused = False
        self._closing = False
        self._sent_close = False
        """We have sent ``close_notify``."""
        self._notified = False
        """The protocol knows of the peer's ``close_notify``."""
        self._ended: Exception | bool = False
        """What followed the last plaintext: the end (``True``) or an error."""
        self._raw_ended = False
        """The peer closed its side of the TCP connection."""
        self._cause: Exception | None = None
        """The error because of which we abort the connection."""

    # As the protocol of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._write_raw = self._raw.write
        if not self._ssl.server_side:
            self._handshake()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return  # after close_notify, data is ignored
        self._incoming.write(data)
        self._unread += len(data)
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
        return True  # there may be data to deliver: we close later

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._ready is not None:
            self._fail(exc or ConnectionResetError("closed during the handshake"))
        # Break reference cycles, so that memory is freed at once.
        protocol, self._protocol = self._protocol, _CLOSED
        cause, self._cause = self._cause, None
        protocol.connection_lost(cause or exc)

    def pause_writing(self) -> None:
        if self._ready is None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._ready is None:
            self._protocol.resume_writing()

    # The handshake and the records

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
        if not self._paused and self._incoming.pending:  # to find nothing costs an exception
            self._deliver()

    def _fail(self, error: Exception) -> None:
        """Send the alert, call ``ready`` with the error, and close."""
        ready, self._ready = self._ready, None
        assert ready is not None
        cause = error if isinstance(error, OSError) else ConnectionError(str(error))
        self._cause = cause.with_traceback(None)  # a traceback refers to this object
        self._closing = True
        self._protocol = _CLOSED
        if not self._raw.is_closing():
            self._flush()
        ready(cause)
        self._raw.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _read(self) -> bytes:
        """Return received plaintext, a batch of records at most; sets ``_ended`` if nothing follows."""
        if self._held:
            data, self._held = self._held, b""
            return data
        if self._ended:
            return b""
        first = self._read_record()
        if not self._more:
            return first
        parts = [first]
        while len(parts) < _MAX_BATCH and (part := self._read_record()):
            parts.append(part)
            if not self._more:
                break
        return b"".join(parts)

    def _read_record(self) -> bytes:
        """Return the plaintext of one record; none if it has not come whole, or there is no more."""
        self._more = False
        try:
            # A record is longer than its plaintext, so all of that is read; room for more would be dear.
            part = self._decrypt(min(max(self._unread, 1), _MAX_RECORD))
            if not part:
                self._ended = True
            elif self._incoming.pending:
                self._more = True
            else:
                self._unread = 0
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            self._ended = True
            return b""
        except ssl.SSLError as error:
            self._ended = error.with_traceback(None)
            return b""
        return part

    def _deliver(self) -> None:
        """Deliver received plaintext until the protocol pauses reading."""
        while not self._paused and not self._closing:
            data = self._read()
            if not data:
                break
            self._protocol.data_received(data)
            if not self._more and self._ended is False and not self._held:
                break
        if self._outgoing.pending > _MAX_REPLIES:
            # They are sent with our next write; a peer that causes more is after our memory.
            self._abort_with(ConnectionAbortedError("too many TLS control messages"))
            return
        if self._paused or self._closing or self._held:
            return
        if self._ended is False:
            if self._raw_ended and not self._incoming.pending:
                self._abort_with(Truncated("closed without close_notify"))
        elif isinstance(self._ended, Exception):
            self._flush()  # the alert
            self._abort_with(self._ended)
        elif not self._notified:
            self._notified = True
            if not self._protocol.eof_received():
                self.close()

    def _abort_with(self, cause: Exception) -> None:
        self._cause = cause.with_traceback(None)
        self.abort()

    def _send_close(self) -> None:
        """Send ``close_notify``, once. The peer may still send."""
        if self._sent_close:
            return
        self._sent_close = True
        while self._incoming.pending and not self._ended:
            # unwrap() reads on to the peer's close_notify and fails on data before it.
            self._held = self._read_on()
        with contextlib.suppress(
            ssl.SSLError
        ):  # the peer's close_notify may never come; ours is written
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
            asyncio.get_running_loop().call_soon(self._deliver_later)

    def _deliver_later(self) -> None:
        if not self._paused:
            self._deliver()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._sent_close or self._closing or not data:
            return
        try:
            sent = self._encrypt(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self._encrypt(rest) :]
        except ssl.SSLError as error:
            self._abort_with(error)
            return
        write = self._write_raw
        write(self._take_encrypted())

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send ``close_notify`` and close our side of the TCP connection; the peer may still send."""
        if not self._closing:
            self._send_close()
            self._raw.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def close(self) -> None:
        """Send ``close_notify``, and close once everything is written."""
        if self._closing:
            return
        if self._ready is not None:
            self.abort()
            return
        self._closing = True
        self._send_close()
        self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()
