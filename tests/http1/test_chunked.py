"""Chunked bodies: the decoder against an encoder, h11 and malformed bodies."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.chunked import (
    MAX_EXTENSIONS,
    ChunkedDecoder,
    ChunkedError,
    encode_chunk,
    last_chunk,
)

parts_of = st.lists(st.binary(min_size=1, max_size=50), max_size=6)
extensions = st.sampled_from([b"", b";a", b";a=b", b' ; a="b;\\" c" ;d', b";a=1;b=2"])


def slices(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(parts_of, st.lists(st.integers(0, 10**6), max_size=12), extensions, st.binary(max_size=20))
def test_decoder_returns_the_same_for_any_slices(
    parts: list[bytes], cuts: list[int], extension: bytes, after: bytes
) -> None:
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    body += b"00" + extension + b"\r\nX-A: b\r\nHost: evil\r\nX-C: d\r\n\r\n"
    decoder = ChunkedDecoder()
    got = b""
    fed = 0
    for piece in slices(body, cuts):
        assert not decoder.done
        got += decoder.feed(piece)
        fed += len(piece)
    assert decoder.done
    assert got == b"".join(parts)
    assert decoder.trailers == b"X-A: b\r\nX-C: d\r\n"
    whole = ChunkedDecoder()
    assert whole.feed(body + after) == b"".join(parts)
    assert whole.rest == after


@given(parts_of)
def test_encoder_writes_what_h11_reads(parts: list[bytes]) -> None:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(reader.next_event(), h11.Request)
    reader.receive_data(b"".join(map(encode_chunk, parts)) + last_chunk(b"X-A: b\r\n"))
    got = b""
    while isinstance(event := reader.next_event(), h11.Data):
        got += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert got == b"".join(parts)
    assert list(event.headers) == [(b"x-a", b"b")]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_decoder_judges_any_bytes_alike_for_any_slices(data: bytes, cuts: list[int]) -> None:
    def verdict(pieces: list[bytes]) -> tuple[bytes, bool] | None:
        decoder = ChunkedDecoder()
        got = b""
        try:
            for piece in pieces:
                got += decoder.feed(piece)
                if decoder.done:
                    break
        except ChunkedError:
            return None
        return got, decoder.done

    whole, cut = verdict([data]), verdict(slices(data, cuts))
    if whole is not None and whole[1]:
        assert cut == whole
    if whole is None:
        assert cut is None or not cut[1]


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n", b"x\r\n", b"+1\r\n", b"-1\r\n", b" 1\r\n", b"1 \r\n", b"0x1\r\n", b"1\n", b"1_0\r\n",
        b"1\r\nab\r\n", b"1\r\na\n", b"1\r\na\rb", b"1;\r\n", b"1;=a\r\n", b'1;a="\r\n', b"1;a=b c\r\n",
        b"1" * 16 + b"\r\n", b"1;" + b"a" * 5000, b"0\r\nA : b\r\n\r\n", b"0\r\nA\r\n\r\n",
        b"0\r\nA: b\n\r\n", b"0\r\n A: b\r\n\r\n", b"0\r\nA: \x00\r\n\r\n", b"0\r\n" + b"A: b\r\n" * 5000,
        b"\xd9\xa1\r\n",
    ],
)  # fmt: skip
def test_decoder_refuses_ambiguous_bodies(body: bytes) -> None:
    with pytest.raises(ChunkedError):
        ChunkedDecoder().feed(body)


BLANKS = b"0\r\nX-A \t: b :c\r\nContent-Length : 3\r\nX-D: e\r\n\r\n"


def test_blanks_before_the_colon_of_a_trailer_are_removed_from_responses() -> None:
    """RFC 9112 §5.1."""
    decoder = ChunkedDecoder(mends=True)
    assert decoder.feed(BLANKS) == b""
    assert decoder.done
    assert decoder.trailers == b"X-A: b :c\r\nX-D: e\r\n"


@pytest.mark.parametrize("body", [BLANKS, b"0\r\nA b: c\r\n\r\n"])
def test_blanks_in_the_name_of_a_trailer_of_a_request_are_refused(body: bytes) -> None:
    with pytest.raises(ChunkedError, match="malformed trailer"):
        ChunkedDecoder().feed(body)


@pytest.mark.parametrize("line", [b"A b: c", b" A: c", b" : c", b"A"])
def test_no_other_trailer_is_mended(line: bytes) -> None:
    with pytest.raises(ChunkedError, match="malformed trailer"):
        ChunkedDecoder(mends=True).feed(b"0\r\n" + line + b"\r\n\r\n")


def test_trailers_with_dropped_names_are_left_out() -> None:
    decoder = ChunkedDecoder(frozenset((b"x-hop",)))
    assert decoder.feed(b"0\r\nA: b\r\nX-Hop: 1\r\nx-hop: 2\r\nX-Hops: 3\r\n\r\n") == b""
    assert decoder.trailers == b"A: b\r\nX-Hops: 3\r\n"


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_extensions_may_be_16_kib_longer_than_the_payload(size: int) -> None:
    payload = bytes(size)
    chunk = b"%x" % size + b";a" * 64 + b"\r\n" + payload + b"\r\n"
    allowed = MAX_EXTENSIONS // max(128 - size, 1)
    decoder = ChunkedDecoder()
    for _ in range(min(allowed, 20)):
        decoder.feed(chunk)
    if size < 128:
        with pytest.raises(ChunkedError, match="extensions"):
            decoder.feed(chunk * allowed)
