"""Whatever somebody writes into Redis: a document that can be gone by, or none."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.fleet.state import Document, Garbled
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import TableCell
from canaryproxy.release import circuit, rollout
from canaryproxy.release.circuit import Circuit, Record
from canaryproxy.release.rollout import Rollout

DOCUMENT = Document(release="r1", settings="s", judge="j", salt="r1").acted(
    "a1",
    Circuit(circuit.State.OPEN, trips=1, since=5.0, cause="c", left=3.0),
    Rollout(rollout.State.TRIPPED, step=1, weight=0.0, weight_before=10.0),
    (Record(5.0, "tripped", "c", {"by": "judge"}),),
)
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    *(st.just([]), st.just({}), st.just("x" * 2000), st.just(10**400), st.just([[]] * 3)),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in a JSON value."""
    below: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        below = [place for key, one in value.items() for place in places(one, (*path, key))]
    elif isinstance(value, list):
        below = [place for at, one in enumerate(value) for place in places(one, (*path, at))]
    return [path, *below]


def put(state: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put a value at a path of a JSON value, if an earlier change has left the path there."""
    *above, last = path
    try:
        for step in above:
            state = state[step]
        state[last] = value
    except (KeyError, IndexError, TypeError):
        return


def test_a_document_is_what_it_was() -> None:
    assert Document.from_json(DOCUMENT.to_json()) == DOCUMENT


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(places(DOCUMENT.to_dict())[1:]), VALUES), min_size=1, max_size=3
    )
)
def test_a_document_that_was_changed_can_be_gone_by_or_is_garbled(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    state = json.loads(DOCUMENT.to_json())
    for path, value in changes:
        put(state, path, copy.deepcopy(value))
    try:
        found = Document.from_json(json.dumps(state))
    except Garbled:
        return
    assert 0 <= found.users.limit <= 10_000
    assert Document.from_json(found.to_json()) == found
    table = RouteTable(weight=found.rollout.weight, salt=found.salt.encode())
    TableCell().publish(table)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format": 1}', "NaN"])
def test_what_is_no_document_is_garbled(text: str) -> None:
    with pytest.raises(Garbled):
        Document.from_json(text)


@given(text=st.text(max_size=100))
def test_text_that_is_no_document_is_garbled(text: str) -> None:
    with pytest.raises(Garbled):
        Document.from_json(text)
