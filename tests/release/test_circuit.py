"""The circuit: a table that is whole, and promises that hold for any order of events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.verdict import Assessment, Level
from canaryproxy.release.circuit import (
    TRANSITIONS,
    Action,
    Circuit,
    CircuitSettings,
    Event,
    Record,
    Reset,
    State,
    Tick,
    Trip,
    elapsed,
    step,
)

FOREVER = CircuitSettings()
COOLING = CircuitSettings(cooldown=5.0, probe_bake=3.0, probe_requests=10)


def seen(level: Level = "ok", judged: int = 0, comparable: bool = True) -> Assessment:
    return Assessment(level, (), judged, judged, comparable, False, None, None)


assessments = st.none() | st.builds(
    seen, st.sampled_from(["ok", "suspect"]), st.integers(0, 30), st.booleans()
)
events = st.one_of(
    st.builds(Trip, st.sampled_from(["errors", "operator"])),
    st.builds(Reset),
    st.builds(Tick, assessments),
    st.builds(Tick, assessments),
    st.builds(Tick, assessments),
)
histories = st.lists(st.tuples(events, st.floats(-1.0, 20.0)), max_size=60)


def reload(circuit: Circuit) -> Circuit:
    return Circuit.from_dict(json.loads(json.dumps(circuit.to_dict(), allow_nan=False)))


def test_every_event_is_answered_in_every_state() -> None:
    for state in State:
        assert set(TRANSITIONS[state]) == {Trip, Reset, Tick}


@given(histories, st.sampled_from([FOREVER, COOLING]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_promises_for_any_history(
    history: list[tuple[Event, float]], rule: CircuitSettings, restarts: bool
) -> None:
    circuit, now = Circuit(), 1000.0
    trips_in_a_row = 0
    for event, wait in history:
        now += wait
        before = circuit
        circuit, actions, records = step(circuit, event, now, rule)
        if isinstance(event, Trip):
            assert circuit.state is State.OPEN
            trips_in_a_row += before.state is not State.OPEN
        if isinstance(event, Reset):
            assert circuit.state is State.CLOSED
            trips_in_a_row = 0 if before.state is not State.CLOSED else trips_in_a_row
        if trips_in_a_row >= 2 and before.state is State.OPEN and not isinstance(event, Reset):
            assert circuit.state is State.OPEN
        if rule.cooldown is None:
            assert circuit.state is not State.HALF_OPEN
        changed = circuit.state is not before.state
        assert bool(actions) == bool(records) == changed
        if changed:
            wanted = {
                State.OPEN: Action.STOP,
                State.HALF_OPEN: Action.PROBE,
                State.CLOSED: Action.RESTORE,
            }
            assert actions == (wanted[circuit.state],)
            assert circuit.since == now
        if restarts:
            circuit = reload(circuit)
    same = reload(circuit)
    assert same.to_dict() == circuit.to_dict()


def test_a_trip_says_why_and_when() -> None:
    opened, actions, records = step(Circuit(), Trip("errors", {"canary": 4}), 12.5, FOREVER)
    assert actions == (Action.STOP,)
    assert opened.cause == "errors"
    assert records == (Record(12.5, "tripped", "errors", {"canary": 4}),)
    assert Record.from_dict(json.loads(json.dumps(records[0].to_dict()))) == records[0]


def test_without_a_cooldown_it_stays_open() -> None:
    circuit, _, _ = step(Circuit(), Trip("errors"), 0.0, FOREVER)
    for at in range(100_000):
        circuit, actions, _ = step(circuit, Tick(seen(judged=10**6)), at / 10, FOREVER)
        assert not actions
    assert circuit.state is State.OPEN
    closed, actions, records = step(circuit, Reset("ann"), 1e6, FOREVER)
    assert (closed.state, closed.trips, actions) == (State.CLOSED, 0, (Action.RESTORE,))
    assert records[0].cause == "by ann"


def test_cooldown_probe_and_second_trip() -> None:
    circuit, _, _ = step(Circuit(), Tick(), 0.0, COOLING)
    circuit, _, _ = step(circuit, Trip("errors"), 0.1, COOLING)
    now = 0.1
    while circuit.state is State.OPEN:
        now += 0.1
        circuit, actions, _ = step(circuit, Tick(), now, COOLING)
    assert 5.0 <= now - 0.1 < 5.4
    assert actions == (Action.PROBE,)
    # silence is not health, and a few requests are not enough
    for _ in range(100):
        now += 0.1
        circuit, _, _ = step(circuit, Tick(seen(comparable=False)), now, COOLING)
    assert circuit.state is State.HALF_OPEN
    for _ in range(100):
        now += 0.1
        circuit, _, _ = step(circuit, Tick(seen(judged=9)), now, COOLING)
    assert circuit.state is State.HALF_OPEN
    # suspicion begins the probe anew
    circuit, _, _ = step(circuit, Tick(seen("suspect", judged=50)), now, COOLING)
    assert circuit.probed == 0.0
    while circuit.state is State.HALF_OPEN:
        now += 0.1
        circuit, actions, records = step(circuit, Tick(seen(judged=60)), now, COOLING)
    assert actions == (Action.RESTORE,)
    assert records[0].what == "recovered"
    # the second trip stays
    circuit, _, _ = step(circuit, Trip("latency"), now, COOLING)
    assert circuit.left is None
    for _ in range(1000):
        now += 0.5
        circuit, actions, _ = step(circuit, Tick(seen(judged=100)), now, COOLING)
        assert not actions


def test_a_trip_of_the_probe_stays() -> None:
    probing = Circuit(State.HALF_OPEN, trips=1, since=0.0)
    opened, actions, _ = step(probing, Trip("errors"), 1.0, COOLING)
    assert (opened.state, opened.left, opened.trips) == (State.OPEN, None, 2)
    assert actions == (Action.STOP,)


def test_a_restart_does_not_shorten_the_cooldown() -> None:
    circuit, _, _ = step(Circuit(), Trip("errors"), 0.0, COOLING)
    circuit, _, _ = step(circuit, Tick(), 0.0, COOLING)
    circuit, _, _ = step(circuit, Tick(), 1.0, COOLING)
    circuit = reload(circuit)
    circuit, _, _ = step(circuit, Tick(), 1e9, COOLING)
    assert circuit.state is State.OPEN
    assert circuit.left == 4.0
    circuit, _, _ = step(circuit, Tick(), 2e9, COOLING)
    assert circuit.left == 3.0


@pytest.mark.parametrize(
    ("ticked", "now", "seconds"),
    [(None, 5.0, 0.0), (5.0, 4.0, 0.0), (5.0, 5.5, 0.5), (5.0, 99.0, 1.0)],
)
def test_a_tick_adds_a_second_at_most(ticked: float | None, now: float, seconds: float) -> None:
    assert elapsed(ticked, now) == seconds
