"""Runs the demo: its processes, its story, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from rich.live import Live

import canaryproxy
from canaryproxy.demo import measured, screen
from canaryproxy.demo.screen import Scene
from canaryproxy.demo.story import STORY, Phase
from canaryproxy.demo.users import Seen, Users

_USERS = 300
_RATE = 250.0
"""Requests a second."""
_WEIGHT = 10
_START_SECONDS = 15.0
_REFRESH_SECONDS = 0.5
EXIT_INTERRUPTED = 130


class DemoError(Exception):
    """The demo cannot run; the text says why in a line."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo's processes are."""

    folder: Path
    proxy: int
    stable: int
    canary: int

    @property
    def admin(self) -> Path:
        return self.folder / "admin.sock"

    def configuration(self) -> str:
        """Return the proxy's configuration."""
        return json.dumps(
            {
                "listen": f"127.0.0.1:{self.proxy}",
                "admin": {"socket": str(self.admin)},
                "variants": {
                    "stable": {"endpoints": [f"http://127.0.0.1:{self.stable}"]},
                    "canary": {"endpoints": [f"http://127.0.0.1:{self.canary}"]},
                },
                "split": {"weight": _WEIGHT},
                "rescue": {"header": True},
                "state": str(self.folder / "state.json"),
            }
        )


def demo(*, as_json: bool, speed: float, seed: int) -> int:
    """Run the demo and return the exit status.

    ``as_json`` prints one JSON object instead of the screen; ``speed`` 2 takes half the time;
    ``seed`` chooses the users.
    """
    try:
        return uvloop.run(_until_signal(_run(as_json=as_json, speed=speed, seed=seed)))
    except DemoError as error:
        print(f"canaryproxy demo: {error}", file=sys.stderr)
        return 1


async def _until_signal(story: Any) -> int:
    """Run the story; SIGINT and SIGTERM cancel it, so that it can clean up."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(story)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    return 0


async def _run(*, as_json: bool, speed: float, seed: int) -> None:
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="canaryproxy-demo-") as name:
        ports = _free_ports(3)
        place = Place(Path(name), *ports)
        async with _processes(place) as kill_canary:
            users = Users(f"http://127.0.0.1:{place.proxy}/", _USERS, _RATE, seed)
            sending = asyncio.create_task(users.run())
            try:
                scenes = await _play(place, users, kill_canary, console, speed, live=not as_json)
            finally:
                sending.cancel()
                await asyncio.wait([sending])
    if as_json:
        print(json.dumps(_document(scenes, users.everything, seed)))
    else:
        screen.summary(console, scenes, users.everything)


async def _play(
    place: Place,
    users: Users,
    kill_canary: Callable[[], None],
    console: Console,
    speed: float,
    *,
    live: bool,
) -> list[Scene]:
    scenes: list[Scene] = []
    total = sum(phase.seconds for phase in STORY) / speed
    shown = live and console.is_terminal
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with (
        Live(console=console, auto_refresh=False, transient=True)
        if shown
        else contextlib.nullcontext() as view
    ):
        for phase in STORY:
            before = await measured.scrape(place.admin)
            users.begin_phase()
            await _act(phase, place, kill_canary)
            end = loop.time() + phase.seconds / speed
            while (left := end - loop.time()) > 0:
                await asyncio.sleep(min(left, _REFRESH_SECONDS / max(speed, 1)))
                after = await measured.scrape(place.admin)
                scene = Scene(phase, measured.between(before, after), users.seen)
                if view is not None:
                    view.update(screen.live(scene, loop.time() - begin, total), refresh=True)
            scenes.append(scene)
            if live and not shown:
                console.print(screen.plain(scene), soft_wrap=True)
    return scenes


async def _act(phase: Phase, place: Place, kill_canary: Callable[[], None]) -> None:
    if phase.action == "kill":
        kill_canary()
        return
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"http://127.0.0.1:{place.canary}/switch", data=phase.action) as response,
    ):
        await response.read()


@contextlib.asynccontextmanager
async def _processes(place: Place) -> AsyncIterator[Callable[[], None]]:
    """Run the services and the proxy; yields what kills the canary. All are ended by pid at the end."""
    path = place.folder / "proxy.yaml"
    path.write_text(place.configuration())
    service = ("-m", "canaryproxy.demo.service")
    children: list[asyncio.subprocess.Process] = []
    try:
        for port, command in (
            (place.stable, (*service, "stable", str(place.stable))),
            (place.canary, (*service, "canary", str(place.canary))),
            (place.proxy, ("-m", "canaryproxy", "run", "-c", str(path))),
        ):
            log = (place.folder / f"{port}.log").open("wb")
            with log:
                children.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        *(
                            "-m",
                            "canaryproxy.demo.child",
                            str(os.getpid()),
                            sys.executable,
                            *command,
                        ),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C is for the demo, which ends them in order
                    )
                )
        for child, port in zip(children, (place.stable, place.canary, place.proxy), strict=True):
            await _ready(child, port, place.folder / f"{port}.log")
        yield children[1].kill
    finally:
        for child in children:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
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
            raise DemoError(f"a process did not start: {_last_words(log)}")
        await asyncio.sleep(0.05)


def _last_words(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split("\n")[-4:]).strip() or "no answer"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _document(scenes: list[Scene], users: Seen, seed: int) -> dict[str, Any]:
    return {
        "version": canaryproxy.__version__,
        "seed": seed,
        "sent": users.sent,
        "answered": users.answered,
        "users_moved": users.moved,
        "phases": [
            {
                "name": scene.phase.name,
                "title": scene.phase.title,
                "meaning": scene.phase.meaning,
                "stable": asdict(scene.figures.variants[0]),
                "canary": asdict(scene.figures.variants[1]),
                "rescued": scene.figures.rescued,
                "weight": scene.figures.weight,
                "users": {
                    "sent": scene.seen.sent,
                    "answered": scene.seen.answered,
                    "errors": scene.seen.errors,
                    "statuses": {str(code): n for code, n in sorted(scene.seen.statuses.items())},
                    "moved": scene.seen.moved,
                },
            }
            for scene in scenes
        ],
    }
