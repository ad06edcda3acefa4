"""A stand-in for ``control.Control`` that counts what is done, and a client that sends bytes as they are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from canaryproxy.admin.app import AdminServer
from canaryproxy.admin.connection import BOUNDS, Bounds
from canaryproxy.admin.interfaces import Listener, Matches, ProxyControl, ReleaseControl
from canaryproxy.admin.stream import PACE, Pace
from canaryproxy.config import Admin, ConfigError, UnixAddress, parse
from canaryproxy.config.addresses import TcpAddress
from canaryproxy.control.brief_view import Brief, PlannedStep, Replica, attention, problems_of
from canaryproxy.control.endpoint_figures import Recent
from canaryproxy.control.endpoint_view import Endpoints, row
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.release_view import (
    Act,
    Circuit,
    ConfigStatus,
    Judgement,
    LongLived,
    Release,
    Step,
    Variants,
    variant,
)
from canaryproxy.control.release_view import act as view_of_act
from canaryproxy.control.route_figures import RouteCounts
from canaryproxy.control.route_figures import Routes as Found
from canaryproxy.control.route_view import Routes, routes
from canaryproxy.control.service import Stale, Unsaved
from canaryproxy.control.timeseries import Window
from canaryproxy.measure import endpoint_cells, histogram
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import EndpointCounts
from canaryproxy.proxy.listener import listen
from canaryproxy.release import acts, circuit, rollout
from canaryproxy.release.rollout import Plan

from ..control.world import reading

STABLE = reading("http://127.0.0.1:9001", in_flight=3)
CANARY = reading(
    "http://[::1]:9002",
    EndpointCounts(
        [
            {
                endpoint_cells.UNTIMED: 50,
                endpoint_cells.FAILED: 50,
                endpoint_cells.class_of(500): 48,
                endpoint_cells.ERRORS + Reason.RESET: 2,
            }.get(at, 0)
            for at in range(endpoint_cells.COUNTS)
        ]
    ),
    ejected_by=1,
)
ENDPOINTS = Endpoints(
    time=1790000010.0,
    endpoints=[
        row("stable", STABLE, Recent(60.0, STABLE.counts)),
        row("canary", CANARY, Recent(60.0, CANARY.counts)),
    ],
    at_fault=[],
)
"""The endpoints of ``RELEASE``."""
NOTHING = Window(0.0, 0.0, 0, 0, 0, (0,) * histogram.BUCKETS)
NO_TUNNELS = LongLived(tunnels=0, streams=0, leaving=0, until=None)
TOKEN = "correct horse".replace(" ", "-") + "-battery"
RELEASE = Release(
    release="r1",
    state="running",
    weight=5.0,
    cohorts=[],
    share="5% of users",
    compared=None,
    step=2,
    steps=[
        Step(weight=1.0, bake=300.0, min_requests=500, min_users=10),
        Step(weight=5.0, bake=600.0, min_requests=1000, min_users=10),
    ],
    promote="manual",
    since=1790000000.0,
    baked=12.5,
    requests=130,
    users=12,
    hold=None,
    holds=[],
    accepted=[],
    ready=True,
    gate=None,
    allowed=["resume", "pause"],
    circuit=Circuit(
        state="closed", cause=None, trips=0, since=0.0, cooldown_left=None, drill=False
    ),
    verdict=Judgement(kind="ok", said="the judge sees no regression"),
    level="ok",
    quiet=None,
    judged=130,
    answered=131,
    metrics=[],
    routes=0,
    placebo=None,
    unsaved=None,
    history_id=0,
    time=1790000010.0,
    fleet=None,
    variants=Variants(
        stable=variant(NOTHING, 0, 0, 3, NO_TUNNELS, [STABLE]),
        canary=variant(NOTHING, 0, 0, 0, NO_TUNNELS, [CANARY]),
    ),
    config=ConfigStatus(
        file="a.yaml",
        loaded_at=1790000001.5,
        error="a.yaml:1:1: listen: ...",
        restart_needed=["listen", "workers"],
    ),
    environment="staging",
    host="vm",
    version="1",
    pid=1,
    main_pid=1,
)
"""What a proxy in the middle of a release shows."""
TRAFFIC = {
    "rate": 1.0, "error_rate": None, "error_low": None, "error_high": None,
    "p50": None, "p95": None, "p95_low": None, "p95_high": None, "p99": None,
}  # fmt: skip
CONFIG = "variants: {stable: {endpoints: [http://127.0.0.1:9]}}\n"


class FakeControl:
    """Behaves as ``Control`` does; ``acts`` are all that changed something."""

    def __init__(self) -> None:
        self.revision = 1
        self.weight = 5.0
        self.acts: list[Any] = []
        self.counted = 0
        self.posted: list[PostedEvent] = []
        self.refusal: Exception | None = None
        self.records: list[dict[str, Any]] = []
        self.listeners: list[Listener] = []
        self.padding = ""
        self.asked = 0

    @property
    def etag(self) -> str:
        return f"b3f2-{self.revision}"

    @property
    def history_id(self) -> int:
        return len(self.records)

    def release_view(self) -> Release:
        self.asked += 1
        return RELEASE.model_copy(update={"weight": self.weight, "unsaved": self.padding})

    def brief(self) -> Brief:
        shown = self.release_view()
        fleet = None if shown.fleet is None else shown.fleet.model_dump()
        problems = problems_of(shown.unsaved or None, fleet)
        kind, opened = shown.verdict.kind, shown.state == "tripped"
        return Brief(
            attention=attention(shown.state, kind, ready=shown.ready, problems=problems),
            release=shown.release,
            state=shown.state,
            since=shown.circuit.since if opened else shown.since,
            step=shown.step,
            steps=len(shown.steps),
            weight=shown.weight,
            cohorts=shown.cohorts,
            share=shown.share,
            ready=shown.ready,
            circuit=shown.circuit.state,
            verdict=kind,
            said=shown.verdict.said,
            problems=problems,
            fleet=None
            if fleet is None
            else Replica(**{one: fleet[one] for one in Replica.model_fields}),
            plan=[PlannedStep(weight=one.weight, bake=one.bake) for one in shown.steps],
        )

    def endpoints(self) -> Endpoints:
        return ENDPOINTS

    def routes(self) -> Routes:
        counts = RouteCounts()
        counts.requests, counts.failed, counts.classes[4] = 4, 1, 1
        found = Found(60.0, 1.0, [("GET /cart/*", counts, RouteCounts())])
        return routes(1790000010.0, found, None)

    def record(self, what: str) -> None:
        record = {
            "id": len(self.records) + 1,
            "time": 1.0,
            "what": what,
            "cause": "",
            "figures": {},
        }
        self.records.append(record)
        for listener in tuple(self.listeners):
            listener("record", record)

    def point(self, **values: Any) -> None:
        for listener in tuple(self.listeners):
            listener("point", values)

    def history(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        if after is None:
            return self.records[-limit:]
        return [record for record in self.records if record["id"] > after][:limit]

    def series(self, since: float) -> list[dict[str, Any]]:
        point: dict[str, Any] = {"weight": 5.0, "share": None, "evidence": {}}
        both = {"stable": TRAFFIC, "canary": TRAFFIC}
        return [{"t": t, **point, **both} for t in (1.0, 2.0, 3.0) if t > since]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def _may(self, if_match: Matches | None, etag: str) -> None:
        if if_match is not None and not if_match(etag):
            raise Stale("it has changed")
        if self.refusal is not None:
            raise self.refusal

    async def act(
        self,
        event: rollout.Event | circuit.Trip | circuit.Reset,
        *,
        if_match: Matches | None = None,
    ) -> None:
        here = rollout.Rollout(rollout.State.RUNNING, weight=self.weight)
        asks = acts.needs_precondition(event, here, self.weight)
        self._may(if_match if asks else None, self.etag)
        self.acts.append(event)
        self.revision += 1
        if isinstance(event, rollout.SetWeight):
            self.weight = event.weight
        self.record(type(event).__name__.lower())

    def preview(self, act: acts.Operation, event: acts.Event | None) -> Act:
        plan = Plan((rollout.Step(1.0), rollout.Step(5.0)))
        running = rollout.Rollout(rollout.State.RUNNING, 1, self.weight)
        closed, settings = circuit.Circuit(), circuit.CircuitSettings()
        here = acts.Here("r1", closed, running, plan, settings, self.weight, 1.0)
        return view_of_act(acts.preview(act, event, here))

    def previews(self, weight: float | None = None, metric: str = "") -> list[Act]:
        accepted = self.preview("accept", rollout.Accept(metric))
        return [self.preview("weight", rollout.SetWeight(weight or 5.0)), accepted]

    async def drill(self, by: str, *, if_match: Matches | None = None) -> dict[str, Any]:
        self._may(if_match, self.etag)
        self.acts.append(by)
        self.revision += 1
        return {
            "seconds_to_last_request": 0.01,
            "weight": 5.0,
            "requests_after": 0,
            "seconds_to_last_connection": None,
            "connections": 0,
            "connections_left": 0,
            "in_flight": 0,
        }

    def post_events(self, events: Sequence[PostedEvent]) -> int:
        self._may(None, "")
        self.counted += sum(one.count for one in events)
        self.posted += events
        return sum(one.count for one in events if one.key is not None)


@dataclass
class FakeService:
    """A service of a ``FakeProxy``."""

    control: FakeControl
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


class FakeProxy:
    """Behaves as ``ProcessControl`` does; without services it has the one of the single form."""

    def __init__(self, control: FakeControl | None = None, **services: FakeService) -> None:
        only = {} if services else {"default": FakeService(control or FakeControl())}
        self.services: dict[str, FakeService] = services or only
        self.acts: list[Any] = next(iter(self.services.values())).control.acts
        self.ready = True
        self.host = "vm"
        self.environment: str | None = "staging"
        self.problems: list[str] = []
        self.refusal: Exception | None = None
        self.text = CONFIG

    @property
    def config_etag(self) -> str:
        return f"c-{abs(hash(self.text))}"

    def config(self) -> dict[str, Any]:
        return {
            "file": "/etc/canaryproxy.yaml",
            "text": self.text,
            "effective": {},
            "restart_needed": [],
            "error": None,
        }

    async def reload(self, by: str | None = None) -> dict[str, Any]:
        self._may(None)
        self.acts.append(f"reload by {by}")
        return {"changed": [], "restart_needed": []}

    async def put_config(
        self,
        text: str,
        *,
        if_match: Matches | None = None,
        dry_run: bool = False,
        by: str | None = None,
    ) -> dict[str, Any]:
        self._may(if_match)
        parse(text, file="canaryproxy.yaml")
        if not dry_run:
            self.acts += [text, f"put by {by}"]
            self.text = text
        return {"changed": ["limits.idle_timeout"], "restart_needed": []}

    def _may(self, if_match: Matches | None) -> None:
        if if_match is not None and not if_match(self.config_etag):
            raise Stale("it has changed")
        if self.refusal is not None:
            raise self.refusal


_IS_A_CONTROL: type[ReleaseControl] = FakeControl
_IS_A_PROXY: type[ProxyControl] = FakeProxy


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    count: dict[str, int] = field(default_factory=dict)
    """How often each field is there."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks admin addresses, byte by byte."""

    unix: str
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list, kw_only=True)

    async def connect(self, over: str = "tcp") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the address; ``serve`` closes it at the end at the latest."""
        if over == "unix":
            reader, writer = await asyncio.open_unix_connection(self.unix)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def raw(self, data: bytes, over: str = "tcp") -> list[Answer]:
        """Send bytes and return all answers until the server closes."""
        reader, writer = await self.connect(over)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(60):
                return answers(await reader.read())
        finally:
            writer.close()

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | str | None = None,
        *,
        over: str = "unix",
        host: str = "localhost",
        **headers: str,
    ) -> Answer:
        """Ask once; header names with underscores for dashes."""
        raw = body.encode() if isinstance(body, str) else body
        fields = {"Host": host, "Connection": "close"}
        if raw is not None:
            fields["Content-Length"] = str(len(raw))
            fields["Content-Type"] = "application/json"
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in fields.items()
        )
        found = await self.raw(head.encode() + b"\r\n" + (raw or b""), over)
        assert found, "no answer"
        answer = found[-1]
        if method == "HEAD":
            assert answer.body == b""
        return answer


@dataclass
class Served(Client):
    """A running admin server."""

    proxy: FakeProxy
    server: AdminServer

    @property
    def control(self) -> FakeControl:
        """The first of its services."""
        return next(iter(self.proxy.services.values())).control


def answers(data: bytes) -> list[Answer]:
    """Return the answers in a stream of bytes (``Content-Length`` only)."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        status = int(line.split()[1])
        pairs = [one.split(": ", 1) for one in lines]
        count: dict[str, int] = {}
        for name, _ in pairs:
            count[name.lower()] = count.get(name.lower(), 0) + 1
        headers = {name.lower(): value for name, value in pairs}
        length = 0 if status in (100, 304) else int(headers.get("content-length", "0"))
        body, data = data[:length], data[length:]
        if status != 100:
            found.append(Answer(status, headers, body, count))
    return found


@asynccontextmanager
async def serve(
    folder: Path,
    *,
    control: FakeControl | FakeProxy | None = None,
    token: str | None = TOKEN,
    hosts: tuple[str, ...] = (),
    bounds: Bounds = BOUNDS,
    pace: Pace = PACE,
    **admin: Any,
) -> AsyncIterator[Served]:
    """Serve on a Unix socket in ``folder`` and on a port of the loopback address."""
    if token is not None and "token_env" not in admin:
        file = folder / "token"
        file.write_text(token + "\n")
        admin["token_file"] = str(file)
    proxy = control if isinstance(control, FakeProxy) else FakeProxy(control)
    registry = CollectorRegistry()
    server = AdminServer(registry, proxy, Admin(hosts=hosts, **admin), bounds=bounds, pace=pace)
    path = str(folder / "admin.sock")
    unix = listen(UnixAddress(path), mode=0o600)
    tcp = listen(TcpAddress("127.0.0.1", 0))
    await server.start([unix], [tcp])
    served = Served(path, port_of(tcp), proxy, server)
    try:
        yield served
    finally:
        await server.stop()
        for writer in served.writers:
            writer.transport.abort()


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


async def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait for a condition."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


__all__ = [
    "CONFIG",
    "TOKEN",
    "ConfigError",
    "FakeControl",
    "FakeProxy",
    "FakeService",
    "Served",
    "Unsaved",
    "answers",
    "serve",
    "until",
]
