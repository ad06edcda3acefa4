"""An upstream whose answers a file decides: ``python service.py NAME PORT FILE``.

The file holds ``status delay`` (seconds) for users whose cookie begins with ``bad``, or for all: ``* status
delay``. It is read for each request, so a test changes it while requests flow.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from aiohttp import web


class Service:
    def __init__(self, name: str, file: Path) -> None:
        self._name = name
        self._file = file

    async def answer(self, request: web.Request) -> web.Response:
        words = self._file.read_text().split()
        status, delay = 200, 0.0
        if words:
            everybody = words[0] == "*"
            if everybody or request.cookies.get("canary_id", "").startswith("bad"):
                status, delay = int(words[-2]), float(words[-1])
        if delay:
            await asyncio.sleep(delay)
        return web.Response(text=self._name, status=status)


def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", Service(sys.argv[1], Path(sys.argv[3])).answer)
    web.run_app(
        app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None,
        loop=uvloop.new_event_loop(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
