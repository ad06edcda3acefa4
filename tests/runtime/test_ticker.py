"""The clock of the control plane: services that are due at every tick, and idle ones that take turns."""

from __future__ import annotations

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
