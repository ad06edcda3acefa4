"""Opens transports for the sockets of the data path.

With the extension ``native_sockets`` (optional, part of the compiled wheel) they are read and written over an
epoll descriptor of their own, which the event loop watches; without it they are the event loop's. Both behave
as ``asyncio.Transport`` says.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from canaryproxy.proxy import tcp_options

try:
    from canaryproxy.proxy.native_sockets import Acceptor, Poller, Transport
except ImportError:  # it was not built: the event loop's transports do the same
    IS_NATIVE = False
else:
    IS_NATIVE = True

_ACCEPT_AGAIN: Final = 0.1
"""Seconds until connections are accepted again when there were no descriptors for another one."""

_log: Final = logging.getLogger(__name__)


class Listening(Protocol):
    """A listening socket whose connections are accepted."""

    def close(self) -> None:
        """Accept no more, and close the socket."""


class Network:
    """Opens transports on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def open(
        self, sock: socket.socket, create_protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Protocol:
        """Own a connected, non-blocking stream socket, and return its protocol. Raises ``OSError``."""
        if sock.family == socket.AF_UNIX:
            _, protocol = await self._loop.create_unix_connection(create_protocol, sock=sock)
        else:
            tcp_options.prepare(sock)
            _, protocol = await self._loop.create_connection(create_protocol, sock=sock)
        return protocol

    async def accept(
        self, sock: socket.socket, create_protocol: Callable[[], asyncio.Protocol], backlog: int
    ) -> Listening:
        """Accept connections on a listening, non-blocking socket, and own it. Raises ``OSError``."""
        return await self._loop.create_server(create_protocol, sock=sock, backlog=backlog)


class NativeNetwork(Network):
    """Opens transports that ``native_sockets`` reads and writes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._poller = Poller(loop)
        loop.add_reader(self._poller.fileno(), self._poller.poll)

    async def open(
        self, sock: socket.socket, create_protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Protocol:
        if sock.family != socket.AF_UNIX:
            tcp_options.prepare(sock)
        protocol = create_protocol()
        self._poller.adopt(sock.fileno(), protocol)
        sock.detach()
        return protocol

    async def accept(
        self, sock: socket.socket, create_protocol: Callable[[], asyncio.Protocol], backlog: int
    ) -> Listening:
        acceptors: list[Acceptor] = []

        def exhausted(error: OSError) -> None:
            _log.warning("cannot accept connections: %s; again in %g s", error, _ACCEPT_AGAIN)
            self._loop.call_later(_ACCEPT_AGAIN, acceptors[0].resume)

        sock.listen(backlog)
        acceptors.append(self._poller.accept(sock, create_protocol, exhausted))
        return acceptors[0]


def relay(source: asyncio.Transport, to: asyncio.Transport, count: int) -> None:
    """Let the next ``count`` bytes that ``source`` receives go on to ``to``, if both can do that.

    What goes there is told to the protocol of ``source``, by ``relayed(count, follows)``, and not given to
    it; ``follows``: more than ``count`` bytes have come. Everything else is received as ever.
    """
    if IS_NATIVE and isinstance(source, Transport) and isinstance(to, Transport):
        source.relay(to, count)


_networks: Final[dict[asyncio.AbstractEventLoop, Network]] = {}


def network_of(loop: asyncio.AbstractEventLoop) -> Network:
    """Return the network of an event loop, always the same one."""
    network = _networks.get(loop)
    if network is None:
        for closed in [one for one in _networks if one.is_closed()]:
            del _networks[closed]
        network = _networks[loop] = NativeNetwork(loop) if IS_NATIVE else Network(loop)
    return network
