"""Services behind a front: what they say to its fleet, what the fleet does, and that none is blamed twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canaryproxy import config
from canaryproxy.control.front_watch import Front
from canaryproxy.control.ledger import Ledger
from canaryproxy.control.settings import ControlSettings
from canaryproxy.fleet.behind import Behind, ServicesBehind
from canaryproxy.fleet.redis_store import StoreUnavailable
from canaryproxy.fleet.teller import FrontTeller
from canaryproxy.judging.verdict import Assessment
from canaryproxy.release import circuit, rollout, transitions
from canaryproxy.release.circuit import Circuit
from canaryproxy.release.rollout import Rollout

from ..control.world import World
from .replicas import RELEASE, fleet, soon
from .server import RedisServer, needs_redis, redis_server

FRONT = """
variants: {stable: {endpoints: [http://a]}, canary: {endpoints: [http://b]}}
release: {id: web-1, steps: [{weight: 5}]}
"""
SETTINGS = ControlSettings.of(config.parse(FRONT, file="f"))
HEALTHY = Assessment("ok", (), 100, 100, True, True, None, None)
TRIP = Behind("web-1", "error rate 9% on the canary")


class Hearer:
    """A front of a release at 5%, by itself."""

    def __init__(self, settings: ControlSettings = SETTINGS, weight: float = 5.0) -> None:
        self.settings = settings
        self.ledger = Ledger(Rollout(rollout.State.RUNNING, weight=weight), lambda: 100.0)
        self.events: list[transitions.Event] = []
        self.behind = ServicesBehind(self.ledger, self.take)

    def take(self, event: transitions.Event) -> None:
        self.events.append(event)
        change = transitions.step(
            self.ledger.circuit,
            self.ledger.rollout,
            event,
            100.0,
            self.settings.plan,
            self.settings.circuit,
        )
        self.ledger.move(change.circuit, change.rollout, change.records)

    def hear(self, **said: Behind) -> None:
        self.behind.hear(said, self.settings)

    @property
    def is_open(self) -> bool:
        return self.ledger.circuit.state is circuit.State.OPEN

    @property
    def causes(self) -> list[str]:
        return [one.cause for one in self.ledger.history]


def test_a_trip_behind_takes_the_release_back_and_names_the_service() -> None:
    front = Hearer()
    front.hear(cart=TRIP)
    assert front.ledger.circuit.state is circuit.State.OPEN
    assert front.ledger.circuit.cause == (
        "service cart, which follows this release, has tripped: error rate 9% on the canary"
    )
    front.hear(cart=TRIP)  # it says so for as long as it holds
    assert len(front.events) == 1
    assert [one.what for one in front.ledger.history].count("tripped") == 1


def test_what_another_release_met_does_not_matter() -> None:
    front = Hearer()
    front.hear(cart=replace(TRIP, release="web-0"), stock=replace(TRIP, release=""))
    assert not front.events
    assert front.behind.held(HEALTHY) is HEALTHY


def test_without_users_on_the_canary_nothing_trips_and_the_first_step_is_held() -> None:
    front = Hearer(weight=0.0)
    front.hear(cart=TRIP)
    assert not front.events
    (hold,) = front.behind.held(HEALTHY).holds
    assert hold.startswith("service cart, which follows this release: error rate")


def test_a_front_that_tripped_by_itself_notes_the_service_once_and_does_not_trip_again() -> None:
    front = Hearer()
    front.take(circuit.Trip("error rate 8% on the canary", {}))
    for _ in range(3):
        front.hear(cart=TRIP, stock=replace(TRIP, trip=""))
    assert len(front.events) == 1
    assert front.ledger.circuit.trips == 1
    assert [one for one in front.causes if "cart" in one] == [
        "service cart, which follows this release, has tripped: error rate 9% on the canary"
    ]


def test_a_reset_of_the_front_alone_does_not_hold() -> None:
    front = Hearer()
    front.hear(cart=TRIP)
    front.take(circuit.Reset("operator"))
    front.hear(cart=TRIP)
    assert front.is_open
    front.take(circuit.Reset("operator"))
    front.hear(cart=replace(TRIP, trip=""))  # after a reset there
    assert not front.is_open


def test_an_irreversible_release_moves_no_user() -> None:
    plan = replace(SETTINGS.plan, reversible=False)
    front = Hearer(replace(SETTINGS, plan=plan))
    for _ in range(2):
        front.hear(cart=TRIP)
    assert front.ledger.circuit.state is circuit.State.CLOSED
    assert front.ledger.rollout.breach is not None
    assert len(front.events) == 1


def test_a_suspicion_behind_holds_the_step() -> None:
    suspect = replace(HEALTHY, level="suspect", holds=("the last 9 canary requests failed",))
    said = Behind.of("web-1", Circuit(), suspect)
    front = Hearer()
    front.hear(cart=said)
    assert front.behind.held(HEALTHY).holds == (
        "service cart, which follows this release: the last 9 canary requests failed",
    )
    assert not front.events


@pytest.mark.parametrize(
    "one", [TRIP, Behind(""), Behind("r", hold="x" * 300), Behind("r", 'a "quoted" cause')]
)
def test_what_is_said_is_read_as_it_was_written(one: Behind) -> None:
    assert Behind.parse(one.text()) == one


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"release": 1, "trip": "", "hold": ""}', "null"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Behind.parse(text)


# Over a real Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


class Back(World):
    """A proxy behind whose front is what the test says."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        tell = f"{{redis: 'redis://127.0.0.1:{port}/0', group: g, service: cart}}"
        super().__init__(folder, f"split: {{follow: {{from: [10.0.0.0/8], tell: {tell}}}}}")
        follow = self.config.split.follow
        assert follow is not None
        assert follow.tell is not None
        self.teller = FrontTeller(follow.tell, self._status)

    def _status(self) -> Any:
        return replace(self.controller.status(), front=Front(1, "r1", 1000, 0))


@asynccontextmanager
async def behind(folder: Path, port: int) -> Any:
    made = Back(folder / "back", port)
    made.teller.start()
    try:
        yield made
    finally:
        await made.teller.stop()
        await made.controller.stop()


@needs_redis
async def test_a_trip_behind_moves_the_whole_fleet_of_the_front(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        fleet(tmp_path, [server.port] * 2, RELEASE) as front,
        behind(tmp_path, server.port) as back,
    ):
        back.controller.act(circuit.Trip("error rate 9% on the canary", {}))
        await soon(lambda: all(one.is_open for one in front), "trip of the front")
        for one in front:
            cause = one.controller.status().circuit.cause
            assert cause is not None
            assert cause.startswith("service cart, which follows this release, has tripped: ")
            assert one.whats.count("tripped") == 1
        await back.controller.act_and_save(circuit.Reset("operator"))
        await soon(lambda: back.teller._said.trip == "", "news of the reset")
        await soon(lambda: len({one.control.etag for one in front}) == 1, "one document")
        await front[0].control.act(circuit.Reset("operator"))
        await soon(lambda: not any(one.is_open for one in front), "reset of the front")


@needs_redis
async def test_without_redis_a_service_says_nothing_and_goes_on(
    tmp_path: Path, server: RedisServer
) -> None:
    back = Back(tmp_path / "back", server.port)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await back.teller._store.tell("cart", TRIP)
    await back.teller.say()
    assert back.teller._said is None
    await back.teller.stop()
    await back.controller.stop()
