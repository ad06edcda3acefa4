"""The admin address: ``/metrics``, ``/livez`` and ``/readyz``."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry

from canaryproxy.admin import metrics

_log = logging.getLogger(__name__)


class AdminServer:
    """Serves the admin application on listening sockets.

    ``ready`` tells whether the proxy takes new requests: false while it drains.
    """

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._ready = ready
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on the sockets."""
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """Close the sockets and every connection."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = metrics.render(self._registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ok\n")
        return web.Response(text="draining\n", status=503)
