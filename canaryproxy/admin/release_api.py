"""The routes of one service's release, below ``/v1`` and ``/v1/services/{name}``.

Each calls ``ReleaseControl`` once and returns the result as JSON.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from pydantic import ConfigDict, TypeAdapter

from canaryproxy.admin import bodies, conditions, openapi, schemas
from canaryproxy.admin.guard import Guard
from canaryproxy.admin.interfaces import ProxyControl, ReleaseControl
from canaryproxy.admin.refusals import refusals
from canaryproxy.admin.responses import conditional, hashed, tagged
from canaryproxy.admin.services import Found, Handler, is_removed, of_service
from canaryproxy.admin.stream import Hubs
from canaryproxy.config.json_text import encode
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.service import Stale
from canaryproxy.release import circuit, rollout
from canaryproxy.release.acts import EVENTS, Event, Operation

_WHO = TypeAdapter(bodies.Who)
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


class ReleaseApi:
    """The API of the releases of one running proxy, for one kind of address."""

    def __init__(self, proxy: ProxyControl, guard: Guard, hubs: Hubs) -> None:
        self._proxy = proxy
        self._guard = guard
        self._hubs = hubs

    def add_routes(self, app: web.Application) -> None:
        """Add the routes."""
        for prefix in ("/v1", openapi.PREFIX):
            for path, handler in self._reads().items():
                # a HEAD of the stream would not end
                with_head = path != "/stream"
                app.router.add_get(
                    prefix + path, of_service(self._proxy, handler), allow_head=with_head
                )
            for (method, path), handler in self._changes().items():
                app.router.add_route(method, prefix + path, of_service(self._proxy, handler))

    def _reads(self) -> dict[str, Handler]:
        return {
            "/release": self._get_release,
            "/acts": self._get_acts,
            "/endpoints": self._get_endpoints,
            "/routes": self._get_routes,
            "/history": self._get_history,
            "/series": self._get_series,
            "/stream": self._get_stream,
        }

    def _changes(self) -> dict[tuple[str, str], Handler]:
        simple = {
            ("POST", f"/release/{name}"): self._operation(name) for name in openapi.OPERATIONS
        }
        return {
            ("PUT", "/weight"): self._put_weight,
            **simple,
            ("POST", "/release/abort"): self._abort,
            ("POST", "/release/accept"): self._accept,
            ("POST", "/release/trip"): self._trip,
            ("POST", "/release/drill"): self._drill,
            ("POST", "/events"): self._post_events,
        }

    # Reads

    async def _get_release(self, request: web.Request, found: Found) -> web.Response:
        bodies.query(request, {})
        return conditional(request, found.control.etag, found.control.release_view)

    async def _get_acts(self, request: web.Request, found: Found) -> web.Response:
        wanted = bodies.query(
            request,
            {
                "weight": bodies.weight,
                "metric": bodies.line(bodies.MetricName),
                "now": bodies.flag,
            },
        )

        def acts() -> schemas.Acts:
            return schemas.Acts(acts=found.control.previews(**wanted))

        return conditional(request, found.control.etag, acts)

    async def _get_endpoints(self, request: web.Request, found: Found) -> web.Response:
        bodies.query(request, {})
        return hashed(request, found.control.endpoints())

    async def _get_routes(self, request: web.Request, found: Found) -> web.Response:
        bodies.query(request, {})
        return hashed(request, found.control.routes())

    async def _get_history(self, request: web.Request, found: Found) -> web.Response:
        wanted = bodies.query(
            request, {"after": bodies.whole(0, bodies.MAX_ID), "limit": bodies.whole(1, 1000)}
        )
        records = found.control.history(wanted.get("after"), wanted.get("limit", _RECORDS))
        history = schemas.History(records=records, history_id=found.control.history_id)
        return hashed(request, history)

    async def _get_series(self, request: web.Request, found: Found) -> web.Response:
        wanted = bodies.query(request, {"since": bodies.seconds})
        points = found.control.series(wanted.get("since", 0.0))
        return hashed(request, schemas.Series(points=points))

    async def _get_stream(self, request: web.Request, found: Found) -> web.StreamResponse:
        bodies.query(request, {})
        return await self._hubs.serve(
            request, found.name, found.control, lambda: is_removed(self._proxy, found)
        )

    # Changes

    async def _put_weight(self, request: web.Request, found: Found) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _WEIGHT)
        event = rollout.SetWeight(body.weight, self._who(request, body))
        return await self._act(request, found.control, "weight", event, dry_run=dry_run)

    def _operation(self, name: Operation) -> Handler:
        event: Callable[[str], Event] = EVENTS[name]

        async def operate(request: web.Request, found: Found) -> web.Response:
            dry_run = self._dry_run(request)
            body = await bodies.json_body(request, _WHO, optional=True)
            return await self._act(
                request, found.control, name, event(self._who(request, body)), dry_run=dry_run
            )

        return operate

    async def _abort(self, request: web.Request, found: Found) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _ABORT, optional=True)
        event = rollout.Abort(self._who(request, body), body.now)
        return await self._act(request, found.control, "abort", event, dry_run=dry_run)

    async def _accept(self, request: web.Request, found: Found) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _ACCEPT)
        metric = " ".join(body.metric.split())
        event = rollout.Accept(metric, self._who(request, body))
        return await self._act(request, found.control, "accept", event, dry_run=dry_run)

    async def _trip(self, request: web.Request, found: Found) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _TRIP, optional=True)
        cause = f"manually by {self._who(request, body)}"
        return await self._act(request, found.control, "trip", circuit.Trip(cause), dry_run=dry_run)

    def _who(self, request: web.Request, body: bodies.By) -> str:
        """Return who makes a change and why, as the history shows it."""
        return bodies.who(body, self._guard.known(request))

    @staticmethod
    def _dry_run(request: web.Request) -> bool:
        return bool(bodies.query(request, _DRY_RUN).get("dry_run", False))

    async def _act(
        self,
        request: web.Request,
        control: ReleaseControl,
        name: Operation,
        event: Event,
        *,
        dry_run: bool,
    ) -> web.Response:
        fits = conditions.allowed(request)
        if dry_run:
            return tagged(control.preview(name, event), control.etag)
        with refusals(lambda: control.etag):
            await control.act(event, if_match=fits)
        return tagged(control.release_view(), control.etag)

    async def _drill(self, request: web.Request, found: Found) -> web.Response:
        dry_run = self._dry_run(request)
        body = await bodies.json_body(request, _DRILL, optional=True)
        fits = conditions.allowed(request)
        control = found.control
        if dry_run:
            return tagged(control.preview("drill", None), control.etag)
        with refusals(lambda: control.etag):
            figures = await control.drill(self._who(request, body), if_match=fits)
        return tagged(schemas.Drill(drill=figures, release=control.release_view()), control.etag)

    async def _post_events(self, request: web.Request, found: Found) -> web.Response:
        bodies.query(request, {})
        body = await bodies.json_body(request, _EVENTS)
        fits = conditions.allowed(request)
        with refusals(lambda: found.control.etag):
            if fits is not None and not fits(found.control.etag):
                raise Stale(_STALE)
            events = body if isinstance(body, list) else [body]
            by_user = found.control.post_events(
                [PostedEvent(one.count, one.variant, one.key) for one in events]
            )
        accepted = schemas.Accepted(accepted=sum(one.count for one in events), by_user=by_user)
        return web.Response(
            body=encode(accepted),
            status=202,
            content_type="application/json",
        )
