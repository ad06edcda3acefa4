"""The admin addresses: the API, its stream, the dashboard, ``/metrics``, ``/livez`` and ``/readyz``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from prometheus_client.registry import CollectorRegistry

from canaryproxy.admin import bodies, dashboard, exposition
from canaryproxy.admin.api import Api
from canaryproxy.admin.connection import BOUNDS, Bounds, Connection, Connections, Share
from canaryproxy.admin.guard import SAFE_METHODS, Guard, route_of
from canaryproxy.admin.interfaces import ProxyControl
from canaryproxy.admin.overview import Overviewer
from canaryproxy.admin.problem import Problem
from canaryproxy.admin.release_api import ReleaseApi
from canaryproxy.admin.stream import PACE, Hubs, Pace
from canaryproxy.config import Admin
from canaryproxy.control.process import DEFAULT

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_UNSHARED = (
    "/v1/stream",
    "/v1/services/{name}/stream",
    "/v1/overview",
    "/livez",
    "/readyz",
)
"""Routes outside the share: a stream never ends, the overview waits for other proxies, and probes cost
nothing and must not wait."""


class AdminServer:
    """Serves the admin application on listening sockets.

    Unix sockets and TCP are two servers: their permissions differ, and clients of one cannot exhaust the
    limits of the other. Raises ``SecretError`` if the configured token cannot be used.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        proxy: ProxyControl,
        admin: Admin,
        *,
        bounds: Bounds = BOUNDS,
        pace: Pace = PACE,
    ) -> None:
        overviewer = Overviewer(proxy, admin.overview)
        self._unix = _Server(registry, proxy, Guard(None), bounds, pace, overviewer)
        self._tcp = _Server(registry, proxy, Guard.of_tcp(admin), bounds, pace, overviewer)

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._unix.connections + self._tcp.connections

    @property
    def streams(self) -> int:
        """Open ``/v1/stream`` responses."""
        return self._unix.hubs.open + self._tcp.hubs.open

    async def start(
        self, unix_sockets: Sequence[socket.socket], tcp_sockets: Sequence[socket.socket]
    ) -> None:
        """Serve on the sockets; those in ``unix_sockets`` need no token."""
        await self._unix.start(unix_sockets)
        await self._tcp.start(tcp_sockets)

    def stop_accepting(self) -> None:
        """Accept no more connections; open ones continue."""
        self._unix.stop_accepting()
        self._tcp.stop_accepting()

    async def stop(self) -> None:
        """End every stream, wait briefly for requests in progress, and close everything."""
        await asyncio.gather(self._unix.stop(), self._tcp.stop())


class _Server:
    def __init__(
        self,
        registry: CollectorRegistry,
        proxy: ProxyControl,
        guard: Guard,
        bounds: Bounds,
        pace: Pace,
        overviewer: Overviewer,
    ) -> None:
        self._bounds = bounds
        self.hubs = Hubs(bounds.streams, pace)
        self._servers: list[asyncio.Server] = []
        self._connections: Connections | None = None
        self._runner = web.AppRunner(
            application(registry, proxy, guard, self.hubs, bounds, overviewer),
            handle_signals=False,
            shutdown_timeout=bounds.stop,
        )

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = Connections(self._runner.server, self._bounds)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._connections, sock=sock))

    @property
    def connections(self) -> int:
        return 0 if self._connections is None else len(self._connections.open)

    def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()

    async def stop(self) -> None:
        self.stop_accepting()
        self.hubs.close()
        await self._runner.cleanup()
        if self._connections is not None:
            self._connections.abort()


def application(
    registry: CollectorRegistry,
    proxy: ProxyControl,
    guard: Guard,
    hubs: Hubs,
    bounds: Bounds,
    overviewer: Overviewer | None = None,
) -> web.Application:
    """Return the application with all routes, behind the guard."""

    share = Share()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            guard.check(request)
            if request.method not in SAFE_METHODS or route_of(request) in _UNSHARED:
                connection.busy = True
                return await handler(request)
            async with share:
                connection.busy = True
                return await handler(request)
        except Problem as problem:
            return problem.response()
        finally:
            connection.busy = False

    async def scrape(request: web.Request) -> web.Response:
        body, headers = await exposition.scrape(
            registry,
            request.headers.get("Accept", ""),
            request.headers.get("Accept-Encoding", ""),
        )
        return web.Response(body=body, headers=headers)

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        if proxy.ready:
            return web.Response(text="ok\n")
        return web.Response(text="draining\n", status=503)

    app = web.Application(middlewares=[guarded])
    app[bodies.PATIENCE] = bounds.body
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    # A single service with a name has its page where alerts and links expect it, too.
    dashboard.add_routes(app, lambda: tuple(proxy.services) != (DEFAULT,))
    Api(proxy, guard, overviewer or Overviewer(proxy)).add_routes(app)
    ReleaseApi(proxy, guard, hubs).add_routes(app)
    return app
