"""A worker adopts what is published: another release, and services that come and go."""

from __future__ import annotations

import pytest

from canaryproxy import config as configuration
from canaryproxy.control.settings import first_table
from canaryproxy.measure.counters import ROUTED
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.measure.shared_memory import CONFIGURED, Block, Placement
from canaryproxy.measure.shedding import LoadLimit
from canaryproxy.runtime.worker import Worker

TEXT = """
variants: {{stable: {{endpoints: ["http://127.0.0.1:1"]}}, canary: {{endpoints: ["http://127.0.0.1:2"]}}}}
limits: {{shed_after: 4s}}
release: {{id: {release}, steps: [{{weight: {weight}}}, {{weight: 100}}]}}
"""


def text(release: str, weight: int = 10) -> str:
    return TEXT.format(release=release, weight=weight)


@pytest.mark.parametrize(
    ("release", "weight", "promoted", "limits"),
    [
        ("r2", 10, True, [60, 8]),
        ("r2", 10, False, [500, 8]),
        ("r1", 20, False, [500, 60]),  # another plan of the same release
    ],
)
async def test_another_release_begins_with_the_rates_of_its_versions(
    release: str, weight: int, *, promoted: bool, limits: list[int]
) -> None:
    config = configuration.parse(text("r1"), file="test")
    block = Block(1)
    block.service(0).table.publish(first_table(config), 1)
    worker = Worker(config, block, 0)
    await worker.start([], clock=False)
    load = worker.datapath.services["default"].context.load
    for variant, rate in ((STABLE, 500.0), (CANARY, 60.0)):
        load.of[variant]._carry(1000.0, rate, 1)
    placed = {"default": Placement(0, {}, promoted=promoted)}
    block.config.publish(text(release, weight), placed)
    worker.tick()

    def limit(one: LoadLimit) -> int:
        one._carry(1000.0, 0.0, 1)
        return one.limit

    assert [limit(one) for one in load.of] == limits
    await worker.drain(0.0)


# Several services

SHOP = """
services:
  a: {{hosts: [a], variants: {{stable: {{endpoints: ["{a}"]}}}}}}
  b: {{hosts: [b], variants: {{stable: {{endpoints: ["http://127.0.0.1:2"]}}}}}}
"""


class Shop:
    """A worker, and what a control plane publishes for it."""

    def __init__(self) -> None:
        self.block = Block(1)
        self.slots: dict[str, int] = {}

    def publish(self, text: str) -> int:
        """Put a configuration in force, in which each service has a slot of its own."""
        made = configuration.parse(text, file="test")
        for name, one in made.by_service().items():
            slot = self.slots.setdefault(name, len(self.slots))
            if self.block.service(slot).table.read() is None:
                self.block.service(slot).table.publish(first_table(one), 1)
        services = {name: Placement(self.slots[name], {}) for name in made.services}
        return self.block.config.publish(text, services)

    async def start(self, text: str) -> Worker:
        self.publish(text)
        worker = Worker(configuration.parse(text, file="test"), self.block, 0)
        await worker.start([], clock=False)
        return worker

    @property
    def configured(self) -> int:
        return self.block.workers[0].status[CONFIGURED]

    @property
    def held(self) -> list[int]:
        return self.block.workers[0].held()


def shop(a: str = "http://127.0.0.1:1", more: str = "") -> str:
    return SHOP.format(a=a) + more


async def test_a_worker_adds_changes_and_drops_services_and_gives_slots_back() -> None:
    made = Shop()
    worker = await made.start(shop())
    kept = worker.datapath.services["b"].context
    pools = kept.pools
    assert made.held == [0, 1]
    third = '  c: {hosts: [c], variants: {stable: {endpoints: ["http://127.0.0.1:3"]}}}\n'
    newest = made.publish(shop("http://127.0.0.1:9", third))
    worker.tick()
    assert made.configured == newest
    assert list(worker.datapath.services) == ["a", "b", "c"]
    assert [
        str(one.config) for one in worker.datapath.services["a"].context.pools[0].endpoints
    ] == ["http://127.0.0.1:9"]
    assert worker.datapath.services["b"].context is kept
    assert kept.pools[STABLE] is pools[STABLE]
    assert made.held == [0, 1, 2]
    newest = made.publish(shop(more=third).replace("  b: ", "  d: ").replace("[b]", "[d]"))
    worker.tick()
    assert made.configured == newest
    worker.tick()
    assert made.held == [0, 2, 3]
    assert made.block.may_be_reused(1, newest)
    await worker.drain(0.0)
    worker.leave()
    assert made.held == []


async def test_a_name_without_an_address_holds_up_only_its_service() -> None:
    made = Shop()
    worker = await made.start(shop())
    before = made.configured
    third = '  c: {hosts: [c], variants: {stable: {endpoints: ["http://127.0.0.1:3"]}}}\n'
    newest = made.publish(shop("http://name.test:80", third))
    worker.tick()
    assert made.configured == before
    assert list(worker.datapath.services) == ["a", "b", "c"]

    def endpoints() -> list[str]:
        return [str(one.config) for one in worker.datapath.services["a"].context.pools[0].endpoints]

    assert endpoints() == ["http://127.0.0.1:1"], "as before"
    made.block.addresses.publish({"http://name.test:80": (("127.0.0.7", 80),)})
    worker.tick()
    assert made.configured == newest
    (endpoint,) = worker.datapath.services["a"].context.pools[0].endpoints
    assert endpoint.config.address == "127.0.0.7"
    await worker.drain(0.0)


async def test_a_worker_in_the_place_of_a_dead_one_finds_all_services_and_their_counts() -> None:
    made = Shop()
    await made.start(shop())
    cells = made.block.service(1).worker(0)
    cells.mark_used()
    cells.counters.stable[ROUTED] = 5
    assert made.block.settle_dead_worker(made.block.workers[0]) == 5
    assert made.held == []
    again = Worker(configuration.parse(shop(), file="test"), made.block, 0)
    await again.start([], clock=False)
    assert made.held == [0, 1]
    path = again.datapath.services["b"]
    path.context.wake()
    assert path.context.tallies[STABLE].values[ROUTED] == 5
    assert made.configured == made.block.config.sequence[0]
    await again.drain(0.0)
