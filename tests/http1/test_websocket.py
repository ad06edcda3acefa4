"""Frame boundaries of a WebSocket, wherever its bytes are cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from canaryproxy.http1.websocket import FrameReader, close_frame

SIZES = st.sampled_from([0, 1, 2, 125, 126, 127, 65_535, 65_536]) | st.integers(0, 300)

RSV1 = 0x40
"""Compressed, as with permessage-deflate (RFC 7692)."""


@dataclass
class Stream:
    """Frames, and the offsets at which a frame and a message ends."""

    compressed: bool
    data: bytes = b""
    frames: set[int] = field(default_factory=lambda: {0})
    messages: set[int] = field(default_factory=lambda: {0})

    def add(self, frame: Frame, *, masked: bool, in_message: bool) -> None:
        data = frame.serialize(mask=masked)
        if self.compressed and frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            data = bytes((data[0] | RSV1,)) + data[1:]
        self.data += data
        self.frames.add(len(self.data))
        if not in_message:
            self.messages.add(len(self.data))


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Messages in fragments with control frames before, between and after, as RFC 6455 §5.4 allows."""
    masked = draw(st.booleans())
    found = Stream(draw(st.booleans()))
    for _ in range(draw(st.integers(0, 4))):
        fragments = draw(st.integers(0, 3))
        for at in range(fragments):
            last = at == fragments - 1
            opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY])) if not at else Opcode.CONT
            payload = b"\x88" * draw(SIZES)
            frame = Frame(opcode, payload, fin=last)
            found.add(frame, masked=masked, in_message=not last)
            if draw(st.booleans()):
                ping = Frame(draw(st.sampled_from([Opcode.PING, Opcode.PONG])), b"p" * (at * 60))
                found.add(ping, masked=masked, in_message=not last)
    return found


def cuts(data: st.DataObject, size: int) -> list[int]:
    drawn = data.draw(st.lists(st.integers(0, size), max_size=8))
    return [0, *sorted(drawn), size]


@given(streams(), st.data())
def test_a_boundary_is_where_a_frame_and_where_a_message_ends(
    stream: Stream, data: st.DataObject
) -> None:
    reader = FrameReader()
    at = cuts(data, len(stream.data))
    for begin, end in pairwise(at):
        reader.feed(stream.data[begin:end])
        assert reader.between_frames == (end in stream.frames)
        assert reader.between_messages == (end in stream.messages)
    assert not reader.unreadable


@given(streams(), st.data())
def test_feed_message_stops_at_the_first_end_of_a_message(
    stream: Stream, data: st.DataObject
) -> None:
    reader = FrameReader()
    begin, end = sorted(data.draw(st.integers(0, len(stream.data))) for _ in range(2))
    reader.feed(stream.data[:begin])
    ends = [one for one in stream.messages if begin < one <= end]
    found = reader.feed_message(stream.data[begin:end])
    assert found == (min(ends) - begin if ends else -1)


@given(
    st.sampled_from([1000, 1001, 1011, 1012, 3000, 4999]),
    st.text(max_size=30),
    st.booleans(),
    st.data(),
)
def test_the_code_of_a_close_frame_is_known_once_all_of_it_has_come(
    code: int, reason: str, masked: bool, data: st.DataObject
) -> None:
    frame = Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=masked)
    reader = FrameReader()
    at = cuts(data, len(frame))
    for begin, end in pairwise(at):
        reader.feed(frame[begin:end])
        assert reader.close_code == (code if end == len(frame) else 0)
        assert reader.between_frames == (end == 0)


def test_a_close_frame_without_a_code_has_1005() -> None:
    reader = FrameReader()
    reader.feed(b"\x88\x00")
    assert reader.close_code == 1005


@pytest.mark.parametrize(
    "begins",
    [
        b"\x80\x01x",  # continues no message
        b"\x01\x01x\x81\x01y",  # a message within another
        b"\x83\x00",  # an opcode that is reserved
        b"\x8b\x00",
        b"\x09\x00",  # a control frame in fragments
        b"\x89\x7e\x00\x80",  # a control frame that is too long
        b"\x88\x7f",
    ],
)
def test_what_is_no_frame_has_no_boundary(begins: bytes) -> None:
    reader = FrameReader()
    reader.feed(begins + b"\x81\x01x" * 4)
    assert reader.unreadable
    assert not reader.between_frames


@given(st.binary(max_size=200), st.data())
def test_any_bytes_mean_the_same_wherever_they_are_cut(whole: bytes, data: st.DataObject) -> None:
    one, other = FrameReader(), FrameReader()
    one.feed(whole)
    at = cuts(data, len(whole))
    for begin, end in pairwise(at):
        other.feed(whole[begin:end])
    assert (one.unreadable, one.close_code, one.between_messages) == (
        other.unreadable,
        other.close_code,
        other.between_messages,
    )


@pytest.mark.parametrize("mask", [b"", b"\x01\x02\x03\x04"])
def test_our_close_frame_is_one_that_others_read(mask: bytes) -> None:
    ours = close_frame(1012, mask)
    assert ours == (b"\x88\x82" + mask + b"\x02\xf6" if mask else b"\x88\x02\x03\xf4")
    reader = FrameReader()
    reader.feed(ours)
    assert reader.close_code == 1012
