"""The clock of the control plane: services that are due at every tick, and idle ones that take turns."""

from __future__ import annotations

import asyncio
import socket

from canaryproxy.runtime.ticker import IDLE_TICKS, Ticker


class Service:
    def __init__(self, *, is_due: bool = False) -> None:
        self.is_due = is_due
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1


def test_an_idle_service_ticks_once_a_second_and_others_at_every_tick() -> None:
    idle, due = Service(), Service(is_due=True)
    ticker = Ticker(lambda: None, lambda: [idle, due])
    for _ in range(3 * IDLE_TICKS):
        ticker.tick()
    assert (idle.ticks, due.ticks) == (3, 3 * IDLE_TICKS)


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
    service = Service(is_due=True)
    service.tick = lambda: order.append("service")  # type: ignore[method-assign]
    Ticker(lambda: order.append("worker"), lambda: [service, service]).tick()
    assert order == ["worker", "service", "service"]


def test_what_comes_in_during_a_turn_is_read_before_all_services_have_ticked() -> None:
    order: list[str] = []
    services = [Service(is_due=True) for _ in range(6)]
    ours, theirs = socket.socketpair()

    def first_tick() -> None:
        order.append("tick")
        theirs.send(b"x")

    for service in services:
        service.tick = lambda: order.append("tick")  # type: ignore[method-assign]
    services[0].tick = first_tick  # type: ignore[method-assign]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def read() -> None:
            ours.recv(1)
            order.append("read")
            loop.remove_reader(ours)

        def last_tick() -> None:
            order.append("tick")
            ticker.stop()
            done.set_result(None)

        services[-1].tick = last_tick  # type: ignore[method-assign]
        ours.setblocking(False)
        loop.add_reader(ours, read)
        ticker = Ticker(lambda: None, lambda: services)
        ticker.start()
        await asyncio.wait_for(done, 30)

    with ours, theirs:
        asyncio.run(run())
    assert "read" in order[:4]
    assert order.count("tick") == len(services)


def test_a_turn_that_is_late_ends_before_the_next_begins() -> None:
    services = [Service(is_due=True) for _ in range(3)]

    async def run() -> None:
        ticker = Ticker(lambda: None, lambda: services)
        ticker._ticked()
        assert [one.ticks for one in services] == [1, 0, 0]
        ticker._ticked()
        assert [one.ticks for one in services] == [2, 1, 1]
        ticker.stop()

    asyncio.run(run())


def test_no_service_ticks_after_the_clock_has_stopped_or_the_service_is_gone() -> None:
    services = [Service(is_due=True) for _ in range(3)]

    async def run() -> None:
        ticker = Ticker(lambda: None, lambda: services)
        ticker._ticked()
        gone = services.pop(1)
        ticker._ticked()
        assert (gone.ticks, services[1].ticks) == (0, 1)
        ticker.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (services[0].ticks, services[1].ticks) == (2, 1)

    asyncio.run(run())
