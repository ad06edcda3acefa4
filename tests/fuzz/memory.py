"""A data path without sockets: transports that hold what is written, and are fed by hand.

Nothing runs by itself. ``feed`` and ``eof`` call the protocols as a loop would; what a loop would call later
(``connection_lost``) is called by ``Wires.settle``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from canaryproxy import config
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy.client_connection import ClientConnection
from canaryproxy.proxy.endpoint import Endpoint, _Probe
from canaryproxy.proxy.interfaces import Caller, UpstreamLink
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.upstream_connection import UpstreamConnection
from tests.datapaths import data_path


class Wires:
    """What the loop would call next."""

    def __init__(self) -> None:
        self.later: deque[Callable[[], None]] = deque()

    def settle(self) -> None:
        """Call all that is due."""
        while self.later:
            self.later.popleft()()


class MemoryTransport(asyncio.Transport):
    """One end of a connection, the proxy's. ``peer`` gets what is written."""

    def __init__(self, wires: Wires, protocol: Any, high: int = 1 << 16) -> None:
        super().__init__()
        self._wires = wires
        self.protocol = protocol
        self.written = bytearray()
        """What the peer has not taken yet."""
        self.ended = False
        """The proxy writes no more."""
        self.closed = False
        """The proxy closed, or the peer did."""
        self.aborted = False
        self._over = False
        """The peer sends no more."""
        self.reading = True
        self._high = high
        self._full = False
        self._kept: deque[bytes | None] = deque()
        """What came while the proxy did not read; ``None`` is the end."""

    # The proxy's side

    def write(self, data: Any) -> None:
        assert not self.ended or self.closed, "written after the end"
        if self.closed:
            return
        self.written += data
        if len(self.written) > self._high and not self._full:
            self._full = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self._full else 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        self.aborted = True
        self._lose(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self._wires.later.append(self._flush)

    def is_reading(self) -> bool:
        return self.reading

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 4), "sockname": ("127.0.0.1", 80)}.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    # The peer's side

    def take(self) -> bytes:
        """Take what the proxy wrote."""
        data = bytes(self.written)
        self.written.clear()
        if self._full:
            self._full = False
            if not self.closed:
                self.protocol.resume_writing()
        return data

    def feed(self, data: bytes) -> None:
        """Send to the proxy, if the end was not sent yet."""
        if not self._over:
            self._kept.append(data)
            self._flush()

    def eof(self) -> None:
        """Send no more."""
        if not self._over:
            self._over = True
            self._kept.append(None)
            self._flush()

    def lose(self) -> None:
        """Reset the connection."""
        self._lose(ConnectionResetError())

    def _flush(self) -> None:
        while self._kept and self.reading and not self.closed:
            data = self._kept.popleft()
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._wires.later.append(lambda: self.protocol.connection_lost(error))


class MemoryEndpoint:
    """An endpoint whose connections are opened by ``on_open``: nothing is dialled."""

    high = 1 << 16
    """Bytes after which an upstream that does not read is full."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        endpoint.on_open = lambda caller: self.on_open(self, caller)
        self.on_open: Callable[[MemoryEndpoint, Caller], None]
        """Called for each connection that is wanted; calls ``connect`` or ``fail`` now or later."""

    @property
    def active(self) -> int:
        """Requests that hold or wait for a connection."""
        return self._endpoint.active

    @property
    def open(self) -> int:
        """Connections open or being opened."""
        return self._endpoint.open

    @property
    def idle(self) -> list[UpstreamLink]:
        """Connections to use again."""
        return list(self._endpoint.idle)

    def connect(self, wires: Wires, caller: Caller) -> MemoryTransport:
        """Give the caller its connection, as ``_connect`` does; return the proxy's end of it."""
        endpoint = self._endpoint
        upstream = endpoint._dialer._create_link()
        assert isinstance(upstream, UpstreamConnection)
        transport = MemoryTransport(wires, upstream, self.high)
        upstream.connection_made(transport)
        endpoint._readmit()
        if caller.wants(endpoint):
            caller.connected(upstream)
        else:
            endpoint.release(upstream)
        return transport

    def fail(self, caller: Caller, reason: Reason) -> None:
        """Tell the caller that there is no connection, as ``_connect`` does."""
        endpoint = self._endpoint
        endpoint.open -= 1
        if not isinstance(caller, _Probe):
            endpoint.failed(reason)
        caller.connect_failed(endpoint, reason)


class MemoryProxy:
    """A data path whose endpoints are in memory: one of stable, and one of the canary if it has one."""

    def __init__(self, text: str, loop: asyncio.AbstractEventLoop, high: int = 1 << 16) -> None:
        made = config.parse(text, file="test.yaml")
        self.wires = Wires()
        cells = ServiceCells()
        self.counters = cells.counters
        self.datapath, self.service = data_path(made, cells, loop)
        self.endpoints: list[MemoryEndpoint] = []
        pools = []
        sides = (made.variants.stable, made.variants.canary)
        for variant, parser in zip(sides, self.service.context.response_parsers, strict=True):
            endpoints = [
                Endpoint(
                    one,
                    made.limits,
                    loop,
                    partial(UpstreamConnection, parser=parser),
                )
                for one in (variant.endpoints if variant else ())
            ]
            pool = Pool(endpoints, by_hash=False)
            for endpoint in endpoints:
                endpoint.on_change = self.service._refresh_pools
                held = MemoryEndpoint(endpoint)
                held.high = high
                self.endpoints.append(held)
            pools.append(pool)
        self.service.context.pools = (pools[0], pools[1])
        self.service._mirror.configure(
            made.mirror.percent, pools[1], made.limits.first_byte_timeout
        )

    def client(self, high: int = 1 << 16) -> MemoryTransport:
        """Return the proxy's end of a new client's connection."""
        protocol = ClientConnection(self.datapath.context)
        transport = MemoryTransport(self.wires, protocol, high)
        protocol.connection_made(transport)
        return transport
