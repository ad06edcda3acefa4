"""A small service with switches for faults: ``python -m canaryproxy.demo.service NAME PORT``.

``PUT /switch`` with a fault's name changes how it answers from then on.
"""

from __future__ import annotations

import asyncio
import random
import sys

from aiohttp import web

FAULTS = ("none", "unavailable", "errors", "slow")
"""none: 200; unavailable: half of the answers are 503; errors: a quarter are 500; slow: 0.4 s more."""

_USUAL_SECONDS = 0.008
_SLOW_SECONDS = 0.4


class Service:
    """Answers with its name after a few milliseconds, unless a fault is switched on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fault = "none"

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application()
        app.router.add_put("/switch", self._switch)
        app.router.add_get("/{path:.*}", self._answer)
        return app

    async def _switch(self, request: web.Request) -> web.Response:
        self._fault = await request.text()
        return web.Response(text=self._fault)

    async def _answer(self, _request: web.Request) -> web.Response:
        drawn = random.random()  # noqa: S311 - a demo
        if self._fault == "unavailable" and drawn < 0.5:
            return web.Response(text="unavailable\n", status=503)
        if self._fault == "errors" and drawn < 0.25:
            return web.Response(text="error\n", status=500)
        usual = random.lognormvariate(0, 0.4) * _USUAL_SECONDS
        await asyncio.sleep(usual + (_SLOW_SECONDS if self._fault == "slow" else 0))
        return web.Response(text=self._name)


def main() -> None:
    """Serve until killed."""
    name, port = sys.argv[1], int(sys.argv[2])
    web.run_app(Service(name).app(), host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
