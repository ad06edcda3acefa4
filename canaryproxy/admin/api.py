"""The routes of ``/v1``: each calls ``ReleaseControl`` once and returns the result as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from pydantic import ConfigDict, TypeAdapter

from canaryproxy.admin import bodies, conditions, openapi, schemas
from canaryproxy.admin.guard import Guard
from canaryproxy.admin.interfaces import ReleaseControl
from canaryproxy.admin.overview import Overviewer
from canaryproxy.admin.problem import Problem
from canaryproxy.admin.responses import conditional, hashed, tagged
from canaryproxy.admin.stream import Hub
from canaryproxy.config import ConfigError
from canaryproxy.config.errors import dotted
from canaryproxy.config.json_text import encode
from canaryproxy.config.yaml_reader import MAX_BYTES
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.release_view import Act, Release
from canaryproxy.control.service import Stale, Unavailable, Unsaved
from canaryproxy.release import circuit, rollout
from canaryproxy.release.acts import EVENTS, Event, Operation

_WHO = TypeAdapter(bodies.Who)
_PUT_CONFIG = {
    "dry_run": bodies.flag,
    "by": bodies.line(bodies.Name),
    "reason": bodies.line(bodies.Text),
}
_DRY_RUN = {"dry_run": bodies.flag}
_WEIGHT = TypeAdapter(bodies.SetWeight)
_ACCEPT = TypeAdapter(bodies.Accept)
_ABORT = TypeAdapter(bodies.Abort)
_TRIP = TypeAdapter(bodies.Trip)
_DRILL = TypeAdapter(bodies.DrillBy)
_EVENTS: TypeAdapter[bodies.Events | list[bodies.Events]] = TypeAdapter(
    bodies.EventList, config=ConfigDict(defer_build=True)
)

_RECORDS = 100
_STALE = "the release has changed in the meantime; read it again"


class Api:
    """The API of one running proxy, for one kind of address."""

    def __init__(
        self, control: ReleaseControl, guard: Guard, hub: Hub, overviewer: Overviewer
    ) -> None:
        self._control = control
        self._guard = guard
        self._hub = hub
        self._overviewer = overviewer

    def add_routes(self, app: web.Application) -> None:
        """Add the routes of ``/v1``."""
        add = app.router.add_route
        app.router.add_get("/v1/release", self._get_release)
        app.router.add_get("/v1/acts", self._get_acts)
        add("PUT", "/v1/weight", self._put_weight)
        for name in openapi.OPERATIONS:
            add("POST", f"/v1/release/{name}", self._operation(name))
        add("POST", "/v1/release/abort", self._abort)
        add("POST", "/v1/release/accept", self._accept)
        add("POST", "/v1/release/trip", self._trip)
        add("POST", "/v1/release/drill", self._drill)
        add("POST", "/v1/events", self._post_events)
        app.router.add_get("/v1/endpoints", self._get_endpoints)
        app.router.add_get("/v1/routes", self._get_routes)
        app.router.add_get("/v1/overview", self._get_overview)
        app.router.add_get("/v1/history", self._get_history)
        app.router.add_get("/v1/series", self._get_series)
        app.router.add_get("/v1/stream", self._get_stream, allow_head=False)
        app.router.add_get("/v1/config", self._get_config)
        add("PUT", "/v1/config", self._put_config)
        add("POST", "/v1/reload", self._reload)
        app.router.add_get("/v1/openapi.json", self._get_openapi)

    # Reads

    async def _get_release(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        return conditional(request, self._control.etag, self._control.release_view)

    async def _get_acts(self, request: web.Request) -> web.Response:
        wanted = bodies.query(
            request,
            {
                "weight": bodies.weight,
                "metric": bodies.line(bodies.MetricName),
                "now": bodies.flag,
            },
        )

        def found() -> schemas.Acts:
            return schemas.Acts(acts=self._control.previews(**wanted))

        return conditional(request, self._control.etag, found)

    async def _get_endpoints(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        return hashed(request, self._control.endpoints())

    async def _get_routes(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        return hashed(request, self._control.routes())

    async def _get_overview(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        return hashed(request, await self._overviewer.look())

    async def _get_history(self, request: web.Request) -> web.Response:
        wanted = bodies.query(
            request, {"after": bodies.whole(0, bodies.MAX_ID), "limit": bodies.whole(1, 1000)}
        )
        records = self._control.history(wanted.get("after"), wanted.get("limit", _RECORDS))
        history = schemas.History(records=records, history_id=self._control.history_id)
        return hashed(request, history)

    async def _get_series(self, request: web.Request) -> web.Response:
        wanted = bodies.query(request, {"since": bodies.seconds})
        points = self._control.series(wanted.get("since", 0.0))
        return hashed(request, schemas.Series(points=points))

    async def _get_stream(self, request: web.Request) -> web.StreamResponse:
        bodies.query(request, {})
        return await self._hub.serve(request)

    async def _get_config(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        found = schemas.Config(**self._control.config())
        etag = self._control.config_etag
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

    # Changes

    async def _put_weight(self, request: web.Request) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _WEIGHT)
        event = rollout.SetWeight(body.weight, self._who(request, body))
        return await self._act(request, "weight", event, dry_run=dry_run)

    def _operation(self, name: Operation) -> Callable[[web.Request], Any]:
        event: Callable[[str], Event] = EVENTS[name]

        async def operate(request: web.Request) -> web.Response:
            dry_run = self._dry_run(request)
            body = await bodies.json_body(request, _WHO, optional=True)
            return await self._act(request, name, event(self._who(request, body)), dry_run=dry_run)

        return operate

    async def _abort(self, request: web.Request) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _ABORT, optional=True)
        event = rollout.Abort(self._who(request, body), body.now)
        return await self._act(request, "abort", event, dry_run=dry_run)

    async def _accept(self, request: web.Request) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _ACCEPT)
        metric = " ".join(body.metric.split())
        event = rollout.Accept(metric, self._who(request, body))
        return await self._act(request, "accept", event, dry_run=dry_run)

    async def _trip(self, request: web.Request) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _TRIP, optional=True)
        cause = f"manually by {self._who(request, body)}"
        return await self._act(request, "trip", circuit.Trip(cause), dry_run=dry_run)

    def _who(self, request: web.Request, body: bodies.By) -> str:
        """Return who makes a change and why, as the history shows it."""
        return bodies.who(body, self._guard.known(request))

    @staticmethod
    def _dry_run(request: web.Request) -> bool:
        return bool(bodies.query(request, _DRY_RUN).get("dry_run", False))

    async def _act(
        self, request: web.Request, name: Operation, event: Event, *, dry_run: bool
    ) -> web.Response:
        fits = conditions.allowed(request)
        if dry_run:
            return self._changed(self._control.preview(name, event))
        with self._refusals():
            await self._control.act(event, if_match=fits)
        return self._changed(self._control.release_view())

    async def _drill(self, request: web.Request) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _DRILL, optional=True)
        fits = conditions.allowed(request)
        if dry_run:
            return self._changed(self._control.preview("drill", None))
        with self._refusals():
            figures = await self._control.drill(self._who(request, body), if_match=fits)
        return self._changed(schemas.Drill(drill=figures, release=self._control.release_view()))

    def _changed(self, value: Release | schemas.Drill | Act) -> web.Response:
        return tagged(value, self._control.etag)

    async def _post_events(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        body = await bodies.json_body(request, _EVENTS)
        fits = conditions.allowed(request)
        with self._refusals():
            if fits is not None and not fits(self._control.etag):
                raise Stale(_STALE)
            events = body if isinstance(body, list) else [body]
            by_user = self._control.post_events(
                [PostedEvent(one.count, one.variant, one.key) for one in events]
            )
        accepted = schemas.Accepted(accepted=sum(one.count for one in events), by_user=by_user)
        return web.Response(
            body=encode(accepted),
            status=202,
            content_type="application/json",
        )

    # The configuration

    async def _put_config(self, request: web.Request) -> web.Response:
        wanted = bodies.query(request, _PUT_CONFIG)
        dry_run = wanted.pop("dry_run", False)
        text = await bodies.text_body(request, "application/yaml", MAX_BYTES)
        with self._refusals(of_config=True):
            change = await self._control.put_config(
                text,
                if_match=conditions.allowed(request),
                dry_run=dry_run,
                by=self._who(request, bodies.Who(**wanted)),
            )
        return tagged(schemas.Change(**change), self._control.config_etag)

    async def _reload(self, request: web.Request) -> web.Response:
        bodies.query(request, {})
        body = await bodies.json_body(request, _WHO, optional=True)
        fits = conditions.allowed(request)
        with self._refusals(of_config=True):
            if fits is not None and not fits(self._control.config_etag):
                raise Stale("the configuration has changed in the meantime; read it again")
            change = await self._control.reload(self._who(request, body))
        return tagged(schemas.Change(**change), self._control.config_etag)

    @contextmanager
    def _refusals(self, *, of_config: bool = False) -> Iterator[None]:
        """Turn the refusals of ``ReleaseControl`` into responses."""
        try:
            yield
        except rollout.Refused as error:
            raise Problem(409, str(error)) from None
        except Stale as error:
            now = self._control.config_etag if of_config else self._control.etag
            raise Problem(412, str(error), headers={"ETag": f'"{now}"'}) from None
        except Unavailable as error:
            raise Problem(503, str(error), headers={"Retry-After": "1"}) from None
        except Unsaved as error:
            raise Problem(507, str(error)) from None
        except ConfigError as error:
            raise _invalid_config(error) from None
        except OSError as error:
            if not of_config:
                raise
            raise Problem(409, f"cannot read or write the configuration file: {error}") from None


def _invalid_config(error: ConfigError) -> Problem:
    errors = [
        {
            "path": dotted(one.path),
            "line": one.line,
            "column": one.column,
            "message": one.message,
        }
        for one in error.problems
    ]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, f"{error.problems[0]}{more}", errors=errors)
