"""What fuzzers feed: one function to a parser, with what must hold for any bytes.

Each takes bytes and raises ``AssertionError`` (or anything that the parser does not mean to raise).
``guided`` runs them under atheris, ``test_targets`` with the corpus and mutants.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from canaryproxy.config import TcpAddress
from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError, encode_chunk, last_chunk
from canaryproxy.http1.errors import InvalidResponse, Refusal
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.proxy_protocol import MalformedHeader
from canaryproxy.http1.proxy_protocol import parse as parse_proxy
from canaryproxy.http1.request import Request, RequestParser
from canaryproxy.http1.response import ResponseParser
from canaryproxy.proxy.sticky import CookieFinder, cookie_stripper

from .recorder import FIELD, Recorder

END: Final = b"Via: 1.1 canaryproxy\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-9]\d\d [\t -~\x80-\xff]*")
_HOP = re.compile(
    rb"(?i)(?:connection|keep-alive|transfer-encoding|upgrade|te|proxy-authenticate)\Z"
)
_MEANT = {407: (b"proxy-authenticate",), 426: (b"connection", b"upgrade")}
"""Fields of ``_HOP`` that responses with this status have to have."""
_peer = Peer("192.0.2.1", b"http", trusted=False, local=b"local:80")
_trusted = Peer("192.0.2.1", b"http", trusted=True, local=b"local:80")
_warm = RequestHeadCache(RequestParser(END))
_parser = RequestParser(END)
_responses = ResponseParser()
_find = CookieFinder("id").find
_strip = cookie_stripper("id")


def _parsed(heads: RequestParser | RequestHeadCache, head: bytes, peer: Peer) -> Request | int:
    try:
        return heads.parse(head, peer)
    except Refusal as refusal:
        status = refusal.status
    assert 400 <= status < 500 or status in (200, 501, 505, 508)
    return status


def request_head(data: bytes) -> None:
    """A head is refused, or forwarded so that the strict recorder accepts it; cache and parser agree."""
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    first = _parsed(_warm, head, _peer)
    again = _parsed(_warm, head, _peer)
    plain = _parsed(_parser, head, _peer)
    if isinstance(first, int) or isinstance(again, int) or isinstance(plain, int):
        assert first == again == plain, (first, again, plain)
        return
    assert first.head == again.head == plain.head, (first.head, again.head, plain.head)
    assert first.headers.cookie == plain.headers.cookie
    assert first.trace == plain.trace
    assert first.sampled == plain.sampled
    for name in ("host", "keep_alive", "length", "chunked", "expect", "upgrade"):
        assert getattr(first.fields, name) == getattr(plain.fields, name), name
    recorder = Recorder()
    if not (first.fields.length or first.fields.chunked):
        assert recorder.feed(first.head) == 1
        assert not recorder.rest
    else:
        assert recorder.feed(first.head) == 0


def answer_head(data: bytes) -> None:
    """A head is broken, or passed on as a status line and fields for this hop's end."""
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        response = _responses.parse(head)
    except InvalidResponse:
        return
    line, *lines = response.head.split(b"\r\n")
    assert _STATUS_LINE.fullmatch(line), line
    assert lines.pop() == b""
    lengths = []
    for one in lines:
        field = FIELD.fullmatch(one)
        assert field, one
        name = field[1].lower()
        assert not _HOP.fullmatch(name) or name in _MEANT.get(response.status, ()), one
        if name == b"content-length":
            lengths.append(field[2])
    assert len(lengths) <= 1, lengths
    assert not (lengths and response.chunked)
    assert not lengths or lengths[0] == b"%d" % response.length


def chunks(data: bytes) -> None:
    """A body means the same however it is cut, and after it was chunked anew."""
    whole = _decoded(data, len(data) or 1)
    assert whole == _decoded(data, 1)
    assert whole == _decoded(data, 7)
    if whole is None or not whole[3]:
        return
    payload, trailers, _, _ = whole
    anew = (encode_chunk(payload) if payload else b"") + last_chunk(trailers)
    assert _decoded(anew, len(anew)) == (payload, trailers, b"", True)
    request = b"POST / HTTP/1.1\r\nHost: h\r\nVia: x\r\nTransfer-Encoding: chunked\r\n\r\n" + anew
    recorder = Recorder()
    assert recorder.feed(request) == 1
    assert recorder.requests[0].body == payload


def _decoded(data: bytes, step: int) -> tuple[bytes, bytes, bytes, bool] | None:
    """Return payload, trailers, rest and whether it is done; ``None`` for an error."""
    decoder = ChunkedDecoder()
    payload = b""
    for at in range(0, len(data), step):
        try:
            payload += decoder.feed(data[at : at + step])
        except ChunkedError:
            return None
        if decoder.done:
            return payload, decoder.trailers, decoder.rest + data[at + step :], True
    return payload, b"", b"", False


def cookies(data: bytes) -> None:
    """A cookie that is taken out is not found any more, and the others stay."""
    value = re.sub(rb"[\r\n]", b"", data)
    found = _find(value)
    assert found is None or found in value
    lines = b"\r\nA: b\r\nCookie: " + value + b"\r\nC: d\r\n"
    rest = _strip(lines)
    assert rest.startswith(b"\r\nA: b\r\n")
    assert rest.endswith(b"\r\nC: d\r\n")
    assert rest.count(b"\r\n") in (3, 4)
    left = rest[len(b"\r\nA: b\r\n") : -len(b"C: d\r\n")].removesuffix(b"\r\n").partition(b": ")[2]
    assert _find(left) is None, (value, left)
    kept = [one.strip(b" \t") for one in value.split(b";") if not _is_ours(one)]
    assert [one for one in kept if one] == [
        stripped for one in left.split(b";") if (stripped := one.strip(b" \t"))
    ]


def _is_ours(pair: bytes) -> bool:
    return pair.strip(b" \t").startswith(b"id=")


def forwarded(data: bytes) -> None:
    """Whatever a client claims, the lines are well formed and its address is the last word."""
    names = (
        b"X-Forwarded-For",
        b"Forwarded",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"x-forwarded-for",
    )
    values = re.sub(rb"[^\t -~\x80-\xff\n]", b"", data).split(b"\n")[:20]
    lines = b"".join(b"%b: %b\r\n" % (names[len(one) % 5], one) for one in values)
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n"
    for peer in (_peer, _trusted):
        request = _parsed(_warm, head, peer)
        assert not isinstance(request, int), request
        recorder = Recorder()
        assert recorder.feed(request.head) == 1
        one = recorder.requests[0]
        (chain,), (element,) = one.all(b"x-forwarded-for"), one.all(b"forwarded")
        assert len(one.all(b"x-forwarded-proto")) == len(one.all(b"x-forwarded-host")) == 1
        assert chain.endswith(b"192.0.2.1")
        assert element.endswith(b"for=192.0.2.1;host=h;proto=http")
        if not peer.trusted:
            assert chain == b"192.0.2.1"
            assert element == b"for=192.0.2.1;host=h;proto=http"


def proxy_protocol(data: bytes) -> None:
    """A header that is taken is taken with its last byte, not before, and no byte behind it matters."""
    try:
        header = parse_proxy(data)
    except MalformedHeader:
        return
    if header is None:
        return
    assert 0 < header.size <= len(data)
    for cut in range(header.size):
        assert parse_proxy(data[:cut]) is None
    assert parse_proxy(data[: header.size]) == header
    assert parse_proxy(data[: header.size] + b"GET / HTTP/1.1\r\n") == header
    for address in (header.source, header.destination):
        if isinstance(address, TcpAddress):
            ip_address(address.host)
            assert 0 <= address.port <= 65535


TARGETS: dict[str, Callable[[bytes], None]] = {
    "requests": request_head,
    "answers": answer_head,
    "chunks": chunks,
    "cookies": cookies,
    "forwarded": forwarded,
    "proxy-protocol": proxy_protocol,
}
