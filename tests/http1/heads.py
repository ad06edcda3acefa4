"""Heads of messages, well formed and not, for tests of both parsers."""

from __future__ import annotations

import re

from hypothesis import strategies as st

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
LINE = re.compile(TOKEN + rb":[\t \x21-\x7e\x80-\xff]*")

names = st.sampled_from(
    [
        b"A", b"X-Long-Name", b"Accept", b"Cookie", b"Connection", b"Keep-Alive", b"TE", b"Via", b"Upgrade",
        b"Content-Length", b"Transfer-Encoding", b"Host", b"Expect", b"Forwarded", b"X-Forwarded-For",
        b"content-length", b"TRANSFER-ENCODING", b"Content-Length ", b" Transfer-Encoding", b"Content_Length",
    ]
)  # fmt: skip
values = st.sampled_from(
    [
        b"", b"b", b"5", b"05", b"5, 5", b"+5", b"chunked", b"Chunked", b"gzip, chunked", b"close", b"h",
        b"keep-alive, A", b"Content-Length", b"upgrade", b"100-continue", b"a=1; b=2", b"\tb \t",
        b"caf\xe9", b"a\rb", b"a\nb", b"a\x00b", b"a\r\n b", b"\x0bchunked", b"trailers", b"websocket",
    ]
)  # fmt: skip
colons = st.sampled_from([b": ", b":", b":\t", b" : ", b":  "])
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n"])
fields = st.lists(
    st.tuples(names, colons, values, st.just(b"\r\n") | ends).map(b"".join), max_size=5
).map(b"".join)


def strict(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a head, lower-case names; fails if a line is not exactly ``name: value``."""
    lines = head.split(b"\r\n")
    assert lines[-2:] == [b"", b""], head
    for line in lines[1:-2]:
        assert LINE.fullmatch(line), line
    pairs = [line.partition(b":") for line in lines[1:-2]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]


def values_of(found: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in found if key == name]
