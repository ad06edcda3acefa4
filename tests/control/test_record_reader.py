"""Records reach the judge in an order, and thinned by a rule, that no variant has a part in."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.control.record_reader import MOST_RECORDS, RecordReader, thinned
from canaryproxy.measure.records import (
    ENDED,
    POSITION_MASK,
    RECORDS,
    WORDS,
    NameRing,
    RecordRing,
    pack_first,
    template_of,
)


def write(ring: RecordRing, positions: Iterable[int]) -> None:
    for position in positions:
        ring.write(pack_first(position, position % 2, 0, 200, 0, ENDED), position, 0)


def burst(ring: RecordRing, number: int) -> None:
    """Write so many records at once, at positions from 0 on."""
    for position in range(number):
        ring.add(pack_first(position, position % 2, 0, 200, 0, ENDED), position, 0)
    ring.flush()


def positions(records: Iterable[int]) -> list[int]:
    return [word & POSITION_MASK for word in list(records)[::WORDS]]


def test_records_come_worker_by_worker_and_once() -> None:
    rings = [RecordRing(), RecordRing()]
    write(rings[0], [1])  # before the reader began
    reader = RecordReader(rings, [])
    write(rings[1], [20, 21])
    write(rings[0], [10])
    found = reader.drain()
    assert positions(found.records) == [10, 20, 21]
    assert not found.lost
    assert not reader.drain().records


def test_worker_whose_ring_is_full_drops_its_last_records_and_no_other_does() -> None:
    rings = [RecordRing(), RecordRing()]
    reader = RecordReader(rings, [])
    burst(rings[0], RECORDS + 100)
    write(rings[1], [7])
    found = reader.drain()
    every = -(-(RECORDS + 1) // MOST_RECORDS)
    assert (
        positions(found.records)[:-1]
        == list(range(0, RECORDS, every))[: len(found.records) // 3 - 1]
    )
    assert found.lost
    assert reader.counts.dropped == 100
    assert reader.counts.taken + reader.counts.left_out == RECORDS + 1
    write(rings[0], [8])
    found = reader.drain()
    assert (positions(found.records), found.lost) == ([8], False)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_thinning_is_that_of_all_records_in_one_row(sizes: list[int]) -> None:
    rings = [RecordRing() for _ in sizes]
    reader = RecordReader(rings, [])
    whole: list[int] = []
    for ring, size in zip(rings, sizes, strict=True):
        burst(ring, size)
        whole += ring.words(0, ring.written)
    assert reader.drain().records.tolist() == thinned(whole)


def test_what_was_left_behind_for_another_reader_is_not_read_twice() -> None:
    ring = RecordRing()
    before = RecordReader([ring], [])
    write(ring, [1, 2])
    after = RecordReader([ring], [])  # of a successor, while its predecessor still reads
    write(ring, [3])
    assert positions(before.drain().records) == [1, 2, 3]
    write(ring, [4])
    assert positions(after.drain().records) == [4]


def test_records_that_nobody_judges_make_room() -> None:
    ring = RecordRing()
    reader = RecordReader([ring], [])
    for _ in range(3):
        burst(ring, RECORDS)
        reader.skip()
    assert ring.dropped == 0
    assert not reader.drain().records


def test_names_of_all_workers_are_known_also_those_from_before() -> None:
    rings = [NameRing(), NameRing()]
    rings[0].write(template_of(b"GET /a"), b"GET /a")
    reader = RecordReader([], rings)
    rings[1].write(template_of(b"GET /b"), b"GET /b")
    assert sorted(reader.drain().names.values()) == ["GET /a", "GET /b"]
    assert reader.drain().names == {}


def test_of_too_many_records_every_mth_is_taken() -> None:
    records = [
        word
        for position in range(10_000)
        for word in (pack_first(position, position % 2, 3, 500, 0, ENDED), position, 1)
    ]
    kept = thinned(records)
    assert positions(kept) == list(range(0, 10_000, 3))
    assert kept[1::WORDS] == positions(kept)
    assert thinned(records[: 4_000 * WORDS]) == records[: 4_000 * WORDS]
    assert positions(thinned(records[: 4_001 * WORDS])) == list(range(0, 4_001, 2))
