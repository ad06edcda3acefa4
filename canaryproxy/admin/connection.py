"""Connections of the admin addresses: few, and none that waits for ever.

aiohttp ends a connection on which no complete head arrives within the keep-alive time. Here is what it leaves
open: a bound on the number of connections, clients that do not read what they are sent, and errors of its own
that are no problem+json.
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
    """What clients of one admin address may take; times in seconds."""

    connections: int = 128
    streams: int = 50
    """Open ``/v1/stream`` answers."""
    head: float = 15.0
    """For the next request's complete head, whether the client is slow or idle."""
    body: float = 10.0
    """For a request's body."""
    stall: float = 10.0
    """That a client may leave unread what is sent."""
    linger: float = 1.0
    """For the rest of a request that is answered before it was read."""
    stop: float = 2.0
    """For requests in progress when the server stops."""


BOUNDS = Bounds()


class Share:
    """Who looks takes a share of the event loop at most, for users' requests are served by the same one.

    What is done ``async with`` it, without waiting for anything, is done one at a time, and a pause of three
    times its length follows.
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
    """The connections of one kind of address; called for each new one."""

    def __init__(self, server: web.Server, bounds: Bounds) -> None:
        self._server = server
        self.bounds = bounds
        self.open: dict[Connection, None] = {}
        """The oldest first."""

    def __call__(self) -> Connection:
        return Connection(self, self._server, asyncio.get_running_loop())

    def make_room(self) -> bool:
        """Return whether there is room for one more; the oldest that does nothing gives way."""
        if len(self.open) < self.bounds.connections:
            return True
        idle = next((one for one in self.open if not one.busy), None)
        if idle is None:
            return False
        idle.abort()
        return True

    def abort(self) -> None:
        """End those that are left."""
        for one in tuple(self.open):
            one.abort()


class Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_among", "_stalled", "_wire", "busy")

    def __init__(
        self, among: Connections, server: web.Server, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=among.bounds.head,
            lingering_time=among.bounds.linger,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
        )
        self._among = among
        self._wire: asyncio.Transport | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.busy = False
        """A request that the guard has let pass is being worked on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        if not self._among.make_room():
            _log.debug("an admin connection is refused: %d are open", len(self._among.open))
            self._manager = None
            transport.abort()
            return
        self._wire = transport
        self._among.open[self] = None
        # Whatever the kernel does not take counts as unread, however little it is.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._among.open.pop(self, None)
        self._wire = None
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = asyncio.get_running_loop().call_later(self._among.bounds.stall, self.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def abort(self) -> None:
        """End it at once; what is not sent is lost."""
        if self._wire is not None:
            self._wire.abort()
            self._among.open.pop(self, None)

    async def finish_response(
        self, request: Any, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = of_exception(resp, request.method, request.path).answer()
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
            raise ConnectionError("the client is gone, or has the beginning of an answer")
        if status < 500:
            detail = (message or "malformed request").splitlines()[0][:_LONGEST_MESSAGE]
        else:
            _log.error("%s %s failed", request.method, request.path, exc_info=exc)
            detail = "an error of the proxy; its log says more"
        return Problem(status, detail, close=True).answer()
