"""HPACK: each rule of RFC 7541 that binds a decoder or an encoder, by its section, and the RFC's examples."""

from __future__ import annotations

import hpack
import pytest

from canaryproxy.http2.decoder import Decoder
from canaryproxy.http2.encoder import Encoder
from canaryproxy.http2.errors import COMPRESSION_ERROR, ConnectionFault
from canaryproxy.http2.events import HeadReceived
from canaryproxy.http2.frames import END_HEADERS, END_STREAM, HEADERS, frame
from tests.http2.peer import GET, block, client, server

LIST = 1 << 20


def decode(decoder: Decoder, hexes: str) -> list[tuple[bytes, bytes]]:
    return decoder.decode(bytes.fromhex(hexes)).fields


def refuses(decoder: Decoder, block: bytes) -> bool:
    with pytest.raises(ConnectionFault) as caught:
        decoder.decode(block)
    return caught.value.code == COMPRESSION_ERROR


C_REQUESTS = [
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            id="C.3",
        ),
        pytest.param(
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
            id="C.4",
        ),
    ],
)
def test_examples_of_requests(blocks: list[str]) -> None:
    decoder = Decoder(LIST)
    for one, fields in zip(blocks, C_REQUESTS, strict=True):
        assert decode(decoder, one) == fields


def test_example_of_responses_with_eviction_c_6() -> None:
    decoder = Decoder(LIST, 256)
    blocks = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97"
        "c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd"
        "5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ]
    dates = [b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT"]
    location = (b"location", b"https://www.example.com")
    cookie = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
    private = (b"cache-control", b"private")
    assert [decode(decoder, block) for block in blocks] == [
        [(b":status", b"302"), private, (b"date", dates[0]), location],
        [(b":status", b"307"), private, (b"date", dates[0]), location],
        [
            (b":status", b"200"),
            private,
            (b"date", dates[1]),
            location,
            (b"content-encoding", b"gzip"),
            (b"set-cookie", cookie),
        ],
    ]


MALFORMED = [
    ("2.3.3 index 0", b"\x80"),
    ("2.3.3 an index beyond both tables", b"\xbe"),
    ("2.3.3 a name beyond both tables", b"\x7f\x00\x01a"),
    ("4.2 a size update after a field", b"\x82\x20"),
    ("4.2 a size update after an entry of the dynamic table", b"\x40\x01a\x011\x20"),
    ("5.1 an integer that does not end", b"\xff\x80"),
    ("5.1 an integer of too many octets", b"\xff" + b"\x80" * 6 + b"\x00"),
    ("5.1 an integer that is too large", b"\xff\xff\xff\xff\xff\xff\x7f"),
    ("5.2 a string longer than its block", b"\x00\x05abc"),
    ("5.2 no string at all", b"\x00"),
    ("5.2 a name without a value", b"\x00\x01a"),
    ("5.2 padding of more than 7 bits", b"\x00\x82\x1f\xff\x01a"),
    ("5.2 padding that is not ones", b"\x00\x81\x18\x01a"),
    ("5.2 EOS", b"\x00\x84\xff\xff\xff\xff\x01a"),
    ("6.3 a size above the limit", b"\x3f\xe2\x1f"),
]


@pytest.mark.parametrize("block", [pytest.param(one, id=said) for said, one in MALFORMED])
def test_a_malformed_block_is_a_compression_error(block: bytes) -> None:
    assert refuses(Decoder(LIST), block)


def test_2_3_2_the_newest_entry_has_the_lowest_index() -> None:
    decoder = Decoder(LIST)
    decoder.decode(b"\x40\x01a\x011\x40\x01b\x012")
    assert decoder.decode(b"\xbe\xbf").fields == [(b"b", b"2"), (b"a", b"1")]


def test_4_2_a_smaller_table_is_announced_by_the_encoder_smallest_first() -> None:
    encoder, theirs = Encoder(), hpack.Decoder()
    for _ in range(3):
        theirs.decode(encoder.encode([(b"x-long", b"v" * 60)]))
    encoder.limit(0)
    encoder.limit(512)
    block = encoder.encode([(b"a", b"b")])
    assert block.startswith(b"\x20\x3f\xe1\x03")
    assert theirs.decode(block, raw=True) == [(b"a", b"b")]
    assert theirs.header_table_size == 512


def test_4_2_a_size_update_of_0_empties_the_table() -> None:
    decoder = Decoder(LIST)
    decoder.decode(b"\x40\x01a\x011")
    decoder.decode(b"\x20\x82")
    assert refuses(decoder, b"\xbe")


def test_4_3_and_4_4_the_oldest_entries_are_evicted_and_a_huge_one_empties_the_table() -> None:
    decoder = Decoder(LIST, 100)
    decoder.decode(b"\x40\x01a\x011\x40\x01b\x012\x40\x01c\x013")  # 34 bytes each
    assert decoder.decode(b"\xbe\xbf").fields == [(b"c", b"3"), (b"b", b"2")]
    assert refuses(decoder, b"\xc0")
    assert decoder.decode(b"\x40\x01d\x7f\x1b" + b"4" * 154).fields == [(b"d", b"4" * 154)]
    assert refuses(decoder, b"\xbe")


def test_4_4_an_entry_may_refer_to_the_name_of_one_that_it_evicts() -> None:
    decoder = Decoder(LIST, 40)
    decoder.decode(b"\x40\x04name\x011")
    assert decoder.decode(b"\x7e\x02ab").fields == [(b"name", b"ab")]
    assert decoder.decode(b"\xbe").fields == [(b"name", b"ab")]


def test_6_2_2_a_literal_without_indexing_does_not_change_the_table() -> None:
    decoder = Decoder(LIST)
    decoder.decode(b"\x00\x01a\x011")
    assert refuses(decoder, b"\xbe")


def test_6_2_3_a_field_that_is_never_indexed_stays_so() -> None:
    decoder = Decoder(LIST)
    decoded = decoder.decode(b"\x10\x06secret\x01x")
    assert decoded.never_indexed == {b"secret"}
    encoder = Encoder()
    for _ in range(3):
        again = encoder.encode(decoded.fields, b"", decoded.never_indexed)
        assert again == b"\x10\x06secret\x01x"


def test_6_2_3_it_stays_so_over_a_head_of_http_1() -> None:
    near, far = server(), client()
    secret = frame(HEADERS, END_HEADERS | END_STREAM, 1, block(GET) + b"\x10\x03x-k\x01v")
    (event,) = near.receive(secret)
    assert isinstance(event, HeadReceived)
    head = event.head
    for _ in range(3):
        assert far.open(head.text, b"http", ends=True, never_indexed=head.never_indexed)
        assert b"\x10\x03x-k\x01v" in far.take()


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"set-cookie"])
def test_7_1_3_what_is_secret_by_its_name_is_never_indexed(name: bytes) -> None:
    encoder = Encoder()
    for _ in range(3):
        (field,) = hpack.Decoder().decode(encoder.encode([(name, b"value")]), raw=True)
        assert isinstance(field, hpack.NeverIndexedHeaderTuple)
