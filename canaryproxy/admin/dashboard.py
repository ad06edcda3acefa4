"""The dashboard at ``/`` and the overview at ``/overview``; style sheets and modules at ``/static/<name>``.

The files are package data, read once. A requested name is looked up among them and never used as a path.
The pages get their data from ``/v1``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web
from aiohttp.helpers import ETag

PAGE, OVERVIEW = "index.html", "overview.html"

_CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file to serve."""

    body: bytes
    content_type: str
    etag: str
    """Without quotes; changes with the content."""


@cache
def load() -> Mapping[str, StaticFile]:
    """Return the files of the dashboard by name."""
    served = {}
    for entry in Path(__file__).with_name("static").iterdir():
        content_type = _CONTENT_TYPES.get("." + entry.name.rpartition(".")[2])
        if content_type is not None:
            body = entry.read_bytes()
            etag = hashlib.sha256(body).hexdigest()[:16]
            served[entry.name] = StaticFile(body, content_type, etag)
    return served


def add_routes(app: web.Application) -> None:
    """Add the routes of the dashboard."""
    served = load()

    async def page(request: web.Request) -> web.Response:
        return _response(request, served[PAGE])

    async def overview(request: web.Request) -> web.Response:
        return _response(request, served[OVERVIEW])

    async def static(request: web.Request) -> web.Response:
        found = served.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return _response(request, found)

    app.router.add_get("/", page)
    app.router.add_get("/overview", overview)
    app.router.add_get("/static/{name}", static)


def _response(request: web.Request, found: StaticFile) -> web.Response:
    # Revalidated on each load, so that the page and its modules have one version after an update.
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    known = request.if_none_match or ()
    if any(etag.value in (found.etag, "*") for etag in known):
        response = web.Response(status=304, headers=headers)
    else:
        response = web.Response(
            body=found.body, content_type=found.content_type, charset="utf-8", headers=headers
        )
    response.etag = ETag(found.etag)
    return response
