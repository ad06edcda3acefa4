"""Server-sent events in whatever pieces they come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.client.events import LARGEST, Message, Parser, TooLong

STREAM = (
    b"retry: 1000\n\n: still here\n\nid: 17\nevent: record\ndata: {\"what\": \"step\"}\n\n"
    b"event: release\r\ndata:{}\r\ndata: more\r\n\r\ndata: \xc3\xa9\n\nevent: lonely\n\n"
)  # fmt: skip
MESSAGES = [
    Message("record", '{"what": "step"}', "17"),
    Message("release", "{}\nmore"),
    Message("message", "é"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    parser, found, edges = Parser(), [], [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        found += parser.feed(STREAM[start:end])
    assert found == MESSAGES


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_bytes_are_read(chunks: list[bytes]) -> None:
    parser = Parser()
    for chunk in chunks:
        parser.feed(chunk)
    assert parser.feed(b"\n\n\ndata: x\n\n")[-1].data == "x"


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"])
def test_an_event_without_an_end(piece: bytes) -> None:
    parser = Parser()
    with pytest.raises(TooLong):
        list(map(parser.feed, [piece] * (LARGEST // 65536 + 1)))
