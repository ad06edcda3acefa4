"""The routes of ``/v1`` that concern the whole proxy: services, overview, configuration and description."""

from __future__ import annotations

import asyncio

from aiohttp import web
from pydantic import TypeAdapter

from canaryproxy.admin import bodies, conditions, openapi, schemas
from canaryproxy.admin.guard import Guard
from canaryproxy.admin.interfaces import ProxyControl
from canaryproxy.admin.overview import Overviewer
from canaryproxy.admin.refusals import refusals
from canaryproxy.admin.responses import conditional, hashed, tagged
from canaryproxy.admin.services import find, listing, row
from canaryproxy.config.yaml_reader import MAX_BYTES
from canaryproxy.control.service import Stale

_WHO = TypeAdapter(bodies.Who)
_PUT_CONFIG = {
    "dry_run": bodies.flag,
    "by": bodies.line(bodies.Name),
    "reason": bodies.line(bodies.Text),
}


class Api:
    """The API of one running proxy, for one kind of address; ``ReleaseApi`` is that of its services."""

    def __init__(self, proxy: ProxyControl, guard: Guard, overviewer: Overviewer) -> None:
        self._proxy = proxy
        self._guard = guard
        self._overviewer = overviewer

    def add_routes(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/services", self._get_services)
        app.router.add_get(openapi.PREFIX, self._get_service)
        app.router.add_get("/v1/overview", self._get_overview)
        app.router.add_get("/v1/config", self._get_config)
        app.router.add_route("PUT", "/v1/config", self._put_config)
        app.router.add_route("POST", "/v1/reload", self._reload)
        app.router.add_get("/v1/openapi.json", self._get_openapi)

    async def _get_services(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        return hashed(request, listing(self._proxy))

    async def _get_service(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        name = find(self._proxy, request).name
        return hashed(request, row(name, self._proxy.services[name]))

    async def _get_overview(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        return hashed(request, await self._overviewer.look())

    async def _get_config(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        found = schemas.Config(**self._proxy.config())
        etag = self._proxy.config_etag
        if not self._guard.may_change(request):
            found = found.model_copy(update={"text": None})  # it may hold secrets
            etag += "-public"
        response = conditional(request, etag, lambda: found)
        response.headers["Vary"] = "Authorization"
        return response

    async def _get_openapi(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        # Built by the first request, which takes too long for an event loop that serves users too.
        return hashed(request, await asyncio.to_thread(openapi.description))

    # The configuration

    async def _put_config(self, request: web.Request) -> web.Response:
        wanted = bodies.query(request, _PUT_CONFIG)
        dry_run = wanted.pop("dry_run", False)
        text = await bodies.text_body(request, "application/yaml", MAX_BYTES)
        with refusals(lambda: self._proxy.config_etag, of_config=True):
            change = await self._proxy.put_config(
                text,
                if_match=conditions.allowed(request),
                dry_run=dry_run,
                by=bodies.who(bodies.Who(**wanted), self._guard.known(request)),
            )
        return tagged(schemas.Change(**change), self._proxy.config_etag)

    async def _reload(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        body = await bodies.json_body(request, _WHO, optional=True)
        fits = conditions.allowed(request)
        with refusals(lambda: self._proxy.config_etag, of_config=True):
            if fits is not None and not fits(self._proxy.config_etag):
                raise Stale("the configuration has changed in the meantime; read it again")
            change = await self._proxy.reload(bodies.who(body, self._guard.known(request)))
        return tagged(schemas.Change(**change), self._proxy.config_etag)
