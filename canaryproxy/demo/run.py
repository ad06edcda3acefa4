"""Runs the demo: its story, one release after the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from rich.live import Live

from canaryproxy.demo import measured, screen, summary
from canaryproxy.demo.processes import (
    Child,
    Command,
    DemoError,
    children,
    free_ports,
    temporary_folder,
)
from canaryproxy.demo.scene import Scene
from canaryproxy.demo.story import RAMP, STORY, Act
from canaryproxy.demo.users import Users

_USERS = 2000
_RATE = 400.0
"""Requests a second."""
_REFRESH_SECONDS = 0.25
_AFTERMATH_SECONDS = 1.5
"""How long an act goes on after its end, so that people can look at it; less at a higher speed."""
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo's processes are."""

    folder: Path
    proxy: int
    stable: int
    canary: int
    """The three are ports of 127.0.0.1."""

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def service(self, name: str, port: int) -> Command:
        """Return the command of a small service."""
        return Command(name, port, ("-m", "canaryproxy.demo.service", name, str(port)))

    def proxy_for(self, act: Act, speed: float) -> Command:
        """Write the configuration of a release; return the command of its proxy."""
        path = self.folder / f"{act.name}.json"
        path.write_text(self._configuration(act, speed))
        return Command("the proxy", self.proxy, ("-m", "canaryproxy", "run", "-c", str(path)))

    def _configuration(self, act: Act, speed: float) -> str:
        bake = f"{act.bake / speed * 1000:.0f}ms"
        steps = [{"weight": weight, "bake": bake, "min_requests": 3} for weight in RAMP[:-1]]
        empty = {
            "match": {"path": {"prefix": "/search"}},
            "when": {"json": {"pointer": "/results", "is": "empty"}},
            "bad": True,
        }
        return json.dumps(
            {
                "listen": f"127.0.0.1:{self.proxy}",
                "admin": {"socket": str(self.admin)},
                "variants": {
                    "stable": {"endpoints": [f"http://127.0.0.1:{self.stable}"]},
                    "canary": {"endpoints": [f"http://127.0.0.1:{self.canary}"]},
                },
                "release": {"id": f"demo-{act.name}", "steps": [*steps, {"weight": RAMP[-1]}]},
                "judge": {
                    "metrics": {"errors": {}, "latency": {}, "throughput": {}},
                    "outcomes": {"empty_search": empty},
                },
                # So that the users can tell a rescue from a change of sides.
                "rescue": {"header": True},
                "state": str(self.state),
            }
        )


def demo(*, as_json: bool, speed: float, seed: int) -> int:
    """Run the demo and return the exit status: 0, 1 if it cannot run, 130 if it was interrupted.

    ``as_json`` prints one JSON object (see ``summary``) instead of the screen; ``speed`` 2 bakes for half
    the time; ``seed`` chooses the users' moves.
    """
    try:
        return uvloop.run(_until_signal(_run(as_json=as_json, speed=speed, seed=seed)))
    except DemoError as error:
        print(f"canaryproxy demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the loop took the signal over
        return EXIT_INTERRUPTED


async def _until_signal(story: Coroutine[Any, Any, None]) -> int:
    """Run the story; SIGINT and SIGTERM cancel it, so that it can clean up."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(story)

    def interrupt() -> None:
        if not task.cancelling():  # a second Ctrl-C must not interrupt the cleaning up
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        await task
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    return 0


async def _run(*, as_json: bool, speed: float, seed: int) -> None:
    began = time.monotonic()
    console = Console(stderr=as_json)
    shown = not as_json and console.is_terminal
    scenes: list[Scene] = []
    with temporary_folder() as folder:
        place = Place(folder, *free_ports(3))
        users = Users(f"http://127.0.0.1:{place.proxy}", _USERS, _RATE, seed)
        async with children(folder, place.service("stable", place.stable)) as stable:
            with (
                Live(console=console, auto_refresh=False, transient=True)
                if shown
                else contextlib.nullcontext()
            ) as view:
                for act in STORY:
                    scenes.append(await _release(act, place, users, stable, view, speed))
                    if not as_json and not shown:
                        console.print(screen.plain(scenes[-1]), soft_wrap=True)
    if as_json:
        print(json.dumps(summary.document(scenes, seed, time.monotonic() - began)))
    else:
        summary.print_summary(console, scenes)


async def _release(
    act: Act, place: Place, users: Users, stable: list[Child], view: Live | None, speed: float
) -> Scene:
    """Run one release, with a proxy and a canary of its own; returns its last scene."""
    commands = (place.service("canary", place.canary), place.proxy_for(act, speed))
    async with children(place.folder, *commands) as own:
        users.begin_act()
        sending = asyncio.create_task(users.run())
        try:
            return await _Watch(act, place, users, [*stable, *own], own[0]).follow(view, speed)
        except (aiohttp.ClientError, OSError) as error:
            await asyncio.sleep(_REFRESH_SECONDS)  # what broke the connection may be a child's end
            for child in (*stable, *own):
                child.check()
            raise DemoError(f"the demo's processes cannot be reached: {error}") from None
        finally:
            sending.cancel()
            await asyncio.wait([sending])


class _Watch:
    """One release from its start to the moment at which people have seen its end."""

    def __init__(
        self, act: Act, place: Place, users: Users, everybody: list[Child], canary: Child
    ) -> None:
        self._act = act
        self._place = place
        self._users = users
        self._everybody = everybody
        self._canary = canary
        self._broken_at: float | None = None
        self._began = time.time()

    async def follow(self, view: Live | None, speed: float) -> Scene:
        """Look at the proxy until the release has ended; break the canary when it is time."""
        loop = asyncio.get_running_loop()
        act, users = self._act, self._users
        before = self._at_fault = await measured.scrape(self._place.admin)
        end = loop.time() + act.limit
        weight = 0.0
        while True:
            for child in self._everybody:
                child.check()
            now = await measured.scrape(self._place.admin)
            figures = measured.between(before, now)
            if figures.weight != weight:
                weight = figures.weight
                users.weight_changed()
            scene = self._scene(figures, now)
            if view is not None:
                view.update(screen.live(scene), refresh=True)
            if figures.state in ("tripped", "promoted"):
                end = min(end, loop.time() + _AFTERMATH_SECONDS / speed)
            if loop.time() >= end:
                return scene
            if act.fault != "none" and self._broken_at is None and weight * 100 >= act.breaks_at:
                self._at_fault = now
                await self._break()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _break(self) -> None:
        self._broken_at = time.time()
        if self._act.fault == "killed":
            self._canary.kill()
            return
        async with (
            aiohttp.ClientSession() as session,
            session.put(
                f"http://127.0.0.1:{self._place.canary}/switch", data=self._act.fault
            ) as response,
        ):
            response.raise_for_status()

    def _scene(self, figures: measured.Figures, now: measured.Series) -> Scene:
        broken_at = self._broken_at
        if broken_at is None:
            return Scene(self._act, figures, self._users.seen)
        age = time.time() - broken_at
        if figures.state != "tripped":
            return Scene(self._act, figures, self._users.seen, age)
        record = self._trip_record()
        return Scene(
            self._act,
            figures,
            self._users.seen,
            age,
            record["time"] - broken_at,
            measured.between(self._at_fault, now).variants[1].requests,
            record["cause"],
        )

    def _trip_record(self) -> dict[str, Any]:
        """Return the entry of the history that says when and why the circuit opened."""
        for record in json.loads(self._place.state.read_text())["state"]["history"]:
            if record["what"] == "tripped" and record["time"] >= self._began:
                return dict(record)
        return {"time": time.time(), "cause": "not written down yet"}
