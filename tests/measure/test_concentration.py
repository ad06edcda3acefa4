"""Few keys, one busy key, and many users that are as they should be."""

from __future__ import annotations

from random import Random

import pytest

from canaryproxy.measure.concentration import WINDOW, Concentration, KeyCounter
from canaryproxy.measure.records import WORDS, pack_first


def record(position: int) -> list[int]:
    return [pack_first(position, 0, 7, 200, 1, 1), 5, 6]


def counted(positions: list[int], tick: int = 50) -> Concentration:
    counter = KeyCounter()
    for at in range(0, len(positions), tick):
        counter.add([word for one in positions[at : at + tick] for word in record(one)])
    assert counter.last is not None
    return counter.last


def test_nothing_is_said_before_a_window_is_full() -> None:
    counter = KeyCounter()
    assert not counter.add(record(1) * (WINDOW - 1))
    assert counter.last is None
    # ticks of many records are thinned out
    assert len(record(1)) == WORDS


@pytest.mark.parametrize("keys", [2, 5, 50, 500])
def test_equal_keys_are_counted(keys: int) -> None:
    draw = Random(keys)
    found = counted([draw.randrange(keys) for _ in range(WINDOW)])
    assert found.equal_keys == pytest.approx(keys, rel=0.1)
    assert (found.notice is None) == (keys >= 50)


def test_one_busy_key_among_many_is_named() -> None:
    draw = Random(1)
    found = counted([7 if draw.random() < 0.7 else draw.randrange(10**6) for _ in range(WINDOW)])
    assert found.busiest == pytest.approx(0.7, abs=0.05)
    assert found.notice is not None
    assert found.notice.startswith("one sticky key makes 7")


def test_nodes_of_a_load_balancer_are_few_keys() -> None:
    found = counted([at % 4 for at in range(WINDOW)])
    assert found.notice is not None
    assert "as if from 4 users" in found.notice


def test_many_users_with_unequal_traffic_are_not_odd() -> None:
    draw = Random(2)
    found = counted(
        [int(draw.paretovariate(1.0)) * 7919 % 10**6 + draw.randrange(300) for _ in range(WINDOW)]
    )
    assert found.notice is None


def test_a_window_forgets_the_one_before() -> None:
    counter = KeyCounter()
    busy = [word for at in range(WINDOW) for word in record(at % 2)]
    spread = [word for at in range(WINDOW) for word in record(at)]
    for records in (busy, spread):
        for at in range(0, len(records), 300):
            counter.add(records[at : at + 300])
    assert counter.last is not None
    assert counter.last.notice is None
