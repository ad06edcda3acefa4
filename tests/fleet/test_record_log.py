"""The log of records without a store: what is written, what is read, and what loses what."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.fleet.record_log import BEGINNING, Entry, LogReader, Outbox, StoredEntry, Tick
from canaryproxy.judging.verdict import Sample
from canaryproxy.measure.records import ENDED, WORDS, pack_first, pack_second, template_of
from canaryproxy.measure.routing import POSITIONS

NAME = "GET /cart/*"
TEMPLATE = template_of(NAME.encode())
WORD = st.integers(0, 2**64 - 1)
FIRST = st.builds(
    lambda position, rest: position | rest << 21,
    st.integers(0, POSITIONS - 1),
    st.integers(0, 2**43 - 1),
)
RECORDS = st.lists(st.tuples(FIRST, WORD, WORD), max_size=20).map(
    lambda found: [word for record in found for word in record]
)


def record(position: int, template: int = TEMPLATE) -> list[int]:
    return [pack_first(position, 0, 7, 200, 0, ENDED), pack_second(template, 0, 0), position]


def records(count: int, first: int = 0) -> list[int]:
    return [word for at in range(first, first + count) for word in record(at)]


def sample(
    words: list[int], limit: int = 100, names: dict[int, str] | None = None, *, lost: bool = False
) -> Sample:
    return Sample({}, {}, words, limit, 7, names or {}, lost)


def stored(number: int, tick: int, entry: Entry | bytes) -> StoredEntry:
    data = entry if isinstance(entry, bytes) else entry.pack()
    return StoredEntry(f"{number}-0", tick, tick / 10, data)


def entry(count: int, first: int = 0, limit: int = 100) -> Entry:
    return Entry(limit, 7, records(count, first))


def positions(ticks: list[Tick]) -> list[list[int]]:
    return [list(tick.records[2::WORDS]) for tick in ticks]


# Entries


@given(RECORDS, st.integers(0, 10_000), st.integers(0, 255), st.integers(1, 65535), st.booleans())
def test_an_entry_is_what_it_was(
    words: list[int], limit: int, epoch: int, thinned: int, lost: bool
) -> None:
    found = Entry.unpack(Entry(limit, epoch, words, {TEMPLATE: NAME}, thinned, lost).pack())
    assert found == Entry(limit, epoch, tuple(words), {TEMPLATE: NAME}, thinned, lost)


def test_a_record_takes_24_bytes_of_an_entry() -> None:
    assert len(entry(10).pack()) - len(entry(0).pack()) == 240


@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_a_value_error(data: bytes) -> None:
    try:
        found = Entry.unpack(data)
    except ValueError:
        return
    assert Entry.unpack(found.pack()) == found


@given(st.data())
def test_an_entry_that_was_changed_is_an_entry_or_a_value_error(data: st.DataObject) -> None:
    whole = bytearray(Entry(100, 7, records(3), {TEMPLATE: NAME}).pack())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for changed in (bytes(whole), cut):
        try:
            found = Entry.unpack(changed)
        except ValueError:
            continue
        assert found.limit <= 10_000
        assert all(template_of(name.encode()) == key for key, name in found.names.items())


@pytest.mark.parametrize(
    "wrong",
    [
        Entry(100, 7, record(POSITIONS)).pack(),
        Entry(10_001, 7).pack(),
        Entry(100, 7, thinned=0).pack(),
        Entry(100, 7, names={5: NAME}).pack(),
        Entry(100, 7, names={template_of(b"GET /\n"): "GET /\n"}).pack(),
        b"\x02" + entry(1).pack()[1:],
        entry(2).pack()[:-1],
        b"",
    ],
)
def test_what_no_replica_writes_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Entry.unpack(wrong)


# Writing


def test_records_are_written_once() -> None:
    outbox = Outbox()
    outbox.add(sample(records(2)))
    outbox.add(sample(records(1, 2)))
    found = outbox.take(10.0, 100, 1)
    assert found is not None
    assert (found.limit, found.epoch, found.thinned) == (100, 7, 1)
    assert list(found.records) == records(3)
    again = outbox.take(10.1, 100, 1)
    assert again is not None
    assert not again.records


def test_nothing_is_written_until_a_tick_has_seen_the_split_in_force() -> None:
    outbox = Outbox()
    outbox.add(sample(records(2)))
    assert outbox.take(10.0, 200, 1) is None
    outbox.add(sample(records(1, 5), limit=200))
    found = outbox.take(10.1, 200, 1)
    assert found is not None
    assert list(found.records) == records(1, 5)


def test_records_of_the_split_before_are_not_written() -> None:
    outbox = Outbox()
    outbox.add(sample(records(2)))
    outbox.add(sample(records(1, 5), limit=200))
    found = outbox.take(10.0, 200, 1)
    assert found is not None
    assert list(found.records) == records(1, 5)


def test_over_the_budget_every_mth_record_is_kept_whatever_it_says() -> None:
    outbox = Outbox(rate=800.0)
    outbox.add(sample([]))
    outbox.take(10.0, 100, 1)
    outbox.add(sample(records(300)))
    found = outbox.take(10.125, 100, 1)  # 100 records in an eighth of a second
    assert found is not None
    assert found.thinned == 3
    assert list(found.records[2::WORDS]) == list(range(0, 300, 3))
    outbox.add(sample(records(300)))
    shared = outbox.take(10.25, 100, 5)  # five replicas share the budget
    assert shared is not None
    assert len(shared.records) // WORDS == 20


def test_replicas_of_a_large_fleet_write_less_often() -> None:
    outbox = Outbox()
    written = []
    for tick in range(40):
        outbox.add(sample(records(1, tick)))
        found = outbox.take(tick / 8, 100, 250)  # every half a second, for 500 entries in all
        assert found is not None
        written.append(list(found.records[2::WORDS]))
    assert [len(one) for one in written[:9]] == [1, 0, 0, 0, 4, 0, 0, 0, 4]
    assert [number for one in written for number in one] == list(range(37))


def test_what_waits_is_bounded() -> None:
    outbox = Outbox(rate=1e9)
    for _ in range(30):
        outbox.add(sample(records(4000)))
    found = outbox.take(10.0, 100, 1)
    assert found is not None
    assert found.lost
    assert 20_000 <= len(found.records) // WORDS <= 40_000


def test_the_name_of_a_template_is_written_again_while_it_is_used() -> None:
    outbox = Outbox()
    outbox.add(sample(records(1), names={TEMPLATE: NAME, 5: "GET /unused"}))
    seen = []
    for tick in range(250):
        outbox.add(sample(records(1)))
        found = outbox.take(tick / 10, 100, 1)
        assert found is not None
        seen.append(dict(found.names))
    assert seen[0] == {TEMPLATE: NAME}
    assert sum(map(len, seen)) == 3


def test_names_are_bounded() -> None:
    outbox = Outbox()
    for at in range(10_000):
        outbox.add(sample([], names={template_of(b"GET /%d" % at): f"GET /{at}"}))
    for at in range(9_000, 9_100):
        outbox.add(sample(record(at, template_of(b"GET /%d" % at))))
    found = outbox.take(10.0, 100, 1)
    assert found is not None
    assert len(found.names) == 64
    assert len(outbox._names) == 4096


# Reading


def test_entries_of_a_tick_are_one_sample_in_the_order_of_the_log() -> None:
    reader = LogReader()
    first = reader.take(9.0, [stored(1, 1, entry(1)), stored(2, 1, entry(2, 10))])
    assert positions(first) == [[0]]
    second = reader.take(9.0, [stored(3, 1, entry(1, 20)), stored(4, 2, entry(1, 30))])
    assert positions(second) == [[10, 11, 20, 30]]
    assert (second[0].time, second[0].limit, second[0].epoch) == (0.2, 100, 7)
    assert not reader.has_gap
    assert reader.cursor == "4-0"


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.lists(st.integers(1, 5), max_size=30))
def test_all_readers_see_the_same_ticks_however_they_read(
    closes: list[bool], cuts: list[int]
) -> None:
    tick, log = 1, []
    for at, closing in enumerate(closes):
        tick += closing
        log.append(stored(at + 1, tick, entry(1, at)))
    whole = LogReader().take(99.0, log)
    reader, found, rest = LogReader(), [], log
    for cut in [*cuts, len(log)]:
        found += reader.take(99.0, rest[:cut])
        state = json.loads(json.dumps(reader.to_dict()))
        reader = LogReader.from_dict(state)  # another process goes on
        rest = [one for one in log if int(one.id[:-2]) > int(reader.cursor[:-2])]
    assert found == whole


def test_a_new_split_within_a_tick_drops_what_came_before() -> None:
    reader = LogReader()
    found = reader.take(
        9.0,
        [
            stored(1, 1, entry(1)),
            stored(2, 1, entry(1, 10)),
            stored(3, 2, entry(1, 20, limit=500)),
        ],
    )
    assert positions(found) == [[0], [20]]
    assert [tick.limit for tick in found] == [100, 500]


def test_a_gap_is_told_and_reading_goes_on() -> None:
    reader = LogReader()
    found = reader.take(9.0, [stored(1, 1, entry(1)), stored(9, 5, entry(1, 10))])
    assert positions(found) == [[0], [10]]
    assert [tick.lost for tick in found] == [False, True]
    assert reader.has_gap


def test_bytes_that_are_no_entry_are_lost_records() -> None:
    reader = LogReader()
    found = reader.take(
        9.0,
        [
            stored(1, 1, entry(1)),
            stored(2, -1, b""),
            stored(3, 1, b"nonsense"),
            stored(4, 2, entry(1, 10)),
            stored(5, 3, b"nonsense"),
        ],
    )
    assert positions(found) == [[0], [10], []]
    assert [tick.lost for tick in found] == [False, True, True]
    assert {tick.limit for tick in found} == {100}


def test_a_log_of_nothing_but_nonsense_is_no_tick() -> None:
    assert LogReader().take(9.0, [stored(1, 1, b""), stored(2, 2, b"x")]) == []


def test_time_never_falls_and_is_never_in_the_future() -> None:
    reader = LogReader()
    log = [
        StoredEntry(f"{at + 1}-0", at, time, entry(1).pack())
        for at, time in enumerate([5.0, 9e12, 4.0, 12.0])
    ]
    assert [tick.time for tick in reader.take(10.0, log)] == [5.0, 10.0, 10.0, 10.0]


def test_a_server_whose_ids_begin_again_is_read_from_the_beginning() -> None:
    reader = LogReader()
    reader.take(100.0, [StoredEntry("100000-0", 50, 100.0, entry(1).pack())])
    assert reader.take(99.5, []) == []
    assert reader.cursor == "100000-0"
    assert reader.take(50.0, []) == []
    assert reader.cursor == BEGINNING
    assert reader.has_gap


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"cursor": "x", "tick": 1, "time": 1.0},
        {"cursor": "1-0", "tick": "x", "time": 1.0},
        {"cursor": "-1-0", "tick": 1, "time": 1.0},
        {"cursor": "1-0", "tick": 1, "time": float("nan")},
    ],
)
def test_a_place_that_is_none_is_refused(state: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        LogReader.from_dict(state)


# What thinning must not do


def test_every_user_is_kept_alike_by_thinning() -> None:
    """Thinning looks at neither positions nor variants: each has the same share of what is kept."""
    outbox = Outbox(rate=1000.0)
    outbox.add(sample([]))
    outbox.take(0.0, 100, 1)
    kept: Counter[bool] = Counter()
    state = 1
    for tick in range(200):
        words = []
        for _ in range(250):
            state = state * 6364136223846793005 + 1442695040888963407 & 2**64 - 1
            words += record((state >> 33) % POSITIONS)
        outbox.add(sample(words))
        found = outbox.take(tick / 10 + 0.1, 100, 1)
        assert found is not None
        kept.update(position < POSITIONS // 10 for position in found.records[2::WORDS])
    share = kept[True] / kept.total()
    assert 0.09 < share < 0.11
