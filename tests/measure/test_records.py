"""The ring of records and that of names: what readers see, and what they must not."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.judging.metrics import unpack
from canaryproxy.measure.records import (
    EVENT_STREAM,
    LARGEST,
    NO_FIRST_BYTE,
    RECORDS,
    WORDS,
    NameRing,
    RecordRing,
    pack_first,
    pack_second,
    pack_third,
    template_of,
    type_code,
)
from canaryproxy.measure.routing import POSITIONS


class Source:
    """A worker that writes records that are numbered."""

    def __init__(self) -> None:
        self.memory = bytearray(RecordRing.SIZE)
        self.ring = RecordRing(self.memory)
        self.count = 0

    def add(self, count: int) -> None:
        """Make ``count`` records, and write them as far as there is room."""
        for number in range(self.count, self.count + count):
            self.ring.add(number, number + 1, number + 2)
        self.count += count
        self.ring.flush()

    @property
    def used(self) -> int:
        """Bytes of the ring up to the last one that was ever written."""
        return len(self.memory.rstrip(b"\0"))


def numbers(words: array[int]) -> list[int]:
    found = words[::WORDS].tolist()
    assert words.tolist() == [part for number in found for part in (number, number + 1, number + 2)]
    return found


def unread(ring: RecordRing) -> list[int]:
    return numbers(ring.words(ring.read, ring.written))


step = st.tuples(st.integers(0, 2 * RECORDS) | st.integers(0, 20), st.booleans(), st.booleans())


@given(st.lists(step, max_size=12))
@settings(max_examples=30, deadline=None)
def test_each_record_is_read_once_and_in_order_or_is_counted_as_dropped(
    steps: list[tuple[int, bool, bool]],
) -> None:
    source = Source()
    reader = RecordRing(source.memory)
    expected: list[int] = []
    dropped = 0
    for count, reads, restarted in steps:
        room = RECORDS - len(expected)
        expected += range(source.count, source.count + min(count, room))
        dropped += max(count - room, 0)
        source.add(count)
        if restarted:  # another worker continues the ring
            source.ring = RecordRing(source.memory)
        assert unread(reader) == expected
        assert reader.dropped == dropped
        if reads:
            reader.free(reader.written)
            expected = []


@given(st.integers(0, RECORDS), st.integers(1, RECORDS), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_every_mth_record_is_the_same_wherever_the_ring_ends(
    read: int, count: int, every: int
) -> None:
    source = Source()
    ring = source.ring
    source.add(min(read, RECORDS - 1) + 1)
    ring.free(read)  # one record at least is not read: the writer does not begin at the front
    source.add(min(count, read))
    words = numbers(ring.words(read, ring.written, every))
    assert words == list(range(read, ring.written, every))


def test_records_are_seen_after_a_flush() -> None:
    ring = RecordRing()
    ring.add(0, 1, 2)
    assert unread(ring) == []
    ring.flush()
    ring.flush()
    assert unread(ring) == [0]


def test_memory_of_a_reader_in_time_is_that_of_its_fullest_tick() -> None:
    source = Source()
    reader = RecordRing(source.memory)
    for _ in range(3 * RECORDS // 100):
        source.add(100)
        assert len(unread(reader)) == 100
        reader.free(reader.written)
    assert source.used <= 64 + 100 * WORDS * 8
    source.add(RECORDS)
    assert source.used > 64 + (RECORDS - 1) * WORDS * 8


@given(
    st.integers(0, POSITIONS - 1),
    st.integers(0, 1),
    st.integers(0, 255),
    st.integers(0, 999),
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.none() | st.floats(0, 1e7),
    st.integers(0, 1 << 40),
)
def test_a_record_is_unpacked_as_it_was_packed(
    position: int, variant: int, epoch: int, status: int, content_type: int, flags: int,
    template: int, trials: int, events: int, first_byte: float | None, size: int,
) -> None:  # fmt: skip
    ring = RecordRing()
    ring.write(
        pack_first(position, variant, epoch, status, content_type, flags),
        pack_second(template, trials, events),
        pack_third(first_byte, size),
    )
    (found,) = unpack(ring.words(0, 1))
    assert found[:9] == (
        position, variant, epoch, status, content_type, flags, template, trials, events,
    )  # fmt: skip
    assert found.size == min(size, LARGEST)
    if first_byte is None:
        assert found.first_byte is None
    else:
        assert found.first_byte is not None
        largest = (NO_FIRST_BYTE - 1) / 1e6
        assert abs(found.first_byte - min(first_byte, largest)) <= 1e-6


def test_names_that_came_since_are_read_and_lost_ones_are_left_out() -> None:
    memory = bytearray(NameRing.SIZE)
    ring, reader = NameRing(memory), NameRing(memory)
    names = [b"GET /%d-x" % number for number in range(1000)]
    for name in names[:3]:
        ring.write(template_of(name), name)
    read, found = reader.since(0)
    assert found == {template_of(name): name.decode() for name in names[:3]}
    assert reader.since(read) == (3, {})
    for name in names[3:]:
        ring.write(template_of(name), name)
    read, found = reader.since(read)
    assert read == 1000
    assert len(found) >= 255
    assert found.items() <= {template_of(name): name.decode() for name in names}.items()


def test_media_types_have_a_code() -> None:
    assert type_code(b"") == 0
    assert type_code(b"text/event-stream") == EVENT_STREAM
    codes = {type_code(b"application/x-%d" % number) for number in range(5000)}
    assert (min(codes), max(codes)) == (2, 255)


def test_a_time_that_never_came_is_no_time() -> None:
    assert pack_third(None, 0) & NO_FIRST_BYTE == NO_FIRST_BYTE
    assert pack_third(1e9, 0) & NO_FIRST_BYTE == NO_FIRST_BYTE - 1
