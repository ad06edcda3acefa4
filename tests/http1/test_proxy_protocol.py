"""The PROXY protocol: valid headers by haproxy's proxy-protocol.txt, and everything else."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import TcpAddress
from canaryproxy.http1.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    MalformedHeader,
    ProxyHeader,
    parse,
)

MARK = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(body: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return MARK + struct.pack("!BBH", command, family, size) + body


INET = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + b"\x30\x39\x01\xbb"
INET6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + b"\x30\x39\x01\xbb"
)
TLV = b"\x04\x00\x05hello" + b"\x02\x00\x0bexample.org"


def header_of(header: bytes, source: str, destination: str) -> ProxyHeader:
    return ProxyHeader(len(header), True, TcpAddress(source, 12345), TcpAddress(destination, 443))


LINE_4 = b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"
LINE_6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n"
LEGAL = {
    LINE_4: header_of(LINE_4, "192.0.2.1", "198.51.100.2"),
    LINE_6: header_of(LINE_6, "2001:db8::1", "2001:db8::2"),
    b"PROXY UNKNOWN\r\n": ProxyHeader(15, has_addresses=False),
    b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n": ProxyHeader(35, has_addresses=False),
    v2(INET): header_of(v2(INET), "192.0.2.1", "198.51.100.2"),
    v2(INET + TLV): header_of(v2(INET + TLV), "192.0.2.1", "198.51.100.2"),
    v2(INET6, family=0x21): header_of(v2(INET6, family=0x21), "2001:db8::1", "2001:db8::2"),
    v2(bytes(216) + TLV, family=0x31): ProxyHeader(len(v2(bytes(216) + TLV)), has_addresses=True),
    v2(b"", command=0x20, family=0): ProxyHeader(16, has_addresses=False),
    v2(INET, command=0x20): ProxyHeader(28, has_addresses=False),
    v2(b"anything", family=0): ProxyHeader(24, has_addresses=False),
}


@pytest.mark.parametrize(("header", "expected"), LEGAL.items())
def test_parse_reads_a_header_in_any_pieces_and_before_any_bytes(
    header: bytes, expected: ProxyHeader
) -> None:
    assert parse(header) == expected
    assert parse(header + b"GET / HTTP/1.1\r\n") == expected
    for length in range(len(header)):
        assert parse(header[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.2 12345 443\r\n",
        b"PROXY\tTCP4 192.0.2.1 198.51.100.2 12345 443\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 12345 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 \r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 12345 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 12345 443\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 12345 443\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 12345 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 12345 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 012 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 12345 443\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * MAX_V1,
        v2(INET, command=0x11),
        v2(INET, command=0x31),
        v2(INET, command=0x22),
        v2(INET, family=0x12),
        v2(INET, family=0x41),
        v2(INET[:-1]),
        v2(INET6[:-1], family=0x21),
        v2(bytes(215), family=0x31),
        v2(b"", length=MAX_V2),
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
    ],
)
def test_parse_refuses_malformed_headers(data: bytes) -> None:
    with pytest.raises(MalformedHeader):
        parse(data)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda rest: MARK + rest)
    | st.binary(max_size=120).map(lambda rest: b"PROXY " + rest)
)
def test_parse_reads_waits_or_refuses_any_bytes(data: bytes) -> None:
    try:
        found = parse(data)
    except MalformedHeader:
        with pytest.raises(MalformedHeader):  # more bytes do not make it better
            parse(data + b"\r\n")
        return
    if found is not None:
        assert 0 < found.size <= len(data)
        assert parse(data[: found.size]) == found
    else:
        assert len(data) < MAX_V2
