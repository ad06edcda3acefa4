"""Replicas whose traffic the test makes: real controllers, real time, a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

from canaryproxy import config
from canaryproxy.control.authority import AuthorityHost
from canaryproxy.control.controller import Controller
from canaryproxy.control.ledger import Ledger
from canaryproxy.control.process import DEFAULT, ProcessControl, Service
from canaryproxy.control.record_reader import RecordReader
from canaryproxy.control.reload import Reloader
from canaryproxy.control.service import Control
from canaryproxy.control.settings import ControlSettings, first_table
from canaryproxy.fleet.authority import FleetAuthority
from canaryproxy.fleet.redis_store import RedisStore
from canaryproxy.measure.counters import Counters, Totals
from canaryproxy.measure.records import (
    NameRing,
    RecordRing,
)
from canaryproxy.runtime.ticker import Ticker

from ..control.world import BASE, Plane, World

DEADLINE = 120.0
RELEASE = """
release:
  id: r1
  steps: [{weight: 10, bake: 1s, min_requests: 5}, {weight: 50, bake: 1h}, {weight: 100}]
"""


class Replica(World):
    """One replica. ``skew`` seconds are added to its wall clock."""

    authority: FleetAuthority

    def __init__(
        self, folder: Path, port: int, name: str, text: str = RELEASE, *, skew: float = 0.0
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.name = name
        self.base = BASE
        self.folder = folder
        self.more = (
            f"fleet: {{redis: 'redis://127.0.0.1:{port}/0', group: g, replica: {name}, lease: 1s}}"
        )
        self.file = folder / "c.yaml"
        self.file.write_text(self.whole(text))
        self.config = config.parse(self.file.read_text(), file=str(self.file))
        self.cells = Counters()
        self.ring, self.names, self.turn = RecordRing(), NameRing(), Random(name).randrange(1000)
        self.plane = Plane()
        self.answer = (True, "yes")
        self.questions = []
        assert self.config.fleet is not None
        self.me = f"{name}:{id(self)}"
        self.store = RedisStore(self.config.fleet, self.me)
        self.controller = Controller(
            self.config,
            Totals([self.cells]),
            self.plane,
            first_table(self.config),
            ask=self.ask,
            reader=RecordReader([self.ring], [self.names]),
            authority=self._authority,
        )
        self.controller._work.offset += skew
        self.reloader = Reloader(
            self.file,
            self.config,
            self.controller.check,
            lambda made: self.controller.reconfigure(made, first_table(made)),
            self.controller.note,
            lambda: self.controller.now,
        )
        self.control = Control(self.controller, Totals([self.cells]), self.plane, self.reloader)
        self.ticker = Ticker(lambda: None, lambda: [self])
        self.process = ProcessControl(
            self.plane, self.reloader, lambda: {DEFAULT: Service((), (), self.control)}
        )
        self.busy: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._traffic: asyncio.Task[None] | None = None

    def _authority(
        self, host: AuthorityHost, ledger: Ledger, settings: ControlSettings
    ) -> FleetAuthority:
        assert self.config.fleet is not None
        self.authority = FleetAuthority(
            host, ledger, settings, fleet=self.config.fleet, store=self.store, me=self.me
        )
        return self.authority

    def whole(self, text: str) -> str:
        return f"{super().whole(text)}\n{self.more}\n"

    @property
    def epoch(self) -> int:
        """That of the last sample: the table may be newer."""
        return self.authority._evidence.sample.epoch

    period = 1

    def parts(self) -> Iterator[None]:
        yield from self.controller.parts()

    def start(self) -> None:
        self.controller.load()
        self.controller.start()
        self.ticker.start()
        self._traffic = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        while True:
            if self.busy is not None:
                stable, canary = self.busy
                self.traffic(stable, canary if self.weight else (0, 0))
            await asyncio.sleep(0.05)

    @property
    def document(self) -> dict[str, Any]:
        return self.control.release_view().model_dump(mode="json")

    @property
    def fleet(self) -> dict[str, Any]:
        """The part of the document about the fleet, at a small part of its cost."""
        return self.authority.view()

    @property
    def is_open(self) -> bool:
        return self.controller.table.circuit_open

    def halt(self) -> None:
        """End without a word, as SIGKILL does."""
        if self._traffic is not None:
            self._traffic.cancel()
        self.ticker.stop()
        for task in self.authority._tasks:
            task.cancel()

    async def stop(self) -> None:
        self.halt()
        self.control.stop()
        await self.controller.stop()


async def soon(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> float:
    """Wait for a condition; return how long that took."""
    began = monotonic()
    while not condition():
        assert monotonic() - began < seconds, f"{what} did not come true"
        await asyncio.sleep(0.01)
    return monotonic() - began


async def told(replica: Replica) -> None:
    """Wait until a replica has told the store what it has counted by now."""

    def sample() -> object:
        return replica.authority._evidence.sample

    def reply() -> object:
        return replica.authority._contact.reply

    for newest in (sample, reply):
        for _ in range(2):  # the first may have begun before
            before = newest()
            await soon(lambda newest=newest, before=before: newest() is not before, "news")  # type: ignore[misc]


@contextlib.asynccontextmanager
async def fleet(
    folder: Path, ports: list[int], text: str = RELEASE, *, running: bool = True
) -> AsyncIterator[list[Replica]]:
    """Run a replica for each port of a Redis; yield them when the release runs on its first step."""
    made = [Replica(folder / f"r{at}", port, f"r{at}", text) for at, port in enumerate(ports)]
    try:
        for one in made:
            one.start()
        if running:
            await soon(lambda: all(one.weight == 10 for one in made) and leader(made), "first step")
        yield made
    finally:
        for one in made:
            await one.stop()


def leader(replicas: list[Replica]) -> Replica | None:
    """Return who leads, by what the replicas think of themselves."""
    return next((one for one in replicas if one.fleet["leads"]), None)
