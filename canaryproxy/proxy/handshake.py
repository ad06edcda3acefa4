"""Steps before HTTP on a client's connection: a PROXY protocol header, a TLS handshake, or both.

Connections of a listener with neither are a ``ClientConnection`` from the start.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final, Literal, cast

from canaryproxy.http1 import proxy_protocol
from canaryproxy.http1.errors import error_response
from canaryproxy.http1.proxy_protocol import MalformedHeader, ProxyHeader
from canaryproxy.measure import counters
from canaryproxy.measure.counters import HandshakeFailure
from canaryproxy.proxy.client_connection import HTTP1, HTTP2, ClientConnection
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.interfaces import Connection
from canaryproxy.proxy.peer import peer_of
from canaryproxy.tls.transport import TlsConnection

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListenerFilters:
    """Steps before HTTP on the connections of a listener, in this order."""

    proxy_protocol: Literal["off", "required", "trusted"]
    context: ssl.SSLContext | None
    takes: int
    """``HTTP1``, ``HTTP2`` or both; over TLS, ALPN decides among them."""


class Handshake(Connection):
    """A connection until its first request can come, within ``limits.handshake_timeout``.

    Like ``ClientConnection`` an ``asyncio.Protocol`` by its methods only.
    """

    __slots__ = ("_buffer", "_context", "_filters", "_header", "_tls", "transport")

    transport: asyncio.Transport

    def __init__(self, context: WorkerContext, filters: ListenerFilters) -> None:
        self._context = context
        self._filters = filters
        self._buffer = b""
        self._header: ProxyHeader | None = None
        self._tls: TlsConnection | None = None
        self.deadline = inf

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        context = self._context
        if context.is_full():
            # A TLS handshake only to send a 503 would cost more than that response is worth.
            context.proxy_tally.add(counters.CONNECTIONS_REFUSED)
            self.transport.abort()
            return
        context.connections.add(self)
        self.deadline = monotonic() + context.limits.handshake_timeout
        expected = self._filters.proxy_protocol
        if expected == "off" or (
            expected == "trusted"
            and not peer_of(self.transport, context.trusted_proxies, None).trusted
        ):
            self._next_filter()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._leave() and self._buffer:  # without a byte it was a port check, no failure
            self._count(HandshakeFailure.PROXY_PROTOCOL)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """Do nothing: at most one short response is written here."""

    def resume_writing(self) -> None:
        """Do nothing."""

    def data_received(self, data: bytes) -> None:
        """Read the PROXY protocol header."""
        if self._header is not None or self.transport.is_closing():
            return
        self._buffer += data
        try:
            header = proxy_protocol.parse(self._buffer)
        except MalformedHeader as error:
            self._fail(HandshakeFailure.PROXY_PROTOCOL, str(error))
            return
        if header is not None:
            self._buffer = self._buffer[header.size :]
            self._header = header
            self._next_filter()

    # Filters

    def _next_filter(self) -> None:
        """Begin the TLS handshake, or HTTP if the listener has none."""
        if self._filters.context is None:
            self._begin_http(self.transport)
            return
        self._tls = tls = TlsConnection(self._filters.context, self._tls_done, server_side=True)
        self.transport.set_protocol(cast(asyncio.Protocol, tls))
        tls.connection_made(self.transport)
        data, self._buffer = self._buffer, b""
        if data:
            tls.data_received(data)

    def _tls_done(self, error: Exception | None) -> None:
        """The TLS handshake succeeded, or failed with ``error``."""
        if self not in self._context.connections:
            return  # we ended it
        if error is None:
            assert self._tls is not None
            self._begin_http(cast(asyncio.Transport, self._tls))
        elif isinstance(error, ssl.SSLError):
            if error.reason == "HTTP_REQUEST" and not self.transport.is_closing():
                text, date = "plain HTTP to a port that speaks TLS", self._context.head_ends.date
                self.transport.write(error_response(400, text, date, close=True))
            self._fail(HandshakeFailure.TLS, str(error))
        else:
            self._leave()
            self._count(HandshakeFailure.CLOSED)

    def _begin_http(self, transport: asyncio.Transport) -> None:
        self._leave()
        takes = self._filters.takes
        if self._tls is not None:
            agreed = self._tls.get_extra_info("ssl_object").selected_alpn_protocol()
            takes = HTTP2 if agreed == "h2" else takes & HTTP1
        connection = ClientConnection(self._context, self._header, takes=takes)
        protocol = cast(asyncio.Protocol, connection)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        data, self._buffer = self._buffer, b""
        if data:
            protocol.data_received(data)

    def _leave(self) -> bool:
        """Take this out of the worker's connections; tell whether it was one of them."""
        if self not in self._context.connections:
            return False
        self._context.connections.discard(self)
        return True

    def _fail(self, reason: HandshakeFailure, detail: str) -> None:
        self._leave()
        self._count(reason)
        _log.debug("%s: %s", self.transport.get_extra_info("peername"), detail)
        self.transport.close()

    def _count(self, reason: HandshakeFailure) -> None:
        self._context.proxy_tally.add(counters.HANDSHAKES_FAILED + reason)

    # The worker's side

    def sweep(self, now: float) -> None:  # noqa: ARG002
        """Give up: the deadline has passed."""
        self._leave()
        self._count(HandshakeFailure.TIMEOUT)
        self.transport.abort()

    def drain(self, until: float | None) -> None:
        if until is None:
            self.abort()

    def abort(self) -> None:
        self._leave()
        self.transport.abort()
