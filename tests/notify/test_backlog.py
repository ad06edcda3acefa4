from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.notify.backlog import Backlog


class Item(NamedTuple):
    number: int
    urgent: bool


@given(st.integers(1, 6), st.lists(st.booleans(), max_size=30))
def test_what_gives_way(size: int, urgencies: list[bool]) -> None:
    backlog = Backlog[Item](size)
    inside: list[Item] = []
    for number, urgent in enumerate(urgencies):
        item = Item(number, urgent)
        dropped = backlog.put(item)
        inside.append(item)
        if len(inside) <= size:
            assert dropped is None
        else:
            assert dropped is not None
            lesser = [old for old in inside if not old.urgent]
            assert dropped == (lesser or inside)[0]
            inside.remove(dropped)
        assert len(backlog) == len(inside)
    assert [backlog.take() for _ in inside] == inside
    assert backlog.take() is None


def test_clear_returns_how_many_messages_it_dropped() -> None:
    backlog = Backlog[Item](3)
    backlog.put(Item(1, False))
    backlog.put(Item(2, True))
    assert backlog.clear() == 2
    assert len(backlog) == 0
    assert backlog.clear() == 0
