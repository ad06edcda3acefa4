"""What comes before HTTP on a client's connection: a PROXY protocol header, a TLS handshake, or both.

Connections of a listener with neither are a ``ClientConnection`` from the start.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Literal, cast

from canaryproxy.http1 import proxy_protocol
from canaryproxy.http1.errors import error_response
from canaryproxy.http1.proxy_protocol import MalformedHeader, ProxyHeader
from canaryproxy.measure import counters
from canaryproxy.measure.counters import HandshakeFailure
from canaryproxy.proxy.client_connection import ClientConnection
from canaryproxy.tls.transport import TlsConnection

if TYPE_CHECKING:
    from canaryproxy.proxy.datapath import DataPath

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListenerFilters:
    """What the connections of a listener have to pass, in this order."""

    proxy_protocol: Literal["off", "required", "trusted"]
    context: ssl.SSLContext | None


class Handshake(asyncio.Protocol):
    """One connection on its way in. In time, or it is closed; counted in ``limits.max_connections``."""

    __slots__ = ("_buffer", "_datapath", "_gate", "_header", "_tls", "deadline", "transport")

    transport: asyncio.Transport

    def __init__(self, datapath: DataPath, gate: ListenerFilters) -> None:
        self._datapath = datapath
        self._gate = gate
        self._buffer = b""
        self._header: ProxyHeader | None = None
        self._tls: TlsConnection | None = None
        self.deadline = inf
        """When ``sweep`` is to be called, in monotonic seconds."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        datapath = self._datapath
        if datapath.is_full():
            # A handshake only to say so would cost more than the answer is worth.
            datapath.counters.proxy[counters.CONNECTIONS_REFUSED] += 1
            self.transport.abort()
            return
        datapath.entering.add(self)
        self.deadline = monotonic() + datapath.limits.handshake_timeout
        expected = self._gate.proxy_protocol
        if expected == "off" or (
            expected == "trusted" and not datapath.peer_of(self.transport).trusted
        ):
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self in self._datapath.entering:
            self._datapath.entering.discard(self)
            if self._buffer:  # who says nothing at all only looks whether we listen
                self._count(HandshakeFailure.PROXY_PROTOCOL)

    def data_received(self, data: bytes) -> None:
        """Read the PROXY header."""
        if self._header is not None or self.transport.is_closing():
            return
        self._buffer += data
        try:
            header = proxy_protocol.parse(self._buffer)
        except MalformedHeader as error:
            self._refuse(HandshakeFailure.PROXY_PROTOCOL, str(error))
            return
        if header is not None:
            self._buffer = self._buffer[header.size :]
            self._header = header
            self._go_on()

    def _go_on(self) -> None:
        """Begin the handshake, or let the connection in."""
        if self._gate.context is None:
            self._enter(self.transport)
            return
        self._tls = tls = TlsConnection(self._gate.context, self._shaken, server_side=True)
        self.transport.set_protocol(tls)
        tls.connection_made(self.transport)
        data, self._buffer = self._buffer, b""
        if data:
            tls.data_received(data)

    def _shaken(self, error: Exception | None) -> None:
        """The handshake is over."""
        if self not in self._datapath.entering:
            return  # we ended it
        if error is None:
            assert self._tls is not None
            self._enter(self._tls)
        elif isinstance(error, ssl.SSLError):
            if error.reason == "HTTP_REQUEST" and not self.transport.is_closing():
                self.transport.write(
                    error_response(400, "plain HTTP to a port that speaks TLS", close=True)
                )
            self._refuse(HandshakeFailure.TLS, str(error))
        else:
            self._datapath.entering.discard(self)
            self._count(HandshakeFailure.CLOSED)

    def _enter(self, transport: asyncio.Transport) -> None:
        datapath = self._datapath
        datapath.entering.discard(self)
        connection = ClientConnection(datapath)
        connection.header = self._header
        transport.set_protocol(cast(asyncio.Protocol, connection))
        connection.connection_made(transport)
        data, self._buffer = self._buffer, b""
        if data:
            connection.data_received(data)

    def _refuse(self, why: HandshakeFailure, words: str) -> None:
        self._datapath.entering.discard(self)
        self._count(why)
        _log.debug("%s: %s", self.transport.get_extra_info("peername"), words)
        self.transport.close()

    def _count(self, why: HandshakeFailure) -> None:
        self._datapath.counters.proxy[counters.HANDSHAKES_FAILED + why] += 1

    def sweep(self) -> None:
        """The deadline has passed."""
        self._datapath.entering.discard(self)
        self._count(HandshakeFailure.TIMEOUT)
        self.transport.abort()

    def abort(self) -> None:
        """The proxy goes away."""
        self._datapath.entering.discard(self)
        self.transport.abort()
