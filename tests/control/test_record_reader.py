"""Records reach the judge in an order, and thinned by a rule, that no variant has a part in."""

from __future__ import annotations

from collections.abc import Iterable

from canaryproxy.control.record_reader import RecordReader, thinned
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
    assert list(reader.drain().records) == []


def test_worker_whose_ring_was_lapped_loses_its_tick_and_no_other() -> None:
    rings = [RecordRing(), RecordRing()]
    reader = RecordReader(rings, [])
    write(rings[0], range(RECORDS + 1))
    write(rings[1], [7])
    found = reader.drain()
    assert (positions(found.records), found.lost) == ([7], True)
    write(rings[0], [8])
    found = reader.drain()
    assert (positions(found.records), found.lost) == ([8], False)


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
