"""Where an endless body may be ended, wherever its bytes are cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.endless import ENCODED, ENDS, EVENTS, LINES, BoundaryReader
from canaryproxy.http1.response import ResponseParser


def ends_an_event(body: bytes) -> bool:
    """Tell by the parsing rules of the HTML Standard (§9.2.5) whether the last line is empty."""
    lines = re.split(rb"\r\n|\n|\r", body)
    return not body or (len(lines) > 2 and lines[-1] == b"" and lines[-2] == b"") or body in BLANKS


def without_comments(body: bytes) -> bytes:
    """Leave out the lines that begin with a colon and have ended."""
    whole = re.findall(rb"[^\r\n]*(?:\r\n|\n|\r)", body)
    rest = body[sum(map(len, whole)) :]
    return b"".join([line for line in whole if not line.startswith(b":")]) + rest


BLANKS = (b"\n", b"\r", b"\r\n")
PIECES = st.sampled_from([b"data: x", b":", b"\n", b"\r", b"\r\n", b"\n\n"])


@given(st.lists(PIECES, max_size=12).map(b"".join), st.data())
def test_an_event_ends_with_an_empty_line(body: bytes, data: st.DataObject) -> None:
    """And comments after it change nothing; one whose line is cut may hide the end, never feign one."""
    reader = BoundaryReader(EVENTS)
    at = sorted({0, *data.draw(st.lists(st.integers(0, len(body)), max_size=5)), len(body)})
    for begin, end in pairwise(at):
        reader.feed(body[begin:end])
    if ends_an_event(body):
        assert reader.at_boundary
    if reader.at_boundary:
        assert ends_an_event(without_comments(body))


@given(st.lists(st.sampled_from([b":\n", b": ping\r\n", b":" + b"x" * 99 + b"\n"]), max_size=9))
def test_a_stream_that_sends_only_heartbeats_can_be_ended_after_each(beats: list[bytes]) -> None:
    reader = BoundaryReader(EVENTS)
    for one in beats:
        reader.feed(one)
        assert reader.at_boundary
    reader.feed(b"data: 1\n")
    for one in beats:
        reader.feed(one)
        assert not reader.at_boundary
    reader.feed(b"\n")
    assert reader.at_boundary


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(PIECES, max_size=12).map(b"".join))
def test_a_stream_is_cut_at_the_first_end_of_an_event(before: bytes, data: bytes) -> None:
    reader = BoundaryReader(EVENTS)
    reader.feed(before)
    at_boundary = reader.at_boundary
    found = reader.feed_record(data)
    if at_boundary:
        assert found == 0
    elif ends_an_event(before):
        raise AssertionError(before)
    elif found < 0:
        ends = [at for at in range(1, len(data) + 1) if ends_an_event(before + data[:at])]
        assert not ends
    else:
        assert ends_an_event(before + data[:found])
        sooner = [at for at in range(1, found) if ends_an_event(before + data[:at])]
        # CRLF after an end of line: the CR alone is an end, too.
        assert sooner in ([], [found - 1])


def test_records_end_with_their_line_and_coded_bodies_anywhere() -> None:
    lines, coded = BoundaryReader(LINES), BoundaryReader(ENCODED)
    for reader in (lines, coded):
        reader.feed(b'{"a": 1}\n{"b"')
    assert not lines.at_boundary
    assert coded.at_boundary
    assert lines.feed_record(b": ") == -1
    assert lines.feed_record(b"2}\n{}\n") == 3


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (b"Content-Type: text/event-stream; charset=utf-8\r\n", EVENTS),
        (b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", EVENTS),
        (b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n", ENCODED),
        (b"Content-Encoding: identity\r\nContent-Type: text/event-stream\r\n", EVENTS),
        (b"Content-Type: text/event-stream\r\nContent-Length: 9\r\n", ENDS),
        (b"Content-Type: Application/X-NDJSON\r\n", LINES),
        (b"Content-Type: application/zip\r\nTransfer-Encoding: chunked\r\n", ENDS),
        (b"Content-Type: text/html\r\nContent-Encoding: gzip\r\n", ENDS),
        (b"", ENDS),
    ],
)
def test_a_response_is_endless_by_its_type_and_without_a_length(fields: bytes, kind: int) -> None:
    parser = ResponseParser(streams=(b"application/x-ndjson",))
    assert parser.parse(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").endless == kind
