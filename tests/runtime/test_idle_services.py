"""What an idle service costs: the pages of shared memory that worker and control plane touch."""

from __future__ import annotations

import logging
import mmap
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import ERRORS, Entry, LocalState, identity
from canaryproxy.measure.routing import STABLE
from canaryproxy.measure.shared_memory import CHECK, MOST_SERVICES, Block, ServiceBlock
from canaryproxy.runtime import service_control
from canaryproxy.runtime.service_control import ServiceControl
from canaryproxy.runtime.shared_block import SharedBlock
from canaryproxy.runtime.ticker import IDLE_TICKS
from canaryproxy.runtime.worker import Worker

from .test_control_process import Proxy, service

TICKS = 30
"""Three seconds: an idle service takes part in one tick of ten."""
MOST_CALLS = 60
"""Python functions that are called for an idle service in its turn."""


def touched(shared: SharedBlock, slot: int) -> list[int]:
    """Return the pages of a slot that take memory, by their number in it."""
    workers = len(shared.block.workers)
    begin = Block.size(workers) - (MOST_SERVICES - slot) * ServiceBlock.size(workers)
    end = begin + ServiceBlock.size(workers)
    pages: list[int] = []
    at = begin
    while at < end:
        try:
            at = os.lseek(shared.descriptor, at, os.SEEK_DATA)
        except OSError:  # nothing from here on
            break
        hole = os.lseek(shared.descriptor, at, os.SEEK_HOLE)
        pages += [
            (one - begin) // mmap.PAGESIZE for one in range(at, min(hole, end), mmap.PAGESIZE)
        ]
        at = hole
    return pages


@pytest.mark.parametrize("workers", [1, 3])
async def test_an_idle_service_touches_the_beginning_of_its_slot(
    tmp_path: Path, workers: int
) -> None:
    proxy = Proxy(tmp_path, cart=service("cart"), shop=service("shop"))
    shared = SharedBlock(workers)
    proxy.block = shared.block
    async with proxy.control() as control:
        made = [Worker(proxy.config, shared.block, index) for index in range(workers)]
        for worker in made:
            await worker.start([], clock=False)
        for _ in range(TICKS):
            for worker in made:
                worker.tick()
            control._ticker.tick()
        for slot in (0, 1):
            assert touched(shared, slot)[0] == 0, "its table"
            assert len(touched(shared, slot)) <= workers, "and where each worker has its endpoints"
        cells = shared.block.service(0).worker(0)
        cells.mark_used()
        cells.counters.stable[0] += 1
        for _ in range(TICKS):
            control._ticker.tick()
        assert len(touched(shared, 0)) > workers, "it is looked at"
        assert len(touched(shared, 1)) <= workers
        for worker in made:
            await worker.drain(0.0)


class Clock:
    """The seconds that a service goes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(service_control, "monotonic", lambda: self.now)

    def turn(self, service: ServiceControl) -> None:
        """Let a second pass, after which it is the service's turn."""
        self.now += 1.0
        for _ in service.parts():
            pass


def calls(act: Callable[[], None]) -> int:
    """Return how many Python functions are called."""
    found = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal found
        found += event == "call"

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return found


@asynccontextmanager
async def idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Proxy, ServiceControl, Clock]]:
    """Run two services that tick when the clock says so; the first one is returned."""
    proxy = Proxy(tmp_path, cart=service("cart"), shop=service("shop"))
    clock = Clock(monkeypatch)
    async with proxy.control() as control:
        control._ticker.stop()
        proxy.serve()
        yield proxy, control.services["cart"], clock


async def test_an_idle_service_without_requests_costs_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with idle(tmp_path, monkeypatch) as (_, cart, clock):
        for _ in range(3):
            clock.turn(cart)
        assert cart.period == IDLE_TICKS
        found = sorted(calls(lambda: clock.turn(cart)) for _ in range(5))
        assert found[2] <= MOST_CALLS, found


async def test_the_log_has_the_first_failures_of_a_service_that_was_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with idle(tmp_path, monkeypatch) as (proxy, cart, clock):
        url = "http://127.0.0.1:9001"
        cells = proxy.block.service(0).worker(0)
        entry = Entry(identity(url), LocalState(True, 0), [])
        cells.endpoints.write(STABLE, [entry])
        for _ in range(TICKS):
            clock.turn(cart)
        assert "requests fail" not in caplog.text
        cells.mark_used()
        entry.marks.append(ERRORS + Reason.CONNECT_REFUSED)
        cells.endpoints.write(STABLE, [entry])
        clock.turn(cart)
        assert f"stable endpoint {url}: requests fail" in caplog.text


async def test_the_log_has_an_endpoint_of_an_idle_service_that_fails_its_health_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with idle(tmp_path, monkeypatch) as (_, cart, clock):
        url = "http://127.0.0.1:9001"
        for _ in range(TICKS):
            clock.turn(cart)
        cart.plane.outs.put(CHECK, STABLE, {url: "its health check failed"})
        clock.turn(cart)
        assert f"stable endpoint {url} is down: its health check failed" in caplog.text
        cart.plane.outs.put(CHECK, STABLE, {})
        clock.turn(cart)
        assert f"stable endpoint {url} is up again" in caplog.text
