"""The hand-over's state machine, without processes."""

from __future__ import annotations

import pytest

from canaryproxy.measure.shared_memory import PID, Block
from canaryproxy.runtime import hot_restart
from canaryproxy.runtime.hot_restart import CANCELLED, HandOver, HandoverError, State, Successor


class Fake(Successor):
    """A successor that does as the test says."""

    def __init__(self) -> None:
        self.pid = 4711
        self.said = "starting"
        self.error = ""
        self.gone = self.killed = self.ended = False

    def progress(self) -> str:
        if self.error:
            raise HandoverError(self.error)
        return self.said

    def go(self) -> None:
        self.gone = True

    def kill(self) -> None:
        self.killed = True

    def has_ended(self) -> bool:
        return self.ended

    def wait(self) -> None:
        self.ended = True


class Owner:
    """The old process."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.saved = True

    def release_control(self) -> None:
        self.calls.append("release")

    def may_go(self) -> bool:
        return self.saved

    def take_control_back(self, cause: str) -> None:
        self.calls.append(f"take back: {cause}")

    def record_failure(self, cause: str) -> None:
        self.calls.append(f"record: {cause}")


class World:
    def __init__(self) -> None:
        self.owner, self.block, self.successor = Owner(), Block(1), Fake()
        self.hand_over = HandOver(self.owner, self.block, self._start)
        self.refuses = ""

    def _start(self) -> Successor:
        if self.refuses:
            raise HandoverError(self.refuses)
        return self.successor

    def advance(self, said: str) -> State:
        self.successor.said = said
        return self.hand_over.poll()


@pytest.fixture
def world() -> World:
    return World()


def test_it_goes_from_idle_to_done(world: World) -> None:
    hand_over = world.hand_over
    assert hand_over.poll() is State.IDLE
    hand_over.begin()
    assert world.advance("starting") is State.STARTING
    assert not hand_over.control_is_released
    assert world.advance("prepared") is State.RELEASED
    assert hand_over.control_is_released
    assert world.successor.gone
    assert world.advance("prepared") is State.RELEASED
    assert world.advance("ready") is State.DONE
    assert hand_over.control_is_released
    assert not hand_over.is_active
    assert world.owner.calls == ["release"]


def test_the_successor_is_told_to_go_once_the_state_is_saved(world: World) -> None:
    world.owner.saved = False
    world.hand_over.begin()
    assert world.advance("prepared") is State.RELEASED
    assert not world.successor.gone
    world.owner.saved = True
    world.advance("prepared")
    assert world.successor.gone


def test_a_failure_before_the_release_changes_nothing(world: World) -> None:
    world.hand_over.begin()
    world.successor.error = "no such key"
    assert world.hand_over.poll() is State.FAILED
    assert world.successor.killed
    assert world.owner.calls == []  # it may still hold what it shares with this process
    world.successor.ended = True
    assert world.hand_over.poll() is State.IDLE
    assert world.owner.calls == ["record: this process continues: no such key"]


def test_a_failure_after_the_release_gives_control_and_configuration_back(world: World) -> None:
    world.block.config.publish("old", {})
    world.hand_over.begin()
    world.advance("prepared")
    world.block.config.publish("new", {})
    world.successor.error = "too late"
    assert world.hand_over.poll() is State.FAILED
    assert world.hand_over.control_is_released  # until the successor has ended
    world.successor.ended = True
    assert world.hand_over.poll() is State.IDLE
    assert not world.hand_over.control_is_released
    assert world.owner.calls == ["release", "take back: this process continues: too late"]
    found = world.block.config.read()
    assert found is not None
    assert found.text == "old"


def test_after_a_failure_it_can_begin_again(world: World) -> None:
    world.hand_over.begin()
    world.successor.error = "first"
    world.hand_over.poll()
    world.successor.ended = True
    world.hand_over.poll()
    world.successor = Fake()
    world.hand_over.begin()
    world.advance("prepared")
    assert world.advance("ready") is State.DONE


def test_a_successor_that_cannot_be_started_is_recorded(world: World) -> None:
    world.refuses = "no memory"
    world.hand_over.begin()
    assert world.hand_over.state is State.IDLE
    assert world.owner.calls == ["record: this process continues: no memory"]


def test_it_is_refused_while_the_predecessor_drains(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_restart, "is_alive", lambda pid: pid == 12)
    world.block.others[0].status[PID] = 12
    world.hand_over.begin()
    assert world.hand_over.state is State.IDLE
    assert "the predecessor is still draining" in world.owner.calls[0]


def test_a_second_signal_starts_no_second_successor(world: World) -> None:
    world.hand_over.begin()
    world.refuses = "twice"
    world.hand_over.begin()
    assert world.owner.calls == []
    assert world.hand_over.state is State.STARTING


def test_a_shutdown_ends_the_successor(world: World) -> None:
    world.hand_over.begin()
    world.hand_over.cancel()
    assert world.successor.killed
    assert world.successor.ended
    assert world.hand_over.state is State.IDLE
    assert world.owner.calls == [f"record: {CANCELLED}"]


def test_a_shutdown_without_a_control_plane_records_nothing(world: World) -> None:
    world.hand_over.begin()
    world.advance("prepared")
    world.hand_over.cancel()
    assert world.successor.killed
    assert world.owner.calls == ["release"]
