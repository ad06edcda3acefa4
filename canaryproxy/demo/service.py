"""A small service with faults to switch on: ``python -m canaryproxy.demo.service NAME PORT [HOST]``.

``/`` and ``/search`` return JSON. ``PUT /switch`` with the name of a fault in its body switches that fault
on.
"""

from __future__ import annotations

import asyncio
import random
import sys

from aiohttp import web

FAULTS = ("none", "errors", "slow", "empty")
"""errors: 60% of the responses have status 500; slow: 0.3 s more; empty: searches find nothing."""

_TYPICAL_SECONDS = 0.008
_SLOW_SECONDS = 0.3
_ERRORS = 0.6


class Service:
    """Responds with its name after a few milliseconds, unless a fault is switched on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fault = "none"

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application()
        app.router.add_put("/switch", self._switch)
        app.router.add_get("/{path:.*}", self._respond)
        return app

    async def _switch(self, request: web.Request) -> web.Response:
        self._fault = await request.text()
        return web.Response(text=self._fault)

    async def _respond(self, request: web.Request) -> web.Response:
        if self._fault == "errors" and random.random() < _ERRORS:  # noqa: S311 - a demo
            return web.Response(text="error\n", status=500)
        usual = random.lognormvariate(0, 0.4) * _TYPICAL_SECONDS
        await asyncio.sleep(usual + (_SLOW_SECONDS if self._fault == "slow" else 0))
        empty = self._fault == "empty" and request.path == "/search"
        return web.json_response({"version": self._name, "results": [] if empty else ["a", "b"]})


def main() -> None:
    """Serve until killed."""
    name, port, host = sys.argv[1], int(sys.argv[2]), (*sys.argv[3:], "127.0.0.1")[0]
    web.run_app(Service(name).app(), host=host, port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
