"""A controller and its control whose time and traffic the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from canaryproxy import config
from canaryproxy.control.controller import TICK_SECONDS, Controller
from canaryproxy.control.endpoint_figures import EndpointReading
from canaryproxy.control.process import DEFAULT, ProcessControl, Service
from canaryproxy.control.record_reader import RecordReader
from canaryproxy.control.reload import Reloader
from canaryproxy.control.service import Control
from canaryproxy.control.settings import first_table
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Counters, Reason, Totals
from canaryproxy.measure.endpoint_cells import NONE, EndpointCounts
from canaryproxy.measure.records import (
    ENDED,
    FAILED,
    NameRing,
    RecordRing,
    pack_first,
    pack_second,
    pack_third,
)
from canaryproxy.measure.routing import CANARY, FINE, POSITIONS, RouteTable

BASE = """
variants: {stable: {endpoints: ["http://127.0.0.1:1"]}, canary: {endpoints: ["http://127.0.0.1:2"]}}
judge:
  metrics: {errors: {}, latency: {}, classes: false, content: false, connections: false}
  baseline: 0s
  warmup: 0s
"""
USERS = range(0, POSITIONS, POSITIONS // 1000)
"""The positions of a thousand users: ten of them for each percent of weight."""


def reading(
    url: str, counts: EndpointCounts = NONE, *, ejected_by: int = 0, in_flight: int = 0
) -> EndpointReading:
    """Return an endpoint as one worker sees it."""
    return EndpointReading(url, 1, ejected_by, in_flight, counts.errors, Reason.RESET, 0, counts)


class Plane:
    """A data path that only remembers."""

    draining = False

    def __init__(self) -> None:
        self.tables: list[RouteTable] = []
        self.ejected: dict[int, Mapping[str, str]] = {}
        self.readings: dict[int, list[EndpointReading]] = {}
        self.failing: tuple[str, ...] = ()

    def eject(self, variant: int, causes: Mapping[str, str]) -> None:
        self.ejected[variant] = causes

    def holds(self) -> tuple[str, ...]:
        return self.failing

    def publish(self, table: RouteTable, _version: int) -> None:
        self.tables.append(table)

    async def adopted(self) -> None:
        pass

    def endpoints(self, variant: int) -> list[EndpointReading]:
        return self.readings.get(variant) or [reading(f"http://127.0.0.1:{variant}")]


class World:
    """A controller and its control; time and traffic are the test's."""

    def __init__(
        self,
        folder: Path,
        text: str,
        answer: tuple[bool, str] = (True, "yes"),
        *,
        base: str = BASE,
        load: bool = True,
    ) -> None:
        self.base = base
        self.folder = folder
        self.file = folder / "c.yaml"
        self.file.write_text(self.whole(text))
        self.config = config.parse(self.file.read_text(), file=str(self.file))
        self.cells = Counters()
        self.ring, self.names = RecordRing(), NameRing()
        self.plane = Plane()
        self.clock = 1000.0
        self.turn = 0
        self.answer = answer
        self.questions: list[Mapping[str, Any]] = []
        self.controller = Controller(
            self.config,
            Totals([self.cells]),
            self.plane,
            first_table(self.config),
            lambda: self.clock,
            ask=self.ask,
            reader=RecordReader([self.ring], [self.names]),
        )
        self.reloader = Reloader(
            self.file,
            self.config,
            self.controller.check,
            lambda made: self.controller.reconfigure(made, first_table(made)),
            self.controller.note,
            lambda: self.controller.now,
        )
        self.control = Control(self.controller, Totals([self.cells]), self.plane, self.reloader)
        self.process = ProcessControl(
            self.plane, self.reloader, lambda: {DEFAULT: Service((), (), self.control)}
        )
        if load:
            self.origin = self.controller.load()

    def whole(self, text: str) -> str:
        return f"{self.base}\nstate: {self.folder}/state.json\n{text}"

    async def ask(self, question: Mapping[str, Any]) -> tuple[bool, str]:
        self.questions.append(question)
        return self.answer

    @property
    def weight(self) -> float:
        return self.controller.table.limit / 100

    @property
    def release_view(self) -> dict[str, Any]:
        return self.control.release_view().model_dump(mode="json")

    @property
    def whats(self) -> list[str]:
        return [record["what"] for record in self.control.history(None, 1000)]

    @property
    def epoch(self) -> int:
        """The split that requests are routed by, as their records name it."""
        return self.controller.table.epoch

    def traffic(self, stable: tuple[int, int], canary: tuple[int, int]) -> None:
        """Add answered and failed requests, of one user after the other."""
        first = self.controller.table.limit * FINE
        for variant, (answered, failed) in enumerate((stable, canary)):
            cells = self.cells.variants[variant]
            for cell, count in (
                (counters.FINISHED, answered),
                (counters.ROUTED, answered),
                (counters.FAILED, failed),
            ):
                cells[cell] += count
            users = [one for one in USERS if (one < first) == (variant == CANARY)]
            for at in range(answered if users else 0):
                self.turn += 1
                flags, status = (ENDED | FAILED, 500) if at < failed else (ENDED, 200)
                position = users[self.turn * 7 % len(users)]
                self.write(
                    (
                        pack_first(position, variant, self.epoch, status, 0, flags),
                        pack_second(0, 0, 0),
                        pack_third(0.01, 100),
                    )
                )

    def write(self, *records: tuple[int, int, int]) -> None:
        """Write records into the worker's ring."""
        for record in records:
            self.ring.write(*record)

    async def run(
        self, seconds: float, stable: tuple[int, int] = (0, 0), canary: tuple[int, int] = (0, 0)
    ) -> None:
        for _ in range(round(seconds / TICK_SECONDS)):
            self.traffic(stable, canary)
            self.clock += TICK_SECONDS
            self.controller.tick()
            await asyncio.sleep(0)
            await self.settle()

    async def settle(self) -> None:
        end = monotonic() + 10
        while self.controller._saver.busy and self.controller.status().unsaved is None:
            assert monotonic() < end
            await asyncio.sleep(0.001)

    def block_disk(self) -> None:
        path = self.folder / "state.json"
        path.unlink(missing_ok=True)
        path.mkdir()  # what cannot be replaced by a file
        (path / "x").write_text("")

    def free_disk(self) -> None:
        (self.folder / "state.json" / "x").unlink()
        (self.folder / "state.json").rmdir()


@asynccontextmanager
async def running(
    folder: Path, text: str, answer: tuple[bool, str] = (True, "yes")
) -> AsyncIterator[World]:
    made = World(folder, text, answer)
    await made.settle()
    try:
        yield made
    finally:
        made.control.stop()
        await made.controller.stop()
