"""A small admin server on a Unix socket: it answers what the test tells it, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, chdir
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from aiohttp import web
from click.testing import CliRunner

from canaryproxy import API_HEADER, API_VERSION
from canaryproxy.cli import main
from canaryproxy.control.release_view import act as view_of_act
from canaryproxy.release import acts, rollout
from canaryproxy.release.circuit import Circuit, CircuitSettings, Reset, Trip
from canaryproxy.release.circuit import State as CircuitState
from tests.judged import judged

ROOT = Path(__file__).parent.parent.parent
DEADLINE = 60.0
ALL = ["start", "pause", "resume", "promote", "abort", "reset", "weight", "accept", "trip", "drill"]


def document(**changed: Any) -> dict[str, Any]:
    """Return a release document."""
    now = time.time()
    verdict = {
        "level": "ok", "evidence": 0.8, "log_evidence": -0.22, "limit": 8.0, "hold_limit": 4.1,
        "log_proof": 1.2, "proven": False, "comparable": True, "difference": 0.0009, "ratio": 1.18,
        "stable": {"trials": 9800, "events": 49}, "canary": {"trials": 510, "events": 3},
        "interval": [0.6, 1.4], "reason": "errors: nothing",
    }  # fmt: skip
    side = {
        "requests": 123456, "failed": 120, "shed": 0, "in_flight": 3, "rate": 195.2, "error_rate": 0.005,
        "p50": 0.012, "p95": 0.05, "p99": 0.09,
        "long_lived": {"tunnels": 0, "streams": 0, "leaving": 0, "until": None},
        "endpoints": [{"url": "http://127.0.0.1:9001", "usable": True, "in_flight": 3}],
    }  # fmt: skip
    made = {
        "release": "cart-2.4",
        "state": "running",
        "weight": 5.0,
        "step": 2,
        "steps": [
            {"weight": weight, "bake": 300.0, "min_requests": 1000}
            for weight in (1.0, 5.0, 25.0, 50.0, 100.0)
        ],
        "promote": "bake",
        "since": now - 190,
        "baked": 12.3,
        "requests": 130,
        "hold": "130 of 1000 requests",
        "ready": False,
        "gate": None,
        "allowed": ALL,
        "circuit": {
            "state": "closed", "cause": None, "trips": 0, "since": now - 500, "cooldown_left": None,
            "drill": False,
        },
        "level": "ok",
        "quiet": None,
        "judged": 512,
        "answered": 530,
        "metrics": [
            {"metric": "errors", **verdict},
            {"metric": "latency", **verdict, "interval": [1.1, None]},
            {"metric": "throughput", **verdict, "interval": [None, 2.5]},
            {"metric": "client_errors", **verdict, "limit": None, "interval": [None, None]},
        ],
        "variants": {"stable": side, "canary": dict(side)},
        "config": {"file": "/etc/c.yaml", "loaded_at": now, "error": None, "restart_needed": []},
        "unsaved": None,
        "history_id": 0,
        "version": "0.1.0",
        "time": now,
        **changed,
    }  # fmt: skip
    return judged(made) if "verdict" not in changed else made


_CLOSED = {**document()["circuit"]}
EFFECTS: dict[str, dict[str, Any]] = {
    "start": {"state": "running", "step": 1, "weight": 1.0},
    "pause": {"state": "paused"},
    "resume": {"state": "running"},
    "promote": {"state": "promoted", "weight": 100.0},
    "abort": {"state": "aborted", "weight": 0.0},
    "reset": {"state": "running", "circuit": _CLOSED},
    "trip": {"state": "tripped", "weight": 0.0, "circuit": {**_CLOSED, "state": "open"}},
}
"""What each operation makes of the document."""


def previews(document: dict[str, Any], weight: float | None, metric: str) -> list[dict[str, Any]]:
    """Return what acts would do to the release of a document, as the real proxy says it."""
    steps = tuple(rollout.Step(one["weight"]) for one in document["steps"])
    state, now = rollout.State(document["state"]), document["time"]
    broken = document["circuit"]
    found = Circuit(
        CircuitState(broken["state"]), broken["trips"], broken["since"], broken["cause"]
    )
    here = rollout.Rollout(
        state,
        max(document["step"] - 1, 0),
        document["weight"],
        hold=document["hold"],
        ready=document["ready"],
        before=rollout.State.RUNNING,
        weight_before=steps[document["step"] - 1].weight if steps else 0.0,
    )
    plan, settings = rollout.Plan(steps), CircuitSettings()
    at = acts.Here(document["release"], found, here, plan, settings, here.weight, now, None, 200)
    events: dict[acts.Operation, acts.Event | None] = {
        "start": rollout.Start(), "pause": rollout.Pause(), "resume": rollout.Resume(),
        "promote": rollout.Promote(), "abort": rollout.Abort(), "reset": Reset(), "trip": Trip(""),
        "weight": rollout.SetWeight(document["weight"] if weight is None else weight),
        "accept": rollout.Accept(metric), "drill": None,
    }  # fmt: skip
    return [
        view_of_act(acts.preview(name, event, at)).model_dump(mode="json")
        for name, event in events.items()
    ]


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Fake:
    """The server; ``refusal`` is the answer to every change.

    Unless it ``obeys``, it says yes and does nothing; ``silent`` lets it close the connection in place of
    an answer to a change. ``headers`` are those by which it is known.
    """

    path: Path
    obeys: bool = True
    silent: bool = False
    headers: dict[str, str] = field(default_factory=lambda: {API_HEADER: API_VERSION})
    document: dict[str, Any] = field(default_factory=document)
    records: list[dict[str, Any]] = field(default_factory=list)
    refusal: tuple[int, dict[str, Any]] | None = None
    on_refusal: Callable[[], None] = lambda: None
    """Is called when a change is refused."""
    streams: bool = True
    requests: list[Request] = field(default_factory=list)
    queues: list[asyncio.Queue[bytes | None]] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    @property
    def changes(self) -> list[Request]:
        """Return the requests that are not GET."""
        return [one for one in self.requests if one.method != "GET"]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/stream", self._stream)
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.on_response_prepare.append(self._sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.path)).start()

    async def stop(self) -> None:
        for queue in self.queues:
            queue.put_nowait(None)
        assert self._runner is not None
        await self._runner.cleanup()
        self._runner = None
        self.path.unlink(missing_ok=True)

    def change(self, **changed: Any) -> None:
        """Change the document and tell the streams."""
        self.document = {**self.document, **changed, "history_id": len(self.records)}
        judged(self.document)
        self._put("release", self.document)

    def record(self, what: str, cause: str = "", **figures: Any) -> None:
        """Let something happen."""
        number = len(self.records) + 1
        entry = {
            "id": number,
            "time": time.time(),
            "what": what,
            "cause": cause,
            "figures": figures,
        }
        self.records.append(entry)
        self.document = {**self.document, "history_id": number}
        self._put("record", entry)

    def _put(self, event: str, value: Any) -> None:
        for queue in self.queues:
            queue.put_nowait(f"event: {event}\ndata: {json.dumps(value)}\n\n".encode())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(Request("GET", "/v1/stream", dict(request.headers), None))
        if not self.streams:
            return _problem(503, {"detail": "50 streams are open already"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if (last := request.headers.get("Last-Event-ID")) is not None:
            for entry in self.records[int(last) :]:
                queue.put_nowait(f"event: record\ndata: {json.dumps(entry)}\n\n".encode())
        queue.put_nowait(f"event: release\ndata: {json.dumps(self.document)}\n\n".encode())
        self.queues.append(queue)
        try:
            while (event := await queue.get()) is not None:
                await response.write(event)
        except ConnectionError:
            pass  # the client is gone, as streams end
        finally:
            self.queues.remove(queue)
        return response

    async def _sign(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self.headers)

    async def _answer(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body: Any = json.loads(raw) if raw else None
        self.requests.append(Request(request.method, request.path, dict(request.headers), body))
        if request.method != "GET" and self.refusal is not None:
            self.on_refusal()
            return _problem(*self.refusal)
        etag = {"ETag": f'"b3f2-{len(self.changes)}"'}
        if request.method != "GET" and self.silent:
            assert request.transport is not None
            request.transport.abort()
        name = request.path.rpartition("/")[2]
        if self.obeys and request.method != "GET" and name in EFFECTS:
            self.document = {**self.document, **EFFECTS[name]}
        if request.path == "/v1/history":
            after = int(request.query.get("after", 0))
            records = [one for one in self.records if one["id"] > after]
            limit = int(request.query["limit"])
            chosen = records[:limit] if "after" in request.query else records[-limit:]
            return web.json_response({"records": chosen, "history_id": len(self.records)})
        if request.path == "/v1/acts":
            weight, metric = request.query.get("weight"), request.query.get("metric", "")
            wanted = None if weight is None else float(weight)
            known = self.document.get("state") in [state.value for state in rollout.State]
            found = previews(self.document, wanted, metric) if known else None
            return web.json_response({"acts": found}, headers=etag)
        if request.path == "/v1/config":
            return web.json_response({"file": "/etc/c.yaml"}, headers={"ETag": '"c-1"'})
        if request.path == "/v1/reload":
            return web.json_response(
                {"changed": ["limits.idle_timeout"], "restart_needed": ["listen"]}
            )
        if request.path == "/v1/release/drill":
            figures = {
                "seconds_to_last_request": 0.013, "weight": 5.0, "requests_after": 2,
            }  # fmt: skip
            return web.json_response({"drill": figures, "release": self.document})
        if request.path == "/v1/weight" and self.obeys:
            self.document = {**self.document, "weight": body["weight"], "state": "paused"}
        return web.json_response(self.document, headers=etag)


def _problem(status: int, extra: dict[str, Any]) -> web.Response:
    return web.json_response(
        {"type": "about:blank", "title": "?", "status": status, **extra},
        status=status,
        content_type="application/problem+json",
    )


@asynccontextmanager
async def serve(path: Path) -> AsyncIterator[Fake]:
    """Serve until the block ends."""
    fake = Fake(path)
    await fake.start()
    try:
        yield fake
    finally:
        if fake._runner is not None:
            await fake.stop()


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Return what commands see: UTF-8, no colours, and nothing of canaryproxy's own."""
    kept = {name: value for name, value in os.environ.items() if "CANARYPROXY" not in name}
    for name in ("LC_ALL", "LC_CTYPE", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "TERM": "xterm-256color", **more}


async def spawn(*arguments: str, folder: Path, **variables: str) -> asyncio.subprocess.Process:
    """Begin a command in a folder."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "canaryproxy", *arguments,
        cwd=folder, env=environment(**variables),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def finished(process: asyncio.subprocess.Process) -> Done:
    """Return how a command ends."""
    try:
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def command(*arguments: str, folder: Path, **variables: str) -> Done:
    """Run a command to its end: in a thread of this process, at a small part of the cost of a start.

    What decides about the encoding of a terminal is read at a start, so it needs a process of its own.
    """
    if variables.keys() & _AT_THE_START:
        return await finished(await spawn(*arguments, folder=folder, **variables))
    async with asyncio.timeout(DEADLINE):
        return await asyncio.to_thread(_run, arguments, folder, environment(**variables))


_AT_THE_START = frozenset({"LANG", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING"})
_here = Lock()
"""The folder, the environment and the standard streams of this process."""


def _run(arguments: Sequence[str], folder: Path, variables: dict[str, str]) -> Done:
    changed: dict[str, str | None] = {
        **dict.fromkeys(os.environ.keys() - variables.keys()),
        **variables,
    }
    with _here, chdir(folder):
        found = CliRunner(env=changed).invoke(main, list(arguments), prog_name="canaryproxy")
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return Done(found.exit_code, found.stdout, found.stderr)


async def line(process: asyncio.subprocess.Process, part: str) -> str:
    """Return the next line of output that has ``part``."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        while True:
            found = (await process.stdout.readline()).decode()
            assert found, f"the command ended before {part!r}"
            if part in found:
                return found


async def until_followed(fake: Fake) -> None:
    """Wait until a stream is open."""
    async with asyncio.timeout(DEADLINE):
        while not fake.queues:  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)
