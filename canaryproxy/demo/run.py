"""Run the demo: start its processes, follow its releases, and clean up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from rich.live import Live

import canaryproxy
from canaryproxy.demo import measured, screen
from canaryproxy.demo.screen import Scene
from canaryproxy.demo.story import RAMP, STORY, Act
from canaryproxy.demo.users import Users

_USERS = 2000
_RATE = 400.0
"""Requests a second."""
_START_SECONDS = 15.0
_REFRESH_SECONDS = 0.25
_AFTERMATH_SECONDS = 1.5
"""Seconds for which the screen of a release stays after its end."""
EXIT_INTERRUPTED = 130


class DemoError(Exception):
    """The demo cannot run; ``str`` is the reason in one line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Ports and files of the demo's processes."""

    folder: Path
    proxy: int
    stable: int
    canary: int
    dashboard: int | None = None
    """Port of the dashboard, if it is served."""

    @property
    def configuration_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def token(self) -> Path:
        return self.folder / "token"

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def configuration(self, act: Act, speed: float) -> str:
        """Return the proxy's configuration for a release; ``speed`` divides the bake times."""
        steps = [
            {"weight": weight, "bake": f"{act.bake_at(weight) / speed:.3g}s", "min_requests": 3}
            for weight in RAMP[:-1]
        ]
        empty = {
            "match": {"path": {"prefix": "/search"}},
            "when": {"json": {"pointer": "/results", "is": "empty"}},
            "bad": True,
        }
        return json.dumps(
            {
                "listen": f"127.0.0.1:{self.proxy}",
                "admin": {"socket": str(self.admin), **self._dashboard()},
                "variants": {
                    "stable": {"endpoints": [f"http://127.0.0.1:{self.stable}"]},
                    "canary": {"endpoints": [f"http://127.0.0.1:{self.canary}"]},
                },
                "rescue": {"header": True},
                "release": {"id": f"demo-{act.name}", "steps": [*steps, {"weight": RAMP[-1]}]},
                "judge": {
                    "baseline": "1s",
                    "warmup": "0s",  # the canary has been up for a while
                    "min_users": 5,  # of the twenty that 1% moves; most come back within seconds
                    "metrics": {"errors": {}, "latency": {}, "throughput": {}},
                    "outcomes": {"empty_search": empty},
                },
                "state": str(self.state),
            }
        )

    def _dashboard(self) -> dict[str, str]:
        if self.dashboard is None:
            return {}
        return {"listen": f"127.0.0.1:{self.dashboard}", "token_file": str(self.token)}


def demo(*, as_json: bool, speed: float, seed: int, dashboard: int | None = None) -> int:
    """Run the demo and return the exit status.

    ``as_json`` prints one JSON object instead of the screen; ``speed`` 2 halves the bake times; ``seed`` is
    the random seed. With a ``dashboard`` port (0: any free one) the proxy serves its dashboard there, and the
    demo continues after the last release until Ctrl-C.
    """
    try:
        return uvloop.run(
            _until_signal(_run(as_json=as_json, speed=speed, seed=seed, dashboard=dashboard))
        )
    except DemoError as error:
        print(f"canaryproxy demo: {error}", file=sys.stderr)
        return 1


async def _until_signal(story: Any) -> int:
    """Run the story; SIGINT and SIGTERM cancel it, which lets it clean up."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(story)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    return 0


async def _run(*, as_json: bool, speed: float, seed: int, dashboard: int | None) -> None:
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="canaryproxy-demo-") as name:
        proxy, stable, canary, free = _free_ports(4)
        layout = Layout(Path(name), proxy, stable, canary, free if dashboard == 0 else dashboard)
        scenes: list[Scene] = []
        users = Users(f"http://127.0.0.1:{layout.proxy}", _USERS, _RATE, seed)
        shown = not as_json and console.is_terminal
        token = secrets.token_urlsafe(16)
        layout.token.write_text(token)
        layout.configuration_file.write_text(layout.configuration(STORY[0], speed))
        async with _children([*_services(layout), _proxy(layout)], layout) as children:
            if layout.dashboard is not None:
                screen.dashboard(console, layout.dashboard, token)
            with (
                Live(console=console, auto_refresh=False, transient=True)
                if shown
                else contextlib.nullcontext()
            ) as view:
                for act in STORY:
                    await _begin(act, layout, children[-1].pid, speed)
                    scenes.append(await _release(act, layout, users, view))
                    if not as_json and not shown:
                        console.print(screen.plain(scenes[-1]), soft_wrap=True)
            if as_json:
                print(json.dumps(_document(scenes, seed)), flush=True)
            else:
                screen.summary(console, scenes)
            if layout.dashboard is not None:
                screen.dashboard(console, layout.dashboard, token)
                await users.run()  # until Ctrl-C


async def _begin(act: Act, layout: Layout, proxy: int, speed: float) -> None:
    """Repair the canary and reload the proxy with the configuration of a release."""
    await _switch(layout, "none")
    layout.configuration_file.write_text(layout.configuration(act, speed))
    os.kill(proxy, signal.SIGHUP)
    loop = asyncio.get_running_loop()
    end = loop.time() + _START_SECONDS
    while measured.release_of(await measured.scrape(layout.admin)) != f"demo-{act.name}":
        if loop.time() > end:
            raise DemoError("the proxy did not load the next release")
        await asyncio.sleep(0.05)


async def _release(act: Act, layout: Layout, users: Users, view: Live | None) -> Scene:
    """Run one release under load and return its last scene."""
    users.begin_act()
    sending = asyncio.create_task(users.run())
    try:
        return await _watch(act, layout, users, view)
    finally:
        sending.cancel()
        await asyncio.wait([sending])


async def _watch(act: Act, layout: Layout, users: Users, view: Live | None) -> Scene:
    loop = asyncio.get_running_loop()
    before = at_fault = await measured.scrape(layout.admin)
    broken_at: float | None = None
    began = time.time()
    end = loop.time() + act.limit
    while True:
        now = await measured.scrape(layout.admin)
        figures = measured.between(before, now)
        age = None if broken_at is None else time.time() - broken_at
        scene = Scene(act, figures, users.seen, age)
        if figures.state == "tripped":
            record = _trip_record(layout, began)
            scene = replace(scene, cause=record["cause"])
            if broken_at is not None:
                scene = replace(
                    scene,
                    rolled_back_after=record["time"] - broken_at,
                    canary_requests=measured.between(at_fault, now).variants[1].requests,
                )
        if view is not None:
            view.update(screen.live(scene), refresh=True)
        if figures.state in ("tripped", "promoted") and end > loop.time() + _AFTERMATH_SECONDS:
            end = loop.time() + _AFTERMATH_SECONDS
        if loop.time() >= end:
            return scene
        if act.fault != "none" and broken_at is None and figures.weight * 100 >= act.breaks_at:
            at_fault = now
            await _switch(layout, act.fault)
            broken_at = time.time()
            end = max(end, loop.time() + act.limit)  # a slow machine comes to the fault late
        await asyncio.sleep(_REFRESH_SECONDS)


def _trip_record(layout: Layout, since: float) -> dict[str, Any]:
    """Return the record of the trip since a time, from the state file."""
    for record in json.loads(layout.state.read_text())["state"]["history"]:
        if record["what"] == "tripped" and record["time"] >= since:
            return dict(record)
    return {"time": time.time(), "cause": "not recorded yet"}


async def _switch(layout: Layout, fault: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"http://127.0.0.1:{layout.canary}/switch", data=fault) as response,
    ):
        await response.read()


def _proxy(layout: Layout) -> tuple[int, tuple[str, ...]]:
    return layout.proxy, ("-m", "canaryproxy", "run", "-c", str(layout.configuration_file))


def _services(layout: Layout) -> list[tuple[int, tuple[str, ...]]]:
    service = ("-m", "canaryproxy.demo.service")
    return [
        (layout.stable, (*service, "stable", str(layout.stable))),
        (layout.canary, (*service, "canary", str(layout.canary))),
    ]


@contextlib.asynccontextmanager
async def _children(
    commands: Sequence[tuple[int, tuple[str, ...]]], layout: Layout
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Run Python commands that listen on ports, and kill them at the end."""
    children: list[asyncio.subprocess.Process] = []
    try:
        for port, command in commands:
            with (layout.folder / f"{port}.log").open("ab") as log:
                children.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        *("-m", "canaryproxy.demo.child", str(os.getpid()), sys.executable),
                        *command,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C reaches the demo only, which ends them in order
                    )
                )
        for child, (port, _) in zip(children, commands, strict=True):
            await _ready(child, port, layout.folder / f"{port}.log")
        yield children
    finally:
        for child in children:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it has just exited
                    child.kill()
        for child in children:
            await child.wait()


async def _ready(child: asyncio.subprocess.Process, port: int, log: Path) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        if child.returncode is not None or loop.time() > end:
            raise DemoError(f"a process did not start: {_last_lines(log)}")
        await asyncio.sleep(0.05)


def _last_lines(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split("\n")[-4:]).strip() or "no output"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _document(scenes: list[Scene], seed: int) -> dict[str, Any]:
    return {
        "version": canaryproxy.__version__,
        "seed": seed,
        "sent": sum(scene.seen.sent for scene in scenes),
        "answered": sum(scene.seen.answered for scene in scenes),
        "releases": [
            {
                "name": scene.act.name,
                "title": scene.act.title,
                "meaning": scene.act.meaning,
                "ended_as": scene.figures.state,
                "rolled_back_after_seconds": scene.rolled_back_after,
                "canary_requests_until_rollback": scene.canary_requests,
                "cause": scene.cause,
                "stable": asdict(scene.figures.variants[0]),
                "canary": asdict(scene.figures.variants[1]),
                "rescued": scene.figures.rescued,
                "users": {
                    "sent": scene.seen.sent,
                    "answered": scene.seen.answered,
                    "errors": scene.seen.errors,
                    "slow": scene.seen.slow,
                    "empty": scene.seen.empty,
                    "back_and_forth": scene.seen.back_and_forth,
                },
            }
            for scene in scenes
        ],
    }
