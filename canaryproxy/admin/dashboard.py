"""The dashboard at ``/`` and the overview at ``/overview``; style sheets and modules at ``/static/<name>``.

Of several services each has its dashboard at ``/services/<name>/``, and ``/`` is the overview of them. The
files are package data, read once. A requested name is looked up among them and never used as a path. The
pages get their data from ``/v1``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.helpers import ETag

PAGE, OVERVIEW, SERVICES = "index.html", "overview.html", "services.html"
_NAME = r"{name:[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})?}"
"""The name of a service, or of a version beside its canary: nothing that a redirect could take for an address
elsewhere."""
_ROOT = "../../"
"""Where the root is, as seen from a service's page."""

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
            served[entry.name] = _file(entry.read_bytes(), content_type)
    return served


def _file(body: bytes, content_type: str) -> StaticFile:
    return StaticFile(body, content_type, hashlib.sha256(body).hexdigest()[:16])


@cache
def page_of_service() -> StaticFile:
    """Return the dashboard as it is served below ``/services``: it names the root relative to itself."""
    found = load()[PAGE]
    text = found.body.decode().replace("<html ", f'<html data-root="{_ROOT}" ', 1)
    text = _ADDRESSES.sub(rf"\g<0>{_ROOT}", text)
    return _file(text.encode(), found.content_type)


_ADDRESSES: Final = re.compile(r' (?:href|src)="(?=\.?[a-z/])')
"""Before each relative address of a page; not before a fragment."""


def add_routes(app: web.Application, several: Callable[[], bool] = lambda: False) -> None:
    """Add the routes of the dashboard; ``several`` tells whether there are several services now."""
    served = load()

    async def page(request: web.Request) -> web.Response:
        return _response(request, served[SERVICES if several() else PAGE])

    async def service(request: web.Request) -> web.Response:
        if not several():
            raise web.HTTPNotFound
        return _response(request, page_of_service())

    async def into_folder(request: web.Request) -> web.Response:
        # The page's addresses are relative to its folder.
        if not several():
            raise web.HTTPNotFound
        raise web.HTTPPermanentRedirect(f"{request.match_info['name']}/")

    async def overview(request: web.Request) -> web.Response:
        return _response(request, served[OVERVIEW])

    async def static(request: web.Request) -> web.Response:
        found = served.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return _response(request, found)

    app.router.add_get("/", page)
    app.router.add_get(f"/services/{_NAME}/", service)
    app.router.add_get(f"/services/{_NAME}", into_folder)
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
