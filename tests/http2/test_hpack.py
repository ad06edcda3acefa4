"""Our HPACK against the library ``hpack``: what one encodes the other decodes, whatever came before."""

from __future__ import annotations

import hpack
from hpack.exceptions import HPACKError
from hypothesis import example, given
from hypothesis import strategies as st

from canaryproxy.http2 import huffman
from canaryproxy.http2.decoder import Decoder
from canaryproxy.http2.encoder import Encoder
from canaryproxy.http2.errors import ConnectionFault

LIST = 1 << 20

names = st.sampled_from(
    [b":path", b":status", b"accept", b"cookie", b"date", b"x-a", b"x-b", b"authorization"]
) | st.binary(min_size=1, max_size=12)
values = st.sampled_from([b"", b"/", b"200", b"gzip, deflate", b"a" * 300]) | st.binary(max_size=40)
fields = st.lists(st.tuples(names, values), max_size=8)
sizes = st.integers(0, 5000)


@given(st.binary(max_size=200))
def test_huffman_coding_is_undone(text: bytes) -> None:
    assert huffman.decode(huffman.encode(text)) == text


@given(st.lists(fields | sizes, max_size=12))
def test_the_library_decodes_what_we_encode(steps: list[list[tuple[bytes, bytes]] | int]) -> None:
    ours, theirs, mine = Encoder(), hpack.Decoder(LIST), Decoder(LIST, 5000)
    theirs.max_allowed_table_size = 5000
    for step in steps:
        if isinstance(step, int):
            ours.limit(step)
            continue
        key = repr(step).encode()
        block = ours.known(key) or ours.encode(step, key)
        assert [tuple(one) for one in theirs.decode(block, raw=True)] == step
        assert mine.decode(block).fields == step


@given(st.lists(st.tuples(fields, st.booleans()) | sizes, max_size=12))
def test_we_decode_what_the_library_encodes(
    steps: list[tuple[list[tuple[bytes, bytes]], bool] | int],
) -> None:
    theirs, ours = hpack.Encoder(), Decoder(LIST, 5000)
    for step in steps:
        if isinstance(step, int):
            theirs.header_table_size = step
            continue
        sent, huffman_coded = step
        assert ours.decode(theirs.encode(sent, huffman=huffman_coded)).fields == sent


PIECES = st.sampled_from(
    [
        b"\x82",
        b"\xbe",
        b"\xbf",
        b"\x20",
        b"\x3f\xe1\x03",
        b"\x40\x01a\x011",
        b"\x00\x01b\x012",
        b"\x41\x83\xf1\xe3\xc2",
        b"\x10\x01c\x81\x07",
        b"\x3f\xe1\x1f",
        b"\x7f\x00\x01d",
    ]
)


@given(
    st.lists(
        st.lists(PIECES | st.binary(max_size=4), max_size=6).map(b"".join), min_size=1, max_size=8
    )
)
@example([b"\x40\x01a\x011", b"\xbe", b"\x40\x01b\x012", b"\xbe", b"\xbe"])
def test_we_judge_any_blocks_like_the_library(blocks: list[bytes]) -> None:
    """The last block that both understand and the first that neither does are the same ones."""
    theirs, ours = hpack.Decoder(LIST), Decoder(LIST)
    for block in blocks:
        try:
            expected = [tuple(one) for one in theirs.decode(block, raw=True)]
        except HPACKError:
            expected = None
        try:
            got = ours.decode(block).fields
        except ConnectionFault:
            got = None
        assert got == expected
        if got is None:
            break


@given(st.lists(st.integers(0, 9), max_size=40), st.lists(fields, min_size=10, max_size=10))
def test_blocks_that_are_remembered_mean_what_they_say(
    order: list[int], messages: list[list[tuple[bytes, bytes]]]
) -> None:
    """A decoder that forgets nothing and one that is asked for each block once give the same."""
    theirs, ours = hpack.Encoder(), Decoder(LIST)
    plain = hpack.Decoder(LIST)
    for number in order:
        block = theirs.encode(messages[number], huffman=False)
        assert ours.decode(block).fields == [tuple(f) for f in plain.decode(block, raw=True)]


@given(
    st.lists(st.integers(0, 9), max_size=40),
    st.lists(st.lists(PIECES, max_size=6).map(b"".join), min_size=10, max_size=10),
)
@example([0, 1, 0, 2, 1, 2], [b"\x40\x01a\x011", b"\x40\x01b\x012", b"\xbe", *[b""] * 7])
def test_blocks_that_come_again_mean_what_they_would_without_a_memory(
    order: list[int], blocks: list[bytes]
) -> None:
    remembers, library = Decoder(LIST, 4096), hpack.Decoder(LIST)
    for number in order:
        try:
            expected = [tuple(one) for one in library.decode(blocks[number], raw=True)]
        except HPACKError:
            return  # after an error a connection is over
        assert remembers.decode(blocks[number]).fields == expected


def test_a_block_that_does_not_read_the_table_is_decoded_once_whatever_it_inserts() -> None:
    decoder = Decoder(LIST)
    block = b"\x40\x01a\x011"
    first = decoder.decode(block)
    decoder.decode(b"\x40\x01b\x012")
    assert decoder.decode(block) is first
    assert decoder.decode(b"\xbe\xbf\xc0").fields == [(b"a", b"1"), (b"b", b"2"), (b"a", b"1")]


def test_a_block_of_indices_is_decoded_once() -> None:
    decoder, encoder = Decoder(LIST), hpack.Encoder()
    sent = [(b":method", b"GET"), (b"x-a", b"b")]
    first, second, third = [decoder.decode(encoder.encode(sent)) for _ in range(3)]
    assert first is not second
    assert second is third


def test_fields_beyond_the_bound_are_not_kept_and_the_table_is() -> None:
    decoder = Decoder(100)
    bomb = b"\x40\x01a\x3c" + b"x" * 60 + b"\xbe" * 10_000
    decoded = decoder.decode(bomb)
    assert decoded.too_large
    assert decoded.fields == [(b"a", b"x" * 60)]
    assert decoder.decode(b"\xbe").fields == [(b"a", b"x" * 60)]


def test_values_that_come_once_do_not_take_a_place_in_the_table() -> None:
    encoder = Encoder()
    returning = [(b"server", b"shop"), (b"x-frame-options", b"deny")]
    lengths = [
        len(encoder.encode([*returning, (b"x-trace", b"%016d" % number)])) for number in range(100)
    ]
    assert lengths[-1] < lengths[0] - 25
    assert len(set(lengths[2:])) == 1


def test_a_block_that_is_known_still_says_the_same_after_the_table_has_changed() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    messages = {
        number: [(b"x-%d" % part, b"v") for part in range(number, number + 3)]
        for number in range(6)
    }
    known = 0
    for number in [0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 2, 2, 2, 0, 1, 5, 5, 5, 2, 0, 5, 1]:
        key = b"%d" % number
        block = encoder.known(key)
        known += block is not None
        block = block or encoder.encode(messages[number], key)
        assert [tuple(one) for one in decoder.decode(block, raw=True)] == messages[number]
    assert known > 3
