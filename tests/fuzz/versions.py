"""The same request over HTTP/1.1 and over HTTP/2 is forwarded the same, or refused the same.

    python -m tests.fuzz.versions --cases 100000 --seed 1 --jobs 2

Each case is one request, most of them odd somewhere, sent to the same proxy in both ways. ``recorder`` reads
strictly what comes to the upstream: method, target, fields, body and trailers must be equal, but for the
version in Via; and so must be the status, the fields, the body and the trailers of the response. Over HTTP/2
a malformed request may be reset instead; then HTTP/1.1 refuses it with 4xx or 5xx. Left out is what only one
of the versions can say: absolute targets, CR and LF, colons in names, blanks around a value, TE but trailers,
two Hosts that are equal, a Content-Length that does not fit.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import hpack

from canaryproxy.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
)
from canaryproxy.proxy.interfaces import Caller

from . import jobs
from .differential import CONFIG, Difference
from .grammar import HOSTS, METHODS, PROBE
from .memory import MemoryEndpoint, MemoryProxy, MemoryTransport
from .recorder import Recorded, Recorder

Fields = list[tuple[bytes, bytes]]

ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, X-A\r\nX-A: b\r\nKeep-Alive: 5\r\n\r\nok",
)  # fmt: skip
TARGETS = (
    b"/", b"/a?b=c", b"//h/x", b"/a#b", b"/a\\b", b"/{a}", b"/a?{b}", b"/%zz", b"/%", b"/?%", b"/\xff",
    b"/..//..", b"/%00", b"/%0d%0aX:%20y", b"/a;b", b"/" + b"a" * 9000, b"*", b"?x", b"x", b"h:80", b"/\x7f",
)  # fmt: skip
BAD_HOSTS = (
    b"a,b", b"a/b", b"u@h", b"h:99999", b"h:x", b"[::1", b"[:::1]", b"\xffh", b"h\\x", b"h?x", b"h#x", b"<h>",
    b"h:80:80", b"", b'"h"', b"h%", b"%zz",
)  # fmt: skip
BAD_METHODS = (b"get", b"FROB", b"CONNECT", b"TRACE", b"PRI", b"(X)", b"M-X", b"G\0T", b"")
NAMES = (
    b"accept", b"user-agent", b"x", b"x-trace", b"content-type", b"referer", b"!#$%&'*+-.^_`|~", b"my_field",
    b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"via", b"traceparent", b"trailer", b"range",
    b"if-none-match", b"authorization", b"origin", b"accept-encoding", b"http2-settings",
)  # fmt: skip
ODD: Fields = [
    (b"content-length", b"5"), (b"content-length", b"0"), (b"content-length", b"05"),
    (b"content-length", b"+5"), (b"content-length", b"5, 5"), (b"content-length", b"0x5"),
    (b"content-length", b""), (b"content-length", b"9" * 30), (b"content_length", b"5"),
    (b"transfer_encoding", b"chunked"), (b"expect", b"100-continue"), (b"expect", b"else"),
    (b"max-forwards", b"0"), (b"max-forwards", b"3"), (b"max-forwards", b"x"),
    (b"x_forwarded_for", b"1.2.3.4"),
    (b"te", b"trailers"), (b"a b", b"c"), (b"", b"c"), (b"n\xe9", b"v"),
    (b"n", b"a\x00b"), (b"n", b"a\x01b"), (b"n", b"a\x7fb"), (b"n\x00", b"a"), (b"x" * 300, b"v"),
    (b"n", b"v" * 33_000), (b"host", b"other"), (b"cookie", b"a=b"), (b"cookie", b"c=d"),
    (b"connection", b"x"), (b"keep-alive", b"5"), (b"upgrade", b"websocket"), (b"proxy-connection", b"close"),
    (b"sec-websocket-key", b"a"), (b"authorization", b"NTLM x"), (b"forwarded", b"for=1;;"),
    (b"trailer", b"te"),
]  # fmt: skip
VALUES = (
    b"", b"a", b"a b", b"text/html;q=0.9, */*", b"caf\xc3\xa9", b"\xa0\x85", b'"quoted \\" text"', b"1",
    b"a\tb", b"trailers", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"x=1; y=2", b": :",
    b"a,  b",
)  # fmt: skip
TOO_LARGE = {414, 431}
"""Of a head that is too large in two ways either may be said."""
HOP = (b"connection", b"keep-alive", b"upgrade", b"proxy-connection")


@dataclass
class Message:
    """A request that both versions can say."""

    method: bytes
    target: bytes
    host: bytes
    fields: Fields
    body: bytes | None
    chunked: bool
    trailers: Fields

    def by_http1(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target), b"Host: " + self.host]
        cookies = [value for name, value in self.fields if name == b"cookie"]
        for name, value in self.fields:
            if name != b"cookie":
                lines.append(b"%b: %b" % (name.title(), value))
            if name == b"te":
                lines.append(b"Connection: TE")
        if cookies:
            lines.append(b"Cookie: " + b"; ".join(cookies))
        body = self.body or b""
        if self.body is not None and self.chunked:
            lines.append(b"Transfer-Encoding: chunked")
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = (
                chunk + b"0\r\n" + b"".join(b"%b: %b\r\n" % one for one in self.trailers) + b"\r\n"
            )
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def by_http2(self, source: random.Random) -> bytes:
        pseudo = [
            (b":method", self.method),
            (b":scheme", b"http"),
            (b":authority", self.host),
            (b":path", self.target),
        ]
        source.shuffle(pseudo)
        block = hpack.Encoder().encode([*pseudo, *self.fields], huffman=source.random() < 0.5)
        ends = self.body is None
        made = _headers(block, ends)
        if self.body is None:
            return made
        cut = source.randrange(len(self.body) + 1)
        last = END_STREAM if not self.trailers else 0
        made += frame(DATA, 0, 1, self.body[:cut])
        if self.body[cut:] or last:
            made += frame(DATA, last, 1, self.body[cut:])
        if self.trailers:
            made += _headers(hpack.Encoder().encode(self.trailers), True)
        return made


def _headers(block: bytes, ends: bool) -> bytes:
    flags = END_STREAM if ends else 0
    parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)] or [b""]
    made = frame(HEADERS, flags | (END_HEADERS if len(parts) == 1 else 0), 1, parts[0])
    for at, part in enumerate(parts[1:], 2):
        made += frame(CONTINUATION, END_HEADERS if at == len(parts) else 0, 1, part)
    return made


def message(source: random.Random) -> Message:
    """Return a request, odd somewhere or not."""
    pick = source.choice
    method, host = pick(METHODS), pick(HOSTS)
    target = b"/" if source.random() < 0.5 else pick(TARGETS)
    if source.random() < 0.05:
        method = pick(BAD_METHODS)
    if source.random() < 0.05:
        host = pick(BAD_HOSTS)
    fields = [(pick(NAMES), pick(VALUES)) for _ in range(pick((0, 1, 3, 6)))]
    body: bytes | None = None
    chunked = False
    trailers: Fields = []
    way = source.random()
    if way < 0.5:
        body = pick((b"", b"x", PROBE, b"0\r\n\r\n", b"hello", b"a" * 1000))
        chunked = way < 0.3
        if chunked and source.random() < 0.4:
            trailers = [
                pick(((b"x-sum", b"9"), (b"grpc-status", b"0"), (b"host", b"t"), (b"a_b", b"")))
            ]
    if source.random() < 0.4:
        fields.insert(source.randrange(len(fields) + 1), pick(ODD))
    if source.random() < 0.1:
        fields += [(b"cookie", b"k=%d" % number) for number in range(3)]
    if any(name == b"content-length" for name, _ in fields):
        fits = b"" if (b"content-length", b"0") in fields else b"hello"
        chunked, body = False, None if body is None else fits
    elif body is not None and not chunked:
        fields.append((b"content-length", b"%d" % len(body)))
    return Message(method, target, host, fields, body, chunked, trailers if chunked else [])


Reader = Callable[[bytes, list[Recorded]], "Outcome"]


@dataclass
class Outcome:
    """What became of a request. ``status`` 0: reset, or no response."""

    forwarded: list[Recorded]
    status: int = 0
    interim: list[int] = field(default_factory=list)
    body: bytes = b""
    fields: Fields = field(default_factory=list)
    trailers: Fields = field(default_factory=list)


class Versions:
    """One proxy, asked in both ways."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.proxy = MemoryProxy(CONFIG, loop)
        self.seen: Counter[str] = Counter()

    def run(self, one: Message, answer: bytes, source: random.Random) -> None:
        """Send one request in both ways. Raises ``Difference`` or ``Malformed``."""
        first = self._ask(one.by_http1(), answer, by_http1)
        begin = PREFACE + frame(SETTINGS, 0, 0)
        second = self._ask(begin + one.by_http2(source), answer, by_http2)
        self.seen["cases"] += 1
        if not first.forwarded and not second.forwarded:
            self.seen["refused"] += 1
            self.seen["reset"] += not second.status
            if (
                second.status not in (0, first.status)
                and {first.status, second.status} != TOO_LARGE
            ):
                raise Difference(f"refused with {first.status} and {second.status}")
            return
        if any(name in HOP for name, _ in one.fields) and not second.forwarded:
            self.seen["of one version"] += 1
            return
        if normal(first) != normal(second):
            raise Difference(f"HTTP/1.1: {normal(first)!r}\nHTTP/2: {normal(second)!r}")
        self.seen["forwarded"] += 1

    def _ask(self, sent: bytes, answer: bytes, read: Reader) -> Outcome:
        proxy = self.proxy
        endpoint = proxy.endpoints[0]
        for upstream in tuple(endpoint.idle):
            upstream.close()
        proxy.wires.settle()
        recorders: list[tuple[Recorder, MemoryTransport]] = []

        def connect(endpoint: MemoryEndpoint, caller: Caller) -> None:
            proxy.wires.later.append(
                lambda: recorders.append((Recorder(), endpoint.connect(proxy.wires, caller)))
            )

        endpoint.on_open = connect
        client = proxy.client()
        got = bytearray()
        client.feed(sent)
        moved = True
        while moved:
            proxy.wires.settle()
            moved = bool(proxy.wires.later)
            for recorder, transport in recorders:
                if data := transport.take():
                    moved = True
                    if recorder.feed(data):
                        transport.feed(cut_for(answer, recorder.requests[-1].method))
            if data := client.take():
                moved = True
                got += data
        outcome = read(bytes(got), [one for recorder, _ in recorders for one in recorder.requests])
        client.eof()
        if not client.closed:
            client.lose()
        proxy.wires.settle()
        if proxy.datapath.context.in_flight or proxy.datapath.context.connections:
            raise Difference("something is left over")
        return outcome


def cut_for(answer: bytes, method: bytes) -> bytes:
    """Return the answer to a request with this method: to HEAD without its content."""
    head, mark, _ = answer.rpartition(b"\r\n\r\n2" if b"chunked" in answer else b"\r\n\r\n")
    return head + b"\r\n\r\n" if method == b"HEAD" and mark else answer


def by_http1(got: bytes, forwarded: list[Recorded]) -> Outcome:
    """Read the response over HTTP/1.1."""
    outcome = Outcome(forwarded)
    while got:
        head, _, got = got.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        status = int(line[9:12])
        pairs = [
            (name.lower(), value) for name, _, value in (one.partition(b": ") for one in lines)
        ]
        if status < 200:
            outcome.interim.append(status)
            continue
        outcome.status, outcome.fields, outcome.body = status, pairs, got
        if (b"transfer-encoding", b"chunked") in pairs and got:
            size, _, rest = got.partition(b"\r\n")
            length = int(size, 16)
            outcome.body = rest[:length]
            lines = rest[length:].split(b"\r\n")[2 if length else 0 : -2]
            outcome.trailers = [
                (name.lower(), value) for name, _, value in (one.partition(b": ") for one in lines)
            ]
        break
    return outcome


def by_http2(got: bytes, forwarded: list[Recorded]) -> Outcome:
    """Read the response over HTTP/2."""
    outcome = Outcome(forwarded)
    decoder = hpack.Decoder()
    while got:
        size, kind, payload = int.from_bytes(got[:3], "big"), got[3], got[9:]
        payload, got = payload[:size], payload[size:]
        if kind == HEADERS:
            fields = [
                (bytes(name), bytes(value)) for name, value in decoder.decode(payload, raw=True)
            ]
            status = int(dict(fields).get(b":status", b"0"))
            if status >= 200:
                outcome.status, outcome.fields = status, fields[1:]
            elif status:
                outcome.interim.append(status)
            else:
                outcome.trailers = fields
        elif kind == DATA:
            outcome.body += payload
        elif kind == GOAWAY and any(payload[4:8]):
            raise Difference(f"GOAWAY: {payload!r}")
        elif kind == RST_STREAM and any(payload):
            outcome.status = 0
    return outcome


def normal(one: Outcome) -> object:
    """Return what must be equal for both versions."""
    requests = [
        (
            request.method,
            request.target,
            sorted(
                (name, value.replace(b"2.0 canaryproxy", b"1.1 canaryproxy"))
                for name, value in request.fields
            ),
            request.body,
            request.trailers,
        )
        for request in one.forwarded
    ]
    hop = (b"connection", b"transfer-encoding", b"keep-alive", b"date")
    fields = sorted(
        (name, value) for name, value in one.fields if name not in hop and name != b"set-cookie"
    )
    return requests, one.status, one.interim, one.body, fields, one.trailers


def run(cases: int, seed: str) -> Counter[str]:
    """Run this many cases. Raises ``Difference`` with the case."""
    source = random.Random(seed)
    loop = asyncio.new_event_loop()
    versions = Versions(loop)
    try:
        for _ in range(cases):
            one, answer = message(source), source.choice(ANSWERS)
            try:
                versions.run(one, answer, source)
            except AssertionError as error:
                error.add_note(f"seed {seed!r}, case {versions.seen['cases']}: {one!r}, {answer!r}")
                raise
    finally:
        loop.close()
    return versions.seen


if __name__ == "__main__":
    jobs.main(run, __doc__, cases=100_000)
