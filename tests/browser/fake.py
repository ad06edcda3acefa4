"""The admin API as the dashboard sees it, on a real socket, driven by a test."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from canaryproxy.admin import dashboard
from canaryproxy.admin.guard import secure
from tests.browser.scenes import Scene, trip
from tests.judged import judged

TOKEN = "correct-horse-battery-staple"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Received:
    """A change that the page asked for."""

    method: str
    path: str
    if_match: str | None
    body: Any


@dataclass
class Problem:
    """What the next change is answered with."""

    status: int
    title: str
    detail: str


@dataclass
class FakeAdmin:
    """Serves a scene from a thread of its own; its methods are called by the test's thread."""

    scene: Scene
    received: list[Received] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """Answers of the next changes, first to last; without one, a change succeeds."""
    silent: bool = False
    """Connections stay open, and nothing comes."""
    down: bool = False
    """Everything is answered 503."""
    hang_up: bool = False
    """Changes are not answered: the connection is closed."""
    version: int = 1
    service: str | None = None
    """Name of the scene's service, if the proxy has several."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """All of them, as ``/v1/services`` lists them."""
    removed: bool = False
    """A reload has removed the scene's service."""

    def __enter__(self) -> FakeAdmin:
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def update(self, **changes: Any) -> None:
        """Change the document as something that happens does."""
        self._call(self._update(changes))

    def trip(self, **more: Any) -> None:
        """Open the circuit."""
        self._call(self._trip(more))

    def record(self, what: str, cause: str, **figures: Any) -> None:
        """Write a record."""
        self._call(self._record(what, cause, figures))

    def show(self, scene: Scene) -> None:
        """Serve another scene from now on."""
        self.scene = scene

    def cut(self) -> None:
        """Close the streams and be down."""
        self.down = True
        self._call(self._close_streams())

    def remove(self) -> None:
        """Have no such service from now on."""
        self.removed = True
        self._call(self._close_streams())

    @property
    def page(self) -> str:
        """The address of the service's page."""
        return self.url if self.service is None else f"{self.url}services/{self.service}/"

    @property
    def etag(self) -> str:
        """As it is sent, with quotes."""
        return f'"b3f2-{self.version}"'

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> str:
        app = web.Application(middlewares=[_headers, self._outage])
        dashboard.add_routes(app, lambda: self.service is not None)
        v1 = self._prefix
        app.router.add_get("/v1/services", self._services)
        app.router.add_get(f"{v1}/release", self._release)
        app.router.add_get(f"{v1}/acts", self._acts)
        app.router.add_get(f"{v1}/endpoints", self._endpoints)
        app.router.add_get(f"{v1}/routes", self._routes)
        app.router.add_get(f"{v1}/history", self._history)
        app.router.add_get(f"{v1}/series", self._series)
        app.router.add_get(f"{v1}/stream", self._stream)
        app.router.add_post(f"{v1}/release/{{action}}", self._change)
        app.router.add_put(f"{v1}/weight", self._change)
        app.router.add_get("/v1/config", self._config)
        app.router.add_post("/v1/reload", self._change)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._ticker = asyncio.create_task(self._tick())
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def _stop(self) -> None:
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        await self._close_streams()
        await self._runner.cleanup()

    async def _close_streams(self) -> None:
        for stream in self._streams:
            stream.put_nowait(None)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            scene = self.scene
            if scene.points and scene.points[-1]["canary"] is not None:
                point = scene.point(time.time(), scene.document["weight"])
                scene.points.append(point)
                self._send("point", point)
            scene.now()
            self._send("release", judged(scene.document))

    def _send(self, event: str, data: Any, number: int | None = None) -> None:
        if self.silent:
            return
        lines = f"event: {event}\ndata: {json.dumps(data, allow_nan=False)}\n"
        message = (lines + (f"id: {number}\n" if number else "") + "\n").encode()
        for stream in self._streams:
            stream.put_nowait(message)

    async def _update(self, changes: dict[str, Any]) -> None:
        self.version += 1
        self.scene.document.update(changes)
        self._send("release", judged(self.scene.document))

    async def _trip(self, more: dict[str, Any]) -> None:
        trip(self.scene, **more)
        for record in self.scene.records[-2:]:
            self._send("record", record, record["id"])
        await self._update({})

    async def _record(self, what: str, cause: str, figures: dict[str, Any]) -> None:
        record = self.scene.record(time.time(), what, cause, **figures)
        self._send("record", record, record["id"])

    @web.middleware
    async def _outage(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.down:
            return web.Response(status=503, text="down")
        if self.removed and request.path.startswith(f"{self._prefix}/"):
            return _problem(Problem(404, "Not Found", f"no service '{self.service}'; there is pay"))
        return await handler(request)

    @property
    def _prefix(self) -> str:
        return "/v1" if self.service is None else f"/v1/services/{self.service}"

    async def _services(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"services": self.rows, "environment": "production", "host": "edge-1",
             "version": "0.1.0", "problems": []}
        )  # fmt: skip

    async def _release(self, _request: web.Request) -> web.Response:
        return web.json_response(judged(self.scene.document), headers={"ETag": self.etag})

    async def _config(self, request: web.Request) -> web.Response:
        return web.json_response({}, headers={"ETag": self._config_etag(request)})

    def _config_etag(self, request: web.Request) -> str:
        return '"c1"' if _authorized(request) else '"c1-public"'

    async def _history(self, request: web.Request) -> web.Response:
        after, limit = int(request.query.get("after", -1)), int(request.query.get("limit", 100))
        records = [record for record in self.scene.records if record["id"] > after]
        records = records[-limit:] if after < 0 else records[:limit]
        return web.json_response(
            {"records": records, "history_id": self.scene.document["history_id"]}
        )

    async def _series(self, request: web.Request) -> web.Response:
        since = float(request.query.get("since", 0))
        return web.json_response({"points": [p for p in self.scene.points if p["t"] > since]})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.add(queue)
        try:
            document = json.dumps(judged(self.scene.document))
            await answer.write(f"event: release\ndata: {document}\n\n".encode())
            while (message := await queue.get()) is not None:
                await answer.write(message)
        except ConnectionError:
            pass  # the browser went away
        finally:
            self._streams.discard(queue)
        return answer

    async def _acts(self, _request: web.Request) -> web.Response:
        drill = "25% of users go to stable and come back once 40 tunnels and streams have left"
        start = "it begins with step 1 of 5: 1% of users move from stable to the canary (0% to 1%)"
        acts = [
            {"act": name, "moved": 1234, "says": [start if name == "start" else drill]}
            for name in self.scene.document["allowed"]
        ]
        return web.json_response({"acts": acts}, headers={"ETag": self.etag})

    async def _endpoints(self, _request: web.Request) -> web.Response:
        return web.json_response(self.scene.endpoints())

    async def _routes(self, _request: web.Request) -> web.Response:
        return web.json_response(self.scene.routes)

    async def _change(self, request: web.Request) -> web.Response:
        if self.hang_up:
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError
        if not _authorized(request):
            problem = Problem(401, "Unauthorized", "changes need the admin token")
            return _problem(problem, {"WWW-Authenticate": "Bearer"})
        body = await request.json() if request.can_read_body else None
        self.received.append(
            Received(request.method, request.path, request.headers.get("If-Match"), body)
        )
        if self.problems:
            return _problem(self.problems.pop(0))
        etag = self.etag if request.path != "/v1/reload" else self._config_etag(request)
        if request.headers.get("If-Match") not in (None, etag):
            return _problem(Problem(412, "Precondition Failed", "the release has changed"))
        await self._act(request.path.rpartition("/")[2], body or {})
        if request.path == "/v1/reload":
            return web.json_response(
                {"changed": ["limits.idle_timeout"], "restart_needed": ["listen"]}
            )
        if request.path.endswith("/release/drill"):
            figures = {
                "seconds_to_last_request": 0.013,
                "seconds_to_last_connection": 31.2,
                "connections": 40,
                "connections_left": 0,
                "weight": 25.0,
                "requests_after": 2,
            }
            return web.json_response({"drill": figures, "release": self.scene.document})
        return web.json_response(judged(self.scene.document), headers={"ETag": self.etag})

    async def _act(self, action: str, body: dict[str, Any]) -> None:
        by = f"by {body.get('by', 'operator')}"
        if action == "abort":
            await self._update({"state": "aborted", "weight": 0.0, "allowed": ["start"]})
            await self._record("aborted", by, {"weight": 0.0})
        elif action == "pause":
            await self._update(
                {"state": "paused", "allowed": ["resume", "abort"], "hold": f"paused {by}"}
            )
        elif action == "weight":
            await self._update({"state": "paused", "weight": float(body["weight"])})
        elif action == "accept":
            metric = body["metric"]
            await self._record("accepted", f"{metric} {by}: {body['reason']}", {"metric": metric})
            await self._update({"accepted": [*self.scene.document["accepted"], metric]})
        elif action == "trip":
            await self._trip({"cause": body.get("cause", by)})


def _authorized(request: web.Request) -> bool:
    return request.headers.get("Authorization") == f"Bearer {TOKEN}"


def _problem(problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    document = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    return web.Response(
        status=problem.status,
        text=json.dumps(document),
        content_type="application/problem+json",
        headers=headers,
    )


@web.middleware
async def _headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        secure(error, request.path)
        raise
    if not answer.prepared:
        secure(answer, request.path)
    return answer
