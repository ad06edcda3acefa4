"""Counts of endpoints in shared memory: found by their endpoint, whatever a reload does to the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure import endpoint_cells as cells_of
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import (
    COUNTS,
    MOST_ENDPOINTS,
    OTHERS,
    SLOT_BYTES,
    EndpointCells,
    EndpointCounts,
    Entry,
    LocalState,
    identity,
    total,
)
from canaryproxy.measure.routing import CANARY, STABLE

UP, DOWN = LocalState(True, 3), LocalState(False, 0, Reason.RESET, 104)


def entry(number: int, state: LocalState = UP, first: int = 0) -> Entry:
    marks = [cells_of.FAILED] * number + [cells_of.FIRST_BYTE] * first
    return Entry(identity(f"http://a:{number}"), state, marks)


def test_what_a_worker_writes_is_read_by_endpoint() -> None:
    cells = EndpointCells()
    cells.write(STABLE, [entry(1), entry(2, DOWN)])
    cells.write(CANARY, [entry(1, first=7)])
    assert list(cells.states(STABLE)) == [identity("http://a:1"), identity("http://a:2")]
    assert cells.states(STABLE)[identity("http://a:2")] == (DOWN, 0)
    assert cells.counts(STABLE)[identity("http://a:2")].failed == 2
    assert cells.counts(CANARY)[identity("http://a:1")].responses == 7


endpoints = st.lists(st.integers(1, 9), unique=True, max_size=6)


@given(st.lists(endpoints, min_size=1, max_size=4))
def test_a_reload_mixes_no_counts_up(rounds: list[list[int]]) -> None:
    memory = bytearray(EndpointCells.ROWS_SIZE), bytearray(EndpointCells.COUNTS_SIZE)
    cells = EndpointCells(*memory)
    wanted: dict[int, tuple[int, int]] = {}
    for at, numbers in enumerate(rounds):
        if at % 2:
            cells = EndpointCells(*memory)  # a new worker in the memory of the one before
        for _ in range(2):  # as it is, and again
            entries = [entry(number, first=at) for number in numbers]
            cells.write(CANARY, entries)
            assert not any(one.marks for one in entries), "they are counted once"
            before = {key: wanted.get(key, (0, 0)) for key in (one.identity for one in entries)}
            wanted = {
                identity(f"http://a:{number}"): (failed + number, responses + at)
                for number, (failed, responses) in zip(numbers, before.values(), strict=True)
            }
            found = EndpointCells(*memory).counts(CANARY)
            assert {key: (one.failed, one.responses) for key, one in found.items()} == wanted
        assert not EndpointCells(*memory).counts(STABLE)


def test_endpoints_beyond_the_most_share_a_slot() -> None:
    cells = EndpointCells()
    cells.write(
        STABLE, [entry(number) for number in range(MOST_ENDPOINTS + 2)] + [entry(999, DOWN)]
    )
    assert len(cells.counts(STABLE)) == MOST_ENDPOINTS + 1
    assert cells.counts(STABLE)[OTHERS].failed == MOST_ENDPOINTS + MOST_ENDPOINTS + 1 + 999
    assert cells.states(STABLE)[OTHERS][0] == DOWN._replace(in_flight=6)
    cells.write(STABLE, [entry(1)])
    assert list(cells.counts(STABLE)) == [identity("http://a:1")]
    assert SLOT_BYTES < 6000, "as docs/workers.md says"


@given(st.lists(st.integers(100, 999), max_size=30), st.integers(0, 5))
def test_classes_add_up_to_the_responses(statuses: list[int], resets: int) -> None:
    made = [0] * COUNTS
    for status in statuses:  # as ``Endpoint.add_status`` counts
        made[cells_of.UNTIMED] += 1
        if not 200 <= status < 300:
            made[cells_of.class_of(status)] += 1
    made[cells_of.ERRORS + Reason.RESET] = resets
    found = EndpointCounts(made)
    wanted = [sum(status // 100 == one for status in statuses) for one in range(1, 5)]
    assert found.classes == (*wanted, sum(status >= 500 for status in statuses))
    assert found.requests == len(statuses) + resets
    assert found.error(Reason.RESET) == resets


@given(st.lists(st.binary(min_size=COUNTS, max_size=COUNTS), min_size=1, max_size=3))
def test_sums_and_differences(workers: list[bytes]) -> None:
    """Each byte is a count: to draw them one by one takes twenty times as long."""
    parts = [EndpointCounts(list(one)) for one in workers]
    whole = total(parts)
    assert whole.failed == sum(one.failed for one in parts)
    assert whole.since(parts[0]).requests == whole.requests - parts[0].requests
    assert whole.since(None) == whole
    fallen = EndpointCounts([1] * COUNTS).since(EndpointCounts([2] * COUNTS))
    assert fallen.failed == 1, "a count that fell began again"


def test_an_identity_is_never_that_of_none_or_of_all_others() -> None:
    assert all(identity(str(number)) > OTHERS for number in range(1000))
