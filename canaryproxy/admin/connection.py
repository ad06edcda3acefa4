"""Connections of the admin addresses: bounded in number and in time.

aiohttp closes a connection on which no complete request head arrives within the keep-alive time. This adds a
limit on the number of connections, a timeout for clients that do not read, and problem+json for aiohttp's own
errors.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from canaryproxy.admin.guard import secure
from canaryproxy.admin.problem import Problem, of_exception

_log = logging.getLogger(__name__)

_LONGEST_MESSAGE = 200
_LONGEST_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits for the clients of one admin address; times in seconds."""

    connections: int = 128
    streams: int = 50
    """Open ``/v1/stream`` responses."""
    head: float = 15.0
    """Until the complete head of the next request, whether the client is slow or idle."""
    body: float = 10.0
    """Until the complete body of a request."""
    stall: float = 10.0
    """Within which a client must read what was sent."""
    linger: float = 1.0
    """For the rest of a request whose response was sent early."""
    stop: float = 2.0
    """For requests in progress when the server stops."""


BOUNDS = Bounds()


class Share:
    """Limits reads of the admin API to a quarter of the event loop, which may serve users' requests too.

    Blocks under ``async with`` should not await. They run one at a time, and each is followed by a pause of
    three times its length.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._began = 0.0

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        self._began = asyncio.get_running_loop().time()

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(min(3 * (loop.time() - self._began), _LONGEST_PAUSE), self._turn.release)


class Connections:
    """The connections of one kind of address; a protocol factory."""

    def __init__(self, server: web.Server, bounds: Bounds) -> None:
        self._server = server
        self.bounds = bounds
        self.open: dict[Connection, None] = {}
        """Oldest first."""

    def __call__(self) -> Connection:
        return Connection(self, self._server, asyncio.get_running_loop())

    def admit(self) -> bool:
        """Return whether one more connection fits; if necessary, close the oldest idle one."""
        if len(self.open) < self.bounds.connections:
            return True
        idle = next((one for one in self.open if not one.busy), None)
        if idle is None:
            return False
        idle.abort()
        return True

    def abort(self) -> None:
        """Close the remaining connections."""
        for one in tuple(self.open):
            one.abort()


class Connection(web.RequestHandler):
    """A connection of one client."""

    __slots__ = ("_connections", "_open_transport", "_stalled", "busy")

    def __init__(
        self, connections: Connections, server: web.Server, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=connections.bounds.head,
            lingering_time=connections.bounds.linger,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
        )
        self._connections = connections
        self._open_transport: asyncio.Transport | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.busy = False
        """Whether a request that the guard admitted is in progress."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        if not self._connections.admit():
            _log.debug("admin connection refused: %d are open", len(self._connections.open))
            self._manager = None
            transport.abort()
            return
        self._open_transport = transport
        self._connections.open[self] = None
        # Any byte that the kernel does not accept counts as unread.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.open.pop(self, None)
        self._open_transport = None
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = asyncio.get_running_loop().call_later(
            self._connections.bounds.stall, self.abort
        )

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def abort(self) -> None:
        """Close at once; unsent data is lost."""
        if self._open_transport is not None:
            self._open_transport.abort()
            self._connections.open.pop(self, None)

    async def finish_response(
        self, request: Any, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = of_exception(resp, request.method, request.path).response()
        if not resp.prepared:
            secure(resp, request.path)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.transport is None or request.writer.output_size > 0:
            raise ConnectionError("the client is gone, or has received part of a response")
        if status < 500:
            detail = (message or "malformed request").splitlines()[0][:_LONGEST_MESSAGE]
        else:
            _log.error("%s %s failed", request.method, request.path, exc_info=exc)
            detail = "internal error; see the proxy's log"
        return Problem(status, detail, close=True).response()
