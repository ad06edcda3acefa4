"""The ring of records and that of names: what readers see, and what they must not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.judging.metrics import unpack
from canaryproxy.measure.records import (
    EVENT_STREAM,
    LARGEST,
    MOST_UNREAD,
    NO_FIRST_BYTE,
    RECORDS,
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
    """Writes records that are numbered, and reads them by number."""

    def __init__(self) -> None:
        self.memory = bytearray(RecordRing.SIZE)
        self.ring = RecordRing(self.memory)
        self.count = 0

    def add(self, count: int) -> None:
        for number in range(self.count, self.count + count):
            self.ring.pending.extend((number, number + 1, number + 2))
        self.count += count


class Reader:
    """A reader in another process."""

    def __init__(self, memory: bytearray) -> None:
        self._ring = RecordRing(memory)
        self.read = 0

    def drain(self) -> list[int] | None:
        """Return the numbers of the records since the last time; ``None`` if some are lost."""
        self.read, words = self._ring.since(self.read)
        if words is None:
            return None
        numbers = words[::3]
        assert words == [part for number in numbers for part in (number, number + 1, number + 2)]
        return numbers


step = st.tuples(
    st.integers(0, 2 * RECORDS) | st.integers(0, 20), st.sets(st.integers(0, 1)), st.booleans()
)


@given(st.lists(step, max_size=30))
def test_each_reader_gets_each_record_once_or_knows_that_some_are_lost(
    steps: list[tuple[int, set[int], bool]],
) -> None:
    source = Source()
    readers = [Reader(source.memory), Reader(source.memory)]
    for count, who, restarted in steps:
        source.add(count)
        source.ring.flush()
        if restarted:  # another worker continues the ring
            source.ring = RecordRing(source.memory)
        for at in who:
            reader = readers[at]
            before = reader.read
            found = reader.drain()
            assert reader.read == source.count
            if source.count - before <= MOST_UNREAD:
                assert found == list(range(before, source.count))
            else:
                assert found is None


def test_records_are_seen_after_a_flush() -> None:
    source = Source()
    reader = Reader(source.memory)
    source.add(3)
    assert reader.drain() == []
    source.ring.flush()
    source.ring.flush()
    assert reader.drain() == [0, 1, 2]


def test_a_reader_that_is_overtaken_while_it_reads_drops_all() -> None:
    source = Source()
    source.add(3000)
    source.ring.flush()

    ring = RecordRing(source.memory)
    written = ring._written

    class Overtaking:
        """The number of records; the writer comes round between the first look at it and the second."""

        looks = 0

        def __getitem__(self, at: int) -> int:
            self.looks += 1
            if self.looks == 2:
                source.add(RECORDS)
                source.ring.flush()
            return written[at]

    ring._written = Overtaking()  # type: ignore[assignment]
    assert ring.since(0) == (3000 + RECORDS, None)


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
    words = ring.since(0)[1]
    assert words is not None
    (found,) = unpack(words)
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
