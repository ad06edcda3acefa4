"""Requests made from the grammar of RFC 9112, and mutants of them."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND")
IN_TARGET = b"abcxyzABC019-._~!$&'()*+,;=:@/"
HOSTS = (
    b"h", b"example.org", b"example.org:8080", b"127.0.0.1", b"[::1]", b"[2001:db8::7]:443",
    b"a-b_c.d:", b"[v1.x:y]", b"a%20b",
)  # fmt: skip
NAMES = (
    b"Accept", b"User-Agent", b"X", b"x-trace", b"Content-Type", b"Cookie", b"Referer",
    b"!#$%&'*+-.^_`|~", b"my_field", b"Forwarded", b"X-Forwarded-For", b"TE", b"Keep-Alive",
    b"Trailer", b"Via", b"traceparent",
)  # fmt: skip
VALUES = (
    b"", b"a", b"a b", b"text/html;q=0.9, */*", b"caf\xc3\xa9", b"\xa0\x85", b'"quoted \\" text"',
    b"1", b"a\tb", b"websocket", b"trailers",
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"x=1; y=2",
)  # fmt: skip
SPACE = (b"", b" ", b"\t", b"  ", b" \t")
PROBE = b"GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n"
"""A request that is data: in bodies, and behind what is mutated."""

LINES = (
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 34", b"Content-Length:5",
    b"Content-Length : 5", b"Content-Length: +5", b"Content-Length: -0", b"Content-Length: 5, 5",
    b"Content-Length: 5 5", b"content-length: 05", b"Content-Length: 0x5", b"Content-Length: 1_0",
    b"Content-Length:", b"Content-Length: 5;", b"Content-Length: 18446744073709551616",
    b"Content-Length: 99999999999999999999999", b"Content-Length: \xa05", b"Content_Length: 5",
    b"Content-Length\x00: 5", b"Content-Length\xa0: 5", b"\xefContent-Length: 5",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding:chunked", b"Transfer-Encoding: Chunked ",
    b"transfer-encoding: CHUNKED", b"Transfer-Encoding: identity", b"Transfer-Encoding: x, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, x", b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding: chunked\x85", b"Transfer-Encoding: chunked;q=1",
    b'Transfer-Encoding: "chunked"', b"Transfer_Encoding: chunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked", b"Transfer-Encoding", b"Transfer-Encoding:",
    b"Transfer-Encoding: ,chunked", b"TRANSFER-ENCODING: chunked\r",
    b"Transfer-Encoding: chun\rked", b"Host: other", b"Host:", b"Host: a,b", b"Host: a b",
    b"Host: a/b", b"Host: u@h", b"Host: h:99999", b"Host: h:x", b"Host : h", b"Host: [::1",
    b"Host: [:::1]", b"host: h", b"Host: \xffh", b"Host: h\\x", b"H\x00st: h", b"Connection: close",
    b"Connection: keep-alive", b"Connection: Content-Length", b"Connection: X, , close",
    b"Connection: Transfer-Encoding, Host", b"Connection: upgrade", b"Connection: TE",
    b'Connection: "close"', b"Connection: \x85close", b"Upgrade: websocket", b"Upgrade: h2c",
    b"Upgrade: a b", b"HTTP2-Settings: AAMAAABk", b"Expect: 100-continue", b"Expect: 200-ok",
    b"TE: trailers", b"Max-Forwards: 0", b"Max-Forwards: 3", b"Max-Forwards: x",
    b"X_Forwarded_For: 1.2.3.4", b" folded", b"\tfolded", b"", b" ", b":", b": v", b"name",
    b"n ame: v", b"n\xe9: v", b"n: a\x00b", b"n: a\x7fb", b"n: a\x1bb", b"n: a\rb", b"n: a\nb",
    b"n: a\r\r", b"User-Agent: x", b"User-Agent : x", b"Content-Type: a\rb", b"Server: a\nb",
    b"Sec-WebSocket-Key1: 1", b"Max-Forwards: 1", b"Authorization: NTLM x", b"Connection: T",
    b"0", b"GET /smuggled HTTP/1.1",
)  # fmt: skip
BYTES = (
    *map(bytes, zip(b"\r\n\0 \t:;,\"#<>\\/?*@%[]{}0159afgAZ_-+.", strict=True)),
    *map(bytes, zip(b"\x01\x0b\x0c\x1b\x7f\x80\x85\xa0\xff", strict=True)),
    b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r\n", b"0\r\n\r\n",
)  # fmt: skip
TARGETS = (
    b"*", b"h:80", b"http://h/", b"HTTP://h", b"http://u@h/", b"http:///", b"ftp://h/",
    b"http://a,b/", b"//h/x", b"/a#b", b"/a b", b"/a\\b", b"/{a}", b"/a?{b}", b"/%zz", b"/%",
    b"/?%", b"/\xff", b"?x", b"", b"/a\tb", b"x", b"https://[::1]:8/?q", b"http://h:99999/",
    b"/..//..", b"/%00",
)  # fmt: skip
VERSIONS = (
    b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/01.1",
    b"HTTP/1.01", b"HTTP/1", b"HTTP/1.10", b"HTTP/1,1", b"RTSP/1.0", b"", b"HTTP/1.1\t",
)  # fmt: skip
BAD_METHODS = (b"get", b"FROB", b"CONNECT", b"TRACE", b"G\0T", b"", b"PRI", b"(X)", b"M-X")


class Meant(NamedTuple):
    """What a request is to mean to the upstream."""

    method: bytes
    target: bytes
    body: bytes


def request(source: random.Random) -> tuple[bytes, Meant]:
    """Return a valid request that keeps its connection, and what it means."""
    pick = source.choice
    method = pick(METHODS)
    path = b"/" + bytes(source.choices(IN_TARGET, k=pick((0, 1, 8, 40))))
    query = pick((b"", b"", b"?", b"?a=1&b[]=%20", b"?/?"))
    target = meant = path + query
    host = pick(HOSTS)
    if source.random() < 0.1:
        target = pick((b"http://", b"HTTPS://")) + pick(HOSTS) + target
    fields = [_line(source, b"Host", host)]
    for name in dict.fromkeys(pick(NAMES) for _ in range(pick((0, 0, 1, 2, 5)))):
        fields.append(_line(source, name, pick(VALUES)))
    body = framed = b""
    way = source.random()
    if way < 0.3:
        body = _body(source)
        digits = pick((b"%d", b"%d", b"0%d")) % len(body)
        fields.append(_line(source, _cased(source, b"Content-Length"), digits))
        framed = body
    elif way < 0.6:
        body = _body(source)
        fields.append(
            _line(source, _cased(source, b"Transfer-Encoding"), _cased(source, b"chunked"))
        )
        framed = chunks(source, body)
    if source.random() < 0.1:
        name = pick(
            (b"User-Agent", b"Content-Type", b"ETag", b"Sec-WebSocket-Key1", b"User-Agent~")
        )
        fields += [_line(source, name, pick(VALUES)) for _ in range(2)]
    source.shuffle(fields)
    if source.random() < 0.1:
        fields.append(
            _line(source, b"Connection", pick((b"keep-alive", b"X , ,foo", b"TE,x-trace")))
        )
    lead = pick((b"", b"", b"", b"", b"\r\n", b"\r\n\r\n"))
    version = pick((b"1.1", b"1.1", b"1.1", b"1.2"))
    head = (
        lead + method + b" " + target + b" HTTP/" + version + b"\r\n" + b"".join(fields) + b"\r\n"
    )
    return head + framed, Meant(method, meant, body)


def _body(source: random.Random) -> bytes:
    return source.choice(
        (b"", b"x", PROBE, b"0\r\n\r\n", b"\r\n\r\n", bytes(range(256)), b"a" * 1000)
    )


def _line(source: random.Random, name: bytes, value: bytes) -> bytes:
    before, after = (b" ", b"") if source.random() < 0.8 else source.choices(SPACE, k=2)
    return name + b":" + before + value + after + b"\r\n"


def _cased(source: random.Random, text: bytes) -> bytes:
    return source.choice((text, text, text.upper(), text.lower(), text.swapcase()))


def chunks(source: random.Random, body: bytes) -> bytes:
    """Return a body in chunks as a client may write them."""
    pick = source.choice
    parts = []
    at = 0
    while at < len(body):
        size = min(pick((1, 2, 7, 100, 1000)), len(body) - at)
        digits = pick((b"%x", b"%X", b"0%x", b"0000%x")) % size
        extension = pick((b"", b"", b"", b";a", b";a=b", b' ; a = "x;\\""', b";a;b=c"))
        parts.append(digits + extension + b"\r\n" + body[at : at + size] + b"\r\n")
        at += size
    trailers = pick((b"", b"", b"", b"T: x\r\n", b"Content-Length: 5\r\nT:\r\n", b"Host: t\r\n"))
    return b"".join(parts) + pick((b"0", b"000", b"0;a=b")) + b"\r\n" + trailers + b"\r\n"


def mutant(source: random.Random, data: bytes) -> bytes:
    """Return ``data`` with one to four changes, most of which make it malformed."""
    for _ in range(source.choice((1, 1, 1, 2, 3, 4))):
        data = source.choice(_WAYS)(source, data)
    return data


def _insert(source: random.Random, data: bytes) -> bytes:
    at = _place(source, data)
    return data[:at] + source.choice(BYTES) + data[at:]


def _delete(source: random.Random, data: bytes) -> bytes:
    at = _place(source, data)
    return data[:at] + data[at + source.choice((1, 1, 1, 2, 4)) :]


def _replace(source: random.Random, data: bytes) -> bytes:
    at = _place(source, data)
    return data[:at] + source.choice(BYTES) + data[at + 1 :]


def _copy(source: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    lines.insert(source.randrange(len(lines) + 1), source.choice(lines))
    return b"".join(lines)


def _field(source: random.Random, data: bytes) -> bytes:
    ends = [match.end() for match in re.finditer(rb"\r\n", data[: data.find(b"\r\n\r\n") + 2])]
    at = source.choice(ends or [0])
    return data[:at] + source.choice(LINES) + b"\r\n" + data[at:]


def _first_line(source: random.Random, data: bytes) -> bytes:
    line, mark, rest = data.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3:
        return data
    way = source.randrange(4)
    if way < 2:
        words[1] = source.choice(TARGETS)
    elif way == 2:
        words[2] = source.choice(VERSIONS)
    else:
        words[0] = source.choice(
            (b"get", b"FROB", b"CONNECT", b"TRACE", b"G\0T", b"", b"PRI", b"(X)", b"M-X")
        )
    return b" ".join(words) + mark + rest


def _size(source: random.Random, data: bytes) -> bytes:
    """Change a number: of Content-Length or of a chunk."""
    found = list(re.finditer(rb"(?<=[\n ])[0-9a-fA-F]+(?=[\r;])", data))
    if not found:
        return data
    match = source.choice(found)
    number = source.choice(
        (b"0", b"1", b"%d" % (len(data) // 2), b"ffffffffffffffff", b"7fffffff", b"0x1", b"+1", b"-1",
         b" 1", b"1 ", b"1g", b"1_", b"", b"00000000000000001")
    )  # fmt: skip
    return data[: match.start()] + number + data[match.end() :]


def _place(source: random.Random, data: bytes) -> int:
    """Return an offset, in the head more often than not."""
    head = data.find(b"\r\n\r\n") + 4
    return source.randrange((head if source.random() < 0.7 else len(data)) or 1)


_WAYS = (_insert, _delete, _replace, _copy, _field, _field, _first_line, _size)
