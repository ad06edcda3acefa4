"""A worker adopts another release: which measured rates it goes on with."""

from __future__ import annotations

import pytest

from canaryproxy import config as configuration
from canaryproxy.control.settings import first_table
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.measure.shared_memory import Block, Placement
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
