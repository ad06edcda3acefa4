"""The clock of the control plane: who is due, and how a tick is cut so that requests come in between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from canaryproxy.runtime.ticker import IDLE_TICKS, LONGEST_SLICE, QUIET_TICKS, SLICE, Ticker


class Service:
    """Its tick has some parts; ``act`` is called in each of them."""

    def __init__(
        self, *, period: int = IDLE_TICKS, parts: int = 1, act: Callable[[], None] = lambda: None
    ) -> None:
        self.period = period
        self.ticks = self.done = 0
        self._parts = parts
        self._act = act

    def parts(self) -> Iterator[None]:
        self.ticks += 1
        for at in range(self._parts):
            self.done += 1
            self._act()
            if at < self._parts - 1:
                yield


class Clock:
    """Seconds that pass as tests say."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> Callable[[], None]:
        def act() -> None:
            self.now += seconds

        return act


def test_a_service_ticks_as_often_as_it_needs_to() -> None:
    idle, quiet, busy = Service(), Service(period=QUIET_TICKS), Service(period=1)
    ticker = Ticker(lambda: None, lambda: [idle, quiet, busy])
    for _ in range(30):
        ticker.tick()
    assert (idle.ticks, quiet.ticks, busy.ticks) == (3, 6, 30)


def test_idle_services_take_turns() -> None:
    services = [Service() for _ in range(25)]
    ticker = Ticker(lambda: None, lambda: services)
    most = 0
    for _ in range(IDLE_TICKS):
        before = sum(one.ticks for one in services)
        ticker.tick()
        most = max(most, sum(one.ticks for one in services) - before)
    assert {one.ticks for one in services} == {1}
    assert most == 3


def test_the_worker_ticks_once_and_before_the_services() -> None:
    order: list[str] = []
    service = Service(period=1, act=lambda: order.append("service"))
    Ticker(lambda: order.append("worker"), lambda: [service, service]).tick()
    assert order == ["worker", "service", "service"]


def test_an_error_in_a_part_keeps_no_other_service_from_its_tick(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    services = [Service(period=1, act=fail, parts=3), Service(period=1)]
    Ticker(lambda: None, lambda: services).tick()
    assert [one.done for one in services] == [1, 1]
    assert "a defect" in caplog.text


def test_what_comes_in_during_a_tick_is_read_between_two_slices() -> None:
    order: list[str] = []
    ours, theirs = socket.socketpair()
    clock = Clock()

    def act() -> None:
        if not order:
            theirs.send(b"x")
        order.append("part")
        clock.now += SLICE

    service = Service(period=1, parts=6, act=act)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def read() -> None:
            ours.recv(1)
            order.append("read")
            loop.remove_reader(ours)

        def ended() -> None:
            ticker.stop()
            done.set_result(None)

        ours.setblocking(False)
        loop.add_reader(ours, read)
        last = Service(period=1, act=ended)
        ticker = Ticker(lambda: None, lambda: [service, last], clock)
        ticker.start()
        await asyncio.wait_for(done, 30)

    with ours, theirs:
        asyncio.run(run())
    assert "read" in order[:4]
    assert order.count("part") == 6


def slices(service: Service, clock: Clock, turn: float) -> list[int]:
    """Return the number of parts in each slice of a tick, while a turn of the loop takes ``turn`` seconds."""
    found: list[int] = []

    async def run() -> None:
        ticker = Ticker(lambda: None, lambda: [service], clock)
        ticker._ticked()
        found.append(service.done)
        while ticker._is_busy:
            clock.now += turn
            ticker._go_on()
            found.append(service.done - sum(found))
        ticker.stop()
        assert ticker.seconds == pytest.approx(service.done * 1e-4 + turn * (len(found) - 1))

    asyncio.run(run())
    return found


def test_a_slice_ends_with_the_part_in_which_its_time_is_over() -> None:
    clock = Clock()
    service = Service(period=1, parts=100, act=clock.passes(1e-4))
    found = slices(service, clock, turn=0.0)
    assert sum(found) == 100
    assert max(found) * 1e-4 < SLICE + 2e-4


@pytest.mark.parametrize("turn", [0.001, 0.01, 0.03])
def test_the_judge_gets_a_quarter_of_a_loop_that_is_busy(turn: float) -> None:
    clock = Clock()
    service = Service(period=1, parts=1000, act=clock.passes(1e-4))
    middle = slices(service, clock, turn)[1:-1]
    for parts in middle:
        spent = parts * 1e-4
        assert spent / (spent + turn) >= 0.24
        assert spent <= max(SLICE, turn / 3) + 2e-4


def test_a_turn_of_the_loop_that_takes_for_ever_does_not_make_a_slice_that_does() -> None:
    clock = Clock()
    service = Service(period=1, parts=2000, act=clock.passes(1e-4))
    assert max(slices(service, clock, turn=60.0)) * 1e-4 <= LONGEST_SLICE + 2e-4


def test_a_tick_that_is_not_over_delays_the_next_but_not_the_worker() -> None:
    clock = Clock()
    services = [Service(period=1, parts=2, act=clock.passes(SLICE)) for _ in range(2)]
    worker: list[float] = []

    async def run() -> None:
        ticker = Ticker(lambda: worker.append(clock.now), lambda: services, clock)
        ticker._ticked()
        assert [one.done for one in services] == [1, 0]
        ticker._ticked()
        assert [one.done for one in services] == [1, 0]
        assert ticker.late == 1
        while ticker._is_busy:
            ticker._go_on()
        assert [one.done for one in services] == [2, 2]
        ticker._ticked()
        assert [one.ticks for one in services] == [2, 1]
        assert ticker.late == 1
        ticker.stop()

    asyncio.run(run())
    assert len(worker) == 3


def test_no_service_ticks_after_the_clock_has_stopped_or_the_service_is_gone() -> None:
    clock = Clock()
    services = [Service(period=1, parts=2, act=clock.passes(SLICE)) for _ in range(4)]

    async def run() -> None:
        ticker = Ticker(lambda: None, lambda: list(services), clock)
        ticker._ticked()
        ticker.drop(services[0])
        ticker.drop(services[2])
        ticker._go_on()
        assert [one.done for one in services] == [1, 1, 0, 0]
        ticker.stop()
        ticker._go_on()
        assert [one.done for one in services] == [1, 1, 0, 0]

    asyncio.run(run())
